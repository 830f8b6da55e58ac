r"""Proposals that are fitted to the posterior itself, by a few rounds of weighted draws: population Monte Carlo.

A guide was trained for data of one kind. Where the posterior is another one, as it is given some elements of x and not
all, its draws can miss most of it, and those of the prior hit little of it. Both are a start:

.. math:: r_0(z) = \tfrac12 \, q(z | x) + \tfrac12 \, p(z)

Each round weighs n draws of the proposal and fits the next one to them,

.. math:: z_i \sim r_t(z), \qquad w_i = \Big[ \frac{p(z_i) \, p(x | z_i)}{r_t(z_i)} \Big]^{\beta}, \qquad
    r_{t+1}(z) = \epsilon \, p(z) + (1 - \epsilon) \, k_t(z)

with a normal distribution that has their mean and covariance, for a posterior with one mode, and kernels around some of
them, for one with several, as halves of :math:`k_t` (:mod:`elbowroom.inference.importance.kernels`). The exponent
:math:`\beta \le 1` is the largest at which a tenth of the draws is effective, so that a posterior much narrower than
the first proposal is reached in several rounds. They end when the weights are exact (β = 1) and further ones would gain
little.

Draws for an estimate are made anew from the last proposal, which does not depend on them: their weights are unbiased,
and with the prior's share ε none exceeds :math:`p(x | z) / \epsilon`.

Reference:
    Cappé, Guillin, Marin & Robert (2004), Population Monte Carlo, JCGS 13.
    West (1993), Approximating posterior distributions by mixtures, JRSS B 55.
    Koblents & Míguez (2015), A population Monte Carlo scheme with transformed weights, Statistics and Computing 25.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.defensive import defensive
from elbowroom.inference.importance.estimate import weighted_in_chunks
from elbowroom.inference.importance.kernels import fitted_kernels
from elbowroom.inference.target import require_possible
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import effective_sample_size

__all__ = ["AdaptedProposal", "WeightedDraws", "adapted_proposal", "weighted_draws"]

_LEAST_SHARE = 0.1  # of the draws of a round that are effective at β
_ENOUGH_SHARE = 0.3  # from which no further round is needed
_GAIN = 1.2  # what a round has to multiply that share by, for another one
_WIDER = 1.1  # than the weighted draws: proposals that are too narrow cost more than those that are too wide
_HALVINGS = 30


class WeightedDraws(NamedTuple):
    """Draws of a proposal and their weights.

    Attributes:
        z: shape (draws, batch, latent).
        log_weights: log p(x, z) − log r(z), nats, float64, shape (draws, batch).
    """

    z: Tensor
    log_weights: Tensor


class AdaptedProposal(NamedTuple):
    """A proposal for the posterior of each example.

    Attributes:
        proposal: r, batch shape (batch,), event shape (latent,).
        share: of the draws of a round with this proposal that were effective, float64, shape (batch,).
        rounds: that it took.
    """

    proposal: Distribution
    share: Tensor
    rounds: int


@torch.no_grad()
def weighted_draws(
    model: LatentModel,
    q: Distribution,
    batch: Batch,
    num_samples: int,
    *,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> WeightedDraws:
    """Draws of a proposal with their importance weights.

    Args:
        model: p(x, z).
        q: one proposal for each example, batch shape (batch,).
        batch: data, with a mask where only some elements were observed.
        num_samples: draws of each example.
        chunk_elements: as in :func:`elbowroom.inference.importance.estimate.importance_estimate`.
        generator: the source of randomness.
    Raises:
        NotFiniteError: p(x | z) is 0, or not finite, for all draws of an example.
    """
    parts = [
        (part.z, part.log_weights.double())
        for part in weighted_in_chunks(
            model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
        )
    ]
    z, log_weights = (torch.cat(part) for part in zip(*parts, strict=True))
    require_possible(log_weights)
    return WeightedDraws(z, log_weights)


@torch.no_grad()
def adapted_proposal(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    draws: int = 2000,
    rounds: int = 30,
    kernels: int = 32,
    prior_share: float = 0.1,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> AdaptedProposal:
    """A proposal for the posterior of each example, fitted to it in rounds of weighted draws.

    Args:
        model: p(x, z) with real latents, in evaluation mode.
        guide: q(z | x), half of the first proposal.
        batch: data, ``mask`` True where an element was observed.
        draws: n, of each round and example.
        rounds: at most.
        kernels: M.
        prior_share: ε.
        chunk_elements: as in :func:`elbowroom.inference.importance.estimate.importance_estimate`.
        generator: the source of randomness.
    Raises:
        ElbowroomError: latents that are codes; fewer than 100 draws, or no round.
        NotFiniteError: p(x | z) is 0 for all draws of an example.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> poor = oracles.ppca(dim=8, latent_dim=2, seed=1)[1]  # another model's guide
        >>> found = adapted_proposal(model, poor, x[:3], generator=torch.Generator().manual_seed(0))
        >>> bool((found.share > 0.3).all())
        True
    """
    model.require_real("A fitted proposal", "Codes are drawn by `posterior_codes`.")
    if draws < 100 or rounds < 1 or kernels < 1:
        raise ElbowroomError(
            f"{draws} draws in {rounds} rounds with {kernels} kernels were asked for, but a fit needs 100 draws, a "
            "round and a kernel.",
            "Leave them out: draws=2000, rounds=30, kernels=32.",
        )
    batch = as_batch(batch)
    prior = model.prior(None, batch.context)
    q = defensive(guide_distribution(guide, batch), prior, prior_share=0.5)
    best = AdaptedProposal(q, torch.zeros(len(batch), dtype=torch.float64, device=batch.x.device), 0)
    for number in range(1, rounds + 1):
        found = weighted_draws(model, q, batch, draws, chunk_elements=chunk_elements, generator=generator)
        share = effective_sample_size(found.log_weights) / draws
        least, before = float(share.min()), float(best.share.min())
        if least > before:
            best = AdaptedProposal(q, share, number)
        exponent = _exponent(found.log_weights, _LEAST_SHARE * draws)
        if least >= _ENOUGH_SHARE or (bool((exponent == 1).all()) and least < _GAIN * before):
            break
        log_weights = torch.where(found.log_weights.isneginf(), -math.inf, exponent * found.log_weights)
        fitted = fitted_kernels(found.z, log_weights, kernels, wider=_WIDER, generator=generator)
        q = defensive(fitted, prior, prior_share=prior_share)
    return best._replace(rounds=number)


def _exponent(log_weights: Tensor, least: float) -> Tensor:
    """β of each example, the largest up to 1 at which as many draws are effective, shape (batch,)."""
    finite = ~log_weights.isneginf()

    def enough(exponent: Tensor) -> Tensor:
        return effective_sample_size(torch.where(finite, exponent * log_weights, -math.inf)) >= least

    low, high = torch.zeros_like(log_weights[0]), torch.ones_like(log_weights[0])
    whole = enough(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        good = enough(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(whole, 1.0, low)
