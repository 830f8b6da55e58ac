"""Draws from the posterior of a run's model, as one call: ``er.posterior``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elbowroom.inference.posterior.sample import Posterior
from elbowroom.running.runs import Run, load

__all__ = ["posterior"]


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
