"""Splits into training, validation and test rows, and the order of an epoch: functions of a seed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.binarization import mix
from elbowroom.errors import ElbowroomError

__all__ = ["SPLITS", "epoch_order", "make_splits", "seeded_permutation"]

SPLITS = ("train", "validation", "test")


def seeded_permutation(size: int, *key: int) -> Tensor:
    """A permutation of 0..size−1 that depends on the key alone, int64, on the CPU.

    Example:
        >>> bool((seeded_permutation(9, 0, 1) == seeded_permutation(9, 0, 1)).all())
        True
    """
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix(*key)))


def epoch_order(size: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits ``size`` rows: a function of (seed, epoch) alone."""
    return seeded_permutation(size, 1, seed, epoch)


def make_splits(
    num_rows: int,
    *,
    validation: float,
    test: float,
    seed: int,
    validation_rows: Tensor | None = None,
    test_rows: Tensor | None = None,
    train: int | None = None,
    name: str = "the data",
) -> dict[str, Tensor]:
    """Disjoint sorted positions for training, validation and test.

    Args:
        num_rows: n, of the whole set.
        validation, test: a fraction below 1 or a whole number of rows. A fraction above 0 gives one row at least.
        seed: of the permutation that chooses them.
        validation_rows: a validation set of its own; ``validation`` is then ignored.
        test_rows: an official test set; ``test`` is then ignored and ``validation`` counts in training rows.
        train: how many rows to train on, the rest being left out; all that remain unless given.
        name: of the data, for messages.
    Returns:
        int64 positions by split.
    Raises:
        ElbowroomError: a share that is neither a fraction nor a whole number, no row left to train on, or fewer than
            ``train``.
    Example:
        >>> {split: len(rows) for split, rows in make_splits(10, validation=0.2, test=1, seed=0).items()}
        {'train': 7, 'validation': 2, 'test': 1}
    """
    official = test_rows is not None
    if test_rows is None:
        order = seeded_permutation(num_rows, 0, seed)
        num_test = _count(test, num_rows, "test")
        test_rows, order = order[:num_test], order[num_test:]
        available = num_rows
    else:
        kept = torch.ones(num_rows, dtype=torch.bool)
        kept[test_rows] = False
        if validation_rows is not None:
            kept[validation_rows] = False
        pool = kept.nonzero().flatten()
        order = pool[seeded_permutation(len(pool), 0, seed)]
        available, num_test = len(pool), len(test_rows)
    num_validation = _count(validation, available, "validation") if validation_rows is None else 0
    if num_validation >= len(order):
        less = "--data.validation 0" if official else "--data.validation 0 --data.test 0"
        raise ElbowroomError(
            f"{name} has {num_rows:,} rows, of which {num_test:,} are for testing and {num_validation:,} for "
            "validation, but at least one must be left to train on.",
            f"Keep fewer rows aside, for instance {less}.",
        )
    left = len(order) - num_validation
    if train is not None and not 1 <= train <= left:
        raise ElbowroomError(
            f"--data.train is {train:,}, but {name} has {left:,} rows to train on.",
            f"Give a number from 1 to {left:,}, or leave it out.",
        )
    chosen = order[:num_validation] if validation_rows is None else validation_rows
    parts = {"train": order[num_validation:][:train], "validation": chosen, "test": test_rows}
    # torch would return the places too: three times the memory, of millions of rows
    return {split: torch.from_numpy(np.sort(rows.numpy())) for split, rows in parts.items()}


def _count(share: float, total: int, split: str) -> int:
    if isinstance(share, bool) or not math.isfinite(share) or not (0 <= share < 1 or share == int(share) >= 1):
        raise ElbowroomError(
            f"--data.{split} is {share}, but it is a fraction from 0 to below 1 or a whole number of rows.",
            f"Give for instance --data.{split} 0.1 or --data.{split} 1000.",
        )
    return max(1, round(share * total)) if 0 < share < 1 else int(share)
