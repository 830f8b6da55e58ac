"""Columns with a mean and a deviation on an axis of their own: as densities, or as probabilities of cells."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.table.family import CHUNK_ELEMENTS, Family, Rows
from elbowroom.model.table.spread import FIRST_SHARE, WIDER, Axis, Spread, moments
from elbowroom.numerics import chunks

__all__ = ["LocationScaleColumns"]

_TAIL_ROWS = 1.0  # rows that the share of the tails is drawn to its first value by
_LEAST = 1e-12


class LocationScaleColumns(Family):
    """Columns of numbers with noise around a mean, as in :mod:`elbowroom.model.table.spread`.

    Args:
        axis: from values to the axis on which there is noise.
        spread: its σ and its tails.
        own_scale: whether the network has a say in σ: a second parameter is then added to the number behind it.
    """

    def __init__(self, axis: Axis, spread: Spread, *, own_scale: bool) -> None:
        super().__init__()
        self.axis = axis
        self.spread = spread
        self.num_rows = 2 if own_scale else 1

    @abstractmethod
    def log_prob_at(self, x: Tensor, mean: Tensor, scale: Tensor, raw_share: Tensor | None = None) -> Tensor:
        """log p of values, given μ and σ on the axis, and the logit of the tails' share where it is not the learned."""

    @abstractmethod
    def at_values(self, x: Tensor) -> Tensor:
        """Where values are on the axis; NaN where they are NaN."""

    def weighted_values(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Values, shape (M, n), none of them NaN, and the weights of each class on them, shape (K, M, n).

        Args:
            x: values, shape (N, n), NaN where missing.
            weights: of rows, shape (K, N).
        """
        seen = ~x.isnan()
        safe = self.axis.inverse(torch.zeros_like(x[:1]))
        return torch.where(seen, x, safe), weights.unsqueeze(-1) * seen

    def offset(self, rows: Rows) -> Tensor | None:
        """What the network has to say about σ; None where it is not asked."""
        return rows[1] if self.num_rows == 2 else None

    def log_prob(self, rows: Rows, x: Tensor) -> Tensor:
        return self.log_prob_at(x, rows[0], self.spread.scale_at(self.offset(rows)))

    @torch.no_grad()
    def start(self, x: Tensor) -> Tensor:
        mean, scale = moments(self.at_values(x))
        self.spread.start(scale)
        return torch.stack([mean, torch.zeros_like(mean)][: self.num_rows])

    @torch.no_grad()
    def maximise(self, rows: Rows, x: Tensor, weights: Tensor, prior: ClassPrior, centre: Rows | None) -> list[Tensor]:
        r"""The M step in closed form, with a value's place y in its cell and its being in the tails as missing data.

        With :math:`g = 1` in the narrow part of the noise and :math:`g = 1/9` in the tails, the expectations that it
        needs are derivatives of log p(x) (Fisher's identity), of densities and cells alike:

        .. math:: \mathbb{E}[g (y - \mu) | x] = \sigma^2 \, \partial_\mu \log p, \quad
            \mathbb{E}[g (y - \mu)^2 | x] = \sigma^2 + \sigma^3 \, \partial_\sigma \log p, \quad
            P(\text{tail} | x) = w + \partial_{\operatorname{logit} w} \log p

        so that with sums weighted by responsibilities

        .. math:: \mu' = \frac{\sum g y + \kappa m}{\sum g + \kappa}, \qquad
            \sigma'^2 = \frac{\sum g (y - \mu')^2 + \kappa (\mu' - m)^2 + \nu s^2 v}{\sum 1 + \nu}.

        Where the network has no say in σ, the sums go over all classes, and ν is 0.
        """
        mean, scale = rows[0], self.spread.scale_at(self.offset(rows)).expand_as(rows[0])
        size, precision, first, second, tails = self._expected(mean, scale, *self.weighted_values(x, weights))
        kappa, nu, middle, expected = 0.0, 0.0, mean, scale
        if centre is not None:
            kappa, middle = prior.of_mean, centre[0]
            if self.num_rows == 2:
                nu, expected = prior.of_scale, prior.scale * self.spread.scale_at(self.offset(centre))
        step = (first + kappa * (middle - mean)) / (precision + kappa).clamp(min=_LEAST)
        squares = second - 2 * step * first + step.square() * precision
        squares = squares + kappa * (mean + step - middle).square() + nu * expected.square()
        total = size + nu
        if self.num_rows == 1:
            squares, total = squares.sum(0), total.sum(0)
        known = total > _LEAST
        raw = self.spread.raw((squares / total.clamp(min=_LEAST)).clamp(min=0.0).sqrt())
        if self.spread.raw_share is not None:
            share = (tails.sum(0) + _TAIL_ROWS * FIRST_SHARE) / (size.sum(0) + _TAIL_ROWS)
            self.spread.raw_share.copy_(share.logit())
        if self.num_rows == 2:
            return [mean + step, torch.where(known, raw - self.spread.raw_scale, rows[1])]
        self.spread.raw_scale.copy_(torch.where(known, raw, self.spread.raw_scale))
        return [mean + step]

    def log_class_prior(self, rows: Rows, prior: ClassPrior, centre: Rows | None) -> Tensor:
        total = rows[0].new_zeros(())
        if centre is not None:
            scale = self.spread.scale_at(self.offset(rows)).expand_as(rows[0])
            squares = prior.of_mean * (rows[0] - centre[0]).square()
            if self.num_rows == 2:
                expected = prior.scale * self.spread.scale_at(self.offset(centre))
                squares = squares + prior.of_scale * expected.square()
                total = total - prior.of_scale * scale.log().sum()
            total = total - 0.5 * (squares / scale.square()).sum()
        if (raw := self.spread.raw_share) is not None:
            logs = FIRST_SHARE * F.logsigmoid(raw) + (1 - FIRST_SHARE) * F.logsigmoid(-raw)
            total = total + _TAIL_ROWS * logs.sum()
        return total

    def _expected(
        self, mean: Tensor, scale: Tensor, x: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Weighted sums of 1, g, g (y − μ), g (y − μ)² and of being in the tails, each of shape (K, n)."""
        found = [torch.zeros_like(mean) for _ in range(5)]
        raw = self.spread.raw_share
        for part in chunks(len(x), max(1, CHUNK_ELEMENTS // max(1, mean.numel()))):
            weight = weights[:, part].to(mean)
            with torch.enable_grad():
                leaves = [each.detach().unsqueeze(1).expand(weight.shape).clone() for each in (mean, scale)]
                leaves += [] if raw is None else [raw.detach().expand(weight.shape).clone()]
                for leaf in leaves:
                    leaf.requires_grad_()
                slopes = torch.autograd.grad(self.log_prob_at(x[part], *leaves).sum(), leaves)
            sigma = leaves[1].detach()
            tail = torch.zeros_like(sigma) if raw is None else raw.sigmoid() + slopes[2]
            terms = (
                torch.ones_like(sigma),
                1 - tail * (1 - WIDER**-2),
                sigma.square() * slopes[0],
                sigma.square() + sigma**3 * slopes[1],
                tail,
            )
            found = [total + (weight * term).sum(1) for total, term in zip(found, terms, strict=True)]
        return found[0], found[1], found[2], found[3], found[4]
