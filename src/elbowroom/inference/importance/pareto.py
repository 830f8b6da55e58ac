r"""Pareto k̂, the shape of the tail of importance weights: whether their average can be trusted.

Above a high enough threshold u, the largest weights of S draws nearly follow a generalised Pareto distribution,

.. math:: P(w - u > y) = \Big(1 + \frac{k y}{\sigma}\Big)^{-1/k},
    \qquad \text{moments of an order below } 1/k \text{ exist}

With k < ½ the weights have a variance, and the standard error is valid; between ½ and 0.7 averages still converge,
more slowly; above 0.7 no practical number of draws is enough, and the estimate looks better than it is.
With few draws, k̂ itself is uncertain, and the limit is lower: 1 − 1 / log₁₀ S.

The fit is that of Zhang and Stephens: a posterior mean over a grid of θ = −k/σ, with a profile likelihood for k, and a
weak prior at ½ that weighs as much as ten draws. It needs the M + 1 largest weights and nothing else of the draws, M =
min(S/5, 3 √S), so that they can be seen a chunk at a time.

Reference:
    Zhang & Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution,
    Technometrics 51.
    Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25, arXiv:1507.02646.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.numerics import chunks, draws_last

__all__ = ["LargestWeights", "pareto_k", "pareto_stderr", "pareto_threshold"]

_LEAST_TAIL = 5  # weights; fewer do not determine a shape
_PRIOR_DRAWS, _PRIOR_SHAPE = 10, 0.5
_ROUNDING = 1e-12  # relative difference that rounding leaves between equal weights
_CHUNK_ELEMENTS = 2**22  # of the largest tensor


def pareto_threshold(draws: int) -> float:
    r"""The k̂ beyond which an average of so many weights is not reliable, min(1 − 1 / log₁₀ S, 0.7).

    Example:
        >>> [round(pareto_threshold(draws), 2) for draws in (100, 1000, 5000)]
        [0.5, 0.67, 0.7]
    """
    return min(1 - 1 / math.log10(draws), 0.7) if draws > 10 else 0.0


def pareto_stderr(shape: Tensor, draws: int) -> Tensor:
    r"""The standard error of k̂ from so many draws, (1 + k) / √M with M the number of weights that it is fitted to.

    Reference:
        Smith (1987), Estimating tails of probability distributions, Annals of Statistics 15.
    Example:
        >>> pareto_stderr(torch.tensor(0.5), 1000)
        tensor(0.1539)
    """
    return (1 + shape).clamp(min=0) / math.sqrt(max(1, _tail(draws)))


class LargestWeights(NamedTuple):
    """The M + 1 largest of S log weights of each example, from chunks of them.

    Attributes:
        draws: S, how many there will be.
        kept: log weights, the M + 1 largest among them, float64, shape (at most 2 (M + 1), data).
    """

    draws: int
    kept: Tensor

    @classmethod
    def empty(cls, draws: int, batch: int, device: torch.device | None = None) -> LargestWeights:
        """No weights yet, of S for each of ``batch`` examples."""
        return cls(draws, torch.empty(0, batch, dtype=torch.float64, device=device))

    def add(self, log_weights: Tensor) -> LargestWeights:
        """With a chunk of log weights, shape (samples, batch)."""
        known, wanted = torch.cat([self.kept, log_weights.double()]), _tail(self.draws) + 1
        # chunks may be of one draw each: to select at every other M of them costs little
        return self._replace(kept=known if len(known) <= 2 * wanted else known.topk(wanted, dim=0).values)

    def pareto_k(self) -> Tensor:
        r"""k̂ of each example, float64, shape (batch,).

        −∞ where the largest weights are all the same; ∞ where weight is found in so few draws that the tail holds next
        to none, or in no draw at all; NaN with fewer than 21 draws, for weights that are no numbers, and where a
        quarter of the tail is one weight that was drawn again and again, as those of few codes are: what is beyond
        it has no shape.
        """
        tail, data = _tail(self.draws), self.kept.shape[1]
        if tail < _LEAST_TAIL or len(self.kept) <= tail:
            return self.kept.new_full((data,), math.nan)
        largest = draws_last(self.kept.topk(tail + 1, dim=0).values)  # (data, M + 1), descending
        top = largest[:, :1]
        scaled = (largest - torch.where(top.isfinite(), top, 0.0)).exp()
        beyond = (scaled[:, :-1] - scaled[:, -1:]).flip(1)  # ascending
        equal, few = beyond[:, -1] < _ROUNDING, beyond[:, _quartile(tail)] <= 0
        usable = ~(equal | few).unsqueeze(1)
        beyond = torch.where(usable, beyond, torch.ones_like(beyond).cumsum(1))  # any, so that the fit has no NaN
        rows = max(1, _CHUNK_ELEMENTS // (tail * _grid(tail)))
        found = torch.cat([_fit(beyond[part]) for part in chunks(data, rows)]) if data else beyond[:, 0]
        repeated = self.draws * scaled[:, -1] > 1  # the weight that ends the tail: what has it outweighs a single draw
        found = torch.where(few, torch.where(repeated, math.nan, math.inf), found)
        found = torch.where(equal & top.squeeze(1).isfinite(), -math.inf, found)
        return torch.where(top.squeeze(1) < math.inf, found, math.nan)  # of NaN it is not true either


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""k̂ of each example's weights.

    Args:
        log_weights: shape (draws, batch).
    Returns:
        Float64, shape (batch,); see :meth:`LargestWeights.pareto_k`.
    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> uniform = torch.rand(10_000, 2, generator=generator, dtype=torch.float64)
        >>> bool(((pareto_k(-0.3 * uniform.log()) - 0.3).abs() < 0.2).all())  # u^(−k) has the tail index k
        True
    """
    return LargestWeights.empty(len(log_weights), log_weights.shape[1], log_weights.device).add(log_weights).pareto_k()


def _tail(draws: int) -> int:
    return math.ceil(min(0.2 * draws, 3 * math.sqrt(draws)))


def _quartile(size: int) -> int:
    return int(size / 4 + 0.5) - 1


def _grid(size: int) -> int:
    return 30 + int(math.sqrt(size))


def _fit(x: Tensor) -> Tensor:
    """k of a generalised Pareto distribution, for rows of ascending exceedances, shape (data, M)."""
    size, grid = x.shape[1], _grid(x.shape[1])
    steps = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)
    theta = 1 / x[:, -1:] + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * x[:, _quartile(size)].unsqueeze(1))
    shape = _shape_at(theta, x)
    # −θ / k is 1 / σ, which for k = θ = 0, the exponential distribution, is one over the mean
    inverse_scale = torch.where(theta == 0, 1 / x.mean(1, keepdim=True), -theta / shape)
    log_profile = size * (inverse_scale.log() - shape - 1)
    posterior_mean = (log_profile.softmax(1) * theta).sum(1, keepdim=True)
    found = _shape_at(posterior_mean, x).squeeze(1)
    return (size * found + _PRIOR_DRAWS * _PRIOR_SHAPE) / (size + _PRIOR_DRAWS)


def _shape_at(theta: Tensor, x: Tensor) -> Tensor:
    """The maximum-likelihood k for each θ, shape (data, θ)."""
    return torch.log1p(-theta.unsqueeze(2) * x.unsqueeze(1)).mean(2)
