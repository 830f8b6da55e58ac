"""Built-in data come out as they are known to be."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn import datasets
from sklearn.datasets import load_sample_images

from elbowroom.data.builtin import _parsed_digits, load_built_in, parse_idx
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an idx file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def plant(name: str, contents: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put small files in the place of the real ones, and their digests into the registry."""
    source = BUILT_IN[name]
    files = {}
    for role, content in contents.items():
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        files[role] = replace(source.files[role], digest=digest, path=source.files[role].path.removesuffix(".gz"))
        path = folder / files[role].path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv("ELBOWROOM_DATA", str(folder))
    monkeypatch.setitem(BUILT_IN, name, replace(source, files=files))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets_keep_their_official_test_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (20, 6))
    contents = {"train-images-idx3": idx(train), "t10k-images-idx3": idx(test)}
    contents |= {f"{part}-labels-idx1": idx(np.arange(n, dtype=np.uint8)) for part, n in (("train", 20), ("t10k", 6))}
    plant(name, contents, tmp_path, monkeypatch)
    data = load_data(name, validation=5, test=0.9, context="labels")
    assert isinstance(data, DataSet)
    assert {split: data.size(split) for split in data.splits} == {"train": 15, "validation": 5, "test": 6}
    assert torch.equal(data.take("test", torch.arange(6)).x, torch.from_numpy(test).float())
    rows = data.splits["train"]
    assert torch.equal(data.take("train", torch.arange(15)).x, torch.from_numpy(train)[rows].float())
    assert data.labels is not None
    assert data.labels.tolist() == [*range(20), *range(6)]
    assert data.support is Support.BYTES
    assert data.context is not None
    assert torch.equal(data.context.argmax(1), data.labels)
    assert data.licence == BUILT_IN[name].licence
    assert data.name == name


def test_omniglot_is_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MATLAB file holds a picture per column, itself written column by column."""
    pictures = np.random.default_rng(0).random((7, 28, 28))
    columns = np.stack([picture.ravel(order="F") for picture in pictures], axis=1)
    onehot = np.eye(50)[:, [3, 1, 4, 1, 5, 9, 2]]
    buffer = io.BytesIO()
    arrays = {"data": columns[:, :5], "testdata": columns[:, 5:], "target": onehot[:, :5], "testtarget": onehot[:, 5:]}
    savemat(buffer, arrays)
    plant("omniglot", {"characters": buffer.getvalue()}, tmp_path, monkeypatch)
    data = load_data("omniglot")
    assert isinstance(data, DataSet)
    np.testing.assert_allclose(data.take("train", torch.arange(5)).x, pictures[:5], rtol=1e-6)
    np.testing.assert_allclose(data.take("test", torch.arange(2)).x, pictures[5:], rtol=1e-6)
    assert data.labels is not None
    assert data.labels.tolist() == [3, 1, 4, 1, 5, 9, 2]
    assert data.support is Support.UNIT_INTERVAL


@pytest.mark.parametrize("where", ["in its file", "elsewhere"])
def test_digits_are_those_of_scikit_learn_in_sixteenths(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is read where it lies, which spares its import; of a version that has none there, it is asked."""
    _parsed_digits.cache_clear()
    if where == "elsewhere":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    material = load_built_in("digits")
    x, digits = material.storage.gather(torch.arange(1797)), datasets.load_digits()
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), digits.images / 16)
    assert material.labels is not None
    assert np.array_equal(material.labels.numpy(), digits.target)


def test_patches_of_the_photographs_are_upright_and_in_colour() -> None:
    china, flower = load_sample_images().images
    data = load_data("colour-patches", validation=0.0)
    assert isinstance(data, DataSet)
    assert data.support is Support.BYTES
    assert data.event_shape == (3, 32, 32)
    assert (data.size("train"), data.size("test")) == (8712, 208)
    first = data.take("train", torch.tensor([0, 1, 11])).x
    for patch, (top, left) in zip(first, ((0, 0), (0, 4), (4, 0)), strict=True):
        assert np.array_equal(patch, china[top : top + 32, left : left + 32].transpose(2, 0, 1))
    last = data.take("test", torch.tensor([207])).x[0]
    assert np.array_equal(last, flower[384:416, 596:628].transpose(2, 0, 1))
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [4460, 4460]


@pytest.mark.parametrize(("name", "size"), [("colour-patches", None), ("patches", (32, 32)), ("patches", (16, 16))])
def test_no_pixel_of_a_photograph_is_in_two_splits(
    name: str, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs whose pixels are their own numbers, written in three bytes; a gap of 12 columns lies between."""
    number = np.arange(2 * 427 * 640).reshape(2, 427, 640)
    pictures = np.stack([number >> 16, (number >> 8) & 255, number & 255], -1).astype(np.uint8)
    monkeypatch.setattr(datasets, "load_sample_images", lambda: SimpleNamespace(images=list(pictures)))
    data = load_data(name, image_size=size)
    assert isinstance(data, DataSet)
    assert sum(map(len, data.splits.values())) == len(data)
    times = {}  # that each pixel is in a split
    for split, rows in data.splits.items():
        raw = data.storage.gather(rows).long()
        places = (raw[:, 0] << 16) + (raw[:, 1] << 8) + raw[:, 2]
        times[split] = places.flatten().bincount(minlength=number.size)
        assert times[split].sum() == places.numel()
        if split != "train":
            assert times[split].max() <= 1  # these patches do not overlap
    columns = {split: (found.nonzero() % 640).unique() for split, found in times.items() if found.any()}
    for one, other in itertools.combinations(columns, 2):
        assert not (times[one].bool() & times[other].bool()).any()
        assert (columns[one][:, None] - columns[other]).abs().min() >= 13


@pytest.mark.parametrize(
    ("size", "sizes"), [("32", (12672, 104, 104)), ("16", (14832, 416, 416)), (None, (12672, 104, 104))]
)
def test_patches_have_three_sets_and_a_size(size: str | None, sizes: tuple[int, ...]) -> None:
    data = load_data("patches", image_size=size)
    assert isinstance(data, DataSet)
    assert tuple(data.size(split) for split in ("train", "validation", "test")) == sizes
    assert data.event_shape == (3, int(size or 32), int(size or 32))
    assert "danielbuechele" in data.source and data.licence == "CC BY 2.0"
    top = load_sample_images().images[0][:, 168:].transpose(2, 0, 1)
    side = data.event_shape[-1]
    first = data.take("validation", torch.tensor([0])).x[0]
    assert np.array_equal(first, top[:, :side, :side])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image_size": 24}, r"24x24, but patches are squares of 32 or 16"),
        ({"image_size": "32x16"}, "squares"),
        ({"image_mode": "grey"}, "in colour"),
    ],
)
def test_other_patches_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        load_data("patches", **asked)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0",
        bytes([0, 0, 8, 1, 0, 0]),
        bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]),
        bytes([0, 0, 13, 1, 0, 0, 0, 1, 1]),
    ],
    ids=["empty", "cut in the magic", "cut in the shape", "cut in the values", "floats"],
)
def test_no_idx_file(content: bytes) -> None:
    with pytest.raises(ElbowroomError, match="toy is not a complete idx file"):
        parse_idx(content, "toy")
