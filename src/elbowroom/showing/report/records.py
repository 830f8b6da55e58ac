"""The results in evaluation.json and the history in metrics.jsonl, read and checked for a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.running.folder import RunFolder

__all__ = ["StoredResult", "StoredResults", "read_history", "read_results"]

# the tightest bound first
_METHODS = ("exact", "ais", "laplace-is", "iwae", "k-curve", "log p(x)", "elbo")
_SPLITS = ("test", "all", "validation", "train")
_TEXTS = ("ended_by",)  # everything else in `found` is a number


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result from evaluation.json, with the step of the checkpoint that it was measured on.

    Attributes:
        result: name, value, standard error and settings.
        step: of the checkpoint; None where the file does not say.
    """

    result: Result
    step: int | None = None

    @property
    def method(self) -> str:
        """Name of the evaluation method: ais, room, …, as `evaluate --methods` takes it."""
        return self.result.method


@dataclass(frozen=True, slots=True)
class StoredResults:
    """All results of a run, and which of them to show first.

    Attributes:
        all: in the order of measurement.
        dataset: the one that the run was trained on.
        binarization: the one that the run was trained with.
        step: of the run's present weights.
    """

    all: tuple[StoredResult, ...]
    dataset: str
    binarization: str
    step: int

    def is_stale(self, stored: StoredResult) -> bool:
        """Whether a result is of another checkpoint than the run's present one."""
        return stored.step is not None and stored.step != self.step

    def is_own(self, stored: StoredResult) -> bool:
        """Whether a result is of the run's own data set, with its own binarization."""
        protocol = stored.result.protocol
        return (protocol["dataset"], protocol["binarization"]) == (self.dataset, self.binarization)

    def best(self, wanted: Callable[[StoredResult], bool]) -> StoredResult | None:
        """The result to show, among those that are wanted.

        Ordered by: present weights, own data set, held-out split, tightest method, most examples, highest value (of two
        lower bounds on the same data the higher is the tighter).
        """
        found = [one for one in self.all if wanted(one) and math.isfinite(one.result.value)]
        return max(found, key=self._rank, default=None)

    def bound(self) -> StoredResult | None:
        """The lower bound on log p(x) to show first, or log p(x) itself where it was summed over all codes."""
        return self.best(
            lambda one: (
                one.result.bound in ("lower", "exact") and one.result.unit == "nats" and one.result.name in _METHODS
            )
        )

    def gap_of(self, stored: StoredResult) -> Result | None:
        """The BDMC gap on simulated data with the same settings; the latest, if any."""
        same = ("start", "climbs", "precision", "temperatures", "tolerance", "schedule", "used_temperatures",
                "used_chains", "seed")  # fmt: skip

        def settings(result: Result) -> list[Any]:
            return [{**result.asked, **result.found}.get(name) for name in same]

        gaps = [
            one.result
            for one in self.all
            if one.result.name == "bdmc gap"
            and settings(one.result) == settings(stored.result)
            and one.step == stored.step
        ]
        return gaps[-1] if gaps else None

    def room(self) -> StoredResult | None:
        """The elbow room to show: where there is one for the same data, that of the method room, which also divides it.

        Headline, figures and tables all take it from here, so that a report has one.
        """
        measured = self.best(lambda one: one.result.name == "elbow room")
        if measured is None:
            return None
        parts = self.parts_of_room(measured.result.split)
        divided = next((one for one in parts if one.result.name == "elbow room"), measured)
        return divided if self._rank(divided)[:3] == self._rank(measured)[:3] else measured

    def parts_of_room(self, split: str) -> list[StoredResult]:
        """The results of the latest run of the method room on a split: of the present weights, of most examples."""
        top = self.best(lambda one: one.method == "room" and one.result.split == split)
        if top is None:
            return []
        wanted = (split, top.result.points, top.step, top.result.protocol)
        same = {
            one.result.name: one
            for one in self.all
            if one.method == "room" and (one.result.split, one.result.points, one.step, one.result.protocol) == wanted
        }
        return list(same.values())

    def _rank(self, one: StoredResult) -> tuple[bool, bool, int, int, int, float]:
        result = one.result
        return (
            not self.is_stale(one),
            self.is_own(one),
            -_position(_SPLITS, result.split),
            -_position(_METHODS, "exact" if result.bound == "exact" else result.name),
            result.points,
            result.value,
        )


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


# --- reading -----------------------------------------------------------------------------------------------------


def read_results(folder: RunFolder, *, dataset: str, binarization: str, step: int) -> StoredResults:
    """The results in evaluation.json.

    Args:
        folder: of the run.
        dataset, binarization: those that the run was trained with.
        step: of its weights.
    Raises:
        ElbowroomError: the file is damaged, or holds an entry that is not a result.
    """
    path = folder.path / "evaluation.json"
    rows = folder.evaluations()
    try:
        found = tuple(StoredResult(_checked(Result.model_validate(row)), row.get("step")) for row in rows)
    except (ValidationError, ElbowroomError, TypeError, ValueError, KeyError) as error:
        what = f"{error.error_count()} faults" if isinstance(error, ValidationError) else str(error).split("\n")[0]
        raise ElbowroomError(
            f"{path} holds an entry that is not a result ({type(error).__name__}: {what}).",
            "Restore it, or delete it and evaluate again.",
        ) from error
    return StoredResults(found, dataset, binarization, step)


def _checked(result: Result) -> Result:
    """The result, if it has all that a report shows of it."""
    for name in ("dataset", "binarization", "seed"):
        if name not in result.protocol:
            raise ValueError(f"the protocol of {result.name} has no {name}")
    for name, given in result.found.items():
        if given is not None and name not in _TEXTS and not isinstance(given, int | float):
            raise ValueError(f"{name} of {result.name} is {given!r}, not a number")
    if result.unit in ("units", "codes") and "of" not in result.found:
        raise ValueError(f"{result.name} is a count of nothing")
    asked = Settings.of(result.asked).model_dump(include=set(result.asked))
    return result.model_copy(update={"asked": asked})


def read_history(folder: RunFolder) -> list[dict[str, Any]]:
    """The training history in metrics.jsonl, a row per report.

    Raises:
        ElbowroomError: a line is damaged.
    """
    path = folder.path / "metrics.jsonl"
    try:
        rows = folder.metrics()
        for row in rows:
            if not {"step", "split", "seconds"} <= row.keys():
                raise ValueError(f"a line without step, split or seconds: {sorted(row)}")
    except (ValueError, AttributeError, TypeError) as error:
        raise ElbowroomError(
            f"{path} holds a line that is not a valid report ({type(error).__name__}: {error}).",
            "Restore it; it holds the training curves.",
        ) from error
    return rows
