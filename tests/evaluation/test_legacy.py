"""Results as version 0.1.0 wrote them, and what is made of them."""

from __future__ import annotations

from typing import Any

import pytest

from elbowroom.evaluation.legacy import modernised
from elbowroom.evaluation.settings import Settings

#: name, settings of the file -> method, asked, found
ROWS: list[tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = [
    ("elbo", {"num_samples": 1, "seed": 0}, "elbo", {"num_samples": 1, "seed": 0}, {}),
    ("elbo, bits per dimension", {"num_samples": 1, "seed": 0}, "elbo", {"num_samples": 1, "seed": 0}, {}),
    ("elbo (cross-entropy: not a log-likelihood)", {"seed": 0}, "elbo", {"seed": 0}, {}),
    ("kl", {"num_samples": 1, "seed": 0}, "elbo", {"num_samples": 1, "seed": 0}, {}),
    ("reconstruction", {"num_samples": 2, "seed": 0}, "elbo", {"num_samples": 2, "seed": 0}, {}),
    (
        "iwae",
        {"k": 50, "median_ess": 47.6, "median_pareto_k": 0.25, "unreliable": 0.225, "seed": 0},
        "iwae",
        {"k": 50, "seed": 0},
        {"median_ess": 47.6, "median_pareto_k": 0.25, "unreliable": 0.225},
    ),
    ("elbow room", {"k": 50, "seed": 0}, "iwae", {"k": 50, "num_samples": 1, "seed": 0}, {}),
    (
        "active units",
        {"of": 3, "threshold": 0.01, "seed": 0},
        "active-units",
        {"seed": 0},
        {"of": 3, "threshold": 0.01},
    ),
    ("k-curve", {"k": 10, "seed": 0}, "k-curve", {"k": 10, "seed": 0}, {}),
    (
        "laplace-is",
        {"k": 50, "starts": 4, "low_ess": 0.0, "num_modes": 1.0, "unconverged": 0.0, "evaluations": 115.8, "seed": 0},
        "laplace-is",
        {"k": 50, "starts": 4, "seed": 0},
        {"low_ess": 0.0, "num_modes": 1.0, "unconverged": 0.0, "evaluations": 115.8},
    ),
    (
        "elbo",
        {"method": "room", "unconverged": 0.0, "evaluations": 1954.9, "seed": 0},
        "room",
        {"seed": 0},
        {"unconverged": 0.0, "evaluations": 1954.9},
    ),
    (
        "elbow room",
        {"method": "room", "k": 50, "starts": 4, "median_ess": 43.8, "low_ess": 0.0, "seed": 0},
        "room",
        {"k": 50, "starts": 4, "seed": 0},
        {"median_ess": 43.8, "low_ess": 0.0},
    ),
]
_WAY = {"start": "laplace", "climbs": 1, "schedule": "linear", "seed": 0}
_SEARCHED = {"ended_by": "tolerance", "search_gap": 0.05, "search_gap_stderr": 0.01, "search_seconds": 0.1}
_TOLD = {"monte_carlo_stderr": 0.03, "acceptance": 0.9, "seconds": 0.02, "largest_gap": 0.3}


@pytest.mark.parametrize(("name", "settings", "method", "asked", "found"), ROWS)
def test_what_was_asked_is_told_from_what_was_found(
    name: str, settings: dict[str, Any], method: str, asked: dict[str, Any], found: dict[str, Any]
) -> None:
    row = {"name": name, "value": -1.0, "settings": settings, "step": 3}
    assert modernised(row) == {
        "name": name, "value": -1.0, "step": 3, "method": method, "asked": asked, "found": found
    }  # fmt: skip
    assert row["settings"] is settings  # what was given is as it was
    Settings.of(asked)


@pytest.mark.parametrize(
    ("temperatures", "used", "chains", "asked"),
    [
        ("automatic", 8, 32, {"temperatures": None, "chains": None}),
        ("automatic", 1, 200, {"temperatures": None, "chains": None}),
        ("automatic", 1, 50, {"temperatures": None, "chains": 50}),
        (1000, 1000, 32, {"temperatures": 1000, "chains": None}),
        (1000, 1000, 16, {"temperatures": 1000, "chains": 16}),
        (1, 1, 100, {"temperatures": 1, "chains": None}),
        (1, 1, 200, {"temperatures": 1, "chains": 200}),
    ],
)
def test_chains_were_asked_for_where_annealing_takes_others(
    temperatures: Any, used: int, chains: int, asked: dict[str, Any]
) -> None:
    told = {"used_temperatures": used, "used_chains": chains, **_SEARCHED, **_TOLD}
    for name, method in (("ais", "ais"), ("bdmc gap", "bdmc"), ("bdmc lower", "bdmc"), ("bdmc upper", "bdmc")):
        row = modernised({"name": name, "settings": {**_WAY, "temperatures": temperatures, **told}})
        assert (row["method"], row["asked"], row["found"]) == (method, {**_WAY, **asked}, told)
        Settings.of(row["asked"])


def test_what_is_of_today_stays() -> None:
    row = {"name": "elbo", "method": "elbo", "asked": {"seed": 0}, "found": {}}
    assert modernised(row) == row
