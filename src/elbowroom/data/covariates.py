"""Labels and covariates (context) that come beside the rows, and the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.data.storage import Material, as_classes, as_tensor
from elbowroom.errors import ElbowroomError

__all__ = ["aligned", "class_numbers", "context_from_labels", "exact_context", "finite_context", "match_levels"]


def aligned(values: Any, total: int, what: str) -> Tensor:
    """Values from Python as a tensor with one entry for each of ``total`` rows; ``what`` names them in the message."""
    tensor = values if isinstance(values, Tensor) else as_tensor(np.asarray(values))
    if tensor.dim() == 0 or len(tensor) != total:
        raise ElbowroomError(
            f"{what} has shape {tuple(tensor.shape)}, but the data have {total:,} rows.",
            f"Give {what} one entry for each row.",
        )
    return tensor


def class_numbers(labels: Any, total: int) -> tuple[Tensor, tuple[str, ...] | None]:
    """Class labels from Python as numbers, int64, shape (n,), and their names where they are text."""
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.shape not in ((total,), (total, 1)):
        raise ElbowroomError(
            f"labels has shape {values.shape}, but the data have {total:,} rows.",
            "Give labels one class number or name for each row.",
        )
    return as_classes(values, "labels")


def context_from_labels(context: str, material: Material, known: Sequence[str] | None) -> Material:
    """The labels, one-hot, numbered as in training where that is known."""
    if context != "labels":
        raise ElbowroomError(
            f"--data.context is '{context}', but it should be 'labels', a list of column names, or an array.",
            f"Pass labels, or for a column the list ['{context}'].",
        )
    if material.labels is None:
        raise ElbowroomError(
            f"The labels of {material.name} are to be the context, but there are no labels.",
            "Give labels, or the context itself as an array.",
        )
    numbers, names = material.labels, material.classes
    if names is None:
        least = min(0, int(numbers.min()))
        numbers = numbers - least
        names = tuple(str(least + at) for at in range(int(numbers.max()) + 1))
    if known is not None:
        present = torch.from_numpy(
            np.unique(numbers.numpy())
        )  # numbers that merely lie between the least and the greatest are no classes
        names = tuple(names[at] for at in present.tolist())
        numbers = match_levels(torch.searchsorted(present, numbers), names, known, f"The labels of {material.name}")
        names = tuple(known)
    return replace(material, context=one_hot(numbers, len(names)), levels={"labels": names})


def match_levels(numbers: Tensor, names: Sequence[str], known: Sequence[str], what: str) -> Tensor:
    """Renumber classes as in training.

    Args:
        numbers: places in ``names``, int64, shape (n,).
        names: of the classes at hand.
        known: the names in training, in their order.
        what: for the message.
    Raises:
        ElbowroomError: a class that was not among those in training.
    Example:
        >>> match_levels(torch.tensor([0, 1]), ("b", "c"), ("a", "b", "c"), "the labels")
        tensor([1, 2])
    """
    strange = [name for name in names if name not in known]
    if strange:
        raise ElbowroomError(
            f"{what} holds the class '{strange[0]}', but the classes in training were {', '.join(known)}.",
            "Take those rows out, or train with that class.",
        )
    place = {name: at for at, name in enumerate(known)}
    return torch.tensor([place[name] for name in names], dtype=torch.int64)[numbers]


def finite_context(material: Material) -> Tensor | None:
    """The context as float32; refuses one that is not finite, naming the row."""
    if material.context is None:
        return None
    bad = ~material.context.isfinite().all(1)
    if bad.any():
        raise ElbowroomError(
            f"The context of {material.name} is not finite in {int(bad.sum()):,} rows, the first being row "
            f"{int(bad.nonzero()[0])}.",
            "Fill in those values, or take those rows out: only x may have missing elements.",
        )
    return material.context.float()


def exact_context(material: Material) -> Tensor | None:
    """The context as float64 where float32 does not hold it exactly; otherwise None."""
    given = material.context
    if given is None or bool((given.float().double() == given.double()).all()):
        return None
    return given.double()
