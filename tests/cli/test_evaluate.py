"""``elbowroom evaluate`` with the methods room, ais and bdmc: tables, figures, files and plain data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elbowroom.cli import main

pytestmark = pytest.mark.usefixtures("beside_digits")
TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.epochs", "1")
FEW = ("--methods", "room", "--points", "4", "--k", "5")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("test", "test"),
        pytest.param("train", "test", marks=pytest.mark.slow),  # a test of the method has it
        ("validation", "validation"),
    ],
)
def test_both_splits_are_shown_and_kept(asked: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "runs/digits", *FEW, "--split", asked])
    out = capsys.readouterr().out
    assert f"{shown} − train" in out
    assert "amortisation gap" in out
    assert out.rstrip().endswith("wrote runs/digits/figures/room.png")
    assert Path("runs/digits/figures/room.png").is_file()
    kept = json.loads(Path("runs/digits/evaluation.json").read_text())["results"]
    assert {"train", shown} <= {result["split"] for result in kept if result["name"] == "elbow room"}


def test_json_names_the_split_that_was_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "runs/digits", *FEW, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test"
    names = ["elbo", "elbo of q*", "log p(x)", "amortisation gap", "approximation gap", "elbow room"]
    shown = [(result["name"], result.get("split")) for result in printed["results"]]
    assert shown == [(name, None) for name in names] + [(name, "train") for name in names]


def test_other_data_have_a_room_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", "runs/digits", "digits", *FEW])
    out = capsys.readouterr().out
    assert "amortisation gap" in out and "train" not in out


def test_simulated_data_are_named_and_stay_out_of_the_figure(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--methods", "ais,bdmc", "--points", "6", "--simulated", "6", "--temperatures", "2", "--chains", "3")
    main(["evaluate", "runs/digits", *few, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test"
    assert [(row["name"], row.get("split"), row["bound"]) for row in printed["results"]] == [
        ("ais", None, "lower"),
        ("bdmc lower", "simulated", "lower"),
        ("bdmc upper", "simulated", "upper"),
        ("bdmc gap", "simulated", None),
    ]
    main(["evaluate", "runs/digits", *few])
    out = capsys.readouterr().out
    assert "Annealing from Laplace approximations: 2 temperatures × 3 chains" in out
    assert "BDMC is measured on simulated data" in out
    assert {path.name for path in Path("runs/digits/evaluation").iterdir()} >= {
        "ais-test.csv",
        "bdmc-simulated-test.csv",
    }


def test_a_density_of_grey_values_is_said_to_be_one_and_has_no_bits(capsys: pytest.CaptureFixture[str]) -> None:
    grey = ("--data.binarization", "none", "--model.likelihood", "logit-laplace", "--model.scale", "per-element")
    main(["train", "digits", *TINY, *grey, "--quiet", "--out", "runs/logit-laplace"])
    main(["evaluate", "runs/logit-laplace", "--methods", "elbo", "--points", "20"])
    out = capsys.readouterr().out
    assert "a density of grey values" in out and "bits/dim" not in out
    main(["evaluate", "runs/digits", "--methods", "elbo", "--points", "20"])
    assert "a density of grey values" not in capsys.readouterr().out
