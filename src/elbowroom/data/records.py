"""Structured arrays, whose rows have named fields, as data frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.errors import ElbowroomError

__all__ = ["Records", "is_records"]


def is_records(source: Any) -> bool:
    """Whether a source is a structured array of numpy."""
    return isinstance(source, np.ndarray) and source.dtype.names is not None


class Records:
    """A structured array as a data frame: its fields are the columns.

    Args:
        array: rows, masked or not.
        name: for messages.
    Raises:
        ElbowroomError: a field that is an array.
    Example:
        >>> people = np.array([(170.0, 70), (180.0, 80)], dtype=[("height", "f8"), ("weight", "i4")])
        >>> frame = Records(people)
        >>> frame.columns, frame["weight"].to_numpy()
        (['height', 'weight'], array([70, 80], dtype=int32))
    """

    def __init__(self, array: npt.NDArray[Any], name: str = "the array") -> None:
        self.array = array.reshape(-1)
        self.columns = list(array.dtype.names or ())
        for field in self.columns:
            kind = array.dtype[field]
            if kind.shape or kind.names:
                raise ElbowroomError(
                    f"The field '{field}' of {name} holds {f'rows of shape {kind.shape}' if kind.shape else 'fields'}, "
                    "but a column holds one number for each row.",
                    f"Give that field alone: data['{field}'].",
                )

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, column: str) -> _Field:
        return _Field(self.array[column])

    @property
    def masked(self) -> bool:
        """Whether an element is missing, by the mask of a masked array."""
        return any(bool(np.ma.getmaskarray(self.array[field]).any()) for field in self.columns)

    def to_numpy(self) -> npt.NDArray[Any]:
        """The structured array."""
        return self.array


class _Field:
    """A column of records; NaN where a masked array is masked."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values

    def to_numpy(self) -> npt.NDArray[Any]:
        values = self.values
        if isinstance(values, np.ma.MaskedArray):
            hidden = np.ma.getmaskarray(values)
            values = np.ma.getdata(values)
            if hidden.any() and values.dtype.kind in "biuf":
                return np.where(hidden, np.nan, values)
        return np.char.decode(values) if values.dtype.kind == "S" else values
