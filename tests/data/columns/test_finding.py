"""The kind of a column is found from its values, whatever data frame they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from awkward_columns import COLUMNS, Awkward, N
from elbowroom.data.columns.asking import parse_columns
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.finding import find_columns
from elbowroom.data.csv.notation import Notation
from elbowroom.errors import ElbowroomError


def found(values: Any, name: str = "x", given: str | None = None, notation: Notation | None = None) -> Column:
    asked = None if given is None else parse_columns(f"{name}:{given}")
    return find_columns({name: values}, "table.csv", asked=asked, notation=notation)[0]


def as_polars(values: Any) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series(list(values), strict=False)


@pytest.mark.parametrize("awkward", COLUMNS, ids=lambda awkward: awkward.name)
def test_kinds_of_awkward_columns(awkward: Awkward) -> None:
    column = found(as_polars(awkward.values), awkward.name)
    assert column.kind is awkward.kind
    if awkward.levels is not None:
        assert column.levels == awkward.levels


@pytest.mark.parametrize("awkward", COLUMNS, ids=lambda awkward: awkward.name)
def test_order_of_rows_does_not_matter(awkward: Awkward) -> None:
    series = as_polars(awkward.values)
    shuffled = series.gather(np.random.default_rng(1).permutation(N).tolist())
    assert found(shuffled, awkward.name) == found(series, awkward.name)


@pytest.mark.parametrize("awkward", COLUMNS, ids=lambda awkward: awkward.name)
def test_pandas_says_the_same_as_polars(awkward: Awkward) -> None:
    if isinstance(awkward.values, pl.Series) and isinstance(awkward.values.dtype, pl.Enum):
        pytest.skip("pandas has another type for that")
    series = as_polars(awkward.values)
    assert found(pd.Series(series.to_list()), awkward.name) == found(series, awkward.name)


@pytest.mark.parametrize(
    ("series", "kind", "levels"),
    [
        (pd.Series([1, None, 3, 200] * 50, dtype="Int64"), ColumnKind.CATEGORY, ("1", "3", "200")),
        (pd.Series([True, None, False] * 9, dtype="boolean"), ColumnKind.BINARY, ("false", "true")),
        (pd.Series(["a", "b", None] * 9, dtype="category"), ColumnKind.BINARY, ("a", "b")),
        (
            pd.Series(pd.Categorical(["lo", "hi", "mid"] * 9, categories=["lo", "mid", "hi", "top"], ordered=True)),
            ColumnKind.ORDINAL,
            ("lo", "mid", "hi"),
        ),
        (pd.Series(["x", "y", "z"] * 9, dtype="string"), ColumnKind.CATEGORY, ("x", "y", "z")),
        (pd.Series(pd.date_range("2021-01-01", periods=30)), ColumnKind.DATE, ()),
        (pl.Series(["x", "y", "z"] * 9, dtype=pl.Categorical), ColumnKind.CATEGORY, ("x", "y", "z")),
        (pl.Series([1.5, None, float("nan"), -2.5, 7.1]), ColumnKind.REAL, ()),
        (pl.Series([None, None], dtype=pl.Null), ColumnKind.CONSTANT, ()),
    ],
    ids=str,
)
def test_dtypes_say_more_than_values(series: Any, kind: ColumnKind, levels: tuple[str, ...]) -> None:
    column = found(series)
    assert (column.kind, column.levels) == (kind, levels)


def test_form_of_dates_is_kept() -> None:
    dates = {awkward.name: found(as_polars(awkward.values), awkward.name) for awkward in COLUMNS}
    assert dates["iso"].date_format is None
    assert dates["german"].date_format == "%d.%m.%Y"
    assert dates["american"].date_format == "%m/%d/%Y"
    assert dates["compact"].date_format == "%Y%m%d"
    assert dates["stamp"].date_format == "%Y-%m-%dT%H:%M:%S"
    assert [dates[name].step for name in ("iso", "stamp", "clock")] == [1.0, 0.0, 0.0]


def test_zeros_among_positive_numbers_are_an_atom() -> None:
    rain = next(awkward for awkward in COLUMNS if awkward.name == "rainfall")
    assert found(as_polars(rain.values)).atom == 0.0
    assert found(pl.Series([0.5, 1.25, 3.0, 0.125])).atom is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2, 3, 4, 999] * 4 + [1, 2, 3, 4] * 20, "999 in 4 of 100 rows, far from the other values (1 to 4)"),
        (["Yes", "yes", "Yes", "no"] * 5, "'yes' counts as another spelling of the same name"),
        (["None", "a", "b"] * 5, "'None' is a name; if it marks a missing value, pass --data.missing-values None"),
        (["01/02/2021", "03/02/2021", "02/02/2021"], "'01/02/2021' is read as 2 January 2021"),
        (["$1.50", "$2.25", "$7"], "signs of currencies are taken off"),
        ([f"sku{at % 1500}" for at in range(4000)], "1,500 different names, more than the 1,000 of a category"),
        ([None, None], "no value at all, set aside"),
        ([10115 + 7919 * (at % 17) % 80000 for at in range(100)], "if these numbers are codes"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_doubtful_is_said(values: list[Any], said: str) -> None:
    notation = Notation()
    found(pl.Series(values), notation=notation)
    assert [remark for remark in notation.remarks() if remark.startswith(said)], notation.remarks()


def test_sure_columns_have_no_remark() -> None:
    notation = Notation()
    for values in (["a", "b", "c"] * 9, np.random.default_rng(0).normal(50, 5, 99), [True, False] * 5):
        found(as_polars(values), notation=notation)
    assert notation.remarks() == ()


@pytest.mark.parametrize(
    ("values", "given", "problem"),
    [
        (["2021-03-04", "2021-03-05", "04/03/2021"], None, "is a date in another format than '2021-03-04'"),
        ([1.5, 2.0], "count", "counts are whole numbers from 0 to 16,777,216"),
        ([1, 10**9], "count", "holds 1e+09 in column 'x', but counts are whole numbers"),
        ([1.0, -2.0], "positive", "positive numbers are not below 0"),
        ([0.5, 1.0], "proportion", "strictly between 0 and 1"),
        (["a", "b", "c"], "binary", "but has 3 different values"),
        (["a", "b", "c"], "real", "is asked to be real, but holds 'a'"),
        (["a", "b", "c"], "date", "is asked to be a date, but holds 'a'"),
        (["a", "b", "c"], "ordinal(a<c)", "holds 'b', which the order a<c does not name"),
        (["1.5", "2.5", "3,4x"], None, "is not a number"),
        ([None, None], "count", "all of its values are missing"),
        ([[1], [2]], None, "of type List(Int64)"),
    ],
)
def test_what_cannot_be_is_refused(values: list[Any], given: str | None, problem: str) -> None:
    with pytest.raises(ElbowroomError) as error:
        found(pl.Series(values), given=given)
    assert problem in error.value.problem


@pytest.mark.parametrize(
    ("values", "given", "kind", "levels"),
    [
        ([0.1, 0.9, 0.5], "proportion", ColumnKind.PROPORTION, ()),
        ([3, 1, 2], "ordinal", ColumnKind.ORDINAL, ("1", "2", "3")),
        (["low", "high", "mid"], "ordinal(low<mid<high)", ColumnKind.ORDINAL, ("low", "mid", "high")),
        (["low", "high", "medium"], "ordinal", ColumnKind.ORDINAL, ("low", "medium", "high")),
        ([1990, 1991, 1992], "count", ColumnKind.COUNT, ()),
        ([10.5, 11.5, 10.5], "category", ColumnKind.CATEGORY, ("10.5", "11.5")),
        (["1", "2", "4"], "category", ColumnKind.CATEGORY, ("1", "2", "4")),
        ([True, False, True], "real", ColumnKind.REAL, ()),
        (["03-04", "05-06"], "date(%m-%d)", ColumnKind.DATE, ()),
        ([1, 2, 3], "text", ColumnKind.TEXT, ()),
    ],
)
def test_kinds_can_be_asked_for(values: list[Any], given: str, kind: ColumnKind, levels: tuple[str, ...]) -> None:
    column = found(pl.Series(values), given=given)
    assert (column.kind, column.levels) == (kind, levels)


def test_an_order_from_the_alphabet_is_said() -> None:
    notation = Notation()
    found(pl.Series(["b", "a", "c"]), given="ordinal", notation=notation)
    assert "its order is taken from the alphabet, a < b < c" in notation.remarks()[0]


def test_the_line_is_named() -> None:
    notation = Notation(where=lambda row: f" (line {row + 2})")
    with pytest.raises(ElbowroomError, match=r"Row 2 \(line 4\) of table.csv, column 'x'"):
        found(pl.Series(["2021-03-04", "2021-03-05", "04/03/2021"]), notation=notation)
