"""Figure of the aggregate posterior against the prior, with decoded means from both (holes in the prior)."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.sample_quality import SampleStudy
from elbowroom.evaluation.two_sample import TwoSampleTest
from elbowroom.showing.figures.image_sheet import cover, to_rgb
from elbowroom.showing.figures.style import (
    BLUE,
    GREY,
    INK,
    PAGE,
    SMALL,
    VERMILION,
    Array,
    as_array,
    finish,
    heading,
    is_image,
    legend_below,
    new_figure,
    number,
    thin_axes,
)

__all__ = ["holes_figure"]

_SOURCES = {"encodings": "z ~ q(z | x) of other data", "learned": "z ~ a learned prior", "prior": "z ~ p(z), the prior"}
_GRID = 60  # points of a side where the prior's density is drawn
_LEVELS = (0.05, 0.25, 0.5, 0.75)  # of the largest density
_GAP = 0.06  # gap between two pictures, as a share of a picture's width
_BANDWIDTH = 1.5  # bandwidth of the kernel density, in units of Scott's rule: contours should not follow single draws


def holes_figure(
    aggregate: Aggregate,
    samples: SampleStudy,
    *,
    value_range: tuple[float, float] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Encodings of held-out data over the prior, beside means of p(x | z) for z from either and from a learned prior.

    The plane is the one in which the clusters of the encodings lie farthest apart. Each row of pictures says how
    accurately a classifier separates samples of x from data; where data are not images there are bars instead.

    Args:
        aggregate: of :func:`elbowroom.evaluation.doctor.aggregate_posterior.aggregate_study`.
        samples: of :func:`elbowroom.evaluation.doctor.sample_quality.sample_study`.
        value_range: the values that become black and white; the smallest and largest of the data unless given.
        title: above.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: the path cannot be written.
    """
    pictures = is_image(samples.data.shape[1:])
    figure = new_figure(PAGE, 3.3 + (0.2 if title else 0))
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.1 if pictures else 0.9))
    latents = figure.add_subplot(grid[0, 0])
    _latents(latents, aggregate)
    if pictures:
        _rows(figure, grid, samples, value_range)
    else:
        _bars(figure.add_subplot(grid[0, 1]), samples)
    dots = Line2D([], [], linestyle="", marker="o", markersize=3, markeredgewidth=0, color=BLUE, label="data, q(z | x)")
    lines = Line2D([], [], color=VERMILION, linewidth=0.9, label="prior, p(z)")
    legend_below(figure, [dots, lines])
    heading(figure, title)
    return finish(figure, path)


def _latents(axes: Axes, aggregate: Aggregate) -> None:
    """Encodings as dots and the prior as contours; with one latent dimension, both densities as curves."""
    plane = as_array(aggregate.plane, "plane")
    data, prior = (as_array(z, "z").astype(np.float64) @ plane for z in (aggregate.encodings, aggregate.prior))
    gain = float(aggregate.gains["mixture"].mean())
    accuracy = f"classifier accuracy, q against p: {aggregate.test.accuracy:.0%};"
    text = f"{accuracy}\na learned prior gains {number(gain, '.1f')} nats"
    if plane.shape[1] == 1:
        at = np.linspace(min(data.min(), prior.min()), max(data.max(), prior.max()), 200)[:, None]
        for points, colour in ((data, BLUE), (prior, VERMILION)):
            axes.plot(at[:, 0], _density(points, at), color=colour, linewidth=0.9)
        axes.set_ylim(bottom=0)
        thin_axes(axes, title=text, xlabel="z", ylabel="density")
        return
    axes.scatter(data[:, 0], data[:, 1], s=3, linewidths=0, alpha=0.5, color=BLUE, rasterized=True)
    reach = 1.1 * max(float(np.abs(data).max()), float(np.abs(prior).max()))
    side = np.linspace(-reach, reach, _GRID)
    at = np.stack(np.meshgrid(side, side), -1)
    height = _density(prior, at.reshape(-1, 2)).reshape(_GRID, _GRID)
    axes.contour(side, side, height, levels=[s * height.max() for s in _LEVELS], colors=VERMILION, linewidths=0.9)
    axes.set_aspect("equal", adjustable="box")
    thin_axes(axes, title=text, xlabel="first direction of the clusters", ylabel="second direction")


def _density(points: Array, at: Array) -> Array:
    """Kernel density estimate from the points."""
    dim = points.shape[1]
    width = _BANDWIDTH * np.maximum(points.std(0), 1e-12) * len(points) ** (-1 / (dim + 4))
    squares = sum(((at[:, None, j] - points[None, :, j]) / width[j]) ** 2 for j in range(dim))
    density: Array = np.exp(-0.5 * squares).mean(1) / np.prod(width * np.sqrt(2 * np.pi))
    return density


def _rows(figure: Figure, grid: GridSpec, samples: SampleStudy, value_range: tuple[float, float] | None) -> None:
    """Data, and means of p(x | z) for each source of z, two rows of pictures each."""
    data = as_array(samples.data, "data")
    low, high = (float(end) for end in (np.nanmin(data), np.nanmax(data)))
    low_high = value_range or (low, max(high, low + 1e-6))
    seen = cover(to_rgb(data, "data", value_range=low_high), ~np.isnan(data))
    strips = [("data  (classifier accuracy below: samples against data)", seen)]
    for source, name in _SOURCES.items():
        if source in samples.means:
            label = f"{name}: {_accuracy(samples.tests[source])}"
            strips.append((label, to_rgb(samples.means[source], "means", value_range=low_high)))
    inner = grid[0, 1].subgridspec(len(strips), 1)
    for row, (label, pictures) in enumerate(strips):
        axes = figure.add_subplot(inner[row, 0])
        axes.imshow(_strip(pictures), interpolation="nearest")
        axes.set_title(label, loc="left", fontsize=SMALL, color=INK, pad=2, parse_math=False)
        axes.set_axis_off()


def _strip(pictures: Array) -> Array:
    """Pictures side by side in two rows, with white between."""
    count, height, width, _ = pictures.shape
    seam, columns = max(1, round(_GAP * width)), -(-count // 2)
    paper = np.full((2 * (height + seam) - seam, columns * (width + seam) - seam, 3), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = row * (height + seam), column * (width + seam)
        paper[top : top + height, left : left + width] = picture
    return paper


def _bars(axes: Axes, samples: SampleStudy) -> None:
    """Classifier accuracy, samples against data, for each source of z."""
    found = [(name, samples.tests[source]) for source, name in _SOURCES.items() if source in samples.tests]
    rows = range(len(found))
    axes.barh(
        list(rows),
        [test.accuracy for _, test in found],
        xerr=[test.stderr for _, test in found],
        height=0.55,
        color=BLUE,
        error_kw={"elinewidth": 0.8, "ecolor": INK},
    )
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.set_xlim(0.4, 1.0)
    thin_axes(axes, title="classifier accuracy, samples against data", xlabel="accuracy; 0.5 is chance")
    axes.set_yticks(list(rows), [name for name, _ in found], parse_math=False)
    axes.invert_yaxis()


def _accuracy(test: TwoSampleTest) -> str:
    return f"classifier accuracy {test.accuracy:.0%}"
