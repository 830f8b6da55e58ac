r"""log p(x) by annealed importance sampling: many small steps from a distribution that is known to the posterior.

Importance sampling leaps from a proposal q₀ to the posterior, and its weights are as uneven as the two are different.
Annealing goes there through densities in between (:mod:`elbowroom.inference.tempering`), with a Markov transition
at each:

.. math:: z_0 \sim q_0, \qquad z_t \sim \mathcal{T}_t(\cdot \,|\, z_{t-1}), \quad
    \mathcal{T}_t \text{ leaves } f_{\beta_t} \text{ invariant}, \qquad
    w = \prod_{t=1}^T \frac{f_{\beta_t}(z_{t-1})}{f_{\beta_{t-1}}(z_{t-1})}, \qquad \mathbb{E}[w] = p(x)

The expectation is exact for any number of temperatures and for transitions of any quality, since w is an importance
weight on the space of whole paths. So the average weight is judged as in importance sampling, log p̂(x) is a lower bound
in expectation, and with T = 1 the two are the same. What the transitions and their number decide is the variance.

It is exact, though, only while no transition depends on where the weighted chains have been. So step sizes, one for
each datum and temperature, are found by a *pilot run*: other chains, with another stream of random numbers. They are
frozen before the first weighted chain is drawn.

Reference:
    Neal (2001), Annealed importance sampling, Statistics and Computing 11, arXiv:physics/9803008.
    Wu, Burda, Salakhutdinov & Grosse (2017), On the quantitative analysis of decoder-based generative models,
    arXiv:1611.04273.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch, as_batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance import WeightSums
from elbowroom.inference.posterior import posterior_target
from elbowroom.inference.soundness import ask
from elbowroom.inference.tempering import (
    Ends,
    Schedule,
    StartDensity,
    TemperedTarget,
    inverse_temperatures,
    metric_of,
    rows_of,
)
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import chunks
from elbowroom.samplers.adaptation import initial_step_size
from elbowroom.samplers.hmc import HMC
from elbowroom.samplers.kernel import Info, Kernel, Tuning
from elbowroom.samplers.metric import Metric

__all__ = ["AIS", "Annealed", "Path", "ais", "anneal", "pilot"]

Announce = Callable[[int, int, Info], None]
"""(transitions of all data done, to do, what happened in the last); those of the pilot run count too"""
Tell = Callable[[Info], None]

#: the rotation is exact at β = 0, where w = C⁻¹(z − m) is standard normal; short trajectories and more temperatures win
#: at equal cost; without a wide jitter, nearly normal posteriors turn back to where they were in a few long steps
_KERNEL = HMC(num_steps=2, integrator="rotation", jitter=0.6)
_LEAST_PILOT = 60  # transitions of a pilot run: a short schedule stays at each of its temperatures for several
_SETTLE = 20  # transitions at the first temperature, to get from a guess to a step size that fits
_GAIN = 0.25  # of log ε on the acceptance's error; from one temperature to the next ε changes by less than that
_LEAST_ACCEPTANCE = 1e-3  # what one stuck chain counts in the harmonic mean


class AIS(NamedTuple):
    """Annealed weights, and what they say of each datum.

    Attributes:
        log_weights: log w, nats, float64, shape (chains, data).
        log_evidence: log of the average weight, nats, float64, shape (data,); in expectation a lower bound on log p(x).
        stderr: its standard error, nats, by the delta method, shape (data,); NaN for a single chain.
        ess: effective number of chains, between 1 and ``chains``, shape (data,).
        acceptance: average over chains and transitions, shape (data,); NaN where there is no transition.
        num_gradients: evaluations of the decoder with its gradient that a datum took, all its weighted chains together.
        pilot_gradients: those of the pilot run, per datum.
    """

    log_weights: Tensor
    log_evidence: Tensor
    stderr: Tensor
    ess: Tensor
    acceptance: Tensor
    num_gradients: float
    pilot_gradients: float


@dataclass(frozen=True, slots=True)
class Path:
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
    """Chains that have walked a path.

    Attributes:
        z: where they were weighed last, shape (chains, data, dim).
        log_weights: log w, nats, float64, shape (chains, data).
        acceptance: average over chains and transitions, float64, shape (data,); NaN where there is no transition.
        num_gradients: all chains of all data together.
    """

    z: Tensor
    log_weights: Tensor
    acceptance: Tensor
    num_gradients: int


@torch.no_grad()
def ais(
    model: LatentModel,
    batch: Batch | Tensor,
    *,
    start: Conditional | Distribution | None = None,
    temperatures: int | Tensor = 100,
    schedule: Schedule = "sigmoid",
    chains: int = 16,
    kernel: Kernel = _KERNEL,
    pilot_chains: int = 4,
    target_acceptance: float = 0.65,
    block: int = 512,
    generator: Generator | None = None,
    announce: Announce | None = None,
) -> AIS:
    r"""Estimate log p(x) of each datum by annealed importance sampling.

    .. math:: \log \hat{p}(x) = \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \big[\log p(x, z_{t-1}) - \log q_0(z_{t-1})\big]

    A weighted chain costs one evaluation at its start and those of T − 1 transitions: 1 + (T − 1) L gradients with HMC
    of L steps. Data are annealed a block at a time, so that memory does not grow with them.

    Args:
        model: p(x, z), in evaluation mode if its networks have batch normalisation or dropout.
        batch: data, ``x`` of shape (batch, \*event).
        start: q₀: a guide, or distributions of batch shape (batch,) and event shape (latent,), a Laplace proposal's
            say; the prior unless given.
        temperatures: T, or the inverse temperatures themselves, from 0 to 1, of shape (T + 1,) or (T + 1, batch).
        schedule: "sigmoid" or "linear", for a T that is a number.
        chains: C, weighted chains per datum.
        kernel: the transition; it moves in the start's own metric.
        pilot_chains: per datum, for the pilot run that finds the step sizes.
        target_acceptance: that the pilot run aims at, as a harmonic mean over chains.
        block: data at a time.
        generator: the source of randomness.
        announce: told of every transition.
    Returns:
        Weights, the estimate, its standard error, and what it cost.
    Raises:
        ElbowroomError: a number out of range; temperatures that do not rise from 0 to 1; a start of another shape;
            a density that is not a number at a draw of the start.
    Reference:
        Neal (2001), Annealed importance sampling, arXiv:physics/9803008.
    Example:
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0)
        >>> found = ais(model, x, start=guide, temperatures=10, generator=torch.Generator().manual_seed(0))
        >>> bool(((found.log_evidence - model.log_evidence(x)).abs() < 5 * found.stderr).all())
        True
    """
    batch = as_batch(batch)
    betas = inverse_temperatures(temperatures, schedule, len(batch)).to(batch.x.device)
    progress = _Progress(announce, len(batch), len(betas) - 2)
    settings = _Settings(chains, pilot_chains, kernel, target_acceptance, generator, progress)
    _check(batch, settings, block)
    parts, pilot_gradients = [], 0
    for rows in chunks(len(batch), block):
        part = batch.rows(rows)
        q = _start(model, part, start, rows, len(batch))
        bridge = TemperedTarget(StartDensity(q), posterior_target(model, part), betas[-1, rows])
        done, spent = _anneal_block(bridge, q, betas[:, rows], settings)
        parts.append(done)
        pilot_gradients += spent
    log_weights = torch.cat([done.log_weights for done in parts], 1)
    estimate = WeightSums.empty(len(batch), log_weights.device).add(log_weights).estimate()
    acceptance = torch.cat([done.acceptance for done in parts])
    gradients = sum(done.num_gradients for done in parts) / len(batch)
    return AIS(log_weights, *estimate, acceptance, gradients, pilot_gradients / len(batch))


class _Settings(NamedTuple):
    """What all blocks have in common."""

    chains: int
    pilot_chains: int
    kernel: Kernel
    target_acceptance: float
    generator: Generator | None
    tell: Tell


def _anneal_block(bridge: TemperedTarget, q: Distribution, betas: Tensor, settings: _Settings) -> tuple[Annealed, int]:
    """Pilot run and weighted chains of some data, and the gradients that the pilot run took."""
    chains, pilot_chains, kernel, target_acceptance, generator, tell = settings
    num_data = betas.shape[1]
    if len(betas) == 2:  # importance sampling: no transition, nothing to find, and no random number spent on it
        z = _draw(q, chains, num_data, generator)
        path = Path(betas.to(z.dtype), betas[:0], Metric.identity(z))
        return anneal(bridge, path, z, kernel=kernel, generator=generator, tell=tell), 0
    other = _other_stream(generator, betas.device)
    z = _draw(q, pilot_chains, num_data, other)
    # β is rounded to the type of z once: weights and transitions have to mean the same densities
    find = partial(pilot, kernel=kernel, target_acceptance=target_acceptance, generator=other, tell=tell)
    path, spent = find(bridge, betas.to(z.dtype), z, metric_of(q, z))
    z = _draw(q, chains, num_data, generator)
    return anneal(bridge, path, z, kernel=kernel, generator=generator, tell=tell), spent


@torch.no_grad()
def pilot(
    bridge: TemperedTarget,
    betas: Tensor,
    z: Tensor,
    metric: Metric,
    *,
    kernel: Kernel,
    target_acceptance: float = 0.65,
    generator: Generator | None = None,
    tell: Tell | None = None,
) -> tuple[Path, int]:
    r"""Find a step size for each datum and temperature, with chains that are then thrown away.

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
        generator: the source of randomness; not the one of the weighted chains.
        tell: told of every transition.
    Returns:
        The path, frozen, and the gradients that its transitions took, all chains of all data together.
    """
    transitions, longest = len(betas) - 2, math.log(min(kernel.max_step_size, 1e10))
    stay = math.ceil(_LEAST_PILOT / transitions)
    ends, spent = _weighable(bridge.ends(z)), 0
    log_step = (
        initial_step_size(bridge.at(betas[1]), ends.state(betas[1]), metric, generator=generator)
        .log()
        .clamp(max=longest)
    )
    found = []
    for t in range(1, transitions + 1):
        target, state = bridge.at(betas[t]), ends.state(betas[t])
        seen = []
        for _ in range(stay + (_SETTLE if t == 1 else 0)):
            seen.append(log_step)
            state, info = kernel.step(target, state, Tuning(log_step.exp(), metric), generator=generator)
            ends = target.ends_after(state, ends)
            pooled = 1 / info.acceptance.clamp(min=_LEAST_ACCEPTANCE).reciprocal().mean(0)
            log_step = (log_step + _GAIN * (pooled - target_acceptance)).clamp(max=longest)
            spent += int(info.num_gradients.sum())
            if tell is not None:
                tell(info)
        found.append(torch.stack(seen[-stay:]).mean(0).exp())
    return Path(betas, torch.stack(found), metric), spent


@torch.no_grad()
def anneal(
    bridge: TemperedTarget,
    path: Path,
    z: Tensor,
    *,
    kernel: Kernel,
    generator: Generator | None = None,
    tell: Tell | None = None,
) -> Annealed:
    r"""Walk chains along a frozen path and weigh them.

    Args:
        bridge: from the start to the posterior.
        path: temperatures and step sizes, found without these chains.
        z: draws from the start, shape (chains, data, dim).
        kernel: the transition.
        generator: the source of randomness.
        tell: told of every transition.
    Returns:
        Positions and weights; the average of exp(log w) has the expectation p(x).
    Raises:
        ElbowroomError: a density that is not a number at z.
    """
    betas = path.betas.double()
    last = len(betas) - 1
    ends = _weighable(bridge.ends(z))
    log_weights = torch.zeros(z.shape[:2], dtype=torch.float64, device=z.device)
    acceptance, spent = torch.zeros_like(log_weights[0]), z.shape[:2].numel()
    for t in range(1, last + 1):
        # log f at β_t minus log f at β_{t−1}, both at the point where the chain is
        log_weights += (betas[t] - betas[t - 1]) * (ends.log_joint.double() - ends.log_start.double())
        if t == last:
            break
        target = bridge.at(path.betas[t])
        state, info = kernel.step(target, ends.state(path.betas[t]), path.tuning(t), generator=generator)
        ends = target.ends_after(state, ends)
        acceptance += info.acceptance.double().mean(0)
        spent += int(info.num_gradients.sum())
        if tell is not None:
            tell(info)
    return Annealed(ends.z, log_weights, acceptance / (last - 1 or math.nan), spent)


def _weighable(ends: Ends) -> Ends:
    """Ends that can be weighed: a zero density is a weight of zero, but NaN and +∞ are no densities."""
    bad = (ends.log_joint.isnan() | ends.log_joint.isposinf() | ~ends.log_start.isfinite()).any(0)
    if bool(bad.any()):
        raise ElbowroomError(
            f"log p(x, z) or the start's own density is not a number where chains start, for {int(bad.sum())} of "
            f"{len(bad)} data (the first is datum {int(bad.nonzero()[0, 0])} of its block).",
            "Check the data and the weights for NaN and infinity.",
        )
    return ends


def _start(
    model: LatentModel, part: Batch, start: Conditional | Distribution | None, rows: slice, num_data: int
) -> Distribution:
    """q₀ of a block of data."""
    if not isinstance(start, Distribution):
        q: Distribution = model.prior(None, part.context) if start is None else ask(start, part)
        return q
    if start.batch_shape not in ((num_data,), ()) or len(start.event_shape) != 1:
        raise ElbowroomError(
            f"The start has batch shape {tuple(start.batch_shape)} and event shape {tuple(start.event_shape)}, but "
            f"{num_data} data need one distribution each over a latent vector.",
            "Give a distribution of batch shape (batch,) and event shape (latent,).",
        )
    return rows_of(start, rows)


def _draw(q: Distribution, chains: int, num_data: int, generator: Generator | None) -> Tensor:
    """Shape (chains, data, latent)."""
    return draw(q, (chains,) if q.batch_shape else (chains, num_data), generator=generator)


def _other_stream(generator: Generator | None, device: torch.device) -> Generator:
    """A generator for what must not be shared with the weighted chains."""
    where = device if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=where))
    return Generator(where).manual_seed(seed)


def _check(batch: Batch, settings: _Settings, block: int) -> None:
    if not len(batch):
        raise ElbowroomError("The evidence of no data was asked for.", "Give one datum or more.")
    numbers = {"chains": settings.chains, "pilot_chains": settings.pilot_chains, "block": block}
    for name, number in numbers.items():
        if number < 1:
            raise ElbowroomError(f"{name} is {number}, but 1 is the least.", f"Give {name}=1 or more.")
    if not 0 < settings.target_acceptance < 1:
        raise ElbowroomError(
            f"The acceptance to aim at is {settings.target_acceptance}, but should lie between 0 and 1.",
            "0.65 suits most posteriors.",
        )


def _pilot_transitions(transitions: int) -> int:
    return transitions * math.ceil(_LEAST_PILOT / transitions) + _SETTLE if transitions else 0


class _Progress:
    """Every datum's transitions count, so that the last, smaller block is no longer than it is."""

    def __init__(self, announce: Announce | None, num_data: int, transitions: int) -> None:
        self._announce, self._done = announce, 0
        self._total = num_data * (transitions + _pilot_transitions(transitions))

    def __call__(self, info: Info) -> None:
        self._done += info.acceptance.shape[1]
        if self._announce is not None:
            self._announce(self._done, self._total, info)
