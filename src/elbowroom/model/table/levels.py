"""Columns whose values are the numbers of levels: binary, ordinal, category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.columns.column import Column
from elbowroom.model import noise
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.distributions import log_logistic_interval
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import Family, Rows, as_matrix, inverse_softplus, log_share, share, summed

__all__ = ["BinaryColumns", "CategoryColumns", "LevelColumns", "OrdinalColumns"]

_LEAST_GAP = 1e-4  # between cut points
_FIRST_GAP = 1.0


class LevelColumns(Family):
    """Columns of levels 0..L−1, with L of each column's own.

    Attributes:
        levels: L, shape (n,).
        most: the largest L.
    """

    levels: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.most = max(len(column.levels) for column in columns)
        self.register_buffer("levels", torch.tensor([len(column.levels) for column in columns]), persistent=False)

    def log_levels(self, rows: Rows) -> Tensor:
        """log P of every level, −∞ of what a column has not, shape (\\*, n, ``most``)."""
        levels = torch.arange(self.most, dtype=rows[0].dtype, device=rows[0].device)
        each = self.log_prob([row.unsqueeze(0) for row in rows], levels.reshape(-1, *[1] * rows[0].dim()))
        return each.movedim(0, -1)

    def mean(self, rows: Rows) -> Tensor:
        number = torch.arange(self.most, dtype=rows[0].dtype, device=rows[0].device)
        return (self.log_levels(rows).exp() * number).sum(-1)

    def _whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of levels, 0 where there is no such level; and where there is one."""
        possible = (x >= 0) & (x < self.levels) & (x == x.round())
        return torch.where(possible, x, 0.0).long(), possible


class BinaryColumns(LevelColumns):
    r"""Two levels: :math:`P(x = 1) = \sigma(\mathrm{network}(z))`.

    Args:
        columns: with two levels.
    """

    num_rows = 1

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        number, possible = self._whole(x)
        return torch.where(possible, F.logsigmoid(torch.where(number == 1, rows[0], -rows[0])), -torch.inf)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        return (noise.uniform(shape, rows[0], generator) < rows[0].sigmoid()).to(rows[0])

    def information(self, rows: Rows) -> Tensor:
        return as_matrix(rows[0].sigmoid() * (-rows[0]).sigmoid())

    def start(self, x: Tensor) -> Tensor:
        return share(x == 1, x).logit().to(x).unsqueeze(0)

    def maximise(self, rows: Rows, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Rows | None) -> list[Tensor]:
        """In closed form: shares with those of the centre as pseudo-counts."""
        expected: dict[str, Any] = {} if centre is None else {"pseudo": prior.rows, "expected": centre[0].sigmoid()}
        return [share(x == 1, x, weights, **expected).logit().to(rows[0])]

    def log_class_prior(self, rows: Rows, prior: ClassPrior, centre: Rows | None) -> Tensor:
        if centre is None:
            return rows[0].new_zeros(())
        return prior.rows * log_share(rows[0], centre[0].sigmoid())


