"""What evaluation.json and metrics.jsonl hold, checked: a report says what they say, or nothing at all."""

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

# the tightest first: of bounds on the same data, annealing leaves least room
_METHODS = ("ais", "laplace-is", "iwae", "k-curve", "log p(x)", "elbo")
_SPLITS = ("test", "all", "validation", "train")
_WORDS = ("ended_by",)  # all else that is found is a number


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result, and of which weights it is.

    Attributes:
        result: the figure.
        step: updates behind the weights; None where the file does not say.
    """

    result: Result
    step: int | None = None

    @property
    def method(self) -> str:
        """ais, room, …: what `evaluate --methods` would have to be given."""
        return self.result.method


@dataclass(frozen=True, slots=True)
class StoredResults:
    """All results of a run, and which of them to believe first.

    Attributes:
        all: in the order of measuring.
        dataset: the run's own.
        binarization: likewise.
        step: of the weights that the run has now.
    """

    all: tuple[StoredResult, ...]
    dataset: str
    binarization: str
    step: int

    def is_stale(self, measured: StoredResult) -> bool:
        """Whether a result is of weights that the run no longer has."""
        return measured.step is not None and measured.step != self.step

    def is_own(self, measured: StoredResult) -> bool:
        """Whether a result is of the run's own data, under its own protocol."""
        protocol = measured.result.protocol
        return (protocol["dataset"], protocol["binarization"]) == (self.dataset, self.binarization)

    def best(self, wanted: Callable[[StoredResult], bool]) -> StoredResult | None:
        """Of the results that are wanted the one to show.

        Those of the present weights come first, then those of the run's own data, of held-out ones, of the tightest
        method, of most data; of two lower bounds on the same data the higher is the tighter.
        """
        found = [one for one in self.all if wanted(one) and math.isfinite(one.result.value)]
        return max(found, key=self._rank, default=None)

    def bound(self) -> StoredResult | None:
        """The lower bound on log p(x) to believe first."""
        return self.best(
            lambda one: (one.result.bound, one.result.unit) == ("lower", "nats") and one.result.name in _METHODS
        )

    def gap_beside(self, measured: StoredResult) -> Result | None:
        """The gap between bounds on simulated data, measured in the same way; the latest, if any."""
        same = ("start", "climbs", "temperatures", "tolerance", "schedule", "used_temperatures", "used_chains", "seed")

        def way(result: Result) -> list[Any]:
            return [{**result.asked, **result.found}.get(name) for name in same]

        gaps = [
            one.result
            for one in self.all
            if one.result.name == "bdmc gap" and way(one.result) == way(measured.result) and one.step == measured.step
        ]
        return gaps[-1] if gaps else None

    def _rank(self, one: StoredResult) -> tuple[bool, bool, int, int, int, float]:
        result = one.result
        return (
            not self.is_stale(one),
            self.is_own(one),
            -_place(_SPLITS, result.split),
            -_place(_METHODS, result.name),
            result.points,
            result.value,
        )


def _place(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)


# --- reading -----------------------------------------------------------------------------------------------------


def read_results(folder: RunFolder, *, dataset: str, binarization: str, step: int) -> StoredResults:
    """evaluation.json.

    Args:
        folder: of the run.
        dataset, binarization: the run's own.
        step: of its weights.
    Raises:
        ElbowroomError: the file is damaged, or holds something that is no result.
    """
    path = folder.path / "evaluation.json"
    rows = folder.evaluations()
    try:
        found = tuple(StoredResult(_checked(Result.model_validate(row)), row.get("step")) for row in rows)
    except (ValidationError, ElbowroomError, TypeError, ValueError, KeyError) as error:
        what = f"{error.error_count()} faults" if isinstance(error, ValidationError) else str(error).split("\n")[0]
        raise ElbowroomError(
            f"{path} holds something that is no result ({type(error).__name__}: {what}).",
            "Restore it, or delete it and evaluate again.",
        ) from error
    return StoredResults(found, dataset, binarization, step)


def _checked(result: Result) -> Result:
    """A result that can be put into words."""
    for name in ("dataset", "binarization", "seed"):
        if name not in result.protocol:
            raise ValueError(f"the protocol of {result.name} has no {name}")
    for name, given in result.found.items():
        if given is not None and name not in _WORDS and not isinstance(given, int | float):
            raise ValueError(f"{name} of {result.name} is {given!r}, no number")
    if result.unit == "units" and "of" not in result.found:
        raise ValueError(f"{result.name} is a count of nothing")
    asked = Settings.of(result.asked).model_dump(include=set(result.asked))
    return result.model_copy(update={"asked": asked})


def read_history(folder: RunFolder) -> list[dict[str, Any]]:
    """The reports of metrics.jsonl.

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
            f"{path} is not valid JSON of reports ({type(error).__name__}: {error}).",
            "Restore it; the curves of training are in it.",
        ) from error
    return rows
