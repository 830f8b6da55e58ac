"""Figures of tabular data: marginal histograms and reconstruction scatter plots.

A figure shows at most nine features. Of more features it shows the nine that fit worst, by the Kolmogorov-Smirnov
distance between data and samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.columns.dates import printed
from elbowroom.data.naming import element_name, listed
from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    LABEL,
    PAGE,
    SMALL,
    VERMILION,
    Array,
    Values,
    as_array,
    finish,
    new_figure,
    number,
    text_width,
    thin_axes,
    wrap,
)

__all__ = ["kolmogorov_smirnov", "marginals_figure", "reconstruction_scatter"]

_MOST = 9
_MOST_LEVELS, _LETTERS = 6, 7  # of names below a panel
_BINS = 30
_NAME = 1.6  #: inches that a feature's name may take


def kolmogorov_smirnov(one: Values, other: Values) -> float:
    r"""Kolmogorov-Smirnov distance: largest difference between the distribution functions of two samples.

    .. math:: D = \sup_t |F_1(t) - F_2(t)|

    Args:
        one, other: one-dimensional.
    Returns:
        Between 0 and 1.
    Example:
        >>> kolmogorov_smirnov([1.0, 2.0], [1.0, 2.0]), kolmogorov_smirnov([1.0, 2.0], [3.0, 4.0])
        (0.0, 1.0)
    """
    first, second = np.sort(as_array(one, "one")), np.sort(as_array(other, "other"))
    at = np.concatenate([first, second])
    one_cdf = np.searchsorted(first, at, side="right") / len(first)
    other_cdf = np.searchsorted(second, at, side="right") / len(second)
    return float(np.abs(one_cdf - other_cdf).max())


def marginals_figure(
    data: Values,
    samples: Values | None = None,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[Column] | None = None,
    note: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Histograms of each feature of a table, and beside them of samples x ~ p(x | z) where there is a model.

    Args:
        data: shape (n, *event); NaN where missing.
        samples: shape (m, *event), in the same units; None for the data alone.
        names: of the features; by default x[0], x[1], …
        kinds: what is known of each, where they are the columns of a table with several kinds: levels and dates then
            have their names below the panel.
        note: below.
        path: where to write a PNG.
    Returns:
        The figure: at most nine features, those with the largest distance D between data and samples, or without
        samples the first ones. What is missing is in no histogram; a panel says how much that is.
    Raises:
        ElbowroomError: no data, or data and samples of different shapes.
    Example:
        >>> import torch
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> [axes.get_xlabel() for axes in marginals_figure(x, x, names=["age", "income"]).axes]
        ['age', 'income']
    """
    table = _table(data, "data")
    drawn = None if samples is None else _table(samples, "samples")
    if drawn is not None and table.shape[1] != drawn.shape[1]:
        raise ElbowroomError(
            f"data have {table.shape[1]} features and samples {drawn.shape[1]}, but they must agree.",
            "Give samples of a model of these data.",
        )
    names = _names(names, table.shape[1])
    features = [_finite(column) for column in table.T]
    sampled = None if drawn is None else [_finite(column) for column in drawn.T]
    known = [j for j, values in enumerate(features) if len(values) and (sampled is None or len(sampled[j]))]
    if not known:
        where = "data" if sampled is None else "data and samples"
        raise ElbowroomError(f"no feature has a finite value in {where}.", "Look for NaN in the columns.")
    distances = {} if sampled is None else {j: kolmogorov_smirnov(features[j], sampled[j]) for j in known}
    notes = [note] if note else []
    shown = known
    if len(known) > _MOST:
        shown = sorted(sorted(known, key=lambda j: -distances.get(j, 0.0))[:_MOST])
        some = f"{_MOST} of {len(known)} features"
        notes.insert(0, f"The {some} that fit worst, by the distance D." if distances else f"The first {some}.")
    if lost := len(features) - len(known):
        notes.append(f"Not shown, having no values: {lost} of {len(features)} features.")

    columns = len(shown) if len(shown) < 4 else 3 if len(shown) != 4 else 2
    rows = -(-len(shown) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure = new_figure(width, 0.3 + rows * (1.5 if columns > 1 else 2.2) + 0.15 * len(notes))
    holes = any(len(features[j]) < len(table) for j in shown)
    for place, j in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        _histograms(axes, features[j], None if sampled is None else sampled[j])
        if kinds is not None:
            _name_values(axes.xaxis, kinds[j])
        share = f"share of {'values' if holes else 'rows'}"
        thin_axes(axes, xlabel=_shorten(names[j]), ylabel=share if place % columns == 0 else None)
        style: dict[str, Any] = {"fontsize": SMALL, "color": GREY, "pad": 2}
        if j in distances:
            axes.set_title(f"D = {distances[j]:.2f}", loc="right", **style)
        if missing := 1 - len(features[j]) / len(table):
            axes.set_title(f"{min(max(missing, 0.01), 0.99):.0%} missing", loc="left", **style)
    if sampled is not None:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside upper left",
            ncols=2,
            frameon=False,
            fontsize=SMALL,
            labelcolor=INK,
            borderaxespad=0.2,
        )
    if notes:
        figure.supxlabel(
            wrap(" ".join(notes), SMALL, width - 0.1), fontsize=SMALL, color=GREY, x=0.01, ha="left", parse_math=False
        )
    return finish(figure, path)


