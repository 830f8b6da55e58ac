"""Normal distributions of a batch of examples, by their means and factors of their covariances."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from elbowroom.errors import ElbowroomError

__all__ = ["Normals", "inverse_of", "is_normal", "normals_of"]


class Normals(NamedTuple):
    """N(m, C Cᵀ) for each example; C is lower triangular with a positive diagonal, and diagonal in the diagonal family.

    Example:
        >>> q = Normals(torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]))
        >>> q.projected("diagonal").root[0].diagonal().square()
        tensor([0.5000, 1.0000])
    """

    loc: Tensor  #: m, (n, latent)
    root: Tensor  #: C, (n, latent, latent)

    def draws(self, noise: Tensor) -> Tensor:
        """m + C ε for ε of shape (draws, n, latent)."""
        return self.loc + torch.einsum("nij,knj->kni", self.root, noise)

    def entropy(self) -> Tensor:
        """Nats, float64, shape (n,)."""
        log_volume = self.root.diagonal(dim1=-2, dim2=-1).double().log().sum(-1)
        return log_volume + self.loc.shape[-1] * (1 + math.log(2 * math.pi)) / 2

    def where(self, chosen: Tensor, other: Normals) -> Normals:
        """These normals where ``chosen`` is True, the others elsewhere."""
        return Normals(
            torch.where(chosen[:, None], self.loc, other.loc),
            torch.where(chosen[:, None, None], self.root, other.root),
        )

    def rows(self, rows: Tensor) -> Normals:
        """The normals of some of the examples."""
        return Normals(self.loc[rows], self.root[rows])

    def projected(self, family: str) -> Normals:
        r"""The member r of a family, "full" or "diagonal", with the least :math:`\mathrm{KL}(r \,\|\, q)`.

        The diagonal one has the same mean, and the diagonal of the precision (C Cᵀ)⁻¹ as its precisions.
        """
        if family == "full":
            return self
        return Normals(self.loc, torch.diag_embed(inverse_of(self.root).square().sum(-2).rsqrt()))

    def distribution(self, family: str) -> Distribution:
        """As a distribution of torch."""
        if family == "full":
            return MultivariateNormal(self.loc, scale_tril=self.root, validate_args=False)
        scale = self.root.diagonal(dim1=-2, dim2=-1)
        return Independent(Normal(self.loc, scale, validate_args=False), 1, validate_args=False)


def normals_of(q: Distribution) -> Normals:
    """A guide's normal distribution, by mean and factor.

    Args:
        q: batch shape (n,), event shape (latent,).
    Raises:
        ElbowroomError: it is not normal.
    """
    match q:
        case MultivariateNormal():
            return Normals(q.loc, q.scale_tril)
        case Independent(base_dist=Normal() as base):
            return Normals(base.loc, torch.diag_embed(base.scale))
    raise ElbowroomError(
        f"The guide's q(z | x) is a {type(q).__name__}, but only a normal one can be compared with the optimal normal.",
        "Evaluate with --methods room, which compares any guide with the best diagonal normal.",
    )


def is_normal(q: Distribution) -> bool:
    """Whether :func:`normals_of` takes q.

    Example:
        >>> is_normal(Independent(Normal(torch.zeros(1, 2), 1.0), 1))
        True
    """
    return isinstance(q, MultivariateNormal) or (isinstance(q, Independent) and isinstance(q.base_dist, Normal))


def inverse_of(triangle: Tensor) -> Tensor:
    """C⁻¹ of lower triangular matrices, shape (n, latent, latent)."""
    identity = torch.eye(triangle.shape[-1], dtype=triangle.dtype, device=triangle.device).expand_as(triangle)
    inverse: Tensor = torch.linalg.solve_triangular(triangle, identity, upper=False)
    return inverse
