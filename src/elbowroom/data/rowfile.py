"""Reading rows of a memory-mapped file by position, without growing the process.

Reading a row through a memory map loads pages of the file into the process, up to two megabytes of them, and they stay:
a pass over a large file makes the process as large as the file, and releasing pages costs more than reading rows. Rows
that are read by position into a buffer leave nothing in the process.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from elbowroom.errors import ElbowroomError
from elbowroom.memory import available_memory

__all__ = ["RowFile"]

_MOST_READ = 1 << 30  # bytes at once; Linux reads no more than 2 GiB


class RowFile:
    """The file behind a ``numpy.memmap``, open for reading.

    Args:
        array: rows, shape (n, \\*event), whole and in order in the file.
        descriptor: of the file, which is closed with this object.
        first: byte of row 0 in the file.
        ask_ahead: the file is larger than memory, so that rows come from the disk: all of a batch are asked for before
            the first is read.
    """

    def __init__(self, array: npt.NDArray[Any], descriptor: int, first: int, *, ask_ahead: bool) -> None:
        self.event_shape, self.dtype = array.shape[1:], array.dtype
        self.ask_ahead = ask_ahead
        self._row_bytes = int(array.strides[0])
        self._descriptor, self._first = descriptor, first
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def behind(cls, array: npt.NDArray[Any]) -> RowFile | None:
        """The file of a memmap, or of a part of one that is whole rows.

        Returns:
            None where there is no such file: another array; a memmap in copy-on-write mode, whose changes are not in
            the file; a file that was moved or replaced; a system that cannot read by position.
        """
        mapping, name = getattr(array, "_mmap", None), getattr(array, "filename", None)
        if not (hasattr(os, "preadv") and isinstance(mapping, mmap.mmap) and isinstance(name, str | os.PathLike)):
            return None
        assert isinstance(array, np.memmap)
        if array.mode == "c" or not array.flags.c_contiguous or not array.size:
            return None
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except OSError:  # the mapping lives on where the name does not
            return None
        began = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # of the mapping, which starts at a page
        first = began + array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
        available = available_memory()
        beyond = available is not None and array.nbytes > available and hasattr(os, "posix_fadvise")
        file = cls(array, descriptor, first, ask_ahead=beyond)
        return file if file._is_of(array) else None

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The rows at these positions, in this order, shape (n, \\*event).

        Raises:
            ElbowroomError: the file has become shorter.
        """
        found = np.empty((len(rows), *self.event_shape), self.dtype)
        if not len(rows):
            return found
        target, size = found.reshape(-1).view(np.uint8).data, self._row_bytes
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1  # between runs of neighbours, each of which is one read
        starts = [0, *cuts.tolist()]
        ends = [*starts[1:], len(rows)]
        places = (self._first + rows[starts] * size).tolist()
        if self.ask_ahead:
            for start, end, place in zip(starts, ends, places, strict=True):
                os.posix_fadvise(self._descriptor, place, (end - start) * size, os.POSIX_FADV_WILLNEED)
        for start, end, place in zip(starts, ends, places, strict=True):
            self._fill(target[start * size : end * size], place)
        return found

    def _fill(self, target: memoryview, place: int) -> None:
        done = 0
        while done < len(target):
            got = os.preadv(self._descriptor, [target[done : done + _MOST_READ]], place + done)
            if not got:
                raise ElbowroomError(
                    "The file of the data ended before the rows that were asked for: it has been cut short.",
                    "Write it again, and do not change it until this has ended.",
                )
            done += got

    def _is_of(self, array: npt.NDArray[Any]) -> bool:
        """Whether the first, the middle and the last row are those of the array."""
        if os.fstat(self._descriptor).st_size < self._first + array.nbytes:
            return False
        rows = np.array([0, len(array) // 2, len(array) - 1])
        return self.read(rows).tobytes() == np.asarray(array[rows]).tobytes()
