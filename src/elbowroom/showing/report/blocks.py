"""The content of a report as plain data: headline, tiles, sections and blocks.

A page is a headline and sections; a section is blocks: prose, facts, tables, figures, findings, commands. Nothing here
knows of runs, of files or of HTML. Any text here may be hostile, a path named ``<script>`` for example; the page
escapes all of it. In prose a pair of backticks marks a command; nothing else has a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

__all__ = [
    "Block",
    "Column",
    "Commands",
    "FactList",
    "FactSheet",
    "Figure",
    "Group",
    "Headline",
    "Listing",
    "Problem",
    "Prose",
    "Report",
    "ReportSection",
    "Table",
    "Tile",
]


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph.

    Attributes:
        text: with commands between backticks.
        tone: "missing" for what is not there and how to get it, "warning" for what limits a figure.
    """

    kind: ClassVar[str] = "prose"
    text: str
    tone: Literal["plain", "missing", "warning"] = "plain"


@dataclass(frozen=True, slots=True)
class FactList:
    """Names and values under a heading."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FactSheet:
    """Groups of facts side by side."""

    kind: ClassVar[str] = "facts"
    groups: tuple[FactList, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading; numbers stand to the right, and long texts take more than one line."""

    title: str
    numeric: bool = False
    long: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together, under a heading of their own where they have one."""

    rows: tuple[tuple[str, ...], ...]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the rows.

    Raises:
        ValueError: a row with another number of cells than there are columns.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        lengths = {len(row) for group in self.groups for row in group.rows}
        if lengths - {len(self.columns)}:
            raise ValueError(f"{self.caption}: rows of {sorted(lengths)} cells under {len(self.columns)} columns")


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with a caption and a text alternative.

    Attributes:
        image: PNG or JPEG.
        alt: the text alternative, with the numbers.
        caption: how to read it.
        width, height: CSS pixels.
        readable: whether it has text that must not shrink with a narrow screen; it scrolls inside its own box then.
    """

    kind: ClassVar[str] = "figure"
    image: bytes
    alt: str
    caption: str
    width: int
    height: int
    readable: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of the doctor: title, numbers, reason and remedy."""

    kind: ClassVar[str] = "problem"
    severity: Literal["note", "warning", "severe"]
    title: str
    evidence: tuple[tuple[str, str], ...]
    explanation: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Commands:
    """Shell commands, in this order."""

    kind: ClassVar[str] = "commands"
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """A longer text, folded until it is opened."""

    kind: ClassVar[str] = "listing"
    summary: str
    text: str


Block: TypeAlias = Prose | FactSheet | Table | Figure | Problem | Commands | Listing


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A section of a report.

    Attributes:
        slug: its anchor.
        title: its heading.
        short: its name in the table of contents.
        blocks: in the order of reading.
    """

    slug: str
    title: str
    short: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Headline:
    """The main figure of a report.

    Attributes:
        label: the name of the quantity.
        value: with its standard error.
        unit: of the value.
        details: sentences: how it was measured, and its limits.
        tone: "warning" where the figure is not a measured log-likelihood.
    """

    label: str
    value: str
    unit: str
    details: tuple[str, ...]
    tone: Literal["plain", "warning"] = "plain"


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure beside the headline."""

    label: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report of a run or a comparison.

    Attributes:
        subject: "run" or "comparison".
        name: its heading.
        place: the folder.
        lead: one sentence that says what was trained or compared.
        headline: the main figure.
        tiles: figures beside it.
        sections: what follows.
        maker: name and version of the program.
    """

    subject: Literal["run", "comparison"]
    name: str
    place: str
    lead: str
    headline: Headline
    tiles: tuple[Tile, ...]
    sections: tuple[ReportSection, ...]
    maker: str

    def blocks(self) -> Iterator[Block]:
        """All blocks, in the order of reading."""
        for section in self.sections:
            yield from section.blocks
