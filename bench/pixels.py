"""The images that every contender trains on: MNIST where it is found, images of its shape where it is not."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Pixels", "read_pixels"]

_HEADER = 16  # bytes before the pixels: a magic number and three sizes
_SIDE = 28
_ROWS = 60_000


@dataclass(frozen=True)
class Pixels:
    """Grey images.

    Attributes:
        name: what they are, for the report.
        images: uint8, shape (n, 28, 28).
    """

    name: str
    images: npt.NDArray[np.uint8]


def read_pixels(rows: int | None = None) -> Pixels:
    """The first ``rows`` training images (None: all 60,000), MNIST's where ``$ELBOWROOM_DATA`` has them."""
    content = _mnist_file()
    if content is None:
        return Pixels("not MNIST: scikit-learn's digits, enlarged to 28×28 and repeated", _enlarged_digits()[:rows])
    images = np.frombuffer(content, np.uint8, offset=_HEADER).reshape(-1, _SIDE, _SIDE)
    return Pixels("MNIST", images[:rows].copy())


def _mnist_file() -> bytes | None:
    folder = os.environ.get("ELBOWROOM_DATA")
    if not folder:
        return None
    path = Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte"
    packed = path.with_name(f"{path.name}.gz")
    if path.is_file():
        return path.read_bytes()
    return gzip.decompress(packed.read_bytes()) if packed.is_file() else None


def _enlarged_digits() -> npt.NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    digits = load_digits().images / 16 * 255  # (1797, 8, 8)
    large = np.pad(digits.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    return np.resize(large.astype(np.uint8), (_ROWS, _SIDE, _SIDE))  # resize repeats
