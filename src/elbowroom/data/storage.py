"""Storage of rows: a tensor in memory or a memory-mapped array; :mod:`elbowroom.data.map_style` has the third.

A tensor in memory is the fastest: a batch is one ``index_select``. A memory-mapped array is never read whole. All keep
the compact type of their source; only batches are converted to floating point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.columns.column import Column
from elbowroom.data.rowfile import RowFile
from elbowroom.errors import ElbowroomError

__all__ = [
    "SCAN_ROWS",
    "InMemory",
    "Material",
    "MemoryMapped",
    "Storage",
    "as_classes",
    "as_tensor",
    "check_dense",
    "check_shape",
    "content_digest",
    "digest_of_some",
    "is_text",
    "plain",
    "scan",
    "with_missing",
]

SCAN_ROWS = 10_000  #: how many rows are scanned where scanning all of them is too slow
_DIGEST_ROWS = 1_000
_MOST_DENSE = 1_000_000_000  # elements of a sparse matrix that is converted to a dense one
_CHUNK_BYTES = 1 << 20  # as float64, a chunk of bytes still fits into the cache


class Storage(Protocol):
    """Rows of one shape that can be fetched by position."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a row."""

    @property
    def dtype(self) -> torch.dtype:
        """The type the rows are stored in."""

    @property
    def device(self) -> torch.device:
        """Where fetched rows arrive."""

    @property
    def in_memory(self) -> bool:
        """Whether every row can be read quickly."""

    @property
    def surveyed_whole(self) -> bool:
        """Whether all rows are checked when the data are loaded; otherwise batches are checked as they are fetched."""

    def __len__(self) -> int:
        """The number of rows."""

    def gather(self, rows: Tensor) -> Tensor:
        """The rows at these positions, in this order: int64 (n,) gives (n, \\*event), newly allocated."""

    def fingerprint(self) -> str:
        """SHA-256 of the content, or of an evenly spaced part of it."""

    def to(self, device: torch.device) -> Storage:
        """The same rows on another device, where the storage can move."""


class InMemory:
    """A tensor of shape (n, \\*event), on any device."""

    in_memory = True
    surveyed_whole = True

    def __init__(self, tensor: Tensor, *, fingerprint: str | None = None) -> None:
        self.tensor = tensor.detach().contiguous()
        self._fingerprint = fingerprint

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def gather(self, rows: Tensor) -> Tensor:
        return self.tensor.index_select(0, rows.to(self.tensor.device))

    def fingerprint(self) -> str:
        if self._fingerprint is None:  # 47 MB of MNIST take a fifth of a second: once is enough
            array = self.tensor.cpu().numpy()
            digest = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def to(self, device: torch.device) -> InMemory:
        return InMemory(self.tensor.to(device), fingerprint=self._fingerprint)


class MemoryMapped:
    """A memory-mapped array of shape (n, \\*event): only the rows that are asked for are read."""

    in_memory = False
    surveyed_whole = True
    device = torch.device("cpu")

    def __init__(self, array: npt.NDArray[Any], name: str = "the array") -> None:
        self.array = array if array.ndim > 1 else array[:, None]
        self.dtype = as_tensor(self.array[:0], name).dtype
        self._file = RowFile.behind(self.array)

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array, "dtype": self.dtype}  # a copy opens the file itself: a descriptor has one owner

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.array, self.dtype = state["array"], state["dtype"]
        self._file = RowFile.behind(self.array)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def gather(self, rows: Tensor) -> Tensor:
        wanted = rows.cpu().numpy()
        found = np.asarray(self.array[wanted]) if self._file is None else self._file.read(wanted)
        return as_tensor(found)

    def fingerprint(self) -> str:
        header = f"{self.array.shape} {self.array.dtype.str} {self.array.nbytes}"
        return digest_of_some(self, header)

    def to(self, device: torch.device) -> MemoryMapped:
        return self


