"""Data for an adopted model: held-out and training data as one data set with two splits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.map_style import item_parts
from elbowroom.data.precision import Units, check_kept_apart, check_range, in_units
from elbowroom.data.row_form import RowForm
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError

__all__ = ["check_precision", "held_out_and_training"]


def held_out_and_training(data: Any, train: Any, binarization: str, seed: int) -> DataSet:
    r"""One data set, with the splits train and test.

    Args:
        data: held-out data: an array of shape (n, \*event), or a map-style ``Dataset`` of x or (x, …); or a ``DataSet``
            with its own splits, such as that of a run, whose values are given as they are stored: the networks do not
            know of the run's units.
        train: training data in the same form, or None.
        binarization: of grey data.
        seed: of the binarisation.
    Returns:
        The data set, in the floating-point type of the data; integers and NumPy's float64 in torch's default type.
    Raises:
        ElbowroomError: a stream; something that is not an array; shapes that differ.
    """
    if isinstance(data, DataSet):
        if train is not None:
            raise ElbowroomError(
                "A DataSet has its own split 'train', but train was given, too.", "Give only one of them."
            )
        return in_units(data, Units())
    test = _rows(data, "data")
    rows = test
    if train is not None:
        known = _rows(train, "train")
        if known.shape[1:] != test.shape[1:]:
            raise ElbowroomError(
                f"The examples in data have shape {tuple(test.shape[1:])}, but those in train "
                f"{tuple(known.shape[1:])}.",
                "Give both in the same shape.",
            )
        rows = torch.cat([known, test])
    form = RowForm(tuple(rows.shape[1:]), Support.REALS)  # the model takes rows in the shape they have
    loaded = load_data(rows, binarization=binarization, test=0.0, validation=0.0, seed=seed, form=form)
    assert isinstance(loaded, DataSet)  # a tensor has a length
    before = len(rows) - len(test)
    splits = {"train": torch.arange(before), "validation": torch.arange(0), "test": torch.arange(before, len(rows))}
    floating = isinstance(data, Tensor) and data.dtype in (torch.float32, torch.float64)
    return replace(loaded, splits=splits).to(dtype=data.dtype if floating else torch.get_default_dtype())


def check_precision(data: DataSet) -> None:
    """Refuse data that the networks' precision does not hold or tell apart.

    A run counts such data from an origin near them; networks from elsewhere take x as it is.

    Args:
        data: with the precision of the networks.
    Raises:
        ElbowroomError: values that differ and become equal, or are beyond the largest number.
    """
    whole = replace(data, splits={"train": torch.arange(len(data))})
    try:
        check_kept_apart(whole, data.dtype)
        check_range(whole)
    except ElbowroomError as error:
        raise ElbowroomError(
            error.problem,
            "Networks from elsewhere take x as it is: convert them to double precision, encoder.double() and "
            "decoder.double(), or adopt networks that were trained on x − c, for a number c near the data.",
        ) from None


def _rows(source: Any, name: str) -> Tensor:
    """The rows of a source as one tensor, in memory."""
    if isinstance(source, DataLoader | IterableDataset):
        raise ElbowroomError(
            f"{name} is a {type(source).__name__}, which gives batches in its own order, but rows are needed.",
            f"Give an array: {name}=dataset.tensors[0], or torch.cat([x for x, *_ in loader]).",
        )
    if isinstance(source, TensorDataset):
        return source.tensors[0]
    if isinstance(source, Dataset):
        return torch.stack([item_parts(source[row])[0] for row in range(len(source))])  # type: ignore[arg-type]
    try:
        rows = torch.as_tensor(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ElbowroomError(
            f"{name} is a {type(source).__name__}, which cannot be converted to a tensor: {error}.",
            "Give an array of shape (n, *event).",
        ) from error
    return rows[:, None] if rows.dim() == 1 else rows
