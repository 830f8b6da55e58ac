"""The filled cells of a completed table: their text, and a file of how sure each of them is."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from elbowroom.cli.writing import not_taken

if TYPE_CHECKING:
    from torch import Tensor

    from elbowroom.running.impute import Imputed

__all__ = ["cell_texts", "cells_path", "is_rounded", "write_cells"]

_NAMED = ("binary", "categories")  # supports whose values stand for something, and have a probability each
_WHOLE = ("counts", "bytes")
_DIGITS = 6  # of a real number, beyond those that all values of its column share


def cells_path(table: Path) -> Path:
    """Where the file of filled cells is written: beside the completed table."""
    return table.with_name(f"{table.stem}-cells.csv")


def is_rounded(found: Imputed) -> bool:
    """Whether the table holds less than what is known of a filled cell, so that a file beside it says the rest."""
    return found.support in (*_NAMED, *_WHOLE)


def cell_texts(found: Imputed, place: int, given: Sequence[str | None]) -> list[str]:
    """The text of each cell of a column, were it to be filled in.

    A binary element or a category is spelled as in the column's observed cells; a count is a whole number.

    Args:
        found: the imputation.
        place: of the column among the elements.
        given: the cells of the column as they stand.
    """
    values = found.rounded[:, place].tolist()
    if found.support in _NAMED:
        spelled = {
            value: text
            for value, text, seen in zip(values, given, found.mask[:, place].tolist(), strict=True)
            if seen and text is not None
        }
        return [spelled.get(value, f"{value:.0f}") for value in values]
    if found.support in _WHOLE:
        return [f"{value:.0f}" for value in values]
    digits = _digits(found.completed[:, place])
    return [f"{value:.{digits}g}" for value in values]


def _digits(values: Tensor) -> int:
    """Digits that tell the values of a column apart, where all of them are about 1.7e9 say."""
    values = values.double()
    largest, spread = float(values.abs().max()), float(values.max() - values.min())
    if not 0 < spread < largest:
        return _DIGITS
    return min(17, _DIGITS + math.floor(math.log10(largest / spread)))


def _number(value: float) -> str:
    """A number of a file of cells; what an element has not is left empty."""
    return "" if math.isnan(value) else f"{value:.6g}"


def write_cells(target: Path, found: Imputed, columns: Sequence[str]) -> Path:
    """Writes a line for each filled cell: where it is, what was filled in, how sure that is, and whose row it is.

    Args:
        target: the file.
        found: the imputation.
        columns: names of the elements.
    """
    from elbowroom.running.checkpoints import write_text_atomically

    table = None if found.columns is None else found.table
    known = {"probability": found.probability, "mean": found.mean, "lower": found.lower, "upper": found.upper} if (
        table is not None
    ) else {"probability": found.certainty} if found.certainty is not None else {
        "mean": found.mean, "lower": found.lower, "upper": found.upper
    }  # fmt: skip
    text, rounded = io.StringIO(), found.rounded
    writer = csv.writer(text, lineterminator="\n")
    names = ["row", "column", "filled", *known]
    ids = not_taken(found.ids, names)
    writer.writerow([*names, *ids])
    for at, place in (~found.mask).nonzero().tolist():
        numbers = [_number(float(values[at, place])) for values in known.values() if values is not None]
        filled = f"{float(rounded[at, place]):.0f}" if table is None else table[columns[place]][at]
        writer.writerow([int(found.rows[at]), columns[place], filled, *numbers,
                         *(column[at] for column in ids.values())])  # fmt: skip
    write_text_atomically(target, text.getvalue())
    return target
