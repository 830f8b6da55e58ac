"""Columns of which one value has a probability of its own beside a density, such as rainfall with its dry days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from elbowroom.data.columns.column import Column
from elbowroom.model import noise
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.noise import NoiseSource
from elbowroom.model.table.family import Family, Rows, log_share, share

__all__ = ["AtomColumns", "equals"]


class AtomColumns(Family):
    r"""A value a of probability π, and what another family says of all other values.

    .. math:: \log p(x) = \log \pi \text{ where } x = a, \quad \log (1 - \pi) + \log p_0(x) \text{ elsewhere}, \qquad
        \operatorname{logit} \pi = \mathrm{network}(z)

    At a, log p is that of a probability; elsewhere it is what that of :math:`p_0` is. The logit is the parameter after
    those of the other family. Values are compared with a in single precision, unless it is 0.

    Args:
        columns: with an atom each.
        rest: of the same columns, the family of their other values.
    """

    atom: Tensor

    def __init__(self, columns: Sequence[Column], rest: Family) -> None:
        super().__init__()
        self.rest = rest
        self.num_rows = rest.num_rows + 1
        self.constant("atom", [0.0 if column.atom is None else column.atom for column in columns])

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        *own, logit = rows
        at = self.is_atom(x)
        rest = self.rest.log_prob(own, x)
        return torch.where(at, F.logsigmoid(logit), F.logsigmoid(-logit) + rest)

    def sample(self, rows: Rows, shape: tuple[int, ...], generator: NoiseSource | None) -> Tensor:
        *own, logit = rows
        at = noise.uniform(shape, logit, generator) < logit.sigmoid()
        return torch.where(at, self.atom.to(logit), self.rest.sample(own, shape, generator))

    def mean(self, rows: Rows) -> Tensor:
        *own, logit = rows
        return logit.sigmoid() * self.atom.to(logit) + (-logit).sigmoid() * self.rest.mean(own)

    def information(self, rows: Rows) -> Tensor:
        *own, logit = rows
        away, count = (-logit).sigmoid(), len(own)
        found = logit.new_zeros(*logit.shape[:-1], self.num_rows, self.num_rows, logit.shape[-1])
        found[..., :count, :count, :] = away.unsqueeze(-2).unsqueeze(-2) * self.rest.information(own)
        found[..., count, count, :] = logit.sigmoid() * away
        return found

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        at = self.is_atom(x)
        logit = share(at, x).logit().to(x)
        return torch.cat([self.rest.start(torch.where(at, torch.nan, x)), logit.unsqueeze(0)])

    @torch.no_grad()
    def maximise(self, rows: Rows, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Rows | None) -> list[Tensor]:
        """In closed form for the atom; the other family sees no atoms, and is its own M step."""
        at = self.is_atom(x)
        own = None if centre is None else centre[:-1]
        found = self.rest.maximise(rows[:-1], torch.where(at, torch.nan, x), weights, prior, own)
        expected: dict[str, Any] = {} if centre is None else {"pseudo": prior.rows, "expected": centre[-1].sigmoid()}
        return [*found, share(at, x, weights, **expected).logit().to(rows[-1])]

    def log_class_prior(self, rows: Rows, prior: ClassPrior, centre: Rows | None) -> Tensor:
        own = None if centre is None else centre[:-1]
        found = self.rest.log_class_prior(rows[:-1], prior, own)
        return found if centre is None else found + prior.rows * log_share(rows[-1], centre[-1].sigmoid())

    def is_atom(self, x: Tensor) -> Tensor:
        """Which values are the atom."""
        return equals(x, self.atom)


def equals(x: Tensor, atom: Tensor) -> Tensor:
    """Where values are their column's atom, in single precision unless it is 0; nowhere if it is NaN.

    Example:
        >>> equals(torch.tensor([0.1, 1e-50, 1.0], dtype=torch.float64), torch.tensor([0.1, 0.0, torch.nan]))
        tensor([ True, False, False])
    """
    return torch.where(atom == 0, x == 0, x.float() == atom.float())
