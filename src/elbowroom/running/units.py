"""Units of a run's data: what real numbers are counted from and how covariates are scaled, on the way in and back.

The units of a new run are found from its training rows, and stored with it (:class:`DataFacts`). Whatever it reads
afterwards is delivered in the same units, and its results are given back in those of the user.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.precision import Units, check_range, check_whole_numbers, find_units, in_units
from elbowroom.data.stream import StreamSet
from elbowroom.phrasing import phrased
from elbowroom.progress import Announce
from elbowroom.running.build import DataFacts
from elbowroom.running.config import Config
from elbowroom.running.runtime import dtype_of

__all__ = ["like_training", "prepared", "restored", "standardised_context"]


def prepared(
    data: DataSet | StreamSet,
    config: Config,
    device: torch.device,
    facts: DataFacts | None = None,
    *,
    fill: Tensor | None = None,
    announce: Announce | None = None,
) -> DataSet | StreamSet:
    """The data on the device, in the precision and in the units of a run.

    Args:
        data: as loaded, with the support that the likelihood needs.
        config: of the run.
        device: where batches go.
        facts: of the data that the run was trained on; None for a new run, whose units are found from these data.
        fill: in place of missing elements, in the run's units; by default the means of these data.
        announce: told what the precision loses of the data of a new run.
    Raises:
        ElbowroomError: values that the precision cannot hold or tell apart.
    """
    dtype = dtype_of(config.runtime)
    units = find_units(data, dtype) if facts is None else _units(facts)
    if announce is not None:
        for remark in units.remarks:
            announce(phrased(remark))
    data = in_units(data.to(device=device, dtype=dtype), units, fill=fill)
    check_range(data)
    return data


def like_training(data: DataSet, facts: DataFacts, fill: Tensor) -> DataSet:
    """A data set from elsewhere in the units of a run; one that has them already as it is.

    Raises:
        ElbowroomError: counts that its precision does not tell apart.
    """
    check_whole_numbers(data, data.dtype, trained=True)
    return in_units(data, _units(facts), fill=fill)


def restored(x: Tensor, facts: DataFacts) -> Tensor:
    """Values of x that a run computed, in the user's units: float64 where there is an origin, as they are otherwise.

    Args:
        x: data, draws or means, shape (\\*, \\*event).
        facts: of the data that the run was trained on.
    """
    origin = _units(facts).origin
    return x if origin is None else x.double() + origin.to(x.device)


def standardised_context(context: Tensor, facts: DataFacts) -> Tensor:
    """Covariates in the user's units, shape (\\*, context_dim), as the model gets them."""
    return _units(facts).scaled(context)


def _units(facts: DataFacts) -> Units:
    origin = None
    if facts.origin is not None:
        origin = torch.tensor(facts.origin, dtype=torch.float64).reshape(facts.event_shape)
    if facts.context_units is None:
        return Units(origin)
    shift, scale = (torch.tensor(part, dtype=torch.float64) for part in facts.context_units)
    return Units(origin, (shift, scale))
