r"""A normal distribution and kernels around it, fitted to weighted draws: half the mass of each.

.. math:: r(z) = \tfrac12 N(z; m, S) + \tfrac1{2M} \sum_{j=1}^M
    N\big(z; m + \sqrt{1 - h^2} \, (z_j - m), \, h^2 S\big)

m and S are mean and covariance of the draws, and M of them, :math:`z_j`, are chosen by their weights. The kernels are
drawn towards m, so that their mixture has the covariance S, too.

All components have the same axes. In units of S = C Cᵀ, :math:`u = C^{-1} (z - m)`, a density costs one triangular
system and one product of matrices.

Reference:
    West (1993), Approximating posterior distributions by mixtures, JRSS B 55.
    Liu & West (2001), Combined parameter and state estimation in simulation-based filtering: the shrinkage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from elbowroom.model import noise
from elbowroom.model.draws import draw
from elbowroom.model.noise import NoiseSource

__all__ = ["NormalKernels", "fitted_kernels"]

_OF_DIAGONAL = 1e-6  # that is added to a covariance, so that one of few draws has full rank


class NormalKernels(Distribution):
    """A normal and kernels of the same axes, batch shape (batch,), event shape (latent,).

    Args:
        mean: m, shape (batch, latent).
        factor: C, lower triangular, shape (batch, latent, latent).
        centres: of the kernels in units of C, from m on, shape (batch, M, latent).
        width: h, of the kernels in the same units.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, mean: Tensor, factor: Tensor, centres: Tensor, width: float) -> None:
        self._mean, self._factor, self._centres, self._width = mean, factor, centres, width
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    @property
    def widest(self) -> int:
        """Elements of the largest tensor that one draw for one example takes."""
        return max(self._centres.shape[1:])

    def log_prob(self, value: Tensor) -> Tensor:
        """log r(z), nats: shape (\\*samples, batch, latent) gives (\\*samples, batch)."""
        lead, dim = value.shape[:-2], value.shape[-1]
        z = (value - self._mean).reshape(-1, *value.shape[-2:]).permute(1, 2, 0)  # (batch, latent, samples)
        u = torch.linalg.solve_triangular(self._factor, z, upper=False)
        square = u.square().sum(1)  # (batch, samples)
        constant = (
            -0.5 * dim * math.log(2 * math.pi) - self._factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - math.log(2)
        )
        distance = square.unsqueeze(1) - 2 * self._centres @ u + self._centres.square().sum(-1, keepdim=True)
        kernels = (-0.5 / self._width**2 * distance).logsumexp(1) - dim * math.log(self._width)
        kernels = kernels - math.log(self._centres.shape[1])
        found = torch.logaddexp(-0.5 * square, kernels) + constant.unsqueeze(-1)
        return found.T.reshape(*lead, value.shape[-2])

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws, shape (\\*samples, batch, latent)."""
        number, (batch, kernels, dim) = math.prod(sample_shape), self._centres.shape
        epsilon = noise.normal((number, batch, dim), self._mean, generator)
        which = noise.category(self._mean.new_zeros(batch, kernels), (number, batch), generator)
        of_normal = noise.uniform((number, batch, 1), self._mean, generator) < 0.5
        places = which.T.unsqueeze(-1).expand(-1, -1, dim)  # (batch, samples, latent)
        centres = self._centres.gather(1, places).transpose(0, 1)
        u = torch.where(of_normal, epsilon, centres + self._width * epsilon)
        z = self._mean + (self._factor @ u.unsqueeze(-1)).squeeze(-1)
        return z.reshape(*sample_shape, batch, dim)


@draw.register
def _(distribution: NormalKernels, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    return distribution.sample(sample_shape, generator)


def fitted_kernels(
    z: Tensor, log_weights: Tensor, kernels: int, *, wider: float = 1.0, generator: NoiseSource | None = None
) -> NormalKernels:
    r"""The normal and kernels that fit weighted draws of each example.

    h is that of Silverman's rule, :math:`(4 / ((d + 2) M))^{1 / (d + 4)}`.

    Args:
        z: draws, shape (n, batch, latent).
        log_weights: float64, shape (n, batch).
        kernels: M.
        wider: what deviations are multiplied by: too narrow a proposal costs more than too wide a one.
        generator: the source of randomness.
    Example:
        >>> z = torch.randn(1000, 1, 2, generator=torch.Generator().manual_seed(0))
        >>> found = fitted_kernels(z, torch.zeros(1000, 1), 32, generator=torch.Generator().manual_seed(1))
        >>> found.log_prob(torch.zeros(5, 1, 2)).shape
        torch.Size([5, 1])
    """
    values, weights = z.double(), log_weights.double().softmax(0)
    _, batch, dim = values.shape
    mean = torch.einsum("nb,nbd->bd", weights, values)
    centred = values - mean
    covariance = torch.einsum("nb,nbd,nbe->bde", weights, centred, centred)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(torch.float32).tiny)
    factor = wider * torch.linalg.cholesky(covariance + _OF_DIAGONAL * torch.diag_embed(diagonal))
    width = min(1.0, (4 / ((dim + 2) * kernels)) ** (1 / (dim + 4)))
    chosen = noise.category(log_weights.T, (kernels, batch), generator)  # (M, batch)
    at = centred.gather(0, chosen.unsqueeze(-1).expand(-1, -1, dim)).permute(1, 2, 0)  # (batch, latent, M)
    units = torch.linalg.solve_triangular(factor, math.sqrt(1 - width**2) * at, upper=False).mT
    return NormalKernels(mean.to(z), factor.to(z), units.to(z), width)
