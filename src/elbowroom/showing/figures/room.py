"""The elbow room (inference gap) as stacked bars: amortisation gap and approximation gap, on training and test data."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import INDISTINCT, Result, sign_remark
from elbowroom.showing.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    NOT_A_LIKELIHOOD,
    ORANGE,
    SMALL,
    finish,
    heading,
    legend_below,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["by_split", "room_figure", "room_note", "room_rows"]

Splits = Mapping[str, Sequence[Mapping[str, Any]]]

_ELBO, _BEST, _LOG_P = "elbo", "elbo of q*", "log p(x)"
_GAPS = {"amortisation gap": ORANGE, "approximation gap": BLUE}  # from the ELBO up
_TITLES = {_ELBO: "ELBO", _BEST: "ELBO of q*", _LOG_P: "log p(x) ≥", "elbow room": "elbow room ≥"}
_ORDER = (_ELBO, _BEST, _LOG_P, *_GAPS, "elbow room")
_SPLITS = ("train", "test", "validation", "all")
_WIDTH = 0.34
_LINE = 0.07  # a line of text, as a share of the axis


def by_split(results: Iterable[Result]) -> dict[str, list[dict[str, Any]]]:
    """Results by split, as :func:`room_figure` and :func:`room_rows` take them; training data first, none simulated.

    Example:
        >>> known = {"name": "elbo", "method": "elbo", "value": -1.0, "stderr": None, "unit": "nats", "points": 9}
        >>> known |= {"bound": None, "asked": {}, "found": {}, "protocol": {}}
        >>> splits = ("simulated", "test", "train")
        >>> list(by_split([Result(split=split, **known) for split in splits]))
        ['train', 'test']
    """
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    for result in results:
        if result.split in rows:
            rows[result.split].append(result.model_dump())
    return {split: found for split, found in rows.items() if found}


def room_figure(splits: Splits, *, title: str | None = None, path: str | os.PathLike[str] | None = None) -> Figure:
    """Stacked bars from the ELBO up to log p(x), one per split: amortisation gap below, approximation gap above.

    Args:
        splits: name of a split to the results of :func:`elbowroom.evaluation.inference_gaps.room` on it, each with
            name, value and stderr, and optionally method; in the order of drawing.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure. Error bars are one standard error of a gap's paired mean, not of log p(x) itself, which varies far
        more from example to example. Without log p(x) the bar ends at the ELBO of q*, and the title says why.
    Raises:
        ElbowroomError: a split without the ELBO or its amortisation gap.
    Example:
        >>> rows = [
        ...     {"name": "elbo", "value": -93.0, "stderr": 0.9},
        ...     {"name": "amortisation gap", "value": 2.0, "stderr": 0.1},
        ...     {"name": "approximation gap", "value": 3.0, "stderr": 0.1},
        ... ]
        >>> [round(bar.get_y() + bar.get_height()) for bar in room_figure({"test": rows}).axes[0].patches]
        [-91, -88]
    """
    named = _named(splits)
    figure = new_figure(COLUMN, 2.7 + (0.2 if title else 0))
    axes = figure.add_subplot()
    bars = list(named.values())
    low, high = _range(bars)
    axes.set_ylim(low, high)
    for place, found in enumerate(bars):
        _bar(axes, place, found, line=_LINE * (high - low))
    axes.set_xlim(-0.45, max(len(named) - 0.1, 1.4))
    thin_axes(axes, ylabel="nats per example")
    axes.set_xticks(range(len(named)), list(named), parse_math=False)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)
    complete = all(_LOG_P in found or "approximation gap" in found for found in named.values())
    heading(figure, " · ".join(part for part in (title, None if complete else NOT_A_LIKELIHOOD) if part))
    shown = [name for name in reversed(_GAPS) if any(name in found for found in named.values())]
    legend_below(figure, [Patch(color=_GAPS[name], label=name) for name in shown])
    return finish(figure, path)


def room_rows(splits: Splits) -> list[dict[str, str]]:
    """The same values as a table: a row per quantity, a column per split, and for two splits their difference.

    Args:
        splits: as for :func:`room_figure`.
    Returns:
        Rows of text, "value ± standard error"; the difference is the second split's minus the first's, with the
        standard error of independent means. A gap or an elbow room that is not distinguishable from zero is written as
        "0 (measured …)", which :func:`room_note` explains.
    Raises:
        ElbowroomError: as :func:`room_figure`.
    Example:
        >>> rows = [{"name": name, "value": 1.0, "stderr": 0.25} for name in ("elbo", "amortisation gap")]
        >>> room_rows({"train": rows, "test": rows})[1]  # doctest: +NORMALIZE_WHITESPACE
        {'nats per example': 'amortisation gap', 'train': '1.00 ± 0.25', 'test': '1.00 ± 0.25',
         'test − train': '0.00 ± 0.35'}
    """
    named, table = _named(splits), []
    for name in _ORDER:
        found = [results[name] for results in named.values() if name in results]
        if len(found) < len(named):
            continue
        row = {"nats per example": _TITLES.get(name, name)}
        cells = [_measured(name, result["value"], result.get("stderr")) for result in found]
        row |= dict(zip(named, cells, strict=True))
        if len(found) == 2:
            errors = [float(result["stderr"]) for result in found if result.get("stderr") is not None]
            error = math.hypot(*errors) if len(errors) == 2 else None
            row[" − ".join(reversed(named))] = _text(found[1]["value"] - found[0]["value"], error)
        table.append(row)
    return table


def room_note(rows: Sequence[Mapping[str, str]]) -> str:
    """What the table's zeros mean; empty where there are none.

    Args:
        rows: of :func:`room_rows`.
    """
    zero = any(cell.startswith("0 (") for row in rows for cell in row.values())
    return "0 (measured …): less than two standard errors above zero, and it cannot be negative." if zero else ""


def _named(splits: Splits) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Results by split and name; remarks in parentheses are removed from the names."""
    named = {}
    for split, results in splits.items():
        # the method elbo has an "elbo" of its own, of other draws
        of_room = [r for r in results if r.get("method", "room") == "room"]
        named[split] = {str(r["name"]).partition(" (")[0]: r for r in of_room}
        missing = [name for name in (_ELBO, "amortisation gap") if name not in named[split]]
        if missing:
            raise ElbowroomError(
                f"The results of the {split} data hold no {missing[0]}, which the elbow room needs.",
                "Give the results of --methods room.",
            )
    if not named:
        raise ElbowroomError("No split was given, but the figure needs one.", "Give the results of --methods room.")
    return named


