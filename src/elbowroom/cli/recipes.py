"""``elbowroom recipes list`` and ``show``: configurations that come with the package."""

from __future__ import annotations

import re

from elbowroom.cli.options import Json
from elbowroom.cli.speech import print_json, say
from elbowroom.running.config import recipe_names, recipe_text

__all__ = ["recipes_list", "recipes_show"]


def recipes_list(*, as_json: Json = False) -> None:
    """The recipes, with the first sentence of each."""
    from elbowroom.showing import terminal

    rows = [{"name": name, "description": _first_sentence(recipe_text(name))} for name in recipe_names()]
    if as_json:
        print_json({"recipes": rows})
    else:
        terminal.print_table(rows)


def _first_sentence(recipe: str) -> str:
    """Of the comment at the head of a recipe; the dot of "et al." ends none."""
    head = re.match(r"(?:#.*\n)*", recipe)
    text = " ".join(line.removeprefix("#").strip() for line in (head[0] if head else "").splitlines())
    return re.split(r"(?<!\bal)\.\s", text)[0].rstrip(".")


def recipes_show(name: str) -> None:
    """A recipe's TOML, ready to be copied and changed.

    Parameters
    ----------
    name
        The recipe.
    """
    say(recipe_text(name).rstrip())
