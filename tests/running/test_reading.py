"""Other data for a trained model: remedies for elements that are missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run
from small_runs import reals, tiny


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Run:
    x = np.random.default_rng(0).poisson(4, (40, 3))
    return tiny(x, tmp_path_factory.mktemp("counts") / "run", train={"steps": 2}, data={"support": "counts"})


def test_the_remedies_for_missing_elements_work(tmp_path: Path, say: Callable[..., tuple[str, str]]) -> None:
    """`score`, `encode`, … have no setting for them."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    run = tiny(x, tmp_path / "run")
    rows = x[:5].copy()
    rows[1, 2] = np.nan
    with pytest.raises(ElbowroomError, match="the first in row 1") as caught:
        run.score(rows)
    assert "--" not in caught.value.remedy
    assert "missing='mask'" in caught.value.remedy and "`elbowroom impute " in caught.value.remedy
    given = run.read(rows, missing="mask")
    assert run.score(given, k=30).log_evidence.isfinite().all()
    rows[1, 2] = np.inf
    with pytest.raises(ElbowroomError, match="infinite") as caught:
        run.encode(rows)
    assert "missing='mask'" in caught.value.remedy
    rows[1, 2] = np.nan
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        np.save("rows.npy", rows)
        say("impute", "run", "rows.npy", "--out", "filled.npz", "--draws", "20", "--warmup", "20")
        np.save("full.npy", np.load("filled.npz")["completed"])
        say("score", "run", "full.npy", "--k", "30")
    finally:
        os.chdir(before)


@pytest.mark.parametrize("way", ["score", "evaluate", "encode", "impute", "doctor", "loaded before"])
def test_counts_that_the_precision_does_not_tell_apart(way: str, counts: Run, tmp_path: Path) -> None:
    x = np.full((12, 3), 4)
    x[7, 2] = 2**24 + 1
    np.save(tmp_path / "new.npy", x)
    source = tmp_path / "new.npy"
    ways: dict[str, Callable[[], object]] = {
        "score": lambda: counts.score(source),
        "evaluate": lambda: counts.evaluate("elbo", data=source),
        "encode": lambda: counts.encode(source),
        "impute": lambda: impute(counts, source),
        "doctor": lambda: counts.doctor(data=source),
        "loaded before": lambda: counts.score(load_data(x, support="counts", test=0)),
    }
    with pytest.raises(ElbowroomError, match=r"Row 7 of .* holds 16,777,217 in element 2, but float32"):
        ways[way]()


def test_counts_up_to_the_limit_are_read(counts: Run) -> None:
    x = np.full((3, 3), 2**24)
    assert counts.encode(x).mean.isfinite().all()


def test_merged_values_are_said_when_training_begins(tmp_path: Path) -> None:
    x = reals(200).double()
    x[:20, 1] += 1.7e9
    said: list[str] = []
    tiny(x, tmp_path / "run", train={"steps": 1}, announce=said.append)
    (remark,) = [line for line in said if "become equal to others in float32" in line]
    assert remark.startswith("in element 1 of the array, ") and "float64" in remark
