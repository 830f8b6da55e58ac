"""What a run is worth, from its evaluation.json: the headline, the figures beside it, the table, the room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.results import Result
from elbowroom.running.diagnosis import Checkup
from elbowroom.running.observers import BOUNDS
from elbowroom.running.runs import Run
from elbowroom.showing import gallery, plots
from elbowroom.showing.figures.room import by_split
from elbowroom.showing.report.blocks import Block, Column, Figure, Group, Headline, Prose, Table, Tile
from elbowroom.showing.report.figures import attempt, chart, k_curve
from elbowroom.showing.report.records import StoredResult, StoredResults
from elbowroom.showing.report.words import (
    annealing_remark,
    bits,
    command,
    duration,
    estimate,
    plain,
    result_name,
    tails_remark,
    value,
    verdict,
)

__all__ = ["evaluation", "headline", "room", "tiles"]

_NATS = "nats per datum"
_STARTS = {"laplace": "Laplace approximations", "guide": "the guide", "prior": "the prior"}
_NO_LIKELIHOOD = "per datum, cross-entropy"
_IN_FULL = {
    "ais": "annealed importance sampling (AIS)",
    "iwae": "importance-weighted bound (IWAE), k = {k:,}",
    "k-curve": "importance-weighted bound (IWAE), k = {k:,}",
    "laplace-is": "importance sampling around modes of the posterior, k = {k:,}",
    "log p(x)": "importance sampling around modes of the posterior, k = {k:,}",
}


def headline(
    run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None = None
) -> Headline:
    """The tightest bound that was measured on most data; else the bound that training reported; else that none is."""
    if not run.normalized:
        return _no_likelihood(run, found, history, checkup)
    best = found.bound()
    if best is not None:
        details = [_how_taken(best), *_what_it_lacks(run, found, best)]
        return Headline("log p(x) ≥", estimate(best.result.value, best.result.stderr), _NATS, tuple(details))
    ask = command("evaluate", run.folder.path)
    last = _last_report(run, history)
    if last is None:
        return Headline("log p(x)", "not measured", "", (f"`{ask}` measures it.",), tone="warning")
    name, row = last
    return Headline(
        "log p(x) ≥" if name in ("elbo", "iwae", "laplace-is") else BOUNDS[name],
        estimate(float(row[name]), row.get("stderr")),
        _NATS,
        (
            f"{BOUNDS[name]} of the {row['split']} data, as reported while training; nothing else was measured.",
            f"It is a bound with an unknown room above it. `{ask}` measures it on the test data.",
        ),
        tone="warning",
    )


def _how_taken(best: StoredResult) -> str:
    result, how = best.result, _way(best.result)
    name = _IN_FULL.get(result.name, result_name(result)).format(k=result.asked.get("k", 0))
    of = f"{result.points:,} {'' if result.split == 'all' else result.split + ' '}data of {result.protocol['dataset']}"
    return f"{name[:1].upper()}{name[1:]}{': ' + how if how else ''}. {of}, {bits(result.protocol)}."


def _what_it_lacks(run: Run, found: StoredResults, best: StoredResult) -> list[str]:
    """How far below log p(x) the figure may lie, and what else makes it less than it seems."""
    result, said = best.result, []
    gap = found.gap_beside(best) if best.method == "ais" else None
    ask = command("evaluate", run.folder.path, "--methods", "ais,bdmc")
    if gap is not None:
        said.append(
            "On data simulated from the model, where log p(x) can be bounded from both sides, the bounds lie "
            f"{estimate(gap.value, gap.stderr, '.3f')} nats apart: so far below log p(x) the figure may be."
        )
    elif best.method == "elbo":
        said.append(
            "The ELBO lies below log p(x) by the elbow room, KL(q ‖ p(z | x)), which has not been measured: "
            f"`{ask}` bounds it."
        )
    else:
        said.append(f"How far below log p(x) it lies is not known: `{ask}` measures a gap on simulated data.")
    if found.is_stale(best):
        said.append(f"This is of the weights of step {best.step:,}; the run has those of step {found.step:,} by now.")
    if not found.is_own(best):
        said.append("These are not the data, or not the protocol, that the model was trained under.")
    remark = tails_remark([result])
    return [*said, remark] if remark else said


def _no_likelihood(
    run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None
) -> Headline:
    """The cross-entropy of grey pixels bounds nothing, and the page begins with that."""
    ask = f"`{command('doctor', run.folder.path)}` says"
    why = (
        "The loss is the cross-entropy of grey pixels, which does not integrate to one: log p(x) does not exist, and "
        "no figure here compares with another model's.",
        f"{ask if checkup is None else 'The findings of the doctor, below, say'} what to do.",
    )
    best = found.best(lambda one: one.method == "elbo" and one.result.name.startswith("elbo"))
    label = "Not a log-likelihood"
    if best is not None:
        taken = f"{best.result.points:,} {best.result.split} data of {best.result.protocol['dataset']}."
        shown = estimate(best.result.value, best.result.stderr)
        return Headline(label, shown, _NO_LIKELIHOOD, (taken, *why), tone="warning")
    last = _last_report(run, history)
    if last is None:
        return Headline(label, "not measured", _NO_LIKELIHOOD, why, tone="warning")
    name, row = last
    taken = f"Of the {row['split']} data, as reported while training."
    return Headline(label, estimate(float(row[name]), row.get("stderr")), _NO_LIKELIHOOD, (taken, *why), tone="warning")


def _last_report(run: Run, history: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """What training last said of these weights, of the validation data where there are any: name and row."""
    for split in ("validation", "train"):
        rows = [row for row in history if row["split"] == split and any(row.get(name) is not None for name in BOUNDS)]
        row = next((row for row in rows if row["step"] == run.step), rows[-1] if rows else None)
        if row is not None:
            return next(name for name in BOUNDS if row.get(name) is not None), row
    return None


# --- beside the headline -----------------------------------------------------------------------------------------


def tiles(run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None) -> list[Tile]:
    """Figures beside the headline, as far as they are known."""
    out = []
    elbo = found.best(lambda one: one.result.name == "elbo")
    if elbo is not None and found.bound() is not elbo:
        out.append(Tile("ELBO", estimate(elbo.result.value, elbo.result.stderr), _data_of(elbo.result)))
    spare = found.best(lambda one: one.result.name == "elbow room")
    if spare is not None:
        least = estimate(spare.result.value, spare.result.stderr)
        out.append(Tile("elbow room", f"≥ {least}", _room_note(found, spare)))
    active = found.best(lambda one: one.method == "active-units")
    if active is not None:
        count = " ".join(part for part in value(active.result) if part)
        out.append(Tile("latents in use", count, _data_of(active.result)))
    if checkup is not None:
        out.append(Tile("the doctor", _few_words(checkup.diagnosis), _examined(checkup, found)))
    if history:
        last = history[-1]
        epochs = f"{last['epoch']:g} epochs, " if last.get("epoch") else ""
        out.append(Tile("trained for", duration(float(last["seconds"])), f"{epochs}{last['step']:,} steps"))
    return out


def _data_of(result: Result) -> str:
    return f"{result.points:,} {result.split} data"


def _room_note(found: StoredResults, spare: StoredResult) -> str:
    """What of the room the encoder loses, where the room was divided."""
    gap = found.best(lambda one: one.result.name == "amortisation gap")
    return (
        _data_of(spare.result) if gap is None else f"the encoder loses {estimate(gap.result.value, gap.result.stderr)}"
    )


def _examined(checkup: Checkup, found: StoredResults) -> str:
    """How many checks, and of which weights where the run has others now."""
    number = len(checkup.diagnosis.seconds)
    stale = checkup.step not in (None, found.step)
    return f"{number} check{'s' * (number != 1)}{f', weights of step {checkup.step:,}' if stale else ''}"


def _few_words(diagnosis: Diagnosis) -> str:
    return "nothing found" if diagnosis.healthy else verdict(diagnosis).rstrip(".").replace(" findings", "").replace(
        " finding", ""
    )  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------------------


def evaluation(run: Run, found: StoredResults) -> list[Block]:
    """Every result of the file, by the data that it is of; a figure of the bounds; what to know of them."""
    if not found.all:
        ask = command("evaluate", run.folder.path)
        return [Prose(f"Nothing has been measured yet: `{ask}` does.", tone="missing")]
    blocks: list[Block] = []
    shown = _comparable(found)
    if shown:
        blocks.append(attempt(lambda: _bounds(run, shown), "The bounds"))
    blocks.append(_table(found))
    if (best := found.bound()) is not None:
        beside = found.gap_beside(best)
        remark = annealing_remark([best.result, *([beside] if beside is not None else [])])
        blocks += [Prose(remark)] if remark else []
    tails = tails_remark([one.result for one in found.all])
    blocks += [Prose(tails, tone="warning")] if tails else []
    return [*blocks, *_curve_of_k(run, found)]


def _comparable(found: StoredResults) -> list[Result]:
    """One result of each kind on the headline's data: bounds that can stand on one axis."""
    best = found.bound()
    if best is None:
        return []
    chosen: dict[tuple[str, Any], Result] = {}
    for one in found.all:
        result = one.result
        same = (result.split, one.step, result.protocol) == (best.result.split, best.step, best.result.protocol)
        fit = result.bound is not None and math.isfinite(result.value) and one.method not in ("room", "k-curve")
        if same and fit:
            key = (result.name, result.asked.get("k"))
            if key not in chosen or result.points >= chosen[key].points:
                chosen[key] = result
    bounds = [result for result in chosen.values() if result.unit == "nats" and result.name != "elbow room"]
    return list(chosen.values()) if len(bounds) > 1 else []  # one has nothing to be compared with


