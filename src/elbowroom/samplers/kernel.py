r"""The protocol of a Markov kernel: ``state -> (state, info)``, for many chains of many targets at once.

A kernel leaves its target invariant whatever its tuning, as long as the tuning does not depend on the states that
are kept. So the tuning is an argument: a warm-up may change it between steps, and the draws that are kept are made
with one that is frozen. The target is an argument too. After a change of it (a temperature, a model's weights)
call :func:`init` for a new state, because a state caches the log density and the gradient.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Target

__all__ = ["DIVERGENCE", "Info", "Kernel", "State", "Tuning", "init"]

DIVERGENCE = 1000.0
"""A trajectory whose energy rises by more than this, in nats, has left the neighbourhood of the true one."""


class State(NamedTuple):
    """The state of the chains: positions, with log density and gradient there.

    Attributes:
        z: positions, shape (replicas, data, dim).
        log_density: of the target at z, nats, shape (replicas, data).
        gradient: the target's at z, the shape of z.
    """

    z: Tensor
    log_density: Tensor
    gradient: Tensor


class Info(NamedTuple):
    """Statistics of a transition; every tensor has shape (replicas, data).

    Attributes:
        acceptance: the probability of acceptance; for NUTS the average of min(1, exp(−ΔH)) over the trajectory.
        energy: H = −log density + |r|²/2 of the state that was kept, with its momentum; nats.
        divergent: whether the energy rose by more than ``DIVERGENCE`` or was not a number.
        num_gradients: evaluations of the target's gradient that the transition took.
    """

    acceptance: Tensor
    energy: Tensor
    divergent: Tensor
    num_gradients: Tensor


class Tuning(NamedTuple):
    """The tuning parameters of a kernel: step sizes and metrics.

    Attributes:
        step_size: ε, in whitened coordinates, shape (data,).
        metric: z = m + C w for each example.
    """

    step_size: Tensor
    metric: Metric

    def select(self, index: Tensor) -> Tuning:
        """The tuning of the examples at these positions, int64, shape (m,)."""
        return Tuning(self.step_size[index], self.metric.select(index))


class Kernel(Protocol):
    """A transition that leaves the target invariant."""

    @property
    def name(self) -> str:
        """As in configurations and messages."""

    @property
    def max_step_size(self) -> float:
        """The longest ε that a warm-up should try."""

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain.

        Args:
            target: what to draw from.
            state: where the chains are; made by :func:`init` for this very target.
            tuning: step sizes and metric.
            generator: the source of randomness.
        """


def init(target: Target, z: Tensor) -> State:
    """The state at z, with log density and gradient; needed at the start and after every change of the target.

    Args:
        target: what to draw from.
        z: positions, shape (replicas, data, dim).
    Raises:
        ElbowroomError: z of another number of axes, or empty; a log density or gradient of another shape, or not
            finite, at z.
    """
    if z.dim() != 3 or not z.numel():
        raise ElbowroomError(
            f"Chains start at positions of shape {tuple(z.shape)}, but the shape should be (replicas, data, dim).",
            "Give one position for each replica of each example.",
        )
    z = z.detach()
    log_density, gradient = target.evaluate(z)
    if log_density.shape != z.shape[:-1] or gradient.shape != z.shape:
        raise ElbowroomError(
            f"At positions of shape {tuple(z.shape)} the target has a log density of shape {tuple(log_density.shape)} "
            f"and a gradient of shape {tuple(gradient.shape)}, but should have {tuple(z.shape[:-1])} and "
            f"{tuple(z.shape)}.",
            "Sum over the last axis of z only.",
        )
    bad = ~(torch.isfinite(log_density) & torch.isfinite(gradient).all(-1)).all(0)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        values = log_density[:, first].tolist()
        raise ElbowroomError(
            f"The log density or its gradient is not finite at the starting points of {int(bad.sum())} of {len(bad)} "
            f"examples (example {first}: {', '.join(f'{value:.4g}' for value in values[:4])}).",
            "Start where the density is positive; check the data for NaN and the model's weights for infinities.",
        )
    return State(z, log_density, gradient)
