"""Tables from files: text in any dialect, and Parquet, as polars data frames; faults are named by their line.

    bytes ──csv_text──▶ plain text ──csv_dialect──▶ separator, header ──polars──▶ columns ──cells──▶ numbers
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from elbowroom.data.cells import MISSING, Notation, looks_like_a_number, read_decimals, read_plain, tidy
from elbowroom.data.csv_dialect import SEPARATORS, Dialect, find_dialect, split
from elbowroom.data.csv_text import TextFile, open_text
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["DECIMALS", "Table", "is_table", "notation_of", "read_table"]

DECIMALS = {"point": ".", "comma": ","}  #: by the name that the user gives
_SPOKEN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "spaces"}
_INDEX = re.compile(r"(?:Unnamed: 0(?:\.\d+)?)?")  # how pandas calls a saved index


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
        called = f"'{aside[0]}'" if aside[0] else "which has no name"
        self.notation.note(f"the first column, {called}, is a saved index and is set aside")
        return self.frame.drop(aside)


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name: .csv, .tsv, .txt, also compressed by gzip (.csv.gz), .parquet."""
    return _kind(path) in (".csv", ".tsv", ".txt", ".parquet")


def _kind(path: Path) -> str:
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix if name.endswith((".csv.gz", ".tsv.gz", ".txt.gz")) else path.suffix.lower()


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


def read_table(path: Path, *, separator: str = "auto", notation: Notation | None = None) -> Table:
    """A table of text or a Parquet file.

    Separator, header, encoding and decimal mark are found; whatever is not the plain default becomes a remark of the
    notation. A column is one of numbers if each of its cells is a number or missing; all others stay text, without
    the spaces around them.

    Args:
        path: of the file.
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
            return Table(pl.read_parquet(path), notation)
        return _read_text(path, SEPARATORS.get(separator), notation)
    except (pl.exceptions.PolarsError, OSError) as fault:
        raise ElbowroomError(
            f"{path} cannot be read as a table ({str(fault).splitlines()[0]}).",
            "Check that it is whole: a line per row, the same number of columns in each.",
        ) from fault


def _read_text(path: Path, separator: str | None, notation: Notation) -> Table:
    file = open_text(path)
    for remark in file.remarks:
        notation.note(remark)
    preferred = "\t" if _kind(path) == ".tsv" else ","
    dialect = find_dialect(file.head, separator=separator, preferred=preferred, decimal=notation.decimal)
    dialect = _with_commented_header(file, dialect)
    as_text = dialect.separator == ";" or (file.commas and dialect.separator != ",") or notation.decimal == ","
    frame = _frame(file, dialect, as_text=as_text)
    if not len(frame):
        raise ElbowroomError(
            f"{path.name} has a header ({', '.join(frame.columns[:5])}) but no rows.", "Write the data below it."
        )
    frame = _without_empty_end(frame, dialect, notation)
    notation.separator = dialect.separator
    notation.where = _Lines(file, dialect).of
    frame = _numbers_out_of(frame, notation)
    _say_how_it_is_written(dialect, preferred, notation)
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


def _frame(file: TextFile, dialect: Dialect, *, as_text: bool) -> Any:
    """The cells as polars reads them, or line by line where it would misread them."""
    import polars as pl

    header_is_line = dialect.header is not None and dialect.header == dialect.first
    spaced_quotes = file.quotes > 0 and any(f'{dialect.separator} "' in line for line in file.head)
    by_line = dialect.separator == " " or (file.scattered and file.quotes > 0) or spaced_quotes or file.quotes % 2
    if by_line or len(dialect.first) != dialect.width:
        return _by_line(file, dialect)
    content = file.content
    if content is not None and file.scattered:
        blank = rb"^ *(?:#[^\n]*)?\n" if dialect.width > 1 else rb"^ *#[^\n]*\n"
        content = re.sub(blank, b"", content, flags=re.MULTILINE)
    try:
        frame = pl.read_csv(
            file.path if content is None else content,
            separator=dialect.separator,
            has_header=header_is_line,
            null_values=list(MISSING),
            **({"infer_schema": False} if as_text else {"infer_schema_length": None}),
        )
    except pl.exceptions.PolarsError:
        return _by_line(file, dialect)  # which names the line, or knows better
    if frame.width > 1 and len(frame) and frame.to_series(frame.width - 1).null_count():
        _refuse_short_lines(file, dialect)  # polars fills them up
    if dialect.header is not None and not header_is_line:
        frame = frame.rename(dict(zip(frame.columns, _distinct(dialect.header), strict=True)))
    stripped = [name.strip() for name in frame.columns]
    return frame.rename(dict(zip(frame.columns, stripped, strict=True))) if len(set(stripped)) == frame.width else frame


def _by_line(file: TextFile, dialect: Dialect) -> Any:
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
        names = tuple(cell.strip() for cell in records.pop(0)[1]) if dialect.header == dialect.first else dialect.header
    records, names = _mended(file, dialect, records, names)
    names = names or tuple(f"column_{at + 1}" for at in range(dialect.width))
    columns = zip(*(cells for _, cells in records), strict=True) if records else [[] for _ in names]
    return pl.DataFrame({name: pl.Series(list(cells), dtype=pl.String)
                         for name, cells in zip(_distinct(names), columns, strict=True)})  # fmt: skip


def _mended(
    file: TextFile, dialect: Dialect, records: list[tuple[int, list[str]]], names: tuple[str, ...] | None
) -> tuple[list[tuple[int, list[str]]], tuple[str, ...] | None]:
    """Lines and header of one length: a header may lack the name of R's row names, or of what follows a last separator."""
    widths = Counter(len(cells) for _, cells in records)
    width = len(names) if names is not None else dialect.width
    if len(widths) == 1 and names is not None and width + 1 in widths:
        if all(not cells[-1].strip() for _, cells in records):
            return [(line, cells[:-1]) for line, cells in records], names
        if width > 1 and _counts([cells[0].strip() for _, cells in records]):
            return records, ("", *names)
    for line, cells in records:
        if len(cells) != width:
            raise _ragged(file, dialect, line, len(cells), width, names, widths)
    return records, names


