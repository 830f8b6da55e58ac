r"""Which weights of a run are the best: the latest that validation cannot tell from its peak.

At every report the bound is measured on the same validation examples with the same draws, so two reports are compared
example by example. With v the values at the peak, the report with the highest mean so far, and w those of a later one,

.. math:: d_n = w_n - v_n, \qquad \bar d < -\,\min\Bigl( \frac{s_d}{\sqrt{N}}, \frac{s_w}{(1 - 2 \gamma) \sqrt{N}}
    \Bigr)

says that the later weights are worse. If not, they are kept, for they have learned more: the highest of many noisy
values owes part of its height to chance. This is the one-standard-error rule of Breiman et al. (1984, section 3.4.3).
Everything is compared with the peak and never with the weights that were kept last, so small losses do not add up.

The second standard error is that of the trimmed mean (Tukey & McLaughlin, 1963): s_w is the deviation after the lowest
and the highest :math:`\gamma = 5\%` of the differences are replaced by the nearest of the others. One example on which
later weights explode lowers the mean by as much as it raises :math:`s_d / \sqrt{N}`, and would hide itself and every
other loss; s_w does not see it. Of normal differences the two standard errors are the same up to 3%.
"""

from __future__ import annotations

import math

from torch import Tensor

from elbowroom.numerics import mean_and_stderr

__all__ = ["is_worse", "robust_stderr"]

_TAIL = 0.05  # γ, the share of the differences on either side that are replaced


def is_worse(values: Tensor, peak: Tensor) -> bool:
    r"""Whether a report lies below the peak by more than one paired standard error.

    Args:
        values: of every validation example, shape (n,); nats.
        peak: those at the peak, on the same examples with the same draws.
    Returns:
        For one example, which has no standard error, whether it lies below at all.
    Example:
        >>> import torch
        >>> peak = torch.tensor([-3.0, -90.0, -41.0])
        >>> is_worse(peak - torch.tensor([0.2, 0.1, 0.3]), peak), is_worse(peak - torch.tensor([-9.0, 9.0, 0.1]), peak)
        (True, False)
    """
    differences = values.double() - peak.double()
    difference, stderr = mean_and_stderr(differences)
    if not math.isfinite(stderr):
        return difference < 0.0
    return difference < -min(stderr, robust_stderr(differences))


def robust_stderr(values: Tensor) -> float:
    r"""The standard error of the mean of the central values, which the outermost 5% on either side do not change.

    .. math:: \frac{s_w}{(1 - 2 g / N) \sqrt{N}}, \qquad g = \lfloor 0.05 N \rfloor

    with s_w the standard deviation of the winsorised values: the g lowest are raised to the next, and the g highest are
    lowered. Below 20 values g is 0, and it is the usual standard error.

    Args:
        values: shape (n,), two or more.
    Returns:
        In the unit of the values.
    Reference:
        Tukey & McLaughlin (1963), Less vulnerable confidence and significance procedures for location based on a single
        sample: trimming/winsorization 1, Sankhyā A 25, 331-352.
    Example:
        >>> import torch
        >>> values = torch.linspace(-1, 1, 100)
        >>> wild = torch.cat([values[:-1], torch.tensor([-1e9])])
        >>> round(robust_stderr(values), 3), round(robust_stderr(wild), 3), round(mean_and_stderr(values)[1], 3)
        (0.064, 0.064, 0.059)
    """
    cut = int(_TAIL * len(values))
    ordered = values.double().sort().values
    _, stderr = mean_and_stderr(ordered.clamp(ordered[cut], ordered[len(values) - 1 - cut]))
    return stderr / (1 - 2 * cut / len(values))
