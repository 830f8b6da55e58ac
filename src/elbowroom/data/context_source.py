"""Where the context of a data set comes from: columns of a table, class labels, or values given beside the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elbowroom.data.covariates import context_from_labels, with_context
from elbowroom.data.naming import Covariate, Naming
from elbowroom.data.storage import Material
from elbowroom.errors import ElbowroomError

__all__ = ["checked_drop", "column_names", "contextual", "is_frame", "known_levels"]


def is_frame(source: Any) -> bool:
    """Whether a source is a data frame, of whatever library."""
    return hasattr(source, "to_numpy") and hasattr(source, "columns")


def column_names(context: Any, source: Any, like: Naming | None = None) -> list[str] | None:
    """The columns that text names as the context; None where it holds values of the context, or is something else.

    Args:
        context: as for :func:`load_data`.
        source: of the data. A list of text is values where there are as many as rows, and not all are columns.
        like: the names in the data of a trained model; then the columns are those that it was trained with.
    """
    there = {str(column) for column in source.columns} if is_frame(source) else set[str]()
    if isinstance(context, str) and context not in ("labels", "captions") and context in there:
        return [context]
    sequence = isinstance(context, Sequence) and not isinstance(context, str)
    if not (sequence and len(context) > 0 and all(isinstance(name, str) for name in context)):
        return None
    trained_with = [name for one in (() if like is None else like.covariates) for name in one.names]
    if trained_with:  # in its order
        return [name for name in trained_with if name in context] if set(trained_with).issuperset(context) else None
    if is_frame(source):
        return None if len(context) == len(source) and not there.issuperset(context) else list(context)
    if isinstance(source, (str, Path)):
        return list(context)
    if hasattr(source, "shape"):  # sparse matrices have a length, and refuse to say it
        return None if tuple(source.shape)[:1] == (len(context),) else list(context)
    return None if hasattr(source, "__len__") and len(source) == len(context) else list(context)


def known_levels(levels: Mapping[str, Sequence[str]], columns: list[str] | None) -> Naming | None:
    """The names of covariates where only their classes are known."""
    if not levels:
        return None
    known = (tuple(levels[name]) if name in levels else None for name in columns or ["labels"])
    covariates = (Covariate(name, classes) for name, classes in zip(columns or ["labels"], known, strict=True))
    return Naming(covariates=tuple(covariates))


def contextual(material: Material, context: Any, columns: list[str] | None, like: Naming | None) -> Material:
    """The material with the context that was asked for, where its source has not read it."""
    known = () if like is None else like.covariates
    if columns is not None:
        return material
    if context is None:
        beside = material.context  # an array of the same file
        return material if beside is None or not known else with_context(material, beside, known)
    if isinstance(context, str) and context == "captions":
        if known and material.context is not None:  # written beside the pictures, as `evaluate` writes them
            return with_context(material, material.context, known)
        return material  # they are measured once it is known which rows are for training
    if isinstance(context, str) and context == "labels":
        return context_from_labels(material, known[0].levels if known else None)
    if isinstance(context, str) and not known:
        raise ElbowroomError(
            f"--data.context is '{context}', but it should be 'labels', 'captions', a list of column names, or an "
            "array.",
            f"Pass labels, or for a column the list ['{context}'].",
        )
    return with_context(material, context, known)


def checked_drop(share: float, material: Material) -> float:
    """The share of contexts that are left out in training.

    Raises:
        ElbowroomError: it is no share below 1, or there is no context of classes alone, whose zeros say nothing.
    """
    if not 0 <= share < 1:
        raise ElbowroomError(
            f"--data.context-drop is {share:g}, but it is a share from 0 to below 1.",
            "Give for instance --data.context-drop 0.1.",
        )
    widths = [len(material.levels.get(name, "")) for name in material.context_columns or ()]
    if share and (material.context is None or 0 in widths or sum(widths) != material.context.shape[1]):
        raise ElbowroomError(
            "--data.context-drop was given, but only a context of classes can be left out: a number of 0 is a number.",
            "Leave it out, or give --data.context labels or --data.context captions.",
        )
    return share