def _bounds(run: Run, shown: Sequence[Result]) -> Figure:
    said = "; ".join(
        f"{result_name(result)} {estimate(result.value, result.stderr)}, {result.points:,} data"
        for result in shown
        if result.unit == "nats" and result.name != "elbow room"
    )
    return chart(
        gallery.evaluation(run, shown),
        alt=f"Bounds on log p(x) in nats per datum, each with one standard error: {said}.",
        caption="A triangle points to where log p(x) must lie. Results of different data differ by the data too.",
    )


def _table(found: StoredResults) -> Table:
    columns = ("", "value", "± s.e.", "unit", "data", "bound", "how it was taken")
    groups: dict[str, list[tuple[str, ...]]] = {}
    above: dict[str, str] = {}
    for one in found.all:
        result, place, how = one.result, _of_what(found, one), _how(one.result)
        cells = (
            result_name(result).replace(" = ", "\u00a0=\u00a0"),  # no line begins with "= 500"
            *value(result),
            f"{result.points:,}",
            "" if result.bound is None else result.bound,
            "as above" if how and how == above.get(place) else how,
        )
        above[place] = how
        groups.setdefault(place, []).append(cells)
    return Table(
        "Every result of evaluation.json; a standard error is that of the mean over data",
        tuple(Column(name, numeric=name in ("value", "± s.e.", "data"), long=name == columns[-1]) for name in columns),
        tuple(Group(tuple(rows), title) for title, rows in groups.items()),
    )


