"""Whether the training rows suffice: a Gaussian density needs a spread, and codes need examples that have them."""

from __future__ import annotations

from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeSpace

__all__ = ["check_codes", "check_training_rows", "constant_elements"]


def constant_elements(mean: Tensor, std: Tensor) -> Tensor:
    """Which elements never vary, bool, shape (\\*event): their deviation is rounding error of their mean."""
    return std <= 1e-12 * mean.abs()


def check_codes(data: DataSet | StreamSet, space: CodeSpace) -> None:
    """Refuse more codes for a slot than there are training rows: some could belong to none.

    Args:
        data: of any kind; of a stream the number of rows is not known, and nothing is refused.
        space: slots and codes.
    Raises:
        ElbowroomError: says how many of both there are.
    """
    rows = data.size("train")
    if rows is not None and space.codes > rows:
        raise ElbowroomError(
            f"{space.codes:,} codes for each slot were asked for, but there {'is' if rows == 1 else 'are'} {rows:,} "
            f"training example{'' if rows == 1 else 's'} of {data.name}, so that some codes could have none.",
            f"Give --model.codes {max(2, min(rows // 10, 16))}, say, and more --model.slots if they are too few.",
        )


def check_training_rows(data: DataSet | StreamSet, mean: Tensor, std: Tensor) -> None:
    """Refuse a single training row, and training rows that are all the same.

    Args:
        data: real-valued.
        mean: of every element over the training rows, shape (\\*event).
        std: the standard deviations.
    Raises:
        ElbowroomError: says how many rows there are and what the others are for.
    """
    if not bool(constant_elements(mean, std).all()):
        return
    rows = data.size("train")
    if isinstance(data, DataSet) and rows == 1:
        raise _one_row(data)
    count = "first" if rows is None else f"{rows:,}"
    raise ElbowroomError(
        f"The {count} training rows of {data.name} are all the same, so that their density can grow without bound.",
        "Give rows that differ.",
    )


def _one_row(data: DataSet) -> ElbowroomError:
    sizes = {split: data.size(split) for split in ("validation", "test") if data.size(split)}
    if len(data) - sum(sizes.values()) > 1:
        return ElbowroomError(
            f"One row of {data.name} is left to train on by --data.train, but a standard deviation needs two.",
            "Give --data.train 2 or more.",
        )
    aside = " and ".join(f"{size:,} for {split}" for split, size in sizes.items())
    return ElbowroomError(
        f"{data.name} has {len(data):,} row{'s' if len(data) > 1 else ''}{f', of which {aside}' if aside else ''}: one "
        "row is left to train on, but a standard deviation needs two.",
        "Give more rows, or keep fewer aside: --data.test 0 --data.validation 0." if aside else "Give more rows.",
    )
