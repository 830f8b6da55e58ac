"""Columns of data frames as numbers: text, truths, nullable types, decimals, dates."""

from __future__ import annotations

import datetime
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.csv.cells import as_numbers
from elbowroom.data.csv.notation import Notation, looks_like_a_number
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError

pl = pytest.importorskip("polars")
pd = pytest.importorskip("pandas")

NAN = float("nan")


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (pd.Series([1, None], dtype="Int64"), [1, NAN]),
        (pd.Series([1.5, None], dtype="Float64"), [1.5, NAN]),
        (pd.Series([True, None], dtype="boolean"), [1, NAN]),
        (pd.Series([True, False]), [1, 0]),
        (pd.Series([Decimal("1.5"), None], dtype=object), [1.5, NAN]),
        (pd.Series([3, 1, 3], dtype="category"), [3, 1, 3]),
        (pd.Series(["3", "1,5"], dtype="category"), [3, 1.5]),
        (pd.Series(["yes", "no", None], dtype=object), [1, 0, NAN]),
        (pd.Series(["1.5", "12", None], dtype="string"), [1.5, 12, NAN]),
        (pd.Series([2, "2,5", None], dtype=object), [2, 2.5, NAN]),
        (pd.Series([b"1.5", b"2"], dtype=object), [1.5, 2]),
        (pl.Series([1, None]), [1, NAN]),
        (pl.Series([True, None]), [1, NAN]),
        (pl.Series([Decimal("1.5"), None]), [1.5, NAN]),
        (pl.Series(["1,5", "-", " 2 "]), [1.5, NAN, 2]),
        (pl.Series(["1", "2"], dtype=pl.Categorical), [1, 2]),
        (pl.Series([None, None], dtype=pl.String), [NAN, NAN]),
        (pl.Series(["inf", "-Infinity", "1,5"]), [np.inf, -np.inf, 1.5]),
    ],
)
def test_numbers(series: Any, expected: list[float]) -> None:
    values = as_numbers(series, "a", "x")
    assert values.dtype.kind in "biuf"
    np.testing.assert_array_equal(values.astype(float), expected)


DAYS = [datetime.date(2020, 1, 1), datetime.date(2020, 1, 4)]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"day": pd.to_datetime(DAYS), "a": [1.5, 2.5]}),
        pd.DataFrame({"day": pd.to_datetime(DAYS).tz_localize("UTC"), "a": [1.5, 2.5]}),
        pd.DataFrame({"day": DAYS, "a": [1.5, 2.5]}),
        pl.DataFrame({"day": DAYS, "a": [1.5, 2.5]}),
        pl.DataFrame({"day": DAYS, "a": [1.5, 2.5]}).with_columns(pl.col("day").cast(pl.Datetime)),
    ],
    ids=["pandas", "zoned", "objects", "dates", "datetimes"],
)
def test_dates_are_refused_and_days_are_read(frame: Any) -> None:
    with pytest.raises(
        ElbowroomError, match="Column 'day' of the data frame holds dates or times, such as 2020-01-01"
    ) as caught:
        load_data(frame, support="reals")
    assert caught.value.remedy == (
        "Write the number of days (or seconds) since a fixed date in their place, or drop the column."
    )
    if isinstance(frame, pl.DataFrame):
        days = (frame["day"] - frame["day"].min()).dt.total_days()
        mended: Any = frame.with_columns(days.alias("day"))
        dropped = frame.drop("day")
    else:
        days = (pd.to_datetime(frame["day"]) - pd.to_datetime(frame["day"]).min()).dt.days
        mended, dropped = frame.assign(day=days), frame.drop(columns="day")
    assert load_data(mended, test=0).storage.gather(torch.arange(2)).tolist() == [[0.0, 1.5], [3.0, 2.5]]
    assert load_data(dropped, test=0).event_shape == (1,)
    assert load_data(frame, test=0).support == "table"


@pytest.mark.parametrize(
    ("series", "problem"),
    [
        (pl.Series(["1", "2", "x"]), "Row 2 of f, column 'a': 'x' is not a number"),
        (pd.Series(["1", "2", "x"]), "Row 2 of f, column 'a': 'x' is not a number"),
        (pl.Series(["u", "v", "1"]), "Column 'a' of f holds values such as 'u'"),
        (pl.Series(["1,234"]), "'1,234' may be 1234 or 1.234"),
        (pl.Series(["1,234", "1.234"]), "'1,234' may be"),
        (pl.Series([[1, 2], [3, 4]]), "Column 'a' of f holds"),
        (pd.Series([{"b": 1}]), r"Column 'a' of f holds \{'b': 1\}"),
        (pl.Series(["1", "2", "3\n4"]), "'3 4' is not a number"),
        (pl.Series(["1", "2", "3" * 60 + "x"]), "'3{40}…' is not a number"),
        (pl.Series(["1.234,5", "1,234.5", "2,5"]), "'1,234.5' has another decimal mark than '1.234,5'"),
        (pl.Series(["1", "12,34,567", "3"]), "'12,34,567' is not a number"),
    ],
)
def test_refused(series: Any, problem: str) -> None:
    with pytest.raises(ElbowroomError, match=problem):
        as_numbers(series, "a", "f")


def test_what_is_noticed_is_said_once_for_all_columns() -> None:
    frame = pd.DataFrame({"a": ["yes", "no"], "b": ["no", "yes"], "c": ["12%", "3%"]})
    assert load_data(frame, test=0, support="reals").remarks == (
        "yes is 1 and no is 0 (columns 'a', 'b')",
        "percent signs are taken off, 12% is 0.12 (column 'c')",
    )
    notation = Notation()
    for at in range(9):
        notation.note("fact", f"c{at}")
    assert notation.remarks() == ("fact (columns 'c0', 'c1', 'c2', 'c3', 'c4' and 4 more)",)


def test_text_without_polars_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ElbowroomError, match="Column 'a' of x holds text such as '1,5'") as caught:
        as_numbers(pd.Series(["1,5"]), "a", "x")
    assert "pip install 'elbowroom[tables]'" in caught.value.remedy
    assert as_numbers(pd.Series(["1,5"]).str.replace(",", ".").astype(float), "a", "x").tolist() == [1.5]


@pytest.mark.parametrize("cell", ["1", "-1,5", "1.234,5", "1 234", "1'000", "12%", "1e5", "nan", "", ".5", "−3"])
def test_like_numbers(cell: str) -> None:
    assert looks_like_a_number(cell)


@pytest.mark.parametrize("cell", ["a", "1a", "-", ",", "2020-01-01", "12:30", "1/2", "$3"])
def test_unlike_numbers(cell: str) -> None:
    assert not looks_like_a_number(cell)


def test_a_percentage_is_divided_once() -> None:
    cells = [f"{at / 10:.1f}%" for at in range(1000)]
    expected = [float(f"{at / 10:.1f}") / 100 for at in range(1000)]
    assert as_numbers(pl.Series(cells), "a", "x").tolist() == expected
