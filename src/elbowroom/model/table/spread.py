r"""The axis of a column of numbers, and the noise around what the network says of it.

On its axis a value is :math:`y = (t(x) - a) / u`, with t the logarithm where values are positive and the identity
elsewhere, and a and u the ``shift`` and ``unit`` of the column. There the noise is normal, with a σ of its own for
each column; with wide tails, a share w of it is three times as wide:

.. math:: p(y) = (1 - w) \, N(y \,|\, \mu, \sigma^2) + w \, N(y \,|\, \mu, 9 \sigma^2)

The share is learned and starts at 0.05. It keeps a single far value from widening σ or bending μ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import inverse_softplus

__all__ = ["WIDER", "Axis", "Spread", "moments"]

WIDER = 3.0  #: how much wider the tails are
_FIRST_SHARE = 0.05  # of the tails
_LARGEST_LOG = 80.0  # exp of this and its inverse are numbers in float32


class Axis(nn.Module):
    """From values to a standardised axis and back.

    Args:
        columns: n columns of numbers.
    Attributes:
        is_log: whether the axis is one of logarithms, shape (n,).
        shift: a, shape (n,).
        unit: u, shape (n,).
    Example:
        >>> axis = Axis([Column("a", ColumnKind.REAL, shift=5.0, unit=2.0), Column("b", ColumnKind.POSITIVE)])
        >>> axis(torch.tensor([7.0, 1.0])), axis.inverse(torch.tensor([1.0, 0.0]))
        (tensor([1., 0.]), tensor([7., 1.]))
    """

    is_log: Tensor
    shift: Tensor
    unit: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        is_log = torch.tensor([column.kind is ColumnKind.POSITIVE for column in columns])
        self.register_buffer("is_log", is_log, persistent=False)
        for name in ("shift", "unit"):
            values = torch.tensor([getattr(column, name) for column in columns], dtype=torch.float64)
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """y of values of shape (\\*, n); −∞ of 0 on an axis of logarithms."""
        return (torch.where(self.is_log, x.clamp(min=0), 1.0).log().where(self.is_log, x) - self.shift.to(x)) / (
            self.unit.to(x)
        )

    def inverse(self, y: Tensor) -> Tensor:
        """x of places on the axis."""
        t = self.shift.to(y) + self.unit.to(y) * y
        return torch.where(self.is_log, t.clamp(-_LARGEST_LOG, _LARGEST_LOG), 0.0).exp().where(self.is_log, t)

    def log_slope(self, x: Tensor) -> Tensor:
        """log dy / dx, which brings a density to the data's units."""
        t = torch.where(self.is_log, x, 1.0).log()
        return -t - self.unit.to(x).log()


class Spread(nn.Module):
    """σ of each of n columns, and the share of the tails.

    Args:
        floors: the smallest σ of each column, on its axis.
        wide_tails: whether there are tails.
    """

    scales = ("raw_scale",)
    floor: Tensor

    def __init__(self, floors: Sequence[float], *, wide_tails: bool) -> None:
        super().__init__()
        self.register_buffer("floor", torch.tensor(floors, dtype=torch.float64), persistent=False)
        self.raw_scale = nn.Parameter(torch.zeros(len(floors)))
        share = math.log(_FIRST_SHARE / (1 - _FIRST_SHARE))
        self.raw_share = nn.Parameter(torch.full((len(floors),), share)) if wide_tails else None
        self.start(torch.ones(len(floors)))

    @property
    def scale(self) -> Tensor:
        """σ, shape (n,), or (K, n) where each component has its own."""
        return self.floor.to(self.raw_scale) + F.softplus(self.raw_scale)

    @torch.no_grad()
    def start(self, scale: Tensor) -> None:
        """Sets σ, where it is above the floor."""
        above = scale.to(self.raw_scale) - self.floor.to(self.raw_scale)
        self.raw_scale.copy_(inverse_softplus(above.clamp(min=1e-3)))

    def log_mixture(self, log_density: Callable[[Tensor], Tensor]) -> Tensor:
        """log of the mixture of what a normal of a given σ, shape (n,), gives."""
        narrow = log_density(self.scale)
        if self.raw_share is None:
            return narrow
        wide = log_density(WIDER * self.scale)
        return torch.logaddexp(F.logsigmoid(-self.raw_share) + narrow, F.logsigmoid(self.raw_share) + wide)

    def draw(self, shape: tuple[int, ...], like: Tensor, generator: NoiseSource | None) -> Tensor:
        """Draws of the noise around μ."""
        epsilon = noise.normal(shape, like, generator)
        if self.raw_share is not None:
            is_wide = noise.uniform(shape, like, generator) < self.raw_share.sigmoid()
            epsilon = torch.where(is_wide, WIDER * epsilon, epsilon)
        return self.scale * epsilon

    def moment(self, order: Tensor) -> Tensor:
        r"""log E exp(c y) − c μ of each column, c of shape (n,): :math:`\tfrac12 c^2 \sigma^2`, mixed."""
        return self.log_mixture(lambda scale: 0.5 * (order.to(scale) * scale).square())

    def information(self) -> Tensor:
        r"""Fisher information of μ, shape (n,): :math:`I(w) / \sigma^2`.

        I(0) = 1; with tails it is the integral of the squared score of a standardised mixture, which the trapezoidal
        rule gives to the last digits.
        """
        found = self.scale.square().reciprocal()
        if self.raw_share is None:
            return found
        step = 0.125
        u = torch.arange(0.0, 12 * WIDER, step, dtype=found.dtype, device=found.device).unsqueeze(1)
        log_narrow = F.logsigmoid(-self.raw_share) - 0.5 * u.square()
        log_wide = F.logsigmoid(self.raw_share) - 0.5 * (u / WIDER).square() - math.log(WIDER)
        log_p = torch.logaddexp(log_narrow, log_wide)
        score = u * ((log_narrow - log_p).exp() + (log_wide - log_p).exp() / WIDER**2)
        # both halves of the axis; at 0 the score is 0
        return found * 2 * step * (score.square() * log_p.exp()).sum(0) / math.sqrt(2 * math.pi)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column where values are not NaN; 0 and 1 where there are none.

    Example:
        >>> moments(torch.tensor([[1.0, torch.nan], [3.0, torch.nan]]))
        (tensor([2., 0.]), tensor([1., 1.]))
    """
    mean = y.nanmean(0).nan_to_num(nan=0.0)
    return mean, (y - mean).square().nanmean(0).nan_to_num(nan=1.0).sqrt()