def _range(bars: Sequence[Mapping[str, Mapping[str, Any]]]) -> tuple[float, float]:
    """Both ends of the axis: with all bars and error bars, and with room for the notes."""
    ends, errors = [], [0.0]
    for found in bars:
        heights = [float(found[name]["value"]) for name in _GAPS if name in found]
        ends += [float(found[_ELBO]["value"]), float(found[_ELBO]["value"]) + sum(heights)]
        errors += [float(found[name].get("stderr") or 0.0) for name in _GAPS if name in found]
    margin = max(0.12 * (max(ends) - min(ends)), 1.2 * max(errors)) or 0.12
    return min(ends) - margin, max(ends) + 1.4 * margin


def _bar(axes: Axes, place: int, found: Mapping[str, Mapping[str, Any]], *, line: float) -> None:
    """Draws one bar from the ELBO upwards, with labels at least a line apart."""
    bottom = base = float(found[_ELBO]["value"])
    error: float | None = None
    middles, texts = [], []
    for name, colour in _GAPS.items():
        if name not in found:
            continue
        height, error = float(found[name]["value"]), found[name].get("stderr")
        if height > 0:  # one below zero is noise, and no bar
            axes.bar(place, height, _WIDTH, bottom=base, color=colour, linewidth=0)
        if error is not None:
            axes.errorbar(
                place, base + height, yerr=error, color=INK, elinewidth=0.8, capsize=2.5, capthick=0.8, linestyle=""
            )
        middles.append(base + max(height, 0.0) / 2)
        texts.append(_label(name, height, error))
        base += height
    close = max(0.0, line - (middles[-1] - middles[0])) if len(middles) > 1 else 0.0
    middles = [middles[0] - close / 2, *(middle + close / 2 for middle in middles[1:])]
    for middle, text in zip(middles, texts, strict=True):
        axes.text(place + _WIDTH / 2 + 0.03, middle, text, fontsize=SMALL, color=INK, va="center", ha="left")
    top = base + float(error or 0.0)  # the note stands above the error bar
    edge = place - _WIDTH / 2
    low = min(bottom, base - float(error or 0.0), middles[0] - 0.4 * line)
    _note(axes, edge, low, f"ELBO {number(bottom)}", below=True)
    title = "log p(x) ≥" if _LOG_P in found else "ELBO of q*"
    _note(axes, edge, max(top, middles[-1] + 0.4 * line), f"{title} {number(base)}")


def _note(axes: Axes, x: float, y: float, text: str, *, below: bool = False) -> None:
    axes.annotate(
        text, (x, y), xytext=(0, -3 if below else 3), textcoords="offset points",
        fontsize=SMALL, color=GREY, va="top" if below else "bottom", ha="left",
    )  # fmt: skip


def _text(value: float, error: float | None) -> str:
    # a difference of −0.001 is no −0.00
    return number(round(value, 2) + 0.0) + ("" if error is None else f" ± {number(error)}")


def _measured(name: str, value: float, error: float | None) -> str:
    """The text of a result in the table; one that cannot be told from zero is written as zero."""
    text, remark = _text(value, error), sign_remark(name, value, error)
    if not remark:
        return text
    return f"0 (measured {text})" if remark == INDISTINCT else f"{text} ({remark})"


def _label(name: str, value: float, error: float | None) -> str:
    """The text beside a part of a bar, where there is little room."""
    return "≈ 0" if sign_remark(name, value, error) == INDISTINCT else _text(value, error)
