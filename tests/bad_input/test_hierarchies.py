"""Mistakes with hierarchies: one sentence each, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from complaints import Ask, assert_complains, tr

CASES = {
    "guide without groups": ("digits --model.guide top-down", "--model.groups 4,4"),
    "bottom-up without groups": ("digits --model.guide bottom-up", "one group of latents"),
    "codes without a guide over codes": ("digits --model.groups 4,4 --model.prior made", "leave out --model.groups"),
    "codes": ("digits --model.groups 4 --model.prior unigram --model.guide categorical", "--model.prior normal"),
    "vector quantisation": ("digits --model.groups 4 --train.learner vq", "codes have no groups"),
    "vamp": ("digits --model.groups 4 --model.prior vamp", "--model.prior normal, mixture or a flow"),
    "convolutions": ("digits --model.groups 4 --model.decoder.kind conv", "--model.decoder.kind grid"),
    "residual decoder": ("digits --model.groups 4 --model.decoder.kind residual", "--model.decoder.kind grid"),
    "encoder of another kind": (
        "digits --model.groups 1 --model.decoder.kind grid --model.encoder.kind mlp",
        "--model.encoder.kind grid",
    ),
    "bottom-up on a grid": (
        "digits --model.groups 1 --model.decoder.kind grid --model.guide bottom-up",
        "--model.guide top-down",
    ),
    "patch that does not divide": (
        "digits --model.groups 1 --model.decoder.kind grid --model.decoder.patch 3 "
        "--model.encoder.kind grid --model.encoder.patch 3",
        "patch of 1 or 2 or 4 or 8",
    ),
    "encoder with another patch": (
        "digits --model.groups 1 --model.decoder.kind grid --model.encoder.kind grid --model.encoder.patch 2",
        "--model.encoder.patch 4",
    ),
    "group of nothing": ("digits --model.groups 4,0", "greater than 0"),
    "negative free bits": ("digits --model.groups 4 --objective.free-bits -1", "--objective.free-bits"),
    "free bits from the bottom up": (
        "digits --model.groups 4 --model.guide bottom-up --objective.free-bits 0.1",
        "a guide from the top down",
    ),
    "flow as guide": ("digits --model.groups 4 --model.guide iaf", "--model.guide top-down or bottom-up"),
    "balance without groups": ("digits --objective.balance --objective.warmup-epochs 2", "--model.groups"),
    "balance from the bottom up": (
        "digits --model.groups 4 --model.guide bottom-up --objective.balance --objective.warmup-epochs 2",
        "--model.guide top-down",
    ),
    "balance without a weight that grows": (
        "digits --model.groups 4 --objective.balance",
        "--objective.warmup-epochs 10",
    ),
    "balance with a sampled KL": (
        "digits --model.groups 4 --objective.balance --objective.beta 0.5 --objective.kl monte-carlo",
        "--objective.kl auto",
    ),
    "balance with a later estimator": (
        "digits --model.groups 4 --objective.balance --objective.beta 0.5 --objective.last-estimator stl",
        "pathwise and stl",
    ),
    "balance of the importance-weighted bound": (
        "digits --model.groups 4 --objective.balance --objective.name iwae",
        "--objective.name elbo",
    ),
    "free bits of groups without groups": (
        "digits --objective.free-bits 1 --objective.free-bits-over batch",
        "free_bits_over batch needs the KL by group",
    ),
    "wake-sleep": ("digits --model.groups 4 --train.learner wake-sleep", "--model.guide diagonal"),
    "monte carlo em": ("digits --model.groups 4 --train.learner mcem --model.guide top-down", "--model.guide diagonal"),
}


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_said_in_a_sentence(name: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    assert_complains(ask(*tr(argv).split()), words)
    assert not (tmp_path / "out").exists()
