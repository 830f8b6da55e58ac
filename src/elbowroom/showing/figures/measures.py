"""Figures of evaluation results: bounds on log p(x) with standard errors, and variances of gradient estimators."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.results import sign_remark
from elbowroom.showing.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    NOT_A_LIKELIHOOD,
    ORANGE,
    SMALL,
    VERMILION,
    finish,
    heading,
    legend_below,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["evaluation_figure", "gradient_figure", "k_curve_figure"]

_TITLES = {
    "elbo": "ELBO",
    "elbo of q*": "ELBO of q*",
    "iwae": "IWAE",
    "k-curve": "IWAE",
    "laplace-is": "Laplace IS",
    "ais": "AIS",
    "bdmc": "BDMC",
    "exact": "exact",
}
_ROOM = frozenset({"room", "elbow room", "elbow-room", "elbow_room"})
# marker and label of each kind of value; the triangle of a bound points towards log p(x)
_MARKERS = {
    "lower": (">", "lower bound"),
    "upper": ("<", "upper bound"),
    "estimate": ("o", "estimate"),
    "exact": ("D", "exact"),
}
_BIASED = 4.0  # bias in standard errors beyond which an estimator is drawn as biased

_SHORT = 20  # characters of a name that leave room for five numbers at the axis


def evaluation_figure(
    results: Sequence[Mapping[str, Any]],
    *,
    normalized: bool = True,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Bounds on and estimates of log p(x), ± one standard error, and the elbow room (inference gap) between.

    Args:
        results: of ``evaluate``, each with name, value, stderr and bound ("lower", "upper", "estimate" or "exact"),
            and optionally method, asked (k is shown) and points. A result named "elbow room" gives the room its length,
            label and paired standard error. Results without a bound or in another unit are no values of log p(x),
            and are left out.
        normalized: False for the cross-entropy of grey pixels, which the title then says.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: no finite result with a bound.
    Example:
        >>> rows = [
        ...     {"name": "elbo", "value": -93.2, "stderr": 0.3, "bound": "lower"},
        ...     {"name": "iwae", "value": -87.0, "stderr": 0.3, "bound": "lower", "asked": {"k": 5000}},
        ... ]
        >>> [tick.get_text() for tick in evaluation_figure(rows).axes[0].get_yticklabels()]
        ['ELBO', 'IWAE, k = 5000']
    """
    shown = [result for result in results if _is_log_evidence(result)]
    if not shown:
        raise ElbowroomError(
            "there is no finite result that bounds or estimates log p(x), but the figure compares them.",
            "Give the results of `elbowroom evaluate`.",
        )
    room = _room(shown, results)
    figure = new_figure(COLUMN, 0.75 + 0.27 * (len(shown) + bool(room)) + (0.2 if title or not normalized else 0))
    axes = figure.add_subplot()
    points = {r.get("points") for r in shown}
    for row, result in enumerate(shown):
        value = float(result["value"])
        error = float(result["stderr"]) if _finite(result.get("stderr")) else None
        axes.errorbar(
            value,
            row,
            xerr=error,
            fmt=_MARKERS[result["bound"]][0],
            color=BLUE,
            markersize=4,
            markeredgewidth=0,
            elinewidth=1.0,
            capsize=2,
            capthick=0.7,
        )
        text = number(value) + (f" ± {number(error)}" if error is not None else "")
        axes.annotate(
            text,
            (1.02, row),
            xycoords=("axes fraction", "data"),
            fontsize=SMALL,
            color=INK,
            va="center",
            annotation_clip=False,
        )
    names = [_name(result, several=len(points) > 1) for result in shown]
    names = [
        f"{name}, by {result['method']}" if names.count(name) > 1 and result.get("method") else name
        for name, result in zip(names, shown, strict=True)
    ]
    if room:
        _draw_room(axes, room, len(shown))
    axes.set_ylim(len(shown) - 0.4 + bool(room), -0.6)
    text = " · ".join(part for part in (title, None if normalized else NOT_A_LIKELIHOOD) if part)
    thin_axes(axes, xlabel="nats per example, ± 1 standard error")
    heading(figure, text)
    longest = max(map(len, names))  # of the names beside the axis, which leave it what is left of the column
    axes.xaxis.set_major_locator(MaxNLocator(5 if longest <= _SHORT else 2, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)
    axes.set_yticks(range(len(shown)), names, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _legend(figure, [_MARKERS[side] for side in _MARKERS if any(r["bound"] == side for r in shown)])
    return finish(figure, path)


def _finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _is_log_evidence(result: Mapping[str, Any]) -> bool:
    """Whether a result bounds or estimates log p(x) in nats; the room does not, nor do bits per dimension."""
    return (
        result.get("bound") in _MARKERS
        and result.get("name") not in _ROOM
        and str(result.get("unit", "nats")).startswith("nats")
        and _finite(result.get("value"))
    )


def _name(result: Mapping[str, Any], *, several: bool) -> str:
    """A method with its k; the number of examples only where results differ in it."""
    parts = [_TITLES.get(str(result.get("name")), str(result.get("name")))]
    if "k" in result.get("asked", {}):
        parts.append(f"k = {result['asked']['k']}")
    if several and result.get("points") is not None:
        parts.append(f"{result['points']:,} examples")
    return ", ".join(parts)


def _room(shown: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> tuple[float, float, str] | None:
    """Both ends of the elbow room, from the ELBO upwards, and its label; None without one.

    A measured room, whose differences are paired, gives both the length and the label; of several, the one that the
    method room has divided. Without one, the room reaches to the best other value.
    """
    elbos = [r for r in shown if r.get("name") == "elbo"]
    others = [r for r in shown if r.get("name") != "elbo" and r["bound"] != "upper"]
    if not elbos or not others:
        return None
    best = next((r for r in others if r["bound"] == "exact"), None) or max(others, key=lambda r: float(r["value"]))
    # a lower bound above the ELBO bounds the room from below; only an exact value gives the room itself
    sign = {"lower": "≥ ", "estimate": "≈ ", "exact": ""}[best["bound"]]
    rooms = [r for r in results if r.get("name") in _ROOM and _finite(r.get("value"))]
    if not rooms:
        low, high = float(elbos[0]["value"]), float(best["value"])
        different = elbos[0].get("points") != best.get("points")
        text = f"elbow room {'≈ ' if different else sign}{number(high - low)}"
        return (low, high, text) if high > low else None
    measured = max(rooms, key=lambda r: r.get("method") == "room")
    elbo = next((r for r in elbos if r.get("method") == measured.get("method")), elbos[0])
    low, value = float(elbo["value"]), float(measured["value"])
    error = float(measured["stderr"]) if _finite(measured.get("stderr")) else None
    text = number(value) + ("" if error is None else f" ± {number(error)}")
    if sign_remark("elbow room", value, error):
        return low, low, f"elbow room ≥ 0 (measured {text})"
    points = measured.get("points")
    which = "" if points in (None, elbo.get("points")) else f", {points:,} examples"
    return low, low + value, f"elbow room {'≥ ' if measured.get('bound') == 'lower' else sign}{text}{which}"


def _draw_room(axes: Axes, room: tuple[float, float, str], row: int) -> None:
    low, high, text = room
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL, "color": INK}
    if high <= low:  # nothing to point at
        axes.text(0.5, row - 0.1, text, transform=axes.get_yaxis_transform(), **style)
        return
    axes.axvspan(low, high, color=ORANGE, alpha=0.15, linewidth=0)
    arrow = {"arrowstyle": "<->", "linewidth": 0.6, "color": INK, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    axes.annotate("", (low, row - 0.25), (high, row - 0.25), arrowprops=arrow)
    axes.text((low + high) / 2, row - 0.1, text, **style)


def _legend(figure: Figure, markers: Sequence[tuple[str, str]]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=BLUE, markersize=4, markeredgewidth=0, label=label)
        for marker, label in markers
    ]
    legend_below(figure, handles, pad=0.2)


def k_curve_figure(
    draws: Sequence[int],
    values: Sequence[float],
    errors: Sequence[float],
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The importance-weighted bound against the number of its draws.

    Args:
        draws: k, increasing.
        values: the bound of each, nats per example.
        errors: its standard error.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: the path cannot be written.
    Example:
        >>> k_curve_figure([1, 10, 100], [-93.0, -90.1, -89.6], [0.3, 0.3, 0.3]).axes[0].get_xscale()
        'log'
    """
    figure = new_figure(COLUMN, 2.3 + (0.2 if title else 0))
    axes = figure.add_subplot()
    axes.errorbar(draws, values, yerr=errors, color=BLUE, marker="o", markersize=3.2,
                  linewidth=1.0, elinewidth=0.7, capsize=2, capthick=0.7)  # fmt: skip
    axes.set_xscale("log")
    thin_axes(axes, xlabel="draws k from the guide q(z | x)", ylabel="nats per example, ± 1 s.e.")
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    heading(figure, title)
    return finish(figure, path)


def gradient_figure(
    statistics: Sequence[Mapping[str, Any]],
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Variance of gradient estimators, on a logarithmic axis; biased estimators are hollow.

    .. math:: \\operatorname{tr} \\operatorname{Cov}[\\hat g]

    Args:
        statistics: each with estimator, wrt ("guide" or "model"), variance, and optionally bias_z, the bias
            in standard errors; beyond 4 the estimator is drawn as biased.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure: a row per estimator, a colour per set of parameters. A variance of zero is an arrow at the edge.
    Raises:
        ElbowroomError: no finite variance.
    Example:
        >>> rows = [{"estimator": name, "wrt": "guide", "variance": v} for name, v in [("pathwise", 2.0), ("stl", 0.1)]]
        >>> gradient_figure(rows).axes[0].get_xscale()
        'log'
    """
    shown = [s for s in statistics if _finite(s.get("variance")) and s["variance"] >= 0]
    if not shown:
        raise ElbowroomError(
            "there is no estimator with a finite variance, but the figure compares them.",
            "Give the statistics of a gradient study.",
        )
    estimators = list(dict.fromkeys(str(s["estimator"]) for s in shown))
    sides = list(dict.fromkeys(str(s.get("wrt", "parameters")) for s in shown))
    colours = dict(zip(sides, (BLUE, VERMILION, ORANGE, GREY), strict=False))
    figure = new_figure(COLUMN, 0.85 + 0.26 * len(estimators) + (0.2 if title else 0))
    axes = figure.add_subplot()
    axes.set_xscale("log")
    positive = [float(s["variance"]) for s in shown if s["variance"] > 0] or [1.0]
    low, high = min(positive), max(positive)
    edge = 10 ** (math.floor(math.log10(low)) - (0 if all(s["variance"] > 0 for s in shown) else 1))
    axes.set_xlim(min(edge, low / 1.5), max(high * 1.5, edge * 10))
    for s in shown:
        side = str(s.get("wrt", "parameters"))
        # the marks of one estimator stand slightly above each other
        y = estimators.index(str(s["estimator"])) + 0.12 * (sides.index(side) - (len(sides) - 1) / 2)
        biased = _biased(s)
        zero = s["variance"] == 0
        axes.plot(
            [axes.get_xlim()[0] if zero else float(s["variance"])],
            [y],
            linestyle="",
            marker="<" if zero else "o",
            markersize=4.5,
            color=colours[side],
            markerfacecolor="white" if biased else colours[side],
            markeredgewidth=0.9,
            clip_on=False,
        )
    thin_axes(axes, xlabel="total variance of the gradient")
    heading(figure, title)
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(estimators)), estimators, parse_math=False)
    axes.set_ylim(len(estimators) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="y", color="#DDDDDD", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    _gradient_legend(figure, {side: colours[side] for side in sides}, shown)
    return finish(figure, path)


def _biased(statistics: Mapping[str, Any]) -> bool:
    return _finite(statistics.get("bias_z")) and abs(float(statistics["bias_z"])) > _BIASED


def _gradient_legend(figure: Figure, colours: Mapping[str, str], shown: Sequence[Mapping[str, Any]]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker="o", color=colour, markersize=4.5, label=f"of the {side}")
        for side, colour in colours.items()
    ]
    if any(_biased(s) for s in shown):
        handles.append(
            Line2D(
                [], [], linestyle="", marker="o", color=GREY, markerfacecolor="white", markersize=4.5, label="biased"
            )
        )
    if any(s["variance"] == 0 for s in shown):
        handles.append(Line2D([], [], linestyle="", marker="<", color=GREY, markersize=4.5, label="zero"))
    legend_below(figure, handles, pad=0.2)
