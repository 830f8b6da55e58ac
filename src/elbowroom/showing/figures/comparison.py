"""Recipes side by side: log p(x) against wall time and against evaluations of the decoder with its gradient.

Both horizontal axes are logarithmic, since each measurement point of a comparison is at twice the budget of the one
before. The later part of the best curve sets the vertical scale; a triangle at the lower edge marks curves below it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAGE,
    SMALL,
    VERMILION,
    Array,
    finish,
    heading,
    new_figure,
    number,
    text_width,
    thin_axes,
)

__all__ = ["comparison_figure"]

# Okabe & Ito, then three of Tol's "muted"; the marker differs too, for readers without colours
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", "#56B4E9", INK, "#882255", "#999933", "#AA4499")
_MARKERS = "os^Dv<>phd"
_DASHES = ("-", "--", ":")
_PANELS = {"seconds": "wall time, seconds", "decoder_gradients": "decoder evaluations with gradient"}
_LEAST = {"seconds": 1e-3, "decoder_gradients": 1.0}  # a logarithmic axis has no zero
_MARGIN = 3.0  # times the range of the best curve's later part: what lies lower does not set the scale
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True, slots=True)
class _Curve:
    """log p(x) of a recipe on one split, by measurement point."""

    recipe: str
    split: str
    x: dict[str, Array]  #: by panel
    y: Array
    stderr: Array

    @property
    def settled(self) -> Array:
        return self.y[len(self.y) // 2 :]


def comparison_figure(
    rows: Sequence[Mapping[str, Any]],
    *,
    failed: Sequence[str] = (),
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """log p(x) ± one standard error against wall time and against decoder gradients, a line for each recipe.

    Args:
        rows: of :class:`~elbowroom.running.comparison.Comparison`, each with recipe, split, seconds,
            decoder_gradients, value and, where known, stderr, in the order of measurement. The first split is drawn
            solid with its errors, others dashed without.
        failed: recipes that could not go on; their lines end with a cross.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure: two panels with one ordinate, and below them the recipes, best first, with their last values.
    Raises:
        ElbowroomError: no row with a finite value.
    Example:
        >>> rows = [
        ...     {"recipe": "mnist", "split": "test", "seconds": s, "decoder_gradients": 9 * s, "value": -1 / s}
        ...     for s in (1, 2, 4)
        ... ]
        >>> comparison_figure(rows).axes[1].get_xlabel()
        'decoder evaluations with gradient'
    """
    curves = _curves(rows)
    if not curves:
        raise ElbowroomError(
            "there is no measurement with a finite value, but the figure needs one.",
            "Give the rows of a comparison that has measured something.",
        )
    main = curves[0].split
    last = {curve.recipe: float(curve.y[-1]) for curve in curves if curve.split == main}
    names = sorted({c.recipe for c in curves}, key=lambda name: (name in failed, -last.get(name, -math.inf)))
    names += [name for name in dict.fromkeys(failed) if name not in names]
    splits = list(dict.fromkeys(curve.split for curve in curves))
    entries = _entries(names, splits, last, failed)
    columns, lines = _layout(entries)
    figure = new_figure(PAGE, 2.45 + 0.155 * lines + (0.2 if title else 0))
    panels = figure.subplots(1, 2, sharey=True)
    low, high = _range(curves)
    for axes, (against, label) in zip(panels, _PANELS.items(), strict=True):
        for curve in curves:
            _draw(axes, curve, against, names.index(curve.recipe), splits.index(curve.split), curve.recipe in failed)
        thin_axes(axes, xlabel=label, ylabel="log p(x) ≥, nats per example" if against == "seconds" else None)
        _horizontal_axis(axes)
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="y", useOffset=False)
        _mark_below(axes, curves, against, names, low)
    heading(figure, title)
    _legend(figure, entries, columns)
    return finish(figure, path)


def _curves(rows: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    """Finite values by recipe and split, the first split's curves first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if math.isfinite(row["value"]):
            groups.setdefault((str(row["split"]), str(row["recipe"])), []).append(row)
    splits = list(dict.fromkeys(split for split, _ in groups))
    out = []
    for (split, recipe), group in sorted(groups.items(), key=lambda item: splits.index(item[0][0])):
        x = {key: np.array([max(float(row[key]), least) for row in group]) for key, least in _LEAST.items()}
        errors = [0.0 if row.get("stderr") is None else float(row["stderr"]) for row in group]
        out.append(_Curve(recipe, split, x, np.array([float(row["value"]) for row in group]), np.array(errors)))
    return out


def _range(curves: list[_Curve]) -> tuple[float, float]:
    """Limits of the vertical axis: all values, or without the recipes that end far below the others."""
    best = max(curves, key=lambda curve: float(curve.y[-1]))
    top = float(best.y[-1])
    room = max(top - float(best.settled.min()), 4 * float(best.stderr[-1]), 1e-3 * abs(top))
    depth = room
    for curve in sorted(curves, key=lambda curve: -float(curve.y[-1])):
        below = top - float(curve.y[-1])
        if below > _MARGIN * depth:
            break
        depth = max(depth, below)
    whole = min(float((c.y - c.stderr).min()) for c in curves), max(float((c.y + c.stderr).max()) for c in curves)
    low = max(whole[0], top - _MARGIN * depth)
    if whole[1] - whole[0] <= 2 * (whole[1] - low):
        low = whole[0]
    pad = 0.06 * (whole[1] - low) or max(0.5, 0.01 * abs(top))
    return low - pad, whole[1] + pad


