"""A full disk, training that diverges, Ctrl-C: what was good before is kept."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from complaints import Ask, assert_complains, snapshot, tiny
from elbowroom.running import checkpoints, observers


def _full(*args: Any, **rest: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name"), [(checkpoints, "save_model"), (checkpoints, "save_file"), (os, "fsync"), (os, "replace")]
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    module: Any, name: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers = [(here / "run/checkpoints" / pointer).read_text() for pointer in ("best", "latest")]
    if name == "replace":  # what Path.replace calls
        monkeypatch.setattr(Path, "replace", _full)
    else:
        monkeypatch.setattr(module, name, _full)
    answer = ask("train", "digits", "--resume", "--out", "run", "--train.epochs", "2", "--quiet")
    assert_complains(answer, "full", "room")
    monkeypatch.undo()
    os.chdir(here)
    assert [(here / "run/checkpoints" / pointer).read_text() for pointer in ("best", "latest")] == pointers
    assert ask("evaluate", "run", "--methods", "elbo")[0] == 0
    code, _, err = ask("train", "digits", "--resume", "--out", "run", "--train.epochs", "2", "--quiet")
    assert code == 0, err


@pytest.mark.parametrize("argv", ["score run --k 2", "evaluate run --methods elbo", "encode run"])
def test_a_full_disk_while_results_are_written(
    argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(here)
    monkeypatch.setattr(os, "fsync", _full)
    monkeypatch.setattr(np, "savez", _full)
    code, _, err = ask(*argv.split())
    assert code == 2
    assert "full" in err
    assert "Make room" in err
    changed = {path for path, digest in snapshot(here).items() if before.get(path) != digest}
    assert all(".writing" in path for path in changed), changed


# --- training that goes wrong, or is stopped ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_term_and_cause(here: Path, ask: Ask) -> None:
    often = ("--train.report-every", "1", "--train.checkpoint-seconds", "0")
    answer = ask(*tiny("train", "digits", "--optimizer.lr", "1e30", *often, "--out", "wild", "--quiet"))
    assert_complains(answer, "At step ", "finite", "elbo = ", "learning rate", "--optimizer.lr")


def test_weights_from_before_a_divergence_are_kept(here: Path, ask: Ask) -> None:
    steep = ("--optimizer.name", "sgd", "--optimizer.schedule", "one-cycle", "--optimizer.lr", "30")
    often = ("--train.report-every", "1", "--train.checkpoint-seconds", "0")
    assert_complains(
        ask(*tiny("train", "digits", *steep, *often, "--out", "wild", "--quiet")), "the last good checkpoint"
    )
    code, out, err = ask("evaluate", "wild", "--methods", "elbo", "--json")
    assert code == 0, err
    assert -200 < json.loads(out)["results"][0]["value"] < 0


class Interrupting:
    """Counts steps, and presses Ctrl-C in the middle of an epoch."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Presses Ctrl-C after so many steps of the next training."""

    def install(steps: int) -> None:
        press = Interrupting(steps)
        monkeypatch.setattr(observers.Silent, "step", lambda self: press())

    yield install


def test_ctrl_c_saves_and_resume_ends_with_the_same_numbers(
    here: Path, ask: Ask, interrupt_after: Callable[[int], None]
) -> None:
    settings = tiny("train", "digits", "--train.epochs", "2", "--quiet")
    assert ask(*settings, "--out", "whole")[0] == 0
    interrupt_after(7)
    code, out, err = ask(*settings, "--out", "cut")
    assert code == 130
    assert out == ""
    assert "--resume" in err
    assert "Traceback" not in err
    assert (here / "cut/checkpoints/latest").read_text().strip() == "step-7"
    code, out, err = ask("train", "digits", "--resume", "--out", "cut", "--quiet")
    assert code == 0, err
    assert "from step 7" in err

    def lines(run: str) -> list[dict[str, Any]]:
        rows = map(json.loads, (here / run / "metrics.jsonl").read_text().splitlines())
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert lines("cut") == lines("whole")
