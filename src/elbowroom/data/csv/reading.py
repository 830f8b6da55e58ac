"""Tables from files: text in any dialect, and Parquet, as polars data frames; faults are named by their line.

bytes ──text──▶ plain text ──dialect──▶ separator, header ──polars──▶ columns ──cells──▶ numbers
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from elbowroom.data.csv.cells import read_plain, read_truths, tidy
from elbowroom.data.csv.dialect import SEPARATORS, Dialect, find_dialect, split
from elbowroom.data.csv.lines import Lines, distinct, header_is_a_line, read_by_line, refuse_short_lines
from elbowroom.data.csv.notation import (
    MISSING,
    Notation,
    common_mark,
    find_evidence,
    looks_like_a_number,
    without_percent,
)
from elbowroom.data.csv.text import TextFile, open_text
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["DECIMALS", "Table", "is_table", "notation_of", "read_table"]

DECIMALS = {"point": ".", "comma": ","}  #: by the name that the user gives
_SPOKEN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_INDEX = re.compile(r"(?:Unnamed: 0(?:\.\d+)?)?")  # how pandas calls a saved index when it reads it, or saves it
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # in Parquet


@dataclass(frozen=True)
class Table:
    """A table from a file.

    Attributes:
        frame: polars data frame; columns of numbers, and of text where not every cell is one.
        notation: how its numbers are written; carries the remarks.
        index: columns that only count the rows.
        has_header: whether the names of the columns are those of the file.
    """

    frame: Any
    notation: Notation
    index: tuple[str, ...] = ()
    has_header: bool = True

    def without_index(self, keep: Collection[str | None] = ()) -> Any:
        """The frame without a saved index, unless that column is asked for or is all there is."""
        aside = [column for column in self.index if column not in keep]
        if not aside or len(aside) == self.frame.width:
            return self.frame
        called = f"column '{aside[0]}'" if aside[0] else "the first column, which has no name,"
        self.notation.note(f"{called} is a saved index and is set aside")
        return self.frame.drop(aside)


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name: .csv, .tsv, .txt, also compressed by gzip (.csv.gz), .parquet."""
    return _kind(path) in (".csv", ".tsv", ".txt", ".parquet")


def _kind(path: Path) -> str:
    name = path.name.lower()
    return (
        Path(name.removesuffix(".gz")).suffix
        if name.endswith((".csv.gz", ".tsv.gz", ".txt.gz"))
        else path.suffix.lower()
    )


def notation_of(decimal: str = "auto", missing: Collection[object] = ()) -> Notation:
    """What the user says about the numbers of a table.

    Args:
        decimal: point, comma, or auto.
        missing: marks of missing values.
    Raises:
        ElbowroomError: another decimal mark.
    """
    if decimal not in ("auto", *DECIMALS):
        raise ElbowroomError(f"--data.decimal is '{decimal}'.", did_you_mean(decimal, ["auto", *DECIMALS]))
    return Notation(decimal=DECIMALS.get(decimal), missing=tuple(str(mark) for mark in missing))


def read_table(
    path: Path,
    *,
    as_text: Collection[str] = (),
    classes: Collection[str] = (),
    separator: str = "auto",
    notation: Notation | None = None,
) -> Table:
    """A table of text or a Parquet file.

    Separator, header, encoding and decimal mark are found; whatever is not the plain default becomes a remark of the
    notation. A column is one of numbers if each of its cells is a number or missing; all others stay text, without
    the spaces around them.

    Args:
        path: of the file.
        as_text: columns of a table of text whose cells are not to be read as numbers: identifiers such as 007.
        classes: columns of a table of text that may hold names of classes: where one of its whole numbers begins with
            a zero, as 007 does, such a column stays text.
        separator: comma, semicolon, tab, bar, space, or auto.
        notation: what the user says about the numbers.
    Raises:
        ElbowroomError: a file of another kind, lines of different lengths, quotes that do not close; it names the line.
    """
    try:
        import polars as pl
    except ModuleNotFoundError as fault:
        raise ElbowroomError(
            f"{path} is a table, and polars, which reads tables, is not installed.",
            "Install it: pip install 'elbowroom[tables]'.",
        ) from fault
    if separator not in ("auto", *SEPARATORS):
        raise ElbowroomError(f"--data.separator is '{separator}'.", did_you_mean(separator, ["auto", *SEPARATORS]))
    notation = notation or Notation()
    try:
        if _kind(path) == ".parquet":
            frame = pl.read_parquet(path)
            return Table(frame, notation, tuple(filter(_PANDAS_INDEX.fullmatch, frame.columns)))
        return _read_text(path, as_text, classes, SEPARATORS.get(separator), notation)
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as fault:
        raise ElbowroomError(
            f"{path} cannot be read as a table ({str(fault).splitlines()[0]}).",
            "Check that it is whole: a line per row, the same number of columns in each.",
        ) from fault