def _style(place: int) -> tuple[str, str]:
    return _COLOURS[place % len(_COLOURS)], _MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)]


def _draw(axes: Axes, curve: _Curve, against: str, place: int, split: int, failed: bool) -> None:
    colour, marker = _style(place)
    axes.errorbar(
        curve.x[against],
        curve.y,
        yerr=curve.stderr if split == 0 else None,
        color=colour,
        linestyle=_DASHES[min(split, len(_DASHES) - 1)],
        linewidth=1.0,
        marker=marker,
        markersize=3.2,
        markerfacecolor=colour if split == 0 else "white",
        markeredgewidth=0.5,
        elinewidth=0.6,
        zorder=3 - 0.01 * place - 0.2 * split,  # the best on top
    )
    if failed and split == 0:
        axes.plot(
            curve.x[against][-1:], curve.y[-1:], marker="x", markersize=6, markeredgewidth=1.2, color=colour, zorder=4
        )


def _horizontal_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.06)
    low, high = np.log10(axes.get_xlim())
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0), numticks=9))
    axes.xaxis.set_minor_locator(LogLocator(10, subs=tuple(range(2, 10)), numticks=40))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick_label(value)))


def _tick_label(value: float) -> str:
    """A tick label: 0.01, 20, 1000, 5·10⁴."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digit = round(value / 10.0**exponent)
    power = f"10{str(exponent).translate(_SUPERSCRIPTS)}"
    return power if digit == 1 else f"{digit}·{power}"


def _mark_below(axes: Axes, curves: list[_Curve], against: str, names: list[str], low: float) -> None:
    """A triangle at the lower edge for each recipe with values below it, and the lowest value as text."""
    below = {curve.recipe: curve for curve in reversed(curves) if bool((curve.y < low).any())}
    marked: list[float] = []  # where there is a triangle already the next one stands on it
    for recipe, curve in below.items():
        colour, _ = _style(names.index(recipe))
        x = float(curve.x[against][curve.y < low][-1])
        place = float(axes.transAxes.inverted().transform(axes.transData.transform((x, low)))[0])
        height = sum(abs(place - other) < 0.02 for other in marked)
        marked.append(place)
        axes.plot(
            [x],
            [0.015 + 0.03 * height],
            marker="v",
            markersize=4,
            markeredgewidth=0,
            linestyle="",
            color=colour,
            transform=axes.get_xaxis_transform(),
            zorder=5,
        )
    if below:
        text = f"▼ lower, down to {number(min(float(curve.y.min()) for curve in curves))}"
        axes.text(1, 1, text, transform=axes.transAxes, fontsize=SMALL, color=GREY, ha="right", va="bottom")


# --- the legend ----------------------------------------------------------------------------------------------------


def _entries(
    names: list[str], splits: list[str], last: Mapping[str, float], failed: Sequence[str]
) -> list[tuple[Line2D, str]]:
    """Recipes with their last values, and what dashes mean."""
    entries = []
    for place, name in enumerate(names):
        colour, marker = _style(place)
        handle = Line2D([], [], color=colour, linewidth=1.0, marker=marker, markersize=3.2, markeredgewidth=0.5)
        value = "failed" if name in failed else number(last[name]) if name in last else ""
        entries.append((handle, f"{_shortened(name)}  {value}"))
    for place, split in enumerate(splits if len(splits) > 1 else []):
        dashes = _DASHES[min(place, len(_DASHES) - 1)]
        face = GREY if place == 0 else "white"
        line = Line2D([], [], color=GREY, linewidth=1.0, marker="o", markersize=3.2)
        line.set(linestyle=dashes, markerfacecolor=face, markeredgewidth=0.5)
        entries.append((line, split))
    return entries


def _shortened(name: str) -> str:
    """A name on one line of at most half a page, its middle left out if need be."""
    name, most = " ".join(name.split()), PAGE / 2 - 0.9
    kept = len(name)
    shown = name
    while text_width(shown, SMALL) > most and kept > 2:
        kept -= 1
        shown = f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
    return shown


def _layout(entries: list[tuple[Line2D, str]]) -> tuple[int, int]:
    """How many columns of the widest entry a page holds, and how many lines they make."""
    widest = max(text_width(text, SMALL) for _, text in entries) + 0.45
    columns = max(1, min(len(entries), 4, int(PAGE / widest)))
    lines = math.ceil(len(entries) / columns)
    return math.ceil(len(entries) / lines), lines


def _legend(figure: Figure, entries: list[tuple[Line2D, str]], columns: int) -> None:
    legend = figure.legend(
        handles=[handle for handle, _ in entries],
        labels=["-"] * len(entries),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=2.0,
        columnspacing=1.4,
        borderaxespad=0.1,
    )
    # set afterwards: a legend leaves out labels that begin with an underscore, and takes a dollar for mathematics
    for shown, (_, text) in zip(legend.get_texts(), entries, strict=True):
        shown.set_parse_math(False)
        shown.set_text(text)
