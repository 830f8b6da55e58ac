"""Autoregressive priors over codes: a distribution, causal, drawn from exactly, quickly and differentiably."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import iwae_terms
from elbowroom.learners.execution import eager
from elbowroom.model.autoregressive import AutoregressivePrior, CausalTransformer, Made
from elbowroom.model.causal_networks import CausalNetwork
from elbowroom.model.code_distributions import AutoregressiveCodes, CodeGrid, CodeSpace
from elbowroom.model.codes import CategoricalGuide
from elbowroom.model.draws import draw
from elbowroom.model.grids.priors import MaskedConvolutions
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.noise import NoiseSource, PerRow, Prepared, Recorder
from elbowroom.numerics import mean_and_stderr

Build = Callable[..., AutoregressivePrior]
PRIORS: dict[str, Build] = {
    "made": lambda space, **k: Made(space, **{"width": 24, "layers": 3, **k}),
    "made, one layer": lambda space, **k: Made(space, **{"width": 7, "layers": 1, **k}),
    "transformer": lambda space, **k: CausalTransformer(space, **{"width": 16, "layers": 2, "heads": 4, **k}),
    "transformer, one head": lambda space, **k: CausalTransformer(space, **{"width": 6, "layers": 1, "heads": 1, **k}),
}
SIDES = {2: (1, 2), 3: (3, 1), 4: (2, 2), 5: (1, 5), 8: (2, 4)}  # slots -> a grid of as many places


def grid(space: CodeSpace) -> CodeGrid:
    return CodeGrid(*SIDES[space.slots])


def levels(space: CodeSpace) -> list[CodeGrid]:
    """Two levels, or three."""
    sides = {4: [(1, 2), (1, 2)], 5: [(1, 1), (1, 2), (1, 2)], 8: [(1, 2), (1, 6)]}
    return [CodeGrid(*side) for side in sides.get(space.slots, [(1, 1), (1, space.slots - 1)])]


def words(context_dim: int = 0) -> tuple[int, ...]:
    """Two words that make up a context."""
    return (context_dim - 1, 1) if context_dim else ()


PRIORS |= {
    "transformer on a grid": lambda space, **k: CausalTransformer(space, **{"width": 12, "grid": grid(space), **k}),
    "transformer on levels": lambda space, **k: CausalTransformer(space, **{"width": 12, "grid": levels(space), **k}),
    "transformer on a grid, words": lambda space, **k: CausalTransformer(
        space, **{"width": 12, "grid": grid(space), "words": words(**k), **k}
    ),
    "pixelcnn": lambda space, **k: MaskedConvolutions(space, **{"grid": grid(space), "width": 8, "layers": 2, **k}),
    "pixelcnn on levels": lambda space, **k: MaskedConvolutions(
        space, **{"grid": levels(space), "width": 8, "layers": 2, **k}
    ),
}
SPACES = [CodeSpace(2, 2), CodeSpace(2, 5), CodeSpace(5, 2), CodeSpace(3, 4)]
C = 3  # length of a context

every = pytest.mark.parametrize("kind", PRIORS)
contexts = pytest.mark.parametrize("context_dim", [0, C])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(kind: str, space: CodeSpace, context_dim: int = 0, scale: float = 0.6) -> AutoregressivePrior:
    """In float64, with weights all over it, so that nothing is near uniform."""
    prior = PRIORS[kind](space, context_dim=context_dim).double()
    with torch.no_grad():
        for weight in prior.parameters():
            weight.normal_(std=scale)
    return prior


def context_of(context_dim: int, rows: int = 4) -> Tensor | None:
    return torch.randn(rows, context_dim, generator=seeded(9), dtype=torch.float64) if context_dim else None


def all_of(space: CodeSpace) -> Tensor:
    """Every code, one-hot, shape (K^L, L K)."""
    return space.one_hot(torch.tensor(list(itertools.product(range(space.codes), repeat=space.slots))), torch.float64)


def some_of(space: CodeSpace, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return space.one_hot(torch.randint(space.codes, (*shape, space.slots), generator=seeded(seed)), torch.float64)


# --- a distribution ----------------------------------------------------------------------------------------------


@contexts
@every
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_probabilities_sum_to_one(kind: str, space: CodeSpace, context_dim: int) -> None:
    context = context_of(context_dim)
    p = build(kind, space, context_dim)(None, context)
    z = all_of(space)
    log_density = p.log_prob(z if context is None else z[:, None].expand(-1, len(context), -1))
    assert p.event_shape == (space.dim,)
    assert log_density.std() > 0.1  # not uniform
    total = log_density.exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


@contexts
@every
def test_log_prob_is_the_sum_of_the_conditionals_of_the_chosen_codes(kind: str, context_dim: int) -> None:
    space, context = CodeSpace(4, 3), context_of(context_dim)
    p = build(kind, space, context_dim)(None, context)
    z = draw(p, (6,), generator=seeded())
    conditionals = p.conditionals(z)
    assert conditionals.shape == (*z.shape[:-1], 4, 3)
    total = conditionals.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    chosen = conditionals.gather(-1, space.numbers(z).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(p.log_prob(z), chosen.sum(-1))


@pytest.mark.parametrize("kind", [Made, CausalTransformer])
def test_training_starts_near_the_uniform_prior(kind: Callable[..., AutoregressivePrior]) -> None:
    space = CodeSpace(8, 16)
    p = kind(space)(None)
    logits = p.conditionals(some_of(space, (50,)).float())
    assert (logits + math.log(16)).abs().mean() < 0.15
    assert logits.std() > 1e-3  # but not on it, where a layer would start without a gradient


@contexts
@every
def test_draws_after_known_slots_have_the_conditional_law(kind: str, context_dim: int) -> None:
    """p(z_3, z_4 | z_1, z_2) by enumeration, against the frequencies of draws, and the known slots as they were."""
    space, context = CodeSpace(4, 2), context_of(context_dim, rows=1)
    p = build(kind, space, context_dim)(None, context)
    z, number = all_of(space)[6], 4000  # 0 1 1 0
    drawn = p.sample_after(z.expand(*p.batch_shape, -1), 2, (number,), generator=seeded(3)).reshape(number, -1)
    numbers = space.numbers(drawn)
    assert torch.equal(numbers[:, :2], torch.tensor([0, 1]).expand(number, 2))
    every_z = all_of(space)[4:8]  # those that begin with 0 1
    joint = p.log_prob(every_z if context is None else every_z[:, None]).reshape(-1).softmax(0)
    counts = torch.bincount(2 * numbers[:, 2] + numbers[:, 3], minlength=4)
    z_scores = (counts - number * joint) / (number * joint * (1 - joint)).sqrt()
    assert (z_scores.abs() < 4).all()


# --- causal ------------------------------------------------------------------------------------------------------


@contexts
@every
def test_a_slot_changes_the_logits_of_all_later_slots_and_of_no_other(kind: str, context_dim: int) -> None:
    space, context = CodeSpace(5, 3), context_of(context_dim)
    p = build(kind, space, context_dim)(None, context)
    z = some_of(space, (7, 4))
    before = p.conditionals(z)
    for slot in range(space.slots):
        other = space.split(z.clone())
        other[..., slot, :] = other[..., slot, :].roll(1, -1)
        changed = (p.conditionals(other.flatten(-2)) - before).abs().amax(dim=(0, 1, 3))
        assert (changed[: slot + 1] == 0).all()
        assert (changed[slot + 1 :] > 1e-4).all()


@contexts
@every
def test_derivatives_in_z_are_causal_too(kind: str, context_dim: int) -> None:
    """Between codes as well, where relaxed draws lie: ∂ℓ_l / ∂z_j is 0 unless j comes before l."""
    space, context = CodeSpace(4, 3), context_of(context_dim, rows=1)
    p = build(kind, space, context_dim)(None, context)
    z = torch.rand(1, space.dim, generator=seeded(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: p.conditionals(v)[0], z)[..., 0, :]  # (L, K, L K)
    size = space.split(jacobian).abs().amax(dim=(1, 3))
    assert torch.isfinite(jacobian).all()
    assert torch.equal(size > 0, torch.ones(4, 4).tril(-1).bool())


@every
def test_the_gradient_in_z_is_that_of_differences(kind: str) -> None:
    space = CodeSpace(3, 4)
    p = build(kind, space)(None)
    z = some_of(space, (2,)).requires_grad_()
    assert torch.autograd.gradcheck(p.log_prob, (z,))


# --- the context -------------------------------------------------------------------------------------------------


@every
def test_the_context_belongs_to_its_datum_under_every_draw(kind: str) -> None:
    space, context = CodeSpace(3, 4), context_of(C)
    prior = build(kind, space, C)
    p = prior(None, context)
    assert p.batch_shape == (4,)
    z = some_of(space, (6, 4))
    together = p.log_prob(z)
    assert together.shape == (6, 4)
    assert context is not None
    for datum in range(4):
        alone = prior(None, context[datum : datum + 1]).log_prob(z[:, datum : datum + 1])
        torch.testing.assert_close(together[:, datum : datum + 1], alone)
    assert draw(p, (2,), generator=seeded()).shape == (2, 4, 12)
    assert draw(p, generator=seeded()).shape == (4, 12)


@every
def test_the_context_changes_the_logits_of_every_slot_not_by_a_shift(kind: str) -> None:
    """No mask is between them, and the first slot, which reads no other, has more than an affine map of it."""
    space, context = CodeSpace(4, 3), context_of(C)
    prior = build(kind, space, C)
    z = some_of(space, (1, 1)).expand(1, 4, -1)
    assert context is not None
    logits = [prior.network(z, scale * context) for scale in (0.0, 1.0, 2.0)]
    assert ((logits[1] - logits[0]).abs().amax(dim=(0, 1, 3)) > 1e-3).all()
    assert ((logits[2] - 2 * logits[1] + logits[0]).abs().amax(dim=(0, 1, 3)) > 1e-3).all()


@every
def test_a_context_that_is_missing_or_of_another_length_is_refused(kind: str) -> None:
    prior = build(kind, CodeSpace(3, 4), C)
    with pytest.raises(ElbowroomError, match="length 3 for each example, but none was given"):
        prior(None)
    with pytest.raises(ElbowroomError, match="length 3 for each example, but one of length 2 was given"):
        prior(None, torch.zeros(5, 2))


@every
def test_a_prior_without_context_ignores_one(kind: str) -> None:
    space = CodeSpace(3, 4)
    prior, z = build(kind, space), some_of(space, (5,))
    p = prior(None, torch.ones(5, 2))
    assert p.batch_shape == ()
    torch.testing.assert_close(p.log_prob(z), prior(None).log_prob(z))


# --- draws -------------------------------------------------------------------------------------------------------


def slot_by_slot(p: AutoregressiveCodes) -> AutoregressiveCodes:
    """The same distribution, whose draws take a pass of the whole network for each slot."""
    return AutoregressiveCodes(p.space, p._logits, p.batch_shape, like=p._like)


@contexts
@every
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_draws_in_one_pass_are_those_of_a_pass_for_each_slot(kind: str, space: CodeSpace, context_dim: int) -> None:
    p = build(kind, space, context_dim)(None, context_of(context_dim))
    drawn = p.sample((60,), seeded())
    assert drawn.shape == (60, *p.batch_shape, space.dim)
    assert torch.equal(drawn, slot_by_slot(p).sample((60,), seeded()))


@contexts
@every
def test_the_logits_of_a_draw_are_those_of_the_density(
    kind: str, context_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slot by slot, at codes that are chosen for it."""
    space, context, chosen, seen = CodeSpace(5, 3), context_of(context_dim, rows=20), CausalNetwork._chosen, []
    network = build(kind, space, context_dim).network

    def recording(network: CausalNetwork, logits: Tensor, bias: Tensor) -> Tensor:
        seen.append(logits)
        return chosen(network, logits, bias)

    monkeypatch.setattr(CausalNetwork, "_chosen", recording)
    z = some_of(space, (20,))
    assert torch.equal(network.decode(1e9 * space.split(z), context).flatten(-2), z)
    torch.testing.assert_close(torch.stack(seen, 1), network(z, context))


