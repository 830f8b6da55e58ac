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

__all__ = ["FIRST_SHARE", "WIDER", "Axis", "Spread", "moments"]

WIDER = 3.0  #: how much wider the tails are
FIRST_SHARE = 0.05  #: of the tails
_LEAST_ABOVE = 1e-3  # of σ above its floor, where it is set
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

    Where the network has a say in σ, it gives an offset of the learned number behind it; None stands for no say.

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
        share = math.log(FIRST_SHARE / (1 - FIRST_SHARE))
        self.raw_share = nn.Parameter(torch.full((len(floors),), share)) if wide_tails else None
        self.start(torch.ones(len(floors)))

    @property
    def scale(self) -> Tensor:
        """σ, shape (n,), or (K, n) where each component has its own."""
        return self.scale_at(None)

    def scale_at(self, offset: Tensor | None) -> Tensor:
        """That σ, or the one with this offset behind it, shape (\\*, n)."""
        raw = self.raw_scale if offset is None else self.raw_scale + offset
        return self.floor.to(raw) + F.softplus(raw)

    def slope(self, offset: Tensor) -> Tensor:
        """d log σ / d offset."""
        return torch.sigmoid(self.raw_scale + offset) / self.scale_at(offset)

    def raw(self, scale: Tensor) -> Tensor:
        """The number behind σ, where σ is above the floor; behind the least σ elsewhere."""
        above = scale.to(self.raw_scale) - self.floor.to(self.raw_scale)
        return inverse_softplus(above.clamp(min=_LEAST_ABOVE))

    @torch.no_grad()
    def start(self, scale: Tensor) -> None:
        """Sets σ, where it is above the floor."""
        self.raw_scale.copy_(self.raw(scale))

    def log_mixture(
        self, log_density: Callable[[Tensor], Tensor], scale: Tensor, raw_share: Tensor | None = None
    ) -> Tensor:
        """log of the mixture of what a normal of a given σ gives.

        Args:
            log_density: of σ, of any shape that broadcasts with the columns.
            scale: σ of the narrow part.
            raw_share: logit of the share of the wide part, where it is not the learned one.
        """
        narrow = log_density(scale)
        if self.raw_share is None:
            return narrow
        raw = self.raw_share if raw_share is None else raw_share
        wide = log_density(WIDER * scale)
        return torch.logaddexp(F.logsigmoid(-raw) + narrow, F.logsigmoid(raw) + wide)

    def draw(
        self, shape: tuple[int, ...], like: Tensor, generator: NoiseSource | None, offset: Tensor | None = None
    ) -> Tensor:
        """Draws of the noise around μ."""
        epsilon = noise.normal(shape, like, generator)
        if self.raw_share is not None:
            is_wide = noise.uniform(shape, like, generator) < self.raw_share.sigmoid()
            epsilon = torch.where(is_wide, WIDER * epsilon, epsilon)
        return self.scale_at(offset) * epsilon

    def moment(self, order: Tensor, offset: Tensor | None = None) -> Tensor:
        r"""log E exp(c y) − c μ of each column, c of shape (n,): :math:`\tfrac12 c^2 \sigma^2`, mixed."""
        return self.log_mixture(lambda scale: 0.5 * (order.to(scale) * scale).square(), self.scale_at(offset))

    def information(self, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Fisher information of μ, :math:`I(w) / \sigma^2`, and of log σ, J(w), shape (n,) or that of the offset.

        I(0) = 1 and J(0) = 2; with tails they are integrals over a standardised mixture with the score s, of s² and of
        (u s − 1)², which the trapezoidal rule gives to the last digits. Both halves of the axis are alike, so that μ
        and log σ have no information in common.
        """
        precision = self.scale_at(offset).square().reciprocal()
        if self.raw_share is None:
            return precision, torch.full_like(precision, 2.0)
        step = 0.125
        u = torch.arange(0.0, 12 * WIDER, step, dtype=precision.dtype, device=precision.device).unsqueeze(1)
        log_narrow = F.logsigmoid(-self.raw_share) - 0.5 * u.square()
        log_wide = F.logsigmoid(self.raw_share) - 0.5 * (u / WIDER).square() - math.log(WIDER)
        log_p = torch.logaddexp(log_narrow, log_wide)
        score = u * ((log_narrow - log_p).exp() + (log_wide - log_p).exp() / WIDER**2)
        weight = 2 * step * log_p.exp() / math.sqrt(2 * math.pi)
        weight[0] /= 2  # u = 0 belongs to both halves
        of_mean = (score.square() * weight).sum(0)
        of_log_scale = ((u * score - 1).square() * weight).sum(0)
        return precision * of_mean, of_log_scale.expand_as(precision)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column where values are not NaN; 0 and 1 where there are none.

    Example:
        >>> moments(torch.tensor([[1.0, torch.nan], [3.0, torch.nan]]))
        (tensor([2., 0.]), tensor([1., 1.]))
    """
    mean = y.nanmean(0).nan_to_num(nan=0.0)
    return mean, (y - mean).square().nanmean(0).nan_to_num(nan=1.0).sqrt()
