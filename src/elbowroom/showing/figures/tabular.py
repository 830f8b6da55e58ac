"""Figures of tabular data: marginal histograms and reconstruction scatter plots.

A figure shows at most nine features. Of more features it shows the nine that fit worst, by the Kolmogorov-Smirnov
distance between data and samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
    note: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Histograms of each feature, data against samples x ~ p(x | z).

    Args:
        data: shape (n, *event); NaN where missing.
        samples: shape (m, *event), in the same units; None for the data alone.
        names: of the features; by default x[0], x[1], …
        note: below.
        path: where to write a PNG.
    Returns:
        The figure: at most nine features, those with the largest distance D between data and samples.
    Raises:
        ElbowroomError: no data, or data and samples of different shapes.
    Example:
        >>> import torch
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> [axes.get_xlabel() for axes in marginals_figure(x, x, names=["age", "income"]).axes]
        ['age', 'income']
    """
    alone = samples is None
    data, samples = _table(data, "data"), _table(data if samples is None else samples, "samples")
    if data.shape[1] != samples.shape[1]:
        raise ElbowroomError(
            f"data have {data.shape[1]} features and samples {samples.shape[1]}, but they must agree.",
            "Give samples of a model of these data.",
        )
    names = _names(names, data.shape[1])
    pairs = [(_finite(data[:, j]), _finite(samples[:, j])) for j in range(data.shape[1])]
    shown = [j for j, (one, other) in enumerate(pairs) if len(one) and len(other)]
    if not shown:
        raise ElbowroomError("no feature has a finite value in data and samples.", "Look for NaN in both.")
    distances = {j: kolmogorov_smirnov(*pairs[j]) for j in shown}
    notes = [note] if note else []
    if len(shown) > _MOST:
        worst = sorted(shown, key=lambda j: -distances[j])[:_MOST]
        notes.insert(0, f"The {_MOST} of {len(shown)} features that fit worst, by the distance D.")
        shown = sorted(worst)

    columns = len(shown) if len(shown) < 4 else 3 if len(shown) != 4 else 2
    rows = -(-len(shown) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure = new_figure(width, 0.3 + rows * (1.5 if columns > 1 else 2.2) + 0.15 * len(notes))
    for place, j in enumerate(shown):
        axes = figure.add_subplot(rows, columns, place + 1)
        _histograms(axes, *pairs[j])
        thin_axes(axes, xlabel=_shorten(names[j]), ylabel="share of rows" if place % columns == 0 else None)
        if not alone:
            axes.set_title(f"D = {distances[j]:.2f}", loc="right", fontsize=SMALL, color=GREY, pad=2)
    figure.legend(
        *([[], []] if alone else figure.axes[0].get_legend_handles_labels()),
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


def _histograms(axes: Axes, data: Array, samples: Array) -> None:
    """Shares of all rows per bin, data filled and samples as a line, on common bins."""
    edges = _edges(data, samples)
    for values, style in (
        (data, {"histtype": "stepfilled", "color": "#BBBBBB", "label": "data"}),
        (samples, {"histtype": "step", "color": BLUE, "linewidth": 1.0, "label": "samples  x ~ p(x | z)"}),
    ):
        axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), **style)  # type: ignore[arg-type]
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    missed, outside = (float(((v < edges[0]) | (v > edges[-1])).mean()) for v in (data, samples))
    if outside >= missed + 0.005:
        # samples outside the axis are counted in the panel
        text = f"{100 * outside:.0f}% of samples\nout of range"
        axes.text(0.98, 0.95, text, ha="right", va="top", transform=axes.transAxes, fontsize=SMALL, color=VERMILION)


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
    note: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Each feature's reconstruction E[x | z], z ~ q(z | x), against its value; perfect ones lie on the diagonal.

    Args:
        x: data, shape (n, *event); NaN where missing.
        means: the same shape.
        names: of the features.
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
    for j in range(data.shape[1]):
        known = np.isfinite(data[:, j]) & np.isfinite(expected[:, j])
        if known.any():
            pairs.append((names[j], data[known, j], expected[known, j]))
    if not pairs:
        raise ElbowroomError("no feature has a finite value and reconstruction.", "Look for NaN in both.")
    notes = [note] if note else []
    if len(pairs) > _MOST:
        notes.insert(0, f"The {_MOST} of {len(pairs)} features of which the reconstruction explains least, by R².")
        worst = set(sorted(range(len(pairs)), key=lambda j: _explained(*pairs[j][1:]))[:_MOST])
        pairs = [pair for j, pair in enumerate(pairs) if j in worst]
    columns = len(pairs) if len(pairs) < 4 else 3 if len(pairs) != 4 else 2
    rows = -(-len(pairs) // columns)
    width = COLUMN if columns == 1 else PAGE
    figure = new_figure(width, 0.2 + rows * (2.0 if columns > 1 else 2.8) + 0.15 * len(notes))
    for place, (name, value, mean) in enumerate(pairs):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.axline((float(value.mean()), float(value.mean())), slope=1, color=GREY, linewidth=0.5, zorder=0)
        alpha = float(np.clip(200 / len(value), 0.1, 0.7))
        axes.scatter(value, mean, s=5, color=BLUE, alpha=alpha, linewidths=0, rasterized=True)
        thin_axes(axes, xlabel=_shorten(name), ylabel="mean  E[x | z]" if place % columns == 0 else None)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        quality = "constant" if np.ptp(value) == 0 else f"R² = {number(_explained(value, mean))}"
        axes.set_title(quality, loc="right", fontsize=SMALL, color=GREY, pad=2)
    figure.suptitle("data against mean of p(x | z), z ~ q(z | x)", fontsize=LABEL, color=INK, x=0.01, ha="left")
    if notes:
        figure.supxlabel(
            wrap(" ".join(notes), SMALL, width - 0.1), fontsize=SMALL, color=GREY, x=0.01, ha="left", parse_math=False
        )
    return finish(figure, path)


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
        return [f"x[{j}]" for j in range(count)]
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
