r"""Mean and standard deviation of every element, in one pass, accumulated in float64.

Two parts of the data, with counts :math:`n_a, n_b`, means :math:`\mu_a, \mu_b` and sums of squared deviations
:math:`S_a, S_b`, merge to

.. math:: \mu = \mu_a + \delta \frac{n_b}{n}, \quad S = S_a + S_b + \delta^2 \frac{n_a n_b}{n}, \quad
          \delta = \mu_b - \mu_a,

which, unlike the mean of squares minus the squared mean, does not cancel when the mean is large (Chan, Golub &
LeVeque, 1979).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Running statistics per element, of what was observed.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0], [2.0]]), None)
        >>> moments.add(torch.tensor([[3.0], [9.0]]), torch.tensor([[True], [False]]))
        >>> moments.mean.item(), round(moments.std.item(), 6)
        (2.0, 0.816497)
    """

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor, mask: Tensor | None) -> None:
        """Take more rows into account, shape (n, \\*event)."""
        x = x.detach().to("cpu", torch.float64)
        if mask is None:
            count = torch.tensor(len(x), dtype=torch.float64)
            mean = x.mean(0)
            squares = (x - mean).square_().sum(0)
        else:
            seen = mask.cpu()
            count = seen.sum(0).double()
            mean = torch.where(seen, x, 0.0).sum(0) / count.clamp(min=1)
            squares = torch.where(seen, x - mean, 0.0).square_().sum(0)
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * count / total.clamp(min=1)
        self.squares = self.squares + squares + delta.square() * self.count * count / total.clamp(min=1)
        self.count = total

    @property
    def std(self) -> Tensor:
        """Standard deviation, divided by n; 0 where nothing was observed."""
        return (self.squares / self.count.clamp(min=1)).sqrt()
