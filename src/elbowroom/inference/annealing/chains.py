r"""Annealing chains: forward and reverse paths between a start and the posterior, their weights, pilot runs.

A forward chain starts at a draw of q₀ and is weighted at every temperature before it moves on:

.. math:: z_0 \sim q_0, \qquad z_t \sim \mathcal{T}_t(\cdot \,|\, z_{t-1}), \qquad
    w = \prod_{t=1}^T \frac{f_{\beta_t}(z_{t-1})}{f_{\beta_{t-1}}(z_{t-1})}, \qquad \mathbb{E}[w] = p(x)

A reverse chain starts at a draw of the posterior and makes the same transitions in the opposite order. Each transition
is reversible, :math:`f_\beta(z) \mathcal{T}(z' | z) = f_\beta(z') \mathcal{T}(z | z')`. So the law of a forward path is
that of a reverse one times p(x) / w, where w has the same formula, and :math:`\mathbb{E}[1/w] = 1/p(x)` for reverse
paths.

All this is exact only as long as no transition depends on where the weighted chains have been. So a *pilot run* finds
step sizes and temperatures with chains of its own and random numbers of its own; then they are frozen.

Reference:
    Neal (2001), Annealed importance sampling, arXiv:physics/9803008.
    Grosse, Ghahramani & Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo,
    arXiv:1511.02543.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from elbowroom.errors import NotFiniteError
from elbowroom.inference.annealing.tempering import Ends, TemperedTarget
from elbowroom.progress import Progress
from elbowroom.samplers.adaptation import initial_step_size, pooled_acceptance
from elbowroom.samplers.kernel import Kernel, Tuning
from elbowroom.samplers.metric import Metric

__all__ = ["Annealed", "AnnealingPath", "Pilot", "anneal", "anneal_back", "pilot", "pilot_transitions", "weighable"]

_LEAST_PILOT = 60  # transitions of a pilot run: a short schedule makes several at each temperature
_SETTLING = 20  # more transitions at the first temperature, to get from a first guess to a good step size
_ADAPTATION_RATE = 0.25  # change of log ε per unit of error in acceptance; g below


@dataclass(frozen=True, slots=True)
class AnnealingPath:
    """The way from the start to the posterior: everything that is fixed before a weighted chain is drawn.

    Attributes:
        betas: inverse temperatures 0 = β₀ < … < β_T = 1, shape (T + 1, data).
        step_sizes: ε of the transitions at β₁ … β_{T−1}, shape (T − 1, data).
        metric: that they are made in.
    """

    betas: Tensor
    step_sizes: Tensor
    metric: Metric

    def tuning(self, t: int) -> Tuning:
        """Of the transition at β_t, 1 ≤ t < T."""
        return Tuning(self.step_sizes[t - 1], self.metric)


class Annealed(NamedTuple):
    """Chains at the end of a path, with their weights.

    Attributes:
        z: where they were weighted last, shape (chains, data, dim).
        log_weights: log w, nats, float64, shape (chains, data).
        acceptance: average over chains and transitions, float64, shape (data,); NaN where there is no transition.
        num_gradients: of all chains of all examples together.
    """

    z: Tensor
    log_weights: Tensor
    acceptance: Tensor
    num_gradients: int


class Pilot(NamedTuple):
    """Step sizes that a pilot run found, and how fast the densities change.

    Attributes:
        step_sizes: ε at β₁ … β_{T−1}, shape (T − 1, data).
        spread: standard deviation of log p(x, z) − log q₀(z) over chains and transitions at each of these, nats, shape
            (T − 1, data): how fast the densities change with β.
        num_gradients: of all chains of all examples together.
    """

    step_sizes: Tensor
    spread: Tensor
    num_gradients: int


@torch.no_grad()
def pilot(
    bridge: TemperedTarget,
    betas: Tensor,
    z: Tensor,
    metric: Metric,
    *,
    kernel: Kernel,
    target_acceptance: float = 0.65,
    shared: bool = False,
    first_step: float | None = None,
    generator: Generator | None = None,
    announce: Progress | None = None,
) -> Pilot:
    r"""Find a step size for each example and temperature, with chains that are then thrown away.

    .. math:: \log ε \leftarrow \log ε + g (\alpha - \delta)

    after every transition, with the acceptance α (harmonic mean over chains), δ the one aimed at and a constant gain g,
    so that ε follows the densities as they narrow. A short schedule stays at each temperature for several transitions.

    Args:
        bridge: from the start to the posterior.
        betas: inverse temperatures, shape (T + 1, data), T ≥ 2.
        z: draws from the start, shape (chains, data, dim); not those that are to be weighted.
        metric: that the transitions are made in.
        kernel: the transition.
        target_acceptance: δ.
        shared: whether all examples have one ε, found by their average α; it can then be used for other examples.
        first_step: ε to begin with; unless given, found by leapfrogs, which need a continuous z.
        generator: the source of randomness; not the one of the weighted chains.
        announce: called after every transition.
    """
    transitions, longest = len(betas) - 2, math.log(min(kernel.max_step_size, 1e10))
    stay = math.ceil(_LEAST_PILOT / transitions)
    ends, spent = weighable(bridge.ends(z)), 0
    made, total = 0, pilot_transitions(transitions + 1)
    if first_step is None:
        step_size = initial_step_size(bridge.at(betas[1]), ends.state(betas[1]), metric, generator=generator)
    else:
        step_size = torch.full_like(betas[1], first_step)
    log_step = _shared(step_size.log().clamp(max=longest), shared)
    found, spread = [], []
    for t in range(1, transitions + 1):
        target, state = bridge.at(betas[t]), ends.state(betas[t])
        steps, slopes = [], []
        for _ in range(stay + (_SETTLING if t == 1 else 0)):
            steps.append(log_step)
            state, info = kernel.step(target, state, Tuning(log_step.exp(), metric), generator=generator)
            ends = target.ends_after(state, ends)
            slopes.append(ends.log_joint.double() - ends.log_start.double())
            short = target_acceptance - _shared(pooled_acceptance(info.acceptance), shared)
            log_step = (log_step - _ADAPTATION_RATE * short).clamp(max=longest)
            spent += int(info.num_gradients.sum())
            made += 1
            if announce is not None:
                announce("pilot run", made, total, info)
        found.append(torch.stack(steps[-stay:]).mean(0).exp())
        seen = torch.stack(slopes[-stay:]).flatten(0, 1)
        spread.append(torch.where(seen.isfinite(), seen, 0.0).std(0, correction=0))
    return Pilot(torch.stack(found), torch.stack(spread), spent)


def _shared(values: Tensor, shared: bool) -> Tensor:
    return values.mean().expand_as(values) if shared else values


def pilot_transitions(temperatures: int) -> int:
    """The number of transitions per chain in a pilot run of T temperatures."""
    transitions = temperatures - 1
    return transitions * math.ceil(_LEAST_PILOT / transitions) + _SETTLING if transitions else 0


@torch.no_grad()
def anneal(
    bridge: TemperedTarget,
    path: AnnealingPath,
    z: Tensor,
    *,
    kernel: Kernel,
    generator: Generator | None = None,
    announce: Progress | None = None,
) -> Annealed:
    r"""Run chains along a frozen path, from the start to the posterior, and compute their weights.

    Args:
        bridge: from the start to the posterior.
        path: temperatures and step sizes, found without these chains.
        z: draws from the start, shape (chains, data, dim).
        kernel: the transition.
        generator: the source of randomness.
        announce: called after every transition.
    Returns:
        Positions and weights; the average of exp(log w) has the expectation p(x).
    Raises:
        NotFiniteError: a density that is not a number at z.
    """
    return _walk(bridge, path, z, range(1, len(path.betas)), 1, kernel, generator, announce)


@torch.no_grad()
def anneal_back(
    bridge: TemperedTarget,
    path: AnnealingPath,
    z: Tensor,
    *,
    kernel: Kernel,
    generator: Generator | None = None,
    announce: Progress | None = None,
) -> Annealed:
    r"""Run chains along a frozen path from the posterior back to the start, and compute their weights.

    Args:
        bridge: from the start to the posterior.
        path: the path of the forward chains: the same β and ε, in the opposite order.
        z: *exact* draws of the posterior, shape (chains, data, dim): the z that x was simulated with. For real data
            there is none, and nothing bounds log p(x) from above.
        kernel: the transition; one that is reversible at a fixed tuning.
        generator: the source of randomness.
        announce: called after every transition.
    Returns:
        Positions and weights; the average of exp(−log w) has the expectation 1 / p(x).
    Raises:
        NotFiniteError: a density that is not a number at z.
    """
    return _walk(bridge, path, z, range(len(path.betas) - 1, 0, -1), 0, kernel, generator, announce)


def _walk(
    bridge: TemperedTarget,
    path: AnnealingPath,
    z: Tensor,
    order: range,
    here: int,
    kernel: Kernel,
    generator: Generator | None,
    announce: Progress | None,
) -> Annealed:
    """Update the weights at each interval from β_{t−1} to β_t in this order, and move in between.

    A forward chain that was weighted over interval t moves at its upper end, β_t, a reverse one at its lower, β_{t−1}:
    both are at ``t − 1 + here``.
    """
    betas = path.betas.double()
    ends = weighable(bridge.ends(z) if len(betas) > 2 else bridge.values(z))
    log_weights = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
    acceptance, spent = torch.zeros_like(log_weights[0]), z.shape[:2].numel()
    for made, t in enumerate(order, 1):
        # log f at β_t minus log f at β_{t−1}, both at the point where the chain is
        log_weights += (betas[t] - betas[t - 1]) * (ends.log_joint.double() - ends.log_start.double())
        if t == order[-1]:
            break
        at = t - 1 + here
        target = bridge.at(path.betas[at])
        state, info = kernel.step(target, ends.state(path.betas[at]), path.tuning(at), generator=generator)
        ends = target.ends_after(state, ends)
        acceptance += info.acceptance.double().mean(0)
        spent += int(info.num_gradients.sum())
        if announce is not None:
            announce("annealing", made, len(order) - 1, info)
    return Annealed(ends.z, log_weights, acceptance / (len(order) - 1 or math.nan), spent)


def weighable(ends: Ends) -> Ends:
    """Refuse densities that are NaN or +∞; a density of zero is allowed, and gives a weight of zero."""
    bad = (ends.log_joint.isnan() | ends.log_joint.isposinf() | ~ends.log_start.isfinite()).any(0)
    if bool(bad.any()):
        raise NotFiniteError(
            f"log p(x, z) or the start's own density is not a number where chains start, for {int(bad.sum())} of "
            f"{len(bad)} examples (the first is example {int(bad.nonzero()[0, 0])} of its block).",
            "Check the data and the weights for NaN and infinity.",
        )
    return ends
