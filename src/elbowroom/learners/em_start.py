"""Where EM starts: the centre, one class for all rows; and around it the best of several random starts.

EM climbs to the next of many peaks, so that the start decides. Each start is a clustering of the rows by their values
(k-means), which some steps of EM then turn into classes; that with the highest objective goes on.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.learners.codebook import k_means
from elbowroom.learners.em import (
    centre,
    check_mixture,
    class_outputs,
    e_step,
    m_step,
    maximised,
    set_centre,
    set_class_outputs,
)
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.latent import LatentModel
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform

__all__ = ["climb_until_flat", "clusters", "fit_centre", "start_classes"]

_CENTRE_STEPS = 30
_STILL = 1e-4  # change of a parameter
_SURE = 0.9  # responsibility of the cluster that a row is in, at the start
_STEPS = 10  # of EM, by which starts are compared
_FLAT = 1e-4  # nats per row and step


def start_classes(
    model: LatentModel, batch: Batch, prior: ClassPrior, *, starts: int, generator: torch.Generator
) -> None:
    """Sets a mixture to the centre and the best of several starts.

    Args:
        model: of a likelihood that has been started at its data.
        batch: all training examples.
        prior: of the parameters.
        starts: how many starts are tried.
        generator: of the clusterings.
    Raises:
        ElbowroomError: the model is no mixture of products.
    """
    check_mixture(model)
    fit_centre(model, batch)
    seen = _features(model, batch)
    first = copy.deepcopy(model.state_dict())
    best, found = -math.inf, first
    for _ in range(starts):
        model.load_state_dict(first)
        own = clusters(seen, model.space.codes, generator)
        weights = _SURE * torch.nn.functional.one_hot(own, model.space.codes).T + (1 - _SURE) / model.space.codes
        m_step(model, batch, weights, prior)
        reached = climb_until_flat(model, batch, prior, steps=_STEPS)
        if reached > best:
            best, found = reached, copy.deepcopy(model.state_dict())
    model.load_state_dict(found)


def fit_centre(model: LatentModel, batch: Batch) -> None:
    """Sets the centre, and all classes to it, to the most probable parameters of one class for all rows."""
    likelihood = model.likelihood
    if isinstance(likelihood, Table):
        likelihood.init_from_rows(batch.x if batch.mask is None else torch.where(batch.mask, batch.x, torch.nan))
    output = centre(model).unsqueeze(0)
    everyone = torch.ones(1, len(batch), dtype=output.dtype, device=output.device)
    for _ in range(_CENTRE_STEPS):
        before, output = output, maximised(model, output, batch, everyone, ClassPrior(), None)
        if bool((output - before).abs().max() < _STILL):
            break
    set_centre(model, output[0])
    set_class_outputs(model, output.expand(model.space.codes, *output.shape[1:]))


def climb_until_flat(model: LatentModel, batch: Batch, prior: ClassPrior, *, steps: int) -> float:
    """Steps of EM, until one gains next to nothing; returns the objective per row that is reached, nats."""
    found = e_step(model, batch, prior)
    for _ in range(steps):
        before = found.objective
        m_step(model, batch, found.weights, prior)
        found = e_step(model, batch, prior)
        if found.objective - before < _FLAT:
            break
    return found.objective


def clusters(seen: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """The number of the cluster of each row, by k-means, int64, shape (N,).

    Args:
        seen: what rows are compared by, shape (N, W).
        number: K.
        generator: draws the first centres.
    Example:
        >>> seen = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> own = clusters(seen, 2, torch.Generator().manual_seed(0))
        >>> bool(own[0] == own[1]), bool(own[2] == own[3]), bool(own[0] == own[2])
        (True, True, False)
    """
    middles = k_means(seen.unsqueeze(1), number, generator)[0]
    return torch.cdist(seen, middles).argmin(1)


def _features(model: LatentModel, batch: Batch) -> Tensor:
    """What rows are compared by: a table's as a guide would see them, other data standardised."""
    if isinstance(model.likelihood, Table):
        x = batch.x if batch.mask is None else torch.where(batch.mask, batch.x, torch.nan)
        transform = TableTransform(model.likelihood.columns).to(x.device)
        transform.init_from_rows(x)
        seen: Tensor = transform(x)
        return seen
    x = batch.x.flatten(1).to(class_outputs(model))
    if batch.mask is not None:
        x = torch.where(batch.mask.flatten(1), x, x.mean(0))
    scale = x.std(0)
    return (x - x.mean(0)) / torch.where(scale > 0, scale, 1.0)
