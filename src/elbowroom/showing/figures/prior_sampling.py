"""Figure of the cost of estimating log p(x) in d latent dimensions, and of the effective sample size of the prior."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PAGE,
    SMALL,
    VERMILION,
    finish,
    heading,
    legend_below,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["prior_sampling_figure"]

#: method -> colour, marker, label
_METHODS = {
    "prior": (VERMILION, "o", "draws of the prior"),
    "guide": (GREEN, "s", "draws of a guide"),
    "ais": (BLUE, "D", "gradients of AIS"),
}
_LINE = 0.075  # height of a line of text, as a share of a panel's height
_STYLES = ("-", "--", ":", "-.")
_THEORY: dict[str, Any] = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 0.8}


def prior_sampling_figure(
    costs: Sequence[Mapping[str, Any]],
    ess: Sequence[Mapping[str, Any]] = (),
    rates: Sequence[Mapping[str, Any]] = (),
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Evaluations for an error of one nat against latent dimensions, and the effective sample size of prior draws.

    One panel for each number of nats per dimension, all on one logarithmic scale; what was not reached is an open
    triangle at the cost that was spent, and no line leads there.

    Args:
        costs: each with method ("prior", "guide" or "ais"), information, latent_dim, evaluations, log_stderr and
            reached, as a prior-sampling study has them.
        ess: each with information, latent_dim, draws, ess and stderr; without any there is no such panel.
        rates: each with method, information, law ("exponential" or "power"), rate and stderr: written into the panels.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: no costs; a method that is not known.
    Example:
        >>> rows = [
        ...     {"method": "prior", "information": 1.0, "latent_dim": d, "evaluations": 2.7**d, "log_stderr": 0.1,
        ...      "reached": True} for d in (1, 5, 9)
        ... ]
        >>> prior_sampling_figure(rows).axes[0].get_yscale()
        'log'
    """
    unknown = next((row["method"] for row in costs if row["method"] not in _METHODS), None)
    if not costs or unknown is not None:
        given = "there are no costs" if unknown is None else f"there is a cost of {unknown!r}"
        raise ElbowroomError(
            f"{given}, but the figure compares those of {', '.join(_METHODS)}.",
            "Give the costs of a prior-sampling study.",
        )
    levels = sorted({float(row["information"]) for row in costs})
    panels = len(levels) + bool(ess)
    figure = new_figure(PAGE * min(1.0, (panels + 0.2) / 3), 2.5 + (0.2 if title else 0))
    every = list(figure.subplots(1, panels, squeeze=False)[0])
    decades = math.log10(3 * max(float(row["evaluations"]) for row in costs))
    lines = max(sum(row["information"] == level for row in rates) for level in levels)
    for axes, level in zip(every, levels, strict=False):
        first = axes is every[0]
        _cost_panel(axes, [row for row in costs if row["information"] == level], level, decades)
        axes.set_ylim(0.7, 10 ** (decades / (1 - _LINE * (lines + 0.5))))
        _write_rates(axes, [row for row in rates if row["information"] == level])
        thin_axes(
            axes,
            title=_nats(level),
            xlabel="latent dimensions d",
            ylabel="evaluations per example for 1 nat" if first else None,
        )
        if not first:
            axes.set_yticklabels([])
    if ess:
        _ess_panel(every[-1], ess, levels)
    _legend(figure, costs)
    heading(figure, title)
    return finish(figure, path)