def digest_of_some(storage: Storage, header: str) -> str:
    """SHA-256 of a header and of a thousand evenly spaced rows, for storages that are not read whole."""
    digest = hashlib.sha256(header.encode())
    for _, raw in scan(storage, most=_DIGEST_ROWS):
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def content_digest(storage: Storage) -> dict[str, str | None]:
    """The entries of a protocol that identify the content of the data.

    Returns:
        ``sha256`` of everything; or, of rows outside memory beyond the first thousand, ``sha256_of_rows`` that says
        how many evenly spaced ones it was made of, beside a ``sha256`` of None.
    """
    digest = storage.fingerprint()
    if storage.in_memory or len(storage) <= _DIGEST_ROWS:
        return {"sha256": digest}
    return {"sha256": None, "sha256_of_rows": f"{digest} of {_DIGEST_ROWS:,} evenly spaced rows"}


def scan(storage: Storage, rows: Tensor | None = None, *, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass over the rows in chunks of about 1 MiB: all rows of data in memory, some rows otherwise.

    Args:
        storage: the rows.
        rows: which of them, int64; None means all.
        most: at most so many, evenly spaced; None means all in memory and ``SCAN_ROWS`` elsewhere.
    Returns:
        Pairs (positions, rows).
    """
    total = len(storage) if rows is None else len(rows)
    most = most or (total if storage.in_memory else SCAN_ROWS)
    # floor(i n / m), i = 0..m−1: distinct, and spread over the whole
    picked = torch.arange(total) if total <= most else torch.arange(most) * total // most
    if rows is not None:
        picked = rows.cpu()[picked]
    row_bytes = max(1, int(np.prod(storage.event_shape)) * storage.dtype.itemsize)
    for part in torch.split(picked, max(1, _CHUNK_BYTES // row_bytes)):
        yield part, storage.gather(part)


_AS_NUMBERS = "Make them numbers first: one array of shape (n, ...) and one numeric type."
_CATEGORIES = "Encode it as category numbers first: numpy.unique(x, return_inverse=True)[1].reshape(numpy.shape(x))."
_TWO_PARTS = "Give real and imaginary parts as two elements: numpy.stack([numpy.real(x), numpy.imag(x)], axis=-1)."
_SINCE_FIRST = (
    "Encode them as numbers first, such as seconds since the first: (d - d.min()) / numpy.timedelta64(1, 's') of "
    "d = numpy.asarray(x, dtype='M8[s]')."
)
# kind of a numpy type -> what its values are, and what to do
_NO_NUMBERS = {
    "c": ("complex numbers", _TWO_PARTS),
    "U": ("text", _CATEGORIES),
    "S": ("text", _CATEGORIES),
    "T": ("text", _CATEGORIES),
    "O": ("Python objects", _AS_NUMBERS),
    "M": ("dates", _SINCE_FIRST),
    "m": ("durations", "Encode them as numbers first, such as seconds: x / numpy.timedelta64(1, 's')."),
    "V": ("rows of named fields", "Make them one array: numpy.lib.recfunctions.structured_to_unstructured(x)."),
}


def as_tensor(array: npt.NDArray[Any], name: str = "the array") -> Tensor:
    """A numeric array as a tensor of the nearest type that torch computes with; the memory is shared where it can be.

    Raises:
        ElbowroomError: complex numbers, text, dates or Python objects.
    """
    if array.dtype.kind not in "biuf":
        held, remedy = _NO_NUMBERS.get(array.dtype.kind, (f"values of type {array.dtype}", _AS_NUMBERS))
        if held == "text" and _is_numeric(array):
            held, remedy = "numbers written as text", "Convert them: numpy.asarray(x).astype(float)."
        raise ElbowroomError(f"{name} holds {held}, but data are real numbers.", remedy)
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ElbowroomError(
            f"{name} holds whole numbers up to {int(array.max()):,}, but the largest that there may be is 2^63 - 1.",
            "Give them as floating-point numbers: x.astype(float).",
        )
    if f"{array.dtype.kind}{array.dtype.itemsize}" == "u8" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ElbowroomError(
            f"{name} holds whole numbers up to {int(array.max()):,}, but the largest that torch computes with is "
            f"{np.iinfo(np.int64).max:,}.",
            "Give them as floating-point numbers, x.astype('float64'), or as differences from the smallest.",
        )
    wider = {"b1": "u1", "u2": "i4", "u4": "i8", "u8": "i8"}.get(f"{array.dtype.kind}{array.dtype.itemsize}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        wider = "f8"
    target = np.dtype(wider) if wider else array.dtype.newbyteorder("=")
    array = np.ascontiguousarray(array, dtype=target) if array.ndim else array.astype(target)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _is_numeric(text: npt.NDArray[Any]) -> bool:
    try:
        text.astype(float)
    except ValueError:
        return False
    return bool(text.size)


def as_classes(values: npt.NDArray[Any], name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Class labels as numbers, int64: whole numbers as they are, text as its place among the sorted names.

    Returns:
        The numbers, shape (n,), and the names where the labels are text.
    Raises:
        ElbowroomError: labels that are missing, or neither whole numbers nor text.
    Example:
        >>> as_classes(np.array(["dog", "cat", "dog"]), "the labels")
        (tensor([1, 0, 1]), ('cat', 'dog'))
    """
    values = values.reshape(-1)
    if values.dtype.kind == "S":
        values = np.char.decode(values)
    if values.dtype.kind == "O" and is_text(values):
        values = _texts(values, name)
    if values.dtype.kind in "UT":
        names, numbers = np.unique(values.astype(str), return_inverse=True)
        return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())
    if values.dtype.kind == "O" and all(isinstance(value, int | np.integer | np.bool_) for value in values):
        values = values.astype(np.int64)
    if values.dtype.kind in "biu" or (values.dtype.kind == "f" and bool((values == np.round(values)).all())):
        return torch.from_numpy(values.astype(np.int64)), None
    raise ElbowroomError(
        f"{name} holds entries that are missing, or neither whole numbers nor text, but classes are one or the other.",
        "Give every row a class number or a class name.",
    )


