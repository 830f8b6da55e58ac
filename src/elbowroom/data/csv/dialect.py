"""The dialect of a table of text: what separates its cells, and whether its first line is a header."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from elbowroom.data.csv.notation import MISSING, looks_like_a_number

__all__ = ["SEPARATORS", "Dialect", "find_dialect", "split"]

#: by the name that the user gives
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " "}
_SAMPLE = 200  # lines


class Dialect(NamedTuple):
    """How the lines of a table are divided.

    Attributes:
        separator: of the cells; " " stands for any run of spaces.
        width: how many cells most lines have.
        header: the first line, where it holds names; None where it is data already.
        first: the cells of the first line.
    """

    separator: str
    width: int
    header: tuple[str, ...] | None
    first: tuple[str, ...]


def split(lines: Sequence[str], separator: str) -> list[list[str]]:
    """The cells of some lines, without the spaces around them.

    Example:
        >>> split(['a; "b; c"', "1;2"], ";")
        [['a', 'b; c'], ['1', '2']]
    """
    if separator == " ":
        return [line.split() for line in lines]
    read = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [[cell.strip() for cell in cells] for cells in read if cells]


def find_dialect(head: Sequence[str], *, separator: str | None, preferred: str, decimal: str | None) -> Dialect:
    """The separator that divides the lines into equally many cells, of which as many as possible are numbers.

    Args:
        head: the first lines, without comments and blank lines.
        separator: where the user names it.
        preferred: the one that the ending of the file's name speaks for; it wins where two are equally good.
        decimal: the decimal mark, where the user names it; it does not separate cells then.
    Example:
        >>> find_dialect(["a;b", "1,5;2,5", "3,5;1,5"], separator=None, preferred=",", decimal=None)
        Dialect(separator=';', width=2, header=('a', 'b'), first=('a', 'b'))
    """
    lines = list(head[:_SAMPLE])
    if separator is None:
        quoted = any('"' in line for line in lines)  # where the decimal mark may separate as well
        candidates = [mark for mark in SEPARATORS.values() if mark != " " and (quoted or mark != decimal)]
        scores = {mark: _score(lines, mark) for mark in candidates}
        separator = max(candidates, key=lambda mark: (*scores[mark], mark == preferred))
        if scores[separator] == _NOTHING:
            separator = " " if _columns_of_spaces(lines) else preferred if preferred != decimal else ";"
    rows = split(lines, separator)
    first = tuple(rows[0])
    width = Counter(len(row) for row in rows[-max(1, len(rows) - 1) :]).most_common(1)[0][0]
    return Dialect(separator, width, first if _is_header(rows) else None, first)


_NOTHING = (0.0, 0.0)


def _score(lines: list[str], separator: str) -> tuple[float, float]:
    """The share of lines with the commonest number of cells, and that of cells that look like numbers."""
    try:
        rows = split(lines, separator)
    except csv.Error:
        return _NOTHING
    (width, count), *_ = Counter(len(row) for row in rows).most_common(1)
    if width < 2:
        return _NOTHING
    cells = [cell for row in (rows[1:] or rows) for cell in row]
    return count / len(rows), sum(map(looks_like_a_number, cells)) / max(1, len(cells))


def _columns_of_spaces(lines: list[str]) -> bool:
    """Whether spaces divide all lines alike; the header may lack the name of row numbers, as R writes it."""
    first, *rest = lines
    shorter = len(rest) > 0 and len(first.split()) == len(rest[0].split()) - 1
    return _score(rest if shorter else lines, " ") >= (1.0, 0.5)


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first line names the columns: not all of its cells are numbers; or 0, 1, … above a saved index."""
    first, *rest = rows
    if not all(looks_like_a_number(cell) for cell in first):
        return True
    counted = first[0] in MISSING and first[1:] == [str(at) for at in range(len(first) - 1)] and len(first) > 1
    return counted and len(rest) > 0 and [row[0] for row in rest] == [str(at) for at in range(len(rest))]
