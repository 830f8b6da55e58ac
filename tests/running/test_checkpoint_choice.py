"""``--checkpoint best|latest`` wherever a run is loaded, and results that know which of the two they are of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.running.diagnosis import read_checkup
from elbowroom.running.folder import RunFolder
from elbowroom.running.runs import Run, load
from elbowroom.showing.report.blocks import Commands, Prose
from elbowroom.showing.report.records import read_results
from elbowroom.showing.report.repeat import how_to_repeat
from elbowroom.showing.report.run import report_of_run
from small_runs import reals, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best checkpoint is not its last."""
    where = tmp_path_factory.mktemp("choice")
    np.save(where / "mine.npy", reals().numpy())
    steep = {"optimizer": {"name": "sgd", "lr": 0.3}, "train": {"steps": 6, "report_every": 3, "batch_size": 10}}
    run = tiny(where / "mine.npy", where / "run", **steep)
    assert run.step < 6 == run.history[-1]["step"]
    return where / "run"


@pytest.mark.slow
def test_every_command_takes_either(folder: Path, ask: Callable[..., Any], tmp_path: Path) -> None:
    def written(command: str, file: Path) -> bytes:
        code, _, err = ask(*command.split())
        assert code == 0, err
        return file.read_bytes()

    scores, arrays = tmp_path / "scores.csv", tmp_path / "arrays.npz"
    for command, file in {
        f"score {folder} --k 5 --out {scores}": scores,
        f"encode {folder} --out {arrays}": arrays,
        f"reconstruct {folder} --num 4 --arrays {arrays}": arrays,
        f"sample {folder} --num 4 --arrays {arrays}": arrays,
        f"impute {folder} --hide 0.3 --num 2 --draws 10 --warmup 3 --chains 2 --out {arrays}": arrays,
        f"report {folder} --out {tmp_path / 'report.html'}": tmp_path / "report.html",
    }.items():
        best = written(f"{command} --checkpoint best", file)
        assert written(f"{command} --checkpoint latest", file) != best, command
        if file.suffix != ".html":  # it says how long it took
            assert written(command, file) == best, command


