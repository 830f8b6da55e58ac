"""Few rows: what is said, and what helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from elbowroom.errors import ElbowroomError
from elbowroom.running.train import train

X = np.random.default_rng(0).normal(size=(40, 4))
SAME = np.tile(X[0], (40, 1))
SMALL: dict[str, Any] = {
    "model": {"latent_dim": 1, "encoder": {"hidden": [3]}, "decoder": {"hidden": [3]}},
    "train": {"steps": 2, "batch_size": 8},
    "runtime": {"compile": "off"},
    "observers": [],
    "announce": lambda said: None,
}
OFF = {"validation": 0, "test": 0}

# rows, how they are split, what is said, the remedy, and how it is followed
FEW: dict[str, tuple[Any, dict[str, Any], str, str, Any, dict[str, Any]]] = {
    "three": (
        X[:3],
        {},
        "has 3 rows, of which 1 for validation and 1 for test: one row is left to train on",
        "--data.test 0 --data.validation 0",
        X[:3],
        OFF,
    ),
    "two": (
        X[:2],
        {},
        "has 2 rows, of which 1 are for testing and 1 for validation, but at least one must be left to train on",
        "--data.validation 0 --data.test 0",
        X[:2],
        OFF,
    ),
    "two, one for test": (
        X[:2], {"validation": 0}, "has 2 rows, of which 1 for test: one row is left", "--data.test 0", X[:2], OFF
    ),
    "one": (X[:1], OFF, "has one row, but at least 2 are needed", "Give more data", X[:9], {}),
    "all for test": (
        X[:4], {"test": 0.99}, "of which 4 are for testing", "--data.validation 0 --data.test 0", X[:4], OFF
    ),
    "all but one for validation": (
        X, {"validation": 35, "test": 4}, "of which 35 for validation and 4 for test: one row", "--data.test 0 "
        "--data.validation 0", X, OFF
    ),
    "one asked for": (
        X, {"train": 1}, "One row of the array is left to train on by --data.train", "--data.train 2", X, {"train": 2}
    ),
    "all the same": (SAME, {}, "The 32 training rows of the array are all the same", "Give rows that differ", X, {}),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "split", "problem", "remedy", "better", "then"), FEW.values(), ids=FEW)
def test_the_remedy_works(
    rows: Any, split: dict[str, Any], problem: str, remedy: str, better: Any, then: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ElbowroomError) as caught:
        train(rows, out=tmp_path / "run", data=split, **SMALL)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    run = train(better, out=tmp_path / "run", data={**split, **then}, **SMALL)
    assert 1 <= run.step <= 2


def test_an_official_test_set_cannot_be_smaller(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=X[:4], x_test=X[4:])
    with pytest.raises(ElbowroomError, match="at least one must be left") as caught:
        train(tmp_path / "x.npz", out=tmp_path / "run", data={"validation": 4}, **SMALL)
    assert caught.value.remedy == "Keep fewer rows aside, for instance --data.validation 0."
    assert train(tmp_path / "x.npz", out=tmp_path / "run", data={"validation": 0}, **SMALL).step >= 1


class Same(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.from_numpy(SAME))


def test_a_stream_of_equal_rows(tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="The first training rows of the Same are all the same"):
        train(Same(), out=tmp_path / "run", **SMALL)


def test_one_column_that_never_varies_is_still_named(tmp_path: Path) -> None:
    x = X.copy()
    x[:, 1] = 3
    with pytest.raises(ElbowroomError) as caught:
        train(x, out=tmp_path / "run", **SMALL)
    assert re.search("1 of 4 elements are constant", caught.value.problem)


def test_a_single_grey_row_can_be_learnt(tmp_path: Path) -> None:
    grey = np.random.default_rng(1).random((3, 4))
    assert train(grey, out=tmp_path / "run", **SMALL).step >= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_spread_of_rounding_size_is_not_called_constant(dtype: str, tmp_path: Path) -> None:
    times = 1.7e9 + 2.0**-22 * np.arange(40)
    asked = {**SMALL, "runtime": {"compile": "off", "dtype": dtype}}
    for x, of in ((np.c_[X, times], "1 of 5 elements vary"), (times[:, None], "1 of 1 elements vary")):
        with pytest.raises(ElbowroomError) as caught:
            train(x, out=tmp_path / "run", **asked)
        assert of in caught.value.problem
        assert "by no more than rounding (x[" in caught.value.problem
        assert "constant" not in caught.value.problem and "the same" not in caught.value.problem
        assert "Subtract a number near them" in caught.value.remedy
    moved = np.c_[X, (times - times[0])]
    assert train(moved, out=tmp_path / "moved", **asked).step >= 1


def test_what_is_constant_beside_rounding_is_named_first(tmp_path: Path) -> None:
    x = np.c_[X, 1.7e9 + 2.0**-22 * np.arange(40), np.full(40, 0.1)]
    with pytest.raises(ElbowroomError, match=r"1 of 6 elements are constant in the training data \(x\[5\]\)"):
        train(x, out=tmp_path / "run", **SMALL)
