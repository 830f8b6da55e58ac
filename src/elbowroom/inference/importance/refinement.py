r"""Refinement of Laplace approximations to larger ELBO: natural-gradient steps with Gauss–Newton curvature.

Laplace's normal approximation is centred at the posterior's mode, and its width comes from the curvature at that one
point. Where the posterior is skewed or has heavy tails, the normal N(m, S) that maximises the ELBO is centred nearer
the posterior's mean, and its width comes from the average curvature. At that optimum, with expectations over N(m, S),

.. math:: \mathbb{E}[\nabla \log p(x, z)] = 0, \qquad S^{-1} = -\mathbb{E}[\nabla^2 \log p(x, z)]

and a step towards it is Newton's with both averaged, the Gauss–Newton H in the place of minus the Hessian:

.. math:: S^{-1} \leftarrow \mathbb{E}[H(z)], \qquad m \leftarrow m + S \, \mathbb{E}[\nabla \log p(x, z)]

Two such steps, with eight draws and the curvature at four of them, multiply the effective sample size of an importance
sampler by several. Draws come in pairs m ± C ε, whose odd errors cancel, and all steps share the ε, so that the ELBO
before and after a step differ by the step and not by the noise: a step that lowers an example's ELBO is not taken.

Reference:
    Opper & Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21.
    Khan & Lin (2017), Conjugate-computation variational inference, arXiv:1703.04265.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import covariance_factor, gauss_newton
from elbowroom.inference.target import posterior_target
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import NoiseSource, normal
from elbowroom.numerics import draws_last

__all__ = ["Refined", "refine"]


class Refined(NamedTuple):
    """A normal approximation of each posterior.

    Attributes:
        loc: m, shape (batch, latent).
        scale_tril: C, lower triangular, S = C Cᵀ, shape (batch, latent, latent).
        elbo: of these normals, from the draws that the steps were made with, nats, float64, shape (batch,).
        gain: in ELBO over where the steps began, nats, float64, shape (batch,); never negative.
        evaluations: of the decoder, with the gradient, per example; a curvature counts latent / 2.
    """

    loc: Tensor
    scale_tril: Tensor
    elbo: Tensor
    gain: Tensor
    evaluations: float


@torch.no_grad()
def refine(
    model: LatentModel,
    batch: Batch,
    loc: Tensor,
    scale_tril: Tensor,
    *,
    steps: int = 2,
    pairs: int = 4,
    generator: NoiseSource | None = None,
) -> Refined:
    r"""Improve normal approximations of each posterior.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        batch: data, ``x`` of shape (batch, \*event).
        loc: m to begin with, shape (batch, latent), a mode say.
        scale_tril: C to begin with, shape (batch, latent, latent).
        steps: at most; an example that a step does not help keeps what it had.
        pairs: of draws, for the averages; of the curvature, which costs more and varies less, over half of them.
        generator: the source of randomness.
    Raises:
        ElbowroomError: negative ``steps`` or no ``pairs``; a likelihood without Fisher information.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> eye = torch.eye(2).double().expand(64, 2, 2)
        >>> from elbowroom.data.batch import Batch
        >>> found = refine(model, Batch(x), torch.zeros(64, 2).double(), eye, steps=2)
        >>> torch.allclose(found.loc, model.posterior(x).mean)
        True
    """
    if steps < 0 or pairs < 1:
        raise ElbowroomError(
            f"steps is {steps} and pairs {pairs}, but steps cannot be negative and averages need a pair of draws.",
            "Give steps=2, pairs=4.",
        )
    half = normal((pairs, *loc.shape), loc, generator)
    noise, latent_dim = torch.cat([half, -half]), loc.shape[-1]
    target = posterior_target(model, batch)

    def look(loc: Tensor, scale_tril: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws, the ELBO up to the entropy of N(0, I), and E[∇ log p(x, z)]."""
        z = loc + (scale_tril @ noise.movedim(0, -1)).movedim(-1, 0)
        log_joint, gradient = target.evaluate(z)
        entropy = scale_tril.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        return z, draws_last(log_joint.double()).mean(-1) + entropy, draws_last(gradient).mean(-1)

    z, value, gradient = look(loc, scale_tril)
    first, spent, few = value, float(len(noise)), math.ceil(pairs / 2)
    for _ in range(steps):
        curved = torch.cat([z[:few], z[pairs : pairs + few]])
        precision = draws_last(torch.stack([gauss_newton(model, batch, at) for at in curved])).mean(-1)
        unsound = ~precision.isfinite().flatten(1).all(1)  # its step is any, and is taken if it helps
        precision[unsound] = torch.eye(latent_dim).to(precision)
        new_tril = covariance_factor(precision).to(scale_tril)
        new_loc = loc + (new_tril @ (new_tril.mT @ gradient.unsqueeze(-1))).squeeze(-1)
        new_z, new_value, new_gradient = look(new_loc, new_tril)
        better = new_value > value
        loc, scale_tril = _where(better, new_loc, loc), _where(better, new_tril, scale_tril)
        z, gradient = torch.where(better[:, None], new_z, z), _where(better, new_gradient, gradient)
        value = torch.where(better, new_value, value)
        spent += len(noise) + len(curved) * latent_dim / 2
    constant = latent_dim * (1 + math.log(2 * math.pi)) / 2  # the entropy of N(0, I)
    return Refined(loc, scale_tril, value + constant, value - first, spent)


def _where(better: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(better.reshape(-1, *[1] * (new.dim() - 1)), new, old)
