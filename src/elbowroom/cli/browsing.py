"""``elbowroom data``, ``elbowroom recipes`` and ``elbowroom runs``: what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Json, RunPath
from elbowroom.cli.speech import print_json, remark, say, wrote
from elbowroom.cli.writing import checked_target
from elbowroom.errors import ElbowroomError
from elbowroom.running.config import DataConfig, recipe_names, recipe_text

__all__ = ["data_fetch", "data_list", "data_show", "recipes_list", "recipes_show", "runs_list", "runs_show"]


# --- data --------------------------------------------------------------------------------------------------------


def data_list(*, as_json: Json = False) -> None:
    """The built-in data sets, and where each would be taken from."""
    from elbowroom.data.sources import available
    from elbowroom.showing import terminal

    rows = [{"name": one.name, "description": one.description, "where": one.where} for one in available()]
    if as_json:
        print_json({"data": rows})
    else:
        terminal.print_table(rows)


def data_show(
    source: str,
    *,
    out: Path | None = None,
    data: Annotated[DataConfig, Parameter(group="Data")] = DataConfig(),  # noqa: B008
    as_json: Json = False,
) -> None:
    """Shape, support and splits of a data set, and a picture of its first data.

    Parameters
    ----------
    source
        A built-in name or a path.
    out
        The picture; NAME.png in this folder unless given.
    """
    from elbowroom.data.dataset import DataSet
    from elbowroom.running.build import load_configured
    from elbowroom.showing import data as showing
    from elbowroom.showing import terminal
    from elbowroom.showing.style import write

    target = checked_target(out or Path(f"{Path(source).stem}.png"))
    loaded = load_configured(data.model_copy(update={"name": source}))
    assert isinstance(loaded, DataSet)  # only Python can give a stream
    described = showing.describe(loaded)
    path = write(showing.picture(loaded), target)
    if as_json:
        print_json(described | {"picture": str(path)})
    else:
        terminal.print_facts(described)
        wrote(path)


def data_fetch(*names: str) -> None:
    """Fetch built-in data sets and check their digests.

    Parameters
    ----------
    names
        Their names.
    """
    from elbowroom.data.sources import fetch

    if not names:
        raise ElbowroomError("No data set was named.", "`elbowroom data list` names them.")
    for name in names:
        paths = fetch(name, announce=remark)
        say(f"{name}: {'built in' if not paths else f'{paths[0].parent}, digests right'}")


# --- recipes -----------------------------------------------------------------------------------------------------


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


# --- runs --------------------------------------------------------------------------------------------------------


def runs_list(folder: Path = Path("runs"), *, as_json: Json = False) -> None:
    """The runs in a folder.

    Parameters
    ----------
    folder
        Where to look.
    """
    from elbowroom.running.folder import runs_in
    from elbowroom.showing import terminal

    rows = []
    for run in runs_in(folder):
        try:
            rows.append(run.summary())
        except ElbowroomError as error:  # one damaged run hides no other
            remark(error.problem)
    if as_json:
        print_json({"runs": rows})
    elif rows:
        terminal.print_table(rows)
    else:
        say(f"no runs in {folder}")


def runs_show(run: RunPath, *, as_json: Json = False) -> None:
    """A run's settings, progress and results."""
    from elbowroom.running.folder import RunFolder
    from elbowroom.showing import terminal

    folder = RunFolder.open(run)
    content = {**folder.summary(), "evaluation": folder.evaluations(), **folder.read_config()}
    if as_json:
        print_json(content)
    else:
        terminal.print_run(content)
