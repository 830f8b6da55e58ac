"""``elbowroom runs list`` and ``show``."""

from __future__ import annotations

from pathlib import Path

from elbowroom.cli.options import Json, RunPath
from elbowroom.cli.speech import print_json, remark, say
from elbowroom.errors import ElbowroomError

__all__ = ["runs_list", "runs_show"]


def runs_list(folder: Path = Path("runs"), *, as_json: Json = False) -> None:
    """List the runs in a folder.

    Parameters
    ----------
    folder
        The folder that holds the runs.
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
    """Show settings, progress and results of a run."""
    from elbowroom.running.folder import RunFolder
    from elbowroom.showing import terminal

    folder = RunFolder.open(run)
    content = {**folder.summary(), "evaluation": folder.evaluations(), **folder.read_config()}
    if as_json:
        print_json(content)
    else:
        terminal.print_run(content)
