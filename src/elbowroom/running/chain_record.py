"""What a run keeps of its Markov chains: those of Monte Carlo EM while it trains, and those that sample posteriors.

The reports of training tell of acceptance and divergent transitions. Draws of posteriors are kept in an archive, whose
array ``about`` is a text: JSON of the checkpoint's step, the data, the sampler's settings, and the summary of all
chains.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elbowroom.errors import ElbowroomError
from elbowroom.phrasing import phrased
from elbowroom.running.json_text import json_text
from elbowroom.samplers.summary import Summary

__all__ = ["ChainRecord", "about_chains", "chain_record", "read_about_chains"]

_KEYS = {"step", "data", "settings", "summary"}


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """What the reports say of the chains.

    Attributes:
        acceptance: mean probability of acceptance in the last report.
        divergent: share of all transitions after the warm-up that diverged; None in runs of earlier versions.
        lately: the same share in the last report.
    """

    acceptance: float
    divergent: float | None
    lately: float | None

    def warning(self) -> str | None:
        """What divergent transitions mean, with a remedy; None where there were none."""
        if not self.divergent:
            return None
        return phrased(
            f"{_percent(self.divergent)} of the transitions of the chains diverged ({_percent(self.lately or 0.0)} in "
            "the last report): where a posterior bends more sharply than the steps can follow, draws are missing. Take "
            "smaller steps by a higher target acceptance, --mcem.target-acceptance 0.9."
        )


def chain_record(history: Sequence[Mapping[str, Any]]) -> ChainRecord | None:
    """The record of the chains; None for a run that trained without any.

    Args:
        history: the reports, each about the examples that were visited since the last one.
    Example:
        >>> rows = [{"split": "train", "acceptance": 0.7, "divergent": 0.02, "visits": 100},
        ...         {"split": "train", "acceptance": 0.8, "divergent": 0.0, "visits": 400}]
        >>> chain_record(rows)
        ChainRecord(acceptance=0.8, divergent=0.005, lately=0.0)
    """
    rows = [row for row in history if row["split"] == "train" and row.get("acceptance") is not None]
    if not rows:
        return None
    last = rows[-1]
    if any(row.get("divergent") is None for row in rows):
        return ChainRecord(float(last["acceptance"]), None, None)
    visited = [int(row["visits"]) for row in rows]
    since = [now - before for now, before in zip(visited, [0, *visited[:-1]], strict=True)]
    total = sum(float(row["divergent"]) * number for row, number in zip(rows, since, strict=True))
    return ChainRecord(float(last["acceptance"]), total / visited[-1], float(last["divergent"]))


def about_chains(step: int, data: str, settings: Mapping[str, Any], summary: Summary) -> str:
    """The text that an archive of draws keeps about its chains.

    Args:
        step: of the checkpoint.
        data: which examples, a split or a file.
        settings: of the sampler.
        summary: of the diagnostics.
    """
    return json_text({"step": step, "data": data, "settings": dict(settings), "summary": summary.as_dict()})


def read_about_chains(path: Path) -> dict[str, Any] | None:
    """What an archive of draws says about its chains; None where it is not there, or of an earlier version.

    Raises:
        ElbowroomError: the archive is damaged.
    """
    if not path.is_file():
        return None
    try:
        # opened here, so that it is closed even where numpy gives up half-way
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "about" not in archive.files:
                return None
            content = json.loads(str(archive["about"][0]))
        if not content.keys() >= _KEYS:
            raise ValueError(f"it lacks {', '.join(sorted(_KEYS - content.keys()))}")
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise ElbowroomError(
            f"{path} is not an archive of draws ({type(error).__name__}: {error}).",
            "Delete it, or sample the posteriors again: `elbowroom encode RUN --posterior nuts`.",
        ) from error
    return dict(content)


def _percent(share: float) -> str:
    return "under 0.1%" if 0 < share < 1e-3 else f"{share:.1%}"
