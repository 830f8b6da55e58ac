"""The remedy for values that are not finite names what the command has, and nothing else; followed, it works."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbowroom.cli import main
from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.runs import load
from small_runs import reals, tiny

Ask = Callable[..., tuple[int, str, str]]

FEW = {"train": {"steps": 2, "batch_size": 10}}
QUICK = "--draws 4 --chains 2 --warmup 2"
COMMANDS = {
    "train": "train {file} --train.steps 2 --out trained --quiet --overwrite",
    "data show": "data show {file} --out shown.png",
    "evaluate": "evaluate {run} {file} --methods elbo",
    "score": "score {run} {file} --method iwae --k 20",
    "encode": "encode {run} {file}",
    "encode --posterior": "encode {run} {file} --posterior hmc " + QUICK,
    "reconstruct": "reconstruct {run} {file}",
    "impute": "impute {run} {file} --interval 0.4 --hide 0.2 " + QUICK,
    "doctor": "doctor {run} {file} --checks sound --points 5",
}
TAKE_NAN = ("encode --posterior", "impute")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Iterator[Path]:
    """The working directory, with a run on complete data, one on data with holes, and rows with NaN or infinity."""
    folder, before = tmp_path_factory.mktemp("remedies"), Path.cwd()
    os.chdir(folder)
    try:
        tiny(reals(), Path("run"), **FEW)
        holes = reals()
        holes[::5, 0] = np.nan
        tiny(holes, Path("holes"), data={"missing": "mask", "validation": 8, "test": 8}, **FEW)
        for name, value in {"nan": np.nan, "inf": np.inf}.items():
            rows = reals(30, seed=2).numpy().copy()
            rows[3, 1] = value
            np.save(f"{name}.npy", rows)
        yield folder
    finally:
        os.chdir(before)


@functools.cache
def helped(*command: str) -> str:
    """What --help says, which takes a second to write."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*command, "--help"])
    return text.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_flags_that_a_remedy_names_are_those_of_the_command(fault: str, name: str, ask: Ask) -> None:
    if fault == "nan" and name in TAKE_NAN:
        return  # which takes seconds: see below
    words = COMMANDS[name].format(file=f"{fault}.npy", run="run").split()
    code, _, err = ask(*words)
    assert code == 2 and "the first in row 3" in err and "take those rows out" in err.lower()
    command = words[:2] if name == "data show" else words[:1]
    has = helped(*command)
    assert all(f" {flag} " in has for flag in re.findall(r"--[a-z][a-z.-]*", err)), err
    assert f"elbowroom {command[0]}" not in err.partition("\n")[2], "it is the command that was refused"


def test_infinities_become_missing_values_where_these_are_taken(ask: Ask) -> None:
    """Writing NaN there is the remedy, and it works."""
    for name, run in (("encode --posterior", "run"), ("impute", "run"), ("score", "holes"), ("evaluate", "holes")):
        assert "write NaN in their place" in ask(*COMMANDS[name].format(file="inf.npy", run=run).split())[2]
    for name, run in (("encode --posterior", "run"), ("evaluate", "holes")):
        assert ask(*COMMANDS[name].format(file="nan.npy", run=run).split())[0] == 0


@pytest.fixture(scope="module")
def filled(place: Path) -> Path:
    """The rows without holes, as the remedy makes them."""
    run, rows = load("run"), np.load("nan.npy")
    with pytest.raises(ElbowroomError) as caught:
        run.score("nan.npy")
    (command,) = re.findall(r"`elbowroom (impute [^`]*)`", caught.value.remedy)
    main([*shlex.split(command), "--out", "filled.npz", *QUICK.split(), "--interval", "0.4"])
    full = np.load("filled.npz")["completed"]
    assert (full == rows).sum() == rows.size - 1
    np.save("full.npy", full)
    return Path("full.npy")


@pytest.mark.parametrize("name", ["evaluate", "score", "encode", "reconstruct", "doctor"])
def test_the_remedies_of_a_run_on_complete_data_work(name: str, filled: Path, ask: Ask) -> None:
    _, _, err = ask(*COMMANDS[name].format(file="nan.npy", run="run").split())
    assert "`elbowroom impute run nan.npy`" in err
    assert ask(*COMMANDS[name].format(file=filled, run="run").split())[0] == 0
    (call,) = re.findall(r"run\.\w+\(.*run\.read\(data, missing='mask'\)\)", err)
    more = {"doctor": ", checks=['sound'], points=5)", "score": ", method='iwae', k=20)"}.get(name, ")")
    eval(call.removesuffix(")") + more, {"run": load("run"), "data": "nan.npy"})  # of our own message


def test_in_python_the_same_is_said() -> None:
    run, rows = load("run"), np.load("inf.npy")
    calls: list[Callable[[], Any]] = [lambda: run.posterior(rows), lambda: impute(run, rows)]
    for call in calls:
        with pytest.raises(ElbowroomError, match="infinite") as caught:
            call()
        assert "write NaN in their place" in caught.value.remedy
