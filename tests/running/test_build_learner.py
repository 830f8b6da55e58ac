"""Which settings go with which learner, and what is said of those that do not."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import IterableDataset

import elbowroom.memory
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.mcem import Mcem
from elbowroom.learners.vq import Vq
from elbowroom.learners.wakesleep import WakeSleep
from elbowroom.running.build import facts_of
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair, guide_name
from elbowroom.running.config import Config, configure
from small_runs import reals, tiny

COURSE = RunLength(10, 5, torch.arange(100), Path("chains"))
STREAM = RunLength(10, None, None, Path("chains"))
needs_pyro = pytest.mark.skipif(importlib.util.find_spec("pyro") is None, reason="needs pyro")


class Stream(IterableDataset[Tensor]):
    """Rows without positions."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(reals())


def _build(length: RunLength = COURSE, **sections: Any) -> Any:
    return build_learner(configure(sections), length)


def _refused(build: Callable[[], Any]) -> ElbowroomError:
    """One sentence of what is wrong, one of the remedy."""
    with pytest.raises(ElbowroomError) as caught:
        build()
    error = caught.value
    for sentence in (error.problem, error.remedy):
        assert sentence.endswith(".")
        assert len(re.findall(r"[a-z)][.] [A-Z]", sentence)) == 0
    assert "\n" not in error.problem
    return error


# --- what is built -----------------------------------------------------------------------------------------------


def test_what_is_given_reaches_aevb() -> None:
    learner = _build(
        objective={"num_samples": 3, "beta": 2.0, "warmup_epochs": 2.0, "free_bits": 0.5, "kl": "analytic"},
        train={"ema": 0.5},
        optimizer={"clip_norm": 7.0, "schedule": "cosine"},
    )
    assert isinstance(learner, Aevb)
    assert (learner.name, learner.num_samples, learner.beta, learner.warmup_steps) == ("elbo", 3, 2.0, 10.0)
    assert isinstance(learner.objective, functools.partial)
    assert learner.objective.keywords == {
        "estimator": "pathwise",
        "temperature": 1.0,
        "kl": "analytic",
        "free_bits": 0.5,
        "free_bits_over": "example",
        "balance": False,
    }
    assert (learner.update.ema, learner.update.clip_norm, learner.update.total_steps) == (0.5, 7.0, 10)
    assert learner.update.schedule(0.5) == pytest.approx(0.5)


def test_the_last_share_of_the_steps_takes_more_draws() -> None:
    learner = _build(objective={"name": "iwae", "last_samples": 8, "last_share": 0.3})
    assert (learner.num_samples, learner.last_samples, learner.last_from) == (1, 8, 7)
    error = _refused(lambda: _build(COURSE._replace(total_steps=None), objective={"last_samples": 8}))
    assert "last_samples" in error.problem
    assert "--train.epochs" in error.remedy


def test_the_last_share_of_the_steps_takes_another_estimator() -> None:
    codes = {"guide": "categorical", "prior": "unigram"}
    asked = {"estimator": "reinmax", "last_estimator": "score-function", "temperature": 0.5, "last_share": 0.3}
    learner = _build(model=codes, objective={**asked, "num_samples": 2})
    assert isinstance(learner, Aevb) and isinstance(learner.objective, functools.partial)
    assert isinstance(learner.last_objective, functools.partial)
    first, last = learner.objective.keywords, learner.last_objective.keywords
    assert (first["estimator"], last["estimator"], learner.last_from) == ("reinmax", "score-function", 7)
    assert {**first, "estimator": None} == {**last, "estimator": None}
    assert _build(objective={"last_samples": 8}).last_objective is None
    error = _refused(lambda: _build(COURSE._replace(total_steps=None), model=codes, objective=asked))
    assert "objective.last_estimator" in error.problem


