"""Evaluation results in a report: the headline, the tiles beside it, the table of results, the inference gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from elbowroom.evaluation.doctor.diagnose import Diagnosis
from elbowroom.evaluation.results import Result, sign_remark
from elbowroom.running.diagnosis import Checkup
from elbowroom.running.observers import BOUNDS
from elbowroom.running.runs import Run
from elbowroom.showing import gallery, plots
from elbowroom.showing.figures.room import by_split
from elbowroom.showing.report.blocks import Block, Column, Figure, Group, Headline, Prose, Table, Tile
from elbowroom.showing.report.figures import attempt, chart, k_curve
from elbowroom.showing.report.records import StoredResult, StoredResults
from elbowroom.showing.report.words import (
    START_NAMES,
    annealing_effort,
    annealing_remark,
    bits,
    duration,
    epochs_in_words,
    estimate,
    plain,
    result_name,
    run_command,
    split_data,
    tails_remark,
    value,
    verdict,
)

__all__ = ["evaluation", "headline", "room", "tiles"]

_NATS = "nats per example"
_NO_LIKELIHOOD = "per example, cross-entropy"
_LONG_NAMES = {
    "ais": "annealed importance sampling (AIS)",
    "iwae": "importance-weighted bound (IWAE), k = {k:,}",
    "k-curve": "importance-weighted bound (IWAE), k = {k:,}",
    "laplace-is": "importance sampling from Laplace approximations, k = {k:,}",
    "log p(x)": "importance sampling from Laplace approximations, k = {k:,}",
}


def headline(
    run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None = None
) -> Headline:
    """The tightest measured bound on log p(x); without one the bound reported in training; else "not measured"."""
    if not run.normalized:
        return _no_likelihood(run, found, history, checkup)
    best = found.bound()
    if best is not None:
        details = [_how_measured(best), *_caveats(run, found, best)]
        label = "log p(x) =" if best.result.bound == "exact" else "log p(x) ≥"
        return Headline(label, estimate(best.result.value, best.result.stderr), _NATS, tuple(details))
    ask = run_command("evaluate", run)
    last = _last_report(run, history)
    if last is None:
        return Headline("log p(x)", "not measured", "", (f"`{ask}` measures it.",), tone="warning")
    name, row = last
    return Headline(
        "log p(x) ≥" if name in ("elbo", "iwae", "laplace-is") else BOUNDS[name],
        estimate(float(row[name]), row.get("stderr")),
        _NATS,
        (
            f"{BOUNDS[name]} on {split_data(row['split'])}, as reported during training; no other measurement yet.",
            f"log p(x) may be higher by an unknown amount. `{ask}` measures bounds on the test data.",
        ),
        tone="warning",
    )


def _how_measured(best: StoredResult) -> str:
    result, how = best.result, _annealing(best.result)
    of = f"{_examples(result)} of {result.protocol['dataset']}"
    if result.bound == "exact":
        return f"Sum over all {result.found['codes']:,} codes, without draws. {of}, {bits(result.protocol)}."
    name = _LONG_NAMES.get(result.name, result_name(result)).format(k=result.asked.get("k", 0))
    return f"{name[:1].upper()}{name[1:]}{': ' + how if how else ''}. {of}, {bits(result.protocol)}."


def _caveats(run: Run, found: StoredResults, best: StoredResult) -> list[str]:
    """How much higher log p(x) may be than the figure, and what else limits what the figure says."""
    result, said = best.result, []
    gap = found.gap_of(best) if best.method == "ais" else None
    ask = run_command("evaluate", run, "--methods", "ais,bdmc")
    if gap is not None and gap.value <= 0:
        said.append(
            "On data simulated from the model, where a lower and an upper bound are known, the gap between them is "
            f"{estimate(gap.value, gap.stderr, '.3f')} nats: {sign_remark(gap.name, gap.value, gap.stderr)}."
        )
    elif gap is not None:
        said.append(
            f"log p(x) may be higher than this figure by up to {estimate(gap.value, gap.stderr, '.3f')} nats. This is "
            "the gap between a lower and an upper bound on data simulated from the model, where both are known."
        )
    elif best.result.bound != "exact" and best.result.name == "elbo":
        said.append(
            "log p(x) is higher than the ELBO by the elbow room, i.e. the inference gap KL(q ‖ p(z | x)), which has "
            f"not been measured: `{ask}` bounds it."
        )
    elif best.result.bound != "exact":
        said.append(f"How much higher log p(x) may be is not known: `{ask}` measures it on simulated data.")
    if found.is_stale(best):
        said.append(
            f"It was measured on the checkpoint of step {best.step:,}; the run's present one is of step {found.step:,}."
        )
    if not found.is_own(best):
        said.append("It was measured on another data set, or with another binarization, than the model was trained on.")
    remark = tails_remark([result])
    return [*said, remark] if remark else said


def _no_likelihood(
    run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None
) -> Headline:
    """The headline of a model without a likelihood: the cross-entropy of grey pixels is not a bound on log p(x)."""
    ask = f"`{run_command('doctor', run)}` says"
    why = (
        "The loss is the cross-entropy of grey pixels, which does not integrate to one: log p(x) does not exist, and "
        "the figures here cannot be compared with those of other models.",
        f"{ask if checkup is None else 'The findings of the doctor, below, say'} what to do.",
    )
    best = found.best(lambda one: one.method == "elbo" and one.result.name.startswith("elbo"))
    label = "Not a log-likelihood"
    if best is not None:
        taken = f"{_examples(best.result)} of {best.result.protocol['dataset']}."
        shown = estimate(best.result.value, best.result.stderr)
        return Headline(label, shown, _NO_LIKELIHOOD, (taken, *why), tone="warning")
    last = _last_report(run, history)
    if last is None:
        return Headline(label, "not measured", _NO_LIKELIHOOD, why, tone="warning")
    name, row = last
    taken = f"On {split_data(row['split'])}, as reported during training."
    return Headline(label, estimate(float(row[name]), row.get("stderr")), _NO_LIKELIHOOD, (taken, *why), tone="warning")


def _last_report(run: Run, history: Sequence[dict[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """The last report of training on these weights, on validation data where there are any: name and row."""
    for split in ("validation", "train"):
        rows = [row for row in history if row["split"] == split and any(row.get(name) is not None for name in BOUNDS)]
        row = next((row for row in rows if row["step"] == run.step), rows[-1] if rows else None)
        if row is not None:
            return next(name for name in BOUNDS if row.get(name) is not None), row
    return None


# --- tiles beside the headline -------------------------------------------------------------------------------------


def tiles(run: Run, found: StoredResults, history: Sequence[dict[str, Any]], checkup: Checkup | None) -> list[Tile]:
    """The tiles beside the headline: ELBO, elbow room, latents or codes in use, doctor, training time, where known."""
    out = []
    elbo = found.best(lambda one: one.result.name == "elbo")
    if elbo is not None and found.bound() is not elbo:
        out.append(Tile("ELBO", estimate(elbo.result.value, elbo.result.stderr), _examples(elbo.result)))
    spare = found.room()
    if spare is not None:
        out.append(_room_tile(found, spare))
    for name in ("active units", "codes used"):
        counted = found.best(_is_called(name))
        if counted is not None:
            count = " ".join(part for part in value(counted.result) if part)
            out.append(Tile(name, count, _examples(counted.result)))
    if checkup is not None:
        out.append(Tile("the doctor", _short_verdict(checkup.diagnosis), _examined(checkup, found)))
    if history:
        last = history[-1]
        epochs = f"{epochs_in_words(last['epoch'])}, " if last.get("epoch") else ""
        out.append(Tile("trained for", duration(float(last["seconds"])), f"{epochs}{last['step']:,} steps"))
    return out


def _is_called(name: str) -> Callable[[StoredResult], bool]:
    return lambda one: one.result.name == name


def _examples(result: Result) -> str:
    """Number of examples, and which: "1,000 test examples"."""
    kind = {"all": "", "train": "training "}.get(result.split, f"{result.split} ")
    return f"{result.points:,} {kind}examples"


def _room_tile(found: StoredResults, spare: StoredResult) -> Tile:
    """The elbow room, with its amortisation gap where it was divided, and the number of examples."""
    result, notes = spare.result, [_examples(spare.result)]
    least, remark = estimate(result.value, result.stderr), sign_remark(result.name, result.value, result.stderr)
    if remark:
        return Tile("elbow room", "≥ 0", "; ".join([f"measured {least}, {remark}", *notes]))
    parts = {one.result.name: one.result for one in found.parts_of_room(result.split) if spare.method == "room"}
    if (gap := parts.get("amortisation gap")) is not None:
        doubt = sign_remark(gap.name, gap.value, gap.stderr)
        notes.insert(0, f"amortisation gap {estimate(gap.value, gap.stderr)}{', ' * bool(doubt)}{doubt}")
    return Tile("elbow room", least if result.bound == "exact" else f"≥ {least}", "; ".join(notes))


def _examined(checkup: Checkup, found: StoredResults) -> str:
    """Number of checks, and the checkpoint where it is not the run's present one."""
    number = len(checkup.diagnosis.seconds)
    stale = checkup.step not in (None, found.step)
    return f"{number} check{'s' * (number != 1)}{f', checkpoint of step {checkup.step:,}' if stale else ''}"


