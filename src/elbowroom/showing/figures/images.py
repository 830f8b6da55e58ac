"""Figures of data, samples and reconstructions that are pictures.

A draw x ~ p(x | z) and a mean E[x | z] are different things, and look different: the mean is smooth where the model
is uncertain. Each figure here says which of the two it shows, and shows both where it can.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.image_sheet import MISSING, Panel, cover, draw_sheet, to_rgb
from elbowroom.showing.figures.style import Array, Values, as_array, is_image
from elbowroom.showing.figures.tabular import reconstruction_scatter

__all__ = ["class_rows_figure", "image_grid", "reconstruction_figure", "samples_figure"]

SAMPLES = "samples  x ~ p(x | z)"
MEANS = "means  E[x | z]"


def _same_shape(one: Values, other: Values, names: str) -> None:
    first, second = (tuple(as_array(values, names).shape) for values in (one, other))
    if first != second:
        raise ElbowroomError(
            f"{names} have shapes {first} and {second}, but are compared picture by picture.",
            "Give one for every other, in the same order.",
        )


def image_grid(
    images: Values,
    *,
    mask: Values | None = None,
    titles: Sequence[object] | None = None,
    row_labels: Sequence[object] | None = None,
    columns: int | None = None,
    title: str | None = None,
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Pictures in a grid, all on one scale of grey.

    Args:
        images: shape (n, H, W), (n, 1, H, W) or (n, 3, H, W).
        mask: true where a pixel was observed, the same shape; the others are a flat blue.
        titles: one above each picture, e.g. labels.
        row_labels: one to the left of each row.
        columns: pictures in a row; by default as many as make the grid square.
        title: above the grid.
        note: below the grid.
        value_range: the values that become black and white, (0, 255) for bytes; pictures are never rescaled one by one.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: no pictures; titles or row labels that are too few or too many.
    Example:
        >>> import torch
        >>> figure = image_grid(torch.rand(9, 28, 28, generator=torch.Generator().manual_seed(0)))
        >>> len(figure.axes)
        1
    """
    pictures = to_rgb(images, "images", value_range=value_range)
    if mask is not None:
        _same_shape(images, mask, "images and mask")
        pictures, note = cover(pictures, mask), _with_missing(note, mask)
    columns = _columns(columns, len(pictures))
    if titles is not None and len(titles) != len(pictures):
        raise ElbowroomError(
            f"there are {len(titles)} titles, but {len(pictures)} images.", "Give one title for every image."
        )
    rows = -(-len(pictures) // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ElbowroomError(
            f"there are {len(row_labels)} row labels, but {rows} rows.", "Give one label for every row of pictures."
        )
    captions, labels = ([str(text) for text in texts or ()] for texts in (titles, row_labels))
    panel = Panel(pictures, columns, title=title, captions=captions, row_labels=labels)
    return draw_sheet([panel], note=note, path=path)


