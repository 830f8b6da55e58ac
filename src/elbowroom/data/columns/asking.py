"""Kinds that the user asks for: ``age:count, grade:ordinal(low<mid<high), when:date(%d.%m.%y), notes:drop``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from elbowroom.data.columns.column import ColumnKind
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["Asked", "check_there", "parse_columns"]

_AUTO, _DROP = "auto", "drop"
_KINDS = (*(str(kind) for kind in ColumnKind if kind is not ColumnKind.CONSTANT), _DROP)
_COMMA = re.compile(r",(?![^()]*\))")  # outside brackets
_FORM = re.compile(r"(?P<kind>[^()]*)(?:\((?P<more>.*)\))?")


@dataclass(frozen=True)
class Asked:
    """What is asked of the columns of a table.

    Attributes:
        kinds: of columns, by name.
        orders: levels of ordinal columns, from the least to the greatest, by name.
        formats: of dates, by name.
        dropped: columns that are left out.
        mixed: whether kinds are asked for at all, be it that all are to be found.
    """

    kinds: Mapping[str, ColumnKind]
    orders: Mapping[str, tuple[str, ...]]
    formats: Mapping[str, str]
    dropped: tuple[str, ...] = ()
    mixed: bool = False


def parse_columns(given: Sequence[str] | str | Mapping[str, str] | None, drop: Iterable[str] = ()) -> Asked:
    """What ``--data.columns`` and ``--data.drop`` say.

    Args:
        given: ``auto``; or a kind for some columns, as ``name:kind`` or as a mapping. An ordinal may list its levels
            from the least to the greatest, ``grade:ordinal(low<mid<high)``, and a date its format, as of
            `datetime.strptime`: ``when:date(%d.%m.%y)``.
        drop: columns that are left out.
    Raises:
        ElbowroomError: no kind, an unknown one, or two for one column.
    Example:
        >>> asked = parse_columns("age:count,grade:ordinal(low<high),notes:drop", ["row"])
        >>> dict(asked.kinds), asked.orders, asked.dropped
        ({'age': <ColumnKind.COUNT: 'count'>, 'grade': <ColumnKind.ORDINAL: 'ordinal'>}, {'grade': ('low', 'high')}, \
('row', 'notes'))
    """
    kinds: dict[str, ColumnKind] = {}
    orders: dict[str, tuple[str, ...]] = {}
    formats: dict[str, str] = {}
    dropped = list(drop)
    for column, said in _pairs(given):
        found = _FORM.fullmatch(said.strip())
        kind, more = (said, None) if found is None else (found["kind"].strip().lower(), found["more"])
        if kind not in _KINDS:
            raise ElbowroomError(f"--data.columns asks for the kind '{said}' of column '{column}'.", _kind(kind))
        if column in kinds or column in dropped:
            raise ElbowroomError(f"--data.columns says more than once what '{column}' is.", "Say it once.")
        if kind == _DROP:
            dropped.append(column)
            continue
        kinds[column] = ColumnKind(kind)
        if more is None or not more.strip():
            continue
        if kind == ColumnKind.ORDINAL:
            orders[column] = tuple(level.strip() for level in more.split("<"))
        elif kind == ColumnKind.DATE:
            formats[column] = more.strip()
        else:
            raise ElbowroomError(
                f"--data.columns says '{said}' of column '{column}', but only an ordinal lists its levels and only a "
                "date its format.",
                f"Leave ({more}) out.",
            )
    return Asked(kinds, orders, formats, tuple(dict.fromkeys(dropped)), given is not None and len(given) > 0)


def _kind(given: str) -> str:
    return did_you_mean(given, _KINDS)


def _pairs(given: Sequence[str] | str | Mapping[str, str] | None) -> list[tuple[str, str]]:
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [(str(column), str(kind)) for column, kind in given.items()]
    parts = [part.strip() for one in ([given] if isinstance(given, str) else given) for part in _COMMA.split(str(one))]
    pairs = []
    for part in filter(None, parts):
        if part == _AUTO:
            continue
        column, colon, kind = _split(part)
        if not colon:
            raise ElbowroomError(
                f"--data.columns says '{part}', but the kind of a column is given as NAME:KIND.",
                f"Write for instance {part}:category, or auto to have all kinds found.",
            )
        pairs.append((column, kind))
    return pairs


def _split(part: str) -> tuple[str, str, str]:
    """Name and kind; a format of dates may hold colons, as a name may."""
    before, bracket, more = part.partition("(")
    column, colon, kind = before.rpartition(":")
    return column.strip(), colon, f"{kind}{bracket}{more}"


def check_there(asked: Asked, columns: Sequence[str], name: str, *, other_roles: Collection[str] = ()) -> None:
    """Refuse what is asked of columns that a table does not have, or that are no part of x.

    Args:
        asked: of the columns.
        columns: of the table, those set aside for other roles too.
        name: of the table.
        other_roles: the columns that are context, labels or identifiers.
    Raises:
        ElbowroomError: names the column and, if there is none, the nearest one.
    """
    for column in (*asked.kinds, *asked.dropped):
        if column in other_roles:
            raise ElbowroomError(
                f"--data.columns or --data.drop names column '{column}', which is no part of x: it is the context, the "
                "labels or the identifiers.",
                "Leave it out there, or do not set the column aside.",
            )
        if column not in columns:
            raise ElbowroomError(
                f"--data.columns or --data.drop names column '{column}', which {name} does not have.",
                did_you_mean(column, columns),
            )
