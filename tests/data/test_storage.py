"""Three storages, one behaviour; none reads more than it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.map_style import MapStyle
from elbowroom.data.storage import (
    InMemory,
    MemoryMapped,
    Storage,
    as_classes,
    as_tensor,
    content_digest,
    scan,
)
from elbowroom.data.value_checks import survey
from elbowroom.errors import ElbowroomError

X = np.arange(60, dtype=np.uint8).reshape(15, 2, 2)


class Squares(torch.utils.data.Dataset[Any]):
    """Items of shape (2, 2), and which were fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        self.fetched.append(row)
        return X[row], row % 3


def memory_mapped(path: Path) -> Storage:
    np.save(path / "x.npy", X)
    return MemoryMapped(np.load(path / "x.npy", mmap_mode="r"))


@pytest.fixture(params=["memory", "mapped", "dataset"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return {
        "memory": lambda: InMemory(torch.from_numpy(X)),
        "mapped": lambda: memory_mapped(tmp_path),
        "dataset": lambda: MapStyle(Squares(), "squares"),
    }[request.param]()


def test_rows_come_in_the_order_asked_for(storage: Storage) -> None:
    rows = torch.tensor([7, 0, 14, 7])
    assert torch.equal(storage.gather(rows), torch.from_numpy(X[rows.numpy()]))
    assert len(storage) == 15
    assert storage.event_shape == (2, 2)
    assert storage.dtype == torch.uint8


def test_gathered_rows_are_a_copy(storage: Storage) -> None:
    storage.gather(torch.tensor([3])).zero_()
    assert torch.equal(storage.gather(torch.tensor([3]))[0], torch.from_numpy(X[3]))


def test_scan_passes_over_chosen_rows(storage: Storage) -> None:
    rows = torch.tensor([1, 4, 9])
    found = list(scan(storage, rows))
    assert torch.cat([at for at, _ in found]).tolist() == [1, 4, 9]
    assert torch.equal(torch.cat([raw for _, raw in found]), torch.from_numpy(X[rows.numpy()]))


def test_scan_of_at_most_so_many_is_evenly_spaced(storage: Storage) -> None:
    rows = torch.cat([at for at, _ in scan(storage, most=5)])
    assert rows.tolist() == [0, 3, 6, 9, 12]


def test_fingerprint_is_repeatable_and_sees_a_change(storage: Storage) -> None:
    changed = X.copy()
    changed[0, 0, 0] += 1
    other = InMemory(torch.from_numpy(changed))
    assert storage.fingerprint() == storage.fingerprint()
    assert len(storage.fingerprint()) == 64
    assert InMemory(torch.from_numpy(X.copy())).fingerprint() != other.fingerprint()
    assert InMemory(torch.from_numpy(X.reshape(15, 4))).fingerprint() != InMemory(torch.from_numpy(X)).fingerprint()


class Counted:
    """An array that counts the rows read from it."""

    def __init__(self, array: Any) -> None:
        self.array, self.read, self.most = array, 0, 0
        self.shape, self.dtype, self.ndim, self.nbytes = array.shape, array.dtype, array.ndim, array.nbytes

    def __getitem__(self, rows: Any) -> Any:
        found = self.array[rows]
        self.read += len(found)
        self.most = max(self.most, len(found))
        return found


def test_memory_map_is_not_read_whole() -> None:
    counted = Counted(np.zeros((50_000, 3), dtype=np.float32))
    storage = MemoryMapped(counted)  # type: ignore[arg-type]
    storage.gather(torch.tensor([49_999, 3]))
    assert counted.read == 2
    storage.fingerprint()
    assert counted.read == 2 + 1_000
    for _ in scan(storage, torch.arange(20_000)):  # the moments of a split
        pass
    assert counted.read == 2 + 1_000 + 10_000
    counted.read = counted.most = 0
    survey(storage)  # whole, but never more than a chunk at a time
    assert counted.read == 50_000
    assert counted.most * 12 <= 1 << 20


def test_a_digest_of_some_rows_says_so() -> None:
    def entries(rows: int) -> dict[str, str | None]:
        return content_digest(MemoryMapped(np.zeros((rows, 1), dtype=np.uint8)))

    assert list(entries(1_000)) == ["sha256"]
    many = entries(1_001)
    assert many["sha256"] is None
    assert str(many["sha256_of_rows"])[64:] == " of 1,000 evenly spaced rows"
    assert list(content_digest(InMemory(torch.zeros(1_001, 1)))) == ["sha256"]


def test_items_of_unequal_shape_are_named() -> None:
    ragged = [np.zeros(2), np.zeros(2), np.zeros(3)]
    with pytest.raises(ElbowroomError, match=r"Item 2 of ragged has shape \(3,\), but item 0 has \(2,\)"):
        MapStyle(ragged, "ragged").gather(torch.tensor([0, 2]))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", torch.uint8),
        ("bool", torch.uint8),
        ("uint16", torch.int32),
        (">i4", torch.int32),
        ("uint32", torch.int64),
        ("float16", torch.float16),
        (">f8", torch.float64),
        ("longdouble", torch.float64),
    ],
)
def test_types_keep_their_values(given: str, kept: torch.dtype) -> None:
    values = np.array([[0, 1], [1, 0]], dtype=given)
    tensor = as_tensor(values)
    assert tensor.dtype == kept
    assert tensor.tolist() == values.astype(float).tolist()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.array([1j]), "complex numbers"),
        (np.array(["a"]), "text"),
        (np.array([None]), "Python objects"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "dates"),
        (np.zeros(1, dtype=[("a", "f4")]), "rows of named fields"),
    ],
)
def test_types_that_are_no_numbers(values: Any, named: str) -> None:
    with pytest.raises(ElbowroomError, match=f"the x holds {named}"):
        as_tensor(values, "the x")


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (np.array(["b", "a", "b"]), [1, 0, 1], ("a", "b")),
        (np.array([b"b", b"a"]), [1, 0], ("a", "b")),
        (np.array(["b", "a"], dtype=object), [1, 0], ("a", "b")),
        (np.array([7, 3], dtype=object), [7, 3], None),
        (np.array([[2.0], [0.0]]), [2, 0], None),
        (np.array([True, False]), [1, 0], None),
    ],
)
def test_class_labels(values: Any, numbers: list[int], names: tuple[str, ...] | None) -> None:
    found, named = as_classes(values, "labels")
    assert (found.tolist(), named) == (numbers, names)
    assert found.dtype == torch.int64


@pytest.mark.parametrize("values", [np.array([0.5]), np.array([np.nan, 1]), np.array(["a", None], dtype=object)])
def test_what_is_no_class(values: Any) -> None:
    with pytest.raises(ElbowroomError, match="labels holds entries that are missing"):
        as_classes(values, "labels")
