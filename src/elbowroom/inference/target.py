"""The posterior p(z | x) as a sampler's target: log p(x, z) as a function of z, known up to the constant log p(x)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import NotFiniteError, check_name
from elbowroom.inference.mlp_target import PerceptronPosterior
from elbowroom.model.causal_networks import CausalNetwork
from elbowroom.model.flow_distributions import Bijection
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import DiscretizedLogisticMixture, Likelihood
from elbowroom.model.networks import NetworkPart
from elbowroom.samplers.target import Density, Target

__all__ = [
    "MetricName",
    "Precision",
    "default_metric",
    "posterior_target",
    "require_possible",
    "widest",
    "widest_of_prior",
]

MetricName = Literal["gauss-newton", "guide", "diagonal", "dense", "identity"]
Precision = Literal["full", "bf16"]


def posterior_target(
    model: LatentModel, batch: Batch | Tensor, *, precision: Precision = "full", chunk_elements: int = 2**20
) -> Target:
    """log p(x, z) as a function of z, shape (replicas, data, latent), for samplers.

    MLP decoders with a Bernoulli or Gaussian likelihood and the prior N(0, I) have gradients written by hand; every
    other model uses autograd. Both compute the same function.

    Args:
        model: p(x, z), in evaluation mode; after an update of its weights, make the target anew.
        batch: the data.
        precision: "bf16" takes the gradients inside trajectories in bfloat16 where gradients are written by hand, with
            energies in full precision: draws stay exact.
        chunk_elements: examples are evaluated in chunks, such that no tensor of a chunk has more elements than this,
            unless the replicas of a single example do.
    Raises:
        ElbowroomError: an unknown precision.
    """
    check_name("precision", precision, get_args(Precision))
    batch = as_batch(batch)
    if PerceptronPosterior.fits(model):
        return PerceptronPosterior(model, batch, half=precision == "bf16", chunk_elements=chunk_elements)
    return _autograd_target(model, batch, chunk_elements)


def _autograd_target(model: LatentModel, batch: Batch, chunk_elements: int = 2**20) -> Density:
    """The target by the model's own densities and autograd, for every model."""
    names = [name for name in ("context", "mask") if getattr(batch, name) is not None]
    with torch.no_grad():  # a prior that all examples share is made once: a VampPrior's is a pass of the guide
        prior = model.prior(None) if batch.context is None else None

    def log_joint(z: Tensor, x: Tensor, *others: Tensor) -> Tensor:
        given = dict(zip(names, others, strict=True))
        log_prior: Tensor = model.log_prior(z, given.get("context")) if prior is None else prior.log_prob(z)
        return log_prior + model.log_likelihood(x, z, **given)

    of_batch = (getattr(batch, name) for name in names)
    return Density(log_joint, batch.x, *of_batch, chunk_points=max(1, chunk_elements // widest(model)))


def widest(model: LatentModel) -> int:
    """Elements of the largest tensor that log p(x, z) of one z takes: of its decoding, or of the prior's network."""
    likelihood = model.likelihood
    layers = [part.widest for part in likelihood.modules() if isinstance(part, NetworkPart)]
    return max(likelihood.num_parameters * math.prod(likelihood.event_shape), *layers, widest_of_prior(model))


def widest_of_prior(model: LatentModel) -> int:
    """Elements of the largest tensor that log p(z) of one z takes in the networks of an autoregressive prior or a flow;
    else 1.
    """
    parts = model.prior.modules()
    return max((part.widest for part in parts if isinstance(part, CausalNetwork | Bijection)), default=1)


def default_metric(likelihood: Likelihood) -> MetricName:
    """The metric unless one is named: gauss-newton, but dense where the Fisher information has no closed form."""
    kind = type(likelihood.elementwise)
    known = kind.fisher_information is not Likelihood.fisher_information
    return "gauss-newton" if known and not issubclass(kind, DiscretizedLogisticMixture) else "dense"


def require_possible(log_weights: Tensor) -> None:
    """Refuse examples whose every weight is 0, or one of them not a number.

    Args:
        log_weights: log p(x, z) or a ratio with it, of several z for each example, shape (draws, batch).
    Raises:
        NotFiniteError: names how many, and has their places.
    Example:
        >>> require_possible(torch.tensor([[0.0, -torch.inf], [-torch.inf, -1.0]]))
    """
    lost = log_weights.isneginf().all(0) | log_weights.isnan().any(0)
    if bool(lost.any()):
        raise NotFiniteError(
            f"p(x observed | z) is 0 or not finite for all draws of {int(lost.sum()):,} of the examples.",
            "They may lie far from the training data: look at them with `elbowroom data show`.",
            lost.nonzero().squeeze(1).tolist(),
        )
