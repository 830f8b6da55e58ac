r"""What the density of every column has to know, from the training rows alone: grid, cells, atom, shift and unit.

A density has no bound where values repeat: a narrow peak on a repeated value raises log p without end, and means
nothing. So numbers that are rounded until they repeat, five rows or more for each different value, are described by
the probabilities of cells between the midpoints of neighbours. A single value that has a tenth of the rows, and four
times the share that it would have if all different values were equally frequent,

.. math:: s \ge 0.1, \qquad s > 4 \, \frac{1 - s}{d},

with its share s of the rows and the number d of different values, is an atom: it has a probability, and the rest has a
density beside it. The zeros of positive numbers are always one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.quantities import grid_step

__all__ = ["fitted", "unseen_levels"]

_REPEATED = 5  # rows for each different value, from which on only cells are honest
_FEW, _DENSE = 15, 50  # different values, or rows for each, from which on there is no atom beside the cells
_SHARE, _FAIR = 0.1, 4.0  # of an atom: its share of the rows, and how many times its fair share that is
_CANDIDATES = 3  # the commonest values, which may be atoms


def fitted(columns: Sequence[Column], x: npt.NDArray[np.float64]) -> tuple[Column, ...]:
    """The columns with step, cells, atom, shift and unit of the training rows.

    Args:
        columns: those of x, with kind and levels.
        x: the training rows as `encode` gives them, shape (n, columns), NaN where missing.
    Returns:
        Columns in the same order. Shift and unit are mean and standard deviation without the atom, of logarithms where
        the kind is positive; 0 and 1 where no two different values were seen.
    Example:
        >>> size = Column("size", ColumnKind.REAL)
        >>> (column,) = fitted([size], np.array([[1.5], [2.5], [5.5], [np.nan]]))
        >>> column.step, round(column.shift, 4), round(column.unit, 4)
        (0.5, 3.1667, 1.6997)
    """
    return tuple(_fitted(column, x[:, place]) for place, column in enumerate(columns))


def _fitted(column: Column, values: npt.NDArray[np.float64]) -> Column:
    values = values[~np.isnan(values)]
    if column.kind.has_levels or not column.kind.is_modelled or not len(values):
        return column
    dated = column.kind is ColumnKind.DATE
    step = column.step if dated else grid_step(values)
    atom = _atom(column, values)
    rest = values if atom is None else values[values != atom]
    different = np.unique(rest)
    counted = column.kind is ColumnKind.COUNT
    heaped = not counted and len(different) > 1 and len(rest) >= _REPEATED * len(different)
    cells = tuple(different.tolist()) if heaped else ()
    on_axis = np.log(rest[rest > 0]) if column.kind is ColumnKind.POSITIVE else rest
    shift = float(on_axis.mean()) if len(on_axis) else 0.0
    unit = float(on_axis.std()) if len(on_axis) else 0.0
    return replace(column, step=step, cells=cells, atom=atom, shift=shift, unit=unit if unit > 0 else 1.0)


def _atom(column: Column, values: npt.NDArray[np.float64]) -> float | None:
    """The value with a probability of its own; zeros of positive numbers, where any row has them."""
    if column.kind is ColumnKind.POSITIVE:
        return column.atom
    if column.kind in (ColumnKind.DATE, ColumnKind.PROPORTION):
        return None
    different, counts = np.unique(values, return_counts=True)
    d, total = len(different), len(values)
    dense = d <= _FEW or total >= _DENSE * d
    if d == 1:
        return None
    if column.kind is not ColumnKind.COUNT and dense and total >= _REPEATED * d:
        return None  # cells hold it
    commonest = np.argsort(-counts, kind="stable")[:_CANDIDATES]
    for value, count in zip(different[commonest].tolist(), counts[commonest].tolist(), strict=True):
        share = count / total
        if share >= _SHARE and share > _FAIR * (1 - share) / d and (column.kind is ColumnKind.REAL or value == 0):
            return float(value)
    return None


def unseen_levels(columns: Sequence[Column], x: npt.NDArray[np.float64]) -> dict[str, tuple[str, ...]]:
    """Levels that other rows have and the training rows have not, by column.

    Example:
        >>> city = Column("city", ColumnKind.CATEGORY, levels=("Bergen", "Oslo", "Tromsø"))
        >>> unseen_levels([city], np.array([[0.0], [1.0], [np.nan]]))
        {'city': ('Tromsø',)}
    """
    lacking = {}
    for place, column in enumerate(columns):
        if column.kind.has_levels:
            seen = set(x[:, place][~np.isnan(x[:, place])].astype(int).tolist())
            lacking[column.name] = tuple(level for at, level in enumerate(column.levels) if at not in seen)
    return {name: levels for name, levels in lacking.items() if levels}
