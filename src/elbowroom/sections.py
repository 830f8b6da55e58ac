"""Settings that are defined once: API keyword, command-line flag, recipe key, help text and default.

A :class:`Section` is a pydantic model. A sentence below a field is what ``--help`` and the reference say of it, its
default stands nowhere else, and whatever pydantic refuses is told by :func:`explain`, all faults in one message.
Nothing heavier than pydantic is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = ["Section", "explain"]


class Section(BaseModel):
    """Keys that belong together; frozen, and no key that is not among them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def explain(
    error: ValidationError, kind: type[Section], *, command: str, source: str | None = None, section: str = ""
) -> ElbowroomError:
    """All of pydantic's faults in one message: what was given, what was expected, the nearest key that exists.

    Args:
        error: of ``kind``.
        kind: the section that was not to be made.
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
    """Pydantic's place of a fault as the key it belongs to, and what lies inside the key's value."""
    for depth, part in enumerate(where):
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            return tuple(str(name) for name in where[:depth]), where[depth:]
        kind = kind.model_fields[str(part)].annotation if part in kind.model_fields else None
    return tuple(str(name) for name in where), ()


def _explain(
    kind: Any, key: tuple[str, ...], name: str, faults: list[dict[str, Any]], *, as_flag: bool
) -> tuple[str, str | None]:
    """Pydantic's faults with one key as problem and remedy; None where the help is the remedy."""
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
    # all that stands on a command line is text, so quotation marks would say nothing
    given = str(first["input"]) if as_flag else repr(first["input"])
    return f"{name} is {given}, but should be {expected}.", near if near.startswith("Did") else None


def _expected(fault: Mapping[str, Any]) -> str:
    numbers = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    if (kind := str(fault["type"]).split("_")[0]) in numbers:
        return numbers[kind]
    text: str = fault["msg"]
    return text.removeprefix("Input should be ").removeprefix("Value error, ")
