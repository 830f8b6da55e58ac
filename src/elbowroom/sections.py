"""Settings, each defined once for API keyword, command-line flag, recipe key, help text and default.

A :class:`Section` is a pydantic model. The sentence below a field is its text in ``--help`` and in the reference, and
its default is written nowhere else. :func:`explain` turns pydantic's errors into one message. This module imports
nothing larger than pydantic, so that ``--help`` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["Section", "explain"]


class Section(BaseModel):
    """A group of settings: a frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def explain(
    error: ValidationError, kind: type[Section], *, command: str, source: str | None = None, section: str = ""
) -> ElbowroomError:
    """All errors that pydantic found, in one message: what was given, what was expected, the nearest key that exists.

    Args:
        error: of ``kind``.
        kind: the section that could not be made.
        command: of elbowroom, whose ``--help`` describes the keys.
        source: what to call the keys' origin; None if they came as flags.
        section: where ``kind`` stands in a larger one, with dots; "" if it stands alone.
    Example:
        >>> class Sampler(Section):
        ...     chains: int = 1
        >>> try:
        ...     Sampler(chians=3)
        ... except ValidationError as error:
        ...     print(explain(error, Sampler, command="train", source="mine.toml"))
        mine.toml: there is no key 'chians'.
          Did you mean 'chains'?
    """
    faults: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for fault in error.errors(include_url=False):
        key, rest = _key_of(kind, fault["loc"])
        faults.setdefault(key, []).append({**fault, "rest": rest})
    prefix, problems, remedies, undescribed = tuple(filter(None, section.split("."))), [], [], []
    for key, about in faults.items():
        flag = f"--{'.'.join((*prefix, *key)).replace('_', '-')}"
        name = flag if source is None else ".".join((*prefix, *key))
        problem, remedy = _explain(kind, key, name, about, as_flag=source is None)
        problems.append(problem)
        if remedy is None:
            undescribed.append(flag)
        else:
            remedies.append(remedy)
    if undescribed:
        remedies.append(f"`elbowroom {command} --help` describes {' and '.join(undescribed)}.")
    problem = " ".join(problems)
    return ElbowroomError(problem if source is None else f"{source}: {problem}", " ".join(dict.fromkeys(remedies)))


def _key_of(kind: Any, where: tuple[int | str, ...]) -> tuple[tuple[str, ...], tuple[int | str, ...]]:
    """The key that an error belongs to, and the place inside the key's value, from pydantic's location."""
    for depth, part in enumerate(where):
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            return tuple(str(name) for name in where[:depth]), where[depth:]
        kind = kind.model_fields[str(part)].annotation if part in kind.model_fields else None
    return tuple(str(name) for name in where), ()


def _explain(
    kind: Any, key: tuple[str, ...], name: str, faults: list[dict[str, Any]], *, as_flag: bool
) -> tuple[str, str | None]:
    """Problem and remedy for pydantic's errors with one key; a remedy of None refers to the help."""
    first = faults[0]
    if first["type"] == "extra_forbidden":
        for part in key[:-1]:
            kind = kind.model_fields[part].annotation
        of_sections = any(isinstance(field.annotation, type) and issubclass(field.annotation, Section)
                          for field in kind.model_fields.values())  # fmt: skip
        what = "section" if of_sections and isinstance(first["input"], Mapping) else "key"
        return f"there is no {what} '{name}'.", did_you_mean(key[-1], kind.model_fields)
    if first["type"] == "model_type":
        return f"{name} is {first['input']!r}, but it is a section of keys.", f"Write [{name}] and its keys below."
    expected = " or ".join(dict.fromkeys(_expected(fault) for fault in faults))
    near = did_you_mean(str(first["input"]), re.findall(r"'([^']+)'", expected))
    # everything on a command line is text, so quotation marks would add nothing
    given = str(first["input"]) if as_flag else repr(first["input"])
    return f"{name} is {given}, but should be {expected}.", near if near.startswith("Did") else None


def _expected(fault: Mapping[str, Any]) -> str:
    numbers = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    if (kind := str(fault["type"]).split("_")[0]) in numbers:
        return numbers[kind]
    text: str = fault["msg"]
    return text.removeprefix("Input should be ").removeprefix("Value error, ")