@contexts
@every
def test_draws_follow_the_probabilities(kind: str, context_dim: int) -> None:
    """Pearson's χ² over all codes, the rare ones together, as a z-score."""
    space, n, context = CodeSpace(3, 3), 5_000, context_of(context_dim, rows=2)
    p = build(kind, space, context_dim, scale=0.4)(None, context)
    z = all_of(space)
    probabilities = p.log_prob(z if context is None else z[:, None].expand(-1, 2, -1)).detach().exp()
    numbers = space.numbers(draw(p, (n,), generator=seeded())).reshape(n, -1, 3)
    place = (numbers * torch.tensor([9, 3, 1])).sum(-1)
    for datum, expected in enumerate(n * probabilities.reshape(space.size, -1).T):
        counts = torch.bincount(place[:, datum], minlength=space.size).double()
        usual = expected > 5
        cells = [torch.cat([values[usual], values[~usual].sum(0, keepdim=True)]) for values in (counts, expected)]
        degrees = int(usual.sum())
        assert degrees > 10
        chi_square = ((cells[0] - cells[1]).square() / cells[1].clamp(min=1)).sum()
        assert abs((chi_square - degrees) / math.sqrt(2 * degrees)) < 4


@every
def test_zero_noise_gives_the_most_likely_code_of_each_slot(kind: str) -> None:
    space = CodeSpace(4, 3)
    prior = build(kind, space)
    z = prior.network.decode(torch.zeros(2, *space).double(), None).flatten(-2)
    assert torch.equal(space.numbers(z), prior(None).conditionals(z).argmax(-1))


