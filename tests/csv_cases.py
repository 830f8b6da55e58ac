"""Small tables in files, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data

NAN = float("nan")
ROWS = [[1.5, 2.5], [3.5, 1.5], [2.0, 1.0]]
MASKED = {"missing": "mask"}
REALS: dict[str, Any] = {"support": "reals"}  # a table of numbers, whatever its columns hold
GAPS = [[1.5, 2.5], [3.5, NAN], [2.0, NAN]]


def load(path: Path, **options: Any) -> DataSet:
    data = load_data(path, **{"test": 0, "min_rows": 1} | options)
    assert isinstance(data, DataSet)
    return data


def rows_of(data: DataSet) -> Any:
    return data.storage.gather(torch.arange(len(data))).double()


def text(rows: list[list[float]], separator: str = ",", end: str = "\n", header: str = "a,b") -> str:
    return end.join([header.replace(",", separator), *(separator.join(map(str, row)) for row in rows)]) + end
