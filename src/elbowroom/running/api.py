"""The doctor as one call: ``er.doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.running.runs import Run, load

__all__ = ["doctor"]


def doctor(run: Run | str | Path, **settings: Any) -> Diagnosis:
    """What is wrong with a run's model; it is kept in doctor.json, where the report reads it.

    Args:
        run: a run, or the folder of one.
        **settings: of :meth:`Run.doctor`: checks, points, seed, announce.
    Raises:
        ElbowroomError: an unknown name; data that are a stream, or are gone.
    Example:
        >>> import elbowroom as er
        >>> found = er.doctor("runs/digits")                             # doctest: +SKIP
        >>> [finding.title for finding in found.findings]                # doctest: +SKIP
    """
    loaded = run if isinstance(run, Run) else load(run)
    return loaded.doctor(**settings)