def test_what_is_given_reaches_naive_and_wake_sleep() -> None:
    naive = _build(train={"learner": "naive"}, objective={"num_samples": 9, "estimator": "score-function"})
    assert (naive.name, naive.num_samples, naive.weighs_kl) == ("naive", 9, False)
    assert naive.objective.keywords == {"estimator": "score-function"}
    wakesleep = _build(train={"learner": "wake-sleep"}, objective={"num_samples": 9})
    assert isinstance(wakesleep, WakeSleep)
    assert wakesleep.num_samples == 9


def test_wake_sleep_takes_a_codebook_that_is_fixed() -> None:
    model = {"prior": "made", "guide": "nearest-code", "codebook": "fsq", "code_dim": 2}
    assert isinstance(_build(train={"learner": "wake-sleep"}, model=model), WakeSleep)


def test_what_is_given_reaches_mcem() -> None:
    given = {
        "sampler": "nuts",
        "start": "guide",
        "chains": 3,
        "metric": "identity",
        "refresh": 7,
        "target_acceptance": 0.9,
        "warmup": 4,
        "transitions": 2,
    }
    learner = _build(
        train={"learner": "mcem"},
        mcem=given | {"draws": 5, "growth": 2.0, "updates": 6},
        model={"guide": "full", "latent_dim": 4},
    )
    assert isinstance(learner, Mcem)
    assert {key: getattr(learner.e_step, key) for key in given} == given
    assert (learner.draws, learner.updates, learner.learns_guide, learner.latent_dim) == (5, 6, True, 4)
    assert learner.growth_per_step == pytest.approx(2 / 5)
    assert learner.scratch is None
    assert learner.positions is COURSE.positions
    assert _build(train={"learner": "mcem"}, mcem={"num_steps": 3}).e_step.num_steps == 3
    assert _build(train={"learner": "mcem"}, mcem={"storage": "disk"}).scratch == Path("chains")
    assert not _build(train={"learner": "mcem"}).learns_guide


@needs_pyro
def test_what_is_given_reaches_svi() -> None:
    learner = _build(train={"learner": "svi"}, svi={"elbo": "renyi", "num_particles": 4})
    assert (learner.elbo, learner.num_particles) == ("renyi", 4)


VQ: dict[str, Any] = {"train": {"learner": "vq"}, "model": {"prior": "unigram"}}


def test_what_is_given_reaches_vq() -> None:
    settings = {"gradient": "rotation", "decay": 0.5, "restart_below": 0.2, "joint_rate": 2.0, "commitment": 3.0}
    learner = _build(
        **VQ,
        vq={"reconstruction_share": 0.3, "prior_share": 0.2, **settings},
        objective={
            "num_samples": 3, "last_samples": 5, "last_share": 0.2, "estimator": "st-gumbel", "temperature": 0.7,
            "last_estimator": "straight-through",
        },
    )  # fmt: skip
    assert isinstance(learner, Vq)
    assert {key: getattr(learner, key) for key in settings} == settings
    assert (learner.prior_from, learner.joint_from, learner.last_from) == (3, 5, 8)
    assert (learner.num_samples, learner.last_samples, learner.temperature) == (3, 5, 0.7)
    assert (learner.estimator, learner.last_estimator) == ("st-gumbel", "straight-through")


def test_what_vq_does_unless_told() -> None:
    learner = _build(**VQ)
    assert (learner.estimator, learner.last_estimator, learner.last_samples) == ("reinmax", "score-function", 2)
    assert learner.commitment == 0.25
    fixed = _build(train=VQ["train"], model=VQ["model"] | {"codebook": "fsq", "code_dim": 2})
    assert fixed.commitment == 0.0


def test_the_score_function_may_be_named_for_every_part_of_vq() -> None:
    names = {"estimator": "score-function", "last_estimator": "score-function"}
    learner = _build(**VQ, objective={**names, "num_samples": 2})
    assert {key: getattr(learner, key) for key in names} == names


