"""Functions of a run or its folder: ``er.doctor``, ``er.posterior`` and ``er.sample_given``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.inference.posterior.sample import Posterior
from elbowroom.running.given import GivenSample
from elbowroom.running.runs import Run, as_run

__all__ = ["doctor", "posterior", "sample_given"]


def doctor(run: Run | str | Path, *, checkpoint: str | None = None, **settings: Any) -> Diagnosis:
    """Checks a run's model for faults, and writes the findings to doctor.json, where the report reads them.

    Args:
        run: a run, or the folder of one.
        checkpoint: which weights of the run in a folder: "best" (the default) or "latest".
        **settings: those of :meth:`Run.doctor`: data, checks, points, seed, announce.
    Raises:
        ElbowroomError: an unknown check; data that are a stream, or are no longer there.
    Example:
        >>> import elbowroom as er
        >>> found = er.doctor("runs/digits")                             # doctest: +SKIP
        >>> [finding.title for finding in found.findings]                # doctest: +SKIP
    """
    return as_run(run, checkpoint=checkpoint).doctor(**settings)


def posterior(
    run: Run | str | Path, source: Any = None, *, checkpoint: str | None = None, **settings: Any
) -> Posterior:
    """Draws from the posterior p(z | x) of a run's model, by Markov chains.

    Args:
        run: a run, or the folder of one.
        source: the data: a path or an array; by default the run's own test set.
        checkpoint: which weights of the run in a folder: "best" (the default) or "latest".
        **settings: those of :meth:`Run.posterior`.
    Example:
        >>> import elbowroom as er
        >>> found = er.posterior("runs/digits", method="nuts", draws=200, chains=4)  # doctest: +SKIP
        >>> found.z.shape, print(found.summary().text())                             # doctest: +SKIP
    """
    return as_run(run, checkpoint=checkpoint).posterior(source, **settings)


def sample_given(
    run: Run | str | Path,
    given: Mapping[str, Any],
    num_samples: int = 25,
    *,
    checkpoint: str | None = None,
    **settings: Any,
) -> GivenSample:
    """Rows of a run's table given some of its columns, by importance sampling of p(z | these columns).

    Args:
        run: a run, or the folder of one.
        given: a value for each of these columns: a name, a number, a truth or a date.
        num_samples: rows.
        checkpoint: which weights of the run in a folder: "best" (the default) or "latest".
        **settings: those of :meth:`Run.sample_given`.
    Example:
        >>> import elbowroom as er
        >>> found = er.sample_given("runs/customers", {"city": "Oslo", "age": 30}, 100)  # doctest: +SKIP
        >>> found.table["spend"].mean(), found.warnings()                                # doctest: +SKIP
        (24.7, [])
    """
    return as_run(run, checkpoint=checkpoint).sample_given(given, num_samples, **settings)
