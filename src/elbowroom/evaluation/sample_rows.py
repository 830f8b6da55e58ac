"""Samples and data side by side: draws of x for the contexts and masks of given rows, and both as numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.model.conditional import Likelihood
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.latent import LatentModel
from elbowroom.model.noise import uniform
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform
from elbowroom.numerics import chunks

__all__ = ["comparable", "data_as_drawn", "decoded", "is_picture", "unit_of_elements"]

_CHUNK = 500  # examples at a time through the decoder


def decoded(model: LatentModel, z: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws and means of p(x | z), or of each pixel given those before it in the draw, a chunk at a time."""
    drawn, means = [], []
    for rows in chunks(len(z), _CHUNK):
        p_x = model.likelihood(z[rows], None if batch.context is None else batch.context[rows])
        drawn.append(draw(p_x, generator=generator))
        means.append(mean(conditionals(p_x, drawn[-1])))
    return torch.cat(drawn), torch.cat(means)


def data_as_drawn(model: LatentModel, batch: Batch, generator: torch.Generator) -> Tensor:
    """The data as the likelihood draws them: under the cross-entropy likelihood, grey values are drawn as bits."""
    x = batch.x
    if model.likelihood.normalized or model.likelihood.support is not Support.UNIT_INTERVAL:
        return x
    return (uniform(x.shape, x, generator) < x).to(x)


def unit_of_elements(likelihood: Likelihood, batch: Batch) -> Tensor | float:
    """The unit of each element, float64: real elements can have different units, but pixels share one."""
    if likelihood.support is not Support.REALS or is_picture(likelihood):
        return 1.0
    scale = batch.x.double().std(0)
    return torch.where(scale > 0, scale, 1.0)


def comparable(
    likelihood: Likelihood, x: Tensor, batch: Batch, unit: Tensor | float, *, with_context: bool = True
) -> Tensor:
    """Rows as numbers, shape (batch, features); elements that were not observed are equal in samples and data.

    Categories become one number for each, counts log(1 + x), the columns of a table what a guide sees of them. The
    context of a row stands beside them, unless the features are to be of x alone.
    """
    x = x if batch.mask is None else torch.where(batch.mask, x, batch.x)
    match likelihood.support:
        case Support.CATEGORIES:
            seen = torch.nn.functional.one_hot(x.long(), likelihood.elementwise.num_parameters).double()
        case Support.COUNTS:
            seen = torch.log1p(x.double())
        case Support.TABLE:
            table = likelihood.elementwise
            assert isinstance(table, Table)
            seen = TableTransform(table.columns).to(x.device)(x).double()
        case _:
            seen = x.double() / unit
    parts = [seen.flatten(1)]
    if batch.context is not None and with_context:
        parts.append(batch.context.double())
    if batch.mask is not None:
        parts.append(batch.mask.double().flatten(1))
    return torch.cat(parts, 1)


def is_picture(likelihood: Likelihood) -> bool:
    """Whether x is a picture, so that differences of neighbouring elements mean something."""
    *channels, height, width = (0, 0, *likelihood.event_shape)[-max(2, len(likelihood.event_shape)) :]
    return channels in ([], [1], [3]) and min(height, width) > 1 and likelihood.support is not Support.CATEGORIES