def _short_verdict(diagnosis: Diagnosis) -> str:
    return "nothing found" if diagnosis.healthy else verdict(diagnosis).rstrip(".").replace(" findings", "").replace(
        " finding", ""
    )  # fmt: skip


# --- the table ---------------------------------------------------------------------------------------------------


def evaluation(run: Run, found: StoredResults) -> list[Block]:
    """The evaluation section: a figure of the bounds, a table of all results by data, and remarks on them."""
    if not found.all:
        ask = run_command("evaluate", run)
        return [Prose(f"Nothing has been measured yet: `{ask}` does.", tone="missing")]
    blocks: list[Block] = []
    shown = _comparable(found)
    if shown:
        blocks.append(attempt(lambda: _bounds(run, shown), "The bounds"))
    blocks.append(_table(found))
    if (best := found.bound()) is not None:
        beside = found.gap_of(best)
        remark = annealing_remark([best.result, *([beside] if beside is not None else [])])
        blocks += [Prose(remark)] if remark else []
    tails = tails_remark([one.result for one in found.all])
    blocks += [Prose(tails, tone="warning")] if tails else []
    return [*blocks, *_curve_of_k(run, found)]


def _comparable(found: StoredResults) -> list[Result]:
    """One result of each kind on the headline's data: bounds that can be shown on one axis, and the elbow room."""
    best = found.bound()
    if best is None:
        return []

    def same(one: StoredResult) -> bool:
        return (one.result.split, one.step, one.result.protocol) == (best.result.split, best.step, best.result.protocol)

    chosen: dict[tuple[str, Any], Result] = {}
    for one in found.all:
        result = one.result
        fit = result.bound is not None and math.isfinite(result.value)
        if same(one) and fit and one.method not in ("room", "k-curve") and result.name != "elbow room":
            key = (result.name, result.asked.get("k"))
            if key not in chosen or result.points >= chosen[key].points:
                chosen[key] = result
    bounds = [result for result in chosen.values() if result.unit == "nats"]
    if len(bounds) < 2:  # one has nothing to be compared with
        return []
    spare = found.room()
    return [*chosen.values(), *([spare.result] if spare is not None and same(spare) else [])]