def _read_text(
    path: Path, as_text: Collection[str], classes: Collection[str], separator: str | None, notation: Notation
) -> Table:
    file = open_text(path)
    preferred = "\t" if _kind(path) == ".tsv" else ","
    dialect = find_dialect(file.head, separator=separator, preferred=preferred, decimal=notation.decimal)
    dialect = _with_commented_header(file, dialect)
    _say_what_is_left_out(file, dialect, notation)
    foreign = dialect.separator == ";" or (file.commas and dialect.separator != ",") or notation.decimal == ","
    frame = _frame(file, dialect, {*as_text, *classes}, infer=not foreign)
    if not len(frame):
        raise ElbowroomError(
            f"{path.name} has a header ({', '.join(frame.columns[:5])}) but no rows.", "Write the data below it."
        )
    frame = _without_empty_end(frame, dialect, notation)
    notation.separator = dialect.separator
    notation.where = Lines(file, dialect).of
    frame = tidy(frame)
    named = [column for column in classes if column in frame.columns and _leading_zeros(frame[column])]
    for column in named:
        notation.note("leading zeros are kept: these are names of classes", column)
    as_text = {*as_text, *named}
    words = [cells for cells in frame if str(cells.dtype) == "String" and cells.name not in as_text]
    texts = {cells.name: cells for cells in words if _numeric(cells)}
    evidence = {column: find_evidence(without_percent(cells)[0]) for column, cells in texts.items()}
    point = any(dtype.is_float() for dtype in frame.schema.values())
    notation.found = "." if point else common_mark(evidence.values())
    commas = notation.decimal == "," or (
        notation.found == "," and any("," in (each.comma or "") for each in evidence.values())
    )
    _say_how_it_is_written(dialect, preferred, notation, commas=commas)
    numbers = [read_plain(cells, column, notation, evidence[column]) for column, cells in texts.items()]
    truths = [read_truths(cells) for cells in words if cells.name not in texts]
    frame = frame.with_columns([cells for cells in (*numbers, *truths) if cells is not None])
    _say_what_is_odd(dialect, frame, notation)
    return Table(frame, notation, _saved_index(frame) if dialect.header else (), dialect.header is not None)


def _with_commented_header(file: TextFile, dialect: Dialect) -> Dialect:
    """The names that numpy.savetxt writes behind a #, if they are as many as there are columns."""
    if dialect.header is not None or dialect.width < 2 or not file.comment:
        return dialect
    names = split([file.comment], dialect.separator)[0]
    if len(names) != dialect.width or any(looks_like_a_number(name) for name in names):
        return dialect
    return dialect._replace(header=tuple(names))


# --- reading -----------------------------------------------------------------------------------------------------


def _frame(file: TextFile, dialect: Dialect, as_text: Collection[str], *, infer: bool) -> Any:
    """The cells as polars reads them, or line by line where it would misread them."""
    import polars as pl

    spaced_quotes = file.quotes > 0 and any(f'{dialect.separator} "' in line for line in file.head)
    by_line = dialect.separator == " " or (file.scattered and file.quotes > 0) or spaced_quotes or file.quotes % 2
    if by_line or len(dialect.first) != dialect.width:
        return read_by_line(file, dialect)
    content = file.gathered(keep_blank=dialect.width == 1)
    try:
        frame = pl.read_csv(
            file.path if content is None else content,
            separator=dialect.separator,
            has_header=header_is_a_line(dialect),
            null_values=list(MISSING),
            schema_overrides={name: pl.String for name in dialect.header or () if name in as_text},
            **({"infer_schema_length": None} if infer else {"infer_schema": False}),
        )
    except pl.exceptions.PolarsError:
        return read_by_line(file, dialect)  # which names the line, or knows better
    if frame.width > 1 and len(frame) and frame.to_series(frame.width - 1).null_count():
        refuse_short_lines(file, dialect, len(frame))  # polars fills them up
    names = [name.strip() for name in frame.columns]
    if not header_is_a_line(dialect):
        names = distinct(dialect.header or [f"column_{at}" for at in range(frame.width)])
    return frame.rename(dict(zip(frame.columns, names, strict=True))) if len(set(names)) == frame.width else frame


