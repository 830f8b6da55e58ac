"""Cells of text as numbers: decimal marks, grouped thousands, percent, yes and no, marks of missing values.

A column is read as a whole. Whether a comma is decimal or groups thousands is decided by cells that leave no doubt
(``0,5``, ``1,234,567``), in the column first and in the file after that; where none does, the cell is refused.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbowroom.errors import ElbowroomError

__all__ = ["MISSING", "Notation", "as_numbers", "looks_like_a_number", "read_decimals", "read_plain", "tidy"]

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?")  #: marks of missing values in any column
#: further ones in columns of numbers; in a column of classes they may be names
_MORE_MISSING = ("None", "none", "Null", "n/a", "na", "NAN", "#N/A", "#NA", "<NA>", "n.a.", "N.A.", "-", "--", ".", "..")
_TRUTHS = ({"yes": 1.0, "no": 0.0}, {"true": 1.0, "false": 0.0}, {"y": 1.0, "n": 0.0}, {"t": 1.0, "f": 0.0})
_NAMES = {",": "commas", ".": "points", " ": "spaces", "'": "apostrophes"}
_SPACES = " \u00a0\u202f\u2009"
_SIGN, _EXPONENT = "^[+-]?", "(?:[eE][+-]?[0-9]+)?$"
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{1,2}:\d{2}")
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


# --- a column of any kind ----------------------------------------------------------------------------------------


def as_numbers(series: Any, column: str, name: str, notation: Notation | None = None) -> npt.NDArray[Any]:
    """A column of a data frame as numbers, NaN where a value is missing.

    Args:
        series: anything with ``to_numpy`` (polars, pandas): numbers, truths, or text that stands for them.
        column: its name, for messages.
        name: of the table, for messages.
        notation: of the table; what is noticed is added to it.
    Returns:
        Shape (n,), of a numeric type.
    Raises:
        ElbowroomError: dates, or text that is no number; names the first such cell.
    Example:
        >>> class Series:
        ...     def to_numpy(self):
        ...         return np.array([1, None, True], dtype=object)
        >>> as_numbers(Series(), "a", "x").tolist()
        [1.0, nan, 1.0]
    """
    notation = notation or Notation()
    pl = sys.modules.get("polars")
    if pl is not None and isinstance(series, pl.Series) and series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return _from_text(tidy(series.cast(pl.String)), column, name, notation)
    values = np.asarray(series.to_numpy())
    if values.dtype.kind in "biuf":
        return values
    if values.dtype.kind in "Mm":
        raise _dates(column, name, str(values[0]))
    if values.dtype.kind == "S":
        values = np.char.decode(values)
    present = [value for value in values.tolist() if not _is_missing(value)]
    if any(hasattr(value, "isoformat") or hasattr(value, "total_seconds") for value in present[:1]):
        raise _dates(column, name, str(present[0]))
    if not any(isinstance(value, str) for value in present):
        try:
            return np.array([np.nan if _is_missing(value) else float(value) for value in values.tolist()])
        except (TypeError, ValueError) as fault:
            raise ElbowroomError(
                f"Column '{column}' of {name} holds {present[0]!r}, but a column of x holds numbers.",
                "Drop the column, or give each of its parts a column of its own.",
            ) from fault
    try:
        import polars
    except ModuleNotFoundError as fault:
        raise ElbowroomError(
            f"Column '{column}' of {name} holds text such as '{next(v for v in present if isinstance(v, str))}', and "
            "polars, which reads numbers out of text, is not installed.",
            "Convert the column to numbers, or install polars: pip install 'elbowroom[tables]'.",
        ) from fault
    cells = polars.Series(column, [None if _is_missing(value) else str(value) for value in values.tolist()], polars.String)
    return _from_text(tidy(cells), column, name, notation)


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA and NaT."""
    return value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and value != value)


def _dates(column: str, name: str, example: str) -> ElbowroomError:
    return ElbowroomError(
        f"Column '{column}' of {name} holds dates or times, such as {example}, but a column of x holds numbers.",
        "Write the number of days (or seconds) since a fixed date in their place, or drop the column.",
    )


# --- a column of text --------------------------------------------------------------------------------------------


