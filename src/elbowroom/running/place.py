"""Where a new run goes, and what becomes of a run that is there already."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple, get_args

from elbowroom.errors import ElbowroomError, check_name
from elbowroom.names import Exist
from elbowroom.progress import Announce
from elbowroom.running.folder import RunFolder, free_path

__all__ = ["Place", "choose_place"]


class Place(NamedTuple):
    """A run's folder, and how it is used."""

    folder: RunFolder
    resume: bool  #: go on with the run in it
    overwrite: bool  #: replace the run in it


def choose_place(
    name: str,
    out: str | Path | None,
    *,
    exist: str | None,
    resume: bool,
    overwrite: bool,
    from_python: bool,
    announce: Announce,
) -> Place:
    """The folder of a run.

    Args:
        name: of the run.
        out: the folder that was asked for; by default ``runs/NAME``.
        exist: what to do where there is a run: refuse it (error), replace it (overwrite), go on with it (resume), or
            take the next free name (new). By default error; new for data from Python that name no folder.
        resume: the same as ``exist="resume"``, but that there must be a run.
        overwrite: the same as ``exist="overwrite"``.
        from_python: whether the data come from Python.
        announce: called with the name of a folder that was not asked for.
    Raises:
        ElbowroomError: wishes that contradict each other.
    """
    if exist is not None:
        check_name("value of exist", exist, get_args(Exist))
    asked = {flag: wish for flag, on, wish in (("--resume", resume, "resume"), ("--overwrite", overwrite, "overwrite"))
             if on} | ({} if exist is None else {f"--exist {exist}": exist})  # fmt: skip
    if len(set(asked.values())) > 1:
        raise ElbowroomError(
            f"{' and '.join(asked)} contradict each other about a run that exists already.", "Give one of them."
        )
    if exist is None and not asked:
        exist = "new" if from_python and out is None else "error"
    folder = RunFolder(Path("runs") / name if out is None else out)
    if exist == "resume":
        resume = (folder.path / "config.json").is_file() and not folder.is_vacant()
    if exist == "new" and not folder.is_vacant():
        folder = RunFolder(free_path(folder.path))
    if exist == "new":
        announce(f"the run folder is {shlex.quote(str(folder.path))}")
    return Place(folder, resume, overwrite or exist == "overwrite")
