"""The chains of Monte Carlo EM as the reports of its training tell of them: acceptance and divergent transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elbowroom.phrasing import phrased

__all__ = ["ChainRecord", "chain_record"]


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


def _percent(share: float) -> str:
    return "under 0.1%" if 0 < share < 1e-3 else f"{share:.1%}"
