"""The rows of a run are recognised in whatever form they are given again, and others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from elbowroom.data.map_style import MapStyle
from elbowroom.data.storage import InMemory, MemoryMapped, Storage, content_digest
from elbowroom.errors import ElbowroomError
from elbowroom.running.runs import load
from elbowroom.running.same_rows import as_recorded
from small_runs import everything, reals, tiny


class Rows(Dataset[Tensor]):
    """A map-style Dataset, read item by item."""

    def __init__(self, x: Any) -> None:
        self.x = torch.as_tensor(np.asarray(x))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        return self.x[row]


def _frame(x: Any) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame({f"c{i}": column for i, column in enumerate(np.asarray(x).T.tolist())})


HOLDS: dict[str, Callable[[Any], Any]] = {
    "float32 array": lambda x: np.asarray(x, dtype=np.float32),
    "float64 array": lambda x: np.asarray(x, dtype=np.float64),
    "list": lambda x: np.asarray(x, dtype=np.float64).tolist(),
    "float32 tensor": lambda x: torch.as_tensor(np.asarray(x, dtype=np.float32)),
    "float64 tensor": lambda x: torch.as_tensor(np.asarray(x, dtype=np.float64)),
    "columns first": lambda x: np.asfortranarray(x),
    "big-endian": lambda x: np.asarray(x, dtype=">f8"),
    "frame": _frame,
    "Dataset": Rows,
    "TensorDataset": lambda x: TensorDataset(torch.as_tensor(np.asarray(x))),
}
FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for every form, of the same numbers."""
    where = tmp_path_factory.mktemp("held")
    np.save(where / "saved.npy", reals().numpy().astype(np.float64))
    for name, hold in HOLDS.items():
        tiny(hold(reals().numpy()), where / name, **FEW)
    return where


@pytest.mark.parametrize("then", HOLDS)
def test_a_run_goes_on_with_the_same_numbers_in_any_form(then: str, folder: Path) -> None:
    before, names = everything(folder / then), list(HOLDS)
    for away in (1, 3):  # each form with some others; all pairs of storages are below
        now = names[(names.index(then) + away) % len(names)]
        tiny(HOLDS[now](reals().numpy()), folder / then, resume=True, **FEW)
        assert everything(folder / then) == before, now
    assert load(folder / then, data=folder / "saved.npy").dataset().size("test") == 8


@pytest.mark.parametrize("then", ["float32 array", "Dataset"])
def test_other_numbers_are_refused(then: str, folder: Path) -> None:
    changed = reals().numpy().copy()
    changed[7, 3] = np.nextafter(changed[7, 3], np.float32(np.inf))
    for other in (changed, changed.astype(np.float64), reals()[:-1]):
        with pytest.raises(ElbowroomError, match="have changed"):
            load(folder / then, data=other)
    finer = reals().double() + 1e-12  # the same only after rounding
    with pytest.raises(ElbowroomError, match="have changed"):
        load(folder / then, data=finer)


def test_a_run_stopped_with_one_form_goes_on_with_another(tmp_path: Path) -> None:
    x = reals().numpy()
    longer = {"train": FEW["train"] | {"steps": 8}}
    tiny(x, tmp_path / "straight", **longer)
    tiny(x, tmp_path / "stopped", **FEW)
    tiny(x.astype(np.float64).tolist(), tmp_path / "stopped", resume=True, **longer)
    assert everything(tmp_path / "stopped") == everything(tmp_path / "straight")


FORMS: dict[str, Callable[[Tensor], Storage]] = {
    "in memory": InMemory,
    "memory-mapped": lambda x: MemoryMapped(x.numpy()),
    "Dataset": lambda x: MapStyle(x, "rows"),
}


@pytest.mark.parametrize(
    ("dtype", "rows"),
    [
        *((dtype, 30) for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8, torch.float16)),
        (torch.float32, 1001),  # more rows than are digested
        (torch.uint8, 1001),
    ],
)
def test_every_form_is_found_from_every_other(dtype: torch.dtype, rows: int) -> None:
    x = torch.randint(0, 9, (rows, 2), generator=torch.Generator().manual_seed(0)).to(dtype)
    for then in FORMS.values():
        recorded = content_digest(then(x))
        for now in FORMS.values():
            found = as_recorded(now(x.double()), recorded)
            assert found.dtype is dtype
            assert content_digest(found) == recorded
    other = InMemory(x.double() + 0.5)
    assert as_recorded(other, content_digest(InMemory(x))) is other


@pytest.mark.parametrize("dtype", ["?", "<u2", "<u4", "<u8", ">f4", ">f8", ">i2", ">u2"])
def test_a_file_in_a_type_that_torch_does_not_have_is_found(dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 2, (1500, 2)).astype(dtype)
    recorded = content_digest(MemoryMapped(x))
    assert content_digest(as_recorded(InMemory(torch.from_numpy(x.astype(np.float64))), recorded)) == recorded


def test_missing_numbers_are_the_same_as_missing_numbers() -> None:
    x = torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    assert as_recorded(InMemory(x.double()), content_digest(InMemory(x))).dtype is torch.float32
