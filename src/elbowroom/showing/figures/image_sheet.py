"""Grids of pictures, laid out in whole pixels.

Two things distort many figures of samples: pictures are rescaled one by one, so that a grey smear looks like a clear
digit, and resampling makes some pixels of a picture wider than others. Here all pictures share one range of values,
given in advance, and every pixel of a picture becomes the same whole number of pixels of the figure. Values outside
the range are clipped; NaN is drawn in vermilion, not in black. Pixels of data that were not observed are a flat blue.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.style import (
    COLUMN,
    DPI,
    GREY,
    INK,
    LABEL,
    PAGE,
    SMALL,
    Array,
    Values,
    as_array,
    finish,
    is_image,
    new_figure,
    text_width,
    wrap,
)

__all__ = ["MISSING", "Panel", "cover", "draw_sheet", "to_rgb"]

_LARGEST_TILE = 1.2  # inches; a single small picture does not fill the column
_MARGIN, _GAP, _BETWEEN = 0.03, 0.015, 0.16  # inches: around the figure, between pictures, between panels
_LINE = 1.3  # line height over type size
_NOT_A_NUMBER = (213, 94, 0)  # vermilion
MISSING = "Blue: not observed."
"""The note below pictures with missing pixels."""
_MISSING = (88, 106, 132)  # blue
_GAP_COLOUR = (158, 174, 192)  # blue-grey, so that it differs from the pixels of black-and-white pictures


def to_rgb(images: Values, what: str = "images", *, value_range: tuple[float, float] = (0.0, 1.0)) -> Array:
    """Pictures as bytes, all on one scale.

    Args:
        images: shape (n, H, W), (n, 1, H, W) or (n, 3, H, W).
        what: their name in a message.
        value_range: the values that become black and white, e.g. (0, 255) for bytes.
    Returns:
        uint8, shape (n, H, W, 3).
    Raises:
        ElbowroomError: the data are not images; integers above 1 are shown on the scale from 0 to 1.
    Example:
        >>> to_rgb(np.full((1, 2, 2), 0.5))[0, 0, 0].tolist()
        [128, 128, 128]
    """
    array = as_array(images, what)
    if not is_image(array.shape[1:]):
        raise ElbowroomError(
            f"{what} has shape {tuple(array.shape)}, but pictures are (n, H, W), (n, 1, H, W) or (n, 3, H, W).",
            "Show data that are not images with marginals_figure, latent_scatter or reconstruction_figure.",
        )
    low, high = value_range
    if not low < high:
        raise ElbowroomError(
            f"value_range is ({low}, {high}), but black must lie below white.", "Give (0, 1), or (0, 255) for bytes."
        )
    values = array.astype(np.float64)
    if (low, high) == (0.0, 1.0) and values.max(initial=0, where=np.isfinite(values)) > 1:
        whole = np.isnan(values) | (values == np.round(values))
        if whole.all():
            raise ElbowroomError(
                f"{what} holds integers up to {values[np.isfinite(values)].max():g}, but is shown on the scale 0 to 1.",
                "Give value_range=(0, 255) for bytes, or the range of the counts.",
            )
    grey = np.clip((values - low) / (high - low), 0.0, 1.0)
    missing = np.isnan(grey)
    rgb = np.floor(np.where(missing, 0.0, grey) * 255 + 0.5).astype(np.uint8)
    if rgb.ndim == 3:
        rgb, missing = rgb[:, None], missing[:, None]
    rgb = np.moveaxis(np.broadcast_to(rgb, (len(rgb), 3, *rgb.shape[2:])), 1, -1).copy()
    rgb[missing.any(1)] = _NOT_A_NUMBER
    return rgb


def cover(pictures: Array, observed: Values) -> Array:
    """Pictures with a flat blue over the pixels that were not observed, of which any channel is missing.

    Args:
        pictures: uint8, shape (n, H, W, 3), from :func:`to_rgb`.
        observed: true where an element was observed, shape (n, H, W), (n, 1, H, W) or (n, 3, H, W).
    Example:
        >>> cover(np.zeros((1, 1, 2, 3), dtype=np.uint8), np.array([[[True, False]]]))[0, 0].tolist()
        [[0, 0, 0], [88, 106, 132]]
    """
    mask = as_array(observed, "mask").astype(bool)
    whole: Array = np.logical_and.reduce(mask, 1) if mask.ndim == 4 else mask
    return np.where(whole[..., None], pictures, np.array(_MISSING, dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Panel:
    """A titled grid of pictures.

    Attributes:
        pictures: uint8, shape (n, H, W, 3), filled in row by row.
        columns: pictures in a row.
        title: above the panel.
        row_labels: to the left of the rows, in the first panel of a sheet.
        column_labels: above the columns; "" for a column without.
        captions: above each picture.
        xlabel, ylabel: below and, in a panel without row labels, to the left.
        seamless: without gaps between the pictures.
    """

    pictures: Array
    columns: int
    title: str | None = None
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    captions: Sequence[str] = ()
    xlabel: str | None = None
    ylabel: str | None = None
    seamless: bool = False

    @property
    def rows(self) -> int:
        return -(-len(self.pictures) // self.columns)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Lengths in whole pixels of the figure."""

    scale: int  # pixels of the figure per pixel of a picture
    gap: int
    caption: int  # what a row of captions needs above each row of pictures
    dpi: int

    def tile(self, panel: Panel) -> tuple[int, int]:
        """Height and width of a picture."""
        height, width = panel.pictures.shape[1:3]
        return self.scale * int(height), self.scale * int(width)

    def between(self, panel: Panel) -> int:
        return 0 if panel.seamless else self.gap

    def width(self, panel: Panel) -> int:
        return panel.columns * self.tile(panel)[1] + (panel.columns - 1) * self.between(panel)

    def height(self, panel: Panel) -> int:
        return panel.rows * (self.tile(panel)[0] + self.caption) + (panel.rows - 1) * self.between(panel)

    def corner(self, panel: Panel, index: int) -> tuple[int, int]:
        """Left and top of a picture inside its panel."""
        row, column = divmod(index, panel.columns)
        height, width = self.tile(panel)
        gap = self.between(panel)
        return column * (width + gap), row * (height + self.caption + gap) + self.caption


