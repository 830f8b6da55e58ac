"""Vector quantisation in stages: whose gradient goes where, the choice of a temperature, and training bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo, iwae_terms
from elbowroom.learners.execution import eager
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update, cosine
from elbowroom.learners.vq import Vq, VqState
from elbowroom.learners.vq_objectives import (
    QUANTIZER_GRADIENTS,
    choose_temperature,
    joint_terms,
    prior_terms,
    reconstruction_terms,
    rotated,
    straight_through,
)
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import CategoricalGuide, UnigramCodes
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.quantizer import Codebook, CodebookKind, EmbeddedCodes, NearestCodeGuide
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair
from elbowroom.running.checkpoints import Checkpoints
from elbowroom.running.config import configure

SPACE, DIM, X, ROWS = CodeSpace(3, 4), 2, 6, 24
KINDS: tuple[CodebookKind, ...] = ("ema", "gradient", "fsq")
STEPS, PRIOR_FROM, JOINT_FROM, LAST_FROM = 40, 12, 20, 34


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything() -> Tensor:
    numbers = torch.tensor(list(itertools.product(range(SPACE.codes), repeat=SPACE.slots)))
    return SPACE.one_hot(numbers, torch.float64)


def make_pair(kind: CodebookKind = "ema", *, seed: int = 0, batch_norm: bool = False) -> Pair:
    torch.manual_seed(seed)
    codebook = Codebook(SPACE, DIM, kind=kind)
    encoder = MLP((X,), (SPACE.slots, DIM), hidden=(8,), batch_norm=batch_norm)
    decoder = EmbeddedCodes(codebook, MLP((SPACE.slots * DIM,), (1, X), hidden=(8,), activation="silu"))
    model = LatentModel(UnigramCodes(SPACE), Bernoulli(decoder, (X,)))
    return Pair(model, NearestCodeGuide(encoder, codebook)).double()


def make_batch(rows: int = ROWS, seed: int = 0) -> Batch:
    """Two kinds of rows, so that there is something to learn."""
    generator = _generator(seed)
    kind = torch.randint(2, (rows, 1), generator=generator).double()
    p = 0.9 * kind + 0.1 * (1 - kind)
    return Batch(torch.bernoulli(p.expand(rows, X).contiguous(), generator=generator))


def make_learner(total_steps: int = STEPS, lr: float = 1e-2, ema: float = 0.0, **settings: Any) -> Vq:
    update = Update(optimizer=functools.partial(torch.optim.Adam, lr=lr), total_steps=total_steps, ema=ema)
    stages = {"prior_from": PRIOR_FROM, "joint_from": JOINT_FROM, "last_from": LAST_FROM}
    return Vq(update=update, **(stages | settings))


def run(
    learner: Vq, state: TrainingState, steps: int, generator: torch.Generator
) -> tuple[TrainingState, list[StepInfo]]:
    infos = []
    for _ in range(steps):
        state, info = learner.step(state, make_batch(seed=state.step % 5), generator=generator)
        infos.append(info)
    return state, infos


def guide_of(pair: Pair) -> NearestCodeGuide:
    assert isinstance(pair.guide, NearestCodeGuide)
    return pair.guide


def gradients(pair: Pair, value: Tensor) -> dict[str, Tensor]:
    pair.zero_grad(set_to_none=True)
    value.backward()
    return {name: torch.zeros_like(w) if w.grad is None else w.grad.clone() for name, w in pair.named_parameters()}


def parts_with_gradient(pair: Pair, value: Tensor) -> set[str]:
    """Encoder, temperature, codebook, decoder, prior: those with a gradient that is not zero."""
    names = {
        "guide.network": "encoder",
        "guide.log_temperature": "temperature",
        "guide.codebook": "codebook",
        "model.likelihood.network.codebook": "codebook",
        "model.likelihood": "decoder",
        "model.prior": "prior",
    }
    return {
        next(part for start, part in names.items() if name.startswith(start))
        for name, gradient in gradients(pair, value).items()
        if bool(gradient.abs().sum() > 0)
    }


# --- the gradient past the choice --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTIZER_GRADIENTS)
def test_the_value_is_the_chosen_vector(name: str) -> None:
    e, c = torch.randn(2, 20, 3, 5, generator=_generator(), dtype=torch.float64)
    assert torch.allclose(QUANTIZER_GRADIENTS[name](e, c), c, rtol=1e-9)


def test_straight_through_hands_the_gradient_on() -> None:
    e, c, g = torch.randn(3, 20, 5, generator=_generator(), dtype=torch.float64)
    e.requires_grad_()
    (gradient,) = torch.autograd.grad(straight_through(e, c), e, g)
    assert torch.equal(gradient, g)


def test_a_rotation_keeps_the_angle_between_gradient_and_vector() -> None:
    """∠(gradient, e) = ∠(g, c), with the length |g| |c| / |e|; and what is orthogonal to both is only stretched."""
    e, c, g = torch.randn(3, 20, 5, generator=_generator(), dtype=torch.float64)
    e.requires_grad_()
    (gradient,) = torch.autograd.grad(rotated(e, c), e, g)
    stretch = (c.norm(dim=-1) / e.norm(dim=-1)).detach()
    assert torch.allclose(gradient.norm(dim=-1), stretch * g.norm(dim=-1))
    similar = functools.partial(torch.cosine_similarity, dim=-1)
    assert torch.allclose(similar(gradient, e), similar(g, c))
    plane = torch.linalg.qr(torch.stack([e.detach(), c], -1)).Q
    outside = g - (plane @ (plane.mT @ g.unsqueeze(-1))).squeeze(-1)
    (turned,) = torch.autograd.grad(rotated(e, c), e, outside)
    assert torch.allclose(turned, stretch.unsqueeze(-1) * outside)


@pytest.mark.parametrize("name", QUANTIZER_GRADIENTS)
@pytest.mark.parametrize("case", ["opposite", "zero", "equal"])
def test_the_gradient_is_finite_where_no_rotation_is_defined(name: str, case: str) -> None:
    c = torch.tensor([[1.0, 2.0]])
    e = {"opposite": -c, "zero": torch.zeros_like(c), "equal": c.clone()}[case].requires_grad_()
    (gradient,) = torch.autograd.grad(QUANTIZER_GRADIENTS[name](e, c).sum(), e)
    assert bool(gradient.isfinite().all())


# --- the first stage ---------------------------------------------------------------------------------------------


def _first_stage(pair: Pair, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    batch = make_batch()
    z = guide_of(pair).nearest(batch.x)
    return reconstruction_terms(pair, batch, z, **({"commitment": 0.25} | settings))


@pytest.mark.parametrize("gradient", QUANTIZER_GRADIENTS)
@pytest.mark.parametrize(
    ("codebook_loss", "moved"),
    [(False, {"encoder", "decoder"}), (True, {"encoder", "decoder", "codebook"})],
    ids=["averages", "gradient"],
)
def test_which_parts_the_first_stage_trains(gradient: str, codebook_loss: bool, moved: set[str]) -> None:
    pair = make_pair()
    value, _ = _first_stage(pair, codebook_loss=codebook_loss, gradient=gradient)
    assert parts_with_gradient(pair, value.sum()) == moved


def test_its_terms_are_those_of_the_guide_that_takes_the_nearest_codes() -> None:
    pair, batch = make_pair(), make_batch()
    guide = guide_of(pair)
    z = guide.nearest(batch.x)
    value, parts = _first_stage(pair)
    assert torch.allclose(parts["elbo"], pair.model.log_joint(batch.x, z))
    assert torch.allclose(parts["kl"], -pair.model.log_prior(z))
    drift = (guide.vectors(batch.x).flatten(1) - guide.codebook.embed(z)).square().sum(-1)
    assert torch.allclose(value, parts["reconstruction"] - 0.25 * drift)
    with torch.no_grad():  # with no temperature left, this is the ELBO of draws
        guide.log_temperature.fill_(-30.0)
        drawn = elbo(pair.model, guide, batch, kl="auto", generator=_generator())
    assert torch.allclose(drawn, parts["elbo"])


def _moves(pair: Pair, commitment: float, codebook_loss: bool) -> tuple[Tensor, Tensor]:
    """Gradients of minus the two squared distances alone, in the encoder's output bias and in the codebook."""
    differences = []
    for weight, loss in ((commitment, codebook_loss), (0.0, False)):
        value, _ = _first_stage(pair, commitment=weight, codebook_loss=loss)
        differences.append(gradients(pair, value.sum()))
    name = next(key for key in differences[0] if key.endswith("codebook.vectors"))
    bias = "guide.network.output.bias"
    return tuple(differences[0][key] - differences[1][key] for key in (bias, name))  # type: ignore[return-value]


