"""A comparison's folder, collected into a report: who came first, how they got there, what they differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elbowroom import __version__
from elbowroom.running.comparison import Comparison, amount
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
from elbowroom.showing.report.words import bits, command, differences, duration, estimate, plain
from elbowroom.showing.standings import course, standings

__all__ = ["report_of_comparison"]

# what a comparison puts in the place of a recipe's own, so that nothing can be learned from a difference in it
_GIVEN = {f"train.{key}" for key in (*NO_LIMIT["train"], "epochs", "report_every")}


def report_of_comparison(found: Comparison) -> Report:
    """All that is known of a comparison.

    Args:
        found: as read from its folder.
    """
    sections = (
        ReportSection("standings", "Who came first", "Standings", tuple(_standings(found))),
        ReportSection("course", "How they got there", "Course", tuple(_course(found))),
        ReportSection("recipes", "What was compared", "Recipes", tuple(_recipes(found))),
        ReportSection("repeat", "How to repeat it", "Repeat", tuple(_repeated(found))),
    )
    yardstick, split = found.yardstick, found.yardstick["splits"][0]
    learners = ", ".join(sorted({entrant.learner for entrant in found.entrants.values()}))
    return Report(
        subject="comparison",
        name=found.folder.resolve().name,
        place=str(found.folder),
        lead=(
            f"{len(found.entrants)} recipes ({learners}) on {yardstick['protocol']['dataset']}, each trained for "
            f"{amount(found.budget['of'], found.budget['amount'])}, all measured on the same "
            f"{yardstick['points'][split]:,} {split} data."
        ),
        headline=_headline(found),
        tiles=(),
        sections=sections,
        maker=f"elbowroom {__version__}",
    )


def _headline(found: Comparison) -> Headline:
    """The best, and by how much."""
    ranked = [standing for standing in found.standings() if standing.value is not None]
    if not ranked:
        return Headline(
            "log p(x)", "not measured", "", ("No recipe has reached the end of the budget.",), tone="warning"
        )
    best = ranked[0]
    assert best.value is not None
    details = [f"{best.recipe} ({best.learner}) came first: a lower bound, by {_method(found)}."]
    if len(ranked) > 1:
        second = ranked[1]
        assert second.difference is not None
        ahead = estimate(-second.difference, second.difference_stderr)
        details.append(f"It is {ahead} nats ahead of {second.recipe}; the error is that of paired differences.")
    return Headline("log p(x) ≥", estimate(best.value, best.stderr), "nats per datum", tuple(details))


def _method(found: Comparison) -> str:
    yardstick = found.yardstick
    return f"importance sampling around modes of the posterior, k = {yardstick['k']:,}, {bits(yardstick['protocol'])}"


# --- standings and course ----------------------------------------------------------------------------------------


def _standings(found: Comparison) -> list[Block]:
    blocks: list[Block] = []
    if found.rows:
        blocks.append(attempt(lambda: _picture(found), "The curves"))
    for split in found.yardstick["splits"]:
        rows = standings(found, split)
        caption = (
            f"At the end of the budget, {found.yardstick['points'][split]:,} {split} data; nats per datum, best first"
        )
        blocks.append(_table(caption, rows))
    blocks.append(
        Prose(
            "ESS is the effective number of importance draws, the median over data: where it is small, the bound is "
            "loose. “± paired” is the standard error of the difference from the best, from the differences of the "
            "single data; gradients are evaluations of the decoder with its gradient."
        )
    )
    failed = [entrant for entrant in found.entrants.values() if entrant.failed is not None]
    return [*blocks, *(Prose(f"{entrant.recipe} failed: {entrant.failed}", tone="warning") for entrant in failed)]


def _table(caption: str, rows: Sequence[Mapping[str, str]]) -> Table:
    columns = tuple(Column(title, numeric=title not in ("recipe", "learner")) for title in rows[0])
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
        alt="Two panels, log p(x) in nats per datum against wall time and against evaluations of the decoder with its "
        f"gradient, both logarithmic, a line for each recipe. {said or 'None has ended'}.",
        caption="Left by the clock, right by the work: a recipe can lead in one and trail in the other.",
    )


def _course(found: Comparison) -> list[Block]:
    after = f"after so many {found.budget['of'].replace('_', ' ')}"
    return [
        _table(f"log p(x) ≥ of the {split} data {after}, nats per datum", course(found, split))
        for split in found.yardstick["splits"]
    ]


# --- recipes -----------------------------------------------------------------------------------------------------


def _recipes(found: Comparison) -> list[Block]:
    """The common ground, and the settings in which recipes differ."""
    yardstick = found.yardstick
    points = ", ".join(f"{number:,} {split}" for split, number in yardstick["points"].items())
    facts = FactList("The yardstick", (
        ("data set", str(yardstick["protocol"]["dataset"])),
        ("protocol", bits(yardstick["protocol"])),
        ("data measured", points),
        ("method", f"{yardstick['method']}, k = {yardstick['k']:,}, {yardstick['starts']} starts"),
        ("seed of its draws", str(yardstick["seed"])),
        ("budget of each", amount(found.budget["of"], found.budget["amount"])),
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


def _repeated(found: Comparison) -> list[Block]:
    """The command, and those recipes that do not come with the package."""
    yardstick, unit = found.yardstick, found.budget["of"]
    own = {name: not _is_packaged(name, entrant.config) for name, entrant in found.entrants.items()}
    names = [f"{name}.toml" if own[name] else name for name in found.entrants]
    splits = yardstick["splits"]
    flags = [
        *(f"--{unit.replace('_', '-')}", f"{found.budget['amount']:.10g}"),
        *("--moments", str(len(found.moments))),
        *([] if splits == ["test"] else ["--splits", ",".join(splits)]),
        *("--points", str(max(yardstick["points"].values()))),
        *("--k", str(yardstick["k"]), "--starts", str(yardstick["starts"])),
        *([] if yardstick["seed"] == 0 else ["--seed", str(yardstick["seed"])]),
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
    """Without what a comparison gives every recipe: the length, and when it reports."""
    usual = Config().train.model_dump(mode="json")
    back = {key: usual[key] for key in (name.removeprefix("train.") for name in _GIVEN)}
    return configure(merge(config, {"train": back}))


def _is_packaged(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the recipe is the packaged one of its name, but for what the comparison decides."""
    if name not in recipe_names():
        return False
    packaged = configure(read_recipe(name), source=name).model_dump(mode="json")
    return not set(differences(_settings(config).model_dump(mode="json"), packaged)) - _GIVEN
