"""The values that were evaluated, as arrays from which they can be evaluated again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from elbowroom.data.archives import POSITIONS
from elbowroom.data.binarization import Binarization
from elbowroom.data.dataset import DataSet
from elbowroom.data.views import observed

__all__ = ["evaluated_arrays"]


def evaluated_arrays(data: DataSet, rows: Tensor) -> dict[str, Tensor]:
    """The values of some rows as the model saw them, in the unit in which data are stored.

    Bits are those of the evaluation (0 and 255 where bytes are stored), and missing elements are filled in. A trained
    model reads these arrays as it reads its own data, and finds the same values in them.

    Args:
        data: the data set.
        rows: positions in it, int64, shape (n,).
    Returns:
        ``x`` and ``row``; ``mask`` where elements may be missing, ``labels`` where there are any, and ``context``
        where it is not the labels.
    Example:
        >>> from elbowroom.data.loading import load_data
        >>> grey = torch.tensor([[0, 255], [255, 100]], dtype=torch.uint8)
        >>> data = load_data(grey, binarization="threshold", test=0)
        >>> evaluated_arrays(data, torch.tensor([1]))["x"]
        tensor([[255,   0]], dtype=torch.uint8)
    """
    rows = rows.cpu()
    raw = data.storage.gather(rows.to(data.storage.device))
    fill = None if data.fill is None else data.view.restored(data.fill)
    x, mask = observed(raw, masked=data.masked, fill=fill)
    if data.binarization is not Binarization.NONE:
        bits = replace(data, splits={"chosen": rows}).take("chosen", torch.arange(len(rows))).x
        x = bits.to(raw.dtype) * data.view.scale
    arrays = {"x": x, POSITIONS: rows}
    if data.masked and mask is not None:
        arrays["mask"] = mask
    if data.labels is not None:
        arrays["labels"] = data.labels.cpu()[rows]
    if data.context is not None and "labels" not in data.levels:
        given = data.context_as_given(rows)
        assert given is not None, "there is a context"
        arrays["context"] = given
    return {name: tensor.cpu() for name, tensor in arrays.items()}