def _from_text(cells: Any, column: str, name: str, notation: Notation) -> npt.NDArray[Any]:
    """Numbers from a tidy column of text."""
    marked = cells.is_in([*_MORE_MISSING, *notation.missing]).fill_null(False)
    marks = sorted(cells.filter(marked).unique().to_list())
    cells = cells.set(marked, None)
    truths = _truths(cells)
    if truths is not None:
        names = {value: text for text, value in reversed(truths.items())}
        notation.note(f"{names[1.0]} is 1 and {names[0.0]} is 0", column)
        numbers = cells.str.to_lowercase().replace_strict(list(truths), list(truths.values()), default=None)
    else:
        numbers = _numbers(cells, column, name, notation)
    if marks:
        notation.note(f"{_and(marks)} mark{'s' if len(marks) == 1 else ''} missing values", column)
    values: npt.NDArray[Any] = numbers.to_numpy()
    return values


def _and(words: list[str]) -> str:
    *first, last = (f"'{word}'" for word in words)
    return f"{', '.join(first)} and {last}" if first else last


def _truths(cells: Any) -> dict[str, float] | None:
    """What each word means, where all cells are yes and no, or true and false."""
    some = {cell.lower() for cell in cells.drop_nulls().head(_SAMPLE).unique().to_list()}
    for words in _TRUTHS:
        if some and some <= set(words):
            found = set(cells.drop_nulls().str.to_lowercase().unique().to_list())
            if found <= set(words) and (len(found) == 2 or len(min(words)) > 1):
                return words
    return None


def _numbers(cells: Any, column: str, name: str, notation: Notation) -> Any:
    """Numbers from cells none of which marks a missing value."""
    bare, percent = _without_percent(cells)
    evidence = _evidence(bare)
    decimal = _decimal(evidence, notation)
    if evidence.comma and evidence.point and notation.decimal is None:
        decimal = max(".,", key=lambda mark: _parsed(bare, mark)[0].count())
    if decimal is None:
        row = int((bare == evidence.unclear[0]).arg_max() or 0)
        raise _unclear(_place(row, column, name, notation), evidence.unclear[0])
    numbers, groups = _parsed(bare, decimal)
    if percent:
        numbers = numbers / 100
    bad = numbers.is_null() & cells.is_not_null()
    if bad.any():
        row = int(bad.arg_max())
        share = numbers.count() / cells.count()
        raise _no_number(cells[row], row, column, name, notation, share, evidence, percent)
    _note(notation, column, decimal, groups, percent)
    return numbers


def _note(notation: Notation, column: str, decimal: str, groups: str, percent: bool) -> None:
    if percent:
        notation.note("percent signs are taken off, 12% is 0.12", column)
    for mark in groups:
        notation.note(f"{_NAMES[mark]} group thousands", column)
    if notation.found is not None and decimal not in (notation.found, notation.decimal) and not groups:
        notation.note(f"{_NAMES[decimal]} are decimal", column)


def tidy(cells: Any) -> Any:
    """A polars column of text without spaces around the cells, null where a cell marks a missing value."""
    cells = cells.str.strip_chars()
    return cells.set(cells.is_in(MISSING).fill_null(False), None)


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


# --- which mark is decimal ---------------------------------------------------------------------------------------


class _Evidence(NamedTuple):
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


def _first(cells: Any, pattern: str) -> str | None:
    """The first cell that fits; a sample is searched before the whole."""
    for some in (cells.head(_SAMPLE), cells):
        fits = some.filter(some.str.contains(pattern).fill_null(False))
        if len(fits):
            return str(fits[0])
    return None


def _evidence(cells: Any) -> _Evidence:
    has = {mark: bool(cells.str.contains(mark, literal=True).any()) for mark in ",."}
    if not any(has.values()):
        return _Evidence(None, None, ())
    # a comma can be decimal for certain in a cell without one: 1.234.567
    comma, point = _first(cells, _COMMA), _first(cells, _POINT)
    unclear = [] if comma or point else [_first(cells, _UNCLEAR.replace("[.,]", re.escape(mark))) for mark in ",."]
    return _Evidence(comma, point, tuple(cell for cell in unclear if cell is not None))