def test_the_last_part_of_vq_lies_in_its_last_stage() -> None:
    assert _build(**VQ, objective={"last_share": 0.9}).last_from == _build(**VQ).joint_from


def test_a_length_that_vq_does_not_know_is_refused() -> None:
    for schedule in ("constant", "cosine"):  # another schedule would not help, so it is not what is asked for
        settings = {**VQ, "optimizer": {"schedule": schedule}}
        error = _refused(functools.partial(_build, COURSE._replace(total_steps=None), **settings))
        assert error.problem.startswith("The stages of the learner vq are shares of the training")
        assert "--train.epochs" in error.remedy


def test_vq_over_real_vectors_is_refused(out: Path) -> None:
    error = _refused(lambda: tiny(reals(), out, train={"learner": "vq"}))
    assert "The guide nearest-code is over codes, but the prior normal is over real vectors" in error.problem
    assert "--model.prior made with --model.guide nearest-code" in error.remedy


def test_the_length_of_a_vq_run_stays(out: Path) -> None:
    tiny(reals(), out, **VQ, train__steps=4)
    error = _refused(lambda: tiny(reals(), out, resume=True, train__steps=8))
    assert "The stages of the learner vq are shares of the run's length" in error.problem


@pytest.mark.parametrize(
    ("learner", "given", "meant"),
    [
        ("aevb", "auto", "diagonal"),
        ("wake-sleep", "auto", "diagonal"),
        ("svi", "auto", "diagonal"),
        ("naive", "auto", "none"),
        ("mcem", "auto", "none"),
        ("mcem", "full", "full"),
    ],
)
def test_the_guide_that_a_learner_has_unless_told(learner: str, given: str, meant: str) -> None:
    assert guide_name(configure({"train": {"learner": learner}, "model": {"guide": given}})) == meant


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


@pytest.mark.parametrize(("name", "kind"), OPTIMIZERS.items(), ids=OPTIMIZERS)
def test_optimisers_are_torchs(name: str, kind: type[torch.optim.Optimizer]) -> None:
    learner = _build(optimizer={"name": name, "lr": 0.3, "weight_decay": 0.2})
    optimizer = learner.update.optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.3, 0.2)