def _bounds(run: Run, shown: Sequence[Result]) -> Figure:
    said = "; ".join(
        f"{result_name(result)} {estimate(result.value, result.stderr)}, {result.points:,} examples"
        for result in shown
        if result.unit == "nats"
    )
    return chart(
        gallery.evaluation(run, shown),
        alt=f"Bounds on log p(x) in {_NATS}, each with one standard error: {said}.",
        caption="Each triangle points towards log p(x). Results on different examples also differ by those.",
    )


def _table(found: StoredResults) -> Table:
    columns = ("", "value", "± s.e.", "unit", "examples", "bound", "how it was measured")
    groups: dict[str, list[tuple[str, ...]]] = {}
    above: dict[str, str] = {}
    for one in found.all:
        result, place, how = one.result, _which_data(found, one), _details(one.result)
        cells = (
            result_name(result).replace(" = ", "\u00a0=\u00a0"),  # no line begins with "= 500"
            *value(result),
            f"{result.points:,}",
            sign_remark(result.name, result.value, result.stderr) or result.bound or "",
            "as above" if how and how == above.get(place) else how,
        )
        above[place] = how
        groups.setdefault(place, []).append(cells)
    return Table(
        "All results in evaluation.json; s.e. is the standard error of the mean over examples",
        tuple(
            Column(name, numeric=name in ("value", "± s.e.", "examples"), long=name == columns[-1]) for name in columns
        ),
        tuple(Group(tuple(rows), title) for title, rows in groups.items()),
    )


def _which_data(found: StoredResults, one: StoredResult) -> str:
    """Split, data set and binarization; and the checkpoint where it is not the run's present one."""
    protocol, split = one.result.protocol, one.result.split
    what = {"simulated": ["data simulated from the model"], "all": ["all data", str(protocol["dataset"])]}
    parts = [*what.get(split, [split_data(split), str(protocol["dataset"])]), bits(protocol)]
    if found.is_stale(one):
        parts.append(f"checkpoint of step {one.step:,}, the run's present one is of step {found.step:,}")
    return " · ".join(parts)