def _histograms(axes: Axes, data: Array, samples: Array | None) -> None:
    """Shares of all rows per bin, data filled and samples as a line, on common bins."""
    edges = _edges(data, data if samples is None else samples)
    drawn: list[tuple[Array, dict[str, Any]]] = [
        (data, {"histtype": "stepfilled", "color": "#BBBBBB", "label": "data"})
    ]
    if samples is not None:
        line = {"histtype": "step", "color": BLUE, "linewidth": 1.0, "label": "samples  x ~ p(x | z)"}
        drawn.append((samples, line))
    for values, style in drawn:
        axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), **style)  # type: ignore[arg-type]
    axes.set_xlim(edges[0], edges[-1])
    whole = edges[0] % 1 == 0.5 and edges[1] - edges[0] == 1  # a bin for each value
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    missed, *outside = (float(((v < edges[0]) | (v > edges[-1])).mean()) for v, _ in drawn)
    text, colour = "", VERMILION
    if samples is None and missed:
        number_missed = round(missed * len(data))
        text, colour = f"{number_missed:,} value{'s' * (number_missed > 1)}\nout of range", GREY
    elif outside and outside[0] >= missed + 0.005:
        text = f"{max(1, round(100 * outside[0]))}% of samples\nout of range"
    if text:  # what lies outside the axis is counted in the panel
        axes.text(0.98, 0.95, text, ha="right", va="top", transform=axes.transAxes, fontsize=SMALL, color=colour)


def _edges(data: Array, samples: Array) -> Array:
    """Bins over 99% of the data and up to a quarter more on each side; one per value where integers are few."""
    low, high = (float(q) for q in np.quantile(data, [0.005, 0.995]))
    span = high - low or max(1.0, abs(low))
    low = max(low - span / 4, min(float(data.min()), float(samples.min())))
    high = min(high + span / 4, max(float(data.max()), float(samples.max())))
    if (data == np.round(data)).all() and (samples == np.round(samples)).all() and high - low <= _BINS:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    return np.linspace(low, high if high > low else low + span, _BINS + 1)


