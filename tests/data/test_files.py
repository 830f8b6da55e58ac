"""The user's files: read as they are, refused with a sentence that names the fault."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elbowroom.data.files import load_file
from elbowroom.data.loading import load_data
from elbowroom.data.storage import InMemory, MemoryMapped
from elbowroom.errors import ElbowroomError

RNG = np.random.default_rng(0)


def saved(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def zipped(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def picture(path: Path, size: tuple[int, int] = (5, 4), mode: str = "L", seed: int = 0) -> np.ndarray:
    """Write a random picture of (width, height); what its pixels are."""
    width, height = size
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def rows(material: Any) -> torch.Tensor:
    return material.storage.gather(torch.arange(len(material.storage)))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", ">f4", "bool"])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 3)])
def test_npy_is_mapped(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    array = RNG.integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    material = load_file(tmp_path / "x.npy")
    assert isinstance(material.storage, MemoryMapped)
    expected = array.astype(float).reshape(6, *(shape[1:] or (1,)))
    assert rows(material).double().numpy().tolist() == expected.tolist()
    assert material.name == "x.npy"


def test_npz_with_everything(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (5, 2, 3), dtype=np.uint8)
    mask = RNG.random(x.shape) < 0.7
    (tmp_path / "x.npz").write_bytes(zipped(x=x, labels=np.arange(5), context=np.arange(5) * 2.0, mask=mask))
    data = load_data(tmp_path / "x.npz", test=0)
    batch = data.take("train", torch.arange(5))
    assert batch.mask is not None
    assert torch.equal(batch.mask, torch.from_numpy(mask))
    assert torch.equal(batch.x, torch.from_numpy(np.where(mask, x, 0)).float())
    assert batch.context is not None
    assert batch.context.tolist() == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert data.labels.tolist() == [0, 1, 2, 3, 4]


def test_npz_with_a_single_array_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(zipped(weights=np.arange(4.0), labels=np.arange(4)))
    material = load_file(tmp_path / "x.npz")
    assert isinstance(material.storage, InMemory)
    assert rows(material).tolist() == [[0.0], [1.0], [2.0], [3.0]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("suffix", [".png", ".BMP"])
def test_folder_of_images(tmp_path: Path, mode: str, suffix: str) -> None:
    pixels = [picture(tmp_path / f"{name}{suffix}", mode=mode, seed=name) for name in (2, 1, 3)]
    (tmp_path / "notes.txt").write_text("no image")
    expected = np.stack([pixels[1], pixels[0], pixels[2]])
    if mode == "RGB":
        expected = expected.transpose(0, 3, 1, 2)
    material = load_file(tmp_path)
    assert material.storage.dtype == torch.uint8
    assert torch.equal(rows(material), torch.from_numpy(expected.copy()))
    assert material.labels is None


def test_subfolders_are_labels(tmp_path: Path) -> None:
    for folder, name in (("b", "0"), ("a", "1"), ("b", "2")):
        picture(tmp_path / folder / f"{name}.png")
    labels = load_file(tmp_path).labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 1]


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def folder_with(*pictures: dict[str, Any], damaged: bytes | None = None) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for number, options in enumerate(pictures):
            picture(folder / f"{number}.png", **options)
        if damaged is not None:
            (folder / "odd.png").write_bytes(damaged)
        return folder

    return write


def half_a_picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 50), dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()[:-900]


PICKLED = saved(np.array([1, "a", None], dtype=object), allow_pickle=True)
REFUSED: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda _: Path("/nowhere/x.npy"), "neither a built-in data set nor a file", "Check the path"),
    "misspelt": (lambda _: Path("mnits"), "'mnits' is neither", "Did you mean 'mnist'"),
    "other kind": (file("x.doc", b"text"), "not of a kind that elbowroom reads", "numpy.save"),
    "empty npy": (file("x.npy", b""), r"is empty \(0 bytes\)", "Write the data"),
    "truncated npy": (file("x.npy", saved(np.zeros((9, 9)))[:-8]), "truncated or not a numpy file", "numpy.save"),
    "text as npy": (file("x.npy", b"1,2,3"), "truncated or not a numpy file|pickled", "numpy.save"),
    "pickled npy": (file("x.npy", PICKLED), "pickled Python objects", "one numeric type"),
    "complex npy": (
        file("x.npy", saved(np.zeros((4, 2), complex))),
        "x.npy holds complex numbers",
        "real and imaginary",
    ),
    "text npy": (file("x.npy", saved(np.array([["a"], ["b"]]))), "x.npy holds text", "Encode"),
    "0-d npy": (file("x.npy", saved(np.array(3.0))), "is a single number", "shape"),
    "no rows": (file("x.npy", saved(np.zeros((0, 3)))), "has no rows", "Give data"),
    "no columns": (file("x.npy", saved(np.zeros((3, 0)))), "has no columns", "Give data"),
    "one row": (file("x.npy", saved(np.zeros((1, 3)))), "has one row, but at least 2", r"\(n, 1\)"),
    "archive as npy": (file("x.npy", zipped(x=np.zeros(3))), "is an archive", "Rename it to .npz"),
    "empty npz": (file("x.npz", b""), "is empty", "Write the data"),
    "truncated npz": (file("x.npz", zipped(x=np.zeros(99))[:-50]), "truncated or not a numpy file", "numpy.save"),
    "array as npz": (file("x.npz", saved(np.zeros(3))), "holds a single array", "Rename it to .npy"),
    "pickled npz": (file("x.npz", zipped(x=np.array([None, 1]))), "pickled Python objects", "one numeric type"),
    "two arrays": (file("x.npz", zipped(a=np.zeros(3), b=np.zeros(3))), "holds a, b, but one", "named|savez"),
    "labels": (file("x.npz", zipped(x=np.zeros(3), labels=np.zeros(2))), r"labels has shape \(2,\)", "each row"),
    "mask": (file("x.npz", zipped(x=np.zeros((3, 2)), mask=np.zeros(3))), r"mask has shape \(3,\)", "each element"),
    "empty folder": (folder_with(), "is empty", "Put images"),
    "no images": (lambda path: file("notes.txt", b"x")(path).parent, "holds no image", "Put images"),
    "one image": (folder_with({}), "has one row", "Give more data"),
    "another size": (folder_with({}, {"size": (6, 4)}), "1.png is 6x4 grey, but 0.png is 5x4 grey", "one size"),
    "another mode": (folder_with({}, {"mode": "RGB"}), "1.png is 5x4 RGB, but 0.png is 5x4 grey", "all grey"),
    "no picture": (folder_with({}, {}, damaged=b"no picture"), "odd.png cannot be read as an image", "Replace it"),
    "half a picture": (folder_with({}, damaged=half_a_picture()), "odd.png cannot be read as an image", "Replace it"),
}


@pytest.mark.parametrize(("write", "problem", "remedy"), REFUSED.values(), ids=REFUSED)
def test_refused(write: Callable[[Path], Path], problem: str, remedy: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ElbowroomError, match=problem) as caught:
        load_data(path if len(path.parts) > 1 else str(path), test=0)
    assert re.search(remedy, caught.value.remedy)


@pytest.mark.parametrize(
    ("value", "problem", "remedy"),
    [
        (np.nan, "x.npy holds 2 NaN, the first in row 3", "--data.missing mask"),
        (np.inf, "x.npy holds 2 infinite values, the first in row 3", "Clip"),
    ],
)
def test_values_that_are_not_finite(tmp_path: Path, value: float, problem: str, remedy: str) -> None:
    x = np.ones((9, 2))
    x[3, 1] = x[5, 0] = value
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(ElbowroomError, match=problem) as caught:
        load_data(tmp_path / "x.npy")
    assert remedy in caught.value.remedy


def test_context_columns_need_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    with pytest.raises(ElbowroomError, match="is not a table"):
        load_data(tmp_path / "x.npy", context=["age"])


def test_npz_with_labels_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(zipped(x=np.zeros((3, 2)), labels=np.array(["dog", "cat", "dog"])))
    material = load_file(tmp_path / "x.npz")
    assert material.labels is not None
    assert (material.labels.tolist(), material.classes) == ([1, 0, 1], ("cat", "dog"))


def test_a_label_column_needs_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    with pytest.raises(ElbowroomError, match="The label column kind was asked for"):
        load_data(tmp_path / "x.npy", labels="kind")


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_without_transparency_is_dropped(tmp_path: Path, mode: str) -> None:
    plain = picture(tmp_path / "0.png", mode=mode[:-1])
    Image.open(tmp_path / "0.png").convert(mode).save(tmp_path / "1.png")
    expected = plain if mode == "LA" else plain.transpose(2, 0, 1)
    assert np.array_equal(rows(load_file(tmp_path))[1].numpy(), expected)


@pytest.mark.parametrize("first", ["0.png", "2.png"])
def test_a_grey_palette_is_grey(tmp_path: Path, first: str) -> None:
    pixels = picture(tmp_path / "1.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / first)
    found = rows(load_file(tmp_path)).numpy()
    assert found.shape == (2, 4, 5)
    assert all(np.array_equal(one, pixels) for one in found)
    picture(tmp_path / "1.png", mode="RGB")  # among colours, it is in colour
    assert rows(load_file(tmp_path)).shape == (2, 3, 4, 5)
