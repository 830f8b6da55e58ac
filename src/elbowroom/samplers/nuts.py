r"""The No-U-Turn sampler (NUTS) for thousands of targets at once.

NUTS ends a trajectory when it would turn back. From a point (w, r) of phase space, r ~ N(0, I), a trajectory doubles
its length forwards or backwards in time at random, and the next state is drawn from all of its points, each with a
weight of

.. math:: \exp(H_0 - H), \qquad H(w, r) = -\log p(m + C w) + |r|^2 / 2

It ends, and the part that was being added is discarded, where that part diverges or turns within itself; it ends with
that part where the whole turns. A point of the new part replaces the one chosen before with probability

.. math:: w_n \Big/ \sum_{k \le n} w_k \;\text{ within the new part,} \qquad
          \min(1, W_\text{new} / W_\text{old}) \;\text{ between the new part and the old trajectory.}

**Turning.** A stretch of trajectory turns if its displacement no longer points along the momentum at both its ends,
the displacement written as the trapezoidal sum of its momenta, and a stretch that is longer than two points also if
one of its halves does so with the first point of the other half added:

.. math:: \rho = \sum_n r_n - \tfrac12 (r_\text{first} + r_\text{last}), \qquad
          \rho \cdot r_\text{first} \le 0 \;\text{ or }\; \rho \cdot r_\text{last} \le 0

In whitened coordinates velocity and momentum are the same, so that no metric appears. The second condition
stops a trajectory that has gone round a normal target almost once, which the condition at its ends alone would miss.

**No recursion.** Whatever their fate, all the chains that still run have made the same number of steps, and so have
trees of the same shape: only directions and decisions differ between them. In a part of :math:`2^j` points the
stretches to be checked are those of :math:`2^k` points that begin at a multiple of :math:`2^k`. A checkpoint is kept
at the first point of each that is not closed yet, at most j of them; every second step closes one or more. Chains that
have ended drop out: when they are a quarter, the tensors are reduced to the other chains (active-set compaction).
Random numbers are still drawn for all the chains, so that the draws do not depend on it.

Reference:
    Hoffman & Gelman (2014), The No-U-Turn sampler, arXiv:1111.4246.
    Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo, appendix A, arXiv:1701.02434.
    Phan, Pradhan & Jankowiak (2019), Composable effects (iterative trees), appendix A, arXiv:1912.11554.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.samplers.integrators import INTEGRATORS, LONGEST_STEP, Integrator, Point, advance, force
from elbowroom.samplers.kernel import DIVERGENCE, Info, State, Tuning
from elbowroom.samplers.target import Target

__all__ = ["MAX_DEPTH", "NUTS"]

MAX_DEPTH = 14
"""Doublings at most: trajectories of 16,383 steps. Longer ones are a sign of an unfit step size or metric."""

COMPACTION = 0.75
"""The remaining chains move together when they are no more than this share of those carried along."""


@dataclass(frozen=True)
class NUTS:
    r"""No-U-Turn transitions: multinomial, with the generalised criterion and compaction of the active set.

    A chain makes :math:`2^d - 1` steps in d doublings, fewer where its last doubling breaks off; a chain with
    ``num_gradients`` of :math:`2^\text{max depth} - 1` was stopped by ``max_depth``, or by a U-turn at the last moment.

    Random numbers are drawn for all the chains in this order: momenta; for each doubling a direction, then for each
    of its steps but the first a uniform number that decides between points, and one that decides between parts.

    Args:
        max_depth: doublings at most, from 1 to 14.
        integrator: ``"leapfrog"``, or ``"rotation"`` for targets that are nearly normal in whitened coordinates.
        compact: whether chains that have ended are taken out of the work; the draws are the same either way.
    Raises:
        ElbowroomError: a depth out of range; an integrator of another name.
    Example:
        >>> from elbowroom.samplers.kernel import init
        >>> from elbowroom.samplers.metric import Metric
        >>> from elbowroom.samplers.target import Density
        >>> generator = torch.Generator().manual_seed(0)
        >>> target = Density(lambda z: -0.5 * z.square().sum(-1))
        >>> z = torch.randn(2, 500, 3, generator=generator)
        >>> tuning = Tuning(torch.full((500,), 0.4), Metric.identity(z))
        >>> state, info = NUTS().step(target, init(target, z), tuning, generator=generator)
        >>> state.z.shape, bool(info.divergent.any()), bool(info.acceptance.mean() > 0.9)
        (torch.Size([2, 500, 3]), False, True)
    """

    max_depth: int = 10
    integrator: Integrator = "leapfrog"
    compact: bool = True
    name = "nuts"  # not annotated, hence no field

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth <= MAX_DEPTH:
            raise ElbowroomError(
                f"max_depth is {self.max_depth}, but trajectories double between 1 and {MAX_DEPTH} times.",
                "Give a depth of about 10; if trajectories need more, adapt the step size and the metric.",
            )
        if self.integrator not in INTEGRATORS:
            raise ElbowroomError(
                f"integrator is {self.integrator!r}, but should be one of {', '.join(INTEGRATORS)}.",
                did_you_mean(self.integrator, INTEGRATORS),
            )

    @property
    def max_step_size(self) -> float:
        """The longest ε that a warm-up should try."""
        return LONGEST_STEP[self.integrator]

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain.

        Args:
            target: what to draw from.
            state: where the chains are; made by :func:`~elbowroom.samplers.kernel.init` for this very target.
            tuning: step sizes and metric.
            generator: the source of randomness.
        Returns:
            The new state, with the log density and gradient that were evaluated at its z, and what happened.
        """
        z = state.z
        r = torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator)
        trees = _Trees(self.integrator, target, state, tuning, r)

        def uniform() -> Tensor:
            drawn = torch.rand((*z.shape[:2], 1), dtype=z.dtype, device=z.device, generator=generator)
            return drawn if trees.chains is None else _take(drawn, trees.chains)

        for depth in range(self.max_depth):
            trees.branch(uniform() < 0.5)
            for leaf in range(2**depth):
                trees.grow(leaf, uniform)
                if leaf == 2**depth - 1:
                    trees.merge(uniform())
                remaining = int(trees.alive.sum())
                if remaining == 0:
                    return trees.result()
                if self.compact and remaining <= COMPACTION * trees.alive.numel():
                    trees.gather()
        return trees.result()


