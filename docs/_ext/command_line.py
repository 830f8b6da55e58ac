"""The reference of commands and recipes, written from the code when the site is built.

A page says where they belong, ``{elbowroom-commands}`` or ``{elbowroom-recipes}``; what stands there is what the parser
itself knows. cyclopts can write such a page too (`App.generate_docs`), but shows flags that elbowroom refuses, such as
``--no-json``: it does not hand the root's ``default_parameter`` down to the groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App
from cyclopts.argument import Argument
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from elbowroom.cli import app
from elbowroom.running.config import recipe_names, recipe_text

__all__ = ["commands_markdown", "recipes_markdown"]


def commands_markdown(root: App = app) -> str:
    """Every command with its arguments and flags, as Markdown with definition lists.

    A group stands under a heading of the second level, a command under one of the second or third.

    Args:
        root: an app whose commands may be apps themselves.
    """
    return "\n".join(_of_group(root, root.name[0]))


def recipes_markdown() -> str:
    """Every packaged recipe: its name, what it extends, and the comment at its head."""
    lines: list[str] = []
    for name in recipe_names():
        text = recipe_text(name)
        base = re.search(r'^extends = "(.*)"$', text, re.MULTILINE)
        extends = f", extends [`{base[1]}`](#recipe-{base[1]})" if base else ""
        lines += [f"(recipe-{name})=", "", f"`{name}`{extends}", f": {_comment(text)}", ""]
    return "\n".join(lines)


def _comment(recipe: str) -> str:
    """The comment at the head of a recipe; its line breaks mean nothing, and lines set in are code."""
    head = re.match(r"(?:#.*\n)*", recipe)
    lines = [line.removeprefix("# ") for line in (head[0] if head else "").splitlines()]
    text = " ".join(f"`{line.strip()}`" if line.startswith("  ") else line for line in lines)
    return _prose(text.replace(" \\` `", " "))  # a command that goes on


# --- commands ----------------------------------------------------------------------------------------------------


def _of_group(group: App, path: str, level: int = 2) -> Iterator[str]:
    for name in sorted(_commands_of(group), key=lambda name: bool(_commands_of(group[name]))):  # groups last
        command, full = group[name], f"{path} {name}"
        yield from [f"{'#' * level} {full}", "", _prose(command.help), ""]
        yield from _of_group(command, full, level + 1) if _commands_of(command) else _of_command(command, full)


def _commands_of(group: App) -> list[str]:
    """Their names; --help and --version are commands to the parser."""
    return [name for name in group if not name.startswith("-")]


def _of_command(command: App, path: str) -> Iterator[str]:
    found = command.assemble_argument_collection(default_parameter=app.default_parameter, parse_docstring=True)
    given = [argument for argument in found if argument.parse and argument.show]
    places = [argument for argument in given if argument.index is not None]
    flags = [argument for argument in given if argument.index is None]
    usage = [path, *map(_place, places), *(["[--flag …]"] if flags else [])]
    yield from ["```text", " ".join(usage), "```", ""]
    heading = ""
    for argument in (*places, *flags):
        section = argument.parameter.group[0] if argument.parameter.group else None  # type: ignore[index]
        if argument.index is None and section is not None and section.name not in ("Parameters", heading):
            heading = section.name
            yield from [f"**{heading}.** {_prose(section.help)}".strip(), ""]
        yield from _of_argument(argument)


def _place(argument: Argument) -> str:
    name = argument.name.lstrip("-").upper()
    name = f"{name} …" if argument.is_var_positional() else name
    return name if argument.field_info.required and not argument.is_var_positional() else f"[{name}]"


def _of_argument(argument: Argument) -> Iterator[str]:
    names = [name for name in argument.names if name not in argument.negatives]
    shown = argument.name.lstrip("-").upper() if argument.index is not None else ", ".join(names)
    kinds = "" if argument.index is not None or argument.is_flag() else f" *{_kind(argument.hint)}*"
    yield f"`{shown}`{kinds}{_default(argument)}"
    yield from [f": {_prose(argument.parameter.help or '')}", ""]


def _default(argument: Argument) -> str:
    if argument.is_var_positional() or argument.is_flag():
        return ""
    if argument.field_info.required:
        return ", required"
    value = argument.field_info.default
    if value is None:
        return ""
    return f", default `{' '.join(map(str, value)) if isinstance(value, tuple | list) else value}`"


def _kind(hint: Any) -> str:
    """What may be given, in words; the alternatives of a choice themselves."""
    plain: dict[Any, str] = {int: "whole number", float: "number", str: "text", Path: "path", bool: "yes or no"}
    origin, inner = get_origin(hint), get_args(hint)
    if hint in plain or hint is PosixPath:
        return plain.get(hint, "path")
    if origin is Literal:
        return " | ".join(map(str, inner))
    if hasattr(hint, "__metadata__"):
        return _kind(inner[0])
    if origin in (tuple, list):
        kinds = dict.fromkeys(_kind(one) for one in inner if one is not Ellipsis)
        return f"{' and '.join(kinds)} …"
    alternatives = [_kind(one) for one in inner if one is not type(None)]
    if origin is not Union and not alternatives:
        raise TypeError(f"No words for the type {hint}.")
    return " | ".join(alternatives)


def _prose(text: str) -> str:
    """One line of Markdown: bars, stars and underscores outside of backquotes are no markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]$#])", r"\\\1", part) for part in parts)


# --- Sphinx ------------------------------------------------------------------------------------------------------


class _Commands(SphinxDirective):
    """``{elbowroom-commands}``"""

    def run(self) -> list[nodes.Node]:
        return self._parsed(commands_markdown())

    def _parsed(self, markdown: str) -> list[nodes.Node]:
        source, _ = self.get_source_info()
        holder = nodes.Element()
        self.state.nested_parse(StringList(markdown.splitlines(), source), 0, holder, match_titles=True)
        return list(holder.children)


class _Recipes(_Commands):
    """``{elbowroom-recipes}``"""

    def run(self) -> list[nodes.Node]:
        return self._parsed(recipes_markdown())


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the two directives."""
    app.add_directive("elbowroom-commands", _Commands)
    app.add_directive("elbowroom-recipes", _Recipes)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
