"""What is said of settings that do not go with a learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import elbowroom.memory
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.mcem import Mcem
from elbowroom.running.build import facts_of
from elbowroom.running.build_learner import build_learner
from elbowroom.running.build_pair import build_pair
from elbowroom.running.config import Config, configure
from learner_requests import COURSE, STREAM, Stream, build, refused
from small_runs import reals, tiny

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
    "em with real latents": ({"train": {"learner": "em"}}, "whose latent is the number of a class", "latent-class"),
    "em with a guide to train": (
        {"train": {"learner": "em"}, "model": {"prior": "unigram", "slots": 1, "guide": "categorical"}},
        "it trains no categorical guide",
        "--model.guide",
    ),
    "em with some of the rows": (
        {"train": {"learner": "em", "batch_size": 20}, "model": {"prior": "unigram", "slots": 1}},
        "training examples for each step, but train.batch_size is 20",
        "--train.batch-size",
    ),
    "em with a rate": (
        {"train": {"learner": "em"}, "model": {"prior": "unigram", "slots": 1}, "optimizer": {"lr": 0.1}},
        "does not read optimizer",
        "Leave that out",
    ),
    "em's settings for aevb": ({"em": {"starts": 2}}, "does not read em", "--train.learner"),
    "draws of an objective for svi": (
        {"train": {"learner": "svi"}, "objective": {"num_samples": 3}},
        "does not read objective.num_samples",
        "Leave that out",
    ),
}


@pytest.mark.parametrize(("sections", "problem", "remedy"), BAD.values(), ids=BAD)
def test_settings_that_do_not_go_together(sections: dict[str, Any], problem: str, remedy: str) -> None:
    error = refused(lambda: build(**sections))
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize(("sections", "problem", "remedy"), BAD.values(), ids=BAD)
def test_they_leave_nothing_behind(sections: dict[str, Any], problem: str, remedy: str, out: Path) -> None:
    refused(lambda: tiny(reals(), out, **sections))
    assert not out.exists()


def test_a_vamp_prior_is_made_of_a_guide() -> None:
    config = configure({"train": {"learner": "naive"}, "model": {"prior": "vamp"}})
    facts = facts_of(load_data(reals()), 10)
    assert "--model.guide diagonal" in refused(lambda: build_pair(config, facts, seed=0)).remedy


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"train": {"learner": "mcem"}}, "stream"),
        ({"train": {"learner": "mcem"}, "mcem": {"growth": 1.0, "start": "prior"}}, "mcem.growth"),
        ({"objective": {"warmup_epochs": 1.0}}, "warmup_epochs"),
    ],
)
def test_what_a_stream_does_not_have(sections: dict[str, Any], problem: str, out: Path) -> None:
    assert problem in refused(lambda: build(STREAM, **sections)).problem
    sections = sections | {"train": {**sections.get("train", {}), "steps": 3}}
    assert problem in refused(lambda: tiny(Stream(), out, **sections)).problem
    assert not out.exists()


def test_chains_started_anew_learn_from_a_stream(out: Path) -> None:
    settings = {"learner": "mcem", "steps": 3, "batch_size": 10}
    run = tiny(Stream(), out, train=settings, mcem={"start": "prior", "warmup": 2})
    assert run.history[-1]["visits"] == 30


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "iwae-stages"])
@pytest.mark.parametrize("limit", [{"seconds": 1.0}, {"decoder_gradients": 100}])
def test_a_schedule_needs_a_length(schedule: str, limit: dict[str, Any], out: Path) -> None:
    error = refused(lambda: tiny(reals(), out, train=limit, optimizer={"schedule": schedule}))
    assert schedule in error.problem
    assert "--train.epochs" in error.remedy
    assert not out.exists()


@pytest.mark.parametrize(
    "lengths",
    [{"steps": 3, "seconds": 1.0}, {"steps": 3, "decoder_gradients": 9}, {"seconds": 1.0, "decoder_gradients": 9}],
)
def test_a_run_has_one_length(lengths: dict[str, Any], out: Path) -> None:
    error = refused(lambda: tiny(reals(), out, train=lengths))
    assert all(f"train.{key}" in error.problem for key in lengths)
    assert not out.exists()


@pytest.mark.parametrize("key", ["seconds", "decoder_gradients", "steps", "epochs"])
def test_a_length_of_nothing_is_none(key: str) -> None:
    with pytest.raises(ElbowroomError, match=rf"train\.{key} is 0, but should be greater than 0"):
        configure({"train": {key: 0}})


def test_chains_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr(elbowroom.memory, "available_memory", lambda: 1_000)
    settings = {"learner": "mcem", "steps": 2, "batch_size": 10}
    error = refused(lambda: tiny(reals(), out, train=settings))
    assert "for each of 37 examples" in error.problem
    assert "--mcem.storage disk" in error.remedy
    assert not out.exists()
    tiny(reals(), out, train=settings, mcem={"storage": "disk"})


@pytest.mark.parametrize(("binarization", "transitions"), [("static", 1), ("dynamic", 4)])
def test_chains_that_meet_other_bits_at_every_visit_take_longer_to_forget(binarization: str, transitions: int) -> None:
    learner = build(train={"learner": "mcem"}, data={"binarization": binarization})
    assert isinstance(learner, Mcem)
    assert learner.e_step.transitions == transitions
    learner = build(train={"learner": "mcem"}, data={"binarization": binarization}, mcem={"transitions": 2})
    assert isinstance(learner, Mcem)
    assert learner.e_step.transitions == 2


@pytest.mark.parametrize(("start", "warmup"), [("persistent", 5), ("prior", 20)])
def test_chains_that_start_anew_take_longer_to_arrive(start: str, warmup: int) -> None:
    learner = build(train={"learner": "mcem"}, mcem={"start": start})
    assert isinstance(learner, Mcem)
    assert learner.e_step.warmup == warmup


def test_a_single_draw_of_the_prior_teaches_nothing_about_z() -> None:
    with pytest.raises(ElbowroomError, match="ignores z"):
        build(train={"learner": "naive"})


def test_more_data_to_train_on_than_there_are(out: Path) -> None:
    error = refused(lambda: tiny(reals(), out, data={"validation": 8, "test": 8, "train": 38}))
    assert "--data.train is 38" in error.problem
    assert "from 1 to 37" in error.remedy
    assert not out.exists()


def test_the_number_of_steps_is_of_hmc_alone(out: Path) -> None:
    error = refused(lambda: tiny(reals(), out, train={"learner": "mcem"}, mcem={"sampler": "nuts", "num_steps": 3}))
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
