"""A column goes to JSON and back; kinds say whether they are modelled and what log p means."""

from __future__ import annotations

import json

import pytest

from elbowroom.data.columns.column import Column, ColumnKind

COLUMNS = [
    Column("age", ColumnKind.COUNT, step=1.0, shift=40.5, unit=12.25),
    Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo")),
    Column("since", ColumnKind.DATE, date_format="%d.%m.%Y"),
    Column("score", ColumnKind.REAL, cells=(0.0, 0.5, 1.0), step=0.5, atom=0.0),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_it_goes_to_json_and_back(column: Column) -> None:
    assert Column.from_dict(json.loads(json.dumps(column.as_dict()))) == column


def test_what_is_at_its_default_is_left_out() -> None:
    assert Column("x", ColumnKind.REAL).as_dict() == {"name": "x", "kind": "real"}


def test_a_probability_is_not_a_density() -> None:
    assert [column.is_probability for column in COLUMNS] == [True, True, False, True]


def test_columns_set_aside_are_not_modelled() -> None:
    aside = {kind.value for kind in ColumnKind if not kind.is_modelled}
    assert aside == {"constant", "identifier", "text"}
    assert {kind.value for kind in ColumnKind if kind.has_levels} == {"binary", "ordinal", "category"}
