"""Structured arrays, whose rows have named fields: tables in the form of numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.data.storage import Material
from elbowroom.data.tables import frame_material
from elbowroom.errors import ElbowroomError

__all__ = ["Records", "is_records", "record_material"]


def is_records(source: Any) -> bool:
    """Whether a source is a structured array."""
    return isinstance(source, np.ndarray) and source.dtype.names is not None


class Records:
    """A structured array as a data frame: ``columns``, ``frame[column]``, a length."""

    def __init__(self, array: npt.NDArray[Any], name: str) -> None:
        self.array = array.reshape(-1)
        self.columns = list(array.dtype.names or ())
        odd = next((field for field in self.columns if array.dtype[field].shape or array.dtype[field].names), None)
        if odd is not None:
            raise ElbowroomError(
                f"The field '{odd}' of {name} holds an array of shape {array.dtype[odd].shape} in each row, but a "
                "column holds one number.",
                f"Give that field alone: data['{odd}'].",
            )

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, column: str) -> _Field:
        return _Field(self.array[column])


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


def record_material(
    array: npt.NDArray[Any],
    name: str,
    *,
    context: list[str] | None = None,
    labels: str | None = None,
    labels_required: bool = True,
    levels: Mapping[str, Sequence[str]] | None = None,
) -> Material:
    """The rows of a structured array, read as those of a data frame: its fields are the columns.

    Raises:
        ElbowroomError: as :func:`~elbowroom.data.tables.frame_material`; a field that is an array.
    Example:
        >>> people = np.array([(170.0, 70.0), (180.0, 80.0)], dtype=[("height", "f8"), ("weight", "f8")])
        >>> record_material(people, "people").columns
        ('height', 'weight')
    """
    frame = Records(array, name)
    if not labels_required and labels not in frame.columns:
        labels = None
    material = frame_material(frame, name, context=context, labels=labels, levels=levels)
    return replace(material, masked=isinstance(array, np.ma.MaskedArray) and _some_masked(array))


def _some_masked(array: npt.NDArray[Any]) -> bool:
    return any(bool(np.ma.getmaskarray(array[field]).any()) for field in array.dtype.names or ())
