"""Description and picture of a data set."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.captions import Captioner
from elbowroom.data.columns.describing import column_facts, sum_in_words
from elbowroom.data.dataset import DataSet
from elbowroom.data.support import Support
from elbowroom.showing.figures.images import image_grid
from elbowroom.showing.figures.style import is_image
from elbowroom.showing.figures.tabular import marginals_figure

__all__ = ["as_observed", "describe", "picture", "value_range"]


def describe(data: DataSet) -> dict[str, Any]:
    """Shape, support, splits and provenance; and remarks on how the data were read, if there are any."""
    return {
        "name": data.name,
        "shape": list(data.event_shape),
        "support": f"{data.support} ({data.support.description})",
        "binarization": str(data.binarization),
        "splits": {split: data.size(split) for split in data.splits},
        "context": data.context_dim or "none",
        **_columns(data),
        "labels": "none" if data.labels is None else len(torch.unique(data.labels)),
        "source": data.source or None,
        "licence": data.licence or "unknown",
        **({"remarks": list(data.remarks)} if data.remarks else {}),
        **{name: value for name, value in data.protocol().items() if name.startswith("sha256") and value},
    }


def _columns(data: DataSet) -> dict[str, Any]:
    """Names of columns; of a table with several kinds a line about each, and what log p adds up."""
    if data.kinds is not None:
        x = data.storage.gather(torch.arange(len(data.storage))).double().cpu().numpy()
        facts = column_facts(data.kinds, data.aside, x, id_name=data.id_name)
        return {"columns": facts, "log_p": sum_in_words(data.kinds)}
    return {} if data.columns is None else {"columns": list(data.columns)}


def picture(data: DataSet) -> Figure:
    """The first nine training examples in a 3 × 3 grid, or histograms where the data are not images.

    What is missing is left out of histograms, and a flat blue in pictures.
    """
    count = min(9 if is_image(data.event_shape) else 2000, data.size("train"))
    if not is_image(data.event_shape):
        data = data.to(dtype=torch.float64)  # all digits: large numbers may differ in the last ones
    batch = data.take("train", torch.arange(count))
    if not is_image(data.event_shape):
        return marginals_figure(as_observed(batch), names=data.columns, kinds=data.kinds)
    titles = None if data.labels is None else data.labels[batch.index].tolist()
    if data.captions is not None and batch.context is not None:
        said = Captioner.of_record(data.captions).sentences(batch.context)
        titles = [sentence.replace(" leaning", ",") for sentence in said]  # short enough for the width of a picture
    if titles is not None and data.classes is not None:
        titles = [data.classes[label] for label in titles]
    grey = value_range(data.support, as_observed(batch))
    return image_grid(batch.x, mask=batch.mask, titles=titles, columns=3, value_range=grey)


def as_observed(batch: Batch) -> Tensor:
    """x with NaN in place of its missing elements, whose fillers are not data and are not to be drawn as such.

    Example:
        >>> as_observed(Batch(torch.tensor([[1.0, 0.0]]), mask=torch.tensor([[True, False]])))
        tensor([[1., nan]])
    """
    return batch.x if batch.mask is None else torch.where(batch.mask, batch.x, torch.nan)


def value_range(support: Support, shown: Tensor) -> tuple[float, float]:
    """The values that become black and white: the ends of the support, or of the values shown, NaN left out."""
    if support in (Support.BINARY, Support.UNIT_INTERVAL):
        return (0.0, 1.0)
    if support is Support.BYTES:
        return (0.0, 255.0)
    known = shown[~shown.isnan()]
    if not len(known):
        return (0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    return (low, high if high != low else low + 1.0)  # black must lie below white where all values are alike
