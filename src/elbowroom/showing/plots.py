"""Every figure that elbowroom draws, under one name.

Each function takes arrays or tensors and plain values, returns a matplotlib ``Figure``, and writes it as PNG if it
is given a path. None of them knows a model, a run or a learner; :func:`holes_figure` takes what the doctor found
(``Diagnosis.studies``).

For a figure of your own in the same style there are :func:`new_figure`, which makes an empty one, :func:`thin_axes`,
the widths ``COLUMN`` and ``PAGE`` in inches, the type size ``SMALL`` in points, and colours.

Example:
    >>> import torch
    >>> from elbowroom.showing import plots
    >>> figure = plots.image_grid(torch.rand(9, 28, 28, generator=torch.Generator().manual_seed(0)))
"""

from __future__ import annotations

from elbowroom.showing.figures.codes import code_maps_figure, code_pictures_figure, code_usage_figure
from elbowroom.showing.figures.comparison import comparison_figure
from elbowroom.showing.figures.completions import completions_figure
from elbowroom.showing.figures.curves import training_curves
from elbowroom.showing.figures.holes import holes_figure
from elbowroom.showing.figures.images import class_rows_figure, image_grid, reconstruction_figure, samples_figure
from elbowroom.showing.figures.latents import latent_scatter, manifold_figure, manifold_grid, traversal_figure
from elbowroom.showing.figures.measures import evaluation_figure, gradient_figure, k_curve_figure
from elbowroom.showing.figures.prior_sampling import prior_sampling_figure
from elbowroom.showing.figures.room import room_figure, room_note, room_rows
from elbowroom.showing.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    SMALL,
    VERMILION,
    is_image,
    new_figure,
    thin_axes,
)
from elbowroom.showing.figures.tabular import marginals_figure, reconstruction_scatter

__all__ = [
    "BLUE",
    "COLUMN",
    "GREEN",
    "GREY",
    "ORANGE",
    "PAGE",
    "SMALL",
    "VERMILION",
    "class_rows_figure",
    "code_maps_figure",
    "code_pictures_figure",
    "code_usage_figure",
    "comparison_figure",
    "completions_figure",
    "evaluation_figure",
    "gradient_figure",
    "holes_figure",
    "image_grid",
    "is_image",
    "k_curve_figure",
    "latent_scatter",
    "manifold_figure",
    "manifold_grid",
    "marginals_figure",
    "new_figure",
    "prior_sampling_figure",
    "reconstruction_figure",
    "reconstruction_scatter",
    "room_figure",
    "room_note",
    "room_rows",
    "samples_figure",
    "thin_axes",
    "training_curves",
    "traversal_figure",
]
