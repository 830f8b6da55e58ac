r"""Targets: the log densities that kernels draw from, many at a time.

A target holds N unnormalised log densities over D dimensions, one for each example, and evaluates them at R points
each: positions of shape (replicas, data, dim) give log densities of shape (replicas, data). Replicas of one example
share a density, different examples do not. A kernel uses three methods of a target:

- ``log_density(z)``: the value, on which acceptance rests;
- ``gradient(z)``: what moves a trajectory. It may be an approximation, in a lower precision say: a leapfrog step
  with *any* deterministic function of z in the gradient's place is reversible and preserves volume, so that draws
  stay exact and only the acceptance falls;
- ``select(index)``: the target of some of the examples, repeated where the index repeats them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.numerics import chunks

__all__ = ["Density", "Target"]


class Target(ABC):
    """Log densities of shape (replicas, data) over positions of shape (replicas, data, dim)."""

    @abstractmethod
    def log_density(self, z: Tensor) -> Tensor:
        """Unnormalised log densities in nats, shape (replicas, data); no gradient is recorded."""

    @abstractmethod
    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of the log density, or an approximation that depends on z alone; the shape of z."""

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`log_density` and :meth:`gradient` of the same z, sharing the common work."""
        return self.log_density(z), self.gradient(z)

    @abstractmethod
    def select(self, index: Tensor) -> Target:
        """The target of the examples at these positions, int64, shape (m,)."""


class Density(Target):
    r"""A target from a function, differentiated by autograd.

    Args:
        function: ``function(z, *data)``, of shape (replicas, data), for z of shape (replicas, data, dim).
        data: what the function needs of each example; the first axis of every tensor counts examples. None, if all
            examples share one density.
        chunk_points: how many z (replicas times examples) are evaluated at once, to limit memory; all unless given.
    Raises:
        ElbowroomError: on use, where the function returns another shape, or nothing that depends on z.
    Example:
        >>> centres = torch.tensor([[0.0], [10.0]])
        >>> target = Density(lambda z, centre: -0.5 * (z - centre).square().sum(-1), centres)
        >>> target.gradient(torch.ones(1, 2, 1)).flatten()
        tensor([-1.,  9.])
    """

    def __init__(self, function: Callable[..., Tensor], *data: Tensor, chunk_points: int | None = None) -> None:
        self.function = function
        self.data = data
        self.chunk_points = chunk_points

    @torch.no_grad()
    def log_density(self, z: Tensor) -> Tensor:
        return torch.cat([self._value(z[:, rows], rows) for rows in self._chunks(z)], 1)

    def gradient(self, z: Tensor) -> Tensor:
        return self.evaluate(z)[1]

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = zip(*(self._evaluate(z[:, rows], rows) for rows in self._chunks(z)), strict=True)
        return torch.cat(values, 1), torch.cat(gradients, 1)

    @torch.enable_grad()
    def _evaluate(self, z: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        log_density = self._value(leaf, rows)
        # examples are independent, so the gradient of the sum is that of each; what requires one may be
        # a model's weights, and not z
        gradient = None
        if log_density.requires_grad:
            (gradient,) = torch.autograd.grad(log_density.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise ElbowroomError(
                "The log density has no gradient with respect to z, but a sampler needs it.",
                "Compute it from z with differentiable torch operations; .detach(), .item() and NumPy cut the graph.",
            )
        return log_density.detach(), gradient

    def select(self, index: Tensor) -> Density:
        return Density(self.function, *(tensor[index] for tensor in self.data), chunk_points=self.chunk_points)

    def _chunks(self, z: Tensor) -> Iterator[slice]:
        if self.chunk_points is None:
            return iter([slice(None)])
        return chunks(z.shape[1], max(1, self.chunk_points // len(z)))

    def _value(self, z: Tensor, rows: slice) -> Tensor:
        log_density = self.function(z, *(tensor[rows] for tensor in self.data))
        if log_density.shape != z.shape[:-1]:
            raise ElbowroomError(
                f"The log density has shape {tuple(log_density.shape)} for z of shape {tuple(z.shape)}, but should "
                f"have shape {tuple(z.shape[:-1])}: one value for each replica and example.",
                "Sum over the last axis of z only.",
            )
        return log_density
