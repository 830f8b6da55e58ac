"""Support: the values that an element of x can take. Data and likelihoods declare theirs, and the two must agree."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Support"]


class Support(StrEnum):
    """The set that every element of x lies in; of a table with columns of several kinds, each element has its own."""

    BINARY = "binary"  #: 0 or 1
    UNIT_INTERVAL = "unit-interval"  #: [0, 1], grey pixels
    BYTES = "bytes"  #: integers 0..255
    COUNTS = "counts"  #: integers 0, 1, 2, …
    CATEGORIES = "categories"  #: integers 0..C−1 that name, not measure
    REALS = "reals"  #: any finite number
    TABLE = "table"  #: in each column what its kind says

    @property
    def description(self) -> str:
        """In words, for messages and tables."""
        return {
            Support.BINARY: "0 or 1",
            Support.UNIT_INTERVAL: "numbers between 0 and 1",
            Support.BYTES: "integers 0..255",
            Support.COUNTS: "counts 0, 1, 2, …",
            Support.CATEGORIES: "category numbers 0, 1, …, C−1",
            Support.REALS: "real numbers",
            Support.TABLE: "columns of several kinds",
        }[self]
