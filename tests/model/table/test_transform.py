"""What a guide sees: every level, every number on its axis, and what was observed."""

from __future__ import annotations

import math

import torch

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.support import Support
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.networks import MLP
from elbowroom.model.table.transform import TableTransform
from table_cases import COLUMNS, laid_out, output_for, seeded, table

NAN = math.nan
SOME = [
    Column("colour", ColumnKind.CATEGORY, levels=("red", "green", "blue")),
    Column("height", ColumnKind.REAL, shift=10.0, unit=2.0),
    Column("rain", ColumnKind.POSITIVE, shift=1.0, unit=0.5, atom=0.0),
    Column("visits", ColumnKind.COUNT),
    Column("smoker", ColumnKind.BINARY, levels=("no", "yes")),
]


def test_every_column_has_its_inputs() -> None:
    transform = TableTransform(SOME).double()
    rows = [[1.0, 13.0, math.e**2, 3.0, 0.0], [NAN, NAN, 0.0, NAN, 1.0], [2.0, 1e6, NAN, 0.0, NAN]]
    seen = transform(torch.tensor(rows, dtype=torch.float64))
    expected = [
        # height, rain, visits, dry, red, green, blue, no, yes; observed
        [1.5, 2.0, math.log(4), 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1],
        [0.0, 0.0, 0.0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1],
        [5.0, 0.0, 0.0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 0],
    ]
    torch.testing.assert_close(seen, torch.tensor(expected, dtype=torch.float64))
    assert transform.out_shape == (14,)
    assert transform.support is Support.TABLE


def test_training_rows_are_standardised_on_their_axes() -> None:
    columns = list(COLUMNS.values())
    likelihood = table(columns, output_for(columns, 1))
    x = draw(laid_out(likelihood), (3000,), generator=seeded())[:, 0]
    x[torch.rand(x.shape, generator=seeded(1)) < 0.2] = NAN
    transform = TableTransform(columns).double()
    transform.init_from_rows(x)
    numbers = [column for column in columns if not column.kind.has_levels]
    seen = transform(x)[:, : len(numbers)]
    places = [place for place, column in enumerate(columns) if not column.kind.has_levels]
    atoms = torch.tensor([NAN if column.atom is None else column.atom for column in numbers])
    there = ~x[:, places].isnan() & (x[:, places] != atoms)
    inside = torch.where(there, seen, NAN)
    assert (inside.nanmean(0).abs() < 0.1).all()  # values beyond five deviations are held there
    assert ((inside.square().nanmean(0).sqrt() - 1).abs() < 0.2).all()
    assert (seen[~there] == 0).all() and (seen.abs() <= 5).all()


def test_it_is_in_the_guides_type_and_finite_for_impossible_values() -> None:
    columns = list(COLUMNS.values())
    for dtype in (torch.float32, torch.float64):
        transform = TableTransform(columns).to(dtype)
        for value in (-1.0, 0.0, 1e30, NAN):
            seen = transform(torch.full((4, 2, len(columns)), value))
            assert seen.shape == (4, 2, *transform.out_shape)
            assert seen.dtype == dtype and seen.isfinite().all()


def test_a_guide_takes_it() -> None:
    transform = TableTransform(SOME)
    guide = DiagonalNormal(MLP(transform.out_shape, DiagonalNormal.parameter_shape(2)), 2, transform)
    x = torch.tensor([[1.0, 12.0, 0.0, 3.0, 0.0], [1.0, 12.0, 0.0, 3.0, NAN]])
    q = guide(x)
    assert q.batch_shape == (2,)
    assert not torch.allclose(q.mean[0], q.mean[1])  # a hole is seen
