"""The arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from elbowroom.cli.speech import remark
from elbowroom.names import CheckpointName

if TYPE_CHECKING:
    from elbowroom.running.runs import Run

__all__ = ["Checkpoint", "Device", "Json", "RunCheckpoint", "RunPath", "Split", "load_run", "result_path"]

Split = Literal["train", "validation", "test"] | None
RunPath = Annotated[Path, Parameter(help="The run folder.")]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON object and nothing else on standard output.")]
_WEIGHTS = "Which weights: the latest that validation cannot tell from its peak (best), or those of the last step."
Checkpoint = Annotated[CheckpointName, Parameter(help=_WEIGHTS)]
RunCheckpoint = Annotated[CheckpointName | None, Parameter(help=f"{_WEIGHTS} A run's default is best.")]
Device = Annotated[str | None, Parameter(help="Where to compute: cpu, cuda, mps (default: the run's own setting).")]


def result_path(run: Path, name: str, checkpoint: str) -> Path:
    """Where a result is written unless the user names a file: NAME, or NAME-latest for the latest weights."""
    path = run / name
    return path if checkpoint == "best" else path.with_stem(f"{path.stem}-{checkpoint}")


def load_run(run: Path, device: str | None = None, checkpoint: str = "best") -> Run:
    """Loads the run in a folder; its remarks go to standard error."""
    from elbowroom.running.runs import load

    return load(run, checkpoint=checkpoint, device=device, announce=remark)
