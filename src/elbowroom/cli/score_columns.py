"""Which columns make rows unlikely, as `score` writes and says it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from elbowroom.data.dataset import DataSet
    from elbowroom.evaluation.column_scores import ColumnScores
    from elbowroom.running.runs import Run

__all__ = ["cells_path", "in_words", "of_cells", "of_rows", "wants_columns"]

_SAID = 3  # cells that are named
_SURPRISING = 4.0  # nats below the usual: of a normal column, three standard deviations


def wants_columns(run: Run, asked: Literal["auto", "yes", "no"]) -> bool:
    """Whether columns are scored; with "auto" those of tables with columns of several kinds.

    Raises:
        ElbowroomError: "yes", of a model whose columns have no scores.
    """
    from elbowroom.data.support import Support
    from elbowroom.evaluation.column_scores import require_columns, why_no_columns

    if asked == "auto":
        return run.facts.support is Support.TABLE and why_no_columns(run.model) is None
    if asked == "yes":
        require_columns(run.model)
    return asked == "yes"


def cells_path(path: Path) -> Path:
    """The file of all values, beside that of all rows."""
    return path.with_name(f"{path.stem}-columns{path.suffix}")


def of_rows(run: Run, found: ColumnScores) -> dict[str, list[Any]]:
    """What the file of rows says of them: the column of the largest surprise in each row, and its numbers."""
    names, places = _names(run, found), found.least_likely
    at = places.clamp(min=0).unsqueeze(1)
    log_p, surprise = (
        part.gather(1, at).squeeze(1).masked_fill(places < 0, math.nan) for part in (found.log_p, found.surprise)
    )
    return {
        "least_likely_column": ["" if place < 0 else names[place] for place in places.tolist()],
        "least_likely_log_p": log_p.tolist(),
        "surprise": surprise.tolist(),
    }


def of_cells(run: Run, found: ColumnScores, source: DataSet) -> dict[str, list[Any]]:
    """The file of values: a line for each column of each row."""
    names = _names(run, found)
    own = {
        "column": names * len(found.rows),
        "log_p": found.log_p.flatten().tolist(),
        "stderr": found.stderr.flatten().tolist(),
        "surprise": found.surprise.flatten().tolist(),
        "reliable": found.reliable.flatten().tolist(),
    }
    return source.row_columns(found.rows.repeat_interleave(len(names)), own) | own


def in_words(run: Run, found: ColumnScores, source: DataSet) -> list[str]:
    """The most surprising values, if any are surprising."""
    names = _names(run, found)
    surprise = found.surprise.nan_to_num(nan=-math.inf).flatten()
    number = int((surprise > _SURPRISING).sum())
    if not number:
        return []
    cells = surprise.topk(min(number, _SAID)).indices
    places = [place for place, *_ in zip(*source.row_columns(found.rows[cells // len(names)]).values(), strict=True)]
    said = [
        f"{names[int(cell) % len(names)]} in row {place} (log p {float(found.log_p.flatten()[cell]):.1f}, "
        f"{float(surprise[cell]):.1f} below the usual)"
        for cell, place in zip(cells, places, strict=True)
    ]
    more = f", and {number - _SAID:,} more" if number > _SAID else ""
    return [f"unlikely given the rest of their row: {', '.join(said)}{more}"]


def _names(run: Run, found: ColumnScores) -> list[str]:
    """The names of the columns; without any, their numbers."""
    names = run.naming.columns
    return [str(place) for place in range(found.log_p.shape[1])] if names is None else list(names)
