"""Reading arrays and data sets from Python: numpy, torch, sparse and masked arrays, lists, map-style data sets."""

from __future__ import annotations

import array
import math
from collections import deque
from datetime import date
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from elbowroom.data.images import PictureOptions, holds_pictures, picture_list
from elbowroom.data.map_style import MapStyle, item_parts
from elbowroom.data.not_arrays import check_not_names, check_not_records, check_source, ragged
from elbowroom.data.pictures.decoding import is_picture
from elbowroom.data.storage import (
    SCAN_ROWS,
    InMemory,
    Material,
    MemoryMapped,
    as_tensor,
    check_dense,
    check_shape,
    plain,
    with_missing,
)
from elbowroom.errors import ElbowroomError

__all__ = ["array_material", "dataset_material", "dense_array", "is_sequence"]

_LISTS = (list, tuple, range, deque, array.array, memoryview)  # which numpy reads as they are, and which end


def array_material(source: Any, pictures: PictureOptions | None = None) -> Material:
    """The rows of an array, a tensor, a sparse or masked array or a list; a memory-mapped array stays on the disk.

    Args:
        source: the rows.
        pictures: how a list of images of PIL is read.
    Raises:
        ElbowroomError: no rows, rows of different lengths, values that are not numbers, or something else than rows.
    """
    if isinstance(source, np.memmap):
        check_shape(source.shape, "the array")
        return Material(name="the array", storage=MemoryMapped(source))
    check_source(source)
    if holds_pictures(source):
        return picture_list(source, pictures)
    if _holds_pairs(source):
        return dataset_material(source)
    tensor, observed = _rows(source)
    masked = observed is not None and not bool(observed.all())
    if observed is not None and masked:
        masked = not bool(tensor[observed].isnan().any())  # NaN elsewhere is what it is in any array
        tensor = with_missing(tensor, observed)
    return Material(name="the array", storage=InMemory(tensor), masked=masked)


def is_sequence(source: Any) -> bool:
    """Whether something has rows by position and a length, as a map-style ``Dataset`` does, but is no array or list."""
    if isinstance(source, (*_LISTS, Tensor, str, bytes, bytearray, type)):
        return False
    array_like = any(hasattr(source, name) for name in ("__array__", "__array_interface__", "toarray", "to_numpy"))
    sparse = hasattr(source, "todense") or hasattr(source, "keys")
    return hasattr(source, "__len__") and hasattr(source, "__getitem__") and not (array_like or sparse)


def dataset_material(dataset: Any) -> Material:
    """The rows of a map-style Dataset; a TensorDataset is read as tensors, which is a hundred times as fast."""
    name = f"the {type(dataset).__name__}"
    if isinstance(dataset, TensorDataset):
        x, *others = dataset.tensors
        label = others[0] if others and others[0].dim() == 1 and not others[0].is_floating_point() else None
        return Material(name=name, storage=InMemory(_rows(x)[0]), labels=None if label is None else label.long())
    if not hasattr(dataset, "__len__"):
        raise ElbowroomError(f"{name} has no length, but rows are chosen by position.", "Make it an IterableDataset.")
    total = len(dataset)
    check_shape((total,), name)
    return Material(name=name, storage=MapStyle(dataset, name), labels=_item_labels(dataset, total))


def _item_labels(dataset: Any, total: int) -> Tensor | None:
    targets = getattr(dataset, "targets", None)  # torchvision's habit
    if targets is None:
        if not isinstance(_as_label(item_parts(dataset[0])[1]), int) or total > SCAN_ROWS:
            return None
        targets = [_as_label(item_parts(dataset[row])[1]) for row in range(total)]
    labels = torch.as_tensor(targets)
    return labels.long() if labels.shape == (total,) and not labels.is_floating_point() else None


def _as_label(label: Any) -> Any:
    """An int where a label is one, be it written as a Python, numpy or torch number."""
    whole = isinstance(label, (int, np.integer)) or (
        isinstance(label, Tensor) and label.dim() == 0 and not label.is_floating_point()
    )
    return int(label) if whole else label


