"""Reading arrays and data sets from Python: numpy, torch, sparse matrices, lists of rows, map-style ``Dataset``s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from elbowroom.data.storage import (
    SCAN_ROWS,
    InMemory,
    MapStyle,
    Material,
    MemoryMapped,
    as_tensor,
    check_shape,
    item_parts,
    plain,
)
from elbowroom.errors import ElbowroomError

__all__ = ["array_material", "dataset_material"]

_MOST_DENSE = 1_000_000_000  # elements of a sparse matrix that is converted to a dense one


def array_material(source: Any) -> Material:
    """The rows of an array, a tensor, a sparse matrix or a list; a memory-mapped array stays on the disk.

    Raises:
        ElbowroomError: no rows, rows of different lengths, or values that are not numbers.
    """
    if isinstance(source, np.memmap):
        check_shape(source.shape, "the array")
        return Material(name="the array", storage=MemoryMapped(source))
    return Material(name="the array", storage=InMemory(_rows(source)))


def dataset_material(dataset: Dataset[Any]) -> Material:
    """The rows of a map-style Dataset; a TensorDataset is read as tensors, which is a hundred times as fast."""
    name = f"the {type(dataset).__name__}"
    if isinstance(dataset, TensorDataset):
        x, *others = dataset.tensors
        label = others[0] if others and others[0].dim() == 1 and not others[0].is_floating_point() else None
        return Material(name=name, storage=InMemory(_rows(x)), labels=None if label is None else label.long())
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


def _rows(source: Any) -> Tensor:
    """An array or tensor as rows; a plain vector as rows of one element."""
    if isinstance(source, Tensor):
        tensor = plain(source)
    elif isinstance(source, Mapping):
        raise ElbowroomError(
            f"The data are a dict of {', '.join(str(key) for key in list(source)[:5]) or 'nothing'}, but one array of "
            "rows is expected.",
            "Give one of its values, and others as labels= or context=.",
        )
    else:
        tensor = as_tensor(_array(source), "the array")
    check_shape(tuple(tensor.shape), "the array")
    return tensor if tensor.dim() > 1 else tensor[:, None]


def _array(source: Any) -> npt.NDArray[Any]:
    if hasattr(source, "toarray") and hasattr(source, "nnz"):  # scipy's sparse matrices
        if math.prod(source.shape) >= _MOST_DENSE:
            raise ElbowroomError(
                f"The data are a sparse matrix of shape {tuple(source.shape)}, which is too large to be made dense.",
                "Take fewer columns and give x.toarray(), or give a Dataset that makes each row dense.",
            )
        source = source.toarray()
    try:
        return np.asarray(source.to_numpy() if hasattr(source, "to_numpy") else source)
    except ValueError as fault:
        raise ElbowroomError(
            f"The data are not an array of rows of one shape ({str(fault).splitlines()[0].rstrip('.')}).",
            "Give every row the same number of elements, and NaN with --data.missing mask where one is missing.",
        ) from fault
