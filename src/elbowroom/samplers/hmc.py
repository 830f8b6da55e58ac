r"""Hamiltonian Monte Carlo (HMC) for many chains in parallel, and two baselines: MALA and the random walk.

.. math:: r \sim N(0, I), \qquad (w', r') = \text{L steps of size } ε \text{ from } (w, r), \qquad
    \text{accept with probability } \min(1, e^{H(w, r) - H(w', r')})

All chains take the same number of steps, so that a gradient is one batched evaluation and no chain waits; step
sizes differ between examples. Each chain's step is jittered in every transition, independently of where it is, so that
no trajectory length resonates with a period of the target.

Reference:
    Duane, Kennedy, Pendleton & Roweth (1987), Hybrid Monte Carlo. Neal (2011), MCMC using Hamiltonian dynamics,
    arXiv:1206.1901 (jitter: section 4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.samplers.integrators import INTEGRATORS, LONGEST_STEP, Integrator, Point, force, trajectory
from elbowroom.samplers.kernel import DIVERGENCE, Info, State, Tuning
from elbowroom.samplers.target import Target

__all__ = ["HMC", "RandomWalk", "mala"]

_LONGEST_TURN = 0.7 * math.pi
"""ε L of a rotation: π/2 forgets a normal target's position; π would lead to its mirror image, of the same density."""


@dataclass(frozen=True, slots=True)
class HMC:
    """Hamiltonian Monte Carlo.

    Args:
        num_steps: L, steps of a trajectory; a transition evaluates L gradients.
        integrator: "leapfrog", or "rotation" where the metric is a Laplace approximation.
        jitter: j in [0, 1): each chain's step is ε u with u uniform on [1 − j, 1 + j].
    Raises:
        ElbowroomError: L below 1; an unknown integrator; a jitter out of range.
    Example:
        >>> from elbowroom.samplers.kernel import init
        >>> from elbowroom.samplers.metric import Metric
        >>> from elbowroom.samplers.target import Density
        >>> normal = Density(lambda z: -0.5 * z.square().sum(-1))
        >>> state = init(normal, torch.zeros(2, 3, 5))  # 2 replicas of 3 examples in 5 dimensions
        >>> tuning = Tuning(torch.full((3,), 0.5), Metric.identity(state.z))
        >>> state, info = HMC(num_steps=3).step(normal, state, tuning, generator=torch.Generator().manual_seed(0))
        >>> info.acceptance.shape, info.num_gradients.unique()
        (torch.Size([2, 3]), tensor([3]))
    """

    num_steps: int = 5
    integrator: Integrator = "leapfrog"
    jitter: float = 0.2
    name: ClassVar[str] = "hmc"

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ElbowroomError(f"A trajectory of {self.num_steps} steps was asked for.", "Give num_steps=1 or more.")
        if self.integrator not in INTEGRATORS:
            raise ElbowroomError(
                f"There is no integrator '{self.integrator}'.", did_you_mean(str(self.integrator), INTEGRATORS)
            )
        if not 0 <= self.jitter < 1:
            raise ElbowroomError(f"The jitter is {self.jitter}, but should be in [0, 1).", "0.2 suits most targets.")

    @property
    def max_step_size(self) -> float:
        """The longest ε that a warm-up should try; a ``rotation`` must not return to its starting point."""
        longest = LONGEST_STEP[self.integrator]
        return longest if math.isinf(longest) else min(longest, _LONGEST_TURN / self.num_steps)

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain; see :class:`elbowroom.samplers.kernel.Kernel`."""
        z, metric = state.z, tuning.metric
        noise = _Noise(z, generator)
        momentum, jitter, threshold = noise.normal(), 1 + self.jitter * (2 * noise.uniform() - 1), noise.uniform()
        step_size = (tuning.step_size * jitter).unsqueeze(-1)  # (replicas, data, 1)
        w = metric.to_w(z)
        start = Point(w, momentum, force(self.integrator, metric, state.gradient, w))
        end, proposal, log_density, gradient = trajectory(
            self.integrator, target, metric, start, step_size, self.num_steps
        )
        before, after = _energy(state.log_density, momentum), _energy(log_density, end.r)
        state, info = _accept(state, State(proposal, log_density, gradient), before, after, threshold)
        return state, info._replace(num_gradients=torch.full_like(info.divergent, self.num_steps, dtype=torch.int64))


def mala(**settings: float | Integrator) -> HMC:
    """The Metropolis-adjusted Langevin algorithm, which is HMC of a single step.

    Reference:
        Roberts & Tweedie (1996), Exponential convergence of Langevin distributions.
    """
    return HMC(num_steps=1, **settings)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class RandomWalk:
    r"""Random-walk Metropolis, :math:`w' = w + ε ξ`, ξ ~ N(0, I): the baseline that uses no gradient.

    Reference:
        Metropolis et al. (1953), Equation of state calculations by fast computing machines.
    """

    name: ClassVar[str] = "random-walk"
    max_step_size: ClassVar[float] = math.inf

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain; the gradient in the state is not updated and has no meaning."""
        noise = _Noise(state.z, generator)
        proposal = state.z + tuning.metric.spread(tuning.step_size.unsqueeze(-1) * noise.normal())
        there = State(proposal, target.log_density(proposal), state.gradient)
        return _accept(state, there, -state.log_density, -there.log_density, noise.uniform())


class _Noise:
    """Normal draws in the shape of z, uniform ones in that of its log density."""

    def __init__(self, z: Tensor, generator: torch.Generator | None) -> None:
        self._z, self._generator = z, generator

    def normal(self) -> Tensor:
        z = self._z
        return torch.randn(z.shape, generator=self._generator, dtype=z.dtype, device=z.device)

    def uniform(self) -> Tensor:
        z = self._z
        return torch.rand(z.shape[:-1], generator=self._generator, dtype=z.dtype, device=z.device)


def _energy(log_density: Tensor, momentum: Tensor) -> Tensor:
    return 0.5 * momentum.square().sum(-1) - log_density


def _accept(state: State, proposal: State, before: Tensor, after: Tensor, threshold: Tensor) -> tuple[State, Info]:
    """The Metropolis test: the proposal where it is accepted, otherwise the previous state."""
    rise = torch.where(torch.isfinite(after), after - before, math.inf)  # no number is no place to go
    acceptance = torch.exp(-rise.clamp(min=0))
    accepted = threshold < acceptance
    where = accepted.unsqueeze(-1)
    kept = State(
        torch.where(where, proposal.z, state.z),
        torch.where(accepted, proposal.log_density, state.log_density),
        torch.where(where, proposal.gradient, state.gradient),
    )
    energy = torch.where(accepted, after, before)
    return kept, Info(acceptance, energy, rise > DIVERGENCE, torch.zeros_like(accepted, dtype=torch.int64))