def _cost_panel(axes: Axes, costs: Sequence[Mapping[str, Any]], information: float, decades: float) -> None:
    """Measured costs with their errors, joined; what was not reached; and exp(d · information)."""
    axes.set_yscale("log")
    widest = max(float(row["latent_dim"]) for row in costs)
    ends = min(widest * 1.05, decades * math.log(10) / information)  # below the text
    axes.plot([0, ends], [1, math.exp(information * ends)], **_THEORY, zorder=1)
    for method, (colour, mark, _) in _METHODS.items():
        mine = sorted((row for row in costs if row["method"] == method), key=lambda row: float(row["latent_dim"]))
        reached = [row for row in mine if row["reached"]]
        values = [float(row["evaluations"]) for row in reached]
        factors = [math.exp(float(row["log_stderr"])) for row in reached]
        below = [value - value / factor for value, factor in zip(values, factors, strict=True)]
        above = [value * factor - value for value, factor in zip(values, factors, strict=True)]
        axes.errorbar(
            [float(row["latent_dim"]) for row in reached],
            values,
            yerr=[below, above],
            fmt=mark,
            linestyle="-",
            linewidth=0.9,
            color=colour,
            markersize=3,
            markeredgewidth=0,
            elinewidth=0.8,
            label=method,
        )
        missed = [row for row in mine if not row["reached"]]
        axes.plot(
            [float(row["latent_dim"]) for row in missed],
            [float(row["evaluations"]) for row in missed],
            linestyle="",
            marker="^",
            markersize=5,
            markerfacecolor="white",
            markeredgewidth=0.9,
            color=colour,
            label=f"{method}, not reached",
        )
    axes.set_xlim(0, widest * 1.05)
    axes.yaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _nats(information: float) -> str:
    return f"{number(information, 'g')} {'nat' if information == 1 else 'nats'} per dimension"


def _write_rates(axes: Axes, rates: Sequence[Mapping[str, Any]]) -> None:
    """The fitted laws, in the methods' colours, in the room above the curves."""
    for line, row in enumerate(rates):
        value = f"{number(float(row['rate']), '.3f')} ± {number(float(row['stderr']), '.3f')}"
        axes.text(
            0.03,
            0.98 - _LINE * line,
            f"exp(({value}) d)" if row["law"] == "exponential" else f"d to the power {value}",
            transform=axes.transAxes,
            fontsize=SMALL,
            color=_METHODS[row["method"]][0],
            va="top",
            parse_math=False,
        )


def _ess_panel(axes: Axes, ess: Sequence[Mapping[str, Any]], levels: Sequence[float]) -> None:
    axes.set_yscale("log")
    bare = []  # without error bars, for the legend
    for level, style in zip(levels, _STYLES * len(levels), strict=False):
        mine = sorted((row for row in ess if row["information"] == level), key=lambda row: float(row["latent_dim"]))
        container = axes.errorbar(
            [float(row["latent_dim"]) for row in mine],
            [float(row["ess"]) for row in mine],
            yerr=[float(row["stderr"]) for row in mine],
            fmt="o",
            linestyle=style,
            linewidth=0.9,
            color=VERMILION,
            markersize=3,
            markeredgewidth=0,
            elinewidth=0.8,
        )
        bare.append(container.lines[0])
    draws = max(float(row["draws"]) for row in ess)
    axes.set_ylim(0.8, draws * 1.3)
    axes.set_xlim(left=0)
    axes.yaxis.set_minor_formatter(NullFormatter())
    counts = sorted({int(row["draws"]) for row in ess})
    of = f"{counts[0]:,}" if len(counts) == 1 else "K"
    thin_axes(axes, title=f"effective of {of} prior draws", xlabel="latent dimensions d")
    axes.legend(
        bare, [_nats(level) for level in levels], frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=2.2
    )


def _legend(figure: Figure, costs: Sequence[Mapping[str, Any]]) -> None:
    present = {row["method"] for row in costs}
    handles = [
        Line2D([], [], color=colour, marker=mark, markersize=3.5, markeredgewidth=0, linewidth=0.9, label=what)
        for method, (colour, mark, what) in _METHODS.items()
        if method in present
    ]
    handles.append(Line2D([], [], label="exp(mutual information)", **_THEORY))
    missed = [row for row in costs if not row["reached"]]
    if missed:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="",
                marker="^",
                markersize=5,
                color=_METHODS[missed[0]["method"]][0] if len({row["method"] for row in missed}) == 1 else GREY,
                markerfacecolor="white",
                markeredgewidth=0.9,
                label="1 nat not reached",
            )
        )
    legend_below(figure, handles)
