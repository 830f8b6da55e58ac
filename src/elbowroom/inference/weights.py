r"""Importance weights, which every bound on log p(x) and every estimate of it shares.

.. math:: \log w = \log p(x | z) + \log p(z) - \log q(z | x), \qquad z \sim q(z | x), \qquad \mathbb{E}_q[w] = p(x)

This is the only place where they are computed. The guide's parameters enter a weight in two ways, through the draw z
and through the density log q; a gradient estimator chooses through which of the two the gradient flows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError, check_name, check_num_samples
from elbowroom.inference.code_gradients import CODE_ESTIMATORS, Draws, draw_codes, path_gradient
from elbowroom.model.code_distributions import Codes
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import detach, draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource
from elbowroom.model.sequential_normal import ResidualNormal, SequentialNormal
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.names import EstimatorName

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Weighted",
    "draw_latents",
    "log_likelihood_of_draws",
    "log_weights",
    "weigh",
    "weigh_draws",
]

Estimator = EstimatorName

#: name -> what it does, in a line
ESTIMATORS: dict[str, str] = {
    "pathwise": "reparameterised draws, differentiated in full (Kingma & Welling 2014)",
    "stl": "sticking the landing: no gradient through log q's parameters (Roeder, Wu & Duvenaud 2017)",
    "dreg": "doubly reparameterised: squared normalised weights, for IWAE (Tucker et al. 2019)",
    "score-function": "unbiased for any z: REINFORCE, leave-one-out baseline (Mnih & Rezende 2016; Kool et al. 2019)",
    **CODE_ESTIMATORS,
}


class Weighted(NamedTuple):
    """Draws of z, and the three log densities that make up the importance weight.

    Attributes:
        z: (samples, batch, latent).
        log_likelihood: log p(x | z), (samples, batch).
        log_prior: log p(z), (samples, batch).
        log_q: log q(z | x), (samples, batch).
    """

    z: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_weights(self) -> Tensor:
        """log w = log p(x | z) + log p(z) − log q(z | x), (samples, batch)."""
        return self.log_likelihood + (self.log_prior - self.log_q)


def draw_latents(
    q: Distribution,
    num_samples: int,
    estimator: Estimator = "pathwise",
    *,
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Draws:
    """z ~ q(z | x), shape (num_samples, batch, latent), with a gradient where the estimator needs one.

    Args:
        q: the guide's output, q(z | x).
        num_samples: draws per example.
        estimator: where the gradient may pass; the table in :mod:`elbowroom.inference.objectives`.
        temperature: of an estimator for codes.
        generator: the source of randomness.
    Raises:
        ElbowroomError: the estimator differentiates through the draws, but the guide's have no gradient. To go on
            would be to optimise the naive estimator of :mod:`elbowroom.studies.gradient_variance`, silently.
    """
    if isinstance(q, Codes | TopDownCodes) and estimator in CODE_ESTIMATORS:
        return draw_codes(q, num_samples, estimator, temperature=temperature, generator=generator)
    z = draw(q, (num_samples,), generator=generator)
    if estimator == "score-function":
        return Draws(z.detach())
    if estimator in CODE_ESTIMATORS:
        raise ElbowroomError(
            f"The estimator '{estimator}' is for draws of codes, but the guide's distribution is a {type(q).__name__}.",
            "Use estimator='pathwise' for real vectors, 'score-function' for anything else, or a categorical guide.",
        )
    if torch.is_grad_enabled() and not q.has_rsample:
        raise ElbowroomError(
            f"The estimator '{estimator}' differentiates through draws of the guide, but those of a "
            f"{type(q).__name__} are not reparameterised.",
            "Use estimator='score-function' (for codes also 'reinmax'), or torch.no_grad() for the value alone.",
        )
    return Draws(z)


def weigh(
    model: LatentModel,
    batch: Batch,
    q: Distribution,
    prior: Distribution,
    *,
    num_samples: int,
    decode: Callable[[Tensor], Tensor] | None = None,
    generator: NoiseSource | None = None,
) -> Weighted:
    """Draw z from the guide, and compute the densities of its importance weights.

    Args:
        model: p(x, z).
        batch: data, x of shape (batch, \\*event); its context and mask are passed on.
        q: the guide's output, q(z | x).
        prior: the prior's output, p(z). Both are arguments so that repeated calls build them once.
        num_samples: draws per example.
        decode: log p(x | z) as a function of z, where there is a quicker one than the model's.
        generator: the source of randomness.
    Returns:
        The draws, and densities of shape (num_samples, batch).
    Raises:
        ElbowroomError: a gradient through draws of a guide that is not reparameterised.
    """
    z = draw_latents(q, num_samples, generator=generator).z
    return weigh_draws(z, model, batch, q, prior, decode=decode)


def weigh_draws(
    z: Tensor,
    model: LatentModel,
    batch: Batch,
    q: Distribution,
    prior: Distribution,
    *,
    estimator: Estimator = "pathwise",
    decode: Callable[[Tensor], Tensor] | None = None,
) -> Weighted:
    """The densities of the importance weights of draws that exist.

    Args:
        z: draws of :func:`draw_latents` with the same estimator, shape (samples, batch, latent).
        estimator: whether the gradient may pass through log q's parameters.
        model, batch, q, prior, decode: as in :func:`weigh`.
    Returns:
        The draws, and densities of shape (samples, batch).
    """
    density = detach(q) if estimator in ("stl", "dreg") else q
    if decode is not None:
        log_likelihood = decode(z)
    elif density is q:
        log_likelihood = log_likelihood_of_draws(model, batch, q, z)
    else:  # the gradient has to pass through z, and through nothing that the guide computed
        log_likelihood = model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)
    return Weighted(z, log_likelihood, prior.log_prob(z), density.log_prob(z))


def log_likelihood_of_draws(model: LatentModel, batch: Batch, q: Distribution, z: Tensor) -> Tensor:
    """log p(x | z), (samples, batch), of draws of q; what a guide from the top down has computed is not done again."""
    with q.shared(z) if isinstance(q, SequentialNormal | ResidualNormal) else nullcontext():
        return model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)


def log_weights(
    model: LatentModel,
    guide: Conditional,
    batch: Batch | Tensor,
    num_samples: int = 1,
    *,
    estimator: Estimator = "pathwise",
    temperature: float | Tensor = 1.0,
    generator: NoiseSource | None = None,
) -> Tensor:
    r"""Logarithms of importance weights, whose expectation is p(x).

    .. math:: \log w_k = \log p(x | z_k) + \log p(z_k) - \log q(z_k | x), \qquad z_k \sim q(z | x)

    Args:
        model: p(x, z).
        guide: q(z | x).
        batch: data, ``x`` of shape (batch, \*event).
        num_samples: K, draws of z per example.
        estimator: where the gradient may pass; the first two columns of the table in
            :mod:`elbowroom.inference.objectives`.
        temperature: of an estimator for codes.
        generator: the source of randomness.
    Returns:
        Nats, shape (num_samples, batch).
    Raises:
        ElbowroomError: ``num_samples`` below 1; an unknown estimator.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> log_weights(model, guide, x[:5], 3, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 5])
    """
    batch = as_batch(batch)
    check_num_samples(num_samples)
    check_name("gradient estimator", estimator, ESTIMATORS)
    q, prior = guide_distribution(guide, batch), model.prior(None, batch.context)
    draws = draw_latents(q, num_samples, estimator, temperature=temperature, generator=generator)

    def weights_at(z: Tensor) -> Tensor:
        return weigh_draws(z, model, batch, q, prior, estimator=estimator).log_weights

    weights = weights_at(draws.z)
    return weights if draws.relaxed is None else weights + path_gradient(weights_at, draws.relaxed)