@every
def test_more_rows_than_are_drawn_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = CodeSpace(3, 4)
    p = build(kind, space, C)(None, context_of(C))
    wanted = p.sample((5,), seeded())
    monkeypatch.setattr("elbowroom.model.autoregressive._ROWS", 7)
    assert torch.equal(p.sample((5,), seeded()), wanted)
    assert p.sample((0,), seeded()).shape == (0, 4, 12)


@every
def test_draws_come_from_the_generator_alone(kind: str) -> None:
    space = CodeSpace(3, 4)
    p = build(kind, space)(None)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (draw(p, (50,), generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    recorder = Recorder(seeded(0))  # and can be prepared, as a compiled function needs
    assert torch.equal(p.sample((50,), recorder), first)
    assert torch.equal(p.sample((50,), Prepared(recorder.draw(seeded(0)))), first)


def test_a_row_with_its_own_generator_is_drawn_alike_in_any_company() -> None:
    prior, context = build("made", CodeSpace(3, 4), C), context_of(C)
    assert context is not None
    one, many = (prior(None, context[:n]).sample((5,), PerRow([seeded(s) for s in range(n)])) for n in (1, 4))
    assert torch.equal(one[:, 0], many[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every
def test_densities_and_draws_have_the_dtype_of_the_weights(kind: str, dtype: torch.dtype) -> None:
    space = CodeSpace(3, 4)
    p = PRIORS[kind](space).to(dtype)(None)
    z = draw(p, (5,), generator=seeded())
    assert z.dtype == p.log_prob(z).dtype == dtype
    assert not z.requires_grad


@every
def test_the_prior_in_a_guides_place_draws_for_every_datum(kind: str) -> None:
    space = CodeSpace(3, 4)
    prior = build(kind, space)
    p, q = prior(None), PriorGuide(prior)(torch.zeros(5, 7))
    z = draw(q, (2,), generator=seeded())
    assert q.batch_shape == (5,)
    assert torch.equal(z, draw(p, (2, 5), generator=seeded()))
    assert torch.equal(z, slot_by_slot(p).expand((5,)).sample((2,), seeded()))
    torch.testing.assert_close(q.log_prob(z), p.log_prob(z))


# --- learning ----------------------------------------------------------------------------------------------------


@contexts
@every
def test_every_parameter_learns(kind: str, context_dim: int) -> None:
    space = CodeSpace(4, 3)
    prior = PRIORS[kind](space, context_dim=context_dim)
    context = context_of(context_dim, rows=20)
    p = prior(None, None if context is None else context.float())
    p.log_prob(some_of(space, (20,)).float()).sum().backward()
    for name, weight in prior.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["made", "transformer"])
def test_a_trained_prior_reaches_the_entropy_of_a_law_of_several_slots(kind: str) -> None:
    """z₁, z₂ are uniform, z₃ is their sum mod 3 but for a tenth, z₄ = z₁ and z₅ = z₃."""
    space, wrong, total, n = CodeSpace(5, 3), 0.1, 3_000, 1_000
    first, second = torch.randint(3, (2, total), generator=seeded(1))
    flipped = torch.rand(total, generator=seeded(2)) < wrong
    third = (first + second + flipped * torch.randint(1, 3, (total,), generator=seeded(3))) % 3
    data = space.one_hot(torch.stack([first, second, third, first, third], -1))
    prior = PRIORS[kind](space, width=32, layers=2)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for step in range(150):
        rows = torch.randint(total - n, (100,), generator=seeded(step))
        loss = -prior(None).log_prob(data[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    exact = -torch.where(flipped[-n:], math.log(wrong / 2 / 9), math.log((1 - wrong) / 9))  # −log p of the law itself
    excess = exact.neg() - prior(None).log_prob(data[-n:]).detach()  # its mean is KL(law ‖ prior), at least 0
    entropy = 2 * math.log(3) - (1 - wrong) * math.log(1 - wrong) - wrong * math.log(wrong / 2)
    for values, low, high in ((exact, entropy, entropy), (excess, 0.0, 0.1)):
        mean, stderr = mean_and_stderr(values)
        assert low - 4 * stderr < mean < high + 4 * stderr


# --- the compiler ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.cpp
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own doings
@pytest.mark.parametrize("context_dim", [0, C])
@pytest.mark.parametrize("kind", ["made", "transformer"])
def test_densities_compile_as_one_graph(kind: str, context_dim: int) -> None:
    space, context = CodeSpace(4, 3), context_of(context_dim, rows=5)
    prior = build(kind, space, context_dim)
    z = some_of(space, (2, 5))

    def log_prob(z: Tensor) -> Tensor:
        return prior(None, context).log_prob(z)

    torch._dynamo.reset()
    wanted, found = log_prob(z), torch.compile(log_prob, fullgraph=True)(z)
    torch.testing.assert_close(found, wanted)
    weights = list(prior.parameters())
    torch.testing.assert_close(torch.autograd.grad(found.sum(), weights), torch.autograd.grad(wanted.sum(), weights))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.lowered
@pytest.mark.usefixtures("traced")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("guided", [True, False], ids=["a guide", "the prior in its place"])
@pytest.mark.parametrize("kind", ["made", "transformer"])
def test_an_objective_compiles_with_the_same_draws(kind: str, guided: bool) -> None:
    from elbowroom.learners.compiled import Compiled  # the compiler takes seconds to import

    space, x = CodeSpace(4, 3), torch.rand(6, 9, generator=seeded()).round().double()
    prior = build(kind, space)
    model = LatentModel(prior, Bernoulli(MLP((space.dim,), (1, 9), hidden=(8,)), (9,)))
    guide = CategoricalGuide(MLP((9,), space, hidden=(8,)), space) if guided else PriorGuide(prior)
    pair = Pair(model, guide).double()

    def terms(pair: Pair, batch: Batch, *, generator: NoiseSource) -> tuple[Tensor, dict[str, Tensor]]:
        return iwae_terms(pair.model, pair.guide, batch, num_samples=3, estimator="score-function", generator=generator)

    found = []
    for execution in (eager, Compiled(len(x), required=True, announce=pytest.fail)):
        value, parts = execution(terms, pair, Batch(x), generator=seeded())
        found.append((value, parts, [weight.grad.clone() for weight in pair.parameters() if weight.grad is not None]))
        pair.zero_grad()
    torch.testing.assert_close(found[1], found[0])


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Made(CodeSpace(1, 3)), "1 slot of"),
        (lambda: CausalTransformer(CodeSpace(3, 1)), "1 code of"),
        (lambda: Made(CodeSpace(9, 3), width=7), "7 hidden units was asked for, but 9 slots need 8"),
        (lambda: Made(CodeSpace(9, 3), width=8, context_dim=1), "8 hidden units was asked for, but 9 slots need 9"),
        (lambda: Made(CodeSpace(3, 3), layers=0), "prior-layers is 0"),
        (lambda: CausalTransformer(CodeSpace(3, 3), width=18), "width 18 was asked for, but 4 heads"),
        (lambda: CausalTransformer(CodeSpace(3, 3), heads=0), "prior-heads is 0"),
        (lambda: CausalTransformer(CodeSpace(3, 3), width=-4), "prior-width is -4"),
    ],
)
def test_refusals(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        wrong()


@pytest.mark.parametrize(("context_dim", "width"), [(0, 5), (C, 6)])
def test_the_least_width_reads_every_slot(context_dim: int, width: int) -> None:
    space, context = CodeSpace(6, 2), context_of(context_dim, rows=1)
    prior = Made(space, width=width, layers=2, context_dim=context_dim).double()
    z = torch.rand(1, space.dim, generator=seeded(), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior.network(v, context)[0], z)[..., 0, :]
    assert torch.equal(space.split(jacobian).abs().amax(dim=(1, 3)) > 0, torch.ones(6, 6).tril(-1).bool())
