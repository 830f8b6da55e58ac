"""Description and picture of a data set."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.support import Support
from elbowroom.showing.figures.images import image_grid
from elbowroom.showing.figures.style import is_image
from elbowroom.showing.figures.tabular import marginals_figure

__all__ = ["describe", "picture", "value_range"]


def describe(data: DataSet) -> dict[str, Any]:
    """Shape, support, splits and provenance."""
    return {
        "name": data.name,
        "shape": list(data.event_shape),
        "support": f"{data.support} ({data.support.description})",
        "binarization": str(data.binarization),
        "splits": {split: data.size(split) for split in data.splits},
        "context": data.context_dim or "none",
        "labels": 0 if data.labels is None else len(torch.unique(data.labels)),
        "source": data.source or None,
        "licence": data.licence or "unknown",
        **{name: value for name, value in data.protocol().items() if name.startswith("sha256") and value},
    }


def picture(data: DataSet) -> Figure:
    """The first nine training examples in a 3 × 3 grid, or histograms where the data are not images."""
    count = min(9 if is_image(data.event_shape) else 2000, data.size("train"))
    if not is_image(data.event_shape):
        data = data.to(dtype=torch.float64)  # all digits: large numbers may differ in the last ones
    batch = data.take("train", torch.arange(count))
    if not is_image(data.event_shape):
        return marginals_figure(batch.x, batch.x)
    titles = None if data.labels is None else data.labels[batch.index].tolist()
    return image_grid(batch.x, titles=titles, columns=3, value_range=value_range(data.support, batch.x))


def value_range(support: Support, shown: Tensor) -> tuple[float, float]:
    """The values that become black and white: the ends of the support, or of the values shown."""
    if support in (Support.BINARY, Support.UNIT_INTERVAL):
        return (0.0, 1.0)
    if support is Support.BYTES:
        return (0.0, 255.0)
    low, high = float(shown.min()), float(shown.max())
    return (low, high if high != low else low + 1.0)  # black must lie below white where all values are alike
