"""Storage of rows that are fetched item by item: a torch map-style ``Dataset``, or another sequence."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.not_arrays import dict_item
from elbowroom.data.pictures.decoding import is_picture, item_pixels
from elbowroom.data.storage import as_tensor, digest_of_some, plain
from elbowroom.errors import ElbowroomError

__all__ = ["MapStyle", "item_parts"]


class MapStyle:
    """A torch map-style ``Dataset``, or another sequence, fetched item by item: items are x or (x, …)."""

    in_memory = False
    surveyed_whole = False
    device = torch.device("cpu")

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset
        self.name = name
        first = self._item(0)
        self.event_shape = tuple(first.shape)
        self.dtype = first.dtype

    def __len__(self) -> int:
        return len(self.dataset)

    def gather(self, rows: Tensor) -> Tensor:
        items = [self._item(row) for row in rows.tolist()]
        for row, item in zip(rows.tolist(), items, strict=True):
            if tuple(item.shape) != self.event_shape:
                raise ElbowroomError(
                    f"Item {row} of {self.name} has shape {tuple(item.shape)}, but item 0 has {self.event_shape}.",
                    "Let the Dataset return x of one shape.",
                )
        return torch.stack(items)

    def _item(self, row: int) -> Tensor:
        try:
            return item_parts(self.dataset[row], self.name)[0]
        except IndexError as fault:
            raise ElbowroomError(
                f"{self.name} has {len(self):,} rows by its own account, but row {row} raised an IndexError ({fault}).",
                "Let its __len__ return how many rows there are.",
            ) from fault

    def fingerprint(self) -> str:
        return digest_of_some(self, f"{len(self)} {self.event_shape} {self.dtype}")

    def to(self, device: torch.device) -> MapStyle:
        return self


def item_parts(item: Any, name: str = "the data", *, source: str = "rows") -> tuple[Tensor, Any]:
    """An item of a Dataset, x or (x, label, …), as (x, label or None).

    A list of numbers, or of lists of numbers, and a tuple of more than two numbers are x itself. An image of PIL stands
    for its grey values or colours.

    Args:
        item: what the Dataset returned.
        name: of the Dataset, for messages.
        source: how items are fetched, as in :func:`elbowroom.data.not_arrays.dict_item`.
    """
    x, label = item, None
    if isinstance(item, (tuple, list)) and len(item) and not _is_row(item):
        x, label = item[0], item[1] if len(item) > 1 else None
    if isinstance(x, Mapping):
        raise dict_item(x, name, source=source)
    if isinstance(x, Tensor):
        x = plain(x, f"an item of {name}")
    else:
        try:
            values = item_pixels(x) if is_picture(x) else _unmasked(x)
        except (ValueError, TypeError, RuntimeError) as fault:
            raise _no_item(x, name) from fault
        if values.dtype == object:
            raise _no_item(x, name)
        x = as_tensor(values, f"an item of {name}")
    return x if x.dim() else x[None], label


def _no_item(x: Any, name: str) -> ElbowroomError:
    return ElbowroomError(
        f"The items of {name} are of type {type(x).__name__}, but x is an array or a number.",
        "Let it return x as an array, or (x, label).",
    )


def _is_row(item: Any) -> bool:
    """Whether a list or tuple is x itself, and not x with what belongs to it."""
    if isinstance(item, list) and all(isinstance(part, list) for part in item):
        return all(map(_is_row, item))
    return all(isinstance(value, Real) for value in item) and (isinstance(item, list) or len(item) > 2)


def _unmasked(x: Any) -> npt.NDArray[Any]:
    """An array; NaN where a masked one is masked."""
    if isinstance(x, np.ma.MaskedArray):
        hidden, values = np.ma.getmaskarray(x), np.ma.getdata(x)
        return np.where(hidden, np.float32("nan"), values.astype(np.promote_types(values.dtype, np.float32)))
    return np.asarray(x)
