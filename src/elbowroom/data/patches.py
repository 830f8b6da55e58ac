"""Patches of the two photographs of scikit-learn, whose splits come from regions without a pixel in common.

Patches that overlap are no independent examples: a model that has seen nearly the same pixels in training is validated
on them too well. So every split has vertical bands of the photographs to itself, with a gap beside each.

    columns    0        156  168     232  244     308  320
    patches    | training |   | valid. |   | test |   | the same again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from elbowroom.data.sources import Source
from elbowroom.data.storage import InMemory, Material, as_tensor
from elbowroom.errors import ElbowroomError

__all__ = ["colour_patches", "patches"]

_STRIDE = 4  # between patches for training, which overlap; those of the other sets do not


@dataclass(frozen=True)
class _Bands:
    """Columns of a photograph for each split, again and again."""

    period: int
    columns: Mapping[str, range]  #: by split, in the order of the rows


_TWO = _Bands(160, {"train": range(72), "test": range(84, 148)})
_THREE = _Bands(320, {"train": range(156), "validation": range(168, 232), "test": range(244, 308)})


def colour_patches(source: Source) -> Material:
    """Patches of 32 x 32 with a test set of their own; validation patches are chosen among those for training."""
    return _material(source, _TWO, 32)


def patches(source: Source, size: tuple[int, int] | None = None) -> Material:
    """Patches of 16 x 16 or 32 x 32 with a validation and a test set of their own.

    Args:
        source: with the sides that there are; the first is the default.
        size: width and height.
    Raises:
        ElbowroomError: another size.
    """
    side = source.sides[0] if size is None else size[0]
    if size is not None and (size[0] != size[1] or side not in source.sides):
        raise ElbowroomError(
            f"--data.image-size is {size[0]}x{size[1]}, but {source.name} are squares of "
            f"{' or '.join(map(str, source.sides))} pixels a side.",
            f"Give --data.image-size {source.sides[-1]}, or leave it out for {source.sides[0]}.",
        )
    return _material(source, _THREE, side)


def _material(source: Source, bands: _Bands, side: int) -> Material:
    from sklearn.datasets import load_sample_images

    parts: dict[str, list[npt.NDArray[np.uint8]]] = {split: [] for split in bands.columns}
    labels: list[int] = []
    photographs = load_sample_images().images
    for split, columns in bands.columns.items():
        for label, photograph in enumerate(photographs):
            for left in range(0, photograph.shape[1], bands.period):
                band = photograph[:, left + columns.start : left + columns.stop]
                parts[split].append(_cut(band, side, _STRIDE if split == "train" else side))
                labels.extend([label] * len(parts[split][-1]))
    sizes = {split: sum(map(len, found)) for split, found in parts.items()}
    ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
    rows = {split: torch.arange(end - sizes[split], end) for split, end in ends.items()}
    return Material(
        name=source.name,
        storage=InMemory(as_tensor(np.concatenate([patch for found in parts.values() for patch in found]))),
        source=source.citation,
        licence=source.licence,
        labels=torch.tensor(labels),
        validation_rows=rows.get("validation"),
        test_rows=rows["test"],
    )


def _cut(picture: npt.NDArray[np.uint8], side: int, stride: int) -> npt.NDArray[np.uint8]:
    """Every patch of a picture (H, W, 3), the corners ``stride`` apart: shape (n, 3, side, side)."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(0, 1))  # (rows, columns, 3, …)
    return windows[::stride, ::stride].reshape(-1, 3, side, side)