class OrdinalColumns(LevelColumns):
    r"""Levels that have an order: a logistic variable around f, cut at points that are learned for each column.

    .. math:: P(x = k) = \sigma(c_{k+1} - f) - \sigma(c_k - f), \qquad f = \mathrm{network}(z),
        \quad c_0 = -\infty < c_1 < \dots < c_L = \infty

    Args:
        columns: with two levels or more.
    Reference:
        McCullagh (1980), Regression models for ordinal data.
    """

    num_rows = 1
    place: Tensor  #: 0..n−1
    between: Tensor  #: whether there are two cut points to have a gap, shape (n, most − 2)

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        between = torch.arange(self.most - 2) < (self.levels - 2).unsqueeze(1)
        self.register_buffer("place", torch.arange(len(columns)), persistent=False)
        self.register_buffer("between", between, persistent=False)
        self.first = nn.Parameter(-_FIRST_GAP * (self.levels - 2).float() / 2)
        gap = inverse_softplus(torch.full((int(between.sum()),), _FIRST_GAP))
        self.raw_gaps = nn.Parameter(gap) if len(gap) else None

    @property
    def gaps(self) -> Tensor:
        """c_{k+1} − c_k, shape (n, most − 2), 1 where a column has no such cut points."""
        gaps = self.first.new_ones(self.between.shape)
        if self.raw_gaps is None:
            return gaps
        return gaps.masked_scatter(self.between, _LEAST_GAP + F.softplus(self.raw_gaps))

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        number, possible = self._whole(x)
        f, gaps = rows[0], self.gaps
        cuts = self._cuts(gaps)
        is_first, is_last = number == 0, number == self.levels - 1
        above = F.logsigmoid(f - cuts[self.place, torch.where(is_first, 1, number) - 1])  # log P(x ≥ k)
        below = F.logsigmoid(cuts[self.place, torch.where(is_last, 0, number)] - f)  # log P(x ≤ k)
        found = torch.where(is_first, below, above)
        if self.most > 2:
            inside = ~is_first & ~is_last
            width = torch.where(inside, gaps[self.place, torch.where(inside, number - 1, 0)], 1.0)
            found = torch.where(inside, log_logistic_interval(below, above, width), found)
        return torch.where(possible, found, -torch.inf)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        return noise.category(self.log_levels(rows), shape, generator).to(rows[0])

    def information(self, rows: Rows) -> Tensor:
        # Σ_k P(k) s_k², with s_k = σ(f − c_{k+1}) − σ(c_k − f)
        f, cuts = rows[0].unsqueeze(-1), self._cuts(self.gaps)
        number = torch.arange(self.most, device=f.device)
        beyond = torch.where(number[:-1] < (self.levels - 1).unsqueeze(1), torch.sigmoid(f - cuts), 0.0)
        before = torch.sigmoid(cuts - f)
        s = F.pad(beyond, (0, 1)) - F.pad(before, (1, 0))
        return as_matrix((self.log_levels(rows).exp() * s.square()).sum(-1))

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        number = torch.arange(self.most - 1, device=x.device)
        cuts = torch.stack([share(x <= k, x) for k in number], 1).logit().to(x)
        self.first.copy_(cuts[:, 0])
        if self.raw_gaps is not None:
            gaps = (cuts[:, 1:] - cuts[:, :-1])[self.between]
            self.raw_gaps.copy_(inverse_softplus((gaps - _LEAST_GAP).clamp(min=1e-3)))
        return torch.zeros_like(self.first).unsqueeze(0)

    def _cuts(self, gaps: Tensor) -> Tensor:
        """c_1, …, c_{L−1}, shape (n, most − 1)."""
        first = self.first.unsqueeze(1)
        return torch.cat([first, first + gaps.cumsum(1)], 1)


class CategoryColumns(LevelColumns):
    r"""Levels without an order: :math:`P(x = k) = \mathrm{softmax}(\mathrm{network}(z))_k`.

    A column of fewer levels than the others ignores the rest of the logits.

    Args:
        columns: with two levels or more.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__(columns)
        self.num_rows = self.most

    def log_levels(self, rows: Rows) -> Tensor:
        logits = torch.stack(tuple(rows), -1)
        real = torch.arange(self.most, device=logits.device) < self.levels.unsqueeze(1)
        return torch.where(real, logits, -torch.inf).log_softmax(-1)

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        number, possible = self._whole(x)
        each = self.log_levels(rows)
        shape = torch.broadcast_shapes(number.shape, each.shape[:-1])  # type: ignore[no-untyped-call]
        found = each.expand(*shape, -1).gather(-1, number.expand(shape).unsqueeze(-1)).squeeze(-1)
        return torch.where(possible, found, -torch.inf)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        return noise.category(self.log_levels(rows), shape, generator).to(rows[0])

    def information(self, rows: Rows) -> Tensor:
        p = self.log_levels(rows).exp()
        found = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)  # (*, n, K, K)
        return found.movedim(-3, -1)

    def start(self, x: Tensor) -> Tensor:
        return torch.stack(self._log_shares(x, None, 0.5 * self.levels, 1 / self.levels)).to(x)

    def maximise(self, rows: Rows, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Rows | None) -> list[Tensor]:
        """In closed form: shares with those of the centre as pseudo-counts."""
        if centre is None:
            found = self._log_shares(x, weights, 0.5 * self.levels, 1 / self.levels)
        else:
            found = self._log_shares(x, weights, prior.rows, self.log_levels(centre).exp().T)
        return [row.to(rows[0]) for row in found]

    def log_class_prior(self, rows: Rows, prior: ClassPrior, centre: Rows | None) -> Tensor:
        if centre is None:
            return rows[0].new_zeros(())
        expected = self.log_levels(centre).exp()  # (n, levels), 0 for what a column has not
        return prior.rows * (expected * self.log_levels(rows).masked_fill(expected == 0, 0.0)).sum()

    def _log_shares(self, x: Tensor, weights: Tensor | None, pseudo: float | Tensor, expected: Tensor) -> list[Tensor]:
        """log (c + a f) / (m + a) of every level, as :func:`~elbowroom.model.table.family.share` has it."""
        size = summed(~x.isnan(), weights)
        each = expected.expand(self.most, *self.levels.shape)
        counts = [summed(x == k, weights) + pseudo * f for k, f in enumerate(each)]
        least = torch.finfo(x.dtype).tiny  # of levels that a column has not
        return [(count / (size + pseudo)).clamp(min=least).log() for count in counts]