def _expected_moves(pair: Pair) -> tuple[Tensor, Tensor]:
    """2 Σ (c − e) in the bias, and 2 Σ (e − c) in the vector of every code, by a loop."""
    guide, batch = guide_of(pair), make_batch()
    with torch.no_grad():
        e, z = guide.vectors(batch.x), guide.nearest(batch.x)
        c = guide.codebook.embed(z).view_as(e)
        numbers = SPACE.numbers(z)
        pull = torch.zeros_like(guide.codebook.vectors)
        for row in range(len(batch)):
            for slot in range(SPACE.slots):
                pull[slot, numbers[row, slot]] += 2 * (e - c)[row, slot]
    return 2 * (c - e).sum(0).flatten(), pull


def test_commitment_moves_the_encoder_and_the_codebooks_loss_the_codebook() -> None:
    pair = make_pair()
    encoder, codebook = _expected_moves(pair)
    found = _moves(pair, 0.25, codebook_loss=False)
    assert torch.allclose(found[0], 0.25 * encoder)
    assert torch.equal(found[1], torch.zeros_like(codebook))
    found = _moves(pair, 0.0, codebook_loss=True)
    assert torch.equal(found[0], torch.zeros_like(encoder))
    assert torch.allclose(found[1], codebook)


def test_beta_on_the_wrong_term_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: β weighs the codebook's loss, as it did in taming-transformers."""
    right = reconstruction_terms

    def wrong(pair: Pair, batch: Batch, z: Tensor, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = right(pair, batch, z, **(settings | {"commitment": 0.0, "codebook_loss": False}))
        guide = guide_of(pair)
        e = guide.vectors(batch.x)
        c = guide.codebook.embed(z).view_as(e)
        drift = settings["commitment"] * (e.detach() - c).square().sum((-1, -2))
        return value - drift - (e - c.detach()).square().sum((-1, -2)), parts

    monkeypatch.setitem(globals(), "reconstruction_terms", wrong)
    with pytest.raises(AssertionError):
        test_commitment_moves_the_encoder_and_the_codebooks_loss_the_codebook()


# --- the second stage --------------------------------------------------------------------------------------------


def test_the_second_stage_trains_the_prior_alone() -> None:
    pair = make_pair()
    value, parts = prior_terms(pair, make_batch(), num_samples=3, generator=_generator())
    assert parts_with_gradient(pair, value.sum()) == {"prior"}
    assert torch.allclose(parts["elbo"], parts["reconstruction"] - parts["kl"])


def test_its_elbo_is_that_of_the_enumeration() -> None:
    pair, batch = make_pair(), make_batch()
    with torch.no_grad():
        log_q, log_joint = _log_densities(pair, batch)
        exact = (log_q.exp() * (log_joint - log_q)).sum(0)
        drawn = torch.stack([prior_terms(pair, batch, num_samples=100, generator=_generator(s))[1]["elbo"]
                             for s in range(20)])  # fmt: skip
    assert _scores(drawn, exact).abs().max() < 4


def _log_densities(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    z = everything()[:, None].expand(-1, len(batch), -1)
    return pair.guide(batch.x).log_prob(z), pair.model.log_joint(batch.x, z)


def _scores(values: Tensor, expected: Tensor) -> Tensor:
    return (values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values))).clamp(min=1e-12)


