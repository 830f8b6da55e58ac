"""Curves of a training run, from the rows of ``metrics.jsonl``.

The first epochs of a run span hundreds of nats and the rest a few. So the axis is scaled to the second half of
training, with a margin, and an arrow gives the most extreme value outside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elbowroom.errors import ElbowroomError
from elbowroom.running.observers import BOUNDS
from elbowroom.showing.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    LABEL,
    NOT_A_LIKELIHOOD,
    PAGE,
    SMALL,
    VERMILION,
    Array,
    finish,
    heading,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["training_curves"]

_UNIT = "nats per example"
_SPLITS = {"train": BLUE, "validation": VERMILION}
_BESIDE = {"reconstruction": "reconstruction", "kl": "KL", "ess": "effective draws", "acceptance": "acceptance"}
_COUNTS = {"ess", "acceptance"}  # not in nats
_FEWEST_FOR_A_CUT = 5  # reports; with fewer the axis shows all
_MARGIN = 3.0  # times the range of the second half, shown on both sides of it


@dataclass(frozen=True, slots=True)
class _Curve:
    label: str
    split: str
    x: Array
    y: Array
    dashed: bool = False


def training_curves(
    rows: Sequence[Mapping[str, Any]],
    *,
    normalized: bool = True,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Training curves: the objective on training and validation data against epochs, and its two terms if it has them.

    .. math:: \\mathrm{ELBO} = \\text{reconstruction} - \\mathrm{KL}

    Args:
        rows: of ``metrics.jsonl``, with keys step, epoch, split, a figure of
            :data:`~elbowroom.running.observers.BOUNDS` and, where known, reconstruction and kl, all in nats per
            example; ess and acceptance.
        normalized: False for the cross-entropy of grey pixels, which the title then says.
        title: above, e.g. the run's name.
        path: where to write a PNG.
    Returns:
        The figure: the bound, and beside it reconstruction and KL, effective draws or acceptance where the rows have
        them. Where a split reports more than once an epoch the axis counts steps.
    Raises:
        ElbowroomError: no row with such a figure of the training or validation data.
    Example:
        >>> rows = [{"step": k, "epoch": k, "split": "train", "elbo": -100 - 50 / k} for k in range(1, 9)]
        >>> training_curves(rows).axes[0].get_ylabel()
        'nats per example'
    """
    clean = _latest(rows)
    against = _horizontal_axis(clean)
    keys = _shown(clean)
    bound = [
        curve
        for split in _SPLITS
        for number_of, key in enumerate(keys)
        if (curve := _curve(clean, split, key, against, number_of > 0)) is not None
    ]
    if not bound:
        raise ElbowroomError(
            "there is no row with a bound on training or validation data, but a curve needs one.",
            "Give the rows of a run's metrics.jsonl; the run may not have reported yet.",
        )
    terms = {
        name: curves
        for key, name in _BESIDE.items()
        if (key not in _COUNTS or keys[0] not in ("elbo", "iwae"))
        and (curves := [c for split in _SPLITS if (c := _curve(clean, split, key, against, False)) is not None])
    }
    figure = new_figure(PAGE if terms else COLUMN, 2.5)
    layout: list[Any] = [["bound", name] for name in terms] or [["bound"]]
    panels: dict[str, Axes] = figure.subplot_mosaic(layout, width_ratios=[1.25, 1] if terms else [1])
    heads = " and ".join(f"{BOUNDS[key]} bound" if key == "iwae" else BOUNDS[key] for key in keys)
    _draw(panels["bound"], bound, heads, against, legend=True)
    panels["bound"].set_xlabel(against, fontsize=LABEL, color=INK, labelpad=2)
    for name, curves in terms.items():
        _draw(panels[name], curves, name, against, legend=False)
    if terms:
        lowest = panels[list(terms)[-1]]
        lowest.set_xlabel(against, fontsize=LABEL, color=INK, labelpad=2)
        for name in list(terms)[:-1]:
            panels[name].tick_params(labelbottom=False)
    heading(figure, " · ".join(part for part in (title, None if normalized else NOT_A_LIKELIHOOD) if part))
    return finish(figure, path)


