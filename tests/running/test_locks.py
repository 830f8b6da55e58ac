"""Training refuses a folder in which another process trains; results wait for each other, and none is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.running import locks
from elbowroom.running.diagnosis import read_checkup
from elbowroom.running.folder import RunFolder
from elbowroom.running.locks import lock_results, lock_training
from elbowroom.running.runs import Run, load
from small_runs import reals, tiny


@contextmanager
def held_elsewhere(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Another process holds a lock: for some seconds, or until the end."""
    until = "sys.stdin.read()" if seconds is None else f"time.sleep({seconds})"
    held = f"with FileLock({str(path)!r}): print('held', flush=True); {until}"
    script = f"import sys, time; from filelock import FileLock\n{held}"
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        other.kill()
        other.communicate()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(reals(), tmp_path_factory.mktemp("locks") / "run", train={"steps": 4, "batch_size": 10})


def test_a_second_training_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ElbowroomError, match="still running")
    with held_elsewhere(tmp_path / ".lock"), refused, lock_training(tmp_path):
        pytest.fail("the lock was granted twice")
    with lock_training(tmp_path):  # the dead hold nothing
        pass


def test_results_wait_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENT", 0.1)
    told: list[str] = []
    began = time.monotonic()
    with held_elsewhere(tmp_path / ".results.lock", seconds=0.6), lock_results(tmp_path, told.append):
        assert time.monotonic() - began > 0.3
    assert len(told) == 1 and "waiting" in told[0] and str(tmp_path) in told[0]
    with lock_results(tmp_path, told.append):
        pass
    assert len(told) == 1


def test_an_evaluation_and_a_diagnosis_end_while_a_run_goes_on(trained: Run) -> None:
    """The case of issue 18: somebody trains in the folder while a long evaluation ends."""
    with held_elsewhere(trained.folder.path / ".lock"):
        results = trained.evaluate("elbo")
        found = trained.doctor(checks=["sound"], points=8)
    kept = [(row["name"], row["value"]) for row in trained.folder.evaluations()]
    assert kept == [(result.name, result.value) for result in results]
    checkup = read_checkup(trained.folder)
    assert checkup is not None and checkup.diagnosis.findings == found.findings


def test_an_evaluation_waits_for_another_that_writes(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENT", 0.05)
    told: list[str] = []
    run = load(trained.folder.path, data=reals(), announce=told.append)
    with held_elsewhere(trained.folder.path / ".results.lock", seconds=0.4):
        run.evaluate("elbo", seed=77)
    assert [line for line in told if "nothing is lost" in line]
    assert 77 in {row["asked"].get("seed") for row in trained.folder.evaluations()}


def test_evaluations_at_once_keep_all_their_results(trained: Run) -> None:
    seeds = range(100, 106)
    runs = {seed: load(trained.folder.path, data=reals()) for seed in seeds}
    threads = [threading.Thread(target=runs[seed].evaluate, args=("elbo",), kwargs={"seed": seed}) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seeds) <= {row["asked"].get("seed") for row in trained.folder.evaluations()}


def test_what_was_finished_is_kept_until_it_is_written(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a long evaluation outlive a failure to write its results, and the same command uses them."""
    few = {"points": 4, "chains": 2, "temperatures": 2, "seed": 3}
    unfinished = trained.folder.path / "evaluation" / "unfinished"

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_evaluations", full)
        with pytest.raises(OSError, match="full"):
            trained.evaluate("ais", **few)
    assert list(unfinished.rglob("*.safetensors"))
    trained.evaluate("ais", **few)
    assert not unfinished.exists()


def test_results_of_a_run_that_was_replaced_are_not_those_of_the_new_one(tmp_path: Path) -> None:
    short = {"train": {"steps": 2, "batch_size": 10}}
    old = tiny(reals(), tmp_path / "run", **short)
    tiny(reals(), tmp_path / "run", overwrite=True, **short | {"model": {"latent_dim": 1}})
    with pytest.raises(ElbowroomError, match="was replaced or deleted"):
        old.evaluate("elbo")
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_results_of_a_run_that_went_on_are_added(tmp_path: Path) -> None:
    few = {"batch_size": 10, "report_every": 2}
    run = tiny(reals(), tmp_path / "run", train={"steps": 2, **few})
    tiny(reals(), tmp_path / "run", resume=True, train={"steps": 4, **few})
    run.evaluate("elbo")
    assert {row["step"] for row in json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]} == {2}
