"""The pages of a memory-mapped file that lie in main memory: asked for ahead of time, and given back.

A page that was read stays with the process for as long as there is room, so that a pass over a large file makes the
process look as large as the file. Given back, a page costs nothing as long as the system still has it. And a file that
is larger than memory is read from the disk one page after another, unless the pages of a batch are asked for at once.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.memory import available_memory

__all__ = ["MappedPages"]

_HELD = 256 << 20  # bytes of pages after which they are given back
_STATM = Path("/proc/self/statm")


class MappedPages:
    """Advice to the system on the file behind a ``numpy.memmap``; none for any other array.

    Args:
        array: rows, shape (n, ...), a memmap or a part of one. One in copy-on-write mode is left alone, since the
            pages that it has written to would be lost.
        beyond_memory: whether the file is larger than the memory that can be had; found out unless given.
    """

    def __init__(self, array: npt.NDArray[Any], *, beyond_memory: bool | None = None) -> None:
        file = getattr(array, "_mmap", None)
        advisable = isinstance(file, mmap.mmap) and getattr(array, "mode", "c") != "c" and array.flags.c_contiguous
        self._file: mmap.mmap | None = file if advisable and hasattr(mmap, "MADV_DONTNEED") and len(array) else None
        if self._file is None:
            return
        self._row_bytes = int(array.strides[0])
        self._first = array.ctypes.data - np.frombuffer(self._file, np.uint8).ctypes.data  # byte of row 0 in the file
        self._others = _file_pages()
        if beyond_memory is None:
            available = available_memory()
            beyond_memory = available is not None and array.nbytes > available
        self._ask_ahead = beyond_memory

    def about_to_read(self, rows: npt.NDArray[np.int64]) -> None:
        """Gives back what has become too much, and asks for the pages of these rows."""
        if self._file is None:
            return
        # counted by the system: a page that is read brings its neighbours with it, a few or two megabytes of them
        if _file_pages() - self._others > _HELD:
            self._file.madvise(mmap.MADV_DONTNEED)
        if self._ask_ahead:
            starts = self._first + rows * self._row_bytes
            pages = starts // mmap.PAGESIZE * mmap.PAGESIZE
            for page, length in zip(pages.tolist(), (starts - pages + self._row_bytes).tolist(), strict=True):
                self._file.madvise(mmap.MADV_WILLNEED, page, length)


def _file_pages() -> int:
    """Bytes of files that are resident in this process; 0 where the system does not tell."""
    return int(_STATM.read_bytes().split()[2]) * mmap.PAGESIZE if _STATM.is_file() else 0
