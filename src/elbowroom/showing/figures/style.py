"""Style of all figures, and how they are written to disk.

Figures are made with matplotlib's objects alone: no pyplot, no choice of backend, no change of the global settings,
so that a figure can be drawn inside a server, a thread or a notebook without side effects. Widths are those of a
paper's column and page; type is 7 to 8 points at that width.

Colours are those of Okabe & Ito (2008) for curves and of Paul Tol's "muted" scheme for classes: both stay apart for
colour-blind readers.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from torch import Tensor

from elbowroom.errors import ElbowroomError

__all__ = [
    "BLUE",
    "CLASS_COLOURS",
    "COLUMN",
    "DPI",
    "GREEN",
    "GREY",
    "INK",
    "LABEL",
    "NOT_A_LIKELIHOOD",
    "ORANGE",
    "PAGE",
    "SMALL",
    "VERMILION",
    "Array",
    "Values",
    "as_array",
    "finish",
    "heading",
    "is_image",
    "legend_below",
    "new_figure",
    "number",
    "png",
    "text_width",
    "thin_axes",
    "wrap",
    "write",
]

Array: TypeAlias = NDArray[Any]
Values: TypeAlias = Tensor | Array | Sequence[Any]

COLUMN = 3.4  #: inches, the width of a paper's column
PAGE = 6.9  #: inches, the width of its page
DPI = 200
LABEL = 8.0  #: points, titles and axis labels
SMALL = 7.0  #: points, ticks, legends and notes

INK = "#222222"
GREY = "#777777"
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe & Ito
CLASS_COLOURS = (  # Tol's "muted", ordered so that neighbours differ in lightness; the tenth is a dark grey
    *("#332288", "#CC6677", "#44AA99", "#DDCC77", "#882255"),
    *("#88CCEE", "#117733", "#AA4499", "#999933", "#555555"),
)

NOT_A_LIKELIHOOD = "cross-entropy: not a log-likelihood"


def as_array(values: Values, what: str) -> Array:
    """Values on the CPU as a NumPy array, off the graph; half precision becomes single.

    Args:
        values: a tensor, an array or a sequence, of at least one element.
        what: its name in a message.
    Raises:
        ElbowroomError: there is nothing in it.
    Example:
        >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "images")
        array([1., 1.], dtype=float32)
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16
        values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
        array: Array = values.numpy()
    else:
        array = np.asarray(values)
    if array.size == 0:
        raise ElbowroomError(
            f"{what} is empty (shape {tuple(array.shape)}), but a figure needs at least one row.",
            f"Give {what} with at least one row.",
        )
    return array


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether an example of this shape can be shown as a picture: (H, W), (1, H, W) or (3, H, W).

    Example:
        >>> [is_image(shape) for shape in [(28, 28), (1, 8, 8), (3, 32, 32), (30,), (2, 8, 8), (1, 30)]]
        [True, True, True, False, False, False]
    """
    *channels, height, width = (0, 0, *event_shape)[-max(2, len(event_shape)) :]
    return channels in ([], [1], [3]) and height > 1 and width > 1


def number(value: float, spec: str = ".2f") -> str:
    """A number for a label, with a true minus.

    Example:
        >>> number(-101.234), number(-2.0, "g")
        ('−101.23', '−2')
    """
    return format(value, spec).replace("-", "−")


def new_figure(width: float, height: float, *, layout: str | None = "constrained", dpi: float = DPI) -> Figure:
    """An empty white figure with an Agg canvas; inches."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def heading(figure: Figure, text: str | None) -> None:
    """A line or two above the panels, from the left edge; a dollar sign is a dollar sign. Nothing for no text."""
    if text:
        wrapped = wrap(text, LABEL, figure.get_figwidth() - 0.1)
        figure.suptitle(wrapped, fontsize=LABEL, color=INK, x=0.01, ha="left", parse_math=False)


def legend_below(figure: Figure, handles: Sequence[Artist], *, pad: float = 0.4) -> None:
    """One row of labels under the panels, where they cover no data; ``pad`` lies between a sign and its label."""
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handletextpad=pad,
        columnspacing=1.2,
        borderaxespad=0.1,
    )


def thin_axes(axes: Axes, *, title: str | None = None, xlabel: str | None = None, ylabel: str | None = None) -> None:
    """Two hairline axes, small ticks, and labels that take a dollar sign for a dollar sign."""
    axes.set_facecolor("white")
    axes.grid(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_linewidth(0.5)
        spine.set_color(INK)
    axes.tick_params(
        which="both", labelsize=SMALL, width=0.5, length=2.5, color=INK, labelcolor=INK, top=False, right=False
    )
    axes.tick_params(which="minor", length=1.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(SMALL)  # of 1e9, which tick_params leaves as it is
    text: dict[str, Any] = {"fontsize": LABEL, "color": INK, "parse_math": False}
    if title is not None:
        axes.set_title(title, loc="left", pad=4, **text)
    if xlabel is not None:
        axes.set_xlabel(xlabel, labelpad=2, **text)
    if ylabel is not None:
        axes.set_ylabel(ylabel, labelpad=3, **text)


def text_width(text: str, size: float) -> float:
    """Inches that a text takes, its widest line."""
    font = FontProperties(size=size)
    return max(
        float(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]) / 72 for line in text.split("\n")
    )


def wrap(text: str, size: float, width: float) -> str:
    """The text with line breaks between words, so that it fits in ``width`` inches."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def png(figure: Figure, dpi: float | None = None) -> bytes:
    """The figure as a PNG; equal figures are equal files.

    Args:
        figure: what to draw.
        dpi: pixels per inch; the figure's own unless given.
    """
    image = io.BytesIO()
    _save(figure, image, dpi)
    return image.getvalue()


def write(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes the figure as a PNG, and returns the path.

    The file appears whole or not at all: it is written under a temporary name in the same folder, then renamed.

    Raises:
        ElbowroomError: the path cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _save(figure, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ElbowroomError(
            f"the figure cannot be written to {target}: {error.strerror or error}.",
            "Give the path of a file in a folder that you may write to.",
        ) from error
    return target


def _save(figure: Figure, where: Path | io.BytesIO, dpi: float | None = None) -> None:
    # without the software's name and version, equal figures are equal files
    figure.savefig(where, format="png", dpi=dpi or figure.dpi, facecolor="white", metadata={"Software": None})


def finish(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """The figure, written as PNG if a path is given.

    Raises:
        ElbowroomError: the path cannot be written.
    """
    if path is not None:
        write(figure, path)
    return figure
