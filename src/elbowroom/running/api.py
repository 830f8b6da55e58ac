"""What a run can do as one call, with the run or its folder: ``er.doctor`` and ``er.posterior``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.inference.posterior.sample import Posterior
from elbowroom.running.runs import Run, load

__all__ = ["doctor", "posterior"]


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


def posterior(run: Run | str | Path, source: Any = None, **settings: Any) -> Posterior:
    """Draws from p(z | x) of a run's model.

    Args:
        run: a run, or the folder of one.
        source: the data: a path, an array; the run's own test set unless given.
        **settings: of :meth:`Run.posterior`.
    Example:
        >>> import elbowroom as er
        >>> found = er.posterior("runs/digits", method="nuts", draws=200, chains=4)  # doctest: +SKIP
        >>> found.z.shape, print(found.summary().text())                             # doctest: +SKIP
    """
    loaded = run if isinstance(run, Run) else load(run)
    return loaded.posterior(source, **settings)