def samples_figure(
    samples: Values,
    means: Values,
    *,
    columns: int | None = None,
    means_title: str = MEANS,
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draws from the model, and beside each the mean that it was drawn from.

    .. math:: z \\sim p(z), \\qquad x \\sim p(x | z), \\qquad \\mathbb{E}[x | z]

    Args:
        samples: x, shape (n, *event) of pictures.
        means: E[x | z] for the same z, the same shape.
        columns: pictures in a row of each panel.
        means_title: above the means.
        note: below, e.g. "cross-entropy: the decoder's output, not a likelihood".
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure, of two labelled panels.
    Raises:
        ElbowroomError: not images, or samples and means of different shapes.
    Example:
        >>> import torch
        >>> means = torch.rand(16, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> [axes.get_title(loc="left") for axes in samples_figure((means > 0.5).float(), means).axes]
        ['samples  x ~ p(x | z)', 'means  E[x | z]']
    """
    drawn, expected = _pair(samples, means, value_range)
    columns = _columns(columns, len(drawn))
    return draw_sheet(
        [Panel(drawn, columns, title=SAMPLES), Panel(expected, columns, title=means_title)], note=note, path=path
    )


def class_rows_figure(
    samples: Values,
    means: Values,
    row_labels: Sequence[object],
    *,
    means_title: str = "means  E[x | z, c]",
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Samples and means of a conditional model: one row per class, samples and means side by side.

    Args:
        samples: x ~ p(x | z, c), shape (classes, n, *event).
        means: E[x | z, c] for the same z, the same shape.
        row_labels: one per class.
        means_title: above the means.
        note: below the panels.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not images, different shapes, or not one label per row.
    Example:
        >>> import torch
        >>> means = torch.rand(3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> len(class_rows_figure((means > 0.5).float(), means, ["a", "b", "c"]).axes)
        2
    """
    _same_shape(samples, means, "samples and means")
    classes, count = _rows_and_columns(samples, "samples", "classes")
    if len(row_labels) != classes:
        raise ElbowroomError(
            f"there are {len(row_labels)} row labels, but {classes} rows.", "Give one label for every class."
        )
    drawn, expected = _pair(_flat(samples), _flat(means), value_range)
    panels = [
        Panel(drawn, count, title="samples  x ~ p(x | z, c)", row_labels=[str(label) for label in row_labels]),
        Panel(expected, count, title=means_title),
    ]
    return draw_sheet(panels, note=note, path=path)


def reconstruction_figure(
    x: Values,
    means: Values,
    *,
    samples: Values | None = None,
    names: Sequence[str] | None = None,
    means_label: str = "mean of p(x | z),\nz ~ q(z | x)",
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Data above their reconstructions: a row of each. For data that are not images, a scatter.

    .. math:: z \\sim q(z | x), \\qquad \\mathbb{E}[x | z]

    Args:
        x: data, shape (n, *event); NaN where missing.
        means: E[x | z] for one z ~ q(z | x) per example, the same shape.
        samples: draws from p(x | z) for the same z, as a third row.
        names: of the features, for data that are not images.
        means_label: beside the row of means.
        note: below the rows.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: nothing to show, or different shapes.
    Example:
        >>> import torch
        >>> x = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> [text.get_text() for text in reconstruction_figure(x, x).axes[0].texts]
        ['data  x', 'mean of p(x | z),\\nz ~ q(z | x)']
    """
    _same_shape(x, means, "data and means")
    if samples is not None:
        _same_shape(x, samples, "data and samples")
    data = as_array(x, "x")
    if not is_image(data.shape[1:]):
        return reconstruction_scatter(x, means, names=names, note=note, path=path)
    labels = ["data  x", means_label]
    rows = [data, as_array(means, "means")]
    if samples is not None:
        rows.append(as_array(samples, "samples"))
        labels.append("sample of p(x | z),\nthe same z")
    pictures = [to_rgb(row, "data, means or samples", value_range=value_range) for row in rows]
    observed = ~np.isnan(data)
    if not observed.all():
        pictures[0], note = cover(pictures[0], observed), _with_missing(note, observed)
    return draw_sheet([Panel(np.concatenate(pictures), len(data), row_labels=labels)], note=note, path=path)


def _with_missing(note: str | None, mask: Values) -> str | None:
    """The note, with the meaning of blue where anything is missing."""
    parts = [part for part in (note, None if as_array(mask, "mask").all() else MISSING) if part]
    return " ".join(parts) or None


def _columns(columns: int | None, count: int) -> int:
    if columns is not None and columns < 1:
        raise ElbowroomError(
            f"columns is {columns}, but a row needs at least one picture.", "Give columns = 1 or more."
        )
    return min(columns or math.ceil(math.sqrt(count)), count)


def _pair(samples: Values, means: Values, value_range: tuple[float, float]) -> tuple[Array, Array]:
    _same_shape(samples, means, "samples and means")
    return to_rgb(samples, "samples", value_range=value_range), to_rgb(means, "means", value_range=value_range)


def _rows_and_columns(values: Values, what: str, rows: str) -> tuple[int, int]:
    shape = as_array(values, what).shape
    if len(shape) < 4:
        raise ElbowroomError(
            f"{what} has shape {tuple(shape)}, but ({rows}, columns, *event) of pictures is needed.",
            "Give one row of pictures for each.",
        )
    return shape[0], shape[1]


def _flat(values: Values) -> Array:
    array = as_array(values, "pictures")
    return array.reshape(-1, *array.shape[2:])
