"""Loading the built-in data sets: idx files, a MATLAB file, and the digits and photographs of scikit-learn."""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.patches import colour_patches, patches
from elbowroom.data.sources import BUILT_IN, Source, obtain, read_verified
from elbowroom.data.storage import InMemory, Material, as_tensor
from elbowroom.errors import ElbowroomError
from elbowroom.progress import Announce

__all__ = ["load_built_in", "parse_idx"]


def load_built_in(name: str, *, size: tuple[int, int] | None = None, announce: Announce | None = None) -> Material:
    """Rows, labels and official test set of a built-in data set, fetched if need be.

    Args:
        name: see :data:`elbowroom.data.sources.BUILT_IN`.
        size: width and height of pictures, where there is a choice.
        announce: called with a sentence for every download.
    Raises:
        ElbowroomError: the files cannot be found or fetched, or have the wrong content; a size that there is not.
    """
    source = BUILT_IN[name]
    if name == "digits":
        return _digits(source)
    if name == "colour-patches":
        return colour_patches(source)
    if name == "patches":
        return patches(source, size)
    contents = {
        role: read_verified(file, obtain(source, file, announce=announce)) for role, file in source.files.items()
    }
    return _omniglot(source, contents["characters"]) if name == "omniglot" else _idx_set(source, contents)


def parse_idx(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """An array of bytes in Yann LeCun's idx format: 0, 0, type 8, rank; the dimensions, big-endian; the values.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), "example")
        array([7, 9], dtype=uint8)
    """
    rank = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    if rank and len(content) >= start:
        shape = struct.unpack(f">{rank}I", content[4:start])
        values = np.frombuffer(content, dtype=np.uint8, offset=start)
        if values.size == np.prod(shape):
            return values.reshape(shape)
    raise ElbowroomError(
        f"{name} is not a complete idx file of bytes ({len(content):,} bytes).", "Delete it and try again."
    )


def _material(
    source: Source, train: npt.NDArray[Any], test: npt.NDArray[Any], train_labels: Any, test_labels: Any
) -> Material:
    total = len(train) + len(test)
    return Material(
        name=source.name,
        storage=InMemory(as_tensor(np.concatenate([train, test]))),
        source=source.citation,
        licence=source.licence,
        labels=torch.from_numpy(np.concatenate([train_labels, test_labels]).astype(np.int64)),
        test_rows=torch.arange(len(train), total),
    )


def _idx_set(source: Source, contents: dict[str, bytes]) -> Material:
    arrays = {role: parse_idx(content, source.files[role].path) for role, content in contents.items()}
    return _material(
        source,
        arrays["train-images-idx3"],
        arrays["t10k-images-idx3"],
        arrays["train-labels-idx1"],
        arrays["t10k-labels-idx1"],
    )


def _omniglot(source: Source, content: bytes) -> Material:
    from scipy.io import loadmat  # type: ignore[import-untyped]  # scikit-learn brings scipy

    try:
        arrays = loadmat(io.BytesIO(content))
    except (ValueError, OSError, NotImplementedError) as fault:
        raise ElbowroomError(f"chardata.mat cannot be read ({fault}).", "Delete it and try again.") from fault

    def pictures(key: str) -> npt.NDArray[np.float32]:
        columns = arrays[key].T.reshape(-1, 28, 28)  # one picture per column, written column by column
        return np.ascontiguousarray(columns.transpose(0, 2, 1), dtype=np.float32)

    alphabets = (arrays[key].argmax(0) for key in ("target", "testtarget"))
    return _material(source, pictures("data"), pictures("testdata"), *alphabets)


def _digits(source: Source) -> Material:
    images, labels = _parsed_digits()
    return Material(
        name=source.name,
        storage=InMemory(images.clone()),
        source=source.citation,
        licence=source.licence,
        labels=labels.clone(),
    )


@functools.cache
def _parsed_digits() -> tuple[Tensor, Tensor]:
    """Images and labels, half a megabyte, from the text file that comes with scikit-learn."""
    rows = _text_of_digits()
    images = (rows[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32)
    return as_tensor(images), torch.from_numpy(rows[:, -1].astype(np.int64))


def _text_of_digits() -> npt.NDArray[np.float64]:
    """A row per picture: 64 pixels of 0 to 16, and the label.

    scikit-learn takes longer to import than the rest of a small run does, so that its file is read where it lies.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations if package else None) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
