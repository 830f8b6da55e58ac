"""The run folder keeps what a user has paid for, and lets one process write at a time."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from elbowroom.errors import ElbowroomError
from elbowroom.running.folder import RunFolder, runs_in
from elbowroom.running.locks import LOCKS


def _started(path: Path) -> RunFolder:
    folder = RunFolder.create(path)
    folder.write_config({"config": {"model": {"latent_dim": 2}}, "facts": {}, "data": {"dataset": "digits"}})
    folder.append_metrics([{"step": 1, "split": "train", "elbo": -2.0, "seconds": 0.5}])
    return folder


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path / "a" / "b").path.is_dir()


def test_a_run_is_not_written_over_unless_asked(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    (tmp_path / "run-2").mkdir()
    with pytest.raises(ElbowroomError, match="exists already") as caught:
        RunFolder.create(folder.path)
    assert "run-3" in caught.value.remedy
    assert folder.metrics()
    RunFolder.create(folder.path, overwrite=True)
    assert [entry.name for entry in folder.path.iterdir() if entry.name not in LOCKS] == []


def test_what_never_started_is_nothing_to_keep(tmp_path: Path) -> None:
    """A run that failed before its first report is replaced without a word; one with weights is not."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config({})
    folder.rewind_metrics(0)
    RunFolder.create(folder.path)
    assert not (folder.path / "config.json").exists()
    folder.write_config({})
    folder.checkpoints.save(1, nn.Linear(1, 1), {"step": 1})
    with pytest.raises(ElbowroomError, match="exists already"):
        RunFolder.create(folder.path)


def test_what_was_killed_before_its_configuration_was_written_is_in_no_ones_way(tmp_path: Path) -> None:
    (tmp_path / ".config.json.writing").write_text('{"conf')
    assert RunFolder.create(tmp_path).path == tmp_path


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ElbowroomError, match="not a run folder"):
        RunFolder.create(tmp_path, overwrite=True)
    with pytest.raises(ElbowroomError, match="is a file"):
        RunFolder.create(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(ElbowroomError, match="cannot be made: Permission denied"):
        RunFolder.create(tmp_path / "run")


def test_opening_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="no run at"):
        RunFolder.open(tmp_path)


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    folder = _started(tmp_path / "run")
    (folder.path / "config.json").write_text("{")
    with pytest.raises(ElbowroomError, match=r"config\.json is not valid JSON"):
        folder.read_config()


# --- the lock ----------------------------------------------------------------------------------------------------


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    script = (
        "import sys; from filelock import FileLock\n"
        f"lock = FileLock({str(tmp_path / '.lock')!r}); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ElbowroomError, match="still running"), folder.lock():
            pytest.fail("the lock was granted twice")
    finally:
        other.kill()
        other.communicate()
    with folder.lock():  # the dead hold nothing
        pass
    with folder.lock():
        pass


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_come_back_but_for_half_a_line(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    assert folder.metrics() == []
    rows = [{"step": step, "elbo": -1 / 3 * step} for step in (1, 2, 3)]
    folder.append_metrics(rows[:2])
    folder.append_metrics(rows[2:])
    assert folder.metrics() == rows
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "el')
    assert folder.metrics() == rows


def test_rewinding_forgets_what_came_after(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    folder.append_metrics([{"step": step, "split": split} for step in (1, 2, 3) for split in ("train", "validation")])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    folder.rewind_metrics(2)
    folder.append_metrics([{"step": 3, "split": "train"}])
    assert [row["step"] for row in folder.metrics()] == [1, 1, 2, 2, 3]


def test_a_full_disk_is_said_for_metrics_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = RunFolder.create(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ElbowroomError, match=r"metrics\.jsonl could not be written"):
        folder.append_metrics([{"step": 1}])


# --- results -----------------------------------------------------------------------------------------------------


def _result(value: float, **changes: Any) -> dict[str, Any]:
    where = {"split": "test", "points": 10, "protocol": {"dataset": "mnist"}}
    return {"name": "iwae", "method": "iwae", **where, "asked": {"k": 5}, "found": {}, "value": value} | changes


def test_results_are_added_and_the_same_measurement_is_replaced(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    assert folder.evaluations() == []
    folder.add_evaluations([_result(1.0, found={"median_ess": 2.0})])
    folder.add_evaluations([_result(2.0, found={"median_ess": 3.0}), _result(3.0, split="train")])
    folder.add_evaluations([_result(4.0, asked={"k": 50}), _result(5.0, points=20)])
    folder.add_evaluations([_result(6.0, protocol={"dataset": "digits"})])
    assert [result["value"] for result in folder.evaluations()] == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert set(json.loads((tmp_path / "evaluation.json").read_text())) == {"results"}
    folder.add_evaluations([_result(7.0, method="k-curve")])
    assert [result["value"] for result in folder.evaluations()] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_results_of_version_0_1_0_are_read_added_to_and_replaced(tmp_path: Path) -> None:
    old = {"name": "iwae", "split": "test", "points": 10, "protocol": {"dataset": "mnist"}}
    rows = [{**old, "value": 1.0, "settings": {"k": 5, "median_ess": 2.0, "seed": 0}},
            {**old, "name": "elbow room", "value": 2.0, "settings": {"method": "room", "k": 5, "seed": 0}}]  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps({"results": rows}))
    folder = RunFolder(tmp_path)
    kept = [(row["method"], row["asked"], row["found"]) for row in folder.evaluations()]
    assert kept == [("iwae", {"k": 5, "seed": 0}, {"median_ess": 2.0}), ("room", {"k": 5, "seed": 0}, {})]
    folder.add_evaluations([_result(3.0, asked={"k": 5, "seed": 0}), _result(4.0, asked={"k": 5, "seed": 1})])
    assert [row["value"] for row in folder.evaluations()] == [3.0, 2.0, 4.0]
    assert not any("settings" in row for row in json.loads((tmp_path / "evaluation.json").read_text())["results"])


def test_runs_are_listed_by_name_with_their_latest_figure(tmp_path: Path) -> None:
    for name in ("b", "a"):
        _started(tmp_path / name)
    (tmp_path / "no-run").mkdir()
    found = runs_in(tmp_path)
    assert [folder.path.name for folder in found] == ["a", "b"]
    found[0].append_metrics([{"step": 2, "split": "validation", "elbo": -1.0, "seconds": 1.0}])
    summary = found[0].summary()
    assert (summary["step"], summary["elbo"], summary["on"], summary["latents"]) == (2, -1.0, "validation", 2)
