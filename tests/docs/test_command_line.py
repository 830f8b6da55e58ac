"""The reference of the command line holds every command, flag, choice and default; that of recipes all of them.

The page is written by walking the parser. Here the functions' signatures and the configuration's fields are walked, so
that the parser may err without the test erring with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
from cyclopts import Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from elbowroom.cli import _COMMANDS, app
from elbowroom.cli import sample as sample_command
from elbowroom.running.config import DataConfig, recipe_names, recipe_text

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("command_line", DOCS / "_ext" / "command_line.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(reference: ModuleType) -> str:
    made: str = reference.commands_markdown()
    return made


# --- what is accepted, from the functions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """An argument or a flag of a command."""

    command: str
    name: str
    help: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()


def accepted() -> Iterator[Accepted]:
    for group, name, place, _ in _COMMANDS:
        module, function = place.split(":")
        called = getattr(importlib.import_module(f"elbowroom.cli.{module}"), function)
        command = " ".join(["elbowroom", *([] if group is app else [group.name[0]]), name])
        hints = typing.get_type_hints(called, vars(importlib.import_module(called.__module__)), include_extras=True)
        for parameter in inspect.signature(called).parameters.values():
            yield from _of_parameter(command, parameter, hints[parameter.name])


def _of_parameter(command: str, parameter: inspect.Parameter, hint: Any) -> Iterator[Accepted]:
    named = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Parameter)]
    kind = hint.__origin__ if named else hint
    flag = f"--{parameter.name.replace('_', '-')}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        flat = any("*" in (extra.name or ()) for extra in named)  # its flags have no prefix
        yield from _of_fields(command, "--" if flat else f"{flag}.", kind)
        return
    default = None if parameter.default is parameter.empty or parameter.default is False else parameter.default
    if parameter.kind is not parameter.KEYWORD_ONLY:
        yield Accepted(command, parameter.name.upper(), default=default)
    else:
        own = [name for extra in named for name in extra.name or ()]
        yield Accepted(command, own[0] if own else flag, default=default, choices=tuple(_choices(kind)))


def _of_fields(command: str, prefix: str, section: type[BaseModel]) -> Iterator[Accepted]:
    for name, field in section.model_fields.items():
        flag, kind = f"{prefix}{name.replace('_', '-')}", field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _of_fields(command, f"{flag}.", kind)
        else:
            default = None if field.default is False else field.default
            yield Accepted(command, flag, field.description or "", default, tuple(_choices(kind)))


def _choices(hint: Any) -> Iterator[str]:
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    else:
        for part in get_args(hint):
            yield from _choices(part)


# --- what the page says ------------------------------------------------------------------------------------------


def entries(text: str) -> dict[tuple[str, str], tuple[str, str]]:
    """(command, name) -> what stands behind the name, and below it, without backslashes."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    command = ""
    lines = text.replace("\\", "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if heading := re.fullmatch(r"#+ (elbowroom .*)", line):
            command = heading[1]
        elif (term := re.match(r"`([^`]+)`(.*)", line)) and below.startswith(": "):
            found[command, term[1]] = term[2], below[2:]
    return found


def lacking(text: str) -> list[str]:
    """Whatever is accepted and does not stand in the text with its choices, its default and what it means."""
    written, faults = entries(text), []
    for one in accepted():
        behind, below = written.get((one.command, one.name), (None, ""))
        if behind is None:
            faults.append(f"{one.command} {one.name}")
            continue
        values = one.default if isinstance(one.default, tuple) else () if one.default is None else (one.default,)
        shown = " ".join(map(str, values))
        faults += [f"{one.command} {one.name}: {choice}" for choice in one.choices if choice not in behind]
        if shown and f"default `{shown}`" not in behind:
            faults.append(f"{one.command} {one.name}: default {shown}")
        if not below or " ".join(one.help.split()) not in below:
            faults.append(f"{one.command} {one.name}: what it means")
    return faults


# --- tests -------------------------------------------------------------------------------------------------------


def test_everything_that_is_accepted_is_described(text: str) -> None:
    assert len(list(accepted())) > 150
    assert lacking(text) == []


def test_nothing_else_is_described(text: str) -> None:
    assert set(entries(text)) == {(one.command, one.name) for one in accepted()}


def test_every_command_has_a_heading_its_sentence_and_its_usage(text: str) -> None:
    for group, name, _, sentence in _COMMANDS:
        command = " ".join(["elbowroom", *([] if group is app else [group.name[0]]), name])
        section = re.split(rf"^#+ {command}$", text, flags=re.MULTILINE)[1].replace("\\", "")
        assert section.strip().startswith(f"{sentence}\n\n```text\n{command}")


def test_planted_flags_are_missed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(run: Path, *, num: int = 24, tint: str | None = None) -> None: ...

    monkeypatch.setattr(sample_command, "sample", sample)
    monkeypatch.setitem(DataConfig.model_fields, "colour", FieldInfo(annotation=str, default="red"))
    monkeypatch.setitem(
        DataConfig.model_fields,
        "missing",
        FieldInfo(annotation=Literal["error", "guess"], default="guess", description="What NaN means:"),
    )
    expected = {"--data.colour", "--data.missing: guess", "--data.missing: default guess"}
    assert set(lacking(text)) == {
        "elbowroom sample --tint",
        "elbowroom sample --num: default 24",
        *(f"elbowroom {command} {flag}" for command in ("train", "data show") for flag in expected),
    }


def test_every_recipe_is_described(reference: ModuleType) -> None:
    text = reference.recipes_markdown().replace("\\", "")
    for name in recipe_names():
        recipe = recipe_text(name)
        term, meaning = re.findall(rf"^`{name}`(.*)\n: (.*)$", text, re.MULTILINE)[0]
        assert term == (
            f", extends [`{base}`](#recipe-{base})" if (base := tomllib.loads(recipe).get("extends")) else ""
        )
        comment = recipe.split("\n\n")[0]
        words = (
            " ".join(line.removeprefix("#") for line in comment.splitlines())
            .replace("`", "")
            .replace(" \\", "")
            .split()
        )
        assert meaning.replace("`", "").split() == words


@pytest.mark.parametrize("page, directive", [("command-line", "commands"), ("recipes", "recipes")])
def test_the_pages_ask_for_it(page: str, directive: str) -> None:
    assert f"```{{elbowroom-{directive}}}\n```" in (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8")
