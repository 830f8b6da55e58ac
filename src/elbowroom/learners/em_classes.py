"""How many classes a mixture should have; and the two simple models of a table that every other has to beat.

Several numbers of classes are tried, and the best on validation rows is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.em_start import climb_until_flat, fit_centre, start_classes
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.networks import MLP
from elbowroom.model.table.likelihood import Table

__all__ = [
    "NUMBERS_OF_CLASSES",
    "Tried",
    "best_classes",
    "independent_columns",
    "latent_classes",
    "try_classes",
]

NUMBERS_OF_CLASSES = (2, 3, 4, 6, 8, 12, 16, 24)
"""Those that are tried, unless others are asked for."""
_STEPS = 150  # of EM, at most
_ROWS_PER_CLASS = 10  # fewer are no class
_PATIENCE = 2  # numbers of classes in a row that are no better


class Tried(NamedTuple):
    """A mixture, and what it is worth."""

    model: LatentModel
    value: float  #: mean log p(x) of the validation rows, nats

    @property
    def classes(self) -> int:
        return self.model.space.codes


def try_classes(
    make: Callable[[int], LatentModel], train: Batch, validation: Batch, prior: ClassPrior, numbers: Sequence[int]
) -> list[Tried]:
    """Mixtures with rising numbers of classes, until more are no better, each fitted by EM.

    Args:
        make: a number of classes to a mixture at its start.
        train: all training rows.
        validation: rows to judge by.
        prior: of the parameters.
        numbers: of classes; the lowest is tried in any case, others where there are ten rows for each class.
    """
    tried: list[Tried] = []
    for classes in sorted(set(numbers)):
        if tried and classes * _ROWS_PER_CLASS > len(train):
            break
        model = make(classes)
        climb_until_flat(model, train, prior, steps=_STEPS)
        with evaluation_mode(model):
            tried.append(Tried(model, float(enumerated(model, validation).log_evidence.mean())))
        best = max(each.value for each in tried)
        if len(tried) > _PATIENCE and all(each.value < best for each in tried[-_PATIENCE:]):
            break
    return tried


def best_classes(tried: Sequence[Tried]) -> Tried:
    """The one that is worth most."""
    return max(tried, key=lambda each: each.value)


def independent_columns(columns: Sequence[Column], train: Batch) -> LatentModel:
    """A table whose columns are independent, each with the most probable parameters of its distribution.

    Args:
        columns: of the table.
        train: all training rows.
    Returns:
        A mixture of two classes that are the same.
    Example:
        >>> import torch
        >>> from elbowroom.data.columns.column import ColumnKind
        >>> column = Column("a", ColumnKind.BINARY, levels=("no", "yes"))
        >>> model = independent_columns([column], Batch(torch.tensor([[0.0], [1.0], [1.0]])))
        >>> round(enumerated(model, torch.tensor([[1.0]])).log_evidence.exp().item(), 4)
        0.625
    """
    model = _mixture(columns, 2, train)
    fit_centre(model, train)
    return model.eval().requires_grad_(False)


def latent_classes(
    columns: Sequence[Column], train: Batch, validation: Batch | None, *, seed: int = 0, starts: int = 2
) -> LatentModel:
    """A latent class model of a table, fitted by EM.

    Args:
        columns: of the table.
        train: all training rows.
        validation: rows to choose the number of classes by; None for 8 classes, or fewer for few rows.
        seed: of the starts.
        starts: of each number of classes.
    """
    prior = ClassPrior()

    def make(classes: int) -> LatentModel:
        model = _mixture(columns, classes, train)
        generator = torch.Generator().manual_seed(seed)
        start_classes(model, train, prior, starts=starts, generator=generator)
        return model

    if validation is None:
        numbers: Sequence[int] = (max(2, min(8, len(train) // _ROWS_PER_CLASS)),)
        validation = train
    else:
        numbers = NUMBERS_OF_CLASSES
    found = best_classes(try_classes(make, train, validation, prior, numbers))
    return found.model.eval().requires_grad_(False)


def _mixture(columns: Sequence[Column], classes: int, train: Batch) -> LatentModel:
    """A mixture for these rows, before its start; the weights that torch draws are all overwritten by that."""
    shape = Table.parameter_shape((len(columns),), columns=columns, scale="per-element")
    with torch.random.fork_rng(devices=[]):
        network = MLP((classes,), shape, hidden=())
    likelihood = Table(network, columns, scale="per-element")
    return LatentModel(UnigramCodes(CodeSpace(1, classes)), likelihood).to(train.x.dtype)
