"""Moves over codes against laws that are known by enumeration: exact draws stay exact, every flow has its reverse."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers import Density, Info, Kernel, Metric, State, Target, Tuning, informed, init
from elbowroom.samplers.informed import InformedMoves, SingleSiteMoves

SLOTS, CODES, EXAMPLES, CHAINS = 3, 3, 4, 5_000
STATES = torch.tensor(list(itertools.product(range(CODES), repeat=SLOTS)))  # (27, L)
ONE_HOT = torch.nn.functional.one_hot(STATES, CODES).float().flatten(1)  # (27, L K)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairwise(z: Tensor, single: Tensor, joint: Tensor) -> Tensor:
    """Slots that depend on each other strongly, so that a slope is a poor guess: zᵀ W z + b z for each example."""
    return (z * single).sum(-1) + torch.einsum("rni,nij,rnj->rn", z, joint, z)


class Case(NamedTuple):
    """A law for each example, all its probabilities, and exact draws from it."""

    target: Density
    log_probabilities: Tensor  # (examples, 27)
    z: Tensor  # (chains, examples, L K)


@functools.cache
def case(seed: int = 1, strength: float = 1.2) -> Case:
    single = torch.randn(EXAMPLES, SLOTS * CODES, generator=seeded(seed))
    joint = strength * torch.randn(EXAMPLES, SLOTS * CODES, SLOTS * CODES, generator=seeded(seed + 1))
    target = Density(pairwise, single, joint)
    log_f = target.log_density(ONE_HOT.unsqueeze(1).expand(-1, EXAMPLES, -1)).T
    probabilities = log_f.double().softmax(-1)
    drawn = torch.multinomial(probabilities, CHAINS, replacement=True, generator=seeded(seed + 2))
    return Case(target, probabilities.log(), ONE_HOT[drawn.T])


def skewed(seed: int = 5) -> Tensor:
    """A reference of each example's own."""
    return (0.7 * torch.randn(EXAMPLES, SLOTS, CODES, generator=seeded(seed))).log_softmax(-1)


UNIFORM = torch.full((1, SLOTS, CODES), 1 / CODES).log()
KERNELS: dict[str, Kernel] = {
    "barker": InformedMoves(UNIFORM),
    "barker, skewed, jittered": InformedMoves(skewed(), jitter=1.4),
    "sqrt": InformedMoves(UNIFORM, "sqrt"),
    "sqrt, skewed": InformedMoves(skewed(), "sqrt"),
    "not informed, skewed": InformedMoves(skewed(), "none"),
    "single-site": SingleSiteMoves(CODES),
}
STEPS = torch.tensor([0.15, 0.4, 0.8, 1.0])  # of each example its own


def run(kernel: Kernel, target: Target, z: Tensor, transitions: int, seed: int = 0) -> tuple[State, Info]:
    generator, state, tuning = seeded(seed), init(target, z), Tuning(STEPS, Metric.identity(z))
    for _ in range(transitions):
        state, info = kernel.step(target, state, tuning, generator=generator)
    return state, info


def places(z: Tensor) -> Tensor:
    """The number of each z among the 27 states."""
    numbers = z.view(*z.shape[:-1], SLOTS, CODES).argmax(-1)
    places: Tensor = (numbers * CODES ** torch.arange(SLOTS - 1, -1, -1)).sum(-1)
    return places


def chi_square_score(seen: Tensor, expected: Tensor, *, lost: int = 0) -> float:
    """(χ² − ν) / √(2 ν) over cells that 5 or more are expected in; the others are pooled."""
    enough = expected >= 5
    seen = torch.cat([seen[enough], seen[~enough].sum().view(1)])
    expected = torch.cat([expected[enough], expected[~enough].sum().view(1)])
    filled = expected > 0
    freedom = int(filled.sum()) - lost
    chi = ((seen - expected).square() / expected)[filled].sum()
    return float((chi - freedom) / math.sqrt(2 * freedom))


def frequencies_score(found: Case, z: Tensor) -> float:
    """The largest over examples."""
    at = places(z)
    return max(
        chi_square_score(torch.bincount(at[:, n], minlength=27).double(), len(at) * row.exp(), lost=1)
        for n, row in enumerate(found.log_probabilities)
    )


