"""Tables: CSV and Parquet through polars, and any data frame whose columns have ``to_numpy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.storage import InMemory, Material, as_tensor, check_shape
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["frame_material", "read_table"]

_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]


def read_table(path: Path) -> Any:
    """A CSV, TSV or Parquet file as a polars data frame; a header is recognised by its not being numbers."""
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


def frame_material(frame: Any, name: str, *, context: list[str] | None = None, labels: str | None = None) -> Material:
    """The columns of a data frame, some of them set aside as covariates or as labels.

    Args:
        frame: anything with ``columns``, ``frame[column]`` and ``to_numpy`` (polars, pandas).
        name: for messages.
        context: columns that become the context.
        labels: the column of class labels, whole numbers or text.
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
    return Material(
        name=name,
        storage=InMemory(_stack([_numbers(series[column], column, name) for column in kept])),
        context=_stack([_numbers(series[column], column, name) for column in context]) if context else None,
        labels=_labels(series[labels]) if labels else None,
    )


def _stack(columns: list[npt.NDArray[Any]]) -> Tensor:
    return as_tensor(np.column_stack(columns))


def _labels(series: Any) -> Tensor:
    values = series.to_numpy()
    # text or numbers alike: classes are numbered in sorted order
    return torch.from_numpy(np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[1])


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
        f"Column '{column}' of {name} holds values {held}, but a column of x is numbers.",
        "Encode it as numbers, or leave it out of the table.",
    )