def _decimal(evidence: _Evidence, notation: Notation) -> str | None:
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


def read_decimals(columns: list[Any]) -> str | None:
    """The decimal mark that the columns of a file, tidy text, leave no doubt of; None if they say nothing or both."""
    found = set()
    for cells in columns:
        evidence = _evidence(_without_percent(cells)[0])
        found |= {mark for mark, cell in ((",", evidence.comma), (".", evidence.point)) if cell}
    return found.pop() if len(found) == 1 else None


# --- reading -----------------------------------------------------------------------------------------------------


def read_plain(cells: Any, column: str, notation: Notation) -> Any:
    """A tidy column of text as a polars column of numbers, if every cell is a number and none is unclear; else None."""
    some = cells.drop_nulls().head(_SAMPLE)
    if not len(some) or not all(_ALIKE.fullmatch(cell) for cell in some.unique().to_list()[:20]):
        return None
    bare, percent = _without_percent(cells)
    decimal = _decimal(_evidence(bare), notation)
    if decimal is None:
        return None
    numbers, groups = _parsed(bare, decimal)
    if numbers.null_count() > cells.null_count():
        return None
    _note(notation, column, decimal, groups, percent)
    return numbers / 100 if percent else numbers


def _without_percent(cells: Any) -> tuple[Any, bool]:
    """The cells without their percent signs, where more than half of them have one; a printed minus becomes a hyphen."""
    if cells.str.contains("−", literal=True).any():
        cells = cells.str.replace("−", "-", literal=True)
    signs = int(cells.str.ends_with("%").sum() or 0)
    if not signs or 2 * signs <= cells.count():
        return cells, False
    without = cells.str.strip_suffix("%").str.strip_chars()
    return without.set(~cells.str.ends_with("%").fill_null(True), "no percent sign"), True


def _parsed(cells: Any, decimal: str) -> tuple[Any, str]:
    """Numbers, null where a cell is none; and the marks that group thousands."""
    import polars as pl

    if decimal == ",":
        simple = None if cells.str.contains(".", literal=True).any() else cells.str.replace(",", ".", literal=True)
    else:
        simple = cells
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


# --- what is said ------------------------------------------------------------------------------------------------


def _place(row: int, column: str, name: str, notation: Notation) -> str:
    return f"Row {row:,}{notation.where(row)} of {name}, column '{column}'"


def _unclear(place: str, cell: str) -> ElbowroomError:
    return ElbowroomError(
        f"{place}: '{cell}' may be {cell.replace(',', '').replace('.', '')} or {cell.replace(',', '.')}, and no other "
        "cell decides whether the mark is decimal or groups thousands.",
        "Pass --data.decimal point or --data.decimal comma.",
    )


def _no_number(
    cell: str, row: int, column: str, name: str, notation: Notation, share: float, evidence: _Evidence, percent: bool
) -> ElbowroomError:
    """The message about a cell that is no number, or about a column of text."""
    flag = f"--data.labels {shlex.quote(column)}"
    if share < 0.5:
        if _DATE.match(cell):
            return _dates(column, name, f"'{cell}'")
        return ElbowroomError(
            f"Column '{column}' of {name} holds values such as '{cell}', but a column of x holds numbers.",
            f"If they are class labels, pass {flag}; otherwise drop the column, or encode it as numbers.",
        )
    why = ""
    if percent and not cell.endswith("%"):
        why = ", unlike the others, has no percent sign"
    elif evidence.comma and evidence.point and ("," in cell) != ("." in cell):
        theirs = evidence.point if "," in cell else evidence.comma
        why = f" has another decimal mark than '{theirs}'"
    shown = cell if len(cell) <= 40 else f"{cell[:40]}…"
    remedy = "Correct that cell"
    if len(cell) <= 20 and "," not in cell:
        remedy += f"; if it marks a missing value, pass --data.missing-values={shlex.quote(cell)} --data.missing mask"
    return ElbowroomError(
        f"{_place(row, column, name, notation)}: '{shown}'{why or ' is not a number'}.",
        f"{remedy}; if the column holds class labels, pass {flag}.",
    )
