"""What a density has to know of a column is found from the training rows: grid, cells, atom, shift and unit."""

from __future__ import annotations

import numpy as np
import pytest

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.fitting import fitted, unseen_levels

RNG = np.random.default_rng(7)
REAL, POSITIVE, COUNT = (Column("x", kind) for kind in (ColumnKind.REAL, ColumnKind.POSITIVE, ColumnKind.COUNT))


def fit(column: Column, values: object) -> Column:
    return fitted([column], np.asarray(values, dtype=np.float64)[:, None])[0]


def test_values_that_repeat_are_cells_and_others_a_density() -> None:
    heaped = RNG.choice([1.0, 1.5, 2.0, 4.0], 40)
    assert fit(REAL, heaped).cells == (1.0, 1.5, 2.0, 4.0)
    assert fit(REAL, heaped).is_probability
    fine = RNG.normal(size=40)
    assert fit(REAL, fine).cells == ()
    assert not fit(REAL, fine).is_probability


@pytest.mark.parametrize(("rows", "are_cells"), [(4, False), (5, True)])
def test_cells_need_five_rows_for_each_value(rows: int, are_cells: bool) -> None:
    assert bool(fit(REAL, np.repeat(np.arange(20) / 4, rows)).cells) is are_cells


def test_a_frequent_value_beside_many_others_is_an_atom() -> None:
    values = np.concatenate([np.full(30, -2.5), RNG.normal(size=70)])
    column = fit(REAL, values)
    assert column.atom == -2.5
    assert column.cells == ()
    assert column.shift == pytest.approx(values[30:].mean())
    assert column.unit == pytest.approx(values[30:].std())


def test_a_value_without_a_tenth_of_the_rows_is_none() -> None:
    assert fit(REAL, np.concatenate([np.full(7, -2.5), RNG.normal(size=93)])).atom is None


def test_what_is_left_beside_an_atom_may_be_cells() -> None:
    values = np.concatenate([np.zeros(300), np.repeat(np.arange(1, 21) / 2, 5)])
    column = fit(REAL, values)
    assert column.atom == 0.0
    assert column.cells == tuple((np.arange(1, 21) / 2).tolist())


def test_counts_have_an_atom_at_zero_only() -> None:
    visits = np.concatenate([np.zeros(60), RNG.integers(1, 40, 60)])
    assert fit(COUNT, visits).atom == 0.0
    assert fit(COUNT, np.where(visits == 0, 7, visits)).atom is None
    assert fit(COUNT, visits).cells == ()


def test_zeros_of_positive_numbers_are_an_atom_even_where_training_has_none() -> None:
    rain = Column("rain", ColumnKind.POSITIVE, atom=0.0)
    assert fit(rain, RNG.lognormal(size=20)).atom == 0.0
    assert fit(POSITIVE, RNG.lognormal(size=20)).atom is None


def test_positive_numbers_are_measured_in_logarithms() -> None:
    values = RNG.lognormal(2.0, 0.5, 400)
    column = fit(POSITIVE, values)
    assert column.shift == pytest.approx(np.log(values).mean())
    assert column.unit == pytest.approx(np.log(values).std())
    with_zeros = fit(Column("x", ColumnKind.POSITIVE, atom=0.0), np.append(values, 0.0))
    assert (with_zeros.shift, with_zeros.unit) == (column.shift, column.unit)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.1, 0.3, 12.7], 0.1),
        ([3750, 3800, 4050], 50.0),
        ([0.25, 0.5, 1.75], 0.25),
        ([1.0, 2.0, 7.0], 1.0),
        (RNG.normal(size=9), 0.0),
        (np.array([45.3, 39.1, 50.0], dtype=np.float32), 0.1),
        ([1e-7, 3e-7], 1e-7),
        ([1e17, 3e17], 0.0),
    ],
)
def test_step_is_the_widest_grid(values: object, step: float) -> None:
    assert fit(REAL, values).step == pytest.approx(step, rel=1e-12)


def test_missing_values_have_no_part() -> None:
    values = RNG.normal(size=30)
    assert fit(REAL, np.append(values, [np.nan] * 9)) == fit(REAL, values)
    assert fit(REAL, [np.nan, np.nan]) == REAL


def test_a_single_value_has_the_unit_one() -> None:
    assert (fit(REAL, [4.0] * 4).shift, fit(REAL, [4.0] * 4).unit) == (4.0, 1.0)


def test_other_rows_change_nothing() -> None:
    x = RNG.normal(size=(50, 1)).round(1)
    assert fitted([REAL], x[:40]) == fitted([REAL], np.concatenate([x[:40], np.full((3, 1), np.nan)]))


def test_levels_without_a_training_row_are_named() -> None:
    city = Column("city", ColumnKind.CATEGORY, levels=("a", "b", "c"))
    assert unseen_levels([city, REAL], np.array([[0.0, 1.0], [2.0, 1.0]])) == {"city": ("b",)}
    assert unseen_levels([city], np.array([[0.0], [2.0], [1.0]])) == {}
    assert fitted([city], np.array([[0.0]])) == (city,)
