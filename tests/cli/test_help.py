"""What --help says: every command, every key of the configuration, with the words of the code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import re
from collections.abc import Callable, Iterator

import pytest
from pydantic import BaseModel

from elbowroom import __version__
from elbowroom.cli import _COMMANDS, app, main
from elbowroom.evaluation.settings import DRAWS, POINTS, Settings
from elbowroom.running.config import Config

Say = Callable[..., tuple[str, str]]  # arguments -> standard output, standard error


def flags(section: type[BaseModel], prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Every flag of the configuration and what it is for."""
    for name, field in section.model_fields.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flags(field.annotation, f"{flag}.")
        else:
            yield flag, field.description or ""


FLAGS = [
    (command, *flag) for command, section in (("train", Config), ("evaluate", Settings)) for flag in flags(section)
]


@functools.cache
def told(*command: str) -> str:
    """What --help says, which takes up to a second to write."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*command, "--help"])
    return text.getvalue()


@functools.cache
def helped(command: str) -> str:
    """The help of a command, joined to one line, without the frames."""
    return " ".join(told(command).replace("│", " ").split())


@pytest.mark.parametrize(("command", "flag", "description"), FLAGS, ids=[" ".join(flag[:2]) for flag in FLAGS])
def test_help_describes_every_key(command: str, flag: str, description: str) -> None:
    # a long one is broken after its section, and goes on beside the second line of its description
    assert f" {flag} " in helped(command) or f" .{flag.partition('.')[2]} " in helped(command)
    assert description
    words = description.split()[:3]  # a long flag lets the first words stand beside its own second line
    assert all(word in helped(command) for word in words)


def test_commands_about_a_run_take_a_checkpoint_and_compare_says_why_it_does_not() -> None:
    for command in ("evaluate", "doctor", "report", "score", "sample", "reconstruct", "encode", "impute"):
        assert " --checkpoint " in told(command), command
    text = helped("compare")
    assert "measured with its weights at that moment, so there is no --checkpoint to choose" in text


def test_help_of_evaluate_names_every_number_that_a_method_takes_by_itself() -> None:
    for field, usual in (("points", POINTS), ("k", DRAWS)):
        text = " ".join(str(Settings.model_fields[field].description).split())
        _, *pieces = re.split(r"(\d[\d,]*) for ", text)
        told = {
            method: number
            for number, part in zip(pieces[::2], pieces[1::2], strict=True)
            for method in re.findall(r"[a-z]+(?:-[a-z]+)?", part)
        }
        assert all(told[method] == f"{number:,}" for method, number in usual.items()), text


@pytest.mark.parametrize("heading", ["Data", "Model", "Objective", "Optimizer", "Training", "Machine"])
def test_train_help_has_a_heading_for_every_section(heading: str) -> None:
    assert f"╭─ {heading} ─" in helped("train")


COMMANDS = [(" ".join(filter(None, [group.name[0] if group is not app else "", name])), where, sentence)
            for group, name, where, sentence in _COMMANDS]  # fmt: skip


@pytest.mark.parametrize(("command", "where", "sentence"), COMMANDS, ids=[command for command, *_ in COMMANDS])
def test_a_command_has_a_help_text(command: str, where: str, sentence: str) -> None:
    module, _, function = where.partition(":")
    target = getattr(importlib.import_module(f"elbowroom.cli.{module}"), function)
    assert inspect.getdoc(target).splitlines()[0] == sentence  # type: ignore[union-attr]
    out = told(*command.split())
    assert f"Usage: elbowroom {command}" in out
    assert sentence.split(",")[0] in " ".join(out.split())
    sections = {*Config.model_fields, "settings"}  # their flags have a test of their own
    parameters = [name for name in inspect.signature(target).parameters if name not in sections]
    for name in parameters:
        shown = {"as_json": "--json"}.get(name, name.replace("_", "-"))
        assert shown.lower() in out.lower()


def test_the_root_lists_every_command(say: Say) -> None:
    out, _ = say("--help")
    assert all(f"│ {name} " in out for name in {command.split()[0] for command, *_ in COMMANDS})
    assert say()[0] == out


def test_version(say: Say) -> None:
    assert say("--version")[0].strip() == __version__
