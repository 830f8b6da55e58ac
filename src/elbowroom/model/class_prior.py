r"""What keeps the classes of a mixture from a few rows' whims, and steps uphill where no closed form is known.

A class of ten rows says little about a table of forty columns. So the parameters of all classes have a prior around
the centre, the parameters of one class for all rows, and EM finds the mode of

.. math:: \sum_i \log \sum_k \pi_k \, p(x_i | \theta_k) + \log p(\pi) + \sum_k \log p(\theta_k)

with, for a column of

============================ ===============================================================================
levels (shares p)            :math:`a \sum_l f_l \log p_l`, with f the shares at the centre
a mean and a deviation       :math:`-\frac{\kappa (\mu - m)^2 + \nu s^2 v}{2 \sigma^2} - \nu \log \sigma`
other parameters             :math:`-\frac{a}{2} (\theta - \bar\theta)^2`
shares of the classes        :math:`c \sum_k \log \pi_k`
============================ ===============================================================================

with m and v the mean and the variance at the centre.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ClassPrior", "climb", "pull"]

_STEPS = 5  # of a quasi-Newton method, in one M step


class ClassPrior(NamedTuple):
    """How strongly the parameters of a class are drawn to those of all rows; each number counts rows.

    The numbers are those of a trial over six tables, in which they were chosen on validation rows.
    """

    rows: float = 1.0  #: a, of levels, and of parameters without a closed form
    of_mean: float = 0.1  #: κ
    of_scale: float = 3.0  #: ν
    scale: float = 0.4  #: s, a class's deviation to be expected, as a part of the column's
    of_shares: float = 0.5  #: c, of the classes' own shares


def pull(rows: Sequence[Tensor], prior: ClassPrior, centre: Sequence[Tensor] | None) -> Tensor:
    r"""The log density :math:`-\frac{a}{2} \sum (\theta - \bar\theta)^2`, a scalar; 0 without a centre.

    Example:
        >>> pull([torch.tensor([[1.0], [3.0]])], ClassPrior(rows=2.0), [torch.tensor([1.0])])
        tensor(-4.)
    """
    if centre is None:
        return rows[0].new_zeros(())
    each = [(row - middle).square().sum() for row, middle in zip(rows, centre, strict=True)]
    return -0.5 * prior.rows * torch.stack(each).sum()


def climb(objective: Callable[[], Tensor], leaves: Sequence[Tensor], *, unit: float) -> None:
    """Some steps uphill of a quasi-Newton method; leaves that would end lower stay as they were.

    Args:
        objective: a scalar, computed from the leaves.
        leaves: tensors that are set in place.
        unit: of the objective, for the first step's length: how many rows it sums over.
    Reference:
        Nocedal & Wright (2006), Numerical Optimization, chapter 7 (L-BFGS).
    Example:
        >>> x = torch.zeros(1)
        >>> climb(lambda: -(x - 2.0).square().sum(), [x], unit=1.0)
        >>> x.round(decimals=3)
        tensor([2.])
    """
    before = [leaf.detach().clone() for leaf in leaves]
    tracked = [leaf.requires_grad for leaf in leaves]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.enable_grad():
        method = torch.optim.LBFGS(leaves, max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            method.zero_grad()
            loss = -objective() / unit
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        first = float(method.step(closure).detach())  # type: ignore[no-untyped-call]  # the loss at the start
    with torch.no_grad():
        if not -float(objective()) / unit <= first:
            for leaf, value in zip(leaves, before, strict=True):
                leaf.copy_(value)
    for leaf, was in zip(leaves, tracked, strict=True):
        leaf.grad = None
        leaf.requires_grad_(was)
