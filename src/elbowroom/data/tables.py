"""Tables: CSV and Parquet through polars, and any data frame whose columns have ``to_numpy``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.data.covariates import match_levels
from elbowroom.data.storage import InMemory, Material, as_classes, as_tensor, check_shape
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["frame_material", "read_table"]

_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]


def read_table(path: Path) -> Any:
    """A CSV, TSV or Parquet file as a polars data frame; a first line that is not numbers is a header."""
    try:
        import polars as pl
    except ModuleNotFoundError as fault:
        raise ElbowroomError(
            f"{path} is a table, and polars, which reads tables, is not installed.",
            "Install it: pip install 'elbowroom[tables]'.",
        ) from fault
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        first = pl.read_csv(path, separator=separator, has_header=False, n_rows=1, infer_schema=False)
        return pl.read_csv(
            path,
            separator=separator,
            has_header=not all(_is_number(cell) for cell in first.row(0)),
            infer_schema_length=None,
            null_values=_MISSING,
        )
    except (pl.exceptions.PolarsError, OSError) as fault:
        raise ElbowroomError(
            f"{path} cannot be read as a table ({str(fault).splitlines()[0]}).",
            "Check that it is whole: a line per row, the same number of columns in each.",
        ) from fault


def _is_number(cell: object) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return cell is None or str(cell) in _MISSING
    return True


def frame_material(
    frame: Any,
    name: str,
    *,
    context: list[str] | None = None,
    labels: str | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
) -> Material:
    """The columns of a data frame, some of them set aside as covariates or as labels.

    Args:
        frame: anything with ``columns``, ``frame[column]`` and ``to_numpy`` (polars, pandas).
        name: for messages.
        context: columns that become the context; a column of text becomes one covariate for each of its values.
        labels: the column of class labels, whole numbers or text; either are numbered in sorted order.
        levels: the values that a text column of the context is known to take, where a trained model fixes them.
    Raises:
        ElbowroomError: a column that is not numbers or does not exist, or none left over.
    """
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
        storage=InMemory(_stack([_numbers(series[column], column, name) for column in kept])),
        context=_stack([values for values, _ in covariates.values()]) if covariates else None,
        columns=tuple(kept),
        labels=classes,
        classes=class_names,
        levels={column: names for column, (_, names) in covariates.items() if names is not None},
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
        return _numbers(series, column, name), None
    numbers, names = as_classes(values, f"Column '{column}' of {name}")
    assert names is not None, "text has names"
    if known is not None:
        numbers, names = match_levels(numbers, names, known, f"Column '{column}' of {name}"), tuple(known)
    return one_hot(numbers, len(names)).numpy(), names


def _numbers(series: Any, column: str, name: str) -> npt.NDArray[Any]:
    values = np.asarray(series.to_numpy())
    if values.dtype.kind in "biuf":
        return values
    example = next((value for value in values.tolist() if isinstance(value, str)), None)
    if values.dtype == object and example is None:
        try:
            return np.array([np.nan if str(value) in ("None", "<NA>") else float(value) for value in values])
        except (TypeError, ValueError):
            example = values[0]
    held = f"such as '{example}'" if isinstance(example, str) else f"of type {values.dtype}"
    raise ElbowroomError(
        f"Column '{column}' of {name} holds values {held}, but a column of x holds numbers.",
        f"If they are class labels, pass --data.labels {column}; otherwise drop the column, or encode it as numbers.",
    )
