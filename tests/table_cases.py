"""Columns of every kind, tables of them whose network's output is given, and sums over all values of a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.model.table.likelihood import Table

LEVELS = ("a", "b", "c", "d", "e")

#: case -> a column of each family, with and without an atom; shifts and units are far from 0 and 1
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("real", ColumnKind.REAL, shift=100.0, unit=20.0),
        Column("real-grid", ColumnKind.REAL, shift=-3.0, unit=2.0, step=0.5),
        Column("real-atom", ColumnKind.REAL, shift=5.0, unit=3.0, atom=-1.0),
        Column("date", ColumnKind.DATE, shift=18_000.0, unit=400.0, step=1.0),
        Column("positive", ColumnKind.POSITIVE, shift=3.0, unit=0.7),
        Column("positive-grid", ColumnKind.POSITIVE, shift=2.0, unit=0.7, step=0.1),
        Column("positive-atom", ColumnKind.POSITIVE, shift=-1.0, unit=1.5, atom=0.0),
        Column("cells", ColumnKind.REAL, shift=5.0, unit=4.0, cells=(0.0, 1.0, 2.0, 5.0, 5.001, 10.0)),
        Column("cells-two", ColumnKind.REAL, shift=0.5, unit=0.5, cells=(0.0, 1.0)),
        Column("cells-positive", ColumnKind.POSITIVE, shift=2.0, unit=1.0, cells=(1.0, 2.0, 3.0, 10.0, 100.0)),
        Column("cells-atom", ColumnKind.REAL, shift=2.0, unit=2.0, cells=(0.0, 1.0, 2.0, 5.0), atom=0.0),
        Column("proportion", ColumnKind.PROPORTION, shift=0.4, unit=0.2),
        Column("proportion-atom", ColumnKind.PROPORTION, shift=0.4, unit=0.2, atom=0.0),
        Column("count", ColumnKind.COUNT),
        Column("count-atom", ColumnKind.COUNT, atom=0.0),
        Column("count-atom-two", ColumnKind.COUNT, atom=2.0),
        Column("binary", ColumnKind.BINARY, levels=LEVELS[:2]),
        Column("ordinal", ColumnKind.ORDINAL, levels=LEVELS),
        Column("ordinal-short", ColumnKind.ORDINAL, levels=LEVELS[:2]),
        Column("category", ColumnKind.CATEGORY, levels=LEVELS[:3]),
        Column("category-long", ColumnKind.CATEGORY, levels=LEVELS),
    )
}


class Output(nn.Module):
    """A network whose output is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def output_for(columns: Sequence[Column], *lead: int, seed: int = 3, scale: float = 1.0) -> Tensor:
    shape = Table.parameter_shape((len(columns),), columns=columns)
    return scale * torch.randn((*lead, *shape), generator=seeded(seed), dtype=torch.float64)


def table(columns: Sequence[Column], output: Tensor, *, learned: float | None = None, **options: Any) -> Table:
    """A table whose network returns ``output``; what is learned beside it is spread around ``learned``."""
    likelihood = Table(Output(output), columns, **options).to(output.dtype)
    for parameter in likelihood.parameters() if learned is not None else ():
        spread = torch.linspace(-0.3, 0.4, parameter.numel()).reshape(parameter.shape)
        parameter.data.copy_(learned + spread)
    return likelihood


def single(case: str, output: Tensor, **options: Any) -> Table:
    """A table of this column alone."""
    return table([COLUMNS[case]], output, **options)


def laid_out(likelihood: Table) -> Any:
    """Its distribution, for the output that was given."""
    output = likelihood.network.output
    return likelihood(torch.zeros(*output.shape[:-2], 1, dtype=output.dtype))


def values_and_weights(column: Column, center: float = 0.0, reach: float = 40.0) -> tuple[Tensor, Tensor]:
    """Values x and weights, shape (m, 1), over which Σ weight · p(x) f(x) is E f(x).

    Densities are integrated by the trapezoidal rule, along the column's axis, which these lines find for themselves.

    Args:
        column: its kind, cells and atom say which values there are.
        center: of a density, on the standardised axis.
        reach: how far the grid reaches from there, of 4,001 points.
    """
    one = torch.ones(1, dtype=torch.float64)
    atom = [] if column.atom is None or column.kind is ColumnKind.COUNT else [column.atom]
    if column.cells:
        whole = torch.tensor(column.cells, dtype=torch.float64)
    elif column.kind.has_levels:
        whole = torch.arange(len(column.levels), dtype=torch.float64)
    elif column.kind is ColumnKind.COUNT:
        whole = torch.arange(6000, dtype=torch.float64)
    else:
        t = torch.linspace(center - reach, center + reach, 4001, dtype=torch.float64)
        step = 2 * reach / 4000
        if column.kind is ColumnKind.PROPORTION:
            x = t.sigmoid()
            slope = x * (-t).sigmoid()
        elif column.kind is ColumnKind.POSITIVE:
            x = torch.exp(column.shift + column.unit * t)
            slope = column.unit * x
        else:
            x = column.shift + column.unit * t
            slope = column.unit * torch.ones_like(x)
        x = torch.where(x == column.atom, x + 1e-9, x) if atom else x
        x, weight = torch.cat([x, one * (atom[0] if atom else 0)]), torch.cat([slope * step, one])
        keep = len(x) if atom else -1
        return x[:keep].unsqueeze(1), weight[:keep].unsqueeze(1)
    return whole.unsqueeze(1), torch.ones_like(whole).unsqueeze(1)