def is_text(values: npt.NDArray[Any]) -> bool:
    """Whether an array holds text, be it between numbers."""
    return values.dtype.kind in "UST" or (
        values.dtype.kind == "O" and any(isinstance(value, str | bytes) for value in values.reshape(-1))
    )


def _texts(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.str_]:
    """Text and whole numbers among Python objects as text; refuses what is missing."""
    texts = []
    for row, value in enumerate(values):
        if not isinstance(value, str | bytes | int | np.integer):
            raise ElbowroomError(
                f"{name} holds entries that are missing, or neither whole numbers nor text, the first in row {row}, "
                "but classes are one or the other.",
                "Give every row a class number or a class name.",
            )
        texts.append(value.decode() if isinstance(value, bytes) else str(value))
    return np.array(texts)


# types that are kept as a wider one, since torch computes little with them
_WIDER = {
    torch.bool: torch.uint8,
    torch.bfloat16: torch.float32,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
}


def plain(tensor: Tensor, name: str = "the tensor") -> Tensor:
    """A tensor of a type that can be computed with and digested; as :func:`as_tensor`, for tensors.

    A sparse one is written out, and a quantised one is dequantised.

    Raises:
        ElbowroomError: complex numbers; no values (the device "meta"); rows of several lengths; a sparse tensor that is
            too large.
    """
    if tensor.is_nested:
        raise ElbowroomError(
            f"{name} is nested: its rows differ in length, but data are rows of one shape.",
            "Fill up the short ones with NaN, torch.nested.to_padded_tensor(x, torch.nan), and pass "
            "--data.missing mask.",
        )
    if tensor.is_meta:
        raise ElbowroomError(
            f"{name} is on the device 'meta', where a tensor has a shape {tuple(tensor.shape)} but no values.",
            "Give the tensor that holds the values.",
        )
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        check_dense(tensor.numel(), tuple(tensor.shape), "x.to_dense()")
        tensor = tensor.detach().to_dense()
    if tensor.is_complex():
        raise ElbowroomError(
            f"{name} holds complex numbers, but data are real numbers.",
            "Give real and imaginary parts as two elements: torch.stack([x.real, x.imag], -1).",
        )
    if tensor.dtype is torch.uint64:
        return as_tensor(tensor.detach().cpu().numpy(), name)
    small = tensor.is_floating_point() and tensor.dtype.itemsize == 1  # the types of eight bits
    return tensor.detach().to(torch.float32 if small else _WIDER.get(tensor.dtype, tensor.dtype))


