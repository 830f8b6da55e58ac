"""Tables in memory: any data frame whose columns have ``to_numpy``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.columns.asking import check_there
from elbowroom.data.covariates import encoded_column
from elbowroom.data.csv.cells import as_numbers, large_whole_numbers
from elbowroom.data.csv.notation import Notation
from elbowroom.data.identifiers import identifiers, repeated
from elbowroom.data.mixed_tables import Kinds, Mixed, is_mixed, mixed_columns
from elbowroom.data.naming import Covariate, Naming, check_distinct, has_names, matched_columns
from elbowroom.data.storage import InMemory, Material, as_classes, as_tensor, check_shape, is_text
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.progress import Announce

__all__ = ["frame_material"]


def frame_material(
    frame: Any,
    name: str,
    *,
    context: Sequence[str] | None = None,
    labels: str | None = None,
    id: str | None = None,  # noqa: A002  # the keyword of `load_data`
    optional: Collection[str] = (),
    like: Naming | None = None,
    announce: Announce | None = None,
    notation: Notation | None = None,
    kinds: Kinds | None = None,
) -> Material:
    """The columns of a data frame, some of them set aside as covariates, labels or identifiers.

    Args:
        frame: anything with ``columns``, ``frame[column]`` and ``to_numpy`` (polars, pandas).
        name: for messages.
        context: columns that become the context; a column of text becomes one covariate for each of its values.
        labels: the column of class labels, whole numbers or text; either are numbered in sorted order.
        id: the column that identifies the rows.
        optional: those of labels and id that the frame may lack.
        like: the names of the data that a trained model knows; the other columns are put into their order.
        announce: told which columns are left out, and whether identifiers are missing or repeated.
        notation: how numbers in columns of text are written; its remarks become those of the result.
        kinds: how columns of several kinds are read; None: all are numbers.
    Raises:
        ElbowroomError: a column that is not numbers, does not exist, or has another's name; columns of x that training
            had and these do not, or the other way round; none left over.
    """
    notation = notation or Notation()
    columns = [str(column) for column in frame.columns]
    check_distinct(columns, name)
    check_shape((len(frame), len(columns)), name)
    named = has_names(list(frame.columns))
    series = dict(zip(columns, (frame[column] for column in frame.columns), strict=True))
    labels, id = (None if one in optional and one not in series else one for one in (labels, id))  # noqa: A001
    aside = [*(context or []), *(column for column in (labels, id) if column is not None)]
    for column in aside:
        if column not in series:
            raise _no_column(column, columns, name, like)
    kept = [column for column in columns if column not in aside]
    if kinds is not None:
        if like is None:
            check_there(kinds.asked, columns, name, other_roles=aside)
        named_before = () if like is None or like.columns is None else like.columns
        left_out = {*kinds.asked.dropped, *(() if like is None else like.unused)} - {*named_before}
        kept = [column for column in kept if column not in left_out]
    if like is not None and like.columns is not None and named:
        unused = [column for column in kept if column in like.beside and column not in like.columns]
        if unused and announce is not None:
            announce(f"{name}: {', '.join(unused)} left out, which the model's x has no part in")
        kept = matched_columns([column for column in kept if column not in unused], like.columns, name)
    if not kept:
        raise ElbowroomError(
            f"{name} has no column left for x: {len(columns)} in all, {len(set(aside))} set aside.",
            "Keep at least one column that is neither context nor labels.",
        )
    classes, class_names = _labels(series[labels], labels, name) if labels is not None else (None, None)
    known = {} if like is None else {called: one for one in like.covariates for called in one.names}
    encoded = {column: _covariate(series[column], column, name, known.get(column)) for column in context or []}
    mixed = _mixed({column: series[column] for column in kept}, name, kinds, notation)
    if mixed is not None and id is None:
        id = _identifying(mixed, series)  # noqa: A001
    ids = None if id is None else _identifiers(series[id], len(frame), f"Column '{id}' of {name}", announce)
    if mixed is None:
        storage = InMemory(_stack({column: series[column] for column in kept}, name, like, notation))
    else:
        storage, kept = InMemory(torch.from_numpy(mixed.x)), [column.name for column in mixed.columns]
    return Material(
        name=name,
        storage=storage,
        context=torch.cat([values for values, _ in encoded.values()], 1) if encoded else None,
        context_columns=tuple(encoded) or None,
        columns=tuple(kept) if named or mixed is not None else None,
        masked=mixed is not None,
        kinds=None if mixed is None else mixed.columns,
        aside=() if mixed is None else mixed.aside,
        labels=classes,
        classes=class_names,
        levels={column: names for column, (_, names) in encoded.items() if names is not None},
        ids=ids,
        id_name=id,
        remarks=notation.remarks(),  # after the columns, in whose reading they arise
    )


def _mixed(series: dict[str, Any], name: str, kinds: Kinds | None, notation: Notation) -> Mixed | None:
    """Columns of several kinds; None where all of them are numbers."""
    if kinds is None or kinds.mixed is False:
        return None
    if kinds.mixed is None and not is_mixed(series, notation.missing):
        return None
    return mixed_columns(series, name, kinds, notation)


def _identifying(mixed: Mixed, series: dict[str, Any]) -> str | None:
    """The first column that was found to tell all rows apart."""
    for column in mixed.aside:
        if column.name not in series:
            continue
        values = identifiers(series[column.name], len(mixed.x), column.name) if column.kind == "identifier" else ()
        if values and len(set(values)) == len(values):
            return column.name
    return None


def _no_column(column: str, columns: list[str], name: str, like: Naming | None) -> ElbowroomError:
    near = did_you_mean(column, columns)
    if like is None or column not in like.beside:
        return ElbowroomError(f"{name} has no column '{column}'.", near)
    remedy = "Add it, or give the context from Python: context=…."
    if near.startswith("Did"):
        remedy = f"If {near.removeprefix('Did you mean ').removesuffix('?')} is '{column}', rename it."
    return ElbowroomError(f"{name} has no column '{column}', which the model was trained with.", remedy)


def _element(series: Any, column: str, name: str, like: Naming | None, notation: Notation) -> npt.NDArray[Any]:
    """A column of x; the remedies for text are those of training, unless there was one already."""
    try:
        return as_numbers(series, column, name, notation)
    except ElbowroomError as fault:
        if like is None or like.columns is None:
            raise
        raise ElbowroomError(fault.problem, "Give numbers there, as in training.") from None


def _stack(series: dict[str, Any], name: str, like: Naming | None, notation: Notation) -> Tensor:
    """The columns of x side by side, in one type that holds them."""
    columns = {column: _element(each, column, name, like, notation) for column, each in series.items()}
    stacked = np.column_stack(list(columns.values()))
    if stacked.dtype.kind == "f":
        for column, each in series.items():
            _check_rounding(large_whole_numbers(each), column, name, notation)
    return as_tensor(stacked)


def _check_rounding(large: list[int], column: str, name: str, notation: Notation) -> None:
    """Say which large whole numbers are rounded in float64; refuse those that become equal."""
    change = max((abs(int(float(value)) - value) for value in large), default=0)
    if not change:
        return
    different = set(large)
    lost = len(different) - len({float(value) for value in different})
    if lost:
        raise ElbowroomError(
            f"Column '{column}' of {name} holds whole numbers up to {max(map(abs, large)):,}, and {lost:,} of "
            f"{len(different):,} different ones become equal to others in float64, as which the table is kept.",
            f"If they identify the rows, pass --data.id {column}; otherwise subtract a number near them, such as the "
            "smallest, or leave that column out.",
        )
    notation.note(f"float64 rounds whole numbers above 2^53, here by up to {change:,}", column)


def _labels(series: Any, column: str, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Places among the classes, and their names as they are printed."""
    values = np.asarray(_narrow(series, str).to_numpy())
    numbers, names = as_classes(values, f"Column '{column}' of {name}")
    if names is not None:
        return numbers, names
    unique, places = np.unique(numbers.numpy(), return_inverse=True)
    names = tuple(str(value) for value in (unique.astype(bool) if values.dtype.kind == "b" else unique).tolist())
    return torch.from_numpy(places), names


def _narrow(series: Any, kind: type) -> Any:
    """The column in another type where numpy has none for it: whole numbers of polars of more than 64 bits."""
    wide = str(getattr(series, "dtype", "")) in ("Int128", "UInt128")
    return series.cast(kind) if wide else series


def _covariate(series: Any, column: str, name: str, known: Covariate | None) -> tuple[Tensor, tuple[str, ...] | None]:
    """A column of the context: numbers as they are, text as 0 and 1 for each of its values."""
    values = np.asarray(_narrow(series, float).to_numpy())
    if (known is None or known.levels is None) and not is_text(values):
        return as_tensor(as_numbers(series, column, name))[:, None], None
    return encoded_column(values, f"Column '{column}' of {name}", known, from_file=True)


def _identifiers(series: Any, total: int, what: str, announce: Announce | None) -> tuple[str, ...]:
    found = identifiers(series, total, what)
    remark = repeated(found, what)
    if remark is not None and announce is not None:
        announce(remark)
    return found
