"""Rows read from a file are those of the mapping, and leave nothing resident."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from elbowroom.data.rowfile import RowFile
from elbowroom.data.storage import MemoryMapped
from elbowroom.errors import ElbowroomError

if not hasattr(os, "preadv"):
    pytest.skip("this system cannot read by position", allow_module_level=True)

ROWS = np.array([3, 4, 5, 9, 0, 0, 40, 39, 7])


def stored(folder: Path, dtype: str = "u1", shape: tuple[int, ...] = (41, 3, 5)) -> np.memmap:
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(folder / "x.npy", values)
    found = np.load(folder / "x.npy", mmap_mode="r")
    assert isinstance(found, np.memmap)
    return found


@pytest.mark.parametrize("ask_ahead", [False, True])
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?"])
@pytest.mark.parametrize("part", [slice(None), slice(0, 41), slice(1, None)], ids=str)
def test_the_rows_are_the_mappings(part: slice, dtype: str, ask_ahead: bool, tmp_path: Path) -> None:
    array = stored(tmp_path, dtype, (42, 3, 5))[part]
    file = RowFile.behind(array)
    assert file is not None
    file.ask_ahead = ask_ahead and hasattr(os, "posix_fadvise")
    assert np.array_equal(file.read(ROWS), array[ROWS])
    assert file.read(ROWS[:0]).shape == (0, 3, 5)


def test_a_mapping_that_begins_in_the_middle_of_a_file(tmp_path: Path) -> None:
    stored(tmp_path, "u1", (9000, 7))
    array = np.memmap(tmp_path / "x.npy", np.uint8, "r", offset=128 + 7 * 3000, shape=(6000, 7))
    file = RowFile.behind(array[100:])
    assert file is not None
    assert np.array_equal(file.read(ROWS), array[100:][ROWS])


def test_changes_through_the_mapping_are_seen(tmp_path: Path) -> None:
    stored(tmp_path)
    array = np.load(tmp_path / "x.npy", mmap_mode="r+")
    file = RowFile.behind(array)
    assert file is not None
    array[4] = 250
    assert (file.read(ROWS)[1] == 250).all()


def test_what_has_no_file_is_left_to_numpy(tmp_path: Path) -> None:
    array = stored(tmp_path)
    assert RowFile.behind(np.asarray(array)) is None
    assert RowFile.behind(array[:, :, 1:]) is None
    assert RowFile.behind(array[:0]) is None
    assert RowFile.behind(np.load(tmp_path / "x.npy", mmap_mode="c")) is None
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((41, 3, 5), np.uint8))
    other.replace(tmp_path / "x.npy")
    assert RowFile.behind(array) is None  # replaced since it was mapped
    assert torch.equal(MemoryMapped(array).gather(torch.from_numpy(ROWS)), torch.from_numpy(array[ROWS]))
    (tmp_path / "x.npy").unlink()
    assert RowFile.behind(array) is None


def test_a_file_that_was_cut_short_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    file = RowFile.behind(stored(tmp_path))
    assert file is not None
    os.truncate(tmp_path / "x.npy", 300)
    with pytest.raises(ElbowroomError, match="cut short"):
        file.read(ROWS)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="pages are counted on Linux alone")
def test_rows_that_were_read_are_not_resident(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")

    storage = MemoryMapped(stored(tmp_path, shape=(80_000, 784)))
    before = resident()
    for rows in torch.randperm(80_000).split(500):
        storage.gather(rows)
    assert resident() - before < 8e6  # of 63 MB
