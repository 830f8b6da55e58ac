"""What the command line prints: tables of results, of data, of runs; and a progress bar for evaluation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from elbowroom.evaluation.evaluate import Announce, Result

__all__ = ["print_facts", "print_results", "print_run", "print_table", "progress"]


def _console() -> Console:
    # a pipe has no width of its own; 140 columns keep one row on one line
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@contextmanager
def progress() -> Iterator[Announce]:
    """A bar on standard error, one line per method, where that is a terminal."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda method, done, total: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}/{task.total:,} data"),
        TimeRemainingColumn(), console=console, transient=True,
    ) as bar:  # fmt: skip
        tasks: dict[str, Any] = {}

        def announce(method: str, done: int, total: int) -> None:
            if method not in tasks:
                tasks[method] = bar.add_task(method, total=total)
            bar.update(tasks[method], completed=done)

        yield announce


def print_results(results: Sequence[Result]) -> None:
    """Results as a table: value ± standard error, unit, number of data, which side it bounds, and the settings."""
    first = results[0]
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="")
    protocol = first.protocol
    table.title = f"{protocol['dataset']} · {first.split} · binarization {protocol['binarization']}, seed {protocol['seed']}"
    for name, justify in (("", "left"), ("value", "right"), ("± s.e.", "right"), ("unit", "left"), ("data", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for result in results:
        table.add_row(
            _name(result),
            f"{result.value:.0f}" if result.unit == "units" else f"{result.value:.3f}",
            "" if result.stderr is None else f"{result.stderr:.3f}",
            f"of {result.settings['of']}" if result.unit == "units" else result.unit,
            f"{result.points:,}",
            "" if result.bound is None else f"{result.bound} bound",
        )
    _console().print(table)


def _name(result: Result) -> str:
    k = result.settings.get("k")
    return f"{result.name}, k = {k:,}" if k else result.name


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys, one column a key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    _console().print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _text(value))
    _console().print(table)


def print_run(content: Mapping[str, Any]) -> None:
    """A run: what it is, how far it went, what it is worth, and the settings that differ from the defaults."""
    print_facts({key: value for key, value in content.items() if key not in ("evaluation", "config", "facts", "data")})
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
        _console().print()
        print_table(rows)


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 else f"{value:,.3f}".rstrip("0").rstrip(".")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " × ".join(str(part) for part in value)
    return str(value)
