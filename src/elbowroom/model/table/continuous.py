r"""Columns with a density: normal, log-normal and beta.

A density on values with a grid is kept from growing without bound: σ stays above half a step. On an axis of logarithms,
where steps differ in width, that is half a step at the geometric mean of the column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import Family, Rows, as_matrix
from elbowroom.model.table.location_scale import LocationScaleColumns
from elbowroom.model.table.spread import Axis, Spread, moments

__all__ = ["BetaColumns", "NormalColumns"]

_LARGEST_LOGIT = 40.0  # of a mean between 0 and 1
_LARGEST_LOG = 60.0
_LEAST_DEVIATION = 5e-4  # of proportions that have no grid: half a thousandth


class NormalColumns(LocationScaleColumns):
    r"""Real columns and dates under a normal distribution, positive ones under a log-normal.

    .. math:: \log p(x) = \log p(y) - \log u - [\log x], \qquad \mu = \mathrm{network}(z)

    with y as in :mod:`elbowroom.model.table.spread`; the last term is there on an axis of logarithms.

    Args:
        columns: real, positive or dates.
        wide_tails: whether a share of the noise is three times as wide.
        min_scale: the smallest σ, in units of the column; that of a column with a grid is at least half a step.
        own_scale: whether the network has a say in σ, by a second parameter.
    """

    middle: Tensor  #: the values at 0 on the axis, shape (n,)

    def __init__(
        self, columns: Sequence[Column], *, wide_tails: bool, min_scale: float, own_scale: bool = False
    ) -> None:
        floors = [max(min_scale, _half_step(column) / column.unit) for column in columns]
        super().__init__(Axis(columns), Spread(floors, wide_tails=wide_tails), own_scale=own_scale)
        self.constant("middle", self.axis.inverse(torch.zeros(len(columns), dtype=torch.float64)))

    def log_prob_at(self, x: Tensor, mean: Tensor, scale: Tensor, raw_share: Tensor | None = None) -> Tensor:
        possible = ~self.axis.is_log | (x > 0)
        x = torch.where(possible, x, self.middle.to(x))
        y = self.axis(x)

        def log_density(scale: Tensor) -> Tensor:
            found: Tensor = -0.5 * ((y - mean) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
            return found

        found = self.spread.log_mixture(log_density, scale, raw_share) + self.axis.log_slope(x)
        return torch.where(possible, found, -torch.inf)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        return self.axis.inverse(rows[0] + self.spread.draw(shape, rows[0], generator, self.offset(rows)))

    def mean(self, rows: Rows) -> Tensor:
        # on an axis of logarithms, log E[x] = a + u μ + log E exp(u noise)
        unit = self.axis.unit.to(rows[0])
        moment = self.spread.moment(unit, self.offset(rows))
        return self.axis.inverse(rows[0] + torch.where(self.axis.is_log, moment / unit, 0.0))

    def information(self, rows: Rows) -> Tensor:
        offset = self.offset(rows)
        of_mean, of_log_scale = self.spread.information(offset)
        if offset is None:
            return as_matrix(of_mean.expand_as(rows[0]))
        found = of_mean.new_zeros(*of_mean.shape[:-1], 2, 2, of_mean.shape[-1])
        found[..., 0, 0, :] = of_mean
        found[..., 1, 1, :] = of_log_scale * self.spread.slope(offset).square()
        return found

    def at_values(self, x: Tensor) -> Tensor:
        found: Tensor = self.axis(x)
        return found


def _half_step(column: Column) -> float:
    """On the column's axis."""
    if column.kind is ColumnKind.POSITIVE:
        return column.step / 2 * math.exp(-min(column.shift, _LARGEST_LOG))
    return column.step / 2


class BetaColumns(Family):
    r"""Proportions under a beta distribution, by its mean and its precision ν.

    .. math:: p(x) = \frac{x^{\mu \nu - 1} (1 - x)^{(1 - \mu) \nu - 1}}{B(\mu \nu, (1 - \mu) \nu)},
        \qquad \mu = \sigma(\mathrm{network}(z)), \quad \operatorname{Var}(x) = \frac{\mu (1 - \mu)}{\nu + 1}

    The network's output is kept within ±40. ν is learned for each column and stays below the one whose deviation at
    μ = ½ is half a step. Terms that grow with ν cancel, so the density is computed in float64.

    Args:
        columns: proportions.
    Reference:
        Ferrari & Cribari-Neto (2004), Beta Regression for Modelling Rates and Proportions, also for the information.
    """

    num_rows = 1
    scales = ("log_precision",)
    log_most: Tensor  #: log of the largest ν, shape (n,)

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        least = [max(column.step / 2, _LEAST_DEVIATION) for column in columns]
        self.constant("log_most", [-2 * math.log(2 * deviation) for deviation in least])
        self.log_precision = nn.Parameter(torch.full((len(columns),), math.log(2.0)))  # flat at μ = ½

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        possible = (x > 0) & (x < 1)
        safe = torch.where(possible, x, 0.5).double()
        a, b = self._concentrations(rows)
        log_constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        found = (a - 1) * safe.log() + (b - 1) * torch.log1p(-safe) + log_constant
        return torch.where(possible, found.to(rows[0]), -torch.inf)

    @torch.no_grad()
    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        a, b = (self._log_gamma_draw(each.expand(shape), generator) for each in self._concentrations(rows))
        kind = torch.finfo(rows[0].dtype)
        return torch.sigmoid(a - b).to(rows[0]).clamp(kind.tiny, 1 - kind.eps)

    def mean(self, rows: Rows) -> Tensor:
        return rows[0].clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT).sigmoid()

    def information(self, rows: Rows) -> Tensor:
        # ν² (ψ′(a) + ψ′(b)) (μ (1 − μ))², with a² ψ′(a) = 1 + a² ψ′(1 + a), which stays finite
        a, b = self._concentrations(rows)
        of_a = 1 + a.square() * torch.polygamma(1, 1 + a)
        of_b = 1 + b.square() * torch.polygamma(1, 1 + b)
        logit = rows[0].double()
        found = of_a * torch.sigmoid(-logit).square() + of_b * torch.sigmoid(logit).square()
        return as_matrix(torch.where(logit.abs() <= _LARGEST_LOGIT, found, 0.0).to(rows[0]))

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        mean, scale = moments(x)
        mean = mean.clamp(1e-3, 1 - 1e-3)
        precision = mean * (1 - mean) / scale.square().clamp(min=1e-12) - 1
        self.log_precision.copy_(precision.clamp(0.1, 1e6).log())
        return mean.logit().unsqueeze(0)

    def _concentrations(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """a = μ ν and b = (1 − μ) ν, float64."""
        # 1 / ν = 1 / exp(log_precision) + 1 / ν_most
        log_precision = self.log_precision.double().clamp(-_LARGEST_LOG, _LARGEST_LOG)
        log_nu = -torch.logaddexp(-log_precision, -self.log_most.double())
        logit = rows[0].double().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        return (log_nu + F.logsigmoid(logit)).exp(), (log_nu + F.logsigmoid(-logit)).exp()

    @staticmethod
    def _log_gamma_draw(concentration: Tensor, generator: NoiseSource | None) -> Tensor:
        """log of a draw from Gamma(a), which for small a is itself too small to be a number: Gamma(a + 1) U^(1 / a)."""
        grown = noise.gamma((concentration + 1).contiguous(), generator)
        u = 1 - noise.uniform(concentration.shape, concentration, generator)
        return grown.log() + u.log() / concentration
