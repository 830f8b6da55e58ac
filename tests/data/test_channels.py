"""Colours that come last are moved to the front, wherever the rows lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import elbowroom as er
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.row_form import RowForm
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.running.impute import _read_mask

X = np.random.default_rng(0).integers(0, 256, (14, 6, 8, 3), dtype=np.uint8)
FIRST = X.transpose(0, 3, 1, 2)


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> Any:
        return X[row], row % 2


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(X)


def mapped(folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


SOURCES = {
    "array": lambda folder: X,
    "tensor": lambda folder: torch.from_numpy(X),
    "floats": lambda folder: X / np.float32(255),
    "reals": lambda folder: X / 127.5 - 1,
    "mapped": mapped,
    "file": lambda folder: (mapped(folder), folder / "x.npy")[1],
    "Dataset": lambda folder: Items(),
    "TensorDataset": lambda folder: TensorDataset(torch.from_numpy(X)),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_moved_with_a_remark(make: Any, tmp_path: Path) -> None:
    source = make(tmp_path)
    data = load_data(source, test=0)
    assert isinstance(data, DataSet)
    found = data.storage.gather(torch.arange(len(X))).numpy()
    scale = {np.dtype("u1"): 1.0}.get(found.dtype, 255.0)
    if found.min() < 0:
        found, scale = (found + 1) / 2, 255.0
    assert np.abs(found * scale - FIRST).max() < 1e-4
    assert data.event_shape == (3, 6, 8)
    assert data.remarks == (
        "The axis of colours was moved to the front: examples of shape (6, 8, 3) are now (3, 6, 8).",
    )
    again = load_data(source, test=0)
    assert data.storage.fingerprint() == again.storage.fingerprint()
    assert data.storage.gather(torch.tensor([3, 1])).is_contiguous()
    assert data.to(device="cpu").event_shape == (3, 6, 8)


def test_a_stream_is_moved(tmp_path: Path) -> None:
    data = load_data(Stream())
    assert isinstance(data, StreamSet)
    assert data.event_shape == (3, 6, 8)
    assert torch.cat(list(data.stream.chunks())).numpy().tolist() == FIRST.tolist()
    kept = load_data(Stream(), form=RowForm((6, 8, 3), Support.BYTES))
    assert kept.event_shape == (6, 8, 3)


@pytest.mark.parametrize("shape", [(3, 6, 3), (3, 6, 8), (6, 8, 2), (4, 8, 3), (6, 3), (6, 8, 8, 3)])
def test_a_shape_that_leaves_doubt_is_left(shape: tuple[int, ...]) -> None:
    data = load_data(np.zeros((5, *shape), np.uint8) + np.arange(5, dtype=np.uint8).reshape(5, *[1] * len(shape)))
    assert (data.event_shape, data.remarks) == (shape, ())


@pytest.mark.parametrize("colours", [1, 4])
def test_other_numbers_of_colours(colours: int) -> None:
    assert load_data(np.zeros((5, 6, 8, colours), np.uint8)).event_shape == (colours, 6, 8)


@pytest.mark.parametrize("wanted", [(6, 8, 3), (3, 6, 8)])
def test_the_shape_of_a_run_decides(wanted: tuple[int, ...]) -> None:
    for given in (X, FIRST):
        data = load_data(given, form=RowForm(wanted, Support.BYTES))
        assert data.event_shape == (wanted if given is X else (3, 6, 8))


def test_missing_pixels_move_along() -> None:
    hidden = np.random.default_rng(1).random(X.shape) < 0.3
    data = load_data(np.ma.masked_array(X, hidden), test=0)
    mask = data.take("train", torch.arange(len(X))).mask
    assert mask is not None
    assert mask.numpy().tolist() == (~hidden).transpose(0, 3, 1, 2).tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    conv = {"kind": "conv", "channels": [2]}
    return er.train(
        X / np.float32(255),
        out=tmp_path_factory.mktemp("colours") / "run",
        observers=[],
        announce=lambda said: None,
        model={"latent_dim": 2, "encoder": conv, "decoder": conv},
        train={"steps": 2, "batch_size": 6},
        runtime={"compile": "off"},
    )


def test_convolutions_run_over_height_and_width(run: Any) -> None:
    assert next(iter(run.guide.parameters())).shape[1] == 3
    assert run.facts.event_shape == (3, 6, 8)


def test_a_run_takes_colours_first_and_last_alike(run: Any) -> None:
    last, first = X[:4] / np.float32(255), FIRST[:4] / np.float32(255)
    assert torch.equal(run.encode(last).mean, run.encode(first).mean)
    assert er.load(run.folder.path, data=X / np.float32(255)).dataset().event_shape == (3, 6, 8)


def test_a_mask_for_imputation_is_moved_like_the_data() -> None:
    mask = np.random.default_rng(2).random((5, 6, 8, 3)) < 0.5
    for last, first in ((mask, mask.transpose(0, 3, 1, 2)), (mask[0], mask[0].transpose(2, 0, 1))):
        assert _read_mask(last, 5, (3, 6, 8)).tolist() == first.tolist()
        assert _read_mask(first, 5, (3, 6, 8)).tolist() == first.tolist()
        assert _read_mask(last, 5, (6, 8, 3)).tolist() == last.tolist()
