"""Reading a table line by line, where polars would misread it, and naming the lines that are at fault."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection
from typing import Any, NoReturn

from elbowroom.data.csv.dialect import Dialect
from elbowroom.data.csv.notation import looks_like_a_number
from elbowroom.data.csv.text import TextFile
from elbowroom.errors import ElbowroomError

__all__ = ["Lines", "distinct", "header_is_a_line", "read_by_line", "refuse_short_lines"]


def header_is_a_line(dialect: Dialect) -> bool:
    """Whether the first line holds the names of the columns, rather than data or a comment above them."""
    return dialect.header is not None and dialect.header == dialect.first


def read_by_line(file: TextFile, dialect: Dialect) -> Any:
    """The cells as text, read by the standard library; refuses lines of different lengths."""
    import polars as pl

    try:
        records = list(file.records(dialect.separator, strict=file.quotes > 0, keep_blank=dialect.width == 1))
    except csv.Error as fault:
        _refuse_quotes(file, dialect, fault)
    while records and records[-1][1] == [""]:
        records.pop()
    names: tuple[str, ...] | None = None
    if dialect.header is not None:
        names = tuple(cell.strip() for cell in records.pop(0)[1]) if header_is_a_line(dialect) else dialect.header
    records, names = _mended(file, dialect, records, names)
    names = names or tuple(f"column_{at}" for at in range(dialect.width))
    columns = zip(*(cells for _, cells in records), strict=True) if records else [[] for _ in names]
    return pl.DataFrame({name: pl.Series(list(cells), dtype=pl.String)
                         for name, cells in zip(distinct(names), columns, strict=True)})  # fmt: skip


def _mended(
    file: TextFile, dialect: Dialect, records: list[tuple[int, list[str]]], names: tuple[str, ...] | None
) -> tuple[list[tuple[int, list[str]]], tuple[str, ...] | None]:
    """Lines and header of one length: a header may lack the name of R's row numbers, or of what follows a separator."""
    widths = Counter(len(cells) for _, cells in records)
    width = len(names) if names is not None else dialect.width
    if len(widths) == 1 and names is not None and width + 1 in widths:
        if all(not cells[-1].strip() for _, cells in records):
            return [(line, cells[:-1]) for line, cells in records], names
        if width > 1 and _counts([cells[0].strip() for _, cells in records]):
            return records, ("", *names)
    for line, cells in records:
        if len(cells) != width:
            raise _ragged(file, dialect, line, cells, width, names, widths)
    return records, names


def _counts(cells: list[str]) -> bool:
    """Whether they are distinct whole numbers."""
    return all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells)


def _ragged(
    file: TextFile,
    dialect: Dialect,
    line: int,
    cells: list[str],
    width: int,
    names: tuple[str, ...] | None,
    widths: Counter[int],
) -> ElbowroomError:
    found, numbers = len(cells), all(map(looks_like_a_number, cells))
    has = f"{found} cell{'s' if found != 1 else ''}"
    others = (
        f"the header names {width} column{'s' if width != 1 else ''}" if names else f"other lines have {width} columns"
    )
    remedy = "Give it as many cells as there are columns, in quotes where one holds the separator, or take it out"
    if dialect.separator == "," and names is not None and numbers and found == 2 * width and len(widths) == 1:
        if width == 1:
            remedy = "If the commas are decimal, pass --data.decimal comma; otherwise name every column in the header"
        else:
            remedy = "If commas are decimal, too, save the table with semicolons between the cells"
    elif line <= 3 or widths[width] < widths[found]:
        remedy += "; begin lines above the table with #"
    return ElbowroomError(f"Line {line:,} of {file.path.name} has {has}, but {others}.", f"{remedy}.")


def refuse_short_lines(file: TextFile, dialect: Dialect, rows: int) -> None:
    """Refuse a line with too few cells, which polars would fill up with missing ones.

    Args:
        file: where the last cell of some row is missing.
        dialect: of the file.
        rows: how many it has.
    """
    lines = rows + header_is_a_line(dialect)
    if not file.quotes and file.count(dialect.separator) == lines * (dialect.width - 1):
        return
    for line, cells in file.records(dialect.separator):
        if len(cells) != dialect.width:
            raise _ragged(file, dialect, line, cells, dialect.width, dialect.header, Counter())


def _refuse_quotes(file: TextFile, dialect: Dialect, fault: csv.Error) -> NoReturn:
    """Name the line in which a quote opens that is never closed, or that stands where none belongs."""
    line = 0
    try:
        for line, cells in file.records(dialect.separator, strict=True):  # noqa: B007
            pass
    except csv.Error:
        line = file.line_after(line)
    if any(words in str(fault) for words in ("unexpected end of data", "field larger")):
        raise ElbowroomError(
            f'Line {line:,} of {file.path.name} opens a quote (") that is never closed.',
            "Close it, or take it out.",
        ) from fault
    raise ElbowroomError(
        f'Line {line:,} of {file.path.name} has a cell that goes on behind its closing quote (").',
        'Write a quote inside a quoted cell twice: "5"" pipe".',
    ) from fault


def distinct(names: Collection[str]) -> list[str]:
    """The names; those that were there before are numbered as polars does it."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append(name if not seen[name] else f"{name}_duplicated_{seen[name] - 1}")
        seen[name] += 1
    return found


class Lines:
    """The line of the file in which a row stands."""

    def __init__(self, file: TextFile, dialect: Dialect) -> None:
        self._file, self._dialect = file, dialect

    def of(self, row: int) -> str:
        """Behind the number of a row, in messages."""
        records = self._file.records(self._dialect.separator, keep_blank=self._dialect.width == 1)
        line = next((line for at, (line, _) in enumerate(records) if at == row + header_is_a_line(self._dialect)), None)
        return "" if line is None else f" (line {line:,})"
