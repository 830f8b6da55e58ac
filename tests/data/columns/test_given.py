"""One value of a column: as x holds it, as a table does, and what is refused."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from elbowroom.data.columns.coding import encode
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.given import given_cell
from elbowroom.errors import ElbowroomError

pytest.importorskip("polars")

CITY = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "New York", "Oslo"))
ZIP = Column("zip", ColumnKind.CATEGORY, levels=("01001", "02134", "10001"))
ROOMS = Column("rooms", ColumnKind.ORDINAL, levels=("1", "2", "3"))
TRUTH = Column("member", ColumnKind.BINARY, levels=("false", "true"))
YES = Column("smokes", ColumnKind.BINARY, levels=("No", "yes"))
SINCE = Column("since", ColumnKind.DATE, date_format="%d.%m.%Y", step=1.0, shift=19_000.0)
CLOCK = Column("clock", ColumnKind.DATE, date_format="%H:%M", shift=0.5)
AGE = Column("age", ColumnKind.REAL, step=1.0, shift=40.0)
MASS = Column("mass", ColumnKind.REAL, step=0.1)
SPEND = Column("spend", ColumnKind.POSITIVE, step=0.01, shift=3.0)
DRY = Column("rain", ColumnKind.POSITIVE, atom=0.0)
VISITS = Column("visits", ColumnKind.COUNT)
SHARE = Column("share", ColumnKind.PROPORTION)


@pytest.mark.parametrize(
    ("value", "column", "number", "cell"),
    [
        ("Oslo", CITY, 2, "Oslo"),
        (" new  york", CITY, 1, "New York"),
        ("02134", ZIP, 1, "02134"),
        (2, ROOMS, 1, 2),
        (2.0, ROOMS, 1, 2),
        ("2", ROOMS, 1, 2),
        (True, TRUTH, 1, True),
        ("yes", TRUTH, 1, True),
        (0, TRUTH, 0, False),
        (np.bool_(False), YES, 0, "No"),
        ("YES", YES, 1, "yes"),
        ("04.03.2021", SINCE, 18_690, "04.03.2021"),
        ("2021-03-04", SINCE, 18_690, "04.03.2021"),
        (datetime.date(2021, 3, 4), SINCE, 18_690, "04.03.2021"),
        (datetime.datetime(2021, 3, 4, 18), SINCE, 18_690, "04.03.2021"),
        ("06:00", CLOCK, 0.25, "06:00"),
        ("30", AGE, 30, 30),
        (30.5, AGE, 30.5, 30.5),
        (np.float32(1.5), MASS, 1.5, 1.5),
        (0, DRY, 0, 0.0),
        ("3", VISITS, 3, 3),
    ],
)
def test_a_value_is_what_the_table_would_hold(value: Any, column: Column, number: float, cell: Any) -> None:
    found = given_cell(value, column)
    assert (found.number, found.cell, type(found.cell)) == (number, cell, type(cell))
    if isinstance(value, str) and column.name != "since":  # as a row of a file would be read
        assert encode({column.name: np.array([str(found.cell)])}, [column]).item() == number


def test_a_decimal_comma_where_the_table_has_it() -> None:
    assert given_cell("3,5", MASS, comma=True).number == 3.5
    with pytest.raises(ElbowroomError, match="'3,5' was given for column 'mass', which holds numbers"):
        given_cell("3,5", MASS)


@pytest.mark.parametrize(
    ("value", "column", "words"),
    [
        ("Olso", CITY, "it has Bergen, New York, Oslo.*Did you mean 'Oslo'"),
        ("xyz", CITY, "Give one of its values"),
        ("maybe", YES, "it has No, yes"),
        (7, ROOMS, "it has 1, 2, 3"),
        ("04.13.2021", SINCE, "no date as the column has them, such as 08.01.2022"),
        ("many", SPEND, "which holds numbers.*such as 20.1"),
        ("inf", AGE, "which holds numbers"),
        (-1e40, AGE, "-1e.40 was given for column 'age', but float32 holds numbers up to 3.4e.38"),
        (np.ones(2), AGE, "Several values were given for column 'age'.*Give one"),
        (["Oslo", "Bergen"], CITY, "Several values were given for column 'city'"),
        (0, SPEND, "positive numbers are above 0"),
        (-1, DRY, "positive numbers are not below 0"),
        (-1, VISITS, "counts are whole numbers from 0"),
        (1.5, VISITS, "counts are whole numbers"),
        (1, SHARE, "strictly between 0 and 1"),
        ("", CITY, "was given no value"),
        (None, AGE, "was given no value"),
        (float("nan"), AGE, "was given no value"),
    ],
)
def test_what_a_column_cannot_hold(value: Any, column: Column, words: str) -> None:
    with pytest.raises(ElbowroomError, match=f"(?s){words}"):
        given_cell(value, column)
