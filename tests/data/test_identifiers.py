"""Identifiers keep every digit and every zero, whatever they came as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.identifiers import identifiers
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError

pl = pytest.importorskip("polars")

LONG = 2**53 + 1  # which floating point rounds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([LONG, 2], (str(LONG), "2")),
        (np.array([LONG, 2]), (str(LONG), "2")),
        (torch.tensor([LONG, 2]), (str(LONG), "2")),
        (pl.Series([LONG, None]), (str(LONG), "")),
        (["007", "07"], ("007", "07")),
        ([b"a", b"b"], ("a", "b")),
        (np.array([1.0, np.nan]), ("1", "")),
        ([1.5, 2.0], ("1.5", "2")),
        (["a", None], ("a", "")),
        (np.ma.MaskedArray([LONG, 2], [False, True]), (str(LONG), "")),
        (np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"), ("2020-01-01", "")),
    ],
)
def test_identifiers_are_text(given: Any, expected: tuple[str, ...]) -> None:
    if isinstance(given, pl.Series) and given.null_count():
        given = given.to_list()
    assert identifiers(given, 2, "id") == expected


def test_one_for_each_row() -> None:
    with pytest.raises(ElbowroomError, match=r"id has shape \(2,\), but the data have 3 rows"):
        identifiers(["a", "b"], 3, "id")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_column_of_identifiers_is_set_aside(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"who": ["007", "08", "9"], "a": [1.5, 2.5, 3.5]})
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if suffix == ".csv" else "\t")
    data = load_data(path, id="who", test=0)
    assert data.event_shape == (1,)
    assert data.ids == ("007", "08", "9")
    assert data.row_columns(torch.tensor([2, 0])) == {"row": [2, 0], "who": ["9", "007"]}


def test_identifiers_beside_an_array() -> None:
    data = load_data(np.ones((2, 1)), id=[LONG, 5], test=0)
    assert data.row_columns(torch.tensor([0])) == {"row": [0], "id": [str(LONG)]}


def test_identifiers_that_repeat_are_said() -> None:
    said: list[str] = []
    frame = pl.DataFrame({"who": ["a", "b", "a"], "a": [1.5, 2.5, 3.5]})
    assert load_data(frame, id="who", test=0, announce=said.append).ids == ("a", "b", "a")
    assert said == [
        "Column 'who' of the data frame does not tell all rows apart: 'a' stands in 2 of them. "
        "Join results by row instead."
    ]


def test_a_missing_column_is_refused_or_said() -> None:
    frame = pl.DataFrame({"whom": ["a", "b"], "a": [1.5, 2.5]})
    with pytest.raises(ElbowroomError, match="no column 'who'") as caught:
        load_data(frame, id="who")
    assert caught.value.remedy == "Did you mean 'whom'?"
    said: list[str] = []
    data = load_data(frame[["a"]], id="who", id_required=False, test=0, announce=said.append)
    assert said == ["the data frame has no column 'who': its rows are only numbered"]
    assert data.row_columns(torch.tensor([1])) == {"row": [1]}
    with pytest.raises(ElbowroomError, match="Columns who were asked for, but the data are not a table"):
        load_data(np.ones((3, 1)), id="who")
