"""``elbowroom data list``, ``show`` and ``fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Json
from elbowroom.cli.speech import print_json, remark, say, wrote
from elbowroom.cli.writing import checked_target
from elbowroom.errors import ElbowroomError
from elbowroom.running.config import DataConfig

__all__ = ["data_fetch", "data_list", "data_show"]


def data_list(*, as_json: Json = False) -> None:
    """List the built-in data sets, and where each is found or downloaded from."""
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
    """Show shape, support and splits of a data set, and a picture of its first examples.

    Of a table whose columns are of several kinds, each column is listed: its kind, how many different and missing
    values it has, its range or levels, and whether it has a probability or a density. --data.columns changes kinds.

    Parameters
    ----------
    source
        Name of a built-in data set, or a path.
    out
        The picture (default: NAME.png in the current folder).
    """
    from elbowroom.data.dataset import DataSet
    from elbowroom.running.build import load_configured
    from elbowroom.showing import terminal
    from elbowroom.showing.figures import dataset as showing
    from elbowroom.showing.figures.style import write

    target = checked_target(out or Path(f"{Path(source).stem}.png"))
    loaded = load_configured(data.model_copy(update={"name": source}), announce=remark)
    assert isinstance(loaded, DataSet)  # only Python can give a stream
    described = showing.describe(loaded)
    path = write(showing.picture(loaded), target)
    if as_json:
        print_json(described | {"picture": str(path)})
    else:
        columns = described.pop("columns") if loaded.kinds is not None else None
        terminal.print_facts({fact: value for fact, value in described.items() if fact != "remarks"})
        if columns is not None:
            terminal.print_table(columns)
        wrote(path)


def data_fetch(*names: str) -> None:
    """Download built-in data sets and verify their checksums.

    Parameters
    ----------
    names
        Names of data sets (`elbowroom data list`).
    """
    from elbowroom.data.sources import fetch

    if not names:
        raise ElbowroomError("No data set was named.", "`elbowroom data list` names them.")
    for name in names:
        paths = fetch(name, announce=remark)
        say(f"{name}: {'built in' if not paths else f'{paths[0].parent}, checksums match'}")
