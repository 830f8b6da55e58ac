"""A report of a comparison: ranking, log p(x) during training, settings, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elbowroom import __version__
from elbowroom.running.comparison import UNITS, Comparison, amount
from elbowroom.running.config import Config, configure, merge, read_recipe, recipe_names
from elbowroom.running.preflight import NO_LIMIT
from elbowroom.showing import gallery
from elbowroom.showing.report.blocks import (
    Block,
    Column,
    Commands,
    FactList,
    FactSheet,
    Figure,
    Group,
    Headline,
    Listing,
    Prose,
    Report,
    ReportSection,
    Table,
)
from elbowroom.showing.report.figures import attempt, chart
from elbowroom.showing.report.repeat import recipe_toml
from elbowroom.showing.report.words import bits, command, differences, duration, estimate, plain, split_data
from elbowroom.showing.standings import standings, trajectories

__all__ = ["report_of_comparison"]

# settings that a comparison gives to every recipe: length and reports; they are not listed as differences
_GIVEN = {f"train.{key}" for key in (*NO_LIMIT["train"], "epochs", "report_every")}


def report_of_comparison(found: Comparison) -> Report:
    """The report of a comparison.

    Args:
        found: as read from its folder.
    """
    sections = (
        ReportSection("standings", "Ranking", "Ranking", tuple(_standings(found))),
        ReportSection("course", "log p(x) during training", "Training", tuple(_trajectories(found))),
        ReportSection("recipes", "Recipes and their settings", "Recipes", tuple(_recipes(found))),
        ReportSection("repeat", "How to repeat it", "Repeat", tuple(_how_to_repeat(found))),
    )
    method, split = found.yardstick, found.yardstick["splits"][0]
    learners = ", ".join(sorted({entrant.learner for entrant in found.entrants.values()}))
    return Report(
        subject="comparison",
        name=found.folder.resolve().name,
        place=str(found.folder),
        lead=(
            f"{len(found.entrants)} recipes ({learners}) on {method['protocol']['dataset']}, each trained for "
            f"{amount(found.budget['of'], found.budget['amount'])}, all evaluated on the same "
            f"{method['points'][split]:,} {split} examples."
        ),
        headline=_headline(found),
        tiles=(),
        sections=sections,
        maker=f"elbowroom {__version__}",
    )


def _headline(found: Comparison) -> Headline:
    """The best recipe, and its lead over the second."""
    ranked = [standing for standing in found.standings() if standing.value is not None]
    if not ranked:
        return Headline(
            "log p(x)", "not measured", "", ("No recipe has reached the end of the budget.",), tone="warning"
        )
    best = ranked[0]
    assert best.value is not None
    details = [f"The best recipe is {best.recipe} ({best.learner}). The figure is a lower bound, by {_method(found)}."]
    if len(ranked) > 1:
        second = ranked[1]
        assert second.difference is not None
        ahead = estimate(-second.difference, second.difference_stderr)
        details.append(f"It leads {second.recipe} by {ahead} nats; ± is the standard error of paired differences.")
    return Headline("log p(x) ≥", estimate(best.value, best.stderr), "nats per example", tuple(details))


def _method(found: Comparison) -> str:
    method = found.yardstick
    return f"importance sampling from Laplace approximations, k = {method['k']:,}, {bits(method['protocol'])}"


# --- ranking and training -----------------------------------------------------------------------------------------


def _standings(found: Comparison) -> list[Block]:
    blocks: list[Block] = []
    if found.rows:
        blocks.append(attempt(lambda: _picture(found), "The curves"))
    for split in found.yardstick["splits"]:
        rows = standings(found, split)
        points = found.yardstick["points"][split]
        caption = f"At the end of the budget, {points:,} {split} examples; nats per example, best first"
        blocks.append(_table(caption, rows))
    blocks.append(
        Prose(
            "ESS is the effective sample size of the importance draws, the median over examples: where it is small, "
            "the bound is loose. “± paired” is the standard error of the difference from the best, from differences "
            "per example. “gradients” counts evaluations of the decoder with its gradient."
        )
    )
    failed = [entrant for entrant in found.entrants.values() if entrant.failed is not None]
    return [*blocks, *(Prose(f"{entrant.recipe} failed: {entrant.failed}", tone="warning") for entrant in failed)]


def _table(caption: str, rows: Sequence[Mapping[str, str]]) -> Table:
    columns = tuple(Column(title, numeric=title not in ("recipe", "training method")) for title in rows[0])
    cells = tuple(tuple(map(_typeset, columns, row.values())) for row in rows)
    return Table(caption, columns, (Group(cells),))


def _typeset(column: Column, cell: str) -> str:
    return cell.replace("-", "−") if column.numeric else cell


def _picture(found: Comparison) -> Figure:
    said = "; ".join(
        f"{standing.recipe} ends at {estimate(standing.value, standing.stderr)} after {duration(standing.seconds)}"
        for standing in found.standings()
        if standing.value is not None and standing.seconds is not None
    )
    return chart(
        gallery.comparison(found),
        alt="Two panels, log p(x) in nats per example against wall time and against decoder gradients, "
        f"both logarithmic, a line for each recipe. {said or 'No recipe has reached the end'}.",
        caption="Left against wall time, right against decoder gradients: the ranking can differ between the two.",
    )


def _trajectories(found: Comparison) -> list[Block]:
    unit = UNITS[found.budget["of"]]
    return [
        _table(f"log p(x) ≥ on {split_data(split)}, nats per example, after so many {unit}", trajectories(found, split))
        for split in found.yardstick["splits"]
    ]


# --- recipes -----------------------------------------------------------------------------------------------------


def _recipes(found: Comparison) -> list[Block]:
    """How all were evaluated, and the settings in which the recipes differ."""
    method = found.yardstick
    points = ", ".join(f"{number:,} {split}" for split, number in method["points"].items())
    facts = FactList("How it was measured", (
        ("data set", str(method["protocol"]["dataset"])),
        ("protocol", bits(method["protocol"])),
        ("examples", points),
        ("method", f"{method['method']}, k = {method['k']:,}, {method['starts']} restarts of the mode search"),
        ("seed of the draws", str(method["seed"])),
        ("budget of each recipe", amount(found.budget["of"], found.budget["amount"])),
    ))  # fmt: skip
    flat = {name: _flat(entrant.config) for name, entrant in found.entrants.items()}
    keys = [key for key in next(iter(flat.values()), {}) if key not in _GIVEN]
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in flat.values()}) > 1]
    if not differing:
        return [FactSheet((facts,))]
    columns = (Column("setting"), *(Column(name) for name in flat))
    rows = tuple((key, *(plain(settings.get(key)) for settings in flat.values())) for key in differing)
    return [FactSheet((facts,)), Table("The settings in which the recipes differ", columns, (Group(rows),))]


def _flat(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, given in keys.items():
        out |= _flat(given, f"{prefix}{key}.") if isinstance(given, Mapping) else {f"{prefix}{key}": given}
    return out


# --- repeating ---------------------------------------------------------------------------------------------------


def _how_to_repeat(found: Comparison) -> list[Block]:
    """The commands, and the recipes that do not come with the package."""
    method, unit = found.yardstick, found.budget["of"]
    own = {name: not _is_packaged(name, entrant.config) for name, entrant in found.entrants.items()}
    names = [f"{name}.toml" if own[name] else name for name in found.entrants]
    splits = method["splits"]
    flags = [
        *(f"--{unit.replace('_', '-')}", f"{found.budget['amount']:.10g}"),
        *("--moments", str(len(found.moments))),
        *([] if splits == ["test"] else ["--splits", ",".join(splits)]),
        *("--points", str(max(method["points"].values()))),
        *("--k", str(method["k"]), "--starts", str(method["starts"])),
        *([] if method["seed"] == 0 else ["--seed", str(method["seed"])]),
        *("--out", str(found.folder)),
    ]
    report = [command("report", found.folder), *(command("report", found.folder / name) for name in found.entrants)]
    first, *rest = names
    lines = Commands((command("compare", first, *rest, *flags), *report))
    recipes = [
        Listing(f"The recipe {name}.toml", recipe_toml(_settings(entrant.config)))
        for name, entrant in found.entrants.items()
        if own[name]
    ]
    return [lines, *recipes]


def _settings(config: Mapping[str, Any]) -> Config:
    """A recipe's settings without those that a comparison gives to every recipe."""
    usual = Config().train.model_dump(mode="json")
    back = {key: usual[key] for key in (name.removeprefix("train.") for name in _GIVEN)}
    return configure(merge(config, {"train": back}))


def _is_packaged(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the settings are those of the packaged recipe, apart from what a comparison gives to every recipe."""
    if name not in recipe_names():
        return False
    packaged = configure(read_recipe(name), source=name).model_dump(mode="json")
    return not set(differences(_settings(config).model_dump(mode="json"), packaged)) - _GIVEN
