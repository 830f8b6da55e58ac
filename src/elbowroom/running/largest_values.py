"""How large the values of a bounded likelihood can be: as the settings say, or as large as the data are.

A binomial likelihood has N trials and an ordinal one K levels. Unless they are given, they follow from the largest
value of *all* rows, not of the training rows alone, as the number of categories does: it is a fact about the data that
is known beforehand, and a held-out count beyond it would have a log p(x) of minus infinity. The user is told which
number was taken.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeVar

from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Likelihood
from elbowroom.phrasing import with_article
from elbowroom.running.model_config import ModelConfig

__all__ = ["assumed", "known_highest", "largest", "limited", "within_model", "within_setting"]

_Data = TypeVar("_Data", bound=DataSet | StreamSet)


class _Setting(NamedTuple):
    """The setting of a likelihood that says how large values can be."""

    key: str
    flag: str
    offset: int  #: from the largest value to the setting


_SETTINGS = {
    "binomial": _Setting("trials", "--model.trials", 0),
    "ordinal": _Setting("levels", "--model.levels", 1),
}


def known_highest(data: DataSet | StreamSet) -> int | None:
    """The largest count of the data; None unless all rows have been seen, and hold counts."""
    return data.highest if isinstance(data, DataSet) and data.storage.surveyed_whole else None


def within_setting(data: _Data, model: ModelConfig, likelihood: str) -> _Data:
    """The data, of which no value is larger than the settings of a likelihood allow.

    Args:
        data: with the support that the likelihood needs.
        model: the settings.
        likelihood: its name.
    Raises:
        ElbowroomError: a larger value was found; or the setting was not given, and not all rows are known.
    """
    if likelihood not in _SETTINGS:
        return data
    key, flag, offset = _SETTINGS[likelihood]
    needed_by = with_article(f"{likelihood} likelihood")
    given: int | None = getattr(model, key)
    if given is None and known_highest(data) is None:
        raise ElbowroomError(
            f"Not all values of {data.name} are known before training, but {needed_by} has to know the "
            "largest that is possible.",
            f"Give {flag}.",
        )
    if given is None:
        return data
    remedy = f"Give {flag} {(data.highest or 0) + offset}, or leave out the rows with larger ones."
    return limited(data, given - offset, f"{needed_by} of {given:,} {key}", remedy)


def limited(data: _Data, highest: int | None, needed_by: str, remedy: str) -> _Data:
    """The data, of which no value is larger than a likelihood takes; rows that are fetched later are compared too.

    Args:
        data: with the support that the likelihood needs.
        highest: the largest value that it takes; None where there is no end.
        needed_by: who takes no more, for the message.
        remedy: for the message.
    Raises:
        ElbowroomError: a larger value was found.
    """
    if highest is None:
        return data
    if data.highest is not None and data.highest > highest:
        raise ElbowroomError(
            f"The values of {data.name} go up to {data.highest:,}, but {needed_by} takes 0..{highest:,}.", remedy
        )
    return replace(data, view=replace(data.view, highest=highest))


def within_model(data: DataSet, likelihood: Likelihood) -> DataSet:
    """Data for a trained model, of which no value is larger than its likelihood takes.

    Args:
        data: with the support that the likelihood needs.
        likelihood: of the model.
    Raises:
        ElbowroomError: a larger value was found.
    """
    named = likelihood.name
    anew = f", or train anew with a larger {_SETTINGS[named].flag}" if named in _SETTINGS else ""
    remedy = f"Leave out the rows that hold larger ones{anew}."
    return limited(data, likelihood.elementwise.highest, f"the {named} likelihood of this model", remedy)


def largest(model: ModelConfig, likelihood: str, highest: int | None) -> dict[str, int]:
    """The setting of a likelihood that says how large values can be; none for a likelihood without an end.

    Args:
        model: the settings.
        likelihood: its name.
        highest: the largest value of the data, where the setting was not given.
    """
    if likelihood not in _SETTINGS:
        return {}
    key, _, offset = _SETTINGS[likelihood]
    given: int | None = getattr(model, key)
    if given is None:
        assert highest is not None, "within_setting asks for the setting where it is not known"
        given = highest + offset
    return {key: given}


def assumed(
    model: ModelConfig, likelihood: str, name: str, *, highest: int | None, grey_steps: int | None
) -> list[str]:
    """What was concluded from the data, in sentences for the user.

    Args:
        model: the settings.
        likelihood: its name.
        name: of the data.
        highest: the largest value.
        grey_steps: in how many steps stored numbers go from 0 to 1, where these are counted.
    """
    said = []
    if grey_steps is not None:
        said.append(f"{name}: the values are multiples of 1/{grey_steps} and are taken as counts 0..{grey_steps}")
    if likelihood in _SETTINGS and getattr(model, _SETTINGS[likelihood].key) is None:
        key, flag, _ = _SETTINGS[likelihood]
        value = largest(model, likelihood, highest)[key]
        noun = key if value > 1 else key.removesuffix("s")
        said.append(
            f"{name}: the largest value is {highest:,}, so the {likelihood} likelihood has {value:,} {noun}; if larger "
            f"values are possible, give {flag}"
        )
    return said