def _ragged(
    file: TextFile, dialect: Dialect, line: int, found: int, width: int, names: tuple[str, ...] | None, widths: Counter[int]
) -> ElbowroomError:
    has = f"{found} cell{'s' if found != 1 else ''}"
    others = f"the header names {width} column{'s' if width != 1 else ''}" if names else f"other lines have {width} columns"
    remedy = "Give every line as many cells as there are columns, in quotes where one holds the separator"
    if dialect.separator == "," and names is not None and found == 2 * width and len(widths) == 1:
        if width == 1:
            remedy = "If the commas are decimal, pass --data.decimal comma; otherwise name every column in the header"
        else:
            remedy = "If commas are decimal, too, save the table with semicolons between the cells"
    elif line <= 3 or widths[width] < widths[found]:
        remedy += "; begin lines above the table with #"
    return ElbowroomError(f"Line {line:,} of {file.path.name} has {has}, but {others}.", f"{remedy}.")


def _refuse_short_lines(file: TextFile, dialect: Dialect) -> None:
    for line, cells in file.records(dialect.separator):
        if len(cells) != dialect.width:
            raise _ragged(file, dialect, line, len(cells), dialect.width, dialect.header, Counter())


def _refuse_quotes(file: TextFile, dialect: Dialect, fault: csv.Error) -> NoReturn:
    """Name the line in which a quote opens that is never closed, or that stands where none belongs."""
    line = 0
    try:
        for line, cells in file.records(dialect.separator, strict=True):  # noqa: B007
            pass
    except csv.Error:
        line = file.line_after(line)
    if "unexpected end of data" in str(fault):
        raise ElbowroomError(
            f'Line {line:,} of {file.path.name} opens a quote (") that is never closed.',
            "Close it, or take it out.",
        ) from fault
    raise ElbowroomError(
        f'Line {line:,} of {file.path.name} has a cell that goes on behind its closing quote (").',
        'Write a quote inside a quoted cell twice: "5"" pipe".',
    ) from fault


