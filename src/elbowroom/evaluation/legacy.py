"""Results that version 0.1.0 wrote, converted to today's form.

Their key ``settings`` held both what was asked and what was found, and they did not name their method. Both can be
inferred from the names, and only this module does so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["modernised"]

_FOUND = {
    "acceptance",
    "chains",
    "draws",
    "elbo_of_best_normal",
    "ended_by",
    "evaluations",
    "largest_gap",
    "log_p",
    "low_ess",
    "median_ess",
    "median_pareto_k",
    "monte_carlo_stderr",
    "num_modes",
    "of",
    "rhat",
    "search_gap",
    "search_gap_stderr",
    "search_seconds",
    "seconds",
    "threshold",
    "unconverged",
    "unreliable",
    "used_chains",
    "used_temperatures",
}
_METHODS = {"reconstruction": "elbo", "kl": "elbo", "elbow room": "iwae", "active units": "active-units",
            "bdmc lower": "bdmc", "bdmc upper": "bdmc", "bdmc gap": "bdmc"}  # fmt: skip


def modernised(row: Mapping[str, Any]) -> dict[str, Any]:
    """A result with ``method``, ``asked`` and ``found``; a result without ``settings`` is returned unchanged.

    Example:
        >>> row = modernised({"name": "iwae", "settings": {"k": 50, "median_ess": 31.0, "seed": 0}})
        >>> row["method"], row["asked"], row["found"]
        ('iwae', {'k': 50, 'seed': 0}, {'median_ess': 31.0})
    """
    if "settings" not in row:
        return dict(row)
    settings = dict(row["settings"])
    name = row["name"].partition(",")[0].partition(" (")[0]
    method = settings.pop("method", None) or _METHODS.get(name, name)
    found = {key: value for key, value in settings.items() if key in _FOUND}
    asked = {key: value for key, value in settings.items() if key not in _FOUND}
    if "used_chains" in found:
        asked["chains"] = _chains_asked(asked, found)
    if (method, name) == ("iwae", "elbow room"):
        asked.setdefault("num_samples", 1)  # draws of the ELBO: the default
    if asked.get("temperatures") == "automatic":
        asked["temperatures"] = None
    known = {key: value for key, value in row.items() if key != "settings"}
    return {**known, "method": method, "asked": asked, "found": found}


def _chains_asked(asked: Mapping[str, Any], found: Mapping[str, Any]) -> int | None:
    """The number of chains, if it is not the one that annealing takes by default; it was not recorded."""
    chains: int = found["used_chains"]
    usual = {32}
    if found.get("used_temperatures") == 1:
        usual = {100, 200} if asked.get("temperatures") == "automatic" else {100}
    return None if chains in usual else chains
