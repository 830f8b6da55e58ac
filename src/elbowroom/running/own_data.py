"""Checks of a run's data: its own data are unchanged, and other data have the same shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import Naming, described, listed
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.running.build import DataFacts
from elbowroom.running.folder import RunFolder

__all__ = ["check_fits", "check_same_data", "with_recorded_splits"]


def check_same_data(content: dict[str, Any], data: DataSet | StreamSet, folder: RunFolder) -> None:
    """Refuses data that are not those that the run was trained on.

    Args:
        content: content of the run's config.json.
        data: the data that were loaded now.
        folder: of the run, for the message.
    Raises:
        ElbowroomError: the digests or the numbers of covariates differ.
    """
    had, has = content["facts"]["context_dim"], data.context_dim
    if had != has:
        raise ElbowroomError(
            f"The run {folder.path} was trained with {had} covariates, but the data have {has}.",
            "Give context= (or labels=) as when it was trained.",
        )
    before, now = content["data"], data.protocol()
    both = {key for key in before.keys() & now.keys() if key.startswith("sha256")}  # labels are optional
    for key in sorted(both | {"sha256", "sha256_of_rows"}):
        if before.get(key) != now.get(key):
            what = {"sha256_context": "context", "sha256_labels": "labels"}.get(key)
            raise ElbowroomError(
                f"The {f'{what} of the data' if what else 'data'} {data.name} have changed since {folder.path} was "
                f"trained (SHA-256 {str(now.get(key))[:12]}…, then {str(before.get(key))[:12]}…).",
                "Restore the data, or train again under another name.",
            )


def with_recorded_splits(data: DataSet | StreamSet, folder: RunFolder) -> DataSet | StreamSet:
    """The data with the splits that the run was trained with; a stream has none."""
    return replace(data, splits=folder.read_splits()) if isinstance(data, DataSet) else data


def check_fits(data: DataSet, facts: DataFacts, naming: Naming) -> None:
    """Refuses data of another shape than the model was trained on.

    Args:
        data: the data to evaluate, score or encode.
        facts: of the data that the model was trained on.
        naming: the names in those data.
    Raises:
        ElbowroomError: another shape, or another number of covariates.
    """
    if tuple(data.event_shape) != facts.event_shape:
        columns = "" if naming.columns is None else f" ({listed(naming.columns)})"
        raise ElbowroomError(
            f"The examples in {data.name} have shape {tuple(data.event_shape)}, "
            f"but the model was trained on shape {facts.event_shape}{columns}.",
            "Give data of the same shape, one example in each row.",
        )
    if not facts.context_dim and data.context_dim:
        raise ElbowroomError(
            f"{data.name} has {data.context_dim} covariates, but the model was trained without any.",
            "Leave them out.",
        )
    if data.context_dim != facts.context_dim:
        raise ElbowroomError(
            f"{data.name} has {data.context_dim} covariates, but the model was trained with {facts.context_dim}: "
            f"{described(naming.covariates)}.",
            "Give the covariates that it was trained with, too: context=… from Python, or an array named context in an "
            ".npz file.",
        )