def reconstruction_scatter(
    x: Values,
    means: Values,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[Column] | None = None,
    note: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Each feature's reconstruction E[x | z], z ~ q(z | x), against its value; perfect ones lie on the diagonal.

    Args:
        x: data, shape (n, *event); NaN where missing.
        means: the same shape.
        names: of the features.
        kinds: as for `marginals_figure`; categories of three levels or more, whose mean says nothing, are left out.
        note: below.
        path: where to write a PNG.
    Returns:
        The figure: at most nine features, those of which the reconstruction explains least (by R²).
    Raises:
        ElbowroomError: no data, no finite value, or x and means of different shapes.
    Example:
        >>> import torch
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> reconstruction_scatter(x, x).axes[0].get_title(loc="right")
        'R² = 1.00'
    """
    data, expected = _table(x, "x"), _table(means, "means")
    if data.shape != expected.shape:
        raise ElbowroomError(
            f"x has {data.shape[0]} rows of {data.shape[1]} features and means {expected.shape[0]} of "
            f"{expected.shape[1]}, but each value is compared with its own mean.",
            "Give one mean for every value, in the same order.",
        )
    names = _names(names, data.shape[1])
    pairs = []
    unordered = [] if kinds is None else [j for j, kind in enumerate(kinds) if kind.kind is ColumnKind.CATEGORY]
    for j in range(data.shape[1]):
        known = np.isfinite(data[:, j]) & np.isfinite(expected[:, j])
        if known.any() and j not in unordered:
            pairs.append((j, data[known, j], expected[known, j]))
    if not pairs:
        if unordered:
            raise ElbowroomError(
                "every column with a value is a category, and the mean of a category's number says nothing.",
                "Look at the samples instead: `elbowroom sample`.",
            )
        raise ElbowroomError("no feature has a finite value and reconstruction.", "Look for NaN in both.")
    notes = [note] if note else []
    if unordered:
        notes.append(f"Categories are left out: {listed([names[j] for j in unordered])}.")
    if len(pairs) > _MOST:
        notes.insert(0, f"The {_MOST} of {len(pairs)} features of which the reconstruction explains least, by R².")
        worst = set(sorted(range(len(pairs)), key=lambda j: _explained(*pairs[j][1:]))[:_MOST])
        pairs = [pair for j, pair in enumerate(pairs) if j in worst]
    columns = len(pairs) if len(pairs) < 4 else 3 if len(pairs) != 4 else 2
    rows = -(-len(pairs) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure = new_figure(width, 0.2 + rows * (2.0 if columns > 1 else 2.8) + 0.15 * len(notes))
    for place, (j, value, mean) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.axline((float(value.mean()), float(value.mean())), slope=1, color=GREY, linewidth=0.5, zorder=0)
        alpha = float(np.clip(200 / len(value), 0.1, 0.7))
        axes.scatter(value, mean, s=5, color=BLUE, alpha=alpha, linewidths=0, rasterized=True)
        thin_axes(axes, xlabel=_shorten(names[j]), ylabel="mean  E[x | z]" if place % columns == 0 else None)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if kinds is not None:
            _name_values(axes.xaxis, kinds[j])
            if kinds[j].kind is ColumnKind.DATE:
                _name_values(axes.yaxis, kinds[j])
        quality = "constant" if np.ptp(value) == 0 else f"R² = {number(_explained(value, mean))}"
        axes.set_title(quality, loc="right", fontsize=SMALL, color=GREY, pad=2)
    figure.suptitle("data against mean of p(x | z), z ~ q(z | x)", fontsize=LABEL, color=INK, x=0.01, ha="left")
    if notes:
        figure.supxlabel(
            wrap(" ".join(notes), SMALL, width - 0.1), fontsize=SMALL, color=GREY, x=0.01, ha="left", parse_math=False
        )
    return finish(figure, path)


def _name_values(axis: Axis, column: Column) -> None:
    """The names of levels, or dates, at an axis of their numbers."""
    if column.kind.has_levels and len(column.levels) <= _MOST_LEVELS:
        names = [level if len(level) <= _LETTERS else f"{level[: _LETTERS - 1]}…" for level in column.levels]
        axis.set_ticks(range(len(names)), names)
    elif column.kind is ColumnKind.DATE:
        low, high = axis.get_view_interval()
        ends = [low + (high - low) / 6, high - (high - low) / 6]
        axis.set_ticks(ends, [printed(end, column.date_format, column.step) for end in ends])


def _explained(value: Array, mean: Array) -> float:
    """R² = 1 − Σ(x − E[x|z])² / Σ(x − x̄)²; of a constant feature 1 if it is met, else −inf."""
    total = float(np.square(value - value.mean()).sum())
    error = float(np.square(value - mean).sum())
    if total == 0:
        return 1.0 if error == 0 else -np.inf
    return 1 - error / total


def _table(values: Values, what: str) -> Array:
    array = as_array(values, what).astype(np.float64)
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [element_name(None, (count,), j) for j in range(count)]
    if len(names) != count:
        raise ElbowroomError(f"there are {len(names)} names, but {count} features.", "Give one name for every feature.")
    return [str(name) for name in names]


def _shorten(name: str) -> str:
    """A name that fits below its panel."""
    if text_width(name, LABEL) <= _NAME:
        return name
    while name and text_width(f"{name}…", LABEL) > _NAME:
        name = name[:-1]
    return f"{name}…"
