"""Runs that were damaged, changed or are in use: named in a sentence, and nothing else is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from complaints import Ask, assert_complains, snapshot, tiny


def _flip(file: Path, at: int = -5) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def _lose_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def _damage_checkpoints(run: Path) -> None:
    for file in (run / "checkpoints").glob("step-*/model.safetensors"):
        _flip(file)


def _damage_config(run: Path) -> None:
    (run / "config.json").write_text((run / "config.json").read_text()[:-40])


def _empty_config(run: Path) -> None:
    (run / "config.json").write_text("{}")


def _foreign_config(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["model"]["latent_dims"] = 3
    (run / "config.json").write_text(json.dumps(content))


def _other_architecture(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["model"]["latent_dim"] = 3
    (run / "config.json").write_text(json.dumps(content))


def _damage_results(run: Path) -> None:
    (run / "evaluation.json").write_text('{"results": [')


DAMAGES = [
    pytest.param(_lose_checkpoints, "evaluate run", ("no good checkpoint", "--overwrite"), id="no-checkpoint"),
    pytest.param(_damage_checkpoints, "evaluate run", ("no good checkpoint", "changed on disk"), id="all-damaged"),
    pytest.param(_damage_checkpoints, "train digits --resume --out run", ("no good checkpoint",), id="resume-damaged"),
    pytest.param(_damage_config, "evaluate run", ("config.json", "JSON"), id="config-cut-short"),
    pytest.param(_damage_config, "runs show run", ("config.json", "JSON"), id="config-cut-short-shown"),
    pytest.param(_empty_config, "evaluate run", ("config.json",), id="config-empty"),
    pytest.param(_empty_config, "runs show run", ("config.json",), id="config-empty-shown"),
    pytest.param(_foreign_config, "evaluate run", ("config.json", "latent_dims"), id="config-with-a-foreign-key"),
    pytest.param(_other_architecture, "evaluate run", ("do not fit", "config.json"), id="other-architecture"),
    pytest.param(_damage_results, "evaluate run --methods elbo", ("evaluation.json", "JSON"), id="results-cut-short"),
    pytest.param(_damage_results, "runs show run", ("evaluation.json", "JSON"), id="results-cut-short-shown"),
]


@pytest.mark.parametrize(("damage", "argv", "words"), DAMAGES)
def test_a_damaged_run_is_named(
    damage: Callable[[Path], None], argv: str, words: tuple[str, ...], here: Path, ask: Ask
) -> None:
    damage(here / "run")
    before = snapshot(here)
    assert_complains(ask(*argv.split()), *words)
    assert snapshot(here) == before


def test_a_flipped_byte_falls_back_to_the_last_good_checkpoint(here: Path, ask: Ask) -> None:
    pointed = (here / "run/checkpoints/best").read_text().strip()
    _flip(here / "run/checkpoints" / pointed / "model.safetensors")
    code, out, err = ask("evaluate", "run", "--methods", "elbo", "--json")
    assert code == 0, err
    assert json.loads(out)["results"]
    assert f"{pointed} is damaged" in err
    assert "fell back to step-" in err


def test_a_damaged_run_hides_no_other_in_the_list(here: Path, ask: Ask) -> None:
    _damage_config(here / "grey")
    code, out, err = ask("runs", "list", ".", "--json")
    assert code == 0, err
    assert [Path(run["run"]).name for run in json.loads(out)["runs"]] == ["mine", "run"]
    assert "grey" in err


@pytest.mark.parametrize(
    "argv", ["evaluate new", "sample new", "train own.npy --resume --out new --train.epochs 2"], ids=lambda v: v[:8]
)
def test_changed_data_are_noticed(argv: str, here: Path, ask: Ask) -> None:
    ask(*tiny("train", "own.npy", "--out", "new", "--quiet"))  # a run knows its data by their absolute path
    x = np.load("own.npy")
    np.save("own.npy", x + 1)
    before = snapshot(here)
    assert_complains(ask(*argv.split()), "own.npy", "have changed since", "SHA-256")
    assert snapshot(here) == before


def test_foreign_files_are_never_overwritten(here: Path, ask: Ask) -> None:
    (here / "photos").mkdir()
    (here / "photos/holiday.txt").write_text("dear")
    before = snapshot(here)
    assert_complains(ask("train", "digits", "--out", "photos", "--overwrite"), "no config.json", "--out")
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "argv", ["train digits --resume --out run --train.epochs 2", "train digits --overwrite --out run"]
)
def test_a_run_that_is_being_written_is_left_alone(argv: str, here: Path, ask: Ask) -> None:
    before = snapshot(here)
    with FileLock(here / "run/.lock"):
        assert_complains(ask(*argv.split()), "another process", "--out")
    assert snapshot(here) == before
