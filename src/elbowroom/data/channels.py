"""Pictures in arrays whose colours come last, (n, height, width, colours): that axis is moved before the other two.

Convolutions and figures expect (n, colours, height, width). An axis is moved where there is no doubt: examples have
three axes, the last has 1, 3 or 4 elements, and neither of the others is so short.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from elbowroom.data.storage import InMemory, Material, Storage

__all__ = ["ChannelsFirst", "channels_first", "colours_to_front", "has_colours_last", "moved_in_words"]

_COLOURS = (1, 3, 4)


def has_colours_last(shape: tuple[int, ...], wanted: tuple[int, ...] | None = None) -> bool:
    """Whether the last axis of an example holds its colours, and is to be moved.

    Args:
        shape: of one example.
        wanted: the shape that a trained model has; it decides where it fits.
    Example:
        >>> has_colours_last((32, 32, 3)), has_colours_last((3, 32, 32)), has_colours_last((3, 32, 3))
        (True, False, False)
        >>> has_colours_last((32, 32, 3), (32, 32, 3))
        False
    """
    if len(shape) != 3:
        return False
    height, width, colours = shape
    if wanted is not None:
        return shape != wanted and (colours, height, width) == wanted
    return colours in _COLOURS and min(height, width) > max(_COLOURS)


def colours_to_front(x: Tensor, wanted: tuple[int, ...] | None = None) -> Tensor:
    """Rows (n, height, width, colours) as (n, colours, height, width); other rows as they are."""
    return x.movedim(-1, 1).contiguous() if has_colours_last(tuple(x.shape[1:]), wanted) else x


def channels_first(material: Material, wanted: tuple[int, ...] | None = None) -> Material:
    """The same rows, with colours before height and width, and a remark if they were moved."""
    storage = material.storage
    shape = storage.event_shape
    if not has_colours_last(shape, wanted):
        return material
    moved = InMemory(storage.tensor.movedim(-1, 1)) if isinstance(storage, InMemory) else ChannelsFirst(storage)
    return replace(material, storage=moved, remarks=(*material.remarks, moved_in_words(shape)))


def moved_in_words(shape: tuple[int, ...]) -> str:
    """The remark on examples (height, width, colours) whose colours were moved.

    Example:
        >>> moved_in_words((32, 24, 3))
        'The axis of colours was moved to the front: examples of shape (32, 24, 3) are now (3, 32, 24).'
    """
    *plane, colours = shape
    now = (colours, *plane)
    return f"The axis of colours was moved to the front: examples of shape {shape} are now {now}."


class ChannelsFirst:
    """Rows outside memory whose last axis is moved to the front as they are fetched."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.dtype, self.device = storage.dtype, storage.device
        self.in_memory, self.surveyed_whole = storage.in_memory, storage.surveyed_whole
        height, width, colours = storage.event_shape
        self.event_shape = (colours, height, width)

    def __len__(self) -> int:
        return len(self.storage)

    def gather(self, rows: Tensor) -> Tensor:
        return self.storage.gather(rows).movedim(-1, 1).contiguous()

    def fingerprint(self) -> str:
        return hashlib.sha256(f"colours first: {self.storage.fingerprint()}".encode()).hexdigest()

    def to(self, device: torch.device) -> ChannelsFirst:
        return self
