r"""Figures of the latent space: manifold, traversals, and a scatter plot of encodings.

A two-dimensional latent space can be shown whole. Equal shares of the prior's mass lie between its quantiles, so the
grid of :func:`manifold_grid`

.. math:: z_{ij} = \bigl( \Phi^{-1}((j + \tfrac12) / r), \; \Phi^{-1}((r - i - \tfrac12) / r) \bigr)

shows each part of a standard normal prior as often as the model samples it (Kingma & Welling, 2014, fig. 4).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.image_sheet import Panel, draw_sheet, to_rgb
from elbowroom.showing.figures.style import (
    CLASS_COLOURS,
    COLUMN,
    INK,
    SMALL,
    Array,
    Values,
    as_array,
    finish,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["latent_scatter", "manifold_figure", "manifold_grid", "traversal_figure"]


def manifold_grid(r: int) -> Tensor:
    r"""Latents at the quantiles of a two-dimensional standard normal prior.

    .. math:: \Phi^{-1}(\tfrac{1}{2r}), \; \Phi^{-1}(\tfrac{3}{2r}), \; \dots, \; \Phi^{-1}(\tfrac{2r - 1}{2r})

    Args:
        r: points along each axis.
    Returns:
        z, shape (r, r, 2): the first coordinate rises from left to right, the second from bottom to top, and row 0
        is the top row, as :func:`manifold_figure` shows it.
    Raises:
        ElbowroomError: r < 1.
    Reference:
        Kingma & Welling (2014), Auto-Encoding Variational Bayes, appendix A, arXiv:1312.6114.
    Example:
        >>> manifold_grid(3)[0, 0]
        tensor([-0.9674,  0.9674])
    """
    if r < 1:
        raise ElbowroomError(f"r is {r}, but a grid needs at least one point along each axis.", "Give r = 1 or more.")
    quantiles = torch.special.ndtri((torch.arange(r, dtype=torch.float64) + 0.5) / r)
    second, first = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
    return torch.stack([first, second], dim=-1).to(torch.get_default_dtype())


def manifold_figure(
    means: Values,
    *,
    title: str | None = "means  E[x | z]",
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """The manifold of two latent dimensions: decoded means over the quantiles of the prior.

    Args:
        means: E[x | z] at z = :func:`manifold_grid`, shape (r, r, *event) of pictures.
        title: above the grid.
        note: below the grid.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not images, or not a square grid.
    Example:
        >>> manifold_figure(torch.zeros(5, 5, 8, 8)).axes[0].get_xlabel()
        'z[0]  at the quantiles of p(z)'
    """
    grid = as_array(means, "means")
    if grid.ndim < 4 or grid.shape[0] != grid.shape[1]:
        raise ElbowroomError(
            f"means has shape {tuple(grid.shape)}, but the manifold is a square grid of pictures, (r, r, *event).",
            "Decode z = manifold_grid(r).reshape(-1, 2) and give the result the shape (r, r, *event).",
        )
    pictures = to_rgb(grid.reshape(-1, *grid.shape[2:]), "means", value_range=value_range)
    panel = Panel(
        pictures,
        grid.shape[1],
        title=title,
        seamless=True,
        xlabel="z[0]  at the quantiles of p(z)",
        ylabel="z[1]  at the quantiles of p(z)",
    )
    return draw_sheet([panel], note=note, path=path)


def traversal_figure(
    means: Values,
    dims: Sequence[int],
    values: Values,
    *,
    title: str | None = "means  E[x | z], one coordinate of z varied",
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Latent traversals: a row per latent coordinate, a column per value.

    Args:
        means: E[x | z], shape (latents, steps, *event) of pictures.
        dims: the coordinates varied, one per row.
        values: what they are set to, one per column.
        title: above.
        note: below.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not images, or ``dims`` and ``values`` that do not match them.
    Example:
        >>> figure = traversal_figure(torch.zeros(2, 5, 8, 8), [4, 7], torch.linspace(-2, 2, 5))
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['z[4]', 'z[7]', '−2']
    """
    rows = as_array(means, "means")
    steps = as_array(values, "values").reshape(-1)
    if rows.ndim < 4 or rows.shape[:2] != (len(dims), len(steps)):
        raise ElbowroomError(
            f"means has shape {tuple(rows.shape)}, but {len(dims)} coordinates at {len(steps)} values need "
            f"({len(dims)}, {len(steps)}, *event).",
            "Give one row of pictures per coordinate and one column per value.",
        )
    pictures = to_rgb(rows.reshape(-1, *rows.shape[2:]), "means", value_range=value_range)
    every = 1 if len(steps) <= 11 else 2  # labels of narrow columns would touch
    panel = Panel(
        pictures,
        len(steps),
        title=title,
        row_labels=[f"z[{dim}]" for dim in dims],
        column_labels=[number(float(step), ".3g") if k % every == 0 else "" for k, step in enumerate(steps)],
    )
    return draw_sheet([panel], note=note, path=path)