def _slopes(usage: Tensor) -> Tensor:
    """Gradients of the second stage in a unigram prior that has this usage, for 200 seeds."""
    pair, batch = make_pair(), make_batch()
    guide_of(pair).log_temperature.data.fill_(0.5)
    assert isinstance(pair.model.prior, UnigramCodes)
    pair.model.prior.logits.data.copy_(usage.log())
    slopes = []
    for seed in range(200):
        value, _ = prior_terms(pair, batch, num_samples=4, generator=_generator(seed))
        slopes.append(gradients(pair, value.mean())["model.prior.logits"].flatten())
    return torch.stack(slopes)


def _usages() -> tuple[Tensor, Tensor]:
    """Of draws, which is the aggregate posterior, and of the nearest codes; both in a temperature of e^½."""
    pair, batch = make_pair(), make_batch()
    guide_of(pair).log_temperature.data.fill_(0.5)
    with torch.no_grad():
        q = pair.guide(batch.x)
        assert isinstance(q, Codes)
        return q.probs.mean(0), SPACE.split(q.mode).mean(0).clamp(min=1e-3)


def test_the_prior_is_fitted_to_draws() -> None:
    """A unigram prior has its maximum at the aggregate posterior, where the expected gradient is zero."""
    draws, _ = _usages()
    assert _scores(_slopes(draws), torch.zeros(SPACE.dim, dtype=torch.float64)).abs().max() < 4