# --- what is refused ---------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "aevb without a guide": ({"model": {"guide": "none"}}, "model.guide is none", "--train.learner mcem"),
    "wake-sleep without a guide": (
        {"train": {"learner": "wake-sleep"}, "model": {"guide": "none"}},
        "model.guide is none",
        "--model.guide",
    ),
    "svi without a guide": (
        {"train": {"learner": "svi"}, "model": {"guide": "none"}},
        "model.guide is none",
        "--model.guide",
    ),
    "naive with a guide": (
        {"train": {"learner": "naive"}, "model": {"guide": "diagonal"}},
        "cannot use a diagonal guide",
        "--train.learner aevb",
    ),
    "naive, a mixture, pathwise": (
        {"train": {"learner": "naive"}, "model": {"prior": "mixture"}},
        "mixture",
        "--objective.estimator score-function",
    ),
    "naive, codes, pathwise": (
        {"train": {"learner": "naive"}, "model": {"prior": "made"}, "objective": {"num_samples": 9}},
        "which is impossible for codes",
        "--objective.estimator score-function",
    ),
    "an estimator of real vectors for codes": (
        {"model": {"prior": "unigram"}},
        "objective.estimator is pathwise, which differentiates through draws of real vectors",
        "--objective.estimator reinmax",
    ),
    "another one in the last part": (
        {"model": {"prior": "made"}, "objective": {"estimator": "reinmax", "last_estimator": "dreg", "name": "iwae"}},
        "objective.last_estimator is dreg",
        "--objective.last-estimator reinmax",
    ),
    "an estimator of codes for real vectors": (
        {"objective": {"estimator": "reinmax"}},
        "which is for draws of codes, but z has 20 latents",
        "--model.prior made",
    ),
    "wake-sleep with a VampPrior": (
        {"train": {"learner": "wake-sleep"}, "model": {"prior": "vamp"}},
        "VampPrior",
        "--model.prior",
    ),
    "wake-sleep with a codebook": (
        {"train": {"learner": "wake-sleep"}, "model": {"prior": "made", "guide": "nearest-code"}},
        "one codebook",
        "--train.learner vq",
    ),
    "mcem with a VampPrior": (
        {"train": {"learner": "mcem"}, "model": {"prior": "vamp", "guide": "diagonal"}},
        "VampPrior",
        "--model.prior",
    ),
    "mcem from a guide that is not there": (
        {"train": {"learner": "mcem"}, "mcem": {"start": "guide"}},
        "mcem.start is guide",
        "--model.guide diagonal",
    ),
    "mcem in the metric of a guide that is not there": (
        {"train": {"learner": "mcem"}, "mcem": {"metric": "guide"}},
        "mcem.metric is guide",
        "--model.guide diagonal",
    ),
    "the weight of a KL that iwae lacks": (
        {"objective": {"name": "iwae", "beta": 2.0}},
        "iwae objective",
        "--objective.name elbo",
    ),
    "groups that iwae does not weigh": (
        {"model": {"groups": [2]}, "objective": {"name": "iwae", "balance": True}},
        "iwae objective",
        "--objective.name elbo",
    ),
    "free bits over the batch for iwae": (
        {"objective": {"name": "iwae", "free_bits_over": "batch"}},
        "iwae objective",
        "--objective.name elbo",
    ),
    "balance without groups": (
        {"objective": {"balance": True, "warmup_epochs": 2.0}},
        "by group",
        "--model.guide top-down",
    ),
    "free bits over the batch from the bottom up": (
        {"model": {"groups": [2], "guide": "bottom-up"}, "objective": {"free_bits": 1.0, "free_bits_over": "batch"}},
        "by group",
        "--model.guide top-down",
    ),
    "free bits by group with the score function at the end": (
        {"model": {"groups": [2]}, "objective": {"free_bits": 1.0, "last_estimator": "score-function"}},
        "by group",
        "--objective.last-name iwae",
    ),
    "balance with a sampled KL": (
        {"model": {"groups": [2]}, "objective": {"balance": True, "warmup_epochs": 2.0, "kl": "monte-carlo"}},
        "by group",
        "--objective.kl",
    ),
    "balance where the weight is never below 1": (
        {"model": {"groups": [2]}, "objective": {"balance": True}},
        "never below 1",
        "--objective.warmup-epochs",
    ),
    "free bits over the batch without free bits": (
        {"model": {"groups": [2]}, "objective": {"free_bits_over": "batch"}},
        "free_bits is 0",
        "--objective.free-bits",
    ),
    "dreg for the ELBO of the last part": (
        {"objective": {"last_estimator": "dreg"}},
        "objective is the ELBO",
        "stl",
    ),
    "stl for the ELBO of the last part, with free bits": (
        {"objective": {"free_bits": 1.0, "last_estimator": "stl"}},
        "stl",
        "without free bits",
    ),
    "mcem's settings for aevb": ({"mcem": {"draws": 3}}, "does not read mcem", "--train.learner"),
    "svi's settings for mcem": (
        {"train": {"learner": "mcem"}, "svi": {"num_particles": 3}},
        "mcem does not read svi",
        "--train.learner",
    ),
    "draws of an objective for mcem": (
        {"train": {"learner": "mcem"}, "objective": {"num_samples": 3}},
        "does not read objective.num_samples",
        "Leave that out",
    ),
    "a KL's weight for naive": (
        {"train": {"learner": "naive"}, "objective": {"beta": 3.0, "name": "iwae"}},
        "does not read objective.name, objective.beta",
        "Leave that out",
    ),
    "an estimator for wake-sleep": (
        {"train": {"learner": "wake-sleep"}, "objective": {"estimator": "stl"}},
        "does not read objective.estimator",
        "Leave that out",
    ),
    "vq with a categorical guide": (
        {"train": {"learner": "vq"}, "model": {"prior": "unigram", "guide": "categorical"}},
        "but model.guide is categorical",
        "--train.learner aevb",
    ),
    "stages of vq that are longer than the run": (
        {"train": {"learner": "vq"}, "model": {"prior": "unigram"}, "vq": {"reconstruction_share": 0.95}},
        "more than the whole training",
        "less than 1",
    ),
    "an estimator of real vectors for vq": (
        {"train": {"learner": "vq"}, "model": {"prior": "unigram"}, "objective": {"estimator": "stl"}},
        "objective.estimator is stl, which differentiates through draws of real vectors",
        "reinmax",
    ),
    "a falling temperature that is not used": (
        {"objective": {"last_temperature": 0.5}},
        "the estimator pathwise has no softmax",
        "gumbel-softmax",
    ),
    "a temperature that is not used": (
        {"objective": {"temperature": 0.5}},
        "the estimator pathwise has no softmax",
        "gumbel-softmax",
    ),
    "vq's settings for aevb": ({"vq": {"decay": 0.5}}, "does not read vq", "--train.learner"),
    "a weight of the KL for vq": (
        {"train": {"learner": "vq"}, "model": {"prior": "unigram"}, "objective": {"beta": 2.0}},
        "does not read objective.beta",
        "Leave that out",
    ),
    "draws of an objective for svi": (
        {"train": {"learner": "svi"}, "objective": {"num_samples": 3}},
        "does not read objective.num_samples",
        "Leave that out",
    ),
}


