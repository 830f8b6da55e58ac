"""Tables in memory: any data frame whose columns have ``to_numpy``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.data.cells import as_numbers
from elbowroom.data.covariates import match_levels
from elbowroom.data.notation import Notation
from elbowroom.data.storage import InMemory, Material, as_classes, as_tensor, check_shape
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["frame_material"]


def frame_material(
    frame: Any,
    name: str,
    *,
    context: list[str] | None = None,
    labels: str | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    notation: Notation | None = None,
) -> Material:
    """The columns of a data frame, some of them set aside as covariates or as labels.

    Args:
        frame: anything with ``columns``, ``frame[column]`` and ``to_numpy`` (polars, pandas).
        name: for messages.
        context: columns that become the context; a column of text becomes one covariate for each of its values.
        labels: the column of class labels, whole numbers or text; either are numbered in sorted order.
        levels: the values that a text column of the context is known to take, where a trained model fixes them.
        notation: how numbers in columns of text are written; its remarks become those of the result.
    Raises:
        ElbowroomError: a column that is not numbers or does not exist, or none left over.
    """
    notation = notation or Notation()
    columns = [str(column) for column in frame.columns]
    check_shape((len(frame), len(columns)), name)
    series = dict(zip(columns, (frame[column] for column in frame.columns), strict=True))
    aside = [*(context or []), *([labels] if labels else [])]
    for column in aside:
        if column not in series:
            raise ElbowroomError(f"{name} has no column '{column}'.", did_you_mean(column, columns))
    kept = [column for column in columns if column not in aside]
    if not kept:
        raise ElbowroomError(
            f"{name} has no column left for x: {len(columns)} in all, {len(set(aside))} set aside.",
            "Keep at least one column that is neither context nor labels.",
        )
    classes, class_names = _labels(series[labels], labels, name) if labels else (None, None)
    covariates = {
        column: _covariate(series[column], column, name, (levels or {}).get(column)) for column in context or []
    }
    return Material(
        name=name,
        storage=InMemory(_stack([as_numbers(series[column], column, name, notation) for column in kept])),
        context=_stack([values for values, _ in covariates.values()]) if covariates else None,
        columns=tuple(kept),
        labels=classes,
        classes=class_names,
        levels={column: names for column, (_, names) in covariates.items() if names is not None},
        remarks=notation.remarks(),  # after the columns, in whose reading they arise
    )


def _stack(columns: list[npt.NDArray[Any]]) -> Tensor:
    return as_tensor(np.column_stack(columns))


def _labels(series: Any, column: str, name: str) -> tuple[Tensor, tuple[str, ...]]:
    numbers, names = as_classes(np.asarray(series.to_numpy()), f"Column '{column}' of {name}")
    if names is not None:
        return numbers, names
    values, places = np.unique(numbers.numpy(), return_inverse=True)
    return torch.from_numpy(places), tuple(str(value) for value in values.tolist())


def _covariate(
    series: Any, column: str, name: str, known: Sequence[str] | None
) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    """A column of the context: numbers as they are, text as 0 and 1 for each of its values."""
    values = np.asarray(series.to_numpy())
    if values.dtype.kind != "U" and not any(isinstance(value, str) for value in values.tolist()):
        return as_numbers(series, column, name), None
    numbers, names = as_classes(values, f"Column '{column}' of {name}")
    assert names is not None, "text has names"
    if known is not None:
        numbers, names = match_levels(numbers, names, known, f"Column '{column}' of {name}"), tuple(known)
    return one_hot(numbers, len(names)).numpy(), names