def test_a_prior_that_is_fitted_to_the_nearest_codes_is_seen() -> None:
    """Planted: the maximum for arg max codes, as DALL·E's prior has it; for draws there is a slope."""
    _, nearest = _usages()
    assert _scores(_slopes(nearest), torch.zeros(SPACE.dim, dtype=torch.float64)).abs().max() > 20


# --- the third stage ---------------------------------------------------------------------------------------------


def test_the_third_stage_trains_everything_with_the_gradient_of_the_elbo() -> None:
    """The score function's expected gradient, in every weight, is that of the enumerated ELBO."""
    pair, batch = make_pair(), make_batch(6)
    settings: dict[str, Any] = {"estimator": "score-function", "temperature": 1.0, "num_samples": 20}
    value, _ = joint_terms(pair, batch, generator=_generator(), **settings)
    assert parts_with_gradient(pair, value.sum()) == {"encoder", "temperature", "codebook", "decoder", "prior"}
    log_q, log_joint = _log_densities(pair, batch)
    exact = gradients(pair, (log_q.exp() * (log_joint - log_q)).sum(0).mean())
    found: dict[str, list[Tensor]] = {name: [] for name in exact}
    for seed in range(150):
        value, _ = joint_terms(pair, batch, generator=_generator(seed), **settings)
        for name, gradient in gradients(pair, value.mean()).items():
            found[name].append(gradient)
    for name, several in found.items():
        assert _scores(torch.stack(several).flatten(1), exact[name].flatten()).abs().max() < 4.5, name  # of some 130


# --- the temperature ---------------------------------------------------------------------------------------------