def _distinct(names: Collection[str]) -> list[str]:
    """The names; those that were there before are numbered as polars does it."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append(name if not seen[name] else f"{name}_duplicated_{seen[name] - 1}")
        seen[name] += 1
    return found


def _without_empty_end(frame: Any, dialect: Dialect, notation: Notation) -> Any:
    """The frame without the empty column that arises where every line ends with a separator."""
    last = frame.columns[-1]
    nameless = dialect.header is None or not dialect.header[-1]
    if frame.width > 1 and nameless and len(frame) == tidy(frame[last].cast(str)).null_count():
        frame = frame.drop(last)
    if frame.width < dialect.width:
        notation.note("every line ends with a separator, behind which there is nothing")
    return frame


class _Lines:
    """The line of the file in which a row stands."""

    def __init__(self, file: TextFile, dialect: Dialect) -> None:
        self._file, self._dialect = file, dialect

    def of(self, row: int) -> str:
        """Behind the number of a row, in messages."""
        header = self._dialect.header is not None and self._dialect.header == self._dialect.first
        records = self._file.records(self._dialect.separator, keep_blank=self._dialect.width == 1)
        line = next((line for at, (line, _) in enumerate(records) if at == row + header), None)
        return "" if line is None else f" (line {line:,})"


# --- what was found ----------------------------------------------------------------------------------------------


def _numbers_out_of(frame: Any, notation: Notation) -> Any:
    """The frame with every column of text that holds nothing but numbers converted."""
    import polars as pl

    texts = {column: tidy(frame[column]) for column in frame.columns if frame.schema[column] == pl.String}
    if any(dtype.is_float() for dtype in frame.schema.values()):
        notation.found = "."
    elif notation.decimal is None:
        notation.found = read_decimals([cells for cells in texts.values() if _numeric(cells)])
    for column, cells in texts.items():
        numbers = read_plain(cells, column, notation)
        texts[column] = cells if numbers is None else numbers
    return frame.with_columns([cells.alias(column) for column, cells in texts.items()])


def _numeric(cells: Any) -> bool:
    some = cells.drop_nulls().head(20).to_list()
    return bool(some) and sum(map(looks_like_a_number, some)) * 2 >= len(some)


def _say_how_it_is_written(dialect: Dialect, preferred: str, notation: Notation) -> None:
    separated = "" if dialect.separator == preferred or dialect.width == 1 else f"{_SPOKEN[dialect.separator]} separate the cells"
    decimal = "commas are decimal" if (notation.decimal or notation.found) == "," else ""
    said = f"{separated}, and {decimal}" if separated and decimal else separated or decimal
    if said:
        notation.note(said)


def _say_what_is_odd(dialect: Dialect, frame: Any, notation: Notation) -> None:
    first = ", ".join(dialect.first[:3]) + (", …" if len(dialect.first) > 3 else "")
    if dialect.header is None:
        if _steps([*map(str, dialect.first)]) and not _steps([str(value) for value in frame.row(min(1, len(frame) - 1))]):
            notation.note(f"the first line ({first}) is read as data; if it names the columns, write names with letters")
        return
    if dialect.header != dialect.first:
        notation.note("the names of the columns are those behind #")
        return
    numbers = [cell for cell in dialect.first if cell not in MISSING and looks_like_a_number(cell)]
    if numbers and len(numbers) < len(dialect.first) - (not dialect.first[0]):
        notation.note(
            f"the first line ({first}) is read as names of columns, though {numbers[0]} is a number; if it is data, put a "
            "line of names above it"
        )
    twice = [name for name, count in Counter(name for name in dialect.header if name).items() if count > 1]
    if twice:
        notation.note(f"several columns are called '{twice[0]}'; the later ones become '{twice[0]}_duplicated_0' and so on")


def _steps(cells: list[str]) -> bool:
    """Whether they count up by one, as years do."""
    if len(cells) < 3 or not all(cell.isdecimal() for cell in cells):
        return False
    numbers = [int(cell) for cell in cells]
    return all(after == before + 1 for before, after in zip(numbers, numbers[1:], strict=False))


def _saved_index(frame: Any) -> tuple[str, ...]:
    """The first columns, as far as they are called as a saved index is and hold distinct whole numbers."""
    found: list[str] = []
    for column in frame.columns:
        cells = frame[column]
        if not _INDEX.fullmatch(column) or not cells.dtype.is_integer() or cells.null_count() or not cells.is_unique().all():
            break
        found.append(column)
    return tuple(found)


def _counts(cells: list[str]) -> bool:
    """Whether they are distinct whole numbers."""
    return all(cell.isdecimal() for cell in cells) and len(set(cells)) == len(cells)
