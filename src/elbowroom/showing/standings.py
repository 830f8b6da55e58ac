"""The tables of a comparison as text, for the terminal and for a report: ranking, and log p(x) during training."""

from __future__ import annotations

import math

from elbowroom.running.comparison import BASELINE, Comparison, RankedRecipe

__all__ = ["figure", "headline", "standings", "trajectories"]


def headline(found: Comparison) -> str:
    """Data set, number of examples and binarization, on one line."""
    protocol, split = found.yardstick["protocol"], found.yardstick["splits"][0]
    bits = "" if protocol["binarization"] == "none" else f" · {protocol['binarization']} binarization"
    return f"{protocol['dataset']} · {found.yardstick['points'][split]:,} {split} examples{bits}"


def standings(found: Comparison, split: str) -> list[dict[str, str]]:
    """The ranking at the end of the budget: a row per recipe, best first, and below them simple models of a table; the
    keys are the column titles."""
    ranked = [*found.standings(split), *found.baselines(split)]
    return [_standing(found, standing, split) for standing in ranked]


def trajectories(found: Comparison, split: str) -> list[dict[str, str]]:
    """log p(x) during training: a row per recipe in the order of the ranking, a column per measurement point."""
    rows = []
    for standing in found.standings(split):
        row = {"recipe": standing.recipe}
        for moment in found.moments:
            measured = found.row(standing.recipe, split, moment)
            title = f"{moment:,.10g}" if moment >= 100 else f"{moment:.3g}"
            row[title] = figure(None if measured is None else measured.value)
        rows.append(row)
    return rows


def figure(value: float | None, spec: str = ".2f") -> str:
    """A number as text with two decimals or as given, with a hyphen for a minus; empty for None.

    Example:
        >>> figure(-91.346), figure(None), figure(math.nan)
        ('-91.35', '', 'not finite')
    """
    return "" if value is None else format(value, spec) if math.isfinite(value) else "not finite"


def _standing(found: Comparison, standing: RankedRecipe, split: str) -> dict[str, str]:
    last = found.row(standing.recipe, split, found.moments[-1])
    is_best = standing.difference == 0 and standing.learner != BASELINE
    nothing = "failed" if standing.failed else "not measured"
    return {
        "recipe": standing.recipe,
        "training method": standing.learner,
        "log p(x) ≥": nothing if standing.value is None else figure(standing.value),
        "± s.e.": figure(standing.stderr),
        "ESS": figure(None if last is None else last.median_ess, ".0f"),
        "from best": "best" if is_best else figure(standing.difference, "+.2f"),
        "± paired": figure(standing.difference_stderr),
        "seconds": figure(standing.seconds, ",.1f"),
        "epochs": figure(standing.epochs, ",.1f"),
        "s / epoch": figure(standing.seconds_per_epoch, ".3g"),
        "gradients": figure(standing.decoder_gradients, ",d"),
    }
