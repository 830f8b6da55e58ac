"""Other data for a trained model: remedies for elements that are missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from elbowroom.errors import ElbowroomError
from small_runs import tiny


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
