"""Output on the terminal: tables of results, data sets and runs, and progress bars."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from elbowroom.evaluation.results import Result, sign_remark
from elbowroom.evaluation.settings import Settings
from elbowroom.memory import in_words
from elbowroom.progress import Detail, Progress, silent
from elbowroom.running.config import Config

__all__ = [
    "START_NAMES",
    "annealing_effort",
    "annealing_lines",
    "bits",
    "differences",
    "plain",
    "print_facts",
    "print_results",
    "print_run",
    "print_table",
    "progress",
    "result_name",
    "sampling_progress",
    "tails_lines",
    "unit_in_words",
]


def _console() -> Console:
    # a pipe has no width of its own; 140 columns keep one row on one line
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@contextmanager
def progress(unit: str = "data") -> Iterator[Progress]:
    """A bar on standard error, one line per method, where that is a terminal."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield silent
        return
    with Bars(
        TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed:,}}/{{task.total:,}} {unit}"),
        TimeRemainingColumn(), console=console, transient=True,
    ) as bar:  # fmt: skip
        tasks: dict[str, Any] = {}

        def announce(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield announce


@contextmanager
def sampling_progress() -> Iterator[Progress]:
    """A bar on standard error with the acceptance of late and the divergences so far, where that is a terminal."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield silent
        return
    with Bars(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("acceptance {task.fields[acceptance]:.2f} · {task.fields[divergences]:,} divergences"),
        TimeRemainingColumn(), console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("sampling", total=1.0, acceptance=0.0, divergences=0)
        divergences, acceptance = 0, 0.0

        def announce(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
            nonlocal divergences, acceptance
            if detail is not None:
                divergences += int(detail.divergent.sum())
                now = float(detail.acceptance.mean())
                acceptance = 0.9 * acceptance + 0.1 * now if acceptance else now
            bar.update(task, completed=done / total, acceptance=acceptance, divergences=divergences)

        yield announce


def print_results(results: Sequence[Result]) -> None:
    """Prints results as a table: value ± standard error, unit, number of examples, kind of bound."""
    console, first = _console(), results[0]
    console.print(f"{first.protocol['dataset']} · {first.split} · {bits(first.protocol)}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for name in ("value", "± s.e."):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("examples", justify="right")
    table.add_column("")
    times = Counter(result_name(result) for result in results)
    for result in results:
        units, name = result.unit == "units", result_name(result)
        table.add_row(
            f"  {name}, by {result.method}" if times[name] > 1 else f"  {name}",
            f"{result.value:.0f}" if units else f"{result.value:.3f}",
            "" if result.stderr is None else f"{result.stderr:.3f}",
            unit_in_words(result),
            f"{result.points:,}",
            _side(result),
        )
    console.print(table)
    for line in [*tails_lines(results), *annealing_lines(results), *samples_lines(results)]:
        console.print(line, soft_wrap=True)
    console.print()


def unit_in_words(result: Result) -> str:
    """The unit of a result; of a count or a perplexity the most that it can be: "of 20", "of 16 codes"."""
    if result.unit not in ("units", "codes"):
        return result.unit
    return f"of {result.found['of']}{' codes' * (result.unit == 'codes')}"


def _side(result: Result) -> str:
    """Which side the value bounds; or why it bounds none, where it should."""
    side = {None: "", "exact": "exact"}.get(result.bound, f"{result.bound} bound")
    bound = f"{side}{_looseness(result)}" if side else ""
    return sign_remark(result.name, result.value, result.stderr) or bound


def samples_lines(results: Sequence[Result]) -> list[str]:
    """What samples were compared in, and what values to expect of the data's own distribution."""
    features = next((result.found["features"] for result in results if result.method == "samples"), None)
    if features is None:
        return []
    return [
        f"samples are compared with data by {features}: no figures to set beside those of other networks. Samples of "
        "the data's own distribution have an accuracy of 0.5 and the precision and recall of training rows, and half "
        "of them are farther from training rows than data are"
    ]


def tails_lines(results: Sequence[Result]) -> list[str]:
    """A warning for importance weights with too heavy tails, by Pareto k̂."""
    share, worst = max(((r.found.get("unreliable", 0.0), result_name(r)) for r in results), default=(0.0, ""))
    if share <= _UNRELIABLE_SHARE:
        return []
    return [
        "",
        f"  {worst}: Pareto k̂ is too high for {share:.0%} of the examples. For these the average importance weight is",
        "  unreliable, and log p(x) may be higher than the bound by far more than ± s.e.: use --methods ais,bdmc.",
    ]


def annealing_effort(temperatures: int, chains: int) -> str:
    """Temperatures and chains of annealing; with one temperature it is importance sampling."""
    return f"{chains:,} draws" if temperatures == 1 else f"{temperatures:,} temperatures × {chains:,} chains"


def annealing_lines(results: Sequence[Result]) -> list[str]:
    """Temperatures, chains and cost of annealing, why it stopped there, and what the BDMC gap means."""
    annealed = next((result for result in results if "used_temperatures" in result.found), None)
    if annealed is None:
        return []
    asked, found = annealed.asked, annealed.found
    effort = annealing_effort(found["used_temperatures"], found["used_chains"])
    cost = f"{found['evaluations']:,.0f} decoder evaluations per example"
    start = START_NAMES.get(asked["start"], asked["start"])
    lines = ["", f"  Annealing from {start}: {effort}; {cost}."]
    if found["ended_by"] != "given":
        gap = f"{found['search_gap']:.3f} ± {found['search_gap_stderr']:.3f} nats"
        why = {
            "tolerance": f"the gap on simulated data, {gap}, was below --tolerance {asked.get('tolerance')}",
            "budget": f"--budget was used up, at a gap of {gap}, above --tolerance {asked.get('tolerance')}",
            "ladder": f"its largest value was reached, at a gap of {gap}, above --tolerance {asked.get('tolerance')}",
        }[found["ended_by"]]
        lines.append(f"  The number of temperatures was raised until {why}.")
    if any(result.split == "simulated" for result in results):
        lines.append(
            "  BDMC is measured on simulated data: on real data log p(x) may be higher than AIS by about the BDMC gap."
        )
    shares = {r.split == "simulated": r.found["low_ess"] for r in results if "used_temperatures" in r.found}
    if len(shares) == 2 and shares[False] > _LOW_ESS_RATIO * shares[True] + 0.05:
        lines += [
            f"  The ESS is low for {shares[False]:.0%} of real examples and {shares[True]:.0%} of simulated ones: the",
            "  bound on real data is looser than the gap says. A smaller --tolerance tightens both.",
        ]
    return lines


def bits(protocol: Mapping[str, Any]) -> str:
    """The binarization protocol in words."""
    if protocol["binarization"] == "none":
        return "no binarization"
    return f"{protocol['binarization']} binarization, seed {protocol['seed']}"


_UNRELIABLE_SHARE = 0.05  # of examples with a high Pareto k̂, beyond which a warning is printed
_LOW_ESS_RATIO = 2.0  # of examples with a low ESS, real to simulated, beyond which a warning is printed
START_NAMES = {"laplace": "Laplace approximations", "guide": "the guide q(z | x)", "prior": "the prior"}
_NAMES = {
    "elbo": "ELBO",
    "elbo of q*": "ELBO of q*",
    "iwae": "IWAE",
    "laplace-is": "Laplace IS",
    "kl": "KL",
    "ais": "AIS",
    "k-curve": "IWAE",
}


def result_name(result: Result) -> str:
    """Display name of a result: "IWAE, k = 5,000"."""
    what, comma, unit = result.name.partition(",")
    name = _NAMES.get(what, what.replace("bdmc", "BDMC")) + comma + unit
    k = result.asked.get("k")
    return f"{name}, k = {k:,}" if k else name


def _looseness(result: Result) -> str:
    """The share of examples with a low effective sample size, where there are any."""
    share = result.found.get("low_ess", 0.0)
    return f"    loose for the {share:.0%} of examples with ESS < k / 10" if share else ""


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows with the same keys, a column per key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    _console().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Prints names and values, one pair per line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        # keys of the configuration have dots, and stay as they are to be typed
        label = name if "." in name else name.replace("_", " ")
        table.add_row(label, " × ".join(map(str, value)) if name == "shape" else plain(value))
    _console().print(table)


def print_run(content: Mapping[str, Any]) -> None:
    """Prints a run: name, progress, the settings that differ from the defaults, and results."""
    hidden = ("evaluation", "config", "facts", "data")
    facts = {key: value for key, value in content.items() if key not in hidden}
    if facts.get("peak_memory") is not None:
        facts["peak_memory"] = in_words(facts["peak_memory"])
    print_facts({"run": facts.pop("run"), "data": content["data"]["dataset"], **facts})
    console = _console()
    settings = differences(content["config"], Config().model_dump(mode="json"))
    if settings:
        console.print("\n[bold]settings that differ from the defaults[/]")
        print_facts(settings)
    rows = [_stored(result) for result in content["evaluation"]]
    if rows:
        console.print()
        print_table(rows)


def _stored(result: Mapping[str, Any]) -> dict[str, Any]:
    """A row of results of a run: what tells one from the others comes with it."""
    asked, usual, split = result["asked"], Settings().model_dump(), result["split"]
    chosen = {name: value for name, value in asked.items() if value is not None and value != usual.get(name)}
    other = f" of {result['protocol'].get('dataset')}" if split == "all" else ""
    return {
        "result": result["name"],
        "method": result["method"],
        "value": result["value"],
        "± s.e.": result["stderr"],
        "unit": result["unit"],
        "": sign_remark(result["name"], result["value"], result["stderr"]),
        "split": f"{split}{other}",
        "examples": result["points"],
        "step": result.get("step"),
        "settings": plain(chosen),
    }


def differences(given: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys, joined by dots, whose values differ from the defaults."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            found |= differences(value, default[key], f"{prefix}{key}.")
        elif value != default[key]:
            found[f"{prefix}{key}"] = value
    return found


def plain(value: Any) -> str:
    """A setting or a count as text: "—" for None, commas between thousands and between the items of lists."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(part) for part in value)
    return str(value)
