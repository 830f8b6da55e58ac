"""A run as the doctor's patient, and the doctor as one call: ``er.doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elbowroom.evaluation.doctor import Diagnosis, diagnose
from elbowroom.evaluation.findings import Patient
from elbowroom.running.runs import Run, load

__all__ = ["doctor", "patient_of"]


def doctor(
    run: Run | str | Path, *, checks: Sequence[str] | None = None, points: int = 1000, seed: int = 0
) -> Diagnosis:
    """What is wrong with a run's model.

    Args:
        run: a run, or the folder of one.
        checks: names from ``elbowroom.evaluation.doctor.CHECKS``; all of them unless given.
        points: data that a check looks at.
        seed: of all draws.
    Raises:
        ElbowroomError: an unknown name; data that are a stream, or are gone.
    Example:
        >>> import elbowroom as er
        >>> found = er.doctor("runs/digits")                             # doctest: +SKIP
        >>> [finding.title for finding in found.findings]                # doctest: +SKIP
    """
    loaded = run if isinstance(run, Run) else load(run)
    return diagnose(patient_of(loaded, points=points, seed=seed), checks=checks)


def patient_of(run: Run, *, points: int = 1000, seed: int = 0) -> Patient:
    """The run's model and guide, its own data, and the history of its training.

    Args:
        run: whose model is to be examined.
        points: data that a check looks at.
        seed: of all draws.
    Raises:
        ElbowroomError: the run's data are a stream, or are gone.
    """
    settings = run.config.model_dump(mode="json")
    return Patient(
        run.model, run.guide if run.has_guide else None, run.dataset(), run.history, settings, points=points, seed=seed
    )
