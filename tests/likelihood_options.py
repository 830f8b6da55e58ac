"""What the likelihoods that are nothing without a number of their own are given in the tests."""

from __future__ import annotations

from typing import Any

#: name -> options that have no default
NEEDED: dict[str, dict[str, Any]] = {
    "categorical": {"num_categories": 4},
    "ordinal": {"levels": 5},
    "binomial": {"trials": 12},
}
#: options on which the shape of the parameters depends
SHAPING = ("scale", "components", "num_categories", "levels", "trials")


def shaping(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that ``parameter_shape`` takes."""
    return {name: value for name, value in options.items() if name in SHAPING}