def _of_what(found: StoredResults, one: StoredResult) -> str:
    """The data, the protocol, and whether the weights have changed since."""
    protocol, split = one.result.protocol, one.result.split
    what = {"simulated": ["data simulated from the model"], "all": ["all data", str(protocol["dataset"])]}
    parts = [*what.get(split, [f"{split} data", str(protocol["dataset"])]), bits(protocol)]
    if found.is_stale(one):
        parts.append(f"weights of step {one.step:,}, the run has those of {found.step:,}")
    return " · ".join(parts)


def _how(result: Result) -> str:
    """What a result says of how it came about, in a line."""
    asked, found, parts = result.asked, result.found, []
    if result.method == "room":  # the method elbo has an ELBO too
        parts.append("method room")
    if asked.get("num_samples", 1) > 1:
        parts.append(f"{asked['num_samples']:,} draws")
    if _way(result):
        parts.append(_way(result))
    if found.get("median_ess") is not None:
        parts.append(f"ESS {found['median_ess']:,.0f}")
    if found.get("median_pareto_k") is not None:
        parts.append(f"Pareto k̂ {estimate(found['median_pareto_k'], None)}")
    if round(100 * found.get("low_ess", 0.0)):
        parts.append(f"below a tenth for {found['low_ess']:.0%} of the data: loose for those")
    if found.get("unconverged"):
        parts.append(f"{found['unconverged']:.0%} not converged")
    if found.get("evaluations") is not None:
        parts.append(f"{found['evaluations']:,.0f} decoder evaluations")
    if found.get("largest_gap") is not None:
        parts.append(f"largest gap {estimate(found['largest_gap'], None)}")
    if found.get("threshold") is not None:
        parts.append(f"variance of the mean above {plain(found['threshold'])}")
    if found.get("seconds") is not None:
        parts.append(duration(found["seconds"]))
    if asked.get("seed"):
        parts.append(f"seed {asked['seed']}")
    return ", ".join(parts)