def _without_empty_end(frame: Any, dialect: Dialect, notation: Notation) -> Any:
    """The frame without the empty column that arises where every line ends with a separator."""
    last = frame.columns[-1]
    nameless = dialect.header is None or not dialect.header[-1]
    if frame.width > 1 and nameless and len(frame) == tidy(frame[last].cast(str)).null_count():
        frame = frame.drop(last)
    if frame.width < dialect.width:
        notation.note("every line ends with a separator, behind which there is nothing")
    return frame


def _leading_zeros(cells: Any) -> bool:
    """Whether a column of text holds whole numbers that begin with a zero."""
    return str(cells.dtype) == "String" and bool(cells.str.contains("^0[0-9]+$").any())


# --- what was found ----------------------------------------------------------------------------------------------


def _numeric(cells: Any) -> bool:
    some = [cell for cell in cells.head(100).to_list() if cell is not None] or cells.drop_nulls().head(100).to_list()
    return bool(some) and sum(map(looks_like_a_number, some)) * 2 >= len(some)


def _say_what_is_left_out(file: TextFile, dialect: Dialect, notation: Notation) -> None:
    if file.encoding not in ("utf-8", "utf-8-sig"):
        notation.note(f"the text is {'Latin-1 (Windows-1252)' if file.encoding == 'cp1252' else 'UTF-16'}, not UTF-8")
    comments = file.comments - (dialect.header is not None and not header_is_a_line(dialect))
    blank = file.blank_lines() if dialect.width > 1 else 0
    for count, what in ((comments, "beginning with # "), (blank, "")):
        if count:
            kind = "" if what else "blank "
            notation.note(
                f"{count:,} {kind}line{'s' if count > 1 else ''} {what}{'are' if count > 1 else 'is'} passed over"
            )


def _say_how_it_is_written(dialect: Dialect, preferred: str, notation: Notation, *, commas: bool) -> None:
    separated = (
        ""
        if dialect.separator == preferred or dialect.width == 1
        else f"{_SPOKEN[dialect.separator]} separate the cells"
    )
    decimal = "commas are decimal" if commas else ""
    said = f"{separated}, and {decimal}" if separated and decimal else separated or decimal
    if said:
        notation.note(said)


def _say_what_is_odd(dialect: Dialect, frame: Any, notation: Notation) -> None:
    first = ", ".join(dialect.first[:3]) + (", …" if len(dialect.first) > 3 else "")
    if dialect.header is None:
        if _steps([*map(str, dialect.first)]) and not _steps(
            [str(value) for value in frame.row(min(1, len(frame) - 1))]
        ):
            notation.note(
                f"the first line ({first}) is read as data; if it names the columns, write names with letters"
            )
        return
    if dialect.header != dialect.first:
        notation.note("the names of the columns are those behind #")
        return
    numbers = [cell for cell in dialect.first if cell not in MISSING and looks_like_a_number(cell)]
    if numbers and not _years(numbers) and len(numbers) < len(dialect.first) - (not dialect.first[0]):
        notation.note(
            f"the first line ({first}) is read as names of columns, though {numbers[0]} is a number; if it is data, "
            "put a line of names above it"
        )


def _years(cells: list[str]) -> bool:
    """Whether they are years, or count up by one."""
    whole = [int(cell) for cell in cells if cell.isdecimal()]
    return len(whole) == len(cells) and (_steps(cells) or all(1000 <= number < 3000 for number in whole))


def _steps(cells: list[str]) -> bool:
    """Whether they count up by one, as years do."""
    if len(cells) < 3 or not all(cell.isdecimal() for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    return all(after == before + 1 for before, after in pairwise(numbers))


def _saved_index(frame: Any) -> tuple[str, ...]:
    """The first columns, as far as they are called as a saved index is and hold distinct whole numbers."""
    found: list[str] = []
    for column in frame.columns:
        cells = frame[column]
        if (
            not _INDEX.fullmatch(column)
            or not cells.dtype.is_integer()
            or cells.null_count()
            or not cells.is_unique().all()
        ):
            break
        found.append(column)
    return tuple(found)
