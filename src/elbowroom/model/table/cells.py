r"""Columns whose values are heaped on a few numbers: the probability of a cell, in place of a density.

A density on rounded values has no bound: σ → 0 on one of them makes it as large as one likes. So each of the distinct
values :math:`v_1 < \dots < v_C` stands for the cell between the midpoints of its neighbours, the first and the last
reaching to ∓∞, and its probability is

.. math:: P(v_k) = \Phi\Big(\frac{e_k - \mu}{\sigma}\Big) - \Phi\Big(\frac{e_{k - 1} - \mu}{\sigma}\Big),
    \qquad e_k = \frac{v_k + v_{k+1}}{2}, \quad e_0 = -\infty, \; e_C = \infty,

on the axis of the logarithm where values are positive. Differences of Φ lose all digits in the tails, and where a cell
is narrow, anywhere: :func:`log_normal_interval` has three forms, one for each case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from elbowroom.data.columns.column import Column
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import Rows
from elbowroom.model.table.location_scale import LocationScaleColumns
from elbowroom.model.table.spread import Axis, Spread
from elbowroom.numerics import chunks

__all__ = ["CellColumns", "log_normal_below", "log_normal_interval"]

_CHUNK_ELEMENTS = 2**22  # of the largest tensor, where cells are enumerated
_NARROW = 0.1  # σ; below it a cell is integrated over
# Gauss–Legendre nodes and weights of order 5 on [−1, 1]: the middle one, and the pairs
_MIDDLE_WEIGHT = 128 / 225
_PAIRS = (
    (0.5384693101056831, 0.47862867049936647),
    (0.906179845938664, 0.23692688505618908),
)


def log_normal_interval(middle: Tensor, width: Tensor) -> Tensor:
    r"""log of the mass that a standard normal variable has between m − w / 2 and m + w / 2.

    Narrow intervals are integrated over, :math:`\varphi(m) \int_{-w/2}^{w/2} e^{-mt - t^2/2} dt`; those around zero are
    one less two tails; those in a tail, from a to b with Q = 1 − Φ, are

    .. math:: \log [Q(a) - Q(b)] = \log Q(a) + \log (1 - e^d), \qquad
        d = -mw + \log \operatorname{erfcx} \tfrac{b}{\sqrt 2} - \log \operatorname{erfcx} \tfrac{a}{\sqrt 2}.

    No difference of nearly equal numbers is left, and gradients are finite.

    Args:
        middle: m, any shape.
        width: w > 0; the shapes broadcast.
    Returns:
        Nats, at most 0.
    Example:
        >>> middle, width = torch.tensor([0.0, 40.0, 0.0]).double(), torch.tensor([2.0, 2.0, 0.01]).double()
        >>> log_normal_interval(middle, width).round(decimals=4).tolist()
        [-0.3817, -765.0832, -5.5241]
    """
    middle = middle.abs()
    narrow = (width < _NARROW) & (middle * width < 1)
    around = ~narrow & (middle < width / 2)
    tail = ~(narrow | around)
    return torch.where(
        narrow,
        _narrow(torch.where(narrow, middle, 0.0), torch.where(narrow, width, _NARROW)),
        torch.where(
            around,
            _around_zero(torch.where(around, middle, 0.0), torch.where(around, width, 1.0)),
            _tail(torch.where(tail, middle, 1.0), torch.where(tail, width, 1.0)),
        ),
    )


def log_normal_below(x: Tensor) -> Tensor:
    r"""log Φ(x) of a standard normal variable, with a gradient that is right in both tails.

    In float32 the gradient of ``torch.special.log_ndtr`` is 4% wrong at −1,000, and 0.4 in place of 30,000 at −30,000.

    Args:
        x: any shape.
    Returns:
        Nats, at most 0.
    Example:
        >>> x = torch.tensor([-30_000.0, 0.0], requires_grad=True)
        >>> torch.autograd.grad(log_normal_below(x).sum(), x)[0].round().tolist()
        [30000.0, 1.0]
    """
    below = x < 0
    return torch.where(
        below,
        _log_tail(torch.where(below, -x, 0.0)),
        torch.log1p(-0.5 * torch.erfc(torch.where(below, 0.0, x) * math.sqrt(0.5))),
    )


def _log_tail(a: Tensor) -> Tensor:
    """log Q(a) for a ≥ 0."""
    return _log_erfcx(a) - 0.5 * a.square() - math.log(2)


def _log_erfcx(a: Tensor) -> Tensor:
    found: Tensor = torch.special.erfcx(a * math.sqrt(0.5)).log()
    return found


def _narrow(middle: Tensor, width: Tensor) -> Tensor:
    total = torch.full_like(width, _MIDDLE_WEIGHT / 2)
    for node, weight in _PAIRS:
        t = width * (node / 2)
        total = total + weight * torch.exp(-0.5 * t.square()) * torch.cosh(middle * t)
    return -0.5 * middle.square() - 0.5 * math.log(2 * math.pi) + width.log() + total.log()


def _around_zero(middle: Tensor, width: Tensor) -> Tensor:
    above, below = (width / 2 + middle) * math.sqrt(0.5), (width / 2 - middle) * math.sqrt(0.5)
    return torch.log1p(-0.5 * (torch.erfc(above) + torch.erfc(below)))


def _tail(middle: Tensor, width: Tensor) -> Tensor:
    near, far = (middle - width / 2).clamp(min=0), middle + width / 2
    log_ratio = _log_erfcx(far) - _log_erfcx(near) - middle * width  # of Q(b) to Q(a)
    return _log_tail(near) + torch.log(-torch.expm1(log_ratio))


class CellColumns(LocationScaleColumns):
    """Columns with ``cells``: probabilities under a normal distribution, on the axis of logarithms if positive.

    A value between two cells' values counts as the one whose cell it lies in. An atom is no cell.

    Args:
        columns: with at least one cell each beside their atom.
        wide_tails: whether a share of each normal is three times as wide.
        min_scale: the smallest σ, in units of the column.
        own_scale: whether the network has a say in σ, by a second parameter.
    """

    place: Tensor  #: 0..n−1
    cells: Tensor  #: their number in each column, shape (n,)
    values: Tensor  #: shape (C, n), C the largest number of cells, padded by the last
    edges: Tensor  #: between cells, in the data's units, shape (n, C − 1), padded by ∞
    low: Tensor  #: where cells begin on the standardised axis, shape (C, n)
    high: Tensor  #: where they end
    middle: Tensor
    width: Tensor

    def __init__(
        self, columns: Sequence[Column], *, wide_tails: bool, min_scale: float, own_scale: bool = False
    ) -> None:
        spread = Spread([min_scale] * len(columns), wide_tails=wide_tails)
        super().__init__(Axis(columns), spread, own_scale=own_scale)
        cells = [[value for value in sorted(column.cells) if value != column.atom] for column in columns]
        most = max(map(len, cells))
        values = torch.tensor([own + own[-1:] * (most - len(own)) for own in cells], dtype=torch.float64)
        number = torch.tensor([len(own) for own in cells])
        real = torch.arange(most) < number.unsqueeze(1)
        edges = torch.where(real[:, 1:], (values[:, 1:] + values[:, :-1]) / 2, torch.inf)
        ends = self.axis.forward(edges.T)  # (C − 1, n)
        infinite = torch.full((1, len(columns)), torch.inf, dtype=torch.float64)
        low, high = torch.cat([-infinite, ends]), torch.cat([ends, infinite])
        inside = low.isfinite() & high.isfinite()
        self.register_buffer("place", torch.arange(len(columns)), persistent=False)
        self.register_buffer("cells", number, persistent=False)
        self.constant("values", values.T)
        self.constant("edges", edges)
        self.constant("low", low)
        self.constant("high", high)
        self.constant("middle", torch.where(inside, (low + high) / 2, 0.0))
        self.constant("width", torch.where(inside, high - low, 1.0))

    def log_prob_at(self, x: Tensor, mean: Tensor, scale: Tensor, raw_share: Tensor | None = None) -> Tensor:
        return self._log_mass(mean, scale, self._cell(x), self.place, raw_share)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        y = rows[0] + self.spread.draw(shape, rows[0], generator, self.offset(rows))
        return self.values.to(y)[_between(y, self.high[:-1].T), self.place]

    def mean(self, rows: Rows) -> Tensor:
        total, scale = torch.zeros_like(rows[0]), self.spread.scale_at(self.offset(rows))
        for number, real in self._all_cells(rows[0]):
            mass = torch.where(real, self._log_mass(rows[0], scale, number, self.place).exp(), 0.0)
            total = total + (mass * self.values.to(mass)[number, self.place]).sum(0)
        return total

    @torch.no_grad()
    def information(self, rows: Rows) -> Tensor:
        total = rows[0].new_zeros(*rows[0].shape[:-1], self.num_rows, self.num_rows, rows[0].shape[-1])
        for number, real in self._all_cells(rows[0]):
            with torch.enable_grad():
                leaves = [row.detach().repeat(len(number), *[1] * row.dim()).requires_grad_() for row in rows]
                scale = self.spread.scale_at(self.offset(leaves))
                log_mass = self._log_mass(leaves[0], scale, number, self.place)
                scores = torch.stack(torch.autograd.grad(log_mass.sum(), leaves), -2)  # (cells, *, R, n)
            scores = torch.where(real.unsqueeze(-2), scores * torch.exp(log_mass / 2).unsqueeze(-2), 0.0)
            total = total + (scores.unsqueeze(-2) * scores.unsqueeze(-3)).sum(0)
        return total

    def at_values(self, x: Tensor) -> Tensor:
        found: Tensor = self.axis(torch.where(x.isnan(), x, self.values.to(x)[self._cell(x.nan_to_num()), self.place]))
        return found

    def weighted_values(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The cells' values, and how much weight is on each: as many as there are cells, and not rows."""
        seen = ~x.isnan()
        cell = self._cell(x.nan_to_num())
        each = weights.unsqueeze(-1) * seen  # (K, N, n)
        found = each.new_zeros(len(weights), *self.values.shape)
        return self.values.to(x), found.scatter_add_(1, cell.expand_as(each), each)

    def _cell(self, x: Tensor) -> Tensor:
        """The number of the cell that each value lies in."""
        return _between(x, self.edges)

    def _all_cells(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """All cells, some at a time: their numbers and which columns have them, shape (some, 1, …, n)."""
        for some in chunks(len(self.values), max(1, _CHUNK_ELEMENTS // max(1, like.numel()))):
            number = torch.arange(some.start, some.stop, device=like.device)
            number = number.reshape(-1, *[1] * like.dim())
            real = number < self.cells
            yield torch.where(real, number, 0), real

    def _log_mass(
        self, mean: Tensor, scale: Tensor, number: Tensor, place: Tensor, raw_share: Tensor | None = None
    ) -> Tensor:
        """log P of the cells of these numbers."""
        low, high, middle, width = (
            part[number, place].to(mean) for part in (self.low, self.high, self.middle, self.width)
        )
        first, last = low.isneginf(), high.isposinf()
        # an end at infinity is replaced before it meets a gradient
        low, high = torch.where(first, 0.0, low), torch.where(last, 0.0, high)

        def mass(scale: Tensor) -> Tensor:
            inside = log_normal_interval((middle - mean) / scale, width / scale)
            below = log_normal_below((high - mean) / scale)
            above = log_normal_below((mean - low) / scale)
            found = torch.where(first, below, torch.where(last, above, inside))
            return torch.where(first & last, 0.0, found)

        return self.spread.log_mixture(mass, scale, raw_share)


def _between(x: Tensor, edges: Tensor) -> Tensor:
    """How many of its column's edges, shape (n, m), lie below each value of shape (\\*, n)."""
    found = torch.searchsorted(edges.to(x).contiguous(), x.movedim(-1, 0).flatten(1).contiguous())
    return found.reshape(x.shape[-1], *x.shape[:-1]).movedim(0, -1)
