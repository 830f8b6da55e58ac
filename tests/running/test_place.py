"""Where a run goes, and what becomes of one that is there: the same call can be made again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.phrasing import speaking
from elbowroom.running.observers import Silent
from elbowroom.running.runs import load
from elbowroom.running.train import train
from small_runs import TINY, Quits, everything, reals, tiny

FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}


class Started(Silent):
    """Notes whether training was begun."""

    started = False

    def start(self, step: int, total: int | None) -> None:
        self.started = True


def small_model() -> list[str]:
    return ["--model.latent-dim", "1", "--model.encoder.hidden", "4", "--model.decoder.hidden", "4"]


def _in_python(**settings: Any) -> Any:
    """`train` on an array that names no folder."""
    keys = {**TINY, **FEW, "observers": [], "announce": lambda remark: None} | settings
    return train(reals(), **keys)


def test_a_cell_that_is_run_again_takes_a_fresh_folder_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    paths = [_in_python(announce=told.append).folder.path for _ in range(3)]
    assert [str(path) for path in paths] == ["runs/data", "runs/data-2", "runs/data-3"]
    assert told == [f"the run folder is {path}" for path in paths]
    with pytest.raises(ElbowroomError, match="exists already"):
        _in_python(exist="error")


def test_each_wish_about_a_run_that_exists(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny(reals(), out, exist="resume", **FEW)  # there is none, so it starts
    first = everything(out)
    assert tiny(reals(), out, exist="resume", **FEW).step == load(out).step  # finished: as it is
    assert everything(out) == first
    longer = {"train": FEW["train"] | {"steps": 8}}
    assert tiny(reals(), out, exist="resume", **longer).history[-1]["step"] == 8
    with pytest.raises(ElbowroomError, match="exists already"):
        tiny(reals(), out, exist="error", **FEW)
    assert tiny(reals(), out, exist="new", **FEW).folder.path == tmp_path / "run-2"
    assert tiny(reals(), out, exist="new", **FEW).folder.path == tmp_path / "run-3"
    assert everything(tmp_path / "run-3") == first
    tiny(reals(), out, exist="overwrite", **FEW)
    assert everything(out) == first


@pytest.mark.parametrize("wish", [{"exist": "resume"}, {"resume": True}], ids=str)
@pytest.mark.parametrize(
    ("train_keys", "why"),
    [
        ({}, "is finished, at step 4 (that is its whole length): nothing was done; a larger --train.steps"),
        ({"steps": None, "epochs": 1}, "is finished, at step 4 (that is its whole length): nothing was done; a larger "
         "--train.epochs"),
        ({"steps": 1000, "patience": 2}, "(validation has not improved for 2 reports): nothing was done; a larger "
         "--train.patience"),
    ],
    ids=["steps", "epochs", "patience"],
)  # fmt: skip
def test_a_finished_run_is_said_to_be_finished_and_is_left_as_it_is(
    train_keys: dict[str, Any], why: str, wish: dict[str, Any], tmp_path: Path
) -> None:
    """It is not said to go on, and nobody is told of a start."""
    steep = {"optimizer": {"name": "sgd", "lr": 0.3}} if "patience" in train_keys else {}
    settings = {"train": FEW["train"] | train_keys, **steep}
    tiny(reals(), tmp_path / "run", **settings)
    told: list[str] = []
    written = (tmp_path / "run" / "config.json").read_text()
    before, watcher = everything(tmp_path / "run"), Started()
    tiny(reals(), tmp_path / "run", announce=told.append, observers=[watcher], **wish, **settings)
    (said,) = told
    assert why in said and not watcher.started
    assert everything(tmp_path / "run") == before
    assert (tmp_path / "run" / "config.json").read_text() == written


def test_a_run_that_was_stopped_is_said_to_go_on(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        tiny(reals(), tmp_path / "run", observers=[Quits(3, stop)], **FEW)
    tiny(reals(), tmp_path / "run", exist="resume", announce=told.append, **FEW)
    assert told == [f"going on with {tmp_path / 'run'} from step 2"]


def test_other_settings_do_not_go_on_with_a_run(tmp_path: Path) -> None:
    tiny(reals(), tmp_path / "run", **FEW)
    with pytest.raises(ElbowroomError, match=r"model\.latent_dim = 2"):
        tiny(reals(), tmp_path / "run", exist="resume", **FEW | {"model": {"latent_dim": 3}})


def test_a_run_that_failed_at_its_start_is_begun_anew(tmp_path: Path) -> None:
    """Even with other settings, for there is nothing to go on with."""

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        tiny(reals(), tmp_path / "run", model={"latent_dim": 3}, observers=[Quits(1, fail)], **FEW)
    assert tiny(reals(), tmp_path / "run", exist="resume", **FEW).config.model.latent_dim == 2


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"resume": True, "overwrite": True}, ["resume=True", "overwrite=True"]),
        ({"resume": True, "exist": "new"}, ["resume=True", 'exist="new"']),
        ({"overwrite": True, "exist": "resume"}, ["overwrite=True", 'exist="resume"']),
        ({"overwrite": True, "exist": "error"}, ["overwrite=True", 'exist="error"']),
        ({"exist": "replace"}, ["exist 'replace'", "error, overwrite, resume, new"]),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(wishes: Any, words: list[str], tmp_path: Path) -> None:
    with speaking("keywords", unless_set=False), pytest.raises(ElbowroomError) as caught:
        tiny(reals(), tmp_path / "run", **wishes, **FEW)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wishes", [{"resume": True, "exist": "resume"}, {"overwrite": True, "exist": "overwrite"}])
def test_the_same_wish_twice_is_one(wishes: Any, tmp_path: Path) -> None:
    tiny(reals(), tmp_path / "run", **FEW)
    assert tiny(reals(), tmp_path / "run", **wishes, **FEW).history[-1]["step"] == 4


def test_every_way_out_that_a_caller_in_python_is_told_of_works(tmp_path: Path) -> None:
    """The three remedies of "exists already", as they are written in the message."""
    out = tmp_path / "my run"
    tiny(reals(), out, **FEW)
    with speaking("keywords", unless_set=False), pytest.raises(ElbowroomError) as caught:
        tiny(reals(), out, **FEW)
    remedy = caught.value.remedy
    assert "--" not in remedy
    assert f'out="{out}-2"' in remedy and "resume=True" in remedy and "overwrite=True" in remedy
    for wish in ("resume=True", "overwrite=True", f'out="{out}-2"'):
        keys = eval(f"dict({wish})")
        tiny(reals(), Path(keys.pop("out", out)), **keys, **FEW)
    assert (tmp_path / "my run-2").is_dir()


def test_every_way_out_that_the_command_line_tells_of_works(tmp_path: Path, ask: Callable[..., Any]) -> None:
    np.save(tmp_path / "mine.npy", reals().numpy())
    small = [*small_model(), "--train.steps", "2", "--quiet"]
    command = ["train", str(tmp_path / "mine.npy"), *small, "--out", str(tmp_path / "my run")]
    assert ask(*command)[0] == 0
    code, _, err = ask(*command)
    assert code == 2
    free = shlex.split(err[err.index("--out ") :].split(")")[0])
    for wish in (["--resume"], ["--overwrite"], ["--exist", "new"]):
        assert ask(*command, *wish)[0] == 0, wish
    assert (tmp_path / "my run-2").is_dir()
    assert ask(*command[:-2], *free)[0] == 2  # by now that one is taken
    code, _, err = ask(*command, "--resume", "--overwrite")
    assert code == 2 and "--resume and --overwrite contradict" in err
    assert "new, " not in err and "error, overwrite, resume, new" in ask(*command, "--exist", "nwe")[2]


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    for exist in ("error", "overwrite", "resume"):
        with pytest.raises(ElbowroomError, match="not a run folder"):
            tiny(reals(), tmp_path / "notes", exist=exist, **FEW)
    assert tiny(reals(), tmp_path / "notes", exist="new", **FEW).folder.path == tmp_path / "notes-2"
    assert (tmp_path / "notes" / "thesis.tex").read_text() == "years of work"
