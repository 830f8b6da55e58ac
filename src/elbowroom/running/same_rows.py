"""Recognising the rows that a run was trained on, in whatever form they are given again.

A digest depends on the type of the numbers and on where they lie: an array of float64 has another than the same numbers
as float32, as a list, as a ``Dataset`` or as a memory-mapped file. Where the digest differs, the rows are converted to
each form in which they could have been, if that loses nothing, and the digests of these are compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.map_style import MapStyle
from elbowroom.data.storage import InMemory, MemoryMapped, Storage, content_digest
from elbowroom.memory import available_memory

__all__ = ["as_recorded"]

_TYPES = (
    torch.float64,
    torch.float32,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.float16,
    torch.int16,
    torch.int8,
)

_MAPPED = ("?", "<u2", "<u4", "<u8", ">u2", ">u4", ">i2", ">i4", ">i8", ">f4", ">f8")
"""Types that torch does not have, or in another order of bytes: a file can lie so."""


def as_recorded(storage: Storage, recorded: Mapping[str, Any]) -> Storage:
    """The rows in the form whose digest was recorded.

    Args:
        storage: the rows that are given now.
        recorded: ``sha256`` and ``sha256_of_rows`` of those of the training, as `content_digest` gives them.
    Returns:
        The same rows in another form; the storage itself where it has that digest, or where no form of it does, or
        where they are too many to be converted in memory.
    Example:
        >>> rows = torch.rand(3, 2)
        >>> then = content_digest(InMemory(rows))
        >>> as_recorded(InMemory(rows.double()), then).dtype, as_recorded(InMemory(rows + 1), then).dtype
        (torch.float32, torch.float32)
    """
    now = content_digest(storage)
    wanted = recorded.get("sha256") or str(recorded.get("sha256_of_rows") or "").split(" ")[0]
    known = not wanted or all(recorded.get(key) == value for key, value in now.items())
    free = available_memory()
    if known or (free is not None and 3 * 8 * len(storage) * math.prod(storage.event_shape) > free):
        return storage
    return next((form for form in _forms(storage) if form.fingerprint() == wanted), storage)


def _forms(storage: Storage) -> Iterator[Storage]:
    """The rows in every type that holds them exactly, in memory, memory-mapped and as a ``Dataset``."""
    rows = storage.gather(torch.arange(len(storage))).cpu()
    for dtype in _TYPES:
        converted = rows.to(dtype)
        if _equal(converted, rows):
            yield from (InMemory(converted), MemoryMapped(converted.numpy()), MapStyle(converted, "the Dataset"))
    for name in _MAPPED:
        with np.errstate(invalid="ignore"):
            array = rows.numpy().astype(name)
        if _equal(torch.from_numpy(array.astype(np.float64)), rows) and not (
            array.dtype.kind == "u" and int(array.max()) >= 2**63
        ):
            yield MemoryMapped(array)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are the same, as float64; NaN is the same as NaN."""
    one, other = one.double(), other.double()
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
