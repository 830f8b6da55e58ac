"""Data from Python that a run keeps: it can be used, and goes on, with nothing else."""

from __future__ import annotations

import errno
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import elbowroom as er
from elbowroom.data.storage import InMemory, Material
from elbowroom.errors import ElbowroomError
from elbowroom.running import kept_data
from elbowroom.running.kept_data import keeps_data
from elbowroom.running.runs import load
from elbowroom.running.train import train
from small_runs import everything, grey, reals, tiny

FEW: dict[str, Any] = {"train": {"steps": 4, "batch_size": 10, "report_every": 2}}


class Rows(Dataset[Tensor]):
    def __len__(self) -> int:
        return 53

    def __getitem__(self, row: int) -> Tensor:
        return reals()[row]


def _gappy() -> Tensor:
    return torch.where(grey(seed=3) < 0.2, torch.nan, reals())


def _frame() -> Any:
    polars = pytest.importorskip("polars")
    columns = {f"c{i}": column for i, column in enumerate(reals().T.tolist())}
    return polars.DataFrame({**columns, "kind": ["ox", "pig", "ox"] * 17 + ["pig", "cow"]})


CASES: dict[str, Any] = {
    "tensor": (reals, {}),
    "float64 array": (lambda: reals().double().numpy(), {}),
    "bytes": (lambda: (grey() * 255).to(torch.uint8).numpy(), {"model": {"likelihood": "continuous-bernoulli"}}),
    "grey, binarised": (grey, {"data": {"binarization": "static"}}),
    "a vector": (lambda: reals()[:, 0].numpy(), {}),
    "missing values": (_gappy, {"data": {"missing": "mask"}}),
    "Dataset": (Rows, {}),
    "labels": (reals, {"labels": torch.arange(53) % 3}),
    "labels as context": (reals, {"labels": ["b", "a", "c"] * 17 + ["a", "b"], "data": {"context": "labels"}}),
    "context": (reals, {"context": torch.randn(53, 2, generator=torch.Generator().manual_seed(1))}),
    "columns as context": (_frame, {"data": {"context": ["kind"]}}),
    "a column of labels": (_frame, {"data": {"labels": "kind"}}),
}


def _spec(name: str) -> tuple[Any, dict[str, Any]]:
    make, more = CASES[name]
    sizes = {"validation": 8, "test": 8}
    return make(), {**FEW, **more, "data": sizes | more.get("data", {})}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_keeps_its_data_needs_nothing_else(name: str, tmp_path: Path) -> None:
    source, settings = _spec(name)
    run = tiny(source, tmp_path / "run", keep_data=True, **settings)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    again = load(moved)
    assert again.dataset().protocol() == run.dataset().protocol()
    for split in ("train", "validation", "test"):
        rows = torch.arange(again.dataset().size(split))
        one, other = (of.dataset().take(split, rows) for of in (run, again))
        assert torch.equal(one.index, other.index) and torch.equal(one.x, other.x)
        for a, b in ((one.mask, other.mask), (one.context, other.context)):
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
    for what in ("columns", "classes", "levels", "labels"):
        a, b = getattr(run.dataset(), what), getattr(again.dataset(), what)
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b
    value = again.evaluate("elbo")[0].value
    assert np.isfinite(value)


@pytest.mark.parametrize("name", ["tensor", "Dataset", "labels as context"])
def test_a_run_that_keeps_its_data_trains_as_one_that_does_not_and_goes_on(name: str, tmp_path: Path) -> None:
    source, settings = _spec(name)
    longer = {**settings, "train": {**settings["train"], "steps": 8}}
    tiny(source, tmp_path / "straight", **longer)
    tiny(source, tmp_path / "kept", keep_data=True, **settings)
    train(out=tmp_path / "kept", resume=True, observers=[], announce=lambda remark: None, train__steps=8)
    assert everything(tmp_path / "kept") == everything(tmp_path / "straight")
    assert load(tmp_path / "kept").content["data"]["from_python"] is True
    tiny(source, tmp_path / "kept", resume=True, keep_data=True, **longer)  # the same call, as in a notebook


def test_everything_beside_the_rows_comes_back(tmp_path: Path) -> None:
    given = Material(
        name="mine",
        storage=InMemory(reals()),
        source="a survey",
        licence="CC0",
        labels=torch.arange(53) % 2,
        classes=("ox", "pig"),
        context=torch.ones(53, 1),
        levels={"kind": ("ox", "pig")},
        masked=True,
        columns=tuple("abcdef"),
        ids=tuple(map(str, range(53))),
        id_name="customer",
    )
    kept_data.keep(tmp_path, given)
    found = kept_data.read_kept(tmp_path)
    for field in fields(Material):
        one, other = getattr(given, field.name), getattr(found, field.name)
        if isinstance(one, Tensor):
            assert torch.equal(one, other), field.name
        elif field.name != "storage":
            assert one == other, field.name
    assert found.storage.fingerprint() == given.storage.fingerprint()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<u2"])
def test_memory_mapped_data_stay_so_and_the_size_is_said(dtype: str, tmp_path: Path) -> None:
    np.save(tmp_path / "big.npy", (50 + 10 * reals(1200)).clamp(min=0).numpy().astype(dtype))
    told: list[str] = []
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    run = tiny(mapped, tmp_path / "run", keep_data=True, announce=told.append, **FEW)
    (tmp_path / "big.npy").unlink()
    again = load(tmp_path / "run")
    assert not again.dataset().storage.in_memory
    assert again.dataset().protocol() == run.dataset().protocol()
    assert [line for line in told if "keeping the data" in line and "MB" in line]


def test_a_run_can_begin_to_keep_its_data_later(tmp_path: Path) -> None:
    tiny(reals(), tmp_path / "run", **FEW)
    assert not keeps_data(tmp_path / "run")
    tiny(reals(), tmp_path / "run", resume=True, keep_data=True, **FEW)
    assert load(tmp_path / "run").dataset().size("test") == 8


def test_changed_and_damaged_data_are_named(tmp_path: Path) -> None:
    tiny(reals(), tmp_path / "run", keep_data=True, **FEW)
    np.save(tmp_path / "run" / "data" / "x.npy", reals(seed=1).numpy())
    with pytest.raises(ElbowroomError, match="have changed"):
        _ = load(tmp_path / "run").data
    (tmp_path / "run" / "data" / "x.npy").write_bytes(b"rot")
    with pytest.raises(ElbowroomError, match="cannot be read") as caught:
        _ = load(tmp_path / "run").data
    # the remedy: delete the folder and give the data again
    assert "er.load(" in caught.value.remedy
    (tmp_path / "run" / "data" / "names.json").unlink()
    assert load(tmp_path / "run", data=reals()).dataset().size("test") == 8


def test_a_stream_and_a_name_are_refused(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(reals()), batch_size=10)
    with pytest.raises(ElbowroomError, match="stream cannot be kept"):
        tiny(loader, tmp_path / "run", keep_data=True, **FEW)
    np.save(tmp_path / "mine.npy", reals().numpy())
    with pytest.raises(ElbowroomError, match="keep_data is for data from Python"):
        tiny(tmp_path / "mine.npy", tmp_path / "run", keep_data=True, **FEW)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_no_half_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_data, "_write_rows", full)
    with pytest.raises(ElbowroomError, match="is full"):
        tiny(reals(), tmp_path / "run", keep_data=True, **FEW)
    assert not keeps_data(tmp_path / "run")
    monkeypatch.undo()
    tiny(reals(), tmp_path / "run", keep_data=True, **FEW)  # the run had not begun, so the call can be made again
    assert er.load(tmp_path / "run").dataset().size("test") == 8
