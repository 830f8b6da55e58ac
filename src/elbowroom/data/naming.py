"""Names of columns, covariates and elements: what a trained run knows its data by.

Data that are given to a run later are matched to those it was trained on by these names. Arrays and tables without a
header have none, and are taken by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elbowroom.data.columns.column import Column
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = [
    "Covariate",
    "Naming",
    "check_distinct",
    "described",
    "element_name",
    "has_names",
    "listed",
    "matched_columns",
]

_MOST = 10  # names in a message


@dataclass(frozen=True)
class Covariate:
    """One column of the context.

    Attributes:
        name: of the column; ``labels`` where class labels are the context; empty in an array without names.
        levels: the classes, one-hot in this order; None for a real number.
        also: another name for the same column: that of the table's column of labels.
    """

    name: str
    levels: tuple[str, ...] | None = None
    also: str | None = None

    @property
    def width(self) -> int:
        """How many numbers of the context it takes."""
        return 1 if self.levels is None else len(self.levels)

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it answers to."""
        return tuple(name for name in (self.name, self.also) if name)

    def __str__(self) -> str:
        return self.name if self.levels is None else f"{self.name} ({listed(self.levels)})"


@dataclass(frozen=True)
class Naming:
    """The names in the data of a trained run.

    Attributes:
        columns: of the elements of x, in their order; None where they have no names.
        covariates: the columns of the context, in their order; empty where there is no context.
        labels: the column of a table that holds class labels.
        id: the column of a table that identifies its rows.
        kinds: of a table with columns of several kinds, what is known about those of x; else None.
        aside: columns of that table that are set aside.
        dropped: columns that were left out on request.
        captions: how pictures got captions, where these are the context (:meth:`.captions.Captioner.record`).
    """

    columns: tuple[str, ...] | None = None
    covariates: tuple[Covariate, ...] = ()
    labels: str | None = None
    id: str | None = None
    kinds: tuple[Column, ...] | None = None
    aside: tuple[Column, ...] = ()
    dropped: tuple[str, ...] = ()
    captions: Mapping[str, Any] | None = None

    @property
    def unused(self) -> set[str]:
        """The columns that the training data may have had, and that x has no part in: set aside or left out."""
        return {column.name for column in self.aside} | {*self.dropped}

    @property
    def beside(self) -> set[str]:
        """The columns of a table that are not part of x."""
        return {name for one in self.covariates for name in one.names} | {
            name for name in (self.labels, self.id) if name is not None
        }


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first ten of them.

    Example:
        >>> listed(["ox", "pig"]), listed([str(number) for number in range(12)])
        ('ox, pig', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …')
    """
    return ", ".join(names[:_MOST]) + (", …" if len(names) > _MOST else "")


def described(covariates: Sequence[Covariate]) -> str:
    """The covariates in words, for a message.

    Example:
        >>> described([Covariate("kind", ("hen", "ox")), Covariate("weight")]), described([Covariate("")] * 3)
        ('kind (hen, ox) and weight', '3 covariates')
    """
    if not covariates[0].name:
        return "one covariate" if len(covariates) == 1 else f"{len(covariates)} covariates"
    return " and ".join(str(one) for one in covariates)


def has_names(columns: Sequence[object]) -> bool:
    """Whether the columns of a table have names of their own: those of a table without a header are numbered.

    Example:
        >>> has_names(["age", "size"]), has_names(["column_0", "column_1"]), has_names([0, 1])
        (True, False, False)
    """
    places = range(len(columns))
    numbered = ([f"column_{at + first}" for at in places] for first in (0, 1))  # of polars 2 and 1
    return list(columns) not in (*numbered, list(places))


def check_distinct(columns: Sequence[str], name: str) -> None:
    """Refuse a table in which two columns have the same name.

    Args:
        columns: their names; the second ``a`` of a file is read as ``a_duplicated_0``.
        name: of the table, for the message.
    Raises:
        ElbowroomError: names the first such column.
    """
    seen: set[str] = set()
    for column in columns:
        original = column.rsplit("_duplicated_", 1)[0]
        if column in seen or (original != column and original in seen):
            raise ElbowroomError(
                f"{name} has more than one column named '{original}', but columns are told apart by their names.",
                "Rename one of them.",
            )
        seen.add(column)


def matched_columns(found: Sequence[str], known: Sequence[str], name: str) -> list[str]:
    """The columns of a table in the order of training.

    Args:
        found: the table's columns, without those that are set aside.
        known: the columns of x in training, in their order.
        name: of the table, for the message.
    Raises:
        ElbowroomError: columns that are missing, or that training did not have.
    Example:
        >>> matched_columns(["size", "age"], ["age", "size"], "people.csv")
        ['age', 'size']
        >>> matched_columns(["aeg", "size"], ["age", "size"], "people.csv")
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: people.csv has no column 'age', which the model was trained on, but a column \
'aeg', which it was not.
          If 'aeg' is 'age', rename it.
    """
    missing = [column for column in known if column not in found]
    extra = [column for column in found if column not in known]
    if not missing and not extra:
        return list(known)
    if not missing:
        raise ElbowroomError(
            f"{name} has the {_columns(extra)} besides those that the model was trained on ({listed(known)}).",
            f"Take {'it' if len(extra) == 1 else 'them'} out, or train a model with "
            f"{'that column' if len(extra) == 1 else 'those columns'}.",
        )
    problem = f"{name} has no {_columns(missing)}, which the model was trained on"
    if extra:
        problem += f", but a {_columns(extra)}, which it was not" if len(extra) == 1 else (
            f", but the {_columns(extra)}, which it was not"
        )  # fmt: skip
    likely = [(one, near) for one in missing if (near := _nearest(one, extra)) is not None]
    if not likely and len(missing) == len(extra) == 1:
        likely = [(missing[0], extra[0])]
    if likely:
        remedy = " ".join(f"If '{near}' is '{one}', rename it." for one, near in likely)
    else:
        remedy = f"Give a table with all columns of the training data: {', '.join(known)}."
    raise ElbowroomError(f"{problem}.", remedy)


def _columns(names: Sequence[str]) -> str:
    quoted = listed([f"'{name}'" for name in names])
    return f"column {quoted}" if len(names) == 1 else f"columns {quoted}"


def _nearest(name: str, options: Sequence[str]) -> str | None:
    suggestion = did_you_mean(name, options) if options else ""
    return suggestion.removeprefix("Did you mean '").removesuffix("'?") if suggestion.startswith("Did") else None


def element_name(columns: Sequence[str] | None, event_shape: Sequence[int], index: int) -> str:
    """What messages and axes call an element of x.

    Args:
        columns: the names of the elements, or None.
        event_shape: the shape of one example.
        index: of the element, counted through the flattened example.
    Returns:
        The column's name, or ``x[1]``, or of a picture ``x[3, 4]``.
    Example:
        >>> element_name(("age", "income"), (2,), 1), element_name(None, (2,), 1), element_name(None, (8, 8), 28)
        ('income', 'x[1]', 'x[3, 4]')
    """
    if columns is not None and len(columns) == math.prod(event_shape):
        return columns[index]
    places = []
    for size in reversed(event_shape):
        index, place = divmod(index, size)
        places.append(str(place))
    return f"x[{', '.join(reversed(places))}]"