def _paste(panel: Panel, layout: _Layout) -> Array:
    """All pictures of a panel on white paper, with a seam between neighbours."""
    paper = np.full((layout.height(panel), layout.width(panel), 3), 255, dtype=np.uint8)
    height, width = layout.tile(panel)
    gap = layout.between(panel)
    for index in range(len(panel.pictures)):
        left, top = layout.corner(panel, index)
        paper[max(0, top - gap) : top + height + gap, max(0, left - gap) : left + width + gap] = _GAP_COLOUR
    for index, picture in enumerate(panel.pictures):
        left, top = layout.corner(panel, index)
        big = picture.repeat(layout.scale, 0).repeat(layout.scale, 1)
        paper[top : top + height, left : left + width] = big
    return paper


def _fit(panels: Sequence[Panel], room: float, caption: bool) -> _Layout:
    """The largest whole scale at which the panels fit side by side in ``room`` inches.

    Where pictures have more pixels than the figure, the figure gets more of them per inch.
    """
    dpi = DPI
    while True:
        gap = max(1, round(_GAP * dpi))
        gaps = sum(panel.columns - 1 for panel in panels) * gap + (len(panels) - 1) * round(_BETWEEN * dpi)
        pixels = sum(panel.columns * panel.pictures.shape[2] for panel in panels)
        scale = (math.floor(room * dpi) - gaps) // pixels
        if scale >= 1:
            widest = max(max(panel.pictures.shape[1:3]) for panel in panels)
            scale = min(scale, max(1, math.floor(_LARGEST_TILE * dpi) // widest))
            return _Layout(scale, gap, round(SMALL * _LINE / 72 * dpi) if caption else 0, dpi)
        dpi += DPI


def draw_sheet(
    panels: Sequence[Panel], *, note: str | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Panels side by side, as wide as a column or, where there are many pictures, a page.

    Args:
        panels: at least one.
        note: a line below.
        path: where to write the PNG.
    """
    first = panels[0]
    labels = max((text_width(label, SMALL) for label in first.row_labels), default=0.0)
    left = _MARGIN + (labels + 0.06 if labels else 0.0) + (LABEL * _LINE / 72 + 0.03 if first.ylabel else 0.0)
    wide = len(panels) > 1 or first.columns > 8 or labels > 0.8
    room = (PAGE if wide else COLUMN) - left - _MARGIN
    layout = _fit(panels, room, caption=any(panel.captions for panel in panels))
    dpi = layout.dpi

    def px(inches: float) -> int:
        return round(inches * dpi)

    slots = [max(layout.width(panel), px(text_width(panel.title or "", LABEL))) for panel in panels]
    width = px(left) + sum(slots) + (len(panels) - 1) * px(_BETWEEN) + px(_MARGIN)
    inside = (width - 2 * px(_MARGIN)) / dpi
    note = wrap(note, SMALL, inside) if note else None
    top = px(_MARGIN)
    top += px(LABEL * _LINE / 72 + 0.03) if any(panel.title for panel in panels) else 0
    top += px(SMALL * _LINE / 72) if any(panel.column_labels for panel in panels) else 0
    body = max(layout.height(panel) for panel in panels)
    bottom = px(_MARGIN)
    below = px(LABEL * _LINE / 72 + 0.03) if any(panel.xlabel for panel in panels) else 0
    bottom += below + (px((note.count("\n") + 1) * SMALL * _LINE / 72 + 0.03) if note else 0)
    height = top + body + bottom

    figure = new_figure(width / dpi, height / dpi, layout=None, dpi=dpi)
    x = px(left)
    for panel, slot in zip(panels, slots, strict=True):
        _draw_panel(figure, panel, layout, x, height - top, (width, height))
        x += slot + px(_BETWEEN)
    if note:
        figure.text(
            px(_MARGIN) / width, px(_MARGIN) / height, note, fontsize=SMALL, color=GREY, va="bottom", parse_math=False
        )
    return finish(figure, path)


def _draw_panel(figure: Figure, panel: Panel, layout: _Layout, left: int, top: int, size: tuple[int, int]) -> None:
    """One panel with its upper left corner at (left, top) pixels, counted from the figure's lower left."""
    paper = _paste(panel, layout)
    height, width = paper.shape[:2]
    axes = figure.add_axes(
        (left / size[0], (top - height) / size[1], width / size[0], height / size[1]), label=panel.title or ""
    )
    # one pixel of the array is one of the figure: nothing is interpolated
    axes.imshow(paper, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    small: dict[str, Any] = {"fontsize": SMALL, "color": INK, "parse_math": False, "linespacing": 1.1}
    tile_height, tile_width = layout.tile(panel)
    for row, label in enumerate(panel.row_labels):
        y = layout.corner(panel, row * panel.columns)[1] + tile_height / 2
        axes.text(-0.05 * layout.dpi, y, label, ha="right", va="center", **small)
    for column, label in enumerate(panel.column_labels):
        x = layout.corner(panel, column)[0] + tile_width / 2
        axes.text(x, -0.02 * layout.dpi, label, ha="center", va="bottom", **small)
    for index, caption in enumerate(panel.captions):
        x, y = layout.corner(panel, index)
        axes.text(x + tile_width / 2, y - 0.02 * layout.dpi, caption, ha="center", va="bottom", **small)
    large: dict[str, Any] = {"fontsize": LABEL, "color": INK, "parse_math": False}
    if panel.title:
        above = SMALL * _LINE if panel.column_labels else 0.0
        axes.set_title(panel.title, loc="left", pad=0.04 * 72 + above, **large)
    if panel.xlabel:
        axes.set_xlabel(panel.xlabel, labelpad=2, **large)
    if panel.ylabel:
        axes.text(-0.03 * layout.dpi, height / 2, panel.ylabel, ha="right", va="center", rotation=90, **large)
