r"""Which weights of a run are the best: the latest that validation cannot tell from its peak.

At every report the bound is measured on the same validation examples with the same draws, so two reports are compared
example by example. With v the values at the peak, the report with the highest mean so far, and w those of a later one,

.. math:: d_n = w_n - v_n, \qquad \bar d < -\,s_d / \sqrt{N}

says that the later weights are worse. If not, they are kept, for they have learned more: the highest of many noisy
values owes part of its height to chance. This is the one-standard-error rule of Breiman et al. (1984, section 3.4.3).
Everything is compared with the peak and never with the weights that were kept last, so small losses do not add up.
"""

from __future__ import annotations

import math

from torch import Tensor

from elbowroom.numerics import mean_and_stderr

__all__ = ["is_worse"]


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
    difference, stderr = mean_and_stderr(values.double() - peak.double())
    return difference < (-stderr if math.isfinite(stderr) else 0.0)
