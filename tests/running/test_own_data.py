"""A run without its data: what can be done with others, what is said where its own are needed, and where it looks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.errors import ElbowroomError
from elbowroom.running.diagnosis import read_checkup
from elbowroom.running.runs import Run, load
from elbowroom.running.train import train
from small_runs import TINY, everything, reals, tiny

FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of which the data are gone, or came from Python; and other data, as a file."""
    where = tmp_path_factory.mktemp("gone")
    np.save(where / "mine.npy", reals(80).numpy())
    tiny(where / "mine.npy", where / "moved", **FEW)
    (where / "mine.npy").rename(where / "elsewhere.npy")
    tiny(reals(80), where / "python", **FEW)
    pictures = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    tiny(pictures, where / "pictures", data={"binarization": "dynamic", "validation": 8, "test": 8}, **FEW)
    np.save(where / "others.npy", reals(120, seed=7).numpy())
    np.save(where / "other-pictures.npy", torch.rand(90, 1, 6, 6).numpy())
    return where


COMMANDS = [
    "evaluate {run} {data} --methods elbo",
    "evaluate {run} --data {data} --methods elbo,iwae --k 5",
    "score {run} {data} --k 5",
    "encode {run} {data}",
    "reconstruct {run} {data} --num 4",
    "impute {run} {data} --hide 0.3 --num 3 --draws 10 --warmup 4 --chains 2",
    "doctor {run} {data} --points 40",
    "doctor {run} --data {data} --points 40 --checks sound --json",
    "sample {run} --num 5",
    "report {run}",
    "runs show {run}",
]
QUICK = {("moved", 2), ("python", 8), ("pictures", 8), ("moved", 7), ("pictures", 2)}  # the others draw, for seconds


@pytest.mark.parametrize(
    ("name", "command"),
    [
        pytest.param(name, command, marks=[] if (name, place) in QUICK else [pytest.mark.slow])
        for name in ("moved", "python", "pictures")
        for place, command in enumerate(COMMANDS)
    ],
)
def test_each_command_works_without_the_runs_own_data(
    name: str, command: str, place: Path, ask: Callable[..., Any]
) -> None:
    data = place / ("other-pictures.npy" if name == "pictures" else "others.npy")
    if name == "pictures":
        command = command.replace("--hide 0.3", "--hide bottom")
    code, _, err = ask(*command.format(run=place / name, data=data).split())
    assert code == 0, err
    assert "Traceback" not in err


NEED_THEM = ["evaluate {run}", "score {run} --k 5", "encode {run}", "reconstruct {run}", "doctor {run}",
             "impute {run} --hide 0.3"]  # fmt: skip
TAKE_OTHERS = [*(one for one in NEED_THEM if not one.startswith("doctor")), "encode {run} --posterior hmc"]


@pytest.mark.parametrize("command", TAKE_OTHERS)
def test_a_split_beside_other_data_is_refused_as_they_have_none(
    command: str, place: Path, ask: Callable[..., Any]
) -> None:
    name, run, *flags = command.format(run=place / "moved").split()
    code, out, err = ask(name, run, str(place / "others.npy"), *flags, "--split", "validation")
    assert (code, out) == (2, "")
    assert "--split validation was given together with other data" in err and "Leave one of the two out" in err


def test_a_posteriors_remedy_is_the_command_for_it(place: Path, ask: Callable[..., Any]) -> None:
    code, _, err = ask("encode", str(place / "moved"), "--posterior", "hmc")
    assert code == 2 and f"`elbowroom encode {place / 'moved'} FILE --posterior hmc` encodes others." in err


def test_a_split_beside_other_data_is_refused_in_python_too(place: Path) -> None:
    run, x = load(place / "python"), reals(40, seed=3)
    for call in (run.score, run.encode, run.posterior, lambda x, **more: er.impute(run, x, **more),
                 lambda x, **more: run.evaluate("elbo", data=x, **more),
                 lambda x, **more: run.reconstruct(data=x, **more)):  # fmt: skip
        with pytest.raises(ElbowroomError, match="only the run's own data have splits"):
            call(x, split="test")


def test_samples_need_no_data_where_the_context_is_given(tmp_path: Path, ask: Callable[..., Any]) -> None:
    kinds = ["hen", "ox", "pig"] * 20
    tiny(reals(60), tmp_path / "run", context={"kind": kinds}, **FEW)
    code, _, err = ask("sample", str(tmp_path / "run"))
    assert code == 2 and "Or say what to condition on, such as --context kind=hen." in err
    code, _, err = ask("sample", str(tmp_path / "run"), *err.split("such as ")[1].strip().rstrip(".").split())
    assert code == 0, err


@pytest.mark.parametrize("command", NEED_THEM)
def test_the_message_says_whose_data_are_missing_where_they_were_looked_for_and_what_works(
    command: str, place: Path, ask: Callable[..., Any]
) -> None:
    code, _, err = ask(*command.format(run=place / "moved").split())
    assert code == 2
    assert "The run's own training data are missing" in err
    assert f"it is not at {place / 'mine.npy'} or {place / 'moved' / 'mine.npy'}" in err
    name, *_ = command.split()
    assert f"`elbowroom {name} {place / 'moved'} FILE`" in err and "er.load(" in err
    assert not [other for other in NEED_THEM if f"`elbowroom {other.split()[0]} " in err and other != command]
    code, _, err = ask(*command.format(run=place / "python").split())
    assert code == 2 and "The run's own training data are missing" in err and "given in Python" in err


