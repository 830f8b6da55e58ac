r"""Jumps between modes: after each transition of a kernel, an independent proposal that is accepted or not.

Trajectories follow the density, and between two modes with little density between them they find no way: each chain
stays where it began, and the share of draws about a mode says nothing about its probability. A proposal that does not
depend on where the chain is crosses any gap. By the rule of Metropolis and Hastings, with acceptance

.. math:: \alpha = \min\Big(1, \frac{p(z') \, q(z)}{p(z) \, q(z')}\Big), \qquad z' \sim q,

the target stays invariant, whatever q is, as long as it is fixed. With heavy enough tails and a component about each
mode, a chain visits them in proportion to their probability.

Reference:
    Tierney (1994), Markov chains for exploring posterior distributions, section 2.3.3 (independence chains).
    Pompe, Holmes & Łatuszyński (2020), A framework for adaptive MCMC targeting multimodal distributions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.samplers.kernel import Info, Kernel, State, Tuning
from elbowroom.samplers.target import Target

__all__ = ["Jumps"]


@dataclass(frozen=True)
class Jumps:
    """A kernel, with a jump after each of its transitions; the acceptance that it reports is the kernel's own.

    Args:
        kernel: the transition.
        draw: ``draw((replicas,), generator=…)``, positions from q of shape (replicas, data, dim).
        log_prob: log q of such positions, shape (replicas, data).
    Example:
        >>> from elbowroom.samplers import HMC, Density, Metric, Tuning, init, sample
        >>> apart = Density(lambda z: torch.logaddexp(*(-0.5 * (z.squeeze(-1) - m).square() for m in (-20.0, 20.0))))
        >>> wide = torch.distributions.Normal(torch.zeros(1, 1), 20.0)
        >>> def draw(shape, generator): return 20 * torch.randn(*shape, 1, 1, generator=generator)
        >>> jumps = Jumps(HMC(2), draw, lambda z: wide.log_prob(z).sum(-1))
        >>> z, tuning = torch.full((4, 1, 1), 20.0), Tuning(torch.ones(1), Metric.identity(torch.zeros(4, 1, 1)))
        >>> generator = torch.Generator().manual_seed(0)
        >>> drawn = [
        ...     sample(kernel, apart, init(apart, z), tuning, draws=400, generator=generator).z
        ...     for kernel in (HMC(2), jumps)
        ... ]
        >>> there, both = (float((z > 0).float().mean()) for z in drawn)
        >>> there, 0.3 < both < 0.7
        (1.0, True)
    """

    kernel: Kernel
    draw: Callable[..., Tensor]
    log_prob: Callable[[Tensor], Tensor]

    @property
    def name(self) -> str:
        """That of the kernel."""
        return self.kernel.name

    @property
    def max_step_size(self) -> float:
        """That of the kernel."""
        return self.kernel.max_step_size

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain, and a jump.

        Args:
            target: what to draw from.
            state: where the chains are; made by :func:`~elbowroom.samplers.kernel.init` for this very target.
            tuning: step sizes and metric of the kernel.
            generator: the source of randomness.
        """
        state, info = self.kernel.step(target, state, tuning, generator=generator)
        z = self.draw(state.z.shape[:1], generator=generator).to(state.z)
        log_density, gradient = target.evaluate(z)
        uniform = torch.rand(log_density.shape, generator=generator, dtype=z.dtype, device=z.device)
        log_ratio = log_density - state.log_density + self.log_prob(state.z) - self.log_prob(z)
        jumped = (uniform.log() < log_ratio) & gradient.isfinite().all(-1)  # of NaN it is not true
        energy = torch.where(jumped, info.energy + state.log_density - log_density, info.energy)
        state = State(
            torch.where(jumped.unsqueeze(-1), z, state.z),
            torch.where(jumped, log_density, state.log_density),
            torch.where(jumped.unsqueeze(-1), gradient, state.gradient),
        )
        return state, info._replace(energy=energy, num_gradients=info.num_gradients + 1)