def _latest(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows in the order of steps; of two of one split and step, which a resumed run can leave, the later one."""
    latest = {(row.get("split"), row.get("step", row.get("epoch", k))): row for k, row in enumerate(rows)}
    return [row for _, row in sorted(latest.items(), key=lambda item: float(item[0][1] or 0))]


def _shown(rows: list[Mapping[str, Any]]) -> list[str]:
    """The quantities of the main panel, the first drawn solid."""
    known = {key for row in rows if row.get("split") in _SPLITS for key in BOUNDS if key in row}
    if "naive" in known:  # its ELBO, of the prior for a guide, lies thousands of nats below
        return ["naive"]
    return sorted(known, key=["elbo", "iwae", "laplace-is", "log_joint", "log p(x)"].index)


def _horizontal_axis(rows: list[Mapping[str, Any]]) -> str:
    """Epochs, unless a split reports more than once in one, or there are none, as in a stream."""
    for split in _SPLITS:
        epochs = [row.get("epoch") for row in rows if row.get("split") == split]
        if None in epochs or len(set(epochs)) < len(epochs) or not any(epochs or [1]):
            return "step"
    return "epoch"


def _curve(rows: list[Mapping[str, Any]], split: str, key: str, against: str, dashed: bool) -> _Curve | None:
    points = [(row.get(against, k), row[key]) for k, row in enumerate(rows) if row.get("split") == split and key in row]
    if not points:
        return None
    x, y = np.array([[np.nan if v is None else float(v) for v in point] for point in points]).T
    return _Curve(f"{split}, {BOUNDS[key]}" if dashed else split, split, x, y, dashed)


def _draw(axes: Axes, curves: list[_Curve], title: str, unit: str, *, legend: bool) -> None:
    """One panel: its curves, limits that show the second half, and what lies outside."""
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        label = f"{curve.label}  {number(float(finite[-1]))}" if len(finite) else curve.label
        axes.plot(
            curve.x,
            curve.y,
            color=_SPLITS[curve.split],
            linestyle="--" if curve.dashed else "-",
            linewidth=1.0,
            marker="o" if len(finite) <= 12 else None,
            markersize=2.5,
            label=label,
        )
    thin_axes(axes, title=title, ylabel={"effective draws": "draws", "acceptance": ""}.get(title, _UNIT))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(useOffset=False)
    _limit(axes, curves, unit)
    broken = sum(int((~np.isfinite(curve.y)).sum()) for curve in curves)
    if broken:
        text = f"{broken} report{'s' if broken > 1 else ''} not finite"
        axes.text(0.02, 0.98, text, ha="left", va="top", transform=axes.transAxes, fontsize=SMALL, color=VERMILION)
    if legend:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.08),
            frameon=False,
            fontsize=SMALL,
            labelcolor=INK,
            handlelength=1.6,
        )


def _limit(axes: Axes, curves: list[_Curve], unit: str) -> None:
    """Limits from :func:`_range`, and an arrow with the worst value beyond each."""
    x = np.concatenate([curve.x for curve in curves])
    y = np.concatenate([curve.y for curve in curves])
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not len(y):
        return
    if x.min() == x.max():
        axes.set_xlim(x[0] - 0.5, x[0] + 0.5)
        axes.set_xticks([float(x[0])], [f"{x[0]:g}"])
    low, high = _range(x, y)
    axes.set_ylim(low, high)
    for outside, worst, arrow, height, va in (
        (y < low, np.argmin, "↓", 0.02, "bottom"),
        (y > high, np.argmax, "↑", 0.98, "top"),
    ):
        if outside.any():
            at = int(worst(y))
            # to the right of where the curve enters the panel
            entry = float(x[~outside].min()) if (~outside).any() else float(x.min())
            axes.text(
                entry,
                height,
                f"  {arrow} {number(float(y[at]))} at {unit} {x[at]:g}",
                ha="left",
                va=va,
                transform=axes.get_xaxis_transform(),
                fontsize=SMALL,
                color=GREY,
            )


def _range(x: Array, y: Array) -> tuple[float, float]:
    """Limits of the vertical axis: the second half of a run, or all of it where the difference is small."""
    whole = float(y.min()), float(y.max())
    pad = 0.05 * (whole[1] - whole[0]) or max(0.5, 0.01 * abs(whole[0]))
    if len(np.unique(x)) < _FEWEST_FOR_A_CUT:
        return whole[0] - pad, whole[1] + pad
    settled = y[x >= (x.min() + x.max()) / 2]
    lower, upper = (float(q) for q in np.quantile(settled, [0.02, 0.98]))  # a spike does not set the scale
    span = upper - lower or 0.05 * (whole[1] - whole[0])
    low = max(whole[0], lower - _MARGIN * span)
    high = min(whole[1], upper + _MARGIN * span)
    if whole[1] - whole[0] <= 2 * (high - low):
        return whole[0] - pad, whole[1] + pad
    pad = 0.05 * (high - low)
    return low - pad, high + pad
