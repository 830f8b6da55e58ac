"""A linear-Gaussian model and guide, for which every bound and gradient is known in closed form or by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from elbowroom.model import oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel


class AffineGuide(Conditional):
    """q(z | x) = N(A x + c, S): S diagonal or full, the same for all x; parameters float64."""

    def __init__(self, slope: Tensor, offset: Tensor, scale_tril: Tensor, *, full: bool) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(slope.clone()), nn.Parameter(offset.clone())
        self.log_scale = nn.Parameter(scale_tril.diagonal().log().clone())
        self.below = nn.Parameter(scale_tril.tril(-1).clone()) if full else None

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        loc, scale = given @ self.slope.T + self.offset, self.log_scale.exp()
        if self.below is None:
            return Independent(Normal(loc, scale.expand_as(loc), validate_args=False), 1, validate_args=False)
        scale_tril = torch.diag(scale) + self.below.tril(-1)
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


def affine_posterior(model: LatentModel, dim: int, *, full: bool = True) -> AffineGuide:
    """The exact posterior as a guide with parameters."""
    probes = torch.cat([torch.zeros(1, dim), torch.eye(dim)]).double()
    posterior = model.posterior(probes)
    means = posterior.mean.detach()
    covariance = posterior.covariance_matrix.detach()[0]
    return AffineGuide((means[1:] - means[0]).T, means[0], torch.linalg.cholesky(covariance), full=full)


def linear_gaussian(dim: int, latent_dim: int, *, full: bool = False, num_data: int = 3) -> SimpleNamespace:
    """A model in float64, an imperfect guide, data."""
    model, _, x = oracles.ppca(dim=dim, latent_dim=latent_dim, seed=1)
    model, x = model.double(), x[:num_data].double()
    guide = affine_posterior(model, dim, full=full)
    with torch.no_grad():  # wrong in mean and in scale, so that no gradient is zero
        guide.slope.mul_(0.7)
        guide.offset.add_(0.3)
        guide.log_scale.add_(0.25)
    return SimpleNamespace(model=model, guide=guide, x=x)


def closed_form_elbo(model: LatentModel, guide: Conditional, x: Tensor, beta: float = 1.0) -> Tensor:
    """ELBO of a linear-Gaussian model with a Gaussian guide, differentiable in both; no sampling, no torch KL.

    E_q log N(x; Wz + b, σ²) = log N(x; Wm + b, σ²) − tr(W S Wᵀ) / 2σ²; W and b are found by probing the likelihood.
    """
    q = guide(x)
    m = q.mean  # (batch, latent)
    latent = m.shape[-1]
    p = model.likelihood(torch.cat([torch.zeros(1, latent), torch.eye(latent)]).to(m))
    b, W = p.mean[0], (p.mean[1:] - p.mean[0]).T
    variance = p.stddev[0].square()  # (dim,)
    S = q.covariance_matrix if isinstance(q, MultivariateNormal) else torch.diag_embed(q.variance)
    residual = x - m @ W.T - b
    spread = torch.einsum("dl,blk,dk->bd", W, S, W)
    expected = -0.5 * (variance.log() + math.log(2 * math.pi) + (residual.square() + spread) / variance).sum(-1)
    trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)
    kl = 0.5 * (trace + m.square().sum(-1) - latent - torch.logdet(S))
    return expected - beta * kl


def parameters_of(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def flat_gradient(value: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def gradient_z_scores(
    estimate: Callable[[], Tensor], exact: Tensor, parameters: list[nn.Parameter], repeats: int
) -> Tensor:
    """How many standard errors the mean of ``repeats`` gradients lies from the exact one, per parameter."""
    drawn = torch.stack([flat_gradient(estimate().mean(), parameters) for _ in range(repeats)])
    difference = drawn.mean(0) - exact
    stderr = drawn.std(0) / math.sqrt(repeats)
    noiseless = stderr < 1e-12  # closed form in this component: it must then be exact
    assert (difference[noiseless].abs() < 1e-9).all()
    return difference[~noiseless] / stderr[~noiseless]


class Always(nn.Module):
    """A network that ignores its input, so that log p(x) of the model is log p(x | z)."""

    outputs: Tensor

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs)

    def forward(self, given: Tensor, context: Tensor | None = None) -> Tensor:
        return self.outputs.expand(*given.shape[:-1], *self.outputs.shape)