def test_results_of_the_latest_weights_do_not_replace_those_of_the_best(folder: Path, ask: Callable[..., Any]) -> None:
    for which, name in (("best", "scores.csv"), ("latest", "scores-latest.csv")):
        code, out, err = ask("score", str(folder), "--method", "iwae", "--k", "5", "--checkpoint", which)
        assert code == 0, err
        assert f"wrote {folder / name}" in out
    assert (folder / "scores.csv").read_text() != (folder / "scores-latest.csv").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without pictures, which take seconds to draw."""
    monkeypatch.setattr("elbowroom.showing.report.run._pictures", lambda *_: [])


def test_findings_figures_and_pages_of_the_latest_weights_do_not_replace_those_of_the_best(
    folder: Path, ask: Callable[..., Any], undrawn: None, real_pictures: None
) -> None:
    written = {
        f"doctor {folder} --checks sound,latents_in_use --points 8": "doctor.json",
        f"reconstruct {folder} --num 4": "figures/reconstructions.png",
        f"report {folder}": "report.html",
    }
    for command, name in written.items():
        latest = Path(name).with_stem(f"{Path(name).stem}-latest")
        for file, which in ((name, "best"), (str(latest), "latest")):
            code, out, err = ask(*command.split(), "--checkpoint", which)
            assert code == 0, err
            assert f"wrote {folder / file}\n" in out
        assert (folder / name).read_bytes() != (folder / latest).read_bytes(), command


def test_a_report_reads_the_findings_on_its_own_weights(folder: Path, undrawn: None) -> None:
    steps, told = {}, {}
    for which in ("best", "latest"):
        run = load(folder, checkpoint=which)
        run.doctor(checks=["sound"], points=8)
        steps[which] = run.step
    for which in ("best", "latest"):
        (told[which],) = _doctor(load(folder, checkpoint=which))
        name = load(folder, checkpoint=which).result_name("doctor.json")
        kept = read_checkup(RunFolder(folder), name)
        assert kept is not None and kept.step == steps[which]
    (folder / "doctor-latest.json").unlink()
    assert _doctor(load(folder)) == [told["best"]]
    (missing,) = _doctor(load(folder, checkpoint="latest"))
    assert f"`elbowroom doctor {folder} --checkpoint latest` runs it" in missing


def _doctor(run: Run) -> list[str]:
    """What a report says of the doctor, without the findings."""
    section = next(one for one in report_of_run(run).sections if one.slug == "doctor")
    return [block.text for block in section.blocks if isinstance(block, Prose)]


def test_each_command_that_a_report_names_takes_its_weights(folder: Path, undrawn: None) -> None:
    for which in ("best", "latest"):
        named = " ".join(prose.text for prose in report_of_run(load(folder, checkpoint=which)).blocks()
                         if isinstance(prose, Prose))  # fmt: skip
        commands = re.findall(r"`(elbowroom (?:evaluate|doctor) [^`]*)`", named)
        assert commands and all(("--checkpoint latest" in one) is (which == "latest") for one in commands)


def test_a_command_takes_either(folder: Path, ask: Callable[..., Any], tmp_path: Path) -> None:
    printed = [ask("score", str(folder), "--k", "5", "--json", *which)[1] for which in
               ([], ["--checkpoint", "best"], ["--checkpoint", "latest"])]  # fmt: skip
    assert printed[0] == printed[1] != printed[2]
    code, _, err = ask("score", str(folder), "--checkpoint", "newest")
    assert code == 2 and "best, latest" in err


def test_results_of_both_are_kept_apart(folder: Path) -> None:
    for which in ("best", "latest", "best"):
        load(folder, checkpoint=which).evaluate("elbo")
    steps = {which: load(folder, checkpoint=which).step for which in ("best", "latest")}
    kept = [row for row in RunFolder(folder).evaluations() if row["name"] == "elbo"]
    assert sorted(row["step"] for row in kept) == sorted(steps.values())
    for which, name in (("best", "elbo-test"), ("latest", "elbo-test-latest")):
        rows = np.genfromtxt(folder / "evaluation" / f"{name}.csv", delimiter=",", names=True)
        (value,) = (row["value"] for row in kept if row["step"] == steps[which])
        column = next(column for column in rows.dtype.names if column != "row")
        assert rows[column].mean() == pytest.approx(value, rel=1e-6)


def test_a_report_shows_each_result_beside_its_checkpoint(folder: Path) -> None:
    for which in ("best", "latest"):
        load(folder, checkpoint=which).evaluate("elbo")
    values = {row["step"]: row["value"] for row in RunFolder(folder).evaluations() if row["name"] == "elbo"}
    for which in ("best", "latest"):
        run = load(folder, checkpoint=which)
        found = read_results(run.folder, dataset="mine.npy", binarization="none", step=run.step)
        shown = found.bound()
        assert shown is not None and (shown.step, shown.result.value) == (run.step, values[run.step])
        assert {one.step for one in found.all if found.is_stale(one)} == set(values) - {run.step}
        blocks = how_to_repeat(run, found, {"test": 8}, diagnosed=True)
        commands = [line for block in blocks if isinstance(block, Commands) for line in block.lines]
        assert [line for line in commands if "elbowroom train" not in line and "latest" in line] == (
            [line for line in commands if "elbowroom train" not in line] if which == "latest" else []
        )


def test_a_measurement_of_weights_that_are_gone_is_replaced(tmp_path: Path) -> None:
    often = {"batch_size": 10, "report_every": 2}
    tiny(reals(), tmp_path / "run", train={"steps": 2, **often}).evaluate("elbo")
    tiny(reals(), tmp_path / "run", resume=True, train={"steps": 8, **often}).evaluate("elbo")
    rows = RunFolder(tmp_path / "run").evaluations()
    assert len(rows) == 3 and {row["step"] for row in rows} == {load(tmp_path / "run").step}


def test_functions_of_a_folder_take_either(folder: Path) -> None:
    latest = load(folder, checkpoint="latest")
    er.doctor(folder, checkpoint="latest", checks=["sound"], points=8)
    kept = read_checkup(latest.folder, "doctor-latest.json")
    assert kept is not None and kept.step == latest.step
    few: dict[str, Any] = {"draws": 4, "warmup": 1, "chains": 2}
    for call in (
        lambda run, **given: er.posterior(run, points=2, **few, **given).z,
        lambda run, **given: er.impute(run, hide=0.3, num=2, interval=0.4, **few, **given).completed,
    ):
        assert torch.equal(call(folder, checkpoint="latest"), call(latest))
        assert not torch.equal(call(folder), call(latest))


def test_a_run_that_is_loaded_already_has_its_checkpoint(folder: Path) -> None:
    run = load(folder)
    assert er.doctor(run, checkpoint="best", checks=["sound"], points=8).seconds
    with pytest.raises(ElbowroomError, match="is loaded with its best one") as caught:
        er.doctor(run, checkpoint="latest")
    assert f"er.load({str(folder)!r}, checkpoint='latest')" in caught.value.remedy
    with pytest.raises(ElbowroomError, match="'newest' is not known; there are best, latest"):
        load(folder, checkpoint="newest")
