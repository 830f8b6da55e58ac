"""Columns of counts, under a negative binomial distribution; and with a value that is more frequent than it says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.columns.column import Column
from elbowroom.model import noise
from elbowroom.model.distributions import NegativeBinomial
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import Family, Rows, as_matrix, share
from elbowroom.model.table.spread import moments

__all__ = ["CountColumns", "InflatedCountColumns"]

_LARGEST_LOG = 60.0


class CountColumns(Family):
    r"""Counts whose variance exceeds their mean, :math:`\operatorname{Var}(x) = \mu + \mu^2 / r`.

    .. math:: \log \mu = \mathrm{network}(z)

    r is learned for each column; the logarithms of both are kept within ±60.

    Args:
        columns: counts.
    """

    num_rows = 1
    scales = ("log_dispersion",)

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.log_dispersion = nn.Parameter(torch.zeros(len(columns)))

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        possible = (x >= 0) & (x == x.round()) & x.isfinite()
        return torch.where(possible, self._law(rows).log_prob(torch.where(possible, x, 0.0)), -torch.inf)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        return self._law(rows).sample(shape[: len(shape) - rows[0].dim()], generator)

    def mean(self, rows: Rows) -> Tensor:
        return self._law(rows).mean

    def information(self, rows: Rows) -> Tensor:
        return as_matrix(torch.where(rows[0].abs() <= _LARGEST_LOG, self.expected_square(rows), 0.0))

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        mean, scale = moments(x)
        mean = mean.clamp(min=1e-3)
        # r = μ² / (Var − μ); little excess is Poisson's
        excess = (scale.square() - mean).clamp(min=1e-3 * mean)
        self.log_dispersion.copy_((mean.square() / excess).log().clamp(-5, 7))
        return mean.log().unsqueeze(0)

    def expected_square(self, rows: Rows) -> Tensor:
        """μ r / (μ + r), shape (\\*, n): that of the score."""
        law = self._law(rows)
        return torch.exp(-torch.logaddexp(-law.log_mean, -law.log_dispersion))

    def score(self, rows: Rows, x: Tensor) -> Tensor:
        """∂ log p / ∂ log μ = (x − μ) r / (r + μ)."""
        law = self._law(rows)
        return x * torch.sigmoid(law.log_dispersion - law.log_mean) - self.expected_square(rows)

    def _law(self, rows: Rows) -> NegativeBinomial:
        return NegativeBinomial(
            rows[0].clamp(-_LARGEST_LOG, _LARGEST_LOG), self.log_dispersion.clamp(-_LARGEST_LOG, _LARGEST_LOG)
        )


class InflatedCountColumns(Family):
    r"""Counts of which one value, zero as a rule, has an additional probability π.

    .. math:: p(x) = \pi \, [x = a] + (1 - \pi) \, \mathrm{NB}(x \,|\, \mu, r), \qquad
        \operatorname{logit} \pi = \mathrm{network}(z)_2

    Args:
        columns: counts with an atom a.
    Reference:
        Lambert (1992), Zero-inflated Poisson regression, with an application to defects in manufacturing.
    """

    num_rows = 2
    atom: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.counts = CountColumns(columns)
        self.constant("atom", [0.0 if column.atom is None else column.atom for column in columns])

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        plain = F.logsigmoid(-rows[1]) + self.counts.log_prob(rows[:1], x)
        at = x == self.atom.to(x)
        # −∞ is kept from the sum of exponentials, which has no gradient there
        safe = torch.where(at, plain, 0.0)
        return torch.where(at, torch.logaddexp(F.logsigmoid(rows[1]), safe), plain)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        added = noise.uniform(shape, rows[1], generator) < rows[1].sigmoid()
        return torch.where(added, self.atom.to(rows[1]), self.counts.sample(rows[:1], shape, generator))

    def mean(self, rows: Rows) -> Tensor:
        return rows[1].sigmoid() * self.atom.to(rows[1]) + (-rows[1]).sigmoid() * self.counts.mean(rows[:1])

    def information(self, rows: Rows) -> Tensor:
        # with f = NB(a), q = π + (1 − π) f, s the score at a, and E s² = k of the counts alone:
        # (1 − π) (k − f s² π / q) of log μ, π (1 − π) f s / q of both, π² (1 − q) / q of logit π
        pi, rest = rows[1].sigmoid(), (-rows[1]).sigmoid()
        at = self.atom.to(rows[0]).expand_as(rows[0])
        f, s = self.counts.log_prob(rows[:1], at).exp(), self.counts.score(rows[:1], at)
        part = torch.exp(F.logsigmoid(rows[1]) - self.log_prob(rows, at))  # π / q
        inside = rows[0].abs() <= _LARGEST_LOG
        of_mean = torch.where(inside, rest * (self.counts.expected_square(rows[:1]) - f * s.square() * part), 0.0)
        both = torch.where(inside, rest * f * s * part, 0.0)
        of_logit = pi * part * rest * (1 - f)
        return torch.stack([torch.stack([of_mean, both], -2), torch.stack([both, of_logit], -2)], -3)

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        # half of the atom's share is taken to be additional
        pi = share(x == self.atom.to(x), x).to(x) / 2
        mean = ((x.nanmean(0).nan_to_num(nan=1.0) - pi * self.atom.to(x)) / (1 - pi)).clamp(min=1e-3)
        return torch.stack([mean.log(), pi.logit()])