def test_the_importance_weighted_bound_serves_in_the_last_part() -> None:
    pair, batch = make_pair(), make_batch()
    settings: dict[str, Any] = {"num_samples": 5, "estimator": "score-function", "temperature": 1.0}
    value, parts = joint_terms(pair, batch, bound="iwae", generator=torch.Generator().manual_seed(0), **settings)
    by_hand = iwae_terms(
        pair.model, pair.guide, batch, num_samples=5, estimator="score-function",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(value, by_hand.value) and torch.equal(parts["elbo"], by_hand.parts["elbo"])
    shares = {"prior_from": 0, "joint_from": 2, "last_from": 4}
    learner = make_learner(total_steps=6, last_bound="iwae", last_samples=5, **shares)
    state = learner.init(pair)
    reported = []
    for step in range(6):
        state, info = learner.step(state, batch, generator=torch.Generator().manual_seed(step))
        reported.append(set(info.terms))
    assert reported == [{"elbo", "reconstruction", "kl"}] * 4 + [{"elbo"}] * 2


def test_the_best_temperature_of_the_ladder_is_chosen_and_nothing_is_changed() -> None:
    pair, batch = make_pair(), make_batch(200)
    guide = guide_of(pair)
    nn.init.normal_(guide.network.output.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    before = copy.deepcopy(pair.state_dict())
    unit = torch.full((SPACE.slots, 1), 0.3, dtype=torch.float64)
    chosen, value = choose_temperature(pair, batch, unit, generator=_generator())
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    exact = {}
    with torch.no_grad():
        for factor in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
            guide.log_temperature.copy_((factor * unit).log())
            log_q, log_joint = _log_densities(pair, batch)
            exact[factor] = (log_q.exp() * (log_joint - log_q)).sum(0).mean().item()
    best = max(exact, key=exact.__getitem__)
    assert torch.allclose(chosen, (best * unit).log())
    assert value == pytest.approx(exact[best], abs=0.1)
    assert sorted(exact.values())[-2] < exact[best] - 0.01  # it was no tie


def test_a_guide_without_any_spread_has_a_temperature_still() -> None:
    nothing = torch.zeros(SPACE.slots, 1, dtype=torch.float64)
    chosen, _ = choose_temperature(make_pair(), make_batch(), nothing, generator=_generator())
    assert bool(chosen.isfinite().all())


# --- training ----------------------------------------------------------------------------------------------------


def _weights(pair: Pair) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in pair.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_moves_its_own_weights(kind: CodebookKind) -> None:
    learner, generator = make_learner(), _generator()
    state: TrainingState = learner.init(make_pair(kind))
    moved = []
    for steps in (PRIOR_FROM, JOINT_FROM - PRIOR_FROM, STEPS - JOINT_FROM):
        if state.step == PRIOR_FROM:  # its first step chooses the temperature
            state, _ = run(learner, state, 1, generator)
            steps -= 1
        before = _weights(state.pair)
        state, infos = run(learner, state, steps, generator)
        moved.append({name for name, weight in _weights(state.pair).items() if not torch.equal(weight, before[name])})
        assert all(set(info.terms) == {"elbo", "reconstruction", "kl"} for info in infos)
        assert infos[0].decoder_gradients == (0 if len(moved) == 2 else ROWS)
    everyone = set(_weights(state.pair))
    assert moved == [everyone - {"model.prior.logits"}, {"model.prior.logits"}, everyone]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_skipped_changes_no_codebook_and_no_temperature(kind: CodebookKind) -> None:
    learner, generator = make_learner(), _generator()
    state, _ = run(learner, learner.init(make_pair(kind)), 3, generator)
    before, averages = _weights(state.pair), copy.deepcopy(state.averages)
    skipping = dataclasses.replace(learner, update=dataclasses.replace(learner.update, skip_norm=1e-12))
    state, infos = run(skipping, state, 1, generator)
    assert infos[0].terms["skipped"] == 1.0
    for name, weight in _weights(state.pair).items():
        assert torch.equal(weight, before[name]), name
    for name in ("counts", "sums", "distances"):
        assert torch.equal(getattr(averages, name), getattr(state.averages, name))


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_the_codebook_starts_at_the_centres_of_the_first_batch(kind: CodebookKind) -> None:
    learner = make_learner(lr=0.0, decay=0.0, restart_below=0.0)
    pair = make_pair(kind)
    state = learner.init(pair)
    learner.step(state, make_batch(), generator=_generator())
    guide = guide_of(pair)
    vectors = guide.vectors(make_batch().x)
    chosen = SPACE.split(guide.nearest(make_batch().x))
    for slot, code in (chosen.sum(0) > 0).nonzero().tolist():
        mine = vectors[chosen[:, slot, code] == 1, slot]
        assert torch.allclose(mine.mean(0), guide.codebook.vectors[slot, code], rtol=1e-4, atol=1e-6)


def test_a_batch_is_counted_once_by_batch_normalisation_in_the_first_stage() -> None:
    """The vectors that choose the codes are those of the objective: computed twice, averaged once."""
    learner, pair = make_learner(), make_pair(batch_norm=True)
    norm = next(part for part in guide_of(pair).modules() if isinstance(part, nn.BatchNorm1d))
    assert norm.running_mean is not None and norm.num_batches_tracked is not None
    state: TrainingState = learner.init(pair)
    generator = _generator()
    for step in (1, 2, PRIOR_FROM):
        state, _ = run(learner, state, step - state.step, generator)
        assert int(norm.num_batches_tracked) == step
        assert norm.track_running_stats


def test_the_temperature_of_the_first_stage_is_the_mean_squared_distance() -> None:
    learner = make_learner(lr=0.0, decay=0.0, restart_below=0.0)
    pair, batch = make_pair(), make_batch()
    learner.step(learner.init(pair), batch, generator=_generator())
    guide = guide_of(pair)
    found = guide.log_temperature.exp().squeeze(-1)
    e = guide.vectors(batch.x)
    assert torch.allclose(found, guide.codebook.squared_distances(e).amin(-1).mean(0), rtol=1e-3)


def test_the_rate_grows_and_falls_in_every_stage() -> None:
    update = Update(optimizer=functools.partial(torch.optim.SGD, lr=0.1), total_steps=1000, schedule=cosine)
    learner = Vq(update=update, prior_from=200, joint_from=300, last_from=900, joint_rate=0.5)
    rates = [learner.rate(step) for step in range(1000)]
    for start, end, peak in ((0, 200, 1.0), (200, 300, 1.0), (300, 1000, 0.5)):
        warm = (end - start) // 20
        assert rates[start] <= peak / warm + 1e-12
        assert max(rates[start:end]) == pytest.approx(peak, rel=0.02)
        assert rates[start + warm : end] == sorted(rates[start + warm : end], reverse=True)
        assert rates[end - 1] < 0.01 * peak
    batch, state = make_batch(), learner.init(make_pair())
    state.step = 310
    _, info = learner.step(state, batch, generator=_generator())
    assert info.lr == pytest.approx(0.1 * rates[310])


def test_a_stage_begins_with_fresh_moments() -> None:
    learner, generator = make_learner(), _generator()
    state: TrainingState = learner.init(make_pair())
    steps = []
    for _ in range(JOINT_FROM + 1):
        state, _ = run(learner, state, 1, generator)
        steps.append(max(int(moments["step"]) for moments in state.optimizer.state.values()))
    expected = [*range(1, PRIOR_FROM + 1), *range(1, JOINT_FROM - PRIOR_FROM + 1), 1]
    assert steps == expected


class Written(NamedTuple):
    """What a run leaves after a step, and what that step said."""

    tensors: dict[str, Tensor]
    weights: dict[str, Tensor]
    noise: Tensor
    info: StepInfo | None


#: where a run stops, and how far it goes on: from each stage into the next one
STOPS = {7: PRIOR_FROM + 2, PRIOR_FROM: 15, 15: JOINT_FROM + 2, JOINT_FROM: LAST_FROM + 1, LAST_FROM: STEPS}


@functools.cache
def _whole_run(kind: CodebookKind, ema: float) -> list[Written]:
    """After each number of steps; not to be changed."""
    learner, generator = make_learner(ema=ema), _generator()
    state: TrainingState = learner.init(make_pair(kind))
    written: list[Written] = []
    infos: list[StepInfo] = []
    for _ in range(STEPS + 1):
        tensors = {name: tensor.clone() for name, tensor in state.tensors().items()}
        weights = copy.deepcopy(state.learned.state_dict())
        written.append(Written(tensors, weights, generator.get_state(), infos[-1] if infos else None))
        if state.step < STEPS:
            state, infos = run(learner, state, 1, generator)
    return written


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ema", "stop"),
    [
        *((0.9, stop) for stop in STOPS),
        (0.0, 15),
        *(pytest.param(0.0, stop, marks=pytest.mark.slow) for stop in STOPS if stop != 15),
    ],
)
def test_a_run_goes_on_bit_for_bit_from_every_stage(kind: CodebookKind, ema: float, stop: int) -> None:
    whole, learner, generator = _whole_run(kind, ema), make_learner(ema=ema), _generator()
    again: TrainingState = learner.init(make_pair(kind, seed=9))
    again.learned.load_state_dict(whole[stop].weights)
    again.load(whole[stop].tensors)
    again.step = stop
    generator.set_state(whole[stop].noise)
    again, infos = run(learner, again, STOPS[stop] - stop, generator)
    wanted = whole[STOPS[stop]]
    assert infos == [written.info for written in whole[stop + 1 : STOPS[stop] + 1]]
    ours, theirs = again.tensors() | again.learned.state_dict(), wanted.tensors | wanted.weights
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("forgotten", ["codebook.counts", "codebook.sums", "codebook.distances"])
def test_averages_that_were_not_saved_would_be_seen(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one of the averages is not restored."""
    right = VqState.load

    def forgetting(self: VqState, tensors: Any) -> None:
        right(self, {name: torch.zeros_like(t) if name == forgotten else t for name, t in tensors.items()})

    monkeypatch.setattr(VqState, "load", forgetting)
    with pytest.raises(AssertionError):
        test_a_run_goes_on_bit_for_bit_from_every_stage("ema", 0.0, 7)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing_in_any_stage(training: bool) -> None:
    learner, generator = make_learner(), _generator()
    state: TrainingState = learner.init(make_pair())
    for steps in (5, PRIOR_FROM, JOINT_FROM - 5):
        state, _ = run(learner, state, steps, generator)
        before = copy.deepcopy(state.pair.state_dict()) | {k: v.clone() for k, v in state.tensors().items()}
        state.pair.train(training)
        measured = learner.measure(state.pair, make_batch(), generator=_generator())
        after = state.pair.state_dict() | state.tensors()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert measured["elbo"].shape == (ROWS,)
        assert torch.allclose(measured["elbo"], measured["reconstruction"] - measured["kl"])
        state.pair.train()


@pytest.mark.parametrize("step", [0, 5, PRIOR_FROM, JOINT_FROM])
def test_data_that_are_not_finite_reach_no_weight_in_any_stage(step: int) -> None:
    learner, generator = make_learner(ema=0.9), _generator()
    state, _ = run(learner, learner.init(make_pair()), step, generator)
    before = _weights(state.pair) | copy.deepcopy(state.learned.state_dict())
    x = make_batch().x.clone()
    x[3, 1] = math.nan
    with pytest.raises(ElbowroomError, match="finite"):
        learner.step(state, Batch(x), generator=generator)
    after = _weights(state.pair) | state.learned.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert state.step == step
    run(learner, state, 1, generator)


def _each_once() -> list[Any]:
    """Kinds of codebooks and gradients, each of them once; all pairs in the slow tests."""
    pairs = list(itertools.product(enumerate(KINDS), enumerate(QUANTIZER_GRADIENTS)))
    return [
        pytest.param(kind, gradient, marks=() if i % len(QUANTIZER_GRADIENTS) == j else pytest.mark.slow)
        for (i, kind), (j, gradient) in pairs
    ]


@pytest.mark.parametrize(("kind", "gradient"), _each_once())
def test_the_bound_comes_near_the_best_there_is(kind: CodebookKind, gradient: str) -> None:
    """Two kinds of rows, whose law is known: the entropy of the data is the bound's maximum."""
    learner = make_learner(300, 2e-2, prior_from=90, joint_from=130, last_from=230, gradient=gradient)
    pair, generator, big = make_pair(kind), _generator(), make_batch(2000, seed=7)
    state: TrainingState = learner.init(pair)
    by_stage = []
    for steps in (90, 40, 170):
        for _ in range(steps):
            state, _ = learner.step(state, make_batch(200, seed=100 + state.step), generator=generator)
        with torch.no_grad():
            by_stage.append(learner.measure(pair, big, generator=_generator())["elbo"].mean().item())
    ones = big.x.sum(-1, keepdim=True)
    halves = [ones * math.log(p) + (X - ones) * math.log(1 - p) for p in (0.1, 0.9)]
    best = (torch.logaddexp(*halves) - math.log(2)).mean().item()
    assert best - 0.15 < by_stage[2] < best + 0.05
    assert by_stage[2] > by_stage[1] - 0.02


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own doings
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "gradient",
    [
        "straight-through",
        *(
            pytest.param(name, marks=[pytest.mark.slow, pytest.mark.lowered], id=f"{name}, lowered")
            for name in QUANTIZER_GRADIENTS
        ),
    ],
)
def test_compiled_stages_agree_with_eager_ones(gradient: str) -> None:
    """Draws from prepared noise, and vectors in the place of codes, in one graph for each of the four parts."""
    from elbowroom.learners.compiled import Compiled  # the compiler takes seconds to import

    found = []
    compiled = Compiled(ROWS, required=True, announce=lambda remark: None)
    for execution in (eager, compiled):
        learner = make_learner(
            8, prior_from=2, joint_from=4, last_from=6, gradient=gradient, execution=execution, estimator="reinmax"
        )
        generator = _generator()
        state, infos = run(learner, learner.init(make_pair()), 8, generator)
        found.append((_weights(state.pair), generator.get_state(), [info.terms["elbo"] for info in infos]))
    assert compiled.graphs == 4
    assert learner.starts == [0, 2, 4, 6]
    for name, weight in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], weight, rtol=1e-7, atol=1e-9)
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == pytest.approx(found[1][2])


