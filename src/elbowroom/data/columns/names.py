"""Names: levels of a column of text, and whether its text names classes, identifies rows or is free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from elbowroom.data.columns.column import ColumnKind

__all__ = ["MOST_LEVELS", "folded", "kind_of_names", "ordered_levels", "spellings"]

MOST_LEVELS = 1_000  #: of a category that was not asked for
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{24,64}", re.IGNORECASE)
_MANY, _WORDS, _LONG = 20, 4, 60
#: scales whose order is known, each from its least level to its greatest
_SCALES = (
    ("strongly disagree", "disagree", "somewhat disagree", "neutral", "undecided", "neither agree nor disagree",
     "somewhat agree", "agree", "strongly agree"),
    ("very dissatisfied", "dissatisfied", "neutral", "satisfied", "very satisfied"),
    ("never", "rarely", "sometimes", "often", "always"),
    ("none", "very low", "low", "medium", "moderate", "high", "very high"),
    ("xxs", "xs", "s", "m", "l", "xl", "xxl", "xxxl"),
    ("tiny", "small", "medium", "large", "huge"),
    ("very bad", "very poor", "bad", "poor", "fair", "ok", "good", "very good", "excellent"),
    ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
     "december"),
)  # fmt: skip


def folded(name: str) -> str:
    """What all spellings of a name have in common.

    Example:
        >>> folded("YES "), folded("New  York")
        ('yes', 'new york')
    """
    return " ".join(name.split()).casefold()


def spellings(cells: Any) -> dict[str, str]:
    """The commonest spelling of every name of a column, by what its spellings have in common.

    Args:
        cells: a polars series of text.
    Example:
        >>> import polars as pl
        >>> spellings(pl.Series(["Yes", "yes", "Yes", "YES", None]))
        {'yes': 'Yes'}
    """
    counts = cells.drop_nulls().value_counts().rows()
    best: dict[str, tuple[int, str]] = {}
    for name, count in sorted(counts, key=lambda one: (-one[1], one[0])):
        best.setdefault(folded(name), (count, name))
    return {key: name for key, (_, name) in best.items()}


def ordered_levels(names: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """Names in the order of their numbers: by size where they are numbers, by a known scale, else by the alphabet.

    Returns:
        The levels, and whether their order has a meaning.
    Example:
        >>> ordered_levels(["10", "9"]), ordered_levels(["high", "low"]), ordered_levels(["oslo", "Bergen"])
        ((('9', '10'), True), (('low', 'high'), True), (('Bergen', 'oslo'), False))
    """
    names = sorted(names, key=lambda name: (folded(name), name))
    try:
        return tuple(sorted(names, key=float)), True
    except ValueError:
        pass
    keys = [folded(name) for name in names]
    for scale in _SCALES:
        if set(keys) <= set(scale):
            return tuple(sorted(names, key=lambda name: scale.index(folded(name)))), True
    return tuple(names), False


def kind_of_names(cells: Any, known: Mapping[str, str]) -> ColumnKind:
    """What a column of text is.

    Free text has four words or more, or 60 letters, on average, and seldom repeats. What hardly repeats otherwise
    identifies the rows, and so does what is written as a UUID or a digest.

    Args:
        cells: a polars series of text with two different names at least.
        known: its spellings.
    """
    total, different = int(cells.count()), len(known)
    sample = cells.drop_nulls().head(1_000).to_list()
    words = sum(len(cell.split()) for cell in sample) / len(sample)
    length = sum(map(len, sample)) / len(sample)
    free = words >= _WORDS or length > _LONG
    if different > 2 and all(map(_ID.fullmatch, sample)):
        return ColumnKind.IDENTIFIER
    every_row = different == total and (different >= 5 or free)
    if every_row or (different > _MANY and 2 * different > total):
        return ColumnKind.TEXT if free else ColumnKind.IDENTIFIER
    if free and words >= 1.5 * _WORDS and different > 2 * _MANY:
        return ColumnKind.TEXT
    if different > MOST_LEVELS:
        return ColumnKind.TEXT if free else ColumnKind.IDENTIFIER
    return ColumnKind.BINARY if different == 2 else ColumnKind.CATEGORY