def _details(result: Result) -> str:
    """Settings and diagnostics of a result, in a line."""
    asked, found, parts = result.asked, result.found, []
    if result.method == "room":  # the method elbo has an ELBO too
        parts.append("method room")
    if asked.get("num_samples", 1) > 1:
        parts.append(f"{asked['num_samples']:,} draws")
    if _annealing(result):
        parts.append(_annealing(result))
    if found.get("median_ess") is not None:
        parts.append(f"ESS {found['median_ess']:,.0f}")
    if found.get("median_pareto_k") is not None:
        parts.append(f"Pareto k̂ {estimate(found['median_pareto_k'], None)}")
    if round(100 * found.get("low_ess", 0.0)):
        parts.append(
            f"ESS below a tenth of the draws for {found['low_ess']:.0%} of the examples: the bound is loose for those"
        )
    if found.get("unconverged"):
        parts.append(f"{found['unconverged']:.0%} not converged")
    if found.get("evaluations") is not None:
        parts.append(f"{found['evaluations']:,.0f} decoder evaluations")
    if found.get("largest_gap") is not None:
        parts.append(f"largest gap {estimate(found['largest_gap'], None)}")
    if found.get("distinct") is not None:
        parts.append(f"{found['distinct']:,.0f} distinct codes on average")
    if found.get("rate") is not None:
        parts.append(f"of which rate {estimate(found['rate'], None)}")
    if found.get("codes") is not None:
        parts.append(f"sum over all {found['codes']:,} codes")
    if found.get("fewest") is not None:
        parts.append(f"{found['fewest']:,} in the slot that uses fewest")
    if found.get("threshold") is not None:
        parts.append(f"active if the variance of the posterior mean is above {plain(found['threshold'])}")
    if found.get("seconds") is not None:
        parts.append(duration(found["seconds"]))
    if asked.get("seed"):
        parts.append(f"seed {asked['seed']}")
    return ", ".join(parts)


def _annealing(result: Result) -> str:
    """Temperatures, chains and starting points of annealing; empty for other methods."""
    found = result.found
    if "used_temperatures" not in found or "used_chains" not in found:
        return ""
    effort = annealing_effort(found["used_temperatures"], found["used_chains"])
    start = START_NAMES.get(str(result.asked.get("start")))
    return f"{effort} from {start}" if start else effort


def _curve_of_k(run: Run, found: StoredResults) -> list[Block]:
    """The importance-weighted bound against its number of draws."""
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
        ask = run_command("evaluate", run, "--methods", "k-curve")
        return [
            Prose(f"How the bound rises with the number of draws has not been measured: `{ask}` does.", tone="missing")
        ]
    return [k_curve(run, list(unique.values()))]


# --- the room ----------------------------------------------------------------------------------------------------


def room(run: Run, found: StoredResults) -> list[Block]:
    """The elbow room (inference gap) on training and test data: amortisation gap and approximation gap."""
    if not run.has_guide:
        return [Prose("The run was trained without a guide (encoder), so it has no inference gap.", tone="missing")]
    splits = ("train", "test", "validation", "all")
    results = [one.result for split in splits for one in found.parts_of_room(split)]
    if not results:
        ask = run_command("evaluate", run, "--methods", "room")
        return [Prose(f"The elbow room has not been divided into its parts yet: `{ask}` does.", tone="missing")]
    figure = attempt(lambda: _gap_bars(run, results), "The parts of the elbow room")
    if isinstance(figure, Prose):
        return [figure]
    rows = plots.room_rows(by_split(results))
    columns = tuple(Column(title, numeric=place > 0) for place, title in enumerate(rows[0]))
    table = Table(
        "The elbow room and its parts, nats per example; ± of a gap is the standard error of paired differences",
        (Column(""), *columns[1:]),
        (Group(tuple(tuple(row.values()) for row in rows)),),
    )
    note = plots.room_note(rows)
    return [figure, table, *([Prose(note)] if note else [])]


def _gap_bars(run: Run, results: Sequence[Result]) -> Figure:
    named = ("elbo", "amortisation gap", "approximation gap", "elbow room")
    said = []
    for split in by_split(results):
        shown = [one for one in results if one.split == split and one.name.partition(" (")[0] in named]
        said.append(f"{split}: {', '.join(_in_words(one) for one in shown)}")
    return chart(
        gallery.room(run, results),
        alt=f"Stacked bars from the ELBO up to log p(x), {_NATS}. {'. '.join(said)}.",
        caption="The elbow room is the inference gap, KL(q ‖ p(z | x)). The amortisation gap is the part that the best "
        "q of the same family for each example would close; the approximation gap is what even that q leaves.",
    )


def _in_words(result: Result) -> str:
    """Name, value and standard error, and what is to be said of the sign."""
    doubt = sign_remark(result.name, result.value, result.stderr)
    return f"{result.name} {estimate(result.value, result.stderr)}{f' ({doubt})' if doubt else ''}"
