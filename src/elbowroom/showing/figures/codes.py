"""Figures of discrete latents: how often each code is used, and what codes stand for."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.image_sheet import Panel, draw_sheet, to_rgb
from elbowroom.showing.figures.style import (
    BLUE,
    GREY,
    INK,
    PAGE,
    SMALL,
    Array,
    Values,
    as_array,
    finish,
    new_figure,
    thin_axes,
    wrap,
)

__all__ = ["code_maps_figure", "code_pictures_figure", "code_usage_figure"]

_SHADES = LinearSegmentedColormap.from_list("shares", ("#d9e8f2", BLUE, "#00263b"))  # from rare to frequent
_UNUSED = "#f3d3bf"  # a pale vermilion
_ROW = (0.055, 0.2)  # inches of a slot: least, most


def code_usage_figure(
    shares: Values,
    perplexity: Values,
    *,
    title: str | None = "share of the examples, by code",
    note: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """How often each code is used: a row for each slot, its most frequent codes first, and the slot's perplexity.

    Args:
        shares: share of the examples whose code in slot l is k, shape (slots, codes).
        perplexity: of each slot, between 1 and the number of codes, shape (slots,).
        title: above.
        note: below.
        path: where to write a PNG.
    Returns:
        The figure, of two panels.
    Raises:
        ElbowroomError: shares that are no table of slots and codes; another number of perplexities than of slots.
    Example:
        >>> figure = code_usage_figure([[0.5, 0.5, 0.0], [0.2, 0.1, 0.7]], [2.0, 2.2])
        >>> figure.axes[1].get_xlabel()
        'perplexity, of 3'
    """
    table, even = as_array(shares, "shares").astype(np.float64), as_array(perplexity, "perplexity").reshape(-1)
    if table.ndim != 2 or len(even) != len(table):
        raise ElbowroomError(
            f"shares has shape {table.shape} and perplexity {even.shape}, but each slot has a row of shares and one "
            "perplexity.",
            "Give shares of shape (slots, codes) and perplexity of shape (slots,).",
        )
    slots, codes = table.shape
    ordered = -np.sort(-table, 1)
    height = slots * float(np.clip(4.0 / slots, *_ROW))
    figure = new_figure(PAGE, height + (0.95 if note else 0.75))
    wide, narrow = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    thin_axes(wide, title=title, xlabel="codes of a slot, the most frequent first", ylabel="slot")
    thin_axes(narrow, xlabel=f"perplexity, of {codes}")
    colours = _SHADES.with_extremes(bad=_UNUSED)
    area = wide.imshow(
        np.ma.masked_where(ordered == 0, ordered), cmap=colours, vmin=0.0, vmax=max(float(ordered.max()), 1e-9),
        aspect="auto", interpolation="nearest", extent=(0.5, codes + 0.5, slots + 0.5, 0.5),
    )  # fmt: skip
    bar = figure.colorbar(area, ax=wide, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=SMALL, width=0.5, length=2.5)
    bar.outline.set_linewidth(0.5)
    narrow.barh(np.arange(1, slots + 1), even, height=0.7, color=BLUE, linewidth=0)
    narrow.axvline(codes, color=GREY, linewidth=0.75, linestyle=(0, (4, 2)))
    narrow.set_xlim(0, 1.05 * codes)
    for axes in (wide, narrow):
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_ylim(slots + 0.5, 0.5)
    unused = int((table == 0).sum())
    dead = f"Pale red: {unused:,} code{'s' * (unused > 1)} that no example has." if unused else None
    said = " ".join(filter(None, (dead, note)))
    if said:
        figure.supxlabel(wrap(said, SMALL, PAGE - 0.1), fontsize=SMALL, color=GREY, x=0.01, ha="left", parse_math=False)
    narrow.tick_params(axis="y", labelcolor=INK)
    return finish(figure, path)


def code_pictures_figure(
    pictures: Values,
    row_labels: Sequence[str],
    *,
    captions: Sequence[str] = (),
    title: str | None = None,
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Pictures in rows with names, such as a row for each slot or code: what a code does, or examples that have it.

    Args:
        pictures: shape (rows, columns, *event).
        row_labels: one for each row, e.g. "slot 3, code 7".
        captions: one above each picture, row by row; none by default.
        title: above.
        note: below.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not images, or another number of labels than of rows.
    Example:
        >>> figure = code_pictures_figure(np.zeros((2, 5, 8, 8)), ["slot 1", "slot 2"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['slot 1', 'slot 2']
    """
    rows = as_array(pictures, "pictures")
    number = rows.shape[0] * rows.shape[1] if rows.ndim > 1 else 0
    if rows.ndim < 4 or len(rows) != len(row_labels) or (captions and len(captions) != number):
        raise ElbowroomError(
            f"pictures has shape {tuple(rows.shape)}, with {len(row_labels)} row labels and {len(captions)} captions, "
            "but should be (rows, columns, *event) with a label for each row and a caption for each picture, or none.",
            "Give one label for every row.",
        )
    flat = to_rgb(rows.reshape(-1, *rows.shape[2:]), "pictures", value_range=value_range)
    panel = Panel(flat, rows.shape[1], title=title, row_labels=row_labels, captions=captions)
    return draw_sheet([panel], note=note, path=path)