def test_each_method_of_a_run_works_on_other_data(place: Path) -> None:
    run, x = load(place / "python"), reals(40, seed=3)
    assert run.sample(4).x.shape == (4, 6)
    assert run.encode(x).mean.shape == (40, 2)
    assert run.score(x, k=5).log_evidence.shape == (40,)
    assert run.evaluate("elbo", data=x)[0].split == "all"
    found = run.reconstruct(5, data=x)
    assert torch.equal(found.x, x[:5])
    assert er.impute(run, x, hide=0.3, num=3, draws=10, warmup=4, chains=2).x.shape == (3, 6)
    assert run.posterior(x, points=3, draws=4, warmup=4, chains=2).z.shape[2] == 3


def test_the_doctor_leaves_out_what_needs_training_examples_with_a_sentence_each(place: Path) -> None:
    run = load(place / "python")
    needing = {"generalises", "holes", "sample_quality"}
    checks = ["sound", "latents_in_use", "calibration", *sorted(needing)]
    found = run.doctor(data=reals(160, seed=3), points=40, checks=checks)
    assert {name for name, why in found.not_examined.items() if "training examples" in why} == needing
    assert {"sound", "calibration", "latents_in_use"} <= found.seconds.keys() - found.not_examined.keys()
    kept = read_checkup(run.folder)
    assert kept is not None and kept.data == "the array"
    own = load(place / "python", data=reals(80)).doctor(points=20, checks=["sound"])
    assert not own.not_examined
    kept = read_checkup(run.folder)
    assert kept is not None and kept.data is None


# --- data that moved ---------------------------------------------------------------------------------------------


def _trained(folder: Path, **more: Any) -> Run:
    folder.mkdir()
    np.save(folder / "mine.npy", reals().numpy())
    return tiny(folder / "mine.npy", folder / "runs" / "one", **FEW | more)


def test_a_folder_that_moves_with_its_data_is_whole(tmp_path: Path) -> None:
    """A project that is copied to another machine."""
    expected = _trained(tmp_path / "here").evaluate("elbo")[0].value
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(tmp_path / "there" / "runs" / "one").evaluate("elbo")[0].value == expected


def test_data_that_are_put_into_the_runs_folder_are_found(tmp_path: Path) -> None:
    run = _trained(tmp_path / "here")
    shutil.move(tmp_path / "here" / "mine.npy", tmp_path)
    with pytest.raises(ElbowroomError, match="own training data are missing") as caught:
        _ = load(run.folder.path).data
    assert f"or into {run.folder.path}" in caught.value.remedy
    shutil.move(tmp_path / "mine.npy", run.folder.path)
    assert load(run.folder.path).dataset().size("test") == 8


def test_other_data_in_the_place_of_the_runs_own_are_not_taken_for_them(tmp_path: Path) -> None:
    run = _trained(tmp_path / "here")
    (tmp_path / "here" / "mine.npy").unlink()
    np.save(run.folder.path / "mine.npy", reals(seed=1).numpy())
    with pytest.raises(ElbowroomError, match="have changed"):
        _ = load(run.folder.path).data


def test_a_run_goes_on_where_its_data_lie_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = {"train": FEW["train"] | {"steps": 8}}
    straight = _trained(tmp_path / "straight", **longer)
    run = _trained(tmp_path / "here")
    moved = (tmp_path / "here" / "mine.npy").rename(tmp_path / "mine.npy")
    with pytest.raises(ElbowroomError, match="own training data are missing") as caught:
        train(out=run.folder.path, resume=True, observers=[], train__steps=8)
    assert f"er.train(data, out={str(run.folder.path)!r}, resume=True)" in caught.value.remedy
    main(["train", str(moved), "--resume", "--out", str(run.folder.path), "--train.steps", "8", "--quiet"])
    assert everything(run.folder.path) == everything(straight.folder.path)
    assert load(run.folder.path).config.data.name == str(moved)
    assert load(run.folder.path).dataset().size("test") == 8


def test_a_run_goes_on_by_its_folder_alone(tmp_path: Path, ask: Callable[..., Any]) -> None:
    run = _trained(tmp_path / "here")
    code, out, err = ask("train", "--resume", "--out", str(run.folder.path), "--train.steps", "8", "--quiet")
    assert code == 0, err
    assert "8 steps" in out
    assert ask("train", "--out", str(tmp_path / "new"))[0] == 2


def test_the_remedies_for_data_from_python_work(tmp_path: Path) -> None:
    tiny(reals(), tmp_path / "run", **FEW)
    with pytest.raises(ElbowroomError, match="given in Python") as caught:
        load(tmp_path / "run").evaluate("elbo")
    assert f"er.load({str(tmp_path / 'run')!r}, data=…)" in caught.value.remedy
    assert load(tmp_path / "run", data=reals().numpy()).evaluate("elbo")[0].split == "test"
    with pytest.raises(ElbowroomError, match="given in Python") as caught:
        train(out=tmp_path / "run", resume=True, observers=[], **TINY)
    assert f"er.train(data, out={str(tmp_path / 'run')!r}, resume=True)" in caught.value.remedy


def test_data_from_python_have_no_name_in_a_sentence(place: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"^The data have changed since"):
        load(place / "python", data=reals(80) + 1)
