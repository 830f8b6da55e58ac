"""Figures of image completion: pictures with a missing part, and the model's completions.

Observed and imputed pixels have different colours. Observed pixels are black and white; missing ones are a flat blue
in the picture as it was seen, and amber on black wherever the model filled them in. Pictures in
colour keep their colours, and the hidden part is to be compared with the picture as it was seen.
"""

from __future__ import annotations

import os

import numpy as np
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.image_sheet import Panel, cover, draw_sheet, to_rgb
from elbowroom.showing.figures.style import Array, Values, as_array

__all__ = ["completions_figure"]

_FILLED = (255, 191, 105)  # amber, for white in imputed pixels
SEEN, MEAN, SAMPLES, TRUTH = "seen", "E[x | seen]", "samples  x ~ p(x | seen)", "truth"


def completions_figure(
    x: Values,
    mask: Values,
    mean: Values,
    samples: Values,
    *,
    truth: Values | None = None,
    note: str | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """A row per example: the observed part, the mean given it, samples given it, and the true picture if known.

    .. math:: \\mathbb{E}[x_m | x_o], \\qquad x_m \\sim p(x_m | x_o)

    The mean averages over everything that the hidden part may be, and is blurred where that is uncertain; each sample
    is one thing that it may be.

    Args:
        x: pictures, shape (n, *event); values that are not seen are not shown.
        mask: true where a pixel was seen, the same shape.
        mean: the pictures completed by means, the same shape.
        samples: the pictures completed by draws, shape (m, n, *event).
        truth: the whole pictures, the same shape as x; NaN where it is not known either.
        note: below the rows.
        value_range: the values that become black and white.
        path: where to write a PNG.
    Returns:
        The figure, a panel for each kind of picture.
    Raises:
        ElbowroomError: not images, or shapes that do not fit together.
    Example:
        >>> import torch
        >>> x = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mask = torch.arange(8).expand(3, 8, 8) < 4
        >>> figure = completions_figure(x, mask, x, x.expand(5, 3, 8, 8), truth=x)
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['seen', 'E[x | seen]', 'samples  x ~ p(x | seen)', 'truth']
    """
    data = as_array(x, "x")
    drawn = as_array(samples, "samples")
    _check(data, drawn, {"mask": mask, "mean": mean, **({} if truth is None else {"truth": truth})})
    observed = as_array(mask, "mask").astype(bool)
    # a pixel with a channel that is missing is not seen
    seen: Array = np.logical_and.reduce(observed, 1) if observed.ndim == 4 else observed

    def paint(values: Values, what: str) -> Array:
        return to_rgb(values, what, value_range=value_range)

    hidden = cover(paint(np.where(observed, data, value_range[0]), "x"), observed)
    colours = data.ndim == 4 and data.shape[1] == 3
    filled = [paint(mean, "mean"), *(paint(one, "samples") for one in drawn)]
    if not colours:
        for pictures in filled:
            tinted = pictures[~seen].astype(np.float64) * np.array(_FILLED) / 255
            pictures[~seen] = np.floor(tinted + 0.5).astype(np.uint8)
    panels = [
        Panel(hidden, 1, title=SEEN),
        Panel(filled[0], 1, title=MEAN),
        Panel(np.stack(filled[1:], 1).reshape(-1, *hidden.shape[1:]), len(drawn), title=SAMPLES),
    ]
    if truth is not None:
        known = as_array(truth, "truth")
        panels.append(Panel(cover(paint(known, "truth"), ~np.isnan(known)), 1, title=TRUTH))
    return draw_sheet(panels, note=note, path=path)


def _check(x: Array, samples: Array, others: dict[str, Values]) -> None:
    shapes = {name: tuple(as_array(values, name).shape) for name, values in others.items()}
    if samples.ndim > 0:
        shapes["samples"] = tuple(samples.shape[1:])
    for name, shape in shapes.items():
        if shape != x.shape:
            raise ElbowroomError(
                f"x has shape {tuple(x.shape)} and {name} {shape}{' each' if name == 'samples' else ''}, but they are "
                "shown picture by picture.",
                "Give one for every other, in the same order.",
            )
