r"""Metrics: for each example a linear map to coordinates in which its density has unit scale in every direction.

Trajectories run in whitened coordinates w, with momenta r ~ N(0, I):

.. math:: z = m + C w, \qquad \Sigma = C C^\top, \qquad \nabla_w \log p = C^\top \nabla_z \log p

Where Σ is close to the density's covariance, all directions of w have a scale of about 1. This is Hamiltonian dynamics
with mass matrix Σ⁻¹; any invertible C, and any centre m, leaves draws exact. C is kept as standard deviations, shape
(data, dim), or as a matrix, shape (data, dim, dim).

Reference:
    Neal (2011), MCMC using Hamiltonian dynamics, section 5.4.1, arXiv:1206.1901.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError

__all__ = ["Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """z = m + C w for each example.

    Attributes:
        center: m, shape (data, dim).
        factor: C: standard deviations of shape (data, dim), or triangular matrices of shape (data, dim, dim).
        upper: whether matrices are upper triangular; lower otherwise.
    """

    center: Tensor
    factor: Tensor
    upper: bool = False

    @classmethod
    def identity(cls, z: Tensor) -> Metric:
        """w = z, for positions of shape (replicas, data, dim)."""
        return cls(torch.zeros_like(z[0]), torch.ones_like(z[0]))

    @classmethod
    def diagonal(cls, stddev: Tensor, center: Tensor | None = None) -> Metric:
        """C = diag(σ).

        Args:
            stddev: σ, shape (data, dim).
            center: m, shape (data, dim); 0 unless given.
        Raises:
            ElbowroomError: a σ that is not positive and finite.
        """
        bad = ~(torch.isfinite(stddev) & (stddev > 0)).all(-1)
        if bool(bad.any()):
            raise _unfit("standard deviations", bad, "positive and finite")
        return cls(torch.zeros_like(stddev) if center is None else center, stddev)

    @classmethod
    def dense(cls, covariance: Tensor, center: Tensor | None = None) -> Metric:
        """C = the Cholesky factor of Σ.

        Args:
            covariance: Σ, shape (data, dim, dim).
            center: m, shape (data, dim); 0 unless given.
        Raises:
            ElbowroomError: a Σ that is not positive definite.
        """
        center = torch.zeros_like(covariance[..., 0]) if center is None else center
        return cls(center, _cholesky(covariance, "covariances").to(center.dtype))

    @classmethod
    def from_precision(cls, precision: Tensor, center: Tensor | None = None) -> Metric:
        r"""Σ = H⁻¹: C = L⁻ᵀ, where L Lᵀ = H.

        Args:
            precision: H, shape (data, dim, dim).
            center: m, shape (data, dim); 0 unless given.
        Raises:
            ElbowroomError: an H that is not positive definite.
        """
        center = torch.zeros_like(precision[..., 0]) if center is None else center
        lower = _cholesky(precision, "precisions")
        identity = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        factor: Tensor = torch.linalg.solve_triangular(lower.mT, identity, upper=True)
        return cls(center, factor.to(center.dtype), upper=True)

    @property
    def is_dense(self) -> bool:
        """Whether C is a matrix."""
        return self.factor.dim() == self.center.dim() + 1

    def to_z(self, w: Tensor) -> Tensor:
        """m + C w, for w of shape (replicas, data, dim)."""
        return self.center + self.spread(w)

    def to_w(self, z: Tensor) -> Tensor:
        """C⁻¹ (z − m), for z of shape (replicas, data, dim)."""
        away = z - self.center
        if not self.is_dense:
            return away / self.factor
        columns: Tensor = torch.linalg.solve_triangular(self.factor, away.movedim(0, -1), upper=self.upper)
        return columns.movedim(-1, 0)

    def spread(self, w: Tensor) -> Tensor:
        """C w, for w of shape (replicas, data, dim)."""
        if not self.is_dense:
            return self.factor * w
        return (w.transpose(0, 1) @ self.factor.mT).transpose(0, 1)

    def pull(self, gradient: Tensor) -> Tensor:
        """Cᵀ g, the gradient with respect to w; g of shape (replicas, data, dim)."""
        if not self.is_dense:
            return self.factor * gradient
        return (gradient.transpose(0, 1) @ self.factor).transpose(0, 1)

    def log_scale(self) -> Tensor:
        """log |det C| / dim, the geometric mean of the lengths that a step of 1 in w has in z; shape (data,)."""
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1) if self.is_dense else self.factor
        return diagonal.abs().log().mean(-1)

    def covariance(self) -> Tensor:
        """Σ, shape (data, dim, dim)."""
        return self.factor @ self.factor.mT if self.is_dense else torch.diag_embed(self.factor.square())

    def select(self, index: Tensor) -> Metric:
        """The metric of the examples at these positions, int64, shape (m,)."""
        return Metric(self.center[index], self.factor[index], self.upper)


def _cholesky(matrices: Tensor, what: str) -> Tensor:
    """In float64: float32 rounds a matrix of condition number 1e7 to an indefinite one, but can hold its factor."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrices.double())
    bad = (failed != 0) | ~torch.isfinite(factor).flatten(-2).all(-1)
    if bool(bad.any()):
        raise _unfit(what, bad, "positive definite")
    return factor


def _unfit(what: str, bad: Tensor, wanted: str) -> ElbowroomError:
    first = int(bad.nonzero()[0, 0]) if bad.dim() else 0
    return ElbowroomError(
        f"A metric was given {what} that are not {wanted} for {int(bad.sum())} of {bad.numel()} examples "
        f"(the first is example {first}).",
        "Add a multiple of the identity matrix, or use Metric.identity.",
    )
