"""Whether the training rows suffice: a Gaussian density needs a spread, and codes need examples that have them."""

from __future__ import annotations

from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import element_name, listed
from elbowroom.data.precision import varying
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeSpace

__all__ = ["check_codes", "check_training_rows", "constant_elements", "refuse_constant"]


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
    if bool(varying(data).any()):  # a spread of rounding size is another fault
        return
    count = "first" if rows is None else f"{rows:,}"
    raise ElbowroomError(
        f"The {count} training rows of {data.name} are all the same, so that their density can grow without bound.",
        "Give rows that differ.",
    )


def refuse_constant(data: DataSet | StreamSet, mean: Tensor, std: Tensor) -> None:
    """Refuse real-valued elements that never vary over the training rows, or by no more than float64 rounds.

    Args:
        data: real-valued.
        mean: of every element over the training rows, shape (\\*event).
        std: the standard deviations.
    Raises:
        ElbowroomError: names the elements.
    """
    flat = constant_elements(mean, std).flatten()
    if not bool(flat.any()):
        return
    columns = data.columns if isinstance(data, DataSet) else None
    of = f"of {flat.numel()} {'elements' if columns is None else 'columns'}"
    varies = varying(data).flatten()
    if bool((flat & ~varies).any()):
        where = _names(columns, mean, flat & ~varies)
        raise ElbowroomError(
            f"{len(where)} {of} are constant in the training data ({listed(where)}), so that their density can grow "
            "without bound.",
            "Drop those columns." if columns is None else f"Drop {listed(where)}.",
        )
    where, first = _names(columns, mean, flat), int(flat.nonzero()[0])
    center, spread = float(mean.flatten()[first]), float(std.flatten()[first])
    raise ElbowroomError(
        f"{len(where)} {of} vary in the training data by no more than rounding ({listed(where)}): the standard "
        f"deviation of {where[0]} is {spread:.1g} beside a mean of {center:.6g}, and float64 keeps sixteen digits.",
        "Subtract a number near them, such as the first of them, before they are made float64; or leave "
        f"{'those columns' if columns is None else listed(where)} out.",
    )


def _names(columns: tuple[str, ...] | None, mean: Tensor, chosen: Tensor) -> list[str]:
    return [element_name(columns, mean.shape, place) for place in chosen.nonzero().flatten().tolist()]


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