@pytest.mark.parametrize(("sections", "problem", "remedy"), BAD.values(), ids=BAD)
def test_settings_that_do_not_go_together(sections: dict[str, Any], problem: str, remedy: str) -> None:
    error = _refused(lambda: _build(**sections))
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize(("sections", "problem", "remedy"), BAD.values(), ids=BAD)
def test_they_leave_nothing_behind(sections: dict[str, Any], problem: str, remedy: str, out: Path) -> None:
    _refused(lambda: tiny(reals(), out, **sections))
    assert not out.exists()


def test_a_vamp_prior_is_made_of_a_guide() -> None:
    config = configure({"train": {"learner": "naive"}, "model": {"prior": "vamp"}})
    facts = facts_of(load_data(reals()), 10)
    assert "--model.guide diagonal" in _refused(lambda: build_pair(config, facts, seed=0)).remedy


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"train": {"learner": "mcem"}}, "stream"),
        ({"train": {"learner": "mcem"}, "mcem": {"growth": 1.0, "start": "prior"}}, "mcem.growth"),
        ({"objective": {"warmup_epochs": 1.0}}, "warmup_epochs"),
    ],
)
def test_what_a_stream_does_not_have(sections: dict[str, Any], problem: str, out: Path) -> None:
    assert problem in _refused(lambda: _build(STREAM, **sections)).problem
    sections = sections | {"train": {**sections.get("train", {}), "steps": 3}}
    assert problem in _refused(lambda: tiny(Stream(), out, **sections)).problem
    assert not out.exists()


def test_chains_started_anew_learn_from_a_stream(out: Path) -> None:
    settings = {"learner": "mcem", "steps": 3, "batch_size": 10}
    run = tiny(Stream(), out, train=settings, mcem={"start": "prior", "warmup": 2})
    assert run.history[-1]["visits"] == 30


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "iwae-stages"])
@pytest.mark.parametrize("limit", [{"seconds": 1.0}, {"decoder_gradients": 100}])
def test_a_schedule_needs_a_length(schedule: str, limit: dict[str, Any], out: Path) -> None:
    error = _refused(lambda: tiny(reals(), out, train=limit, optimizer={"schedule": schedule}))
    assert schedule in error.problem
    assert "--train.epochs" in error.remedy
    assert not out.exists()