def code_maps_figure(
    pictures: Values,
    maps: Values | Sequence[Values],
    decoded: Values,
    decoded_labels: Sequence[str],
    *,
    codes: int,
    title: str | None = None,
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Pictures, below them the codes of every place as colours, and rows of what is decoded from such codes.

    Args:
        pictures: shape (n, *event).
        maps: code numbers, shape (n, rows of the grid, its columns); a list has those of several levels, the top level
            first.
        decoded: shape (m, n, *event): m rows.
        decoded_labels: one for each of these rows.
        codes: K, whose K colours are evenly spaced hues; neighbours in number have nothing in common.
        title: above.
        note: below.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure.
    Raises:
        ElbowroomError: not images; other numbers of pictures, maps or labels; maps that are not a grid in the pictures.
    Example:
        >>> x, maps = np.zeros((3, 8, 8)), np.zeros((3, 4, 4), dtype=int)
        >>> figure = code_maps_figure(x, maps, np.zeros((1, 3, 8, 8)), ["mean"], codes=5)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['example', 'codes', 'mean']
    """
    shown, rows = as_array(pictures, "pictures"), as_array(decoded, "decoded")
    levels = [as_array(each, "maps") for each in (maps if isinstance(maps, list) else [maps])]
    sides = [_side(shown, numbers) for numbers in levels]
    counts = {len(shown), *map(len, levels), *rows.shape[1:2]}
    if not all(sides) or len(counts) != 1 or len(rows) != len(decoded_labels):
        shapes = " and ".join(str(tuple(numbers.shape)) for numbers in levels)
        raise ElbowroomError(
            f"pictures has shape {tuple(shown.shape)}, maps {shapes} and decoded {tuple(rows.shape)}, "
            f"with {len(decoded_labels)} labels, but should be (n, *event), (n, rows, columns) and (m, n, *event).",
            "Give a map of codes, whose places are squares of the picture, for each picture.",
        )
    hues = _to_bytes(hsv_to_rgb([(code / codes, 0.55, 0.65 + 0.3 * (code % 2)) for code in range(codes)]))
    tiles = [
        hues[numbers.astype(np.int64)].repeat(side, 1).repeat(side, 2)
        for numbers, side in zip(levels, sides, strict=True)
    ]
    names = ["codes"] if len(levels) == 1 else [f"codes, level {level}" for level in range(1, len(levels) + 1)]
    drawn = [to_rgb(each, "pictures", value_range=value_range) for each in (shown, *rows)]
    panel = Panel(
        np.concatenate([drawn[0], *tiles, *drawn[1:]]),
        len(shown),
        title=title,
        row_labels=["example", *names, *decoded_labels],
    )
    return draw_sheet([panel], note=note, path=path)


def _side(pictures: Array, numbers: Array) -> int:
    """The side of a place in pixels; 0 where the places are no squares that fill the pictures."""
    side: int = pictures.shape[-1] // numbers.shape[-1] if numbers.ndim == 3 and numbers.shape[-1] else 0
    return side if side and (numbers.shape[1] * side, numbers.shape[2] * side) == pictures.shape[-2:] else 0


def _to_bytes(colours: Values) -> Array:
    """Colours from 0 to 1 as bytes."""
    return np.floor(as_array(colours, "colours") * 255 + 0.5).astype(np.uint8)
