r"""Initial distributions for annealing: easy to draw from, and with a known density, one for each example.

========= ====================================================================================================
start     q₀
========= ====================================================================================================
laplace   mixtures of Laplace approximations, refined (:mod:`elbowroom.inference.importance.laplace_proposal`): nearest
          the posterior, for every likelihood with a Fisher information
guide     q(z | x); the only one for both bounds where the latents are codes
prior     p(z): does not depend on x, so that the way to the posterior is long
========= ====================================================================================================

The metric of the transitions comes from the start too, and the start is evaluated as often as the decoder. So this
module computes density and gradient of mixtures of normals by a few matrix products.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, check_name
from elbowroom.inference.annealing.codes import CodesDensity
from elbowroom.inference.importance.laplace_proposal import LaplaceProposal, laplace_proposal
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.conditional import Conditional
from elbowroom.model.flow_distributions import FlowDistribution
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Likelihood
from elbowroom.model.sequential_normal import BlockDistribution, ResidualNormal, SequentialNormal
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Density, Target

__all__ = [
    "STARTS",
    "NormalMixture",
    "Start",
    "StartDensity",
    "StartName",
    "default_start",
    "metric_of",
    "rows_of",
    "start_density",
    "start_of",
]

StartName = Literal["laplace", "guide", "prior"]
Start = StartName | Conditional | Distribution
STARTS: tuple[StartName, ...] = get_args(StartName)


def default_start(model: LatentModel, guide: Conditional | None) -> StartName:
    """The best start available: laplace where there is a Fisher information, else the guide, else the prior.

    Over codes there is no Laplace approximation.
    """
    real = model.latent_support == "real"
    if real and type(model.likelihood.elementwise).fisher_information is not Likelihood.fisher_information:
        return "laplace"
    return "prior" if guide is None else "guide"


def start_of(
    model: LatentModel,
    guide: Conditional | None,
    batch: Batch,
    start: Start,
    *,
    climbs: int = 2,
    defence: float = 0.1,
    generator: Generator | None = None,
) -> tuple[Distribution, float]:
    """q₀ for these examples, and how many evaluations of the decoder per example it took to find it.

    Args:
        model: p(x, z), in evaluation mode.
        guide: q(z | x), where there is one.
        batch: data.
        start: a name in ``STARTS``; a conditional, called with these examples; or distributions of batch shape (batch,)
            or () and event shape (latent,).
        climbs: local optimisations to modes (restarts) of each posterior, for "laplace".
        defence: share of the prior, for "laplace".
        generator: the source of randomness, for the starts of the local optimisations.
    Raises:
        ElbowroomError: an unknown name; no guide to start from; distributions of another shape; "laplace" for codes.
    """
    if isinstance(start, str):
        check_name("start", start, STARTS)
    if start == "laplace":
        model.require_real("A start from Laplace approximations", "Start from the guide: --start guide.")
        found: LaplaceProposal = laplace_proposal(
            model, guide, batch, starts=climbs, defence=defence, generator=generator
        )
        return found.q, float(found.evaluations.mean())
    if start == "prior":
        q: Distribution = model.prior(None, batch.context)
        return q, 0.0
    if start == "guide":
        if guide is None:
            raise ElbowroomError(
                "Annealing was to start from the guide, but none was given.",
                "Give guide=, or start='laplace' or 'prior'.",
            )
        return guide_distribution(guide, batch), 0.0
    if isinstance(start, Conditional):
        return guide_distribution(start, batch), 0.0
    if start.batch_shape not in ((len(batch),), ()) or len(start.event_shape) != 1:
        raise ElbowroomError(
            f"The start has batch shape {tuple(start.batch_shape)} and event shape {tuple(start.event_shape)}, but "
            f"{len(batch)} examples need one distribution each over a latent vector.",
            "Give a distribution of batch shape (batch,) and event shape (latent,).",
        )
    return start, 0.0


def start_density(q: Distribution) -> Target:
    """log q₀ as a target, written out where q₀ is made of full normals or of slots, and by autograd elsewhere.

    Args:
        q: event shape (latent,), batch shape (data,) or ().
    """
    match q:
        case Codes():
            return CodesDensity(q)
        case MixtureSameFamily(component_distribution=MultivariateNormal() as parts) if len(parts.batch_shape) == 2:
            weights = q.mixture_distribution.logits.log_softmax(-1)
            return NormalMixture(parts.loc, parts.scale_tril, weights)
        case MultivariateNormal() if len(q.batch_shape) == 1:
            return NormalMixture(q.loc.unsqueeze(1), q.scale_tril.unsqueeze(1), torch.zeros_like(q.loc[:, :1]))
    return StartDensity(q)


class StartDensity(Density):
    """log q₀ as a target, differentiated by autograd: one distribution for each example, or one for all.

    Args:
        q: event shape (latent,), batch shape (data,) or ().
    """

    def __init__(self, q: Distribution) -> None:
        super().__init__(q.log_prob)
        self.q = q

    def select(self, index: Tensor) -> StartDensity:
        return StartDensity(rows_of(self.q, index))


class NormalMixture(Target):
    r"""log q(z) of mixtures of full normals, and its gradient, written out.

    .. math:: \log q(z) = \log \sum_k \pi_k |C_k|^{-1} N(w_k \,|\, 0, I), \qquad w_k = C_k^{-1} (z - m_k), \qquad
        \nabla \log q(z) = -\sum_k r_k C_k^{-\top} w_k

    with the responsibilities r_k. The inverses of the factors are kept, so that a point costs K D² multiplications.

    Args:
        loc: m, shape (data, K, latent).
        scale_tril: C, lower triangular, shape (data, K, latent, latent).
        log_weights: log π, normalised, shape (data, K); −∞ for a component that an example lacks.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, log_weights: Tensor) -> None:
        eye = torch.eye(loc.shape[-1], dtype=torch.float64, device=loc.device).expand_as(scale_tril)
        inverse = torch.linalg.solve_triangular(scale_tril.double(), eye, upper=False)
        log_volume = scale_tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        constant = log_weights.double() - log_volume - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
        self._loc, self._inverse, self._constant = loc, inverse.to(loc), constant.to(loc)

    def log_density(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self._parts(z)[0], -1)

    def gradient(self, z: Tensor) -> Tensor:
        return self.evaluate(z)[1]

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        parts, w = self._parts(z)
        responsibilities = parts.softmax(-1)  # (replicas, data, K)
        pulled = (w * responsibilities.permute(1, 2, 0).unsqueeze(-1)) @ self._inverse  # (data, K, replicas, latent)
        return torch.logsumexp(parts, -1), -pulled.sum(1).transpose(0, 1)

    def select(self, index: Tensor) -> NormalMixture:
        chosen = object.__new__(NormalMixture)
        chosen._loc, chosen._inverse = self._loc[index], self._inverse[index]
        chosen._constant = self._constant[index]
        return chosen

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log π_k N_k(z), shape (replicas, data, K), and w, shape (data, K, replicas, latent)."""
        away = z.transpose(0, 1).unsqueeze(1) - self._loc.unsqueeze(2)  # (data, K, replicas, latent)
        w = away @ self._inverse.mT
        return (self._constant.unsqueeze(-1) - 0.5 * w.square().sum(-1)).permute(2, 0, 1), w


def rows_of(q: Distribution, index: Tensor | slice) -> Distribution:
    """The distributions of some of the examples; one that all examples share is returned as it is.

    Args:
        q: batch shape (data, …) or ().
        index: positions of the examples.
    Raises:
        ElbowroomError: a type whose parameters are not known here.
    Example:
        >>> q = Independent(Normal(torch.arange(6.0).view(3, 2), 1.0), 1)
        >>> rows_of(q, torch.tensor([2])).mean
        tensor([[4., 5.]])
    """
    if not q.batch_shape:
        return q
    match q:
        case Normal():
            return Normal(q.loc[index], q.scale[index], validate_args=False)
        case Independent():
            return Independent(rows_of(q.base_dist, index), q.reinterpreted_batch_ndims, validate_args=False)
        case MultivariateNormal():
            return MultivariateNormal(q.loc[index], scale_tril=q.scale_tril[index], validate_args=False)
        case Categorical():
            return Categorical(logits=q.logits[index], validate_args=False)
        case Codes():
            return Codes(q.logits[index])
        case SequentialNormal() | ResidualNormal() | FlowDistribution() | TopDownCodes():
            return q.rows(index)
        case BlockDistribution():
            return BlockDistribution([rows_of(block, index) for block in q.blocks])
        case MixtureSameFamily():
            weights = rows_of(q.mixture_distribution, index)
            assert isinstance(weights, Categorical)  # that of a mixture always is
            parts = q.component_distribution
            # components that all examples share have no batch axis: their batch shape is (K,)
            parts = parts if len(parts.batch_shape) == 1 else rows_of(parts, index)
            return MixtureSameFamily(weights, parts, validate_args=False)
    raise ElbowroomError(
        f"The start is a {type(q).__name__}, of which some examples cannot be taken alone.",
        "Start from normal distributions, mixtures of them or flows, or give the guide itself in place of its output.",
    )


def metric_of(q: Distribution, z: Tensor) -> Metric:
    """The metric in which q is round: that of its largest component where q is made of full normals, else diagonal.

    Over codes no transition has a metric, and this one is the identity.

    Args:
        q: as for :func:`start_density`.
        z: positions, shape (replicas, data, dim), for the shape and the type.
    Raises:
        ElbowroomError: a distribution without finite standard deviations.
    """
    if isinstance(q, Codes | TopDownCodes | AutoregressiveCodes):
        return Metric.identity(z)
    full = _largest_normal(q)
    if full is None:
        center = q.mean.expand_as(z[0]).to(z)
        return Metric.diagonal(q.stddev.expand_as(center).to(z).contiguous(), center)
    loc, scale_tril = full
    return Metric(loc.expand_as(z[0]).to(z), scale_tril.expand(*z.shape[1:], z.shape[-1]).to(z))


def _largest_normal(q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and factor of the full normal, or of the one with the largest weight; None for any other distribution."""
    match q:
        case MultivariateNormal():
            return q.loc, q.scale_tril
        case MixtureSameFamily(component_distribution=MultivariateNormal() as parts):
            largest = q.mixture_distribution.logits.argmax(-1)
            if len(parts.batch_shape) == 1:
                return parts.loc[largest], parts.scale_tril[largest]
            rows = torch.arange(len(largest), device=largest.device)
            return parts.loc[rows, largest], parts.scale_tril[rows, largest]
    return None
