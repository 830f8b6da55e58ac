"""``elbowroom report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from elbowroom.cli.options import Device, Json, RunCheckpoint
from elbowroom.cli.speech import print_json, remark, wrote

__all__ = ["report"]


def report(
    run: Annotated[Path, Parameter(help="The folder of a run or of a comparison.")],
    *,
    out: Path | None = None,
    checkpoint: RunCheckpoint = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a report of a run, or of a comparison, as one HTML file that needs no network.

    Parameters
    ----------
    out
        The file (default: report.html in the folder, or report-latest.html with --checkpoint latest).
    """
    from elbowroom.showing.report import writing

    path = writing.report(run, out, checkpoint=checkpoint, device=device, announce=remark)
    if as_json:
        print_json({"run": str(run), "report": str(path), "bytes": path.stat().st_size})
    else:
        wrote(path)
