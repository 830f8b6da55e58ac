"""The data that a run was trained on: whether they are still the same, and which of them it learned from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.running.folder import RunFolder

__all__ = ["check_same_data", "with_recorded_splits"]


def check_same_data(content: dict[str, Any], data: DataSet | StreamSet, folder: RunFolder) -> None:
    """Refuses to go on with data that are not those of the run.

    Args:
        content: of the run's config.json.
        data: what there is now.
        folder: of the run, for the message.
    Raises:
        ElbowroomError: the digests differ, or the number of covariates.
    """
    had, has = content["facts"]["context_dim"], data.context_dim
    if had != has:
        raise ElbowroomError(
            f"The run {folder.path} was trained with {had} covariates, but the data come with {has}.",
            "Give context= (or labels=) as when it was trained.",
        )
    before, now = content["data"], data.protocol()
    both = {key for key in before.keys() & now.keys() if key.startswith("sha256")}  # labels may be left out
    for key in sorted(both | {"sha256", "sha256_of_rows"}):
        if before.get(key) != now.get(key):
            what = {"sha256_context": "context", "sha256_labels": "labels"}.get(key)
            raise ElbowroomError(
                f"The {f'{what} of the data' if what else 'data'} {data.name} have changed since {folder.path} was "
                f"trained (SHA-256 {str(now.get(key))[:12]}…, then {str(before.get(key))[:12]}…).",
                "Restore the data, or train anew under another name.",
            )


def with_recorded_splits(data: DataSet | StreamSet, folder: RunFolder) -> DataSet | StreamSet:
    """The data with the splits that the run was trained with; a stream has none."""
    return replace(data, splits=folder.read_splits()) if isinstance(data, DataSet) else data
