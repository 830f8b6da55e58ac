"""Every figure that elbowroom draws, under one name.

Each function takes arrays or tensors and plain values, returns a matplotlib ``Figure``, and writes it as PNG if it
is given a path. None of them knows a model, a run or a learner.

Example:
    >>> import torch
    >>> from elbowroom.showing import plots
    >>> figure = plots.image_grid(torch.rand(9, 28, 28, generator=torch.Generator().manual_seed(0)))
"""

from __future__ import annotations

from elbowroom.showing.figures.comparison import comparison_figure
from elbowroom.showing.figures.completions import completions_figure
from elbowroom.showing.figures.curves import training_curves
from elbowroom.showing.figures.images import class_rows_figure, image_grid, reconstruction_figure, samples_figure
from elbowroom.showing.figures.latents import latent_scatter, manifold_figure, manifold_grid, traversal_figure
from elbowroom.showing.figures.measures import evaluation_figure, gradient_figure, k_curve_figure
from elbowroom.showing.figures.prior_sampling import prior_sampling_figure
from elbowroom.showing.figures.room import room_figure, room_rows
from elbowroom.showing.figures.style import is_image
from elbowroom.showing.figures.tabular import marginals_figure, reconstruction_scatter

__all__ = [
    "class_rows_figure",
    "comparison_figure",
    "completions_figure",
    "evaluation_figure",
    "gradient_figure",
    "image_grid",
    "is_image",
    "k_curve_figure",
    "latent_scatter",
    "manifold_figure",
    "manifold_grid",
    "marginals_figure",
    "prior_sampling_figure",
    "reconstruction_figure",
    "reconstruction_scatter",
    "room_figure",
    "room_rows",
    "samples_figure",
    "training_curves",
    "traversal_figure",
]