def _holds_pairs(source: Any) -> bool:
    """Whether a list holds items (x, label, …), as a ``Dataset`` returns them, where x is an array or a picture."""
    if not isinstance(source, (list, tuple)) or not source or not isinstance(source[0], (list, tuple)):
        return False
    first = source[0]
    arrays = len(first) > 1 and (is_picture(first[0]) or len(getattr(first[0], "shape", ())) > 0)
    return arrays and len(getattr(first[1], "shape", ())) == 0


def _rows(source: Any) -> tuple[Tensor, Tensor | None]:
    """An array or tensor as rows, a plain vector as rows of one element; and which elements were observed, if known."""
    observed: Tensor | None = None
    if hasattr(source, "get_data") and hasattr(source, "get_mask"):  # torch's MaskedTensor
        observed, source = source.get_mask(), source.get_data()
    if isinstance(source, (list, tuple)) and len(source):
        source = _joined(source)
    if isinstance(source, Tensor):
        tensor = plain(source, "the tensor")
    else:
        found = _array(source)
        if isinstance(found, np.ma.MaskedArray):
            observed = torch.from_numpy(~np.ma.getmaskarray(found))
            found = np.ma.getdata(found)
        tensor = as_tensor(found, "the array")
    check_shape(tuple(tensor.shape), "the array")
    shape = tensor.shape if tensor.dim() > 1 else (len(tensor), 1)
    return tensor.reshape(shape), None if observed is None else observed.reshape(shape)


def _joined(rows: Any) -> Any:
    """A list of tensors or of masked arrays as one; other lists as they are."""
    if all(isinstance(row, Tensor) for row in rows):
        if len({row.shape for row in rows}) > 1:
            raise ragged(rows)
        return torch.stack([plain(row, f"row {at}") for at, row in enumerate(rows)])
    if any(isinstance(row, np.ma.MaskedArray) for row in rows):  # a plain stack forgets what is masked
        if len({np.shape(row) for row in rows}) > 1:
            raise ragged(rows)
        return np.ma.stack(rows)
    check_not_records(rows)
    check_not_names(rows)
    return rows


def _array(source: Any) -> npt.NDArray[Any]:
    if isinstance(source, np.ma.MaskedArray):
        return source if source.dtype != object else np.ma.MaskedArray(_from_objects(source.data), source.mask)
    try:
        found = np.asarray(dense_array(source))
    except (ValueError, TypeError, RuntimeError) as fault:
        if isinstance(fault, ValueError) and isinstance(source, (list, tuple)):
            raise ragged(source, fault) from fault
        raise ElbowroomError(
            f"The data, a {type(source).__name__}, cannot be made an array ({str(fault).splitlines()[0].rstrip('.')}).",
            "Give a numpy array or a torch tensor of shape (n, ...).",
        ) from fault
    return _from_objects(found, type(source).__name__) if found.dtype == object else found


def dense_array(source: Any) -> Any:
    """A sparse matrix (scipy, pydata) or a series as a dense array, where it is not too large; others unchanged."""
    write_out = getattr(source, "toarray", None) or getattr(source, "todense", None)
    if write_out is not None and hasattr(source, "nnz"):
        check_dense(math.prod(source.shape), tuple(source.shape), "x.toarray()")
        return write_out()
    return source.to_numpy() if hasattr(source, "to_numpy") else source


def _from_objects(found: npt.NDArray[Any], kind: str = "array") -> npt.NDArray[Any]:
    """An array of Python objects as numbers, where they are numbers or arrays of one shape; None is NaN."""
    values = found.reshape(-1).tolist()
    if found.ndim == 0:
        raise ElbowroomError(
            f"The data are a {kind}, which is not an array of rows.", "Give an array of shape (n, ...)."
        )
    if all(value is None or isinstance(value, (Real, Decimal, np.bool_)) or str(value) == "<NA>" for value in values):
        numbers = [np.nan if value is None or str(value) == "<NA>" else float(value) for value in values]
        return np.array(numbers, dtype=np.float64).reshape(found.shape)
    if all(len(getattr(value, "shape", ())) > 0 or isinstance(value, (list, tuple)) for value in values):
        rows = [np.asarray(value) for value in values]
        if len({row.shape for row in rows}) > 1:
            raise ragged(rows)
        return np.stack(rows).reshape(*found.shape, *rows[0].shape)
    if all(isinstance(value, date) for value in values):
        return np.array(values, dtype="M8[s]").reshape(found.shape)
    check_not_records(values)
    check_not_names(values)
    return found