def check_dense(elements: int, shape: tuple[int, ...], line: str) -> None:
    """Refuse a sparse matrix that is too large to be written out; ``line`` is what would write out a part of it."""
    if elements >= _MOST_DENSE:
        raise ElbowroomError(
            f"The data are a sparse matrix of shape {shape}, which is too large to be made dense.",
            f"Take fewer columns and give {line}, or give a Dataset that makes each row dense.",
        )


def with_missing(tensor: Tensor, observed: Tensor) -> Tensor:
    """Rows with NaN where an element was not observed; whole numbers become floating-point numbers that hold them.

    Example:
        >>> with_missing(torch.tensor([7, 2**24 + 1]), torch.tensor([False, True])).tolist()
        [nan, 16777217.0]
    """
    target = torch.promote_types(tensor.dtype, torch.float32)
    seen = tensor[observed]
    if not tensor.is_floating_point() and not bool((seen.double() == seen.to(target).double()).all()):
        target = torch.float64
    return tensor.to(target).masked_fill(~observed, torch.nan)


def check_shape(shape: tuple[int, ...], name: str, *, min_rows: int = 1) -> None:
    """Refuse data without rows or without elements, and too few rows."""
    if not shape:
        raise ElbowroomError(
            f"{name} is a single number, but an array of rows is expected.", "Give an array of shape (n, ...)."
        )
    if 0 in shape:
        lacking = "rows" if shape[0] == 0 else "columns"
        raise ElbowroomError(
            f"{name} has no {lacking}: its shape is {tuple(shape)}.",
            "Give data with at least one row and one element.",
        )
    if shape[0] < min_rows:
        raise ElbowroomError(
            f"{name} has {'one row' if shape[0] == 1 else f'{shape[0]} rows'}, but at least {min_rows} are needed.",
            "Give more data; a single vector of n numbers is an array of shape (n, 1).",
        )


@dataclass(frozen=True)
class Material:
    """The result of reading a source: rows, with labels, context and provenance."""

    name: str
    storage: Storage
    source: str = ""  #: where it came from, in words
    licence: str = ""  #: empty if unknown
    labels: Tensor | None = None  #: int64, shape (n,)
    classes: tuple[str, ...] | None = None  #: the names of labels 0, 1, …, where they have names
    context: Tensor | None = None  #: shape (n, context_dim)
    validation_rows: Tensor | None = None  #: a validation set of its own, if there is one
    test_rows: Tensor | None = None  #: the official test set, if there is one
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)  #: of context columns that are text
    context_columns: tuple[str, ...] | None = None  #: the names of the covariates, in their order
    captions: dict[str, Any] | None = None  #: how pictures get captions, where these are the context
    masked: bool = False  #: NaN marks a missing element, by the source's own statement
    columns: tuple[str, ...] | None = None  #: of a table, the names of the elements of x, in their order
    kinds: tuple[Column, ...] | None = None  #: of a table with columns of several kinds, those of x
    aside: tuple[Column, ...] = ()  #: columns of that table that are set aside
    ids: tuple[str, ...] | None = None  #: what identifies each row, where the user named such a column
    id_name: str | None = None  #: the name of that column
    remarks: tuple[str, ...] = ()  #: what was noticed while it was read, in sentences
