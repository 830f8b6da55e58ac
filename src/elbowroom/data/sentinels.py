"""Numbers that stand for missing values: those that the user names, and those that are suspected aloud."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from elbowroom.data.columns.isolated import SUSPECTS, isolated_marks
from elbowroom.data.storage import InMemory, Material
from elbowroom.errors import ElbowroomError

__all__ = [
    "as_marks",
    "check_covariates",
    "numbers_among",
    "suspected",
    "with_missing_values",
]


def as_marks(given: object) -> tuple[object, ...]:
    """Marks of missing values, of which one may be given as it is.

    Example:
        >>> as_marks(-999), as_marks(["unknown", -999])
        ((-999,), ('unknown', -999))
    """
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def numbers_among(marks: Iterable[object]) -> tuple[float, ...]:
    """Those marks of missing values that are numbers; others are text that stands in cells of tables.

    Example:
        >>> numbers_among(["-999", "unknown", 9999])
        (-999.0, 9999.0)
    """
    found = []
    for mark in marks:
        try:
            found.append(float(str(mark)))
        except ValueError:
            continue
    return tuple(found)


def with_missing_values(material: Material, values: Sequence[float]) -> Material:
    """The same rows with NaN in place of every value that stands for a missing one.

    Args:
        material: rows in memory.
        values: the numbers that stand for missing values.
    Returns:
        Rows of a floating-point type that holds the others exactly, and a remark that says how many were replaced.
    Raises:
        ElbowroomError: the rows do not lie in memory.
    Example:
        >>> rows = Material("x", InMemory(torch.tensor([[1, -999], [2, 3]])))
        >>> with_missing_values(rows, [-999]).storage.gather(torch.arange(2)).tolist()
        [[1.0, nan], [2.0, 3.0]]
    """
    storage = material.storage
    if not isinstance(storage, InMemory):
        raise ElbowroomError(
            f"Missing values of {material.name} are said to be {_listed(values)}, but its rows are not held in memory, "
            "where they could be replaced.",
            "Save them as .npz with NaN there, or give the array itself: numpy.load(path).",
        )
    rows = storage.tensor
    if not rows.is_floating_point():
        rows = rows.to(torch.float64 if rows.dtype in (torch.int32, torch.int64) else torch.float32)
    marked = torch.isin(rows, torch.tensor(values, dtype=rows.dtype, device=rows.device))
    count = int(marked.sum())
    remark = (
        f"{count:,} value{'s' if count != 1 else ''} of {_listed(values)} count{'s' if count == 1 else ''} as missing"
    )
    if count:
        storage = InMemory(rows.masked_fill(marked, torch.nan))
    return replace(material, storage=storage, remarks=(*material.remarks, remark))


def _listed(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)


def suspected(material: Material) -> tuple[str, ...]:
    """Remarks on numbers that probably stand for missing values: −999 among ages, and the like.

    A number is suspected if it is one that people use for that, occurs more than once, and lies farther from all other
    values of its column than these lie from each other; a large negative one is suspected among values that are never
    negative, too. Nothing is changed.

    Args:
        material: rows of one axis in memory; others have no remarks.
    Example:
        >>> ages = torch.tensor([[31.0], [-999.0], [64.0], [-999.0], [18.0]])
        >>> suspected(Material("x", InMemory(ages), columns=("age",)))[0].partition(":")[0]
        "column 'age' holds -999 in 2 of 5 rows, far from its other values (18 to 64)"
    """
    if not isinstance(material.storage, InMemory):
        return ()
    rows = material.storage.tensor.cpu().numpy()
    if rows.ndim != 2 or rows.dtype == np.uint8:
        return ()
    low, high = np.fmin.reduce(rows, axis=0), np.fmax.reduce(rows, axis=0)
    at = np.flatnonzero(np.isin(low, SUSPECTS) | np.isin(high, SUSPECTS))
    remarks = []
    for place in at.tolist():
        remarks += [
            f"{_called(material, place)} holds {value} in {count:,} of {len(rows):,} rows, far from its other "
            f"values ({least:g} to {most:g}): if it marks a missing value, pass --data.missing-values={value} "
            "--data.missing mask"
            for value, count, least, most in isolated_marks(rows[:, place])
        ]
    return tuple(remarks)


def check_covariates(material: Material, values: Sequence[float]) -> tuple[str, ...]:
    """Refuse real covariates that hold numbers named as missing values; remarks on those that are only suspected.

    Args:
        material: rows with a context, or without.
        values: the numbers that stand for missing values.
    Raises:
        ElbowroomError: such a number far from the others of its covariate; names the first row.
    Example:
        >>> ages = torch.tensor([[31.0], [-999.0], [64.0], [-999.0], [18.0]])
        >>> rows = Material("x", InMemory(ages), context=ages, context_columns=("age",))
        >>> check_covariates(rows, [])[0].rpartition(": ")[2]
        'if it marks a missing value, fill it in, or take those rows out'
    """
    remarks: list[str] = []
    for column, covariate in _real_covariates(material).items():
        for value, count, least, most in isolated_marks(covariate, tuple({*SUSPECTS, *values}), values):
            if value in values:
                row = int(np.flatnonzero(covariate == value)[0])
                raise ElbowroomError(
                    f"Row {row:,} of {material.name} holds {value:g} in the covariate '{column}', which marks a "
                    "missing value, but only x may have missing elements.",
                    "Fill in those values, or take those rows out.",
                )
            remarks.append(
                f"covariate '{column}' holds {value} in {count:,} of {len(covariate):,} rows, far from its other "
                f"values ({least:g} to {most:g}): if it marks a missing value, fill it in, or take those rows out"
            )
    return tuple(remarks)


def _real_covariates(material: Material) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of the context that are numbers and no classes, by name or place."""
    if material.context is None:
        return {}
    found, at = {}, 0
    for name in material.context_columns or map(str, range(material.context.shape[1])):
        width = len(material.levels.get(name, ("",)))
        if name not in material.levels:
            found[name] = material.context[:, at].cpu().numpy()
        at += width
    return found


def _called(material: Material, place: int) -> str:
    return f"element {place}" if material.columns is None else f"column '{material.columns[place]}'"
