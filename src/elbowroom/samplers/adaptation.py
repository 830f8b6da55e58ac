r"""Warm-up: step sizes by dual averaging, and metrics from the draws, for each example separately.

The step size follows the acceptance α of its example's chains towards a target δ,

.. math:: \bar h_t = \Big(1 - \frac{1}{t + t_0}\Big) \bar h_{t-1} + \frac{\delta - \alpha_t}{t + t_0}, \qquad
    \log ε_t = \mu - \frac{\sqrt t}{\gamma} \bar h_t, \qquad
    \log \bar ε_t = t^{-\kappa} \log ε_t + (1 - t^{-\kappa}) \log \bar ε_{t-1},

and the draws use the average. Replicas are pooled by the *harmonic* mean of their acceptance, which one stuck chain
pulls down: the arithmetic mean of (1, 1, 1, 0) is 75% although one chain does not move. So the arithmetic mean of the
acceptance comes out above δ.

Everything that is adapted here depends on the chains' history, which breaks invariance. So adaptation ends, and the
tuning is frozen, before the first draw is kept.

Reference:
    Hoffman & Gelman (2014), The No-U-Turn sampler, section 3.2 and algorithm 4, arXiv:1111.4246.
    Hoffman, Radul & Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths (harmonic mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.progress import Progress
from elbowroom.samplers.integrators import Point, force, trajectory
from elbowroom.samplers.kernel import Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.target import Target

__all__ = [
    "DualAveraging",
    "Learn",
    "Warm",
    "check_target_acceptance",
    "initial_step_size",
    "learn_dense",
    "learn_diagonal",
    "pooled_acceptance",
    "warm_up",
]

_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
_SINGLE_STEP_ACCEPTANCE = 0.8  # at which the search for a first step size stops
_LEAST_ACCEPTANCE = 1e-3  # acceptance that a stuck chain counts with in the harmonic mean
_WINDOWS = (0.12, 0.25, 0.6)  # shares of the warm-up: end of the initial phase, ends of two windows to learn a metric

Learn = Callable[[Tensor, Metric], Metric]
"""A better metric from draws of shape (count, data, dim) and the metric that they were made with."""


class DualAveraging(NamedTuple):
    """The search for one step size per example; every tensor has shape (data,).

    Attributes:
        log_step: log ε, to be used next.
        log_average: the logarithm of the averaged step size, to be frozen at the end.
        error: the running mean of δ − α.
        shrink_to: μ.
        updates: t.
        max_step_size: ε stays at or below it.
    """

    log_step: Tensor
    log_average: Tensor
    error: Tensor
    shrink_to: Tensor
    updates: int
    max_step_size: float

    @classmethod
    def start(cls, step_size: Tensor, *, max_step_size: float = math.inf) -> DualAveraging:
        """Start from a guess ε₀, shape (data,); μ = log 10 ε₀."""
        log_step = step_size.clamp(max=max_step_size).log()
        zeros = torch.zeros_like(log_step)
        return cls(log_step, log_step, zeros, math.log(10) + log_step, 0, max_step_size)

    def update(self, acceptance: Tensor, target_acceptance: float) -> DualAveraging:
        """Learn from the acceptance, shape (replicas, data), of a transition made with ``exp(log_step)``."""
        t = self.updates + 1
        error = self.error + (target_acceptance - pooled_acceptance(acceptance) - self.error) / (t + _T0)
        log_step = self.shrink_to - math.sqrt(t) / _GAMMA * error
        log_step = log_step.clamp(min=math.log(1e-10), max=math.log(min(self.max_step_size, 1e10)))
        weight = t**-_KAPPA
        average = weight * log_step + (1 - weight) * self.log_average
        return DualAveraging(log_step, average, error, self.shrink_to, t, self.max_step_size)


class Warm(NamedTuple):
    """The result of a warm-up.

    Attributes:
        state: where the chains are.
        tuning: frozen.
        num_gradients: evaluations of the gradient per chain, on average over the chains.
    """

    state: State
    tuning: Tuning
    num_gradients: float


def initial_step_size(
    target: Target, state: State, metric: Metric, *, attempts: int = 30, generator: torch.Generator | None = None
) -> Tensor:
    """A step size of the right order: doubled or halved until a single leapfrog's acceptance crosses 0.8.

    Args:
        target: the density.
        state: where the chains start.
        metric: z = m + C w.
        attempts: doublings or halvings at most, a gradient each.
        generator: the source of randomness.
    Returns:
        Shape (data,).
    """
    z = state.z
    momentum = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    w = metric.to_w(z)
    start = Point(w, momentum, force("leapfrog", metric, state.gradient, w))
    before = 0.5 * momentum.square().sum(-1) - state.log_density
    step_size = torch.ones_like(z[0, :, 0])
    settled, direction = torch.zeros_like(step_size, dtype=torch.bool), torch.zeros_like(step_size)
    for attempt in range(attempts):
        end, _, log_density, _ = trajectory("leapfrog", target, metric, start, step_size.unsqueeze(-1), 1)
        rise = (0.5 * end.r.square().sum(-1) - log_density - before).nan_to_num(nan=math.inf, neginf=math.inf)
        wish = torch.where(pooled_acceptance(torch.exp(-rise.clamp(min=0))) > _SINGLE_STEP_ACCEPTANCE, 1.0, -1.0)
        if attempt == 0:
            direction = wish
        settled |= wish != direction
        if bool(settled.all()):
            break
        step_size = torch.where(settled, step_size, step_size * torch.exp2(direction))
    return step_size


def check_target_acceptance(target_acceptance: float) -> None:
    """Refuses what is no probability of a proposal.

    Raises:
        ElbowroomError: it does not lie between 0 and 1.
    """
    if not 0 < target_acceptance < 1:
        raise ElbowroomError(
            f"The target acceptance is {target_acceptance}, but should lie between 0 and 1.",
            "0.8 suits most targets.",
        )


def warm_up(
    kernel: Kernel,
    target: Target,
    z: Tensor,
    *,
    metric: Metric,
    num_steps: int = 300,
    target_acceptance: float = 0.8,
    learn: Learn | None = None,
    generator: torch.Generator | None = None,
    announce: Progress | None = None,
) -> Warm:
    """Find a step size and, if asked, a better metric for each example, while the chains converge.

    Args:
        kernel: the transition.
        target: what to draw from.
        z: starting points, shape (replicas, data, dim).
        metric: to start with.
        num_steps: transitions. The metric is learned after 25% and again after 60% of them, from the draws since the
            first 12% or the last change; the rest is for the step size, which takes a while to settle.
        target_acceptance: δ, for the harmonic mean over replicas.
        learn: :func:`learn_diagonal`, :func:`learn_dense`, or another; None keeps the metric.
        generator: the source of randomness.
        announce: called after every transition.
    Returns:
        The chains' state and the frozen tuning.
    Raises:
        ElbowroomError: fewer than one step; a δ that is no probability; a start where the density is zero; a
            metric for other examples.
    """
    if num_steps < 1:
        raise ElbowroomError(f"A warm-up of {num_steps} steps was asked for.", "Give 1 or more; 300 suit most targets.")
    check_target_acceptance(target_acceptance)
    state = init(target, z)
    if metric.center.shape != z.shape[1:]:
        raise ElbowroomError(
            f"The metric is for {len(metric.center)} examples in {metric.center.shape[-1]} dimensions, but the chains "
            f"are of {z.shape[1]} in {z.shape[2]}.",
            "Give a metric for each of these examples, or Metric.identity(z).",
        )
    largest = kernel.max_step_size
    first = initial_step_size(target, state, metric, generator=generator)
    search = DualAveraging.start(first, max_step_size=largest)
    begin, *ends = (max(1, round(fraction * num_steps)) for fraction in _WINDOWS)
    window: list[Tensor] = []
    spent = 0.0
    for done in range(1, num_steps + 1):
        state, info = kernel.step(target, state, Tuning(search.log_step.exp(), metric), generator=generator)
        search = search.update(info.acceptance, target_acceptance)
        spent += float(info.num_gradients.double().mean())
        if learn is not None and min(begin, ends[0] - 1) < done <= ends[-1]:
            window.append(state.z)
        if done in ends and learn is not None:
            better = learn(torch.stack(window).flatten(0, 1), metric)
            # a step as long as before in z, on average over directions, whatever the new metric's units
            log_step = search.log_average + metric.log_scale() - better.log_scale()
            metric, window = better, []
            search = DualAveraging.start(log_step.exp(), max_step_size=largest)
        if announce is not None:
            announce("warm-up", done, num_steps, info)
    return Warm(state, Tuning(search.log_average.exp(), metric), spent)


def learn_diagonal(z: Tensor, metric: Metric) -> Metric:
    r"""Standard deviations from draws, shrunk towards those of the metric before.

    .. math:: \sigma^2 = \frac{n s^2 + n_0 \sigma_0^2}{n + n_0}, \qquad n_0 = 5

    Args:
        z: draws, shape (n, data, dim).
        metric: what they were made with.
    """
    center, variance = z.mean(0), z.var(0, correction=0)
    before = metric.covariance().diagonal(dim1=-2, dim2=-1) if metric.is_dense else metric.factor.square()
    return Metric.diagonal(_shrink(variance, before, len(z), 5).sqrt(), center)


def learn_dense(z: Tensor, metric: Metric) -> Metric:
    """Covariances from draws, shrunk as in :func:`learn_diagonal`; there is more to learn, so n₀ = dim + 5."""
    center = z.mean(0)
    away = (z - center).movedim(0, -1).double()  # (data, dim, n)
    dim = z.shape[-1]
    before = metric.covariance().double()
    return Metric.dense(_shrink(away @ away.mT / len(z), before, len(z), dim + 5), center)


def _shrink(seen: Tensor, before: Tensor, count: int, prior_count: int) -> Tensor:
    return (count * seen + prior_count * before) / (count + prior_count)


def pooled_acceptance(acceptance: Tensor) -> Tensor:
    """The harmonic mean over replicas, which one stuck chain pulls down; (replicas, data) -> (data,)."""
    return 1 / acceptance.clamp(min=_LEAST_ACCEPTANCE).reciprocal().mean(0)
