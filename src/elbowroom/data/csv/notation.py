"""The notation of numbers in text: which mark is decimal, what groups thousands, percent signs.

Whether a comma is decimal or groups thousands is decided by cells that leave no doubt (``0,5``, ``1,234,567``), in the
column first and in the file after that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = [
    "MARK_NAMES",
    "MISSING",
    "Evidence",
    "Notation",
    "common_mark",
    "decimal_mark",
    "find_evidence",
    "looks_like_a_number",
    "parsed",
    "without_percent",
]

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")  #: marks of missing values in any column
MARK_NAMES = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}  #: of the marks within numbers
_SPACES = " \u00a0\u202f\u2009"
_SIGN, _EXPONENT = "^[+-]?", "(?:[eE][+-]?[0-9]+)?$"
_ALIKE = re.compile(rf"[+−-]?[0-9.,'’{_SPACES}]*[0-9][0-9.,'’{_SPACES}]*(?:[eE][+-]?[0-9]+)?[{_SPACES}]*%?")
_SAMPLE = 1_000  # cells that are looked at before all of them are


@dataclass
class Notation:
    """How the numbers of a table are written, and what was noticed while they were read.

    Attributes:
        decimal: the decimal mark, "." or ",", where the user says so.
        missing: further marks of missing values, from the user.
        found: the decimal mark that other columns of the file leave no doubt of.
        separator: of the cells of the file.
        where: what to add to the number of a row in messages, such as its line.
        facts: what was noticed, with the columns that it is true of.
    """

    decimal: str | None = None
    missing: tuple[str, ...] = ()
    found: str | None = None
    separator: str | None = None
    where: Callable[[int], str] = lambda row: ""
    facts: dict[str, list[str]] = field(default_factory=dict)

    def note(self, fact: str, column: str | None = None) -> None:
        """Keep a fact about the file, or about a column."""
        columns = self.facts.setdefault(fact, [])
        if column is not None and column not in columns:
            columns.append(column)

    def remarks(self) -> tuple[str, ...]:
        """One sentence for each fact.

        Example:
            >>> notation = Notation()
            >>> notation.note("percent signs are taken off, 12% is 0.12", "rate")
            >>> notation.remarks()
            ("percent signs are taken off, 12% is 0.12 (column 'rate')",)
        """
        return tuple(f"{fact}{_listed(columns)}" for fact, columns in self.facts.items())


def _listed(columns: list[str]) -> str:
    if not columns:
        return ""
    shown = ", ".join(f"'{column}'" for column in columns[:5])
    more = f" and {len(columns) - 5:,} more" if len(columns) > 5 else ""
    return f" (column{'s' if len(columns) > 1 else ''} {shown}{more})"


def looks_like_a_number(cell: str) -> bool:
    """Whether a cell may be a number in some notation, or marks a missing value.

    Example:
        >>> [looks_like_a_number(cell) for cell in ("1,5", "1.234", "12 %", "NA", "a1", "-")]
        [True, True, True, True, False, False]
    """
    cell = cell.strip()
    if cell in MISSING or _ALIKE.fullmatch(cell):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


class Evidence(NamedTuple):
    """The first cells in which a mark can only be decimal, and those in which it may be or not."""

    comma: str | None
    point: str | None
    unclear: tuple[str, ...]


def _certain(mark: str, other: str) -> str:
    """A pattern of cells in which ``mark`` is decimal without a doubt, or the other one groups thousands."""
    mark, other = re.escape(mark), re.escape(other)
    group = f"[{other}'’{_SPACES}]"
    forms = (
        f"[0-9]*{mark}(?:[0-9]{{1,2}}|[0-9]{{4,}})?(?:[eE][+-]?[0-9]+)?",
        f"0*{mark}[0-9]+",
        f"[0-9]{{4,}}{mark}[0-9]{{3}}",
        f"[0-9]+{mark}[0-9]+[eE][+-]?[0-9]+",
        f"[0-9]{{1,3}}(?:{group}[0-9]{{3}})+{mark}[0-9]*",
        f"[0-9]{{1,3}}(?:{other}[0-9]{{3}}){{2,}}",
    )
    return f"{_SIGN}(?:{'|'.join(forms)})$"


_COMMA, _POINT = _certain(",", "."), _certain(".", ",")
_UNCLEAR = f"{_SIGN}[1-9][0-9]{{0,2}}[.,][0-9]{{3}}$"


def _sample(cells: Any) -> list[str]:
    return [cell for cell in cells.head(_SAMPLE).to_list() if cell is not None]


def _occurs(cells: Any, mark: str) -> bool:
    """Whether a mark is in any cell; a sample is searched before the whole."""
    if any(mark in cell for cell in _sample(cells)):
        return True
    return len(cells) > _SAMPLE and bool(cells.str.contains(mark, literal=True).any())


def _first(cells: Any, pattern: str) -> str | None:
    """The first cell that fits; a sample is searched before the whole."""
    found = next((cell for cell in _sample(cells) if re.match(pattern, cell)), None)
    if found is None and len(cells) > _SAMPLE:
        fits = cells.filter(cells.str.contains(pattern).fill_null(False))
        found = str(fits[0]) if len(fits) else None
    return found


def find_evidence(cells: Any) -> Evidence:
    """What the cells of a column, without percent signs, say about the decimal mark."""
    if not _occurs(cells, ",") and not _occurs(cells, "."):
        return Evidence(None, None, ())
    # a comma can be decimal for certain in a cell without one: 1.234.567
    comma, point = _first(cells, _COMMA), _first(cells, _POINT)
    unclear = [] if comma or point else [_first(cells, _UNCLEAR.replace("[.,]", re.escape(mark))) for mark in ",."]
    return Evidence(comma, point, tuple(cell for cell in unclear if cell is not None))


def decimal_mark(evidence: Evidence, notation: Notation) -> str | None:
    """The decimal mark of a column; None where it may be either."""
    if notation.decimal is not None:
        return notation.decimal
    if evidence.point:
        return "."
    if evidence.comma:
        return ","
    if not evidence.unclear or notation.found is not None:
        return notation.found or "."
    if len(evidence.unclear) == 2:
        return None
    comma, semicolons = "," in evidence.unclear[0], notation.separator == ";"
    return ("," if comma else ".") if comma == semicolons else None


def common_mark(columns: Iterable[Evidence]) -> str | None:
    """The decimal mark that the columns of a file leave no doubt of; None if they say nothing or both."""
    found = {mark for each in columns for mark, cell in ((",", each.comma), (".", each.point)) if cell}
    return found.pop() if len(found) == 1 else None


def without_percent(cells: Any) -> tuple[Any, bool]:
    """The cells without percent signs, where more than half have one; a printed minus becomes a hyphen."""
    if _occurs(cells, "−"):
        cells = cells.str.replace("−", "-", literal=True)
    if not _occurs(cells, "%"):
        return cells, False
    signed = cells.str.ends_with("%").fill_null(True)
    if 2 * (int(signed.sum()) - cells.null_count()) <= cells.count():
        return cells, False
    return cells.str.strip_suffix("%").str.strip_chars().set(~signed, "no percent sign"), True


def parsed(cells: Any, decimal: str) -> tuple[Any, str]:
    """Numbers, null where a cell is none; and the marks that group thousands."""
    import polars as pl

    simple = cells if decimal == "." else None
    if decimal == "," and not _occurs(cells, "."):
        simple = cells.str.replace(",", ".", literal=True)
    if simple is not None:
        numbers = simple.cast(pl.Float64, strict=False)
        if numbers.null_count() == cells.null_count():
            return _whole(simple, numbers), ""
    other = {".": ",", ",": "."}[decimal]
    mark, group = re.escape(decimal), f"[{re.escape(other)}'’{_SPACES}]"
    digits = f"(?:[0-9]+|[0-9]{{1,3}}(?:{group}[0-9]{{3}})+)"
    form = f"{_SIGN}(?:{digits}(?:{mark}[0-9]*)?|{mark}[0-9]+){_EXPONENT}"
    infinite = cells.str.replace(r"(?i)^([+-]?)inf(?:inity)?$", "${1}inf")
    fits = cells.str.contains(form).fill_null(False)
    clean = cells.str.replace_all(group, "").str.replace(decimal, ".", literal=True)
    clean = clean.zip_with(fits, infinite).str.strip_prefix("+")
    numbers = clean.cast(pl.Float64, strict=False)
    numbers = numbers.set(~fits & ~infinite.str.contains("^[+-]?inf$").fill_null(False), None)
    readable = cells.filter(fits)
    groups = [mark for mark, pattern in ((other, re.escape(other)), (" ", f"[{_SPACES}]"), ("'", "['’]"))
              if readable.str.contains(pattern).any()]  # fmt: skip
    return _whole(clean, numbers), "".join(groups)


def _whole(text: Any, numbers: Any) -> Any:
    """Whole numbers as such, so that large ones keep their digits."""
    import polars as pl

    whole = text.cast(pl.Int64, strict=False)
    return whole if whole.null_count() == numbers.null_count() else numbers