@pytest.mark.parametrize(
    "lengths",
    [{"steps": 3, "seconds": 1.0}, {"steps": 3, "decoder_gradients": 9}, {"seconds": 1.0, "decoder_gradients": 9}],
)
def test_a_run_has_one_length(lengths: dict[str, Any], out: Path) -> None:
    error = _refused(lambda: tiny(reals(), out, train=lengths))
    assert all(f"train.{key}" in error.problem for key in lengths)
    assert not out.exists()


@pytest.mark.parametrize("key", ["seconds", "decoder_gradients", "steps", "epochs"])
def test_a_length_of_nothing_is_none(key: str) -> None:
    with pytest.raises(ElbowroomError, match=rf"train\.{key} is 0, but should be greater than 0"):
        configure({"train": {key: 0}})


def test_chains_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr(elbowroom.memory, "available_memory", lambda: 1_000)
    settings = {"learner": "mcem", "steps": 2, "batch_size": 10}
    error = _refused(lambda: tiny(reals(), out, train=settings))
    assert "for each of 37 examples" in error.problem
    assert "--mcem.storage disk" in error.remedy
    assert not out.exists()
    tiny(reals(), out, train=settings, mcem={"storage": "disk"})


@pytest.mark.parametrize(("binarization", "transitions"), [("static", 1), ("dynamic", 4)])
def test_chains_that_meet_other_bits_at_every_visit_take_longer_to_forget(binarization: str, transitions: int) -> None:
    learner = _build(train={"learner": "mcem"}, data={"binarization": binarization})
    assert isinstance(learner, Mcem)
    assert learner.e_step.transitions == transitions
    learner = _build(train={"learner": "mcem"}, data={"binarization": binarization}, mcem={"transitions": 2})
    assert isinstance(learner, Mcem)
    assert learner.e_step.transitions == 2


@pytest.mark.parametrize(("start", "warmup"), [("persistent", 5), ("prior", 20)])
def test_chains_that_start_anew_take_longer_to_arrive(start: str, warmup: int) -> None:
    learner = _build(train={"learner": "mcem"}, mcem={"start": start})
    assert isinstance(learner, Mcem)
    assert learner.e_step.warmup == warmup


def test_a_single_draw_of_the_prior_teaches_nothing_about_z() -> None:
    with pytest.raises(ElbowroomError, match="ignores z"):
        _build(train={"learner": "naive"})


def test_more_data_to_train_on_than_there_are(out: Path) -> None:
    error = _refused(lambda: tiny(reals(), out, data={"validation": 8, "test": 8, "train": 38}))
    assert "--data.train is 38" in error.problem
    assert "from 1 to 37" in error.remedy
    assert not out.exists()


def test_the_number_of_steps_is_of_hmc_alone(out: Path) -> None:
    error = _refused(lambda: tiny(reals(), out, train={"learner": "mcem"}, mcem={"sampler": "nuts", "num_steps": 3}))
    assert "NUTS" in error.problem
    assert not out.exists()


def test_a_likelihood_without_a_cheap_curvature_moves_in_no_metric(out: Path) -> None:
    """Bytes are a mixture of logistics; a Gauss-Newton metric would be wide matrices for nothing."""
    x = (reals().sigmoid() * 255).to(torch.uint8)
    train = {"learner": "mcem", "steps": 2, "batch_size": 10}
    run = tiny(x, out, train=train, mcem={"warmup": 1})
    kept = load_file(out / "checkpoints" / "step-2" / "training.safetensors")
    assert run.history[-1]["step"] == 2
    assert kept["chains.factor"].shape == (37, 2)
    assert set(kept["chains.factor"].unique().tolist()) == {0.0, 1.0}


def test_the_default_is_what_it_was() -> None:
    learner = build_learner(Config(), COURSE)
    assert isinstance(learner, Aevb)
    assert (learner.name, learner.num_samples, learner.beta) == ("elbo", 1, 1.0)