# --- what cannot be trained --------------------------------------------------------------------------------------


def test_a_run_of_unknown_length_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="needs the number of steps in advance"):
        dataclasses.replace(make_learner(), update=Update(optimizer=torch.optim.Adam, total_steps=None))


def test_another_guide_is_refused() -> None:
    pair = make_pair()
    with pytest.raises(ElbowroomError, match="guide is a CategoricalGuide"):
        make_learner().init(Pair(pair.model, CategoricalGuide(MLP((X,), SPACE), SPACE)))
    with pytest.raises(ElbowroomError, match="one codebook"):  # two that look alike
        make_learner().init(Pair(pair.model, make_pair().guide))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", KINDS)
def test_a_shared_codebook_is_stored_once_and_loaded_for_both(codebook: str, tmp_path: Any) -> None:
    facts = DataFacts(event_shape=(X,), support=Support.BINARY, native_support=Support.BINARY)
    model = {"prior": "unigram", "guide": "nearest-code", "slots": 3, "codes": 4, "code_dim": 2, "codebook": codebook}
    config = configure({"model": model, "train": {"learner": "vq"}})
    first, second = (build_pair(config, facts, seed=seed) for seed in (0, 1))
    learner = make_learner()
    state: TrainingState = learner.init(first)
    for _ in range(3):
        state, _ = learner.step(state, Batch(make_batch().x.float()), generator=_generator())
    store = Checkpoints(tmp_path)
    store.save(3, first, {"step": 3})
    store.find("latest").load_weights(second)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())
    assert second.model.likelihood.network.codebook is guide_of(second).codebook
    assert torch.equal(guide_of(first).codebook.vectors, guide_of(second).codebook.vectors)
