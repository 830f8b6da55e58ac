"""Which settings go with which learner."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.learners.aevb import Aevb
from elbowroom.learners.mcem import Mcem
from elbowroom.learners.vq import Vq
from elbowroom.learners.wakesleep import WakeSleep
from elbowroom.running.build_pair import guide_name
from elbowroom.running.config import configure
from learner_requests import COURSE, build, needs_pyro, refused
from small_runs import reals, tiny

# --- what is built -----------------------------------------------------------------------------------------------


def test_what_is_given_reaches_aevb() -> None:
    learner = build(
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
    learner = build(objective={"name": "iwae", "last_samples": 8, "last_share": 0.3})
    assert (learner.num_samples, learner.last_samples, learner.last_from) == (1, 8, 7)
    error = refused(lambda: build(COURSE._replace(total_steps=None), objective={"last_samples": 8}))
    assert "last_samples" in error.problem
    assert "--train.epochs" in error.remedy


def test_the_last_share_of_the_steps_takes_another_estimator() -> None:
    codes = {"guide": "categorical", "prior": "unigram"}
    asked = {"estimator": "reinmax", "last_estimator": "score-function", "temperature": 0.5, "last_share": 0.3}
    learner = build(model=codes, objective={**asked, "num_samples": 2})
    assert isinstance(learner, Aevb) and isinstance(learner.objective, functools.partial)
    assert isinstance(learner.last_objective, functools.partial)
    first, last = learner.objective.keywords, learner.last_objective.keywords
    assert (first["estimator"], last["estimator"], learner.last_from) == ("reinmax", "score-function", 7)
    assert {**first, "estimator": None} == {**last, "estimator": None}
    assert build(objective={"last_samples": 8}).last_objective is None
    error = refused(lambda: build(COURSE._replace(total_steps=None), model=codes, objective=asked))
    assert "objective.last_estimator" in error.problem


def test_what_is_given_reaches_naive_and_wake_sleep() -> None:
    naive = build(train={"learner": "naive"}, objective={"num_samples": 9, "estimator": "score-function"})
    assert (naive.name, naive.num_samples, naive.weighs_kl) == ("naive", 9, False)
    assert naive.objective.keywords == {"estimator": "score-function"}
    wakesleep = build(train={"learner": "wake-sleep"}, objective={"num_samples": 9})
    assert isinstance(wakesleep, WakeSleep)
    assert wakesleep.num_samples == 9


def test_wake_sleep_takes_a_codebook_that_is_fixed() -> None:
    model = {"prior": "made", "guide": "nearest-code", "codebook": "fsq", "code_dim": 2}
    assert isinstance(build(train={"learner": "wake-sleep"}, model=model), WakeSleep)


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
    learner = build(
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
    assert build(train={"learner": "mcem"}, mcem={"num_steps": 3}).e_step.num_steps == 3
    assert build(train={"learner": "mcem"}, mcem={"storage": "disk"}).scratch == Path("chains")
    assert not build(train={"learner": "mcem"}).learns_guide


@needs_pyro
def test_what_is_given_reaches_svi() -> None:
    learner = build(train={"learner": "svi"}, svi={"elbo": "renyi", "num_particles": 4})
    assert (learner.elbo, learner.num_particles) == ("renyi", 4)


VQ: dict[str, Any] = {"train": {"learner": "vq"}, "model": {"prior": "unigram"}}


def test_what_is_given_reaches_vq() -> None:
    settings = {"gradient": "rotation", "decay": 0.5, "restart_below": 0.2, "joint_rate": 2.0, "commitment": 3.0}
    learner = build(
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
    learner = build(**VQ)
    assert (learner.estimator, learner.last_estimator, learner.last_samples) == ("reinmax", "score-function", 2)
    assert learner.commitment == 0.25
    fixed = build(train=VQ["train"], model=VQ["model"] | {"codebook": "fsq", "code_dim": 2})
    assert fixed.commitment == 0.0


def test_the_score_function_may_be_named_for_every_part_of_vq() -> None:
    names = {"estimator": "score-function", "last_estimator": "score-function"}
    learner = build(**VQ, objective={**names, "num_samples": 2})
    assert {key: getattr(learner, key) for key in names} == names


def test_the_last_part_of_vq_lies_in_its_last_stage() -> None:
    assert build(**VQ, objective={"last_share": 0.9}).last_from == build(**VQ).joint_from


def test_a_length_that_vq_does_not_know_is_refused() -> None:
    for schedule in ("constant", "cosine"):  # another schedule would not help, so it is not what is asked for
        settings = {**VQ, "optimizer": {"schedule": schedule}}
        error = refused(functools.partial(build, COURSE._replace(total_steps=None), **settings))
        assert error.problem.startswith("The stages of the learner vq are shares of the training")
        assert "--train.epochs" in error.remedy


def test_vq_over_real_vectors_is_refused(out: Path) -> None:
    error = refused(lambda: tiny(reals(), out, train={"learner": "vq"}))
    assert "The guide nearest-code is over codes, but the prior normal is over real vectors" in error.problem
    assert "--model.prior made with --model.guide nearest-code" in error.remedy


def test_the_length_of_a_vq_run_stays(out: Path) -> None:
    tiny(reals(), out, **VQ, train__steps=4)
    error = refused(lambda: tiny(reals(), out, resume=True, train__steps=8))
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
    learner = build(optimizer={"name": name, "lr": 0.3, "weight_decay": 0.2})
    optimizer = learner.update.optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.3, 0.2)