def symmetry_score(before: Tensor, after: Tensor) -> float:
    """Of the counts from state i to j and from j to i, which are equal in expectation; all examples together."""
    chi, freedom = 0.0, 0
    for here, there in zip(places(before).T, places(after).T, strict=True):
        flow = torch.bincount(27 * here + there, minlength=27 * 27).view(27, 27).double()
        off, both = (flow - flow.T).tril(-1), (flow + flow.T).tril(-1)
        seen = both >= 10
        chi += float((off[seen].square() / both[seen]).sum())
        freedom += int(seen.sum())
    assert freedom > 30
    return (chi - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("name", KERNELS)
def test_exact_draws_stay_exact(name: str) -> None:
    found = case()
    state, info = run(KERNELS[name], found.target, found.z, 5)
    assert abs(frequencies_score(found, state.z)) < 4
    moved = (state.z != found.z).any(-1).double().mean(0)
    assert (moved > 0.03).all()  # not because nothing happens
    assert 0.05 < info.acceptance.mean() < 0.999
    torch.testing.assert_close(state.log_density, found.target.log_density(state.z))
    torch.testing.assert_close(state.gradient, found.target.gradient(state.z))
    assert (state.z.view(CHAINS, EXAMPLES, SLOTS, CODES).sum(-1) == 1).all()


@pytest.mark.parametrize("name", KERNELS)
def test_every_flow_has_its_reverse(name: str) -> None:
    """Annealing needs more than invariance: f(z) T(z' | z) = f(z') T(z | z')."""
    found = case(seed=11, strength=0.4)
    state, _ = run(KERNELS[name], found.target, found.z, 1)
    assert abs(symmetry_score(found.z, state.z)) < 4


@pytest.mark.parametrize("name", ["barker", "sqrt", "single-site"])
def test_from_anywhere_the_law_is_found(name: str) -> None:
    found, chains = case(strength=0.2), 2_000
    worst = ONE_HOT[found.log_probabilities.argmin(-1)].expand(chains, -1, -1)
    state, _ = run(KERNELS[name], found.target, worst, 30)
    assert abs(frequencies_score(found, state.z)) < 4


# --- mistakes, planted


def accept_always(state: State, there: State, log_ratio: Tensor, threshold: Tensor) -> tuple[State, Info]:
    nothing = torch.zeros_like(threshold, dtype=torch.int64)
    return there, Info(torch.ones_like(threshold), threshold, nothing.bool(), nothing)


def forget_the_proposal(state: State, there: State, log_ratio: Tensor, threshold: Tensor) -> tuple[State, Info]:
    return _ACCEPT(state, there, there.log_density - state.log_density, threshold)


def forget_the_density(state: State, there: State, log_ratio: Tensor, threshold: Tensor) -> tuple[State, Info]:
    return _ACCEPT(state, there, log_ratio - there.log_density + state.log_density, threshold)


_ACCEPT: Callable[..., tuple[State, Info]] = informed._accept


@pytest.mark.parametrize(
    ("name", "mistake"),
    [  # proposals are each kernel's own, the rest of the acceptance is that of all
        *((name, forget_the_proposal) for name in KERNELS),
        *((name, mistake) for name in ("barker", "single-site") for mistake in (accept_always, forget_the_density)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_wrong_acceptance_is_seen(name: str, mistake: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informed, "_accept", mistake)
    found = case()
    state, _ = run(KERNELS[name], found.target, found.z, 5)
    assert frequencies_score(found, state.z) > 8


class Stale(Density):
    """The gradient of the point before: no function of z."""

    last: Tensor | None = None

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().evaluate(z)
        before, self.last = self.last, gradient
        return value, gradient if before is None else before


class Rounded(Density):
    """The gradient to the nearest even number, and a half beside it."""

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().evaluate(z)
        return value, (gradient / 2).round() * 2 + 0.5


@pytest.mark.parametrize(("kind", "exact"), [(Rounded, True), (Stale, False)])
@pytest.mark.parametrize("name", ["barker", "single-site"])
def test_any_function_of_z_will_do_for_the_gradient_and_nothing_else(
    name: str, kind: type[Density], exact: bool
) -> None:
    found = case()
    state, _ = run(KERNELS[name], kind(pairwise, *found.target.data), found.z, 5)
    score = frequencies_score(found, state.z)
    assert abs(score) < 4 if exact else score > 8


# --- what moves


@pytest.mark.parametrize("balancing", informed.BALANCING)
def test_where_the_reference_is_the_law_every_step_is_a_draw_of_it(balancing: informed.Balancing) -> None:
    reference = skewed()
    target = Density(lambda z, log_m: (z * log_m).sum(-1), reference.flatten(1))
    z = ONE_HOT[torch.zeros(CHAINS, EXAMPLES, dtype=torch.int64)]
    state, info = run(InformedMoves(reference, balancing), target, z, 1)
    assert (info.acceptance - 1).abs().max() < 1e-4
    exact = Case(target, target.log_density(ONE_HOT.unsqueeze(1).expand(-1, EXAMPLES, -1)).T.double(), z)
    last = places(state.z)[:, -1]  # ε = 1 forgets where it was
    score = chi_square_score(torch.bincount(last, minlength=27).double(), CHAINS * exact.log_probabilities[-1].exp())
    assert abs(score) < 4
    changed = (state.z != z).any(-1).double().mean(0)
    assert (changed.diff() != 0).all() and changed[0] < changed[-1]


def test_one_slot_or_many_at_once() -> None:
    found = case(strength=0.3)
    for name, most in (("single-site", 1), ("barker", SLOTS)):
        state, _ = run(KERNELS[name], found.target, found.z, 1)
        changed = (state.z != found.z).view(CHAINS, EXAMPLES, SLOTS, CODES).any(-1).sum(-1)
        assert changed.max() == most


def test_the_gradient_raises_the_acceptance_and_the_moves() -> None:
    """In many slots with a law that is far from the reference, where blind proposals fail."""
    logits = 3 * torch.randn(1, 30 * 4, generator=seeded(3))
    target = Density(lambda z, b: (z * b).sum(-1), logits)
    exact = torch.distributions.Categorical(logits=logits.view(30, 4)).probs
    drawn = torch.multinomial(exact, 2000, replacement=True, generator=seeded(4)).T  # (2000, 30)
    z = torch.nn.functional.one_hot(drawn, 4).float().flatten(1).unsqueeze(1)
    uniform, tuning = torch.full((1, 30, 4), 0.25).log(), Tuning(torch.tensor([0.2]), Metric.identity(z))
    gained = {}
    for balancing in informed.BALANCING:
        state, info = InformedMoves(uniform, balancing).step(target, init(target, z), tuning, generator=seeded())
        gained[balancing] = float((state.z != z).double().sum(-1).mean()) / 2
        assert (info.num_gradients == 1).all()
    assert gained["barker"] > 1.5 * gained["none"]
    assert gained["sqrt"] > 1.5 * gained["none"]


def test_impossible_codes_are_never_entered() -> None:
    def never(z: Tensor) -> Tensor:
        return torch.where(z[..., 0] > 0.5, -math.inf, z.sum(-1))

    z = ONE_HOT[torch.full((CHAINS, EXAMPLES), 26)]
    for kernel in KERNELS.values():
        state, info = run(kernel, Density(never), z, 5)
        assert state.z[..., 0].max() == 0
        assert state.log_density.isfinite().all()
        assert info.acceptance.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_seed_same_chains_and_the_global_generator_is_left_alone(dtype: torch.dtype) -> None:
    found = case()
    target = Density(pairwise, *(tensor.to(dtype) for tensor in found.target.data))
    before = torch.random.get_rng_state()
    kernel = InformedMoves(skewed().to(dtype), jitter=1.0)
    generators = [seeded(s) for s in (1, 1, 2)]
    start, tuning = init(target, found.z.to(dtype)), Tuning(STEPS.to(dtype), Metric.identity(found.z.to(dtype)))
    one, same, other = (kernel.step(target, start, tuning, generator=g)[0] for g in generators)
    assert one.z.dtype == one.log_density.dtype == dtype
    assert one.z.equal(same.z) and not one.z.equal(other.z)
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InformedMoves(UNIFORM, "cubic"), "balancing function 'cubic'"),  # type: ignore[arg-type]
        (lambda: InformedMoves(UNIFORM, jitter=-1.0), "jitter is -1.0"),
        (lambda: InformedMoves(UNIFORM[0]), r"shape \(3, 3\)"),
        (lambda: InformedMoves(torch.tensor([[[0.0, -math.inf]]])), "least value of -inf"),
        (lambda: SingleSiteMoves(1), "slot of 1 codes"),
    ],
)
def test_bad_settings(make: Callable[[], Kernel], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        make()