def _way(result: Result) -> str:
    """Of annealing, how much of it and from where."""
    found = result.found
    if "used_temperatures" not in found or "used_chains" not in found:
        return ""
    temperatures, chains = found["used_temperatures"], found["used_chains"]
    way = f"{chains:,} draws" if temperatures == 1 else f"{temperatures:,} temperatures × {chains:,} chains"
    start = _STARTS.get(str(result.asked.get("start")))
    return f"{way} from {start}" if start else way


def _curve_of_k(run: Run, found: StoredResults) -> list[Block]:
    """What more draws buy."""
    if not run.normalized or not run.has_guide:
        return []
    top = found.best(lambda one: one.method == "k-curve")
    points = [
        one.result
        for one in found.all
        if top is not None
        and one.method == "k-curve"
        and (one.result.split, one.result.points, one.step) == (top.result.split, top.result.points, top.step)
    ]
    unique = {int(result.asked["k"]): result for result in points}
    if len(unique) < 2:
        ask = command("evaluate", run.folder.path, "--methods", "k-curve")
        return [Prose(f"What more draws would buy has not been measured: `{ask}` does.", tone="missing")]
    return [k_curve(run, list(unique.values()))]


# --- the room ----------------------------------------------------------------------------------------------------


def room(run: Run, found: StoredResults) -> list[Block]:
    """The elbow room of training and test data, divided into what the encoder and what its family costs."""
    if not run.has_guide:
        return [Prose("The run was learned without a guide, so that no guess has a room.", tone="missing")]
    results = [result for split in ("train", "test", "validation", "all") for result in _of_room(found, split)]
    if not results:
        ask = command("evaluate", run.folder.path, "--methods", "room")
        return [Prose(f"The room has not been divided into its parts yet: `{ask}` does.", tone="missing")]
    figure = attempt(lambda: _bars(run, results), "The parts of the room")
    if isinstance(figure, Prose):
        return [figure]
    rows = plots.room_rows(by_split(results))
    columns = tuple(Column(title, numeric=place > 0) for place, title in enumerate(rows[0]))
    table = Table(
        "The elbow room and its parts, nats per datum; the errors of gaps are those of paired differences",
        (Column(""), *columns[1:]),
        (Group(tuple(tuple(row.values()) for row in rows)),),
    )
    return [figure, table]


def _of_room(found: StoredResults, split: str) -> list[Result]:
    """The results of one measurement of the room: of the present weights, of most data, the latest."""
    top = found.best(lambda one: one.method == "room" and one.result.split == split)
    if top is None:
        return []
    same = {
        one.result.name: one.result
        for one in found.all
        if one.method == "room"
        and (one.result.split, one.result.points, one.step) == (split, top.result.points, top.step)
        and one.result.protocol == top.result.protocol
    }
    return list(same.values())


def _bars(run: Run, results: Sequence[Result]) -> Figure:
    said = []
    for split, rows in by_split(results).items():
        parts = [
            f"{row['name']} {estimate(row['value'], row['stderr'])}"
            for row in rows
            if str(row["name"]).partition(" (")[0] in ("elbo", "amortisation gap", "approximation gap", "elbow room")
        ]
        said.append(f"{split}: {', '.join(parts)}")
    return chart(
        gallery.room(run, results),
        alt=f"Stacked bars from the ELBO up to log p(x), nats per datum. {'. '.join(said)}.",
        caption="The amortisation gap is what the encoder loses by answering for all data with one set of weights; the "
        "approximation gap is what its family of distributions cannot reach.",
    )
