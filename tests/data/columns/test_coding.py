"""Tables become numbers and numbers tables, and nothing is lost on the way there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_series_equal

from awkward_columns import COLUMNS, Awkward
from elbowroom.data.columns.asking import parse_columns
from elbowroom.data.columns.coding import decode, encode
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.finding import find_columns
from elbowroom.data.columns.fitting import fitted
from elbowroom.data.csv.notation import Notation
from elbowroom.errors import ElbowroomError

MODELLED = [awkward for awkward in COLUMNS if awkward.kind.is_modelled]
# these are written in another way than they are kept: signs of currencies, percent signs and spellings are taken off
OTHERWISE = {"price", "euros", "share", "gaps", "smokes", "flag_with_gaps", "city", "day", "enumerated", "income"}


def as_polars(values: Any) -> pl.Series:
    return values if isinstance(values, pl.Series) else pl.Series(list(values), strict=False)


def coded(awkward: Awkward) -> tuple[tuple[Column, ...], np.ndarray]:
    frame = {awkward.name: as_polars(awkward.values)}
    columns = find_columns(frame, "x")
    x = encode(frame, columns)
    return fitted(columns, x), x


@pytest.mark.parametrize("awkward", MODELLED, ids=lambda awkward: awkward.name)
def test_numbers_come_back_as_they_were(awkward: Awkward) -> None:
    columns, x = coded(awkward)
    again = encode(decode(x, columns), columns)
    np.testing.assert_allclose(again, x, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    "awkward", [one for one in MODELLED if one.name not in OTHERWISE], ids=lambda awkward: awkward.name
)
def test_tables_come_back_as_they_were(awkward: Awkward) -> None:
    columns, x = coded(awkward)
    given = as_polars(awkward.values).alias(awkward.name)
    assert_series_equal(decode(x, columns)[awkward.name], given, check_dtypes=False)


def test_missing_values_stay_missing() -> None:
    frame = pl.DataFrame({"a": [1.5, None, 2.5], "b": ["x", "y", None], "c": [None, "2021-03-04", "2021-03-05"]})
    columns = find_columns({name: frame[name] for name in frame.columns}, "x")
    x = encode(frame, columns)
    assert np.isnan(x).tolist() == [[False, False, True], [True, False, False], [False, True, False]]
    assert decode(x, columns).equals(frame)


def test_pandas_and_polars_give_the_same_numbers() -> None:
    columns = (Column("n", ColumnKind.REAL), Column("c", ColumnKind.CATEGORY, ("a", "b")), Column("d", ColumnKind.DATE))
    there = pd.DataFrame(
        {
            "n": pd.Series([1, None, 3], dtype="Int64"),
            "c": pd.Series(["b", "a", None], dtype="category"),
            "d": pd.to_datetime(["2021-03-04", None, "2021-03-05"]),
        }
    )
    here = pl.DataFrame({"n": [1.0, None, 3.0], "c": ["b", "a", None], "d": ["2021-03-04", None, "2021-03-05"]})
    np.testing.assert_array_equal(encode(there, columns), encode(here, columns))


CITY = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo"))


@pytest.mark.parametrize(
    ("column", "cells", "problem", "remedy"),
    [
        (CITY, ["Oslo", "Oslp"], "Row 1 (line 3) of new.csv holds 'Oslp' in column 'city', which the training data did "
         "not have; they had Bergen, Oslo.", "Did you mean 'Oslo'?"),
        (CITY, [1.0, 2.0], "holds '1.0' in column 'city'", "empty it so that it counts as missing"),
        (Column("n", ColumnKind.COUNT), [1, -1], "Row 1 (line 3) of new.csv holds -1 in column 'n'", "call the column"),
        (Column("n", ColumnKind.POSITIVE), [1.0, 0.0], "positive numbers are above 0", "Correct that cell"),
        (Column("n", ColumnKind.REAL), ["x", "y"], "'x' is not a number", "empty the cell"),
        (Column("d", ColumnKind.DATE), ["2021-03-04", "4.3.21"], "'4.3.21' is no date written as in training",
         "Correct it"),
    ],
)  # fmt: skip
def test_what_training_did_not_have_is_named(column: Column, cells: list[Any], problem: str, remedy: str) -> None:
    notation = Notation(where=lambda row: f" (line {row + 2})")
    with pytest.raises(ElbowroomError) as error:
        encode(pl.DataFrame({column.name: cells}), [column], name="new.csv", notation=notation)
    assert problem in error.value.problem
    assert remedy in error.value.remedy


@pytest.mark.parametrize("spelled", ["oslo", " OSLO ", "Oslo"])
def test_spellings_are_one_level(spelled: str) -> None:
    assert encode({"city": pl.Series([spelled])}, [CITY]).item() == 1.0


def test_draws_are_written_in_the_kinds_of_the_table() -> None:
    columns = (
        Column("age", ColumnKind.COUNT, step=1.0),
        Column("mass", ColumnKind.REAL, step=25.0),
        Column("bill", ColumnKind.POSITIVE, step=0.1),
        Column("rain", ColumnKind.POSITIVE, step=0.1, atom=0.0),
        Column("since", ColumnKind.DATE, date_format="%d.%m.%Y", step=1.0),
        Column("level", ColumnKind.CATEGORY, levels=("1", "2")),
        Column("truth", ColumnKind.BINARY, levels=("false", "true")),
        Column("share", ColumnKind.PROPORTION, step=0.01),
        Column("code", ColumnKind.CATEGORY, levels=("007", "012")),
    )
    drawn = np.array([[-0.4, 3712.6, 0.01, 0.04, 18690.3, 1.0, 0.0, 0.9999, 0.0]])
    assert decode(drawn, columns).row(0) == (0, 3725, 0.1, 0.0, "04.03.2021", 2, False, 0.99, "007")


def test_asked_kinds_come_back() -> None:
    frame = {"grade": pl.Series(["low", "high", "mid", None]), "share": pl.Series([0.25, 0.5, 0.75, 0.1])}
    columns = find_columns(frame, "x", asked=parse_columns("grade:ordinal(low<mid<high),share:proportion"))
    x = encode(frame, columns)
    assert x[:3, 0].tolist() == [0.0, 2.0, 1.0]
    assert decode(x, columns).equals(pl.DataFrame(frame))
