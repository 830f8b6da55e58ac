r"""Kernels over codes: Metropolis–Hastings moves that the gradient of the log density informs.

A position is a flat one-hot vector of L slots with K codes each, and the log density is a differentiable function of
it, as a :class:`~elbowroom.samplers.target.Target` evaluates it. The gradient at z, which is one evaluation, guesses
what every one of the L (K − 1) changes of a single slot would gain,

.. math:: t_{lk}(z) = \frac{\partial \log f}{\partial z_{lk}} - \frac{\partial \log f}{\partial z_{l z_l}}
    \approx \log f(z \text{ with } z_l = k) - \log f(z)

and a proposal prefers what it expects to gain. It does so by a *balancing function* g with g(r) = r g(1 / r): then a
proposal that changes little is nearly reversible by itself, and is accepted nearly always. Whatever the guesses are
worth, the rule of Metropolis and Hastings makes the target invariant and the transition reversible.

:class:`InformedMoves` changes many slots at once, :class:`SingleSiteMoves` one.

Reference:
    Zanella (2020), Informed proposals for local MCMC in discrete spaces, arXiv:1711.07424.
    Grathwohl, Swersky, Hashemi, Duvenaud & Maddison (2021), Oops I took a gradient: scalable sampling for discrete
    distributions, arXiv:2102.04509.
    Zhang, Liu & Liu (2022), A Langevin-like sampler for discrete distributions, arXiv:2206.09914.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.samplers.kernel import Info, State, Tuning
from elbowroom.samplers.target import Target

__all__ = ["BALANCING", "Balancing", "InformedMoves", "SingleSiteMoves"]

Balancing = Literal["sqrt", "barker", "none"]
BALANCING: tuple[Balancing, ...] = get_args(Balancing)

#: log g(exp t); both are 0 at t = 0, so that a move that gains nothing is as likely as under the reference
_LOG_BALANCE: dict[Balancing, Callable[[Tensor], Tensor]] = {
    "sqrt": lambda t: 0.5 * t,  # g(r) = √r
    "barker": lambda t: math.log(2) + F.logsigmoid(t),  # g(r) = 2 r / (1 + r), at most 2
    "none": torch.zeros_like,  # g(r) = 1: proposals of the reference alone
}


@dataclass(frozen=True, slots=True)
class InformedMoves:
    r"""Many slots at once, each drawn anew from a reference that the gradient tilts.

    .. math:: Q_l(k \,|\, z) \propto (1 - ε) \, [k = z_l] + ε \, m_l(k) \, g\big(e^{t_{lk}(z)}\big), \qquad
        \alpha = \min\Big(1, \frac{f(z') \, Q(z | z')}{f(z) \, Q(z' | z)}\Big), \quad Q = \prod_l Q_l

    with t the slopes of log f − log m. The step size ε in (0, 1] is about the share of slots that are drawn anew.
    Where f is the reference m itself, t vanishes and every proposal is accepted, with ε = 1 an independent one: as
    the rotation of :class:`~elbowroom.samplers.hmc.HMC` is exact for a normal target, these moves are for a product of
    slots. With a uniform reference and "sqrt" they are the discrete Langevin proposal.

    Args:
        log_reference: log m_l(k), normalised over k, all finite, shape (data, L, K), or (1, L, K) for one that all
            examples share.
        balancing: "barker", g(r) = 2 r / (1 + r), which bounds the trust in a slope; "sqrt", g(r) = √r; or "none",
            g(r) = 1.
        jitter: j ≥ 0: each chain's step is min(1, ε e^u) with u uniform on [−j, j], independent of where the chain
            is; from few slots to many in turn.
    Raises:
        ElbowroomError: an unknown balancing function; a negative jitter; a reference of another shape.
    Reference:
        Zhang, Liu & Liu (2022), A Langevin-like sampler for discrete distributions, arXiv:2206.09914.
        Livingstone & Zanella (2022), The Barker proposal: combining robustness and efficiency in gradient-based MCMC,
        arXiv:1908.11812.
    Example:
        >>> from elbowroom.samplers.kernel import init
        >>> from elbowroom.samplers.metric import Metric
        >>> from elbowroom.samplers.target import Density
        >>> likes = Density(lambda z: 3 * z[..., 0] + 3 * z[..., 3])  # of two slots with three codes, the first of each
        >>> z = torch.tensor([0.0, 1, 0, 0, 0, 1]).expand(1000, 1, 6)
        >>> kernel = InformedMoves(torch.full((1, 2, 3), 1 / 3).log())
        >>> state, tuning = init(likes, z), Tuning(torch.ones(1), Metric.identity(z))
        >>> generator = torch.Generator().manual_seed(0)
        >>> for _ in range(10):
        ...     state, info = kernel.step(likes, state, tuning, generator=generator)
        >>> bool((state.z[..., 0].mean() - torch.tensor([3.0, 0, 0]).softmax(0)[0]).abs() < 0.04)
        True
    """

    log_reference: Tensor
    balancing: Balancing = "barker"
    jitter: float = 0.0
    name: ClassVar[str] = "informed"
    max_step_size: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check_name("balancing function", self.balancing, BALANCING)
        if not 0 <= self.jitter < math.inf:
            raise ElbowroomError(
                f"The jitter is {self.jitter}, but should be 0 or more.", "1.4 varies ε by a factor of 4."
            )
        if self.log_reference.dim() != 3 or not bool(self.log_reference.isfinite().all()):
            raise ElbowroomError(
                f"The reference of informed moves has shape {tuple(self.log_reference.shape)} and a least value of "
                f"{float(self.log_reference.min()):.4g}, but should have shape (data, slots, codes) and be finite.",
                "Give log-probabilities of every code in every slot, with none of them impossible.",
            )

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain, at the cost of one gradient; see :class:`elbowroom.samplers.kernel.Kernel`.

        Args:
            target: what to draw from.
            state: where the chains are; made by :func:`~elbowroom.samplers.kernel.init` for this very target.
            tuning: ε; the metric has no meaning here.
            generator: the source of randomness.
        """
        codes = self.log_reference.shape[-1]
        threshold = _uniform(state.log_density, generator)
        rate = tuning.step_size.expand_as(state.log_density)
        if self.jitter:
            rate = rate * torch.exp(self.jitter * (2 * _uniform(rate, generator) - 1))
        rate = rate.clamp(max=1.0)[..., None, None]
        before = _numbers(state.z, codes)
        forward = self._log_proposal(state.gradient, before, rate)
        after = _draw(forward, generator).unsqueeze(-1)
        there = _evaluated(target, after, state.z)
        backward = self._log_proposal(there.gradient, after, rate)
        log_ratio = there.log_density - state.log_density
        log_ratio = log_ratio + (backward.gather(-1, before) - forward.gather(-1, after)).sum((-1, -2))
        return _accept(state, there, log_ratio, threshold)

    def _log_proposal(self, gradient: Tensor, at: Tensor, rate: Tensor) -> Tensor:
        """log Q_l(k | z), shape (replicas, data, L, K), for z with the numbers ``at``, shape (replicas, data, L, 1)."""
        slopes = _by_slot(gradient, self.log_reference.shape[-1]) - self.log_reference
        gains = slopes - slopes.gather(-1, at)
        log_reference = self.log_reference.expand_as(gains)
        anew = rate.log() + log_reference + _LOG_BALANCE[self.balancing](gains)
        stay = torch.logaddexp(
            torch.log1p(-rate), rate.log() + log_reference.gather(-1, at)
        )  # the gain of staying is 0
        return anew.scatter(-1, at, stay).log_softmax(-1)


@dataclass(frozen=True, slots=True)
class SingleSiteMoves:
    r"""Gibbs with gradients: one slot at a time, the slot and its new code chosen together.

    .. math:: Q(l, k \,|\, z) \propto \exp\big(\tfrac12 t_{lk}(z)\big), \qquad k \ne z_l

    Without a step size. A transition changes one slot of L at most, so that chains of many slots move slowly.

    Args:
        codes: K, of each slot.
    Raises:
        ElbowroomError: fewer than two codes.
    Reference:
        Grathwohl et al. (2021), Oops I took a gradient, algorithm 1, arXiv:2102.04509.
    """

    codes: int
    name: ClassVar[str] = "single-site"
    max_step_size: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.codes < 2:
            raise ElbowroomError(f"A slot of {self.codes} codes has nowhere to move.", "Give 2 codes or more.")

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        """One transition of every chain, at the cost of one gradient; the tuning has no meaning here."""
        threshold = _uniform(state.log_density, generator)
        before = _numbers(state.z, self.codes)
        forward = self._log_proposal(state.gradient, before)
        chosen = _draw(forward, generator).unsqueeze(-1)  # of all L K, as l K + k
        slot, code = chosen // self.codes, chosen % self.codes
        old = before.squeeze(-1).gather(-1, slot)
        after = before.squeeze(-1).scatter(-1, slot, code).unsqueeze(-1)
        there = _evaluated(target, after, state.z)
        backward = self._log_proposal(there.gradient, after)
        back = backward.gather(-1, slot * self.codes + old) - forward.gather(-1, chosen)
        return _accept(state, there, there.log_density - state.log_density + back.squeeze(-1), threshold)

    def _log_proposal(self, gradient: Tensor, at: Tensor) -> Tensor:
        """log Q(l, k | z), shape (replicas, data, L K); −∞ where k is the code that z has."""
        slopes = _by_slot(gradient, self.codes)
        gains = 0.5 * (slopes - slopes.gather(-1, at))
        return gains.scatter(-1, at, -math.inf).flatten(-2).log_softmax(-1)


def _by_slot(values: Tensor, codes: int) -> Tensor:
    """(replicas, data, L K) as (replicas, data, L, K)."""
    return values.reshape(*values.shape[:-1], -1, codes)


def _numbers(z: Tensor, codes: int) -> Tensor:
    """(replicas, data, L K) as the number of each slot's code, (replicas, data, L, 1)."""
    return _by_slot(z, codes).argmax(-1, keepdim=True)


def _evaluated(target: Target, numbers: Tensor, like: Tensor) -> State:
    """The state at codes with these numbers, (replicas, data, L, 1), as one-hot vectors of the shape of ``like``."""
    slots = numbers.shape[-2]
    hot = like.new_zeros(*like.shape[:-1], slots, like.shape[-1] // slots).scatter_(-1, numbers, 1.0).flatten(-2)
    log_density, gradient = target.evaluate(hot)
    return State(hot, log_density, gradient)


def _draw(log_probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """A number from each law on the last axis: the first of exponential clocks to ring; none of probability 0."""
    waiting = -torch.log(_uniform(log_probabilities, generator))
    return (log_probabilities - waiting.log()).argmax(-1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _accept(state: State, there: State, log_ratio: Tensor, threshold: Tensor) -> tuple[State, Info]:
    """The Metropolis test, by the logarithm of f(z') Q(z | z') / f(z) Q(z' | z)."""
    finite = there.log_density.isfinite() & there.gradient.isfinite().all(-1)
    log_ratio = torch.where(finite & ~log_ratio.isnan(), log_ratio, -math.inf)  # no number is no place to go
    acceptance = log_ratio.clamp(max=0).exp()
    accepted = threshold < acceptance
    where = accepted.unsqueeze(-1)
    kept = State(
        torch.where(where, there.z, state.z),
        torch.where(accepted, there.log_density, state.log_density),
        torch.where(where, there.gradient, state.gradient),
    )
    return kept, Info(acceptance, -kept.log_density, ~finite, torch.ones_like(accepted, dtype=torch.int64))
