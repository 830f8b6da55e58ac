"""Data in the place of a number or a name, and missing values that a run does not know: what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbowroom.cli import main
from elbowroom.errors import ElbowroomError
from elbowroom.phrasing import speaking
from elbowroom.running.runs import Run, load
from elbowroom.running.train import train
from small_runs import TINY, reals, tiny

FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}
ROWS = reals(80)
HOLES = np.where(np.random.default_rng(0).random(ROWS.shape) < 0.2, np.nan, ROWS.numpy())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny(ROWS, tmp_path_factory.mktemp("run") / "run", **FEW)


CALLS: dict[str, tuple[Callable[[Run], Any], str, Callable[[Run], Any]]] = {
    "reconstruct": (lambda run: run.reconstruct(ROWS[:3]), "num is", lambda run: run.reconstruct(data=ROWS[:3])),
    "sample": (lambda run: run.sample(ROWS[:3]), "num_samples is", lambda run: run.sample(3)),
    "half a sample": (lambda run: run.sample(2.5), "num_samples is", lambda run: run.sample(np.int64(2))),
    "evaluate": (lambda run: run.evaluate(ROWS[:3]), "by text", lambda run: run.evaluate("elbo", data=ROWS[:9])),
}


@pytest.mark.parametrize(("wrong", "problem", "right"), CALLS.values(), ids=CALLS)
def test_data_in_the_place_of_a_number_or_a_name(
    run: Run, wrong: Callable[[Run], Any], problem: str, right: Callable[[Run], Any]
) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        wrong(run)
    right(run)


def test_what_a_run_without_missing_values_says_of_nan(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ElbowroomError, match=r"holds .* NaN") as caught:
        run.score(HOLES, k=5)
    assert "run.read(data, missing='mask')" in caught.value.remedy
    assert run.score(run.read(HOLES, missing="mask"), k=5).log_evidence.isfinite().all()
    np.save(tmp_path / "holes.npy", HOLES)
    with pytest.raises(SystemExit):
        main(["score", str(run.folder.path), str(tmp_path / "holes.npy")])
    said = capsys.readouterr().err
    assert "`elbowroom impute " in said and "--data.missing" not in said  # score has no such flag


def test_a_run_on_a_masked_array_reads_nan_as_missing(tmp_path: Path) -> None:
    masked = np.ma.masked_array(ROWS.numpy(), mask=np.isnan(HOLES))
    made = train(masked, out=tmp_path / "run", observers=[], **{**TINY, **FEW})
    again = load(tmp_path / "run", data=HOLES)  # the same data in another form
    assert again.evaluate("elbo")[0].value == made.evaluate("elbo")[0].value
    assert made.score(HOLES[:20], k=5).log_evidence.isfinite().all()
    assert train(masked, out=tmp_path / "run", resume=True, observers=[], **{**TINY, **FEW}).step == 4


def test_no_draws_at_all_in_either_language(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "rows.npy", ROWS.numpy())
    with pytest.raises(SystemExit):
        main(["score", str(run.folder.path), str(tmp_path / "rows.npy"), "--k", "0"])
    assert "Give --k 1 or more." in capsys.readouterr().err
    with speaking("keywords", unless_set=False), pytest.raises(ElbowroomError, match="Give k=1 or more"):
        run.score(ROWS, k=0)
