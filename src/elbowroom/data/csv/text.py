"""The text of a table's file: what kind of file it is in truth, its encoding, its comments and blank lines.

A plain file is only looked through, in large pieces, and then read from the disk by polars. One with comments, blank
lines, other line ends or another encoding is made plain in memory first. Line numbers are those of the file itself.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from elbowroom.errors import ElbowroomError

__all__ = ["TextFile", "is_blank", "open_text"]

_CHUNK = 1 << 24
_HEAD = 1 << 18
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_UNPICKLED = ("a pickled Python object, and elbowroom never unpickles", "Save it as CSV: frame.to_csv(…, index=False).")
#: how files of other kinds begin, what they are, and what to do with them
_KINDS = (
    (b"PAR1", "a Parquet file", "Rename it to {stem}.parquet."),
    (b"\x93NUMPY", "an array of numpy", "Rename it to {stem}.npy."),
    (b"ARROW1", "an Arrow (Feather) file", "Save it as Parquet: polars.read_ipc(path).write_parquet(…)."),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", "Open it and save the sheet as CSV."),
    (b"\x89PNG", "a picture", "Give the folder that holds the pictures."),
    (b"\xff\xd8\xff", "a picture", "Give the folder that holds the pictures."),
    (b"%PDF", "a PDF document", "Give the table itself, as CSV."),
    (b"SQLite format 3", "an SQLite database", "Save a table of it: pandas.read_sql(…).to_csv(…, index=False)."),
    (b"\x80\x04", *_UNPICKLED),
    (b"\x80\x05", *_UNPICKLED),
)


@dataclass(frozen=True)
class TextFile:
    """A file that holds text.

    Attributes:
        path: of the file.
        encoding: of the file, as Python calls it.
        content: the same table as plain UTF-8, where the file is not plain; None where it is.
        head: its first lines, without comments and blank lines.
        comment: the last comment before the first line of the table, without ``#``; "" for none.
        comments: how many lines begin with ``#``.
        quotes: how many double quotes there are.
        commas: whether there is a comma anywhere.
        scattered: whether comments or blank lines stand between the lines of the table.
    """

    path: Path
    encoding: str
    content: bytes | None
    head: tuple[str, ...]
    comment: str
    comments: int
    quotes: int
    commas: bool
    scattered: bool

    def records(
        self, separator: str, *, strict: bool = False, keep_blank: bool = False
    ) -> Iterator[tuple[int, list[str]]]:
        """The cells of every row of the table, and the number of its first line in the file, counted from 1.

        Args:
            separator: of the cells; for " " any run of spaces.
            strict: whether quotes that are out of place raise ``csv.Error``.
            keep_blank: whether a blank line is a row with one empty cell.
        """
        lines = _Numbered(io.StringIO(_decoded(_raw(self.path), self.encoding), newline=""))
        if separator == " ":
            yield from ((lines.number, line.split()) for line in lines if line.strip())
            return
        for cells in csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=strict):
            start, lines.start = lines.start, 0
            if cells or keep_blank:
                yield start, cells or [""]

    def gathered(self, *, keep_blank: bool) -> bytes | None:
        """The content without the comments between its lines, and without blank lines unless they are kept."""
        if self.content is None or not self.scattered:
            return self.content
        content = _COMMENT_LINES.sub(b"", self.content)
        return content if keep_blank else _BLANK_LINES.sub(b"", content)

    def blank_lines(self) -> int:
        """How many blank lines stand between the lines of the table."""
        return len(_BLANK_LINES.findall(self.content)) if self.content is not None else 0

    def count(self, mark: str) -> int:
        """How often a character occurs."""
        if self.content is not None:
            return self.content.count(mark.encode())
        with _stream(self.path) as file:
            return sum(piece.count(mark.encode()) for piece in iter(lambda: file.read(_CHUNK), b""))

    def line_after(self, line: int) -> int:
        """The next line, counted from 1, that is neither blank nor a comment."""
        text = _decoded(_raw(self.path), self.encoding)
        lines = enumerate(io.StringIO(text, newline=""), start=1)
        return next((number for number, content in lines if number > line and not is_blank(content)), line)


class _Numbered:
    """The lines of a file without its comments; ``start`` is the number of the first one since it was set to 0."""

    def __init__(self, lines: IO[str]) -> None:
        self._lines, self.number, self.start = lines, 0, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            self.start = self.start or self.number
            if not line.strip(" \r\n"):
                yield "\n"
            elif not is_blank(line):
                yield line
            else:
                self.start = 0


_COMMENT = "#(?!(?:N/A|DIV/0!|VALUE!|REF!|NAME\\?|NUM!|NULL!))"  # the others are what Excel writes in place of a number
_BLANK = re.compile(f' *(?:{_COMMENT}.*|"?sep=.?"?)?[\r\n]*', re.DOTALL)  # the last is Excel's own first line
_COMMENT_LINES = re.compile(f"^ *{_COMMENT}[^\n]*\n".encode(), re.MULTILINE)
_BLANK_LINES = re.compile(rb"^ *\n", re.MULTILINE)


def is_blank(line: str) -> bool:
    r"""Whether a line is a comment or holds nothing; tabs alone are empty cells.

    Example:
        >>> [is_blank(line) for line in ("", "  ", "# made by hand", "\t\t", "1,2", "#N/A,3")]
        [True, True, True, False, False, False]
    """
    return _BLANK.fullmatch(line) is not None


def open_text(path: Path) -> TextFile:
    """Find out how the text of a file is written.

    Raises:
        ElbowroomError: it is of another kind in truth, holds a NUL byte or nothing at all.
    """
    with _stream(path) as file:
        start = file.read(_HEAD)
    _refuse_other_kinds(path, start)
    found = _Survey()
    encoding = _marked_encoding(start)
    if encoding in ("utf-8", "utf-8-sig"):
        with _stream(path) as file:
            while piece := file.read(_CHUNK):
                found.add(piece + file.readline())
        if found.nul_line:
            raise ElbowroomError(
                f"Line {found.nul_line:,} of {path.name} holds a NUL byte, which no text does.",
                "Write the file again, or take the byte out: tr -d '\\000' < old.csv > new.csv.",
            )
        if found.foreign:
            encoding = "cp1252"
    if encoding not in ("utf-8", "utf-8-sig"):
        text = _decoded(_raw(path), encoding)
        found = _Survey()
        found.add(text.encode())
    plain = encoding in ("utf-8", "utf-8-sig") and not found.blank and not found.lone_cr and path.suffix != ".gz"
    content = None if plain else _decoded(_raw(path), encoding).encode()
    sample = _decoded(start, encoding, errors="ignore")
    lines = re.split("\r\n|\r|\n", sample)[: None if len(start) < _HEAD else -1]
    head = tuple(line for line in lines if not is_blank(line))
    if not head:
        raise ElbowroomError(
            f"{path.name} holds no table: every line is blank or begins with #.", "Write the data to it."
        )
    before = lines[: next(at for at, line in enumerate(lines) if not is_blank(line))]
    comments = [line.strip()[1:].strip() for line in before if line.strip().startswith("#")]
    scattered = False
    if content is not None:
        content, scattered = _made_plain(content, found)
    return TextFile(
        path, encoding, content, head, comments[-1] if comments else "", found.comments, found.quotes, found.comma,
        scattered,
    )  # fmt: skip


class _Survey:
    """What occurs in the bytes of a file; pieces end where lines end."""

    def __init__(self) -> None:
        self.blank = self.lone_cr = self.comma = self.foreign = False
        self.quotes = self.lines = self.nul_line = self.comments = 0

    def add(self, piece: bytes) -> None:
        """Look through another piece."""
        lined = b"\n" + piece
        if not self.nul_line and b"\0" in piece:
            self.nul_line = self.lines + piece.count(b"\n", 0, piece.index(b"\0")) + 1
        self.lines += piece.count(b"\n")
        if b"\n#" in lined:
            self.comments += len(_COMMENT_LINES.findall(piece if piece.endswith(b"\n") else piece + b"\n"))
        self.blank = (
            self.blank
            or self.comments > 0
            or any(mark in lined for mark in (b"\n\n", b"\n\r\n", b"\n ", b"\nsep=", b'\n"sep='))
        )
        if b"\r" in piece:
            self.lone_cr = self.lone_cr or piece.count(b"\r") > piece.count(b"\r\n")
        self.quotes += piece.count(b'"')
        self.comma = self.comma or b"," in piece
        if not self.foreign and not piece.isascii():
            try:
                piece.decode("utf-8")
            except UnicodeDecodeError:
                self.foreign = True


def _made_plain(content: bytes, found: _Survey) -> tuple[bytes, bool]:
    """UTF-8 with line feeds, without blank lines and comments at both ends; and whether there are any between."""
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    start = 0
    while start < len(content):
        stop = content.find(b"\n", start)
        stop = len(content) if stop < 0 else stop + 1
        if not is_blank(content[start:stop].decode()):
            break
        start = stop
    content = content[start:].rstrip(b"\n ") + b"\n"
    between = _Survey()
    between.add(content[:-1])
    return content, between.blank


def _raw(path: Path) -> bytes:
    with _stream(path) as file:
        return file.read()


def _stream(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _decoded(raw: bytes, encoding: str, errors: str = "strict") -> str:
    try:
        return raw.decode(encoding, errors)
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # five bytes that Windows-1252 leaves open


def _marked_encoding(start: bytes) -> str:
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    pairs = len(start) // 2
    for offset, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # without a mark every other byte is 0
        if pairs > 2 and start[offset::2].count(0) > 0.8 * pairs:
            return encoding
    return "utf-8"


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    """Name a file as what it is, where its first bytes say that it is no text."""
    kind, remedy = next(((kind, remedy) for mark, kind, remedy in _KINDS if start.startswith(mark)), ("", ""))
    if start.startswith(b"PK\x03\x04"):
        kind, remedy = _archive(path)
    elif start.startswith(b"\x1f\x8b"):
        kind, remedy = "compressed with gzip", "Rename it to {stem}.csv.gz."
    text = start.lstrip(codecs.BOM_UTF8).lstrip()
    if text.startswith(b"<"):
        kind, remedy = "an HTML or XML page", "Download the data themselves, or save the table of the page as CSV."
    elif text.startswith((b"{", b"[{", b"[[", b"[\n")):
        kind, remedy = "JSON", "Save it as CSV: pandas.read_json(path).to_csv(…, index=False)."
    if kind:
        raise ElbowroomError(f"{path.name} is {kind}, not a table of text.", remedy.format(stem=path.stem))


def _archive(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a damaged zip archive", "Give the table itself, as CSV."
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook (.xlsx)", "Open it and save the sheet as CSV."
    if "mimetype" in names:
        return "an OpenDocument file", "Open it and save the sheet as CSV."
    if any(name.endswith(".npy") for name in names):
        return "an archive of numpy", "Rename it to {stem}.npz."
    return f"a zip archive (of {', '.join(names[:3])})", "Unpack it, and give the table itself."
