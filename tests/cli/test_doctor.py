"""``elbowroom doctor``: the report, its files, plain data, and what it says of models that it cannot examine fully."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from elbowroom.cli import main
from elbowroom.running.runs import load

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2", "--train.epochs", "1")


@pytest.fixture(scope="module", autouse=True)
def workplace(beside_digits: Path) -> Path:
    """runs/digits, a run without a guide, and one on few rows."""
    naive = ("--train.learner", "naive", "--objective.num-samples", "5", "--out", "runs/naive")
    main(["train", "digits", *TINY, *naive, "--quiet"])
    np.save("few.npy", np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    main(["train", "few.npy", *TINY, "--out", "runs/few", "--quiet"])
    return beside_digits


def test_the_report_names_faults_numbers_and_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "runs/digits", "--points", "100"])
    out = capsys.readouterr().out
    assert "Training ended after" in out  # one epoch of a tiny network
    assert "Do: Train longer" in out
    assert "10 checks in" in out
    assert out.rstrip().endswith("wrote runs/digits/figures/holes.png")
    kept = json.loads(Path("runs/digits/doctor.json").read_text())
    assert kept["healthy"] is False
    asked = [kept[name] for name in ("run", "step", "points", "seed")]
    assert asked == ["runs/digits", load("runs/digits").step, 100, 0]
    assert {"finished", "latents_in_use", "holes"} <= {finding["check"] for finding in kept["findings"]}


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "runs/digits", "--points", "50", "--checks", "sound,latents_in_use", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in printed["findings"]] == ["latents_in_use"]
    assert set(printed["seconds"]) == {"sound", "latents_in_use"}
    assert printed == json.loads(Path("runs/digits/doctor.json").read_text())
    evidence = printed["findings"][0]["evidence"]
    assert all(set(number) == {"name", "value", "stderr", "unit"} for number in evidence)


def test_a_run_without_a_guide(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "runs/naive", "--points", "60"])
    out = capsys.readouterr().out
    assert "Samples" in out
    assert "encoder loses" not in out
    assert not Path("runs/naive/figures/holes.png").exists()


def test_too_few_data_are_said_to_be_few(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "runs/few"])
    out = capsys.readouterr().out
    assert "Not examined:" in out
    assert "neither the test nor the validation split" in " ".join(out.split())


def test_the_same_seed_finds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for seed in ("0", "0", "1"):
        main(["doctor", "runs/digits", "--points", "80", "--checks", "latents_in_use", "--seed", seed, "--json"])
        found.append(json.loads(capsys.readouterr().out)["findings"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["runs/digits", "--checks", "hole"], "Did you mean 'holes'"),
        (["runs/digits", "--points", "1"], "--points 2"),
        (["runs/nowhere"], "runs/nowhere"),
    ],
    ids=["check", "points", "run"],
)
def test_mistakes_are_explained(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *argv])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
