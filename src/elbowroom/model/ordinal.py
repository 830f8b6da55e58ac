r"""Ordered levels: a logistic variable that is cut into K pieces by K − 1 cut points.

.. math:: P(x \le k) = \sigma(c_{k+1} - f), \qquad c_1 < c_2 < \dots < c_{K-1}, \quad x \in \{0, \dots, K - 1\}

A larger location f makes higher levels more probable. The odds of being at or below a level change with f by the same
factor for every level, so the model is also called that of proportional odds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.model import noise
from elbowroom.model.distributions import log_logistic_interval
from elbowroom.model.noise import NoiseSource

__all__ = ["Ordinal"]


class Ordinal(Distribution):
    r"""Levels 0..K−1 of a cumulative logit.

    .. math:: P(x = k) = \sigma(c_{k+1} - f) - \sigma(c_k - f), \qquad c_0 = -\infty, \; c_K = \infty

    Args:
        location: f, shape (\*, \*event).
        first: the lowest cut point :math:`c_1`, shape (\*event), or () for all elements alike.
        gaps: :math:`c_{k+1} - c_k > 0`, shape (K − 2, \*event), or (K − 2,).
    Reference:
        McCullagh (1980), Regression models for ordinal data.
    Example:
        >>> thirds = Ordinal(torch.tensor(0.0), torch.tensor(-0.6931), torch.tensor([1.3863]))
        >>> thirds.log_prob(torch.arange(3.0)).exp()
        tensor([0.3333, 0.3333, 0.3333])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.nonnegative_integer

    def __init__(self, location: Tensor, first: Tensor, gaps: Tensor) -> None:
        self.location, self.gaps = location, gaps
        self.cut_points = torch.cat([first.unsqueeze(0), first + gaps.cumsum(0)])
        super().__init__(location.shape, validate_args=False)

    @property
    def levels(self) -> int:
        """K."""
        return len(self.cut_points) + 1

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), nats, −∞ for x ≥ K; the shapes of ``value`` and ``location`` broadcast."""
        top = self.levels - 1
        level = value.long().clamp(0, top)
        # what belongs to the value alone is looked up before it meets the draws of z
        lower = _looked_up(self.cut_points, (level - 1).clamp(min=0))
        upper = _looked_up(self.cut_points, level.clamp(max=top - 1))
        log_above = F.logsigmoid(self.location - lower)  # log P(x ≥ k)
        log_below = F.logsigmoid(upper - self.location)  # log P(x ≤ k)
        found = torch.where(level == 0, log_below, log_above)
        if top > 1:
            width = _looked_up(self.gaps, (level - 1).clamp(0, top - 2))
            inside = log_logistic_interval(log_below, log_above, width)
            found = torch.where((level > 0) & (level < top), inside, found)
        return torch.where(value > top, -math.inf, found)

    @property
    def mean(self) -> Tensor:
        r""":math:`\sum_{k=1}^{K-1} P(x \ge k) = \sum_k \sigma(f - c_k)`"""
        return sum((self._reached(cut) for cut in self.cut_points), torch.zeros_like(self.location))

    @property
    def variance(self) -> Tensor:
        r""":math:`\sum_k (2k - 1) P(x \ge k) - (\sum_k P(x \ge k))^2`"""
        odd = ((2 * k - 1) * self._reached(cut) for k, cut in enumerate(self.cut_points, 1))
        return sum(odd, torch.zeros_like(self.location)) - self.mean.square()

    @property
    def information(self) -> Tensor:
        r"""Fisher information of f, shape (\*, \*event).

        .. math:: \sum_k P(x = k) \, s_k^2, \qquad s_k = \sigma(c_k - f) + \sigma(c_{k+1} - f) - 1
        """
        found = torch.zeros_like(self.location)
        for k in range(self.levels):
            mass = self.log_prob(self.location.new_tensor(float(k))).exp()
            low = torch.sigmoid(self.cut_points[k - 1] - self.location) if k else 0.0
            high = self._reached(self.cut_points[k]) if k < self.levels - 1 else 0.0  # 1 − σ(c_{k+1} − f)
            found = found + mass * (low - high) ** 2
        return found

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws of a logistic number, and how many cut points lie below it."""
        shape = (*sample_shape, *self.batch_shape)
        number = self.location + torch.logit(noise.uniform(shape, self.location, generator))
        return sum(((number > cut).to(number) for cut in self.cut_points), torch.zeros_like(number))

    def _reached(self, cut: Tensor) -> Tensor:
        """P(x ≥ k), from the cut point below level k."""
        return torch.sigmoid(self.location - cut)


def _looked_up(table: Tensor, row: Tensor) -> Tensor:
    """Of a table of shape (m, \\*event) or (m,), the entry in the given row, for elements of shape (\\*, \\*event)."""
    size = table[0].numel()
    place = torch.arange(size, device=row.device).reshape(table.shape[1:])
    return table.flatten()[row * size + place]