def latent_scatter(
    means: Values,
    *,
    labels: Values | None = None,
    title: str | None = "means of q(z | x)",
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Scatter plot of the means of q(z | x), coloured by label.

    One latent is spread out over the height and two are shown as they are; of more, the two principal components of
    the means, in which the unused coordinates, whose means hardly move, have no part.

    Args:
        means: shape (n, latent).
        labels: one per example; up to ten classes get a legend, more numbers a colour bar, more names an "other".
        title: above.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not latents, or not one label per example.
    Example:
        >>> z = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> latent_scatter(z, labels=torch.arange(100) % 3).axes[0].get_xlabel().split(",")[0]
        'first principal component of z'
    """
    points = as_array(means, "means").astype(np.float64)
    if points.ndim != 2:
        raise ElbowroomError(
            f"means has shape {tuple(points.shape)}, but latents are rows, (n, latent).", "Give the means of q(z | x)."
        )
    classes = None if labels is None else as_array(labels, "labels").reshape(-1)
    if classes is not None and len(classes) != len(points):
        raise ElbowroomError(
            f"there are {len(classes)} labels, but {len(points)} latents.", "Give one label for every example."
        )
    finite = np.isfinite(points).all(1)
    if not finite.any():
        raise ElbowroomError("no latent is finite.", "Look for NaN in the encoder: `elbowroom doctor` does.")
    plane, xlabel, ylabel = _plane(points[finite])
    figure = new_figure(COLUMN, 0.86 * COLUMN)
    axes = figure.add_subplot()
    thin_axes(axes, title=title, xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if ylabel is None:
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
    else:
        axes.set_aspect("equal", adjustable="datalim")  # distances in z mean the same in every direction
    _coloured(figure, axes, plane, None if classes is None else classes[finite])
    return finish(figure, path)


def _plane(points: Array) -> tuple[Array, str, str | None]:
    """Two coordinates per point and their axis labels; None for an axis without a meaning."""
    if points.shape[1] == 1:
        # multiples of the golden ratio fill the height evenly, so that equal values do not hide each other
        return np.stack([points[:, 0], np.arange(len(points)) * 0.6180339887498949 % 1.0], 1), "z[0]", None
    if points.shape[1] == 2:
        return points, "z[0]", "z[1]"
    centred = points - points.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    singular, axes = np.pad(singular, (0, 2))[:2], axes[:2]
    if len(axes) < 2:  # a single example
        axes = np.concatenate([axes, np.zeros((2 - len(axes), points.shape[1]))])
    # the sign of a component is arbitrary: its largest loading is made positive, so that equal data give equal figures
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1) < 0, -1.0, 1.0)
    shares = np.square(singular) / max(float(np.square(centred).sum()), np.finfo(float).tiny)
    first, second = (
        f"{name} principal component of z, {100 * share:.0f}%"
        for name, share in zip(("first", "second"), shares, strict=True)
    )
    return centred @ axes.T, first, second


def _coloured(figure: Figure, axes: Axes, plane: Array, classes: Array | None) -> None:
    """The points in the order of the data, so that no class lies on top of the others."""
    style = {"s": 6 if len(plane) < 2000 else 3, "linewidths": 0, "alpha": 0.7, "rasterized": True}
    if classes is None:
        axes.scatter(plane[:, 0], plane[:, 1], color=CLASS_COLOURS[0], **style)  # type: ignore[arg-type]
        return
    names, index, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if len(names) > len(CLASS_COLOURS) and names.dtype.kind in "fiub":
        dots = axes.scatter(plane[:, 0], plane[:, 1], c=classes.astype(np.float64), cmap="cividis", **style)  # type: ignore[arg-type]
        bar = figure.colorbar(dots, ax=axes, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=SMALL, width=0.5, length=2.5)
        bar.set_alpha(1.0)
        bar.outline.set_linewidth(0.5)
        return
    texts = [f"{name:g}" if names.dtype.kind == "f" else str(name) for name in names]
    if len(names) > len(CLASS_COLOURS):
        frequent = sorted(np.argsort(-counts, kind="stable")[: len(CLASS_COLOURS) - 1])
        place = {int(old): new for new, old in enumerate(frequent)}
        index = np.array([place.get(int(old), len(frequent)) for old in index])
        texts = [texts[old] for old in frequent] + ["other"]
    colours = np.array(CLASS_COLOURS)[index]
    axes.scatter(plane[:, 0], plane[:, 1], c=colours.tolist(), **style)  # type: ignore[arg-type]
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=4, markeredgewidth=0, color=CLASS_COLOURS[k], label=text)
        for k, text in enumerate(texts)
    ]
    legend = figure.legend(
        handles=handles, loc="outside right center", frameon=False, fontsize=SMALL, labelcolor=INK, handletextpad=0.1
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
