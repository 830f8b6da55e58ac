r"""log p(x) by importance sampling, with a standard error.

The weights w_k = p(x, z_k) / q(z_k | x) of draws from a proposal q, such as the guide, have the mean p(x). The
logarithm of their average over few draws is a training objective. Over thousands of draws it is an estimate of log
p(x); it is too low on average, by about half its squared standard error. Draws come in chunks. Of each chunk, three
sums per example are kept in float64, and the largest weights, so that memory hardly grows with the number of draws.

Where the effective sample size is only a few draws, do not trust the estimate: the proposal misses a part of the
posterior, the weights' variance is itself poorly estimated, and the standard error is too small. The tail of the
weights shows this (:mod:`elbowroom.inference.importance.pareto`).
:mod:`elbowroom.inference.importance.laplace_proposal` makes proposals that need no guide.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_num_samples
from elbowroom.inference.importance.defensive import DefensiveProposal
from elbowroom.inference.importance.kernels import NormalKernels
from elbowroom.inference.importance.pareto import LargestWeights
from elbowroom.inference.mlp_target import PerceptronLikelihood
from elbowroom.inference.target import widest_of_prior
from elbowroom.inference.weights import Weighted, weigh
from elbowroom.model.conditional import Conditional
from elbowroom.model.distributions import DiagonalNormalMixture
from elbowroom.model.flow_distributions import FlowDistribution
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import NetworkPart
from elbowroom.model.noise import NoiseSource
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import chunks, draws_last

__all__ = [
    "AverageWeight",
    "ImportanceEstimate",
    "WeightSums",
    "importance_estimate",
    "importance_estimate_from",
    "weighted_in_chunks",
    "weights_in_chunks",
]

_CACHE_ELEMENTS = 2**18  # of a tensor that fits into a processor core's cache: one megabyte of float32
_MOST_PIECES = 32  # decodings whose draws are made and weighted together


class AverageWeight(NamedTuple):
    """The logarithm of an average of importance weights, per example, with its standard error; float64, shape (batch,).

    Attributes:
        log_evidence: log of the average weight, nats; in expectation a lower bound on log p(x).
        stderr: its standard error, nats, by the delta method; NaN for a single draw.
        ess: effective number of draws, between 1 and k.
    """

    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor


class ImportanceEstimate(NamedTuple):
    """An estimate of the evidence of each example; all float64, shape (batch,).

    Attributes:
        log_evidence: as in :class:`AverageWeight`.
        stderr: as in :class:`AverageWeight`.
        ess: as in :class:`AverageWeight`.
        pareto_k: k̂ of the weights' tail (:mod:`elbowroom.inference.importance.pareto`); NaN with fewer than 21 draws.
    """

    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor
    pareto_k: Tensor


class WeightSums(NamedTuple):
    r"""Running sums over importance weights, per example, scaled by the largest weight so far.

    Attributes:
        draws: k, weights seen per example.
        largest: m = max log w_k, float64, shape (batch,).
        total: Σ exp(log w_k − m), float64, shape (batch,).
        squares: Σ exp(2 (log w_k − m)), float64, shape (batch,).
    """

    draws: int
    largest: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, batch: int, device: torch.device | None = None) -> WeightSums:
        """Sums over no weights, for ``batch`` examples."""
        zeros = torch.zeros(batch, dtype=torch.float64, device=device)
        return cls(0, torch.full_like(zeros, -math.inf), zeros, zeros)

    def add(self, log_weights: Tensor) -> WeightSums:
        """The sums with a chunk of log weights, shape (samples, batch), added."""
        log_weights = log_weights.double()
        largest = torch.maximum(self.largest, log_weights.amax(0))
        # an example whose weights are all zero so far has m = −∞, which must not meet another −∞
        shift = torch.where(largest.isneginf(), 0.0, largest)
        scaled, rescale = draws_last(log_weights - shift).exp(), (self.largest - shift).exp()
        return WeightSums(
            self.draws + len(log_weights),
            largest,
            self.total * rescale + scaled.sum(-1),
            self.squares * rescale.square() + scaled.square().sum(-1),
        )

    def estimate(self) -> AverageWeight:
        r"""What the sums say.

        .. math:: \log \bar{w}, \qquad
            \frac{\sqrt{\mathrm{var}(w) / k}}{\bar{w}} = \sqrt{\frac{k / \mathrm{ESS} - 1}{k - 1}}, \qquad
            \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}
        """
        shift = torch.where(self.largest.isneginf(), 0.0, self.largest)
        ess = self.total.square() / self.squares
        relative_variance = (self.draws / ess - 1).clamp(min=0)  # rounding alone can take equal weights below 0
        return AverageWeight(
            shift + self.total.log() - math.log(self.draws), (relative_variance / (self.draws - 1)).sqrt(), ess
        )


def _widest(model: LatentModel, q: Distribution, prior: Distribution, batch: Batch) -> int:
    """Elements of the largest tensor that one draw for one example takes."""
    sizes = [batch.x[0].numel(), _latent_elements(q), _latent_elements(prior), widest_of_prior(model)]
    for part in model.likelihood.modules():
        if isinstance(part, NetworkPart):
            sizes.append(part.widest)
        elif isinstance(part, nn.Linear):
            sizes.append(part.out_features)
    return max(sizes)


def _latent_elements(distribution: Distribution) -> int:
    """Elements of one latent vector: times the components of a mixture, or times the triangular factor of a draw; of a
    flow or of levels of codes, the widest tensor inside.
    """
    elements = distribution.event_shape.numel()
    if isinstance(distribution, DefensiveProposal) and isinstance(distribution.q, NormalKernels):
        return max(elements, distribution.q.widest)
    if isinstance(distribution, FlowDistribution):
        return max(elements, distribution.bijection.widest)
    if isinstance(distribution, TopDownCodes):
        return max(elements, distribution.widest)
    if isinstance(distribution, DiagonalNormalMixture) and distribution.by_products:
        return max(elements, distribution.mixture_distribution.logits.shape[-1])
    if isinstance(distribution, MixtureSameFamily):
        components = distribution.component_distribution
        if isinstance(components, FlowDistribution):
            return components.batch_shape[-1] * _latent_elements(components)
        return max(elements * components.batch_shape[-1], _latent_elements(components))
    return elements**2 if isinstance(distribution, MultivariateNormal) else elements


@torch.no_grad()
def importance_estimate(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    *,
    num_samples: int,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> ImportanceEstimate:
    r"""Estimate log p(x) of each example from exactly ``num_samples`` draws of the guide, without a gradient.

    .. math:: \log \hat{p}(x) = \log \frac{1}{k} \sum_{i=1}^k \frac{p(x, z_i)}{q(z_i | x)}, \qquad z_i \sim q(z | x)

    The modules are used as they are: call ``eval()`` on model and guide first, or batch normalisation and dropout
    behave as in training. Memory is bounded over draws, not over examples: the caller divides the data into batches.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: k, draws of z per example.
        chunk_elements: draws are taken a chunk at a time, such that no tensor of a chunk has more elements than this:
            not the data, the latents, the prior's components or a layer of its network, the likelihood's parameters
            nor a layer of its network (a chunk has at least one draw). The draws, though not their law, depend on it.
        generator: the source of randomness.
    Returns:
        Estimate, standard error, effective sample size and Pareto k̂, each of shape (batch,), float64.
    Raises:
        ElbowroomError: ``num_samples`` or ``chunk_elements`` below 1.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, section 5.
        Owen (2013), Monte Carlo theory, methods and examples, chapter 9.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = importance_estimate(model, guide, x, num_samples=1000, generator=torch.Generator().manual_seed(0))
        >>> bool(((found.log_evidence - model.log_evidence(x)).abs() < 5 * found.stderr).all())
        True
    """
    batch = as_batch(batch)
    q = guide_distribution(guide, batch)
    return importance_estimate_from(
        model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
    )


@torch.no_grad()
def importance_estimate_from(
    model: LatentModel,
    q: Distribution,
    batch: Batch | Tensor,
    *,
    num_samples: int,
    chunk_elements: int = 2**20,
    generator: NoiseSource | None = None,
) -> ImportanceEstimate:
    r"""Estimate log p(x) of each example from draws of any proposal q.

    .. math:: \log \hat{p}(x) = \log \frac{1}{k} \sum_{i=1}^k \frac{p(x, z_i)}{q_x(z_i)}, \qquad z_i \sim q_x

    Args:
        model: p(x, z).
        q: one proposal for each example, batch shape (batch,), event shape (latent,); it has to have mass wherever the
            posterior has some, and must not depend on the draws.
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: k, draws of z per example.
        chunk_elements: as in :func:`importance_estimate`.
        generator: the source of randomness.
    Returns:
        Estimate, standard error, effective sample size and Pareto k̂, each of shape (batch,), float64.
    Raises:
        ElbowroomError: ``num_samples`` or ``chunk_elements`` below 1; a proposal of another shape.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = importance_estimate_from(model, model.posterior(x), x, num_samples=1)
        >>> torch.allclose(found.log_evidence, model.log_evidence(x))
        True
    """
    batch = as_batch(batch)
    sums = WeightSums.empty(len(batch), batch.x.device)
    largest = LargestWeights.empty(num_samples, len(batch), batch.x.device)
    for log_weights in weights_in_chunks(
        model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
    ):
        sums, largest = sums.add(log_weights), largest.add(log_weights)
    return ImportanceEstimate(*sums.estimate(), largest.pareto_k())


def weights_in_chunks(
    model: LatentModel,
    q: Distribution,
    batch: Batch,
    *,
    num_samples: int,
    chunk_elements: int,
    generator: NoiseSource | None,
) -> Iterator[Tensor]:
    """Log weights of draws from a proposal, shape (draws of a chunk, batch); see :func:`importance_estimate_from`."""
    for weighted in weighted_in_chunks(
        model, q, batch, num_samples=num_samples, chunk_elements=chunk_elements, generator=generator
    ):
        yield weighted.log_weights


@torch.no_grad()
def weighted_in_chunks(
    model: LatentModel,
    q: Distribution,
    batch: Batch,
    *,
    num_samples: int,
    chunk_elements: int,
    generator: NoiseSource | None,
) -> Iterator[Weighted]:
    """The same draws with the densities that make up their weights, a chunk at a time."""
    check_num_samples(num_samples)
    if chunk_elements < 1:
        raise ElbowroomError(
            f"chunk_elements is {chunk_elements}, but a chunk holds at least one number.",
            "Give chunk_elements=1 or more; the default suits most machines.",
        )
    prior = model.prior(None, batch.context)  # once for all chunks
    wanted = ((len(batch),), prior.event_shape)
    if (q.batch_shape, q.event_shape) != wanted:
        raise ElbowroomError(
            f"The proposal has batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)}, but "
            f"{len(batch)} examples with latents of shape {tuple(prior.event_shape)} need one proposal each.",
            "Give a distribution of batch shape (batch,) and event shape (latent,).",
        )
    per_draw = max(1, len(batch) * _widest(model, q, prior, batch))
    at_once = max(1, chunk_elements // per_draw)
    decode = _decoder(model, batch, at_once)
    # small latents are drawn and weighted for many decodings together, so that the sums are updated less often
    of_latents = max(1, len(batch) * max(_latent_elements(q), _latent_elements(prior), widest_of_prior(model)))
    pieces = max(1, min(_MOST_PIECES, chunk_elements // (of_latents * at_once)))
    for chunk in chunks(num_samples, pieces * at_once):
        draws = chunk.stop - chunk.start
        yield weigh(model, batch, q, prior, num_samples=draws, decode=decode, generator=generator)


def _decoder(model: LatentModel, batch: Batch, at_once: int) -> Callable[[Tensor], Tensor]:
    """log p(x | z) as a function of z, ``at_once`` draws at a time; for an MLP by the samplers' faster path.

    The model's own function is used where the network has layers of other classes or hooks, and while batch
    normalisation is in training mode.
    """
    decode: Callable[[Tensor], Tensor] = partial(model.log_likelihood, batch.x, context=batch.context, mask=batch.mask)
    if _is_perceptron(model, batch):
        target = PerceptronLikelihood(model.likelihood, batch, chunk_elements=sys.maxsize)
        cached = _CACHE_ELEMENTS * torch.get_num_threads() // (len(batch) * target.widest)
        decode, at_once = target.log_density, max(1, min(at_once, cached))
    return lambda z: torch.cat([decode(z[piece]) for piece in chunks(len(z), at_once)])


def _is_perceptron(model: LatentModel, batch: Batch) -> bool:
    likelihood = model.likelihood
    own = type(model).log_likelihood is not LatentModel.log_likelihood
    if own or not PerceptronLikelihood.fits(likelihood) or batch.x.dtype != next(likelihood.parameters()).dtype:
        return False
    return not any(
        part._forward_hooks or part._forward_pre_hooks or (part.training and isinstance(part, nn.BatchNorm1d))
        for part in likelihood.modules()
    )
