"""What the command line prints: tables of results, of data, of runs; and a progress bar for evaluation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from elbowroom.memory import in_words
from elbowroom.progress import Detail, Progress, silent
from elbowroom.running.config import Config

if TYPE_CHECKING:  # torch would come with them, which a list of recipes does not need
    from elbowroom.evaluation.results import Result

__all__ = [
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
    """Results as a table: value ± standard error, unit, number of data, which side it bounds."""
    console, first = _console(), results[0]
    console.print(f"{first.protocol['dataset']} · {first.split} · {bits(first.protocol)}\n")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for name in ("value", "± s.e."):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("data", justify="right")
    table.add_column("")
    for result in results:
        units = result.unit == "units"
        table.add_row(
            f"  {result_name(result)}",
            f"{result.value:.0f}" if units else f"{result.value:.3f}",
            "" if result.stderr is None else f"{result.stderr:.3f}",
            f"of {result.found['of']}" if units else result.unit,
            f"{result.points:,}",
            "" if result.bound is None else f"{result.bound} bound{_looseness(result)}",
        )
    console.print(table)
    for line in [*tails_lines(results), *annealing_lines(results)]:
        console.print(line, soft_wrap=True)
    console.print()


def tails_lines(results: Sequence[Result]) -> list[str]:
    """A warning for importance weights whose tails are too heavy to be averaged."""
    share, worst = max(((r.found.get("unreliable", 0.0), result_name(r)) for r in results), default=(0.0, ""))
    if share <= _SOME:
        return []
    return [
        "",
        f"  {worst}: Pareto k̂ is too high for {share:.0%} of the data. So few draws do not settle their average",
        "  weight, and the bound lies below log p(x) by more than its error says: measure by --methods ais,bdmc.",
    ]


def annealing_lines(results: Sequence[Result]) -> list[str]:
    """How much annealing was done, what it cost, and why no more; and what simulated data are."""
    annealed = next((result for result in results if "used_temperatures" in result.found), None)
    if annealed is None:
        return []
    asked, found = annealed.asked, annealed.found
    temperatures, chains = found["used_temperatures"], found["used_chains"]
    way = f"{chains:,} draws" if temperatures == 1 else f"{temperatures:,} temperatures × {chains:,} chains"
    cost = f"{found['evaluations']:,.0f} decoder evaluations per datum"
    lines = ["", f"  annealed from {asked['start']}: {way}; {cost}."]
    if found["ended_by"] != "given":
        gap = f"{found['search_gap']:.3f} ± {found['search_gap_stderr']:.3f} nats"
        why = {
            "tolerance": f"the gap on simulated data, {gap}, is below --tolerance {asked.get('tolerance')}",
            "budget": f"--budget ended at a gap of {gap}, above --tolerance {asked.get('tolerance')}",
            "ladder": f"there is no more to try; the gap is {gap}, above --tolerance {asked.get('tolerance')}",
        }[found["ended_by"]]
        lines.append(f"  Temperatures were raised until here: {why}.")
    if any(result.split == "simulated" for result in results):
        lines.append("  BDMC is of data simulated from the model: the gap is what a bound on real data may lack.")
    shares = {r.split == "simulated": r.found["low_ess"] for r in results if "used_temperatures" in r.found}
    if len(shares) == 2 and shares[False] > _MUCH * shares[True] + 0.05:
        lines += [
            f"  Weights are uneven for {shares[False]:.0%} of the real data, {shares[True]:.0%} of the simulated ones:",
            "  the real bound is looser than the gap tells. A smaller --tolerance tightens both.",
        ]
    return lines


def bits(protocol: Mapping[str, Any]) -> str:
    """How grey became black and white, in words."""
    if protocol["binarization"] == "none":
        return "no binarization"
    return f"{protocol['binarization']} binarization, seed {protocol['seed']}"


_SOME = 0.05  # of the data, with weights that are not reliable
_MUCH = 2.0  # times as many uneven weights on real data as on simulated ones are worth a warning
_NAMES = {"elbo": "ELBO", "iwae": "IWAE", "laplace-is": "Laplace IS", "kl": "KL", "ais": "AIS", "k-curve": "IWAE"}


def result_name(result: Result) -> str:
    """A result's name as it is shown: "IWAE, k = 5,000"."""
    what, comma, unit = result.name.partition(",")
    name = _NAMES.get(what, what.replace("bdmc", "BDMC")) + comma + unit
    k = result.asked.get("k")
    return f"{name}, k = {k:,}" if k else name


def _looseness(result: Result) -> str:
    """For how many data the bound rests on few effective draws, where that is known and happens."""
    share = result.found.get("low_ess", 0.0)
    return f"    ESS < k / 10 for {share:.0%} of data: loose for those" if share else ""


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, one column a key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    _console().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        # keys of the configuration have dots, and stay as they are to be typed
        label = name if "." in name else name.replace("_", " ")
        table.add_row(label, " × ".join(map(str, value)) if name == "shape" else plain(value))
    _console().print(table)


def print_run(content: Mapping[str, Any]) -> None:
    """A run: what it is, how far it went, the settings that differ from the defaults, and what it is worth."""
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
    rows = [
        {
            "result": result["name"],
            "value": result["value"],
            "± s.e.": result["stderr"],
            "unit": result["unit"],
            "split": result["split"],
            "data": result["points"],
        }
        for result in content["evaluation"]
    ]
    if rows:
        console.print()
        print_table(rows)


def differences(given: Mapping[str, Any], default: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys, with dots, whose values differ."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            found |= differences(value, default[key], f"{prefix}{key}.")
        elif value != default[key]:
            found[f"{prefix}{key}"] = value
    return found


def plain(value: Any) -> str:
    """A setting or a count as words: "—" for none, thousands set apart, lists with commas."""
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