class _Draw(NamedTuple):
    """A candidate for the next state; scalars of a chain have an axis of length 1 in the place of dim."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor
    energy: Tensor

    def replaced(self, where: Tensor, other: _Draw) -> _Draw:
        """The other candidate where the mask is True."""
        return _Draw(*(torch.where(where, new, old) for new, old in zip(other, self, strict=True)))


class _Checkpoint(NamedTuple):
    """Momenta at a point: of the point before it, of itself, and the sum over the new part before it."""

    previous: Tensor
    r: Tensor
    total: Tensor


class _Stretch(NamedTuple):
    """The momenta that decide whether a stretch of trajectory turns; the order of its ends does not matter."""

    first: Tensor
    last: Tensor
    total: Tensor


def _straight(stretches: list[_Stretch]) -> Tensor:
    """Whether none of a chain's stretches turns, shape (replicas, data, 1); all of them in one go."""
    first, last, total = (torch.stack(tensors) for tensors in zip(*stretches, strict=True))
    rho = total - 0.5 * (first + last)
    return (torch.minimum((rho * first).sum(-1, keepdim=True), (rho * last).sum(-1, keepdim=True)) > 0).all(0)


def _joined(first: Tensor, total: Tensor, seam: _Checkpoint, last: Tensor, added: Tensor) -> list[_Stretch]:
    """Two stretches in a row, of momentum sums ``total`` and ``added``, the second of which begins at the seam."""
    return [
        _Stretch(first, last, total + added),
        _Stretch(first, seam.r, total + seam.r),
        _Stretch(seam.previous, last, seam.previous + added),
    ]


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Some chains of (…, replicas, data, dim), by their position in replicas × data, as (…, 1, chains, dim)."""
    return rows.flatten(-3, -2).index_select(-2, index).unsqueeze(-3)


class _Trees:
    """The trajectories of all the chains that still run, and of those that ended since the last :meth:`gather`.

    Every tensor ends in axes (replicas, data, dim), or (1, chains, dim) after a gather, where dim is 1 for scalars. A
    chain that has ended stands still, and its results are no longer written to.
    """

    def __init__(self, integrator: Integrator, target: Target, state: State, tuning: Tuning, r: Tensor) -> None:
        self.integrator = integrator
        self.everyone, self.tuning = target, tuning
        self.target, self.metric = target, tuning.metric
        self.chains: Tensor | None = None  # positions in replicas × data of the chains at work; None: all of them
        self.results: tuple[Tensor, ...] | None = None  # of all chains, as soon as some have dropped out
        self.shape = state.z.shape
        self.step_size = tuning.step_size[:, None].expand(*self.shape[:2], 1)

        w = self.metric.to_w(state.z)
        self.point = Point(w, r, force(integrator, self.metric, state.gradient, w))
        self.left = self.right = torch.stack(self.point)
        energy = (0.5 * r.square().sum(-1) - state.log_density).unsqueeze(-1)
        self.reference = energy
        self.draw = self.new_draw = _Draw(state.z, state.log_density.unsqueeze(-1), state.gradient, energy)
        self.log_weight = self.new_log_weight = torch.zeros_like(energy)
        self.total, self.new_total = r, torch.zeros_like(r)
        self.checkpoints: dict[int, _Checkpoint] = {}

        self.alive = torch.ones_like(energy, dtype=torch.bool)
        self.forward = self.alive
        self.step = self.step_size
        self.acceptance = torch.zeros_like(energy)
        self.divergent = torch.zeros_like(self.alive)
        self.num_gradients = torch.zeros_like(self.alive, dtype=torch.int64)

    def branch(self, forward: Tensor) -> None:
        """Begin a new part at the later or at the earlier end of the trajectory."""
        self.forward = forward
        self.point = Point(*torch.where(forward, self.right, self.left))
        self.step = torch.where(forward, self.step_size, -self.step_size)
        self.new_total = torch.zeros_like(self.total)

    def grow(self, leaf: int, uniform: Callable[[], Tensor]) -> None:
        """One step of every chain, to the point of this number, counted from 0 in the new part."""
        previous = self.point.r
        draw = self._advance()
        log_weight = self.reference - draw.energy
        log_weight = log_weight.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
        self.acceptance = torch.where(self.alive, self.acceptance + log_weight.clamp(max=0).exp(), self.acceptance)
        self.num_gradients = self.num_gradients + self.alive
        sane = self.alive & (log_weight >= -DIVERGENCE)
        self.divergent = self.divergent | (self.alive ^ sane)
        self.alive = sane

        if leaf == 0:
            self.new_draw, self.new_log_weight = draw, log_weight
        else:
            self.new_log_weight = torch.logaddexp(self.new_log_weight, log_weight)
            chosen = uniform() < (log_weight - self.new_log_weight).exp()
            self.new_draw = self.new_draw.replaced(chosen, draw)

        if leaf % 2 == 0:
            self.checkpoints[leaf] = _Checkpoint(previous, self.point.r, self.new_total)
        self.new_total = self.new_total + self.point.r
        if leaf % 2 == 1:
            self.alive = self.alive & _straight(self._closed(leaf))

    def merge(self, uniform: Tensor) -> None:
        """Join the new part, which is complete, to the trajectory of the chains that it did not end."""
        chosen = self.alive & (uniform < (self.new_log_weight - self.log_weight).exp())
        self.draw = self.draw.replaced(chosen, self.new_draw)
        self.log_weight = torch.logaddexp(self.log_weight, self.new_log_weight)

        far = torch.where(self.forward, self.left[1], self.right[1])
        joined = _joined(far, self.total, self.checkpoints.pop(0), self.point.r, self.new_total)
        self.alive = self.alive & _straight(joined)
        self.total = joined[0].total
        end = torch.stack(self.point)
        self.left = torch.where(self.forward, self.left, end)
        self.right = torch.where(self.forward, end, self.right)

    def gather(self) -> None:
        """Keep the chains that still run, and put aside the results of the others."""
        self._save()
        rows = self.alive.flatten().nonzero().squeeze(-1)
        self.chains = rows if self.chains is None else self.chains[rows]
        data = self.chains % self.shape[1]  # replicas of an example share its density, metric and step size
        self.target, self.metric = self.everyone.select(data), self.tuning.metric.select(data)

        self.point = Point(*(_take(rows_of, rows) for rows_of in self.point))
        self.draw = _Draw(*(_take(rows_of, rows) for rows_of in self.draw))
        self.new_draw = _Draw(*(_take(rows_of, rows) for rows_of in self.new_draw))
        self.checkpoints = {
            leaf: _Checkpoint(*(_take(rows_of, rows) for rows_of in checkpoint))
            for leaf, checkpoint in self.checkpoints.items()
        }
        for name in _ROWS:
            setattr(self, name, _take(getattr(self, name), rows))

    def result(self) -> tuple[State, Info]:
        """The next state of every chain, with its statistics."""
        z, gradient, *scalars = self._save()
        log_density, energy, acceptance, divergent, num_gradients = (scalar.squeeze(-1) for scalar in scalars)
        return State(z, log_density, gradient), Info(acceptance / num_gradients, energy, divergent, num_gradients)

    def _advance(self) -> _Draw:
        """Kick, drift, kick; a chain that has ended makes a step of size 0, to stay where it is."""
        step = torch.where(self.alive, self.step, 0)
        r = torch.addcmul(self.point.r, step, self.point.force, value=0.5)
        w, r = advance(self.integrator, self.point.w, r, step)
        z = self.metric.to_z(w)
        log_density, gradient = self.target.evaluate(z)
        pull = force(self.integrator, self.metric, gradient, w)
        r = torch.addcmul(r, step, pull, value=0.5)
        self.point = Point(w, r, pull)
        energy = 0.5 * r.square().sum(-1) - log_density
        return _Draw(z, log_density.unsqueeze(-1), gradient, energy.unsqueeze(-1))

    def _closed(self, leaf: int) -> list[_Stretch]:
        """The stretches of 2, 4, … points that end with this point; checkpoints no longer needed are dropped."""
        last, total = self.point.r, self.new_total
        start = self.checkpoints[leaf - 1]
        stretches = [_Stretch(start.r, last, total - start.total)]
        size = 4
        while (leaf + 1) % size == 0:
            seam = self.checkpoints.pop(leaf + 1 - size // 2)
            start = self.checkpoints[leaf + 1 - size]
            stretches += _joined(start.r, seam.total - start.total, seam, last, total - seam.total)
            size *= 2
        return stretches

    def _save(self) -> tuple[Tensor, ...]:
        """Results of all chains: those of the chains at work, and of those that dropped out before."""
        draw = self.draw
        rows: tuple[Tensor, ...] = (draw.z, draw.gradient, draw.log_density, draw.energy)
        rows += (self.acceptance, self.divergent, self.num_gradients)
        if self.chains is None or self.results is None:
            self.results = rows  # not the caller's tensors, which the first merge has replaced by copies
        else:
            where = self.chains // self.shape[1], self.chains % self.shape[1]
            for everyone, some in zip(self.results, rows, strict=True):
                everyone[where] = some[0]
        return self.results


_ROWS = (
    *("step_size", "step", "left", "right", "forward", "alive", "reference", "log_weight", "new_log_weight"),
    *("total", "new_total", "acceptance", "divergent", "num_gradients"),
)
