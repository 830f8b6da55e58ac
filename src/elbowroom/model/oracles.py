r"""Oracles: models whose evidence and posterior are known exactly, as references for tests of everything else.

:class:`LinearGaussian` is probabilistic PCA (factor analysis with one noise level):

.. math:: z \sim N(0, I), \quad x | z \sim N(W z + b, \sigma^2 I)
    \;\Rightarrow\; x \sim N(b, W W^\top + \sigma^2 I), \quad
    z | x \sim N\big(M^{-1} W^\top (x - b) / \sigma^2, \; M^{-1}\big), \quad M = I + W^\top W / \sigma^2.

Where only some elements are observed, the same holds with the rows of W and b that belong to them. For models that
have no closed form but one or two latent dimensions, :func:`quadrature_log_evidence` integrates z out on a grid.

:class:`PoissonGamma` is an oracle that is not normal: counts with a gamma rate, whose evidence is negative binomial.

.. math:: z = \log \lambda, \quad \lambda \sim \mathrm{Gamma}(a, b), \quad x_d | z \sim \mathrm{Poisson}(e^z)
    \;\Rightarrow\; p(x) = \frac{\Gamma(a + S)}{\Gamma(a)} \frac{b^a}{(b + D)^{a + S}} \prod_d \frac{1}{x_d!}, \qquad
    \lambda | x \sim \mathrm{Gamma}(a + S, b + D), \quad S = \sum_d x_d

Its latent is the logarithm of the rate, so that it is a real number. The prior, the law of the logarithm of a gamma
variable, is skewed to the left, and so is the posterior of small counts: there, estimators that rest on normal
approximations are wrong, and the oracle shows by how much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.distributions import (
    Distribution,
    ExpTransform,
    Gamma,
    Independent,
    MultivariateNormal,
    TransformedDistribution,
)
from torch.distributions.transforms import Transform

from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian, Poisson
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import chunks

__all__ = ["LinearGaussian", "LogGamma", "PoissonGamma", "ppca", "quadrature_log_evidence"]


class LinearGaussian(LatentModel):
    r"""p(z) = N(0, I), p(x | z) = N(W z + b, σ² I): evidence and posterior in closed form.

    W and b are parameters, σ is fixed; the closed forms are those of their present values and are differentiable.

    Args:
        weight: W, shape (dim, latent).
        bias: b, shape (dim,).
        scale: σ > 0.
    Reference:
        Tipping & Bishop (1999), Probabilistic principal component analysis.
    Example:
        >>> model = LinearGaussian(torch.ones(3, 1), torch.zeros(3), scale=1.0)
        >>> model.log_evidence(torch.zeros(1, 3)).detach()  # covariance I + 11ᵀ, determinant 4
        tensor([-3.4500])
    """

    def __init__(self, weight: Tensor, bias: Tensor, scale: float) -> None:
        dim, latent_dim = weight.shape
        network = _affine_network(weight, bias, (1, dim))
        super().__init__(StandardNormal(latent_dim), Gaussian(network, (dim,), scale=scale))
        self.to(weight.dtype)
        self.noise_scale = scale

    @property
    def weight(self) -> Tensor:
        """W, shape (dim, latent)."""
        return self._affine.weight

    @property
    def bias(self) -> Tensor:
        """b, shape (dim,)."""
        return self._affine.bias

    @property
    def _affine(self) -> nn.Linear:
        network = self.likelihood.network
        assert isinstance(network, MLP)  # built so above
        return network.output

    def log_evidence(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""log p(x), exactly.

        .. math:: -\tfrac12 \Big[n \log 2\pi\sigma^2 + \log |M|
            + \frac{|r|^2 - r^\top W M^{-1} W^\top r / \sigma^2}{\sigma^2}\Big],
            \qquad r = x - b, \; n \text{ observed elements}

        Args:
            x: shape (batch, dim).
            mask: True where observed, shape (batch, dim).
        Returns:
            Nats, shape (batch,); computed in float64, returned in the type of x.
        """
        residual, precision, pulled = self._normal_equations(x, mask)
        variance = self.noise_scale**2
        observed = x.shape[-1] if mask is None else mask.double().sum(-1)
        explained = (pulled * torch.linalg.solve(precision, pulled.unsqueeze(-1)).squeeze(-1)).sum(-1)
        mahalanobis = residual.square().sum(-1) / variance - explained
        log_determinant = observed * math.log(2 * math.pi * variance) + torch.logdet(precision)
        log_density: Tensor = -0.5 * (log_determinant + mahalanobis)
        return log_density.to(x.dtype)

    def posterior(self, x: Tensor, mask: Tensor | None = None) -> MultivariateNormal:
        """p(z | x), exactly; batch shape (batch,), event shape (latent,); arguments as in :meth:`log_evidence`."""
        _, precision, pulled = self._normal_equations(x, mask)
        mean = torch.linalg.solve(precision, pulled.unsqueeze(-1)).squeeze(-1)
        scale_tril = torch.linalg.cholesky(torch.linalg.inv(precision))
        return MultivariateNormal(mean.to(x.dtype), scale_tril=scale_tril.to(x.dtype), validate_args=False)

    def exact_guide(self) -> FullNormal:
        """A guide with parameters of its own, whose output is the exact posterior at the model's present values."""
        weight, bias = self.weight.detach().double(), self.bias.detach().double()
        dim, latent_dim = weight.shape
        posterior = self.posterior(torch.zeros(1, dim, dtype=torch.float64))
        gain = (posterior.covariance_matrix[0] @ weight.T / self.noise_scale**2).detach()  # (latent, dim)
        tril = posterior.scale_tril[0].detach()
        rows, columns = torch.tril_indices(latent_dim, latent_dim)
        entries = tril[rows, columns]
        triangle = torch.where(rows == columns, 2 * torch.log(entries.abs()), entries)
        rows_of_weight = torch.cat([gain, gain.new_zeros(len(triangle), dim)])
        rows_of_bias = torch.cat([-gain @ bias, triangle])
        network = _affine_network(rows_of_weight, rows_of_bias, FullNormal.parameter_shape(latent_dim))
        return FullNormal(network.to(self.weight.dtype), latent_dim)

    def _normal_equations(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Observed residuals r, M of shape (batch, latent, latent), and Wᵀ r / σ²; all in float64."""
        weight, bias, variance = self.weight.double(), self.bias.double(), self.noise_scale**2
        observed = torch.ones_like(x, dtype=torch.float64) if mask is None else mask.double()
        residual = torch.where(observed > 0, x.double() - bias, 0.0)
        inner = torch.einsum("nd,dj,dk->njk", observed, weight, weight)
        precision = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device) + inner / variance
        return residual, precision, residual @ weight / variance


def _affine_network(weight: Tensor, bias: Tensor, out_shape: Sequence[int]) -> MLP:
    """x -> weight x + bias; its type is the weight's."""
    with torch.random.fork_rng(devices=()):  # keep the global generator: the initial weights are not used
        network = MLP((weight.shape[1],), out_shape, hidden=()).to(weight.dtype)
    with torch.no_grad():
        network.output.weight.copy_(weight)
        network.output.bias.copy_(bias)
    return network


def ppca(
    dim: int, latent_dim: int, seed: int, num_data: int = 64, *, dtype: torch.dtype = torch.float64
) -> tuple[LinearGaussian, DiagonalNormal, Tensor]:
    """A small linear-Gaussian model, an imperfect guide for it, and data drawn from it.

    The guide is normal with diagonal covariance, its mean off by 0.7 posterior standard deviations and its variances
    twice too large, so that its bound lies below the evidence by about half a nat per latent dimension.

    Args:
        dim: elements of x.
        latent_dim: dimensions of z.
        seed: of weights and data.
        num_data: number of examples.
        dtype: of everything.
    Returns:
        model, guide, and x of shape (num_data, dim).
    Example:
        >>> model, guide, x = ppca(dim=8, latent_dim=2, seed=0)
        >>> model.log_evidence(x).shape
        torch.Size([64])
    """
    generator = Generator().manual_seed(seed)
    weight = torch.randn(dim, latent_dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(dim, generator=generator, dtype=torch.float64)
    model = LinearGaussian(weight.to(dtype), bias.to(dtype), scale=0.7)
    x = model.sample(num_data, generator=generator).x
    exact = model.posterior(torch.zeros(1, dim, dtype=torch.float64))
    covariance = exact.covariance_matrix[0].detach()
    deviation = covariance.diagonal().sqrt()
    gain = covariance @ model.weight.detach().double().T / model.noise_scale**2
    shift = -gain @ model.bias.detach().double() + 0.7 * deviation
    rows_of_bias = torch.cat([shift, 2 * deviation.log() + math.log(2)])
    network = _affine_network(torch.cat([gain, torch.zeros_like(gain)]), rows_of_bias, (2, latent_dim))
    return model, DiagonalNormal(network.to(dtype), latent_dim), x


class LogGamma(Conditional):
    r"""p(z) of z = log λ, λ ~ Gamma(a, b): :math:`\log p(z) = a \log b - \log \Gamma(a) + a z - b e^z`.

    Args:
        concentration: a > 0.
        rate: b > 0.
    Example:
        >>> LogGamma(1.0, 1.0)(None).log_prob(torch.zeros(1))
        tensor(-1.)
    """

    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: float, rate: float) -> None:
        super().__init__()
        self.register_buffer("concentration", torch.tensor([float(concentration)]))
        self.register_buffer("rate", torch.tensor([float(rate)]))

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        gamma = Gamma(self.concentration, self.rate, validate_args=False)
        to_log: list[Transform] = [ExpTransform().inv]
        return Independent(TransformedDistribution(gamma, to_log, validate_args=False), 1, validate_args=False)


class PoissonGamma(LatentModel):
    """D Poisson counts that share one rate, with a gamma prior on it.

    Args:
        dim: D.
        concentration: a > 0.
        rate: b > 0.
    Reference:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.6.
    Example:
        >>> model = PoissonGamma(1, concentration=1.0, rate=1.0)  # a geometric law: p(0) = 1/2
        >>> model.log_evidence(torch.zeros(1, 1)).exp()
        tensor([0.5000], dtype=torch.float64)
    """

    def __init__(self, dim: int, concentration: float = 3.0, rate: float = 0.5) -> None:
        network = _affine_network(torch.ones(dim, 1), torch.zeros(dim), (1, dim))  # log λ = z, for every element
        super().__init__(LogGamma(concentration, rate), Poisson(network, (dim,)))
        self.shape_and_rate = float(concentration), float(rate)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), exactly; x of shape (batch, dim), nats of shape (batch,), float64."""
        a, b = self.shape_and_rate
        total, dim = x.double().sum(-1), x.shape[-1]
        constant = a * math.log(b) - math.lgamma(a)
        gammas = torch.lgamma(a + total) - torch.lgamma(x.double() + 1).sum(-1)
        return constant + gammas - (a + total) * math.log(b + dim)

    def rate_posterior(self, x: Tensor) -> Gamma:
        """p(λ | x), exactly; batch shape (batch,)."""
        a, b = self.shape_and_rate
        return Gamma(a + x.double().sum(-1), torch.full((len(x),), b + x.shape[-1], dtype=torch.float64))


@torch.no_grad()
def quadrature_log_evidence(
    model: LatentModel,
    x: Tensor,
    *,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    points: int = 401,
    limit: float = 8.0,
) -> Tensor:
    r"""log p(x) by integration on a grid, for one or two latent dimensions and any prior and likelihood.

    .. math:: \log p(x) \approx \log \sum_i h^D \, p(x, z_i), \qquad z_i \in \{-\ell, -\ell + h, \ldots, \ell\}^D

    The sum converges faster than any power of the spacing h while the integrand is smooth and vanishes at the ends.

    Args:
        model: p(x, z); it is copied to float64 and evaluation mode.
        x: data, shape (batch, \*event).
        context: covariates, shape (batch, context_dim).
        mask: True where observed, shape (batch, \*event).
        points: of the grid, along each latent dimension.
        limit: :math:`\ell`, where the grid ends.
    Returns:
        Nats, float64, shape (batch,).
    Raises:
        ElbowroomError: more than two latent dimensions.
    Example:
        >>> model, _, x = ppca(dim=4, latent_dim=1, seed=0)
        >>> bool(torch.allclose(quadrature_log_evidence(model, x), model.log_evidence(x)))
        True
    """
    model = copy.deepcopy(model).double().eval()
    x = x.double() if x.is_floating_point() else x
    context = None if context is None else context.double()
    (latent_dim,) = model.prior(None, context).event_shape
    if latent_dim > 2:
        raise ElbowroomError(
            f"Quadrature was asked for {latent_dim} latent dimensions, but a grid is possible for 1 or 2 only.",
            "Use importance_estimate or annealed importance sampling.",
        )
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64, device=x.device)
    grid = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, 1, latent_dim)
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    for part in chunks(len(grid), max(1, 2**22 // max(1, x.numel()))):
        z = grid[part] if context is None else grid[part].expand(-1, len(x), -1)
        total = torch.logaddexp(total, model.log_joint(x, z, context=context, mask=mask).logsumexp(0))
    cell: float = latent_dim * math.log(2 * limit / (points - 1))
    return total + cell
