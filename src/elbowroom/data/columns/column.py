"""One column of a table: its kind, the values it can take, and what its density has to know about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Column", "ColumnKind"]


class ColumnKind(StrEnum):
    """What the values of a column are; columns of the last three kinds are set aside and are no part of x."""

    REAL = "real"  #: any number
    POSITIVE = "positive"  #: a number above 0, or from 0 if zeros are an atom
    PROPORTION = "proportion"  #: a number strictly between 0 and 1
    COUNT = "count"  #: a whole number 0, 1, 2, …
    BINARY = "binary"  #: one of two names
    ORDINAL = "ordinal"  #: one of several names that have an order
    CATEGORY = "category"  #: one of several names
    DATE = "date"  #: a day or an instant, kept as days since 1970-01-01
    CONSTANT = "constant"  #: one value only
    IDENTIFIER = "identifier"  #: another name in nearly every row
    TEXT = "text"  #: free text

    @property
    def is_modelled(self) -> bool:
        """Whether such a column is part of x."""
        return self not in (ColumnKind.CONSTANT, ColumnKind.IDENTIFIER, ColumnKind.TEXT)

    @property
    def has_levels(self) -> bool:
        """Whether x holds the number of a level, from 0, in place of a value."""
        return self in (ColumnKind.BINARY, ColumnKind.ORDINAL, ColumnKind.CATEGORY)


@dataclass(frozen=True)
class Column:
    """What is known about a column. Kind, levels and form come from reading it, the rest from the training rows.

    In x a value is a float: the number of its level where there are levels, days where it is a date, otherwise itself;
    NaN where it is missing.

    Attributes:
        name: as in the file.
        kind: of its values.
        levels: of a binary, ordinal or category column: the names, in the order of their numbers.
        date_format: of a date: as of `datetime.strptime`; None: ISO 8601.
        step: the grid that values lie on, 0.1 if they are written with one decimal; 0 if there is none.
        cells: the distinct values, ascending, where they are so few that only the probability of the cell between the
            midpoints of neighbours is honest (a density would have no bound); empty otherwise.
        atom: a value that has a probability of its own beside a density; None if there is none.
        shift: mean of the training values, on the axis of their density (logarithms where they are positive).
        unit: their standard deviation, on the same axis.
    """

    name: str
    kind: ColumnKind
    levels: tuple[str, ...] = ()
    date_format: str | None = None
    step: float = 0.0
    cells: tuple[float, ...] = ()
    atom: float | None = None
    shift: float = 0.0
    unit: float = 1.0

    @property
    def is_probability(self) -> bool:
        """Whether log p of a value is that of a probability; otherwise of a density in the column's own unit."""
        return self.kind.has_levels or self.kind is ColumnKind.COUNT or bool(self.cells)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is at its default is left out."""
        plain = {key: value for key, value in asdict(self).items() if value != getattr(type(self), key, None)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Column:
        """The inverse of `as_dict`."""
        lists = {key: tuple(value) for key, value in plain.items() if isinstance(value, list)}
        return cls(**{**plain, **lists, "kind": ColumnKind(plain["kind"])})
