"""Vector quantisation in stages: what each of them trains, at which rate, and a run that goes on bit for bit."""

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
from elbowroom.inference.objectives import iwae_terms
from elbowroom.learners.execution import eager
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update, cosine
from elbowroom.learners.vq import Vq, VqState
from elbowroom.learners.vq_objectives import QUANTIZER_GRADIENTS, joint_terms
from elbowroom.model.codes import CategoricalGuide
from elbowroom.model.latent import Pair
from elbowroom.model.networks import MLP
from elbowroom.model.quantizer import CodebookKind
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair
from elbowroom.running.checkpoints import Checkpoints
from elbowroom.running.config import configure
from vq_cases import KINDS, ROWS, SPACE, X, guide_of, make_batch, make_pair, seeded

STEPS, PRIOR_FROM, JOINT_FROM, LAST_FROM = 20, 6, 10, 17


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


# --- training ----------------------------------------------------------------------------------------------------


def _weights(pair: Pair) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in pair.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_moves_its_own_weights(kind: CodebookKind) -> None:
    learner, generator = make_learner(), seeded()
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
    learner, generator = make_learner(), seeded()
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
    learner.step(state, make_batch(), generator=seeded())
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
    generator = seeded()
    for step in (1, 2, PRIOR_FROM):
        state, _ = run(learner, state, step - state.step, generator)
        assert int(norm.num_batches_tracked) == step
        assert norm.track_running_stats


def test_the_temperature_of_the_first_stage_is_the_mean_squared_distance() -> None:
    learner = make_learner(lr=0.0, decay=0.0, restart_below=0.0)
    pair, batch = make_pair(), make_batch()
    learner.step(learner.init(pair), batch, generator=seeded())
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
    _, info = learner.step(state, batch, generator=seeded())
    assert info.lr == pytest.approx(0.1 * rates[310])


def test_a_stage_begins_with_fresh_moments() -> None:
    learner, generator = make_learner(), seeded()
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
STOPS = {4: PRIOR_FROM + 2, PRIOR_FROM: 8, 8: JOINT_FROM + 2, JOINT_FROM: LAST_FROM + 1, LAST_FROM: STEPS}


@functools.cache
def _whole_run(kind: CodebookKind, ema: float) -> list[Written]:
    """After each number of steps; not to be changed."""
    learner, generator = make_learner(ema=ema), seeded()
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
        (0.0, 8),
        *(pytest.param(0.0, stop, marks=pytest.mark.slow) for stop in STOPS if stop != 8),
    ],
)
def test_a_run_goes_on_bit_for_bit_from_every_stage(kind: CodebookKind, ema: float, stop: int) -> None:
    whole, learner, generator = _whole_run(kind, ema), make_learner(ema=ema), seeded()
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
        test_a_run_goes_on_bit_for_bit_from_every_stage("ema", 0.0, 4)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing_in_any_stage(training: bool) -> None:
    learner, generator = make_learner(), seeded()
    state: TrainingState = learner.init(make_pair())
    for steps in (3, PRIOR_FROM, JOINT_FROM - 3):
        state, _ = run(learner, state, steps, generator)
        before = copy.deepcopy(state.pair.state_dict()) | {k: v.clone() for k, v in state.tensors().items()}
        state.pair.train(training)
        measured = learner.measure(state.pair, make_batch(), generator=seeded())
        after = state.pair.state_dict() | state.tensors()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert measured["elbo"].shape == (ROWS,)
        assert torch.allclose(measured["elbo"], measured["reconstruction"] - measured["kl"])
        state.pair.train()


@pytest.mark.parametrize("step", [0, 3, PRIOR_FROM, JOINT_FROM])
def test_data_that_are_not_finite_reach_no_weight_in_any_stage(step: int) -> None:
    learner, generator = make_learner(ema=0.9), seeded()
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
    pair, generator, big = make_pair(kind), seeded(), make_batch(2000, seed=7)
    state: TrainingState = learner.init(pair)
    by_stage = []
    for steps in (90, 40, 170):
        for _ in range(steps):
            state, _ = learner.step(state, make_batch(200, seed=100 + state.step), generator=generator)
        with torch.no_grad():
            by_stage.append(learner.measure(pair, big, generator=seeded())["elbo"].mean().item())
    ones = big.x.sum(-1, keepdim=True)
    halves = [ones * math.log(p) + (X - ones) * math.log(1 - p) for p in (0.1, 0.9)]
    best = (torch.logaddexp(*halves) - math.log(2)).mean().item()
    assert best - 0.15 < by_stage[2] < best + 0.05
    assert by_stage[2] > by_stage[1] - 0.02


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
        generator = seeded()
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
        state, _ = learner.step(state, Batch(make_batch().x.float()), generator=seeded())
    store = Checkpoints(tmp_path)
    store.save(3, first, {"step": 3})
    store.find("latest").load_weights(second)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())
    assert second.model.likelihood.network.codebook is guide_of(second).codebook
    assert torch.equal(guide_of(first).codebook.vectors, guide_of(second).codebook.vectors)
