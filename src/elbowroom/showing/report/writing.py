"""``er.report``: writes the report of a run or of a comparison as an HTML file."""

from __future__ import annotations

import os
from pathlib import Path

from elbowroom.errors import ElbowroomError
from elbowroom.progress import Announce
from elbowroom.running.comparison import RECORD, Comparison
from elbowroom.running.runs import Run, as_run
from elbowroom.running.runtime import torch_settings
from elbowroom.showing.report.comparison import report_of_comparison
from elbowroom.showing.report.html import page
from elbowroom.showing.report.run import report_of_run

__all__ = ["FILE", "report"]

FILE = "report.html"


@torch_settings()
def report(
    run: Run | Comparison | str | Path,
    out: str | Path | None = None,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    announce: Announce = print,
) -> Path:
    """Writes the report of a run, or of a comparison, as one HTML file.

    The file needs no network and no script: pictures and style are inside. Nothing is measured for it: results come
    from evaluation.json and doctor.json, and what is missing is named with the command that measures it.
    Samples, reconstructions and the latent space are drawn, which takes seconds.

    Args:
        run: a run or a comparison, or the folder of one.
        out: the file; unless given report.html in that folder, or report-latest.html of the latest weights where others
            are the best.
        checkpoint: which weights of the run in a folder: "best" (the default) or "latest".
        device: where to compute; the run's own unless given.
        announce: called with a message when a damaged checkpoint was skipped.
    Returns:
        The path of the file, which appears whole or not at all.
    Raises:
        ElbowroomError: the folder holds neither; a file in it is damaged; the place cannot be written; a checkpoint or
            a device for a comparison.
    Example:
        >>> import elbowroom as er
        >>> run = er.train("digits", out="runs/digits")          # doctest: +SKIP
        >>> er.report(run)                                       # doctest: +SKIP
        PosixPath('runs/digits/report.html')
    """
    subject = run if isinstance(run, Comparison) else _read(run, checkpoint, device, announce)
    if isinstance(subject, Comparison):
        _refuse_choice(subject, checkpoint=checkpoint, device=device)
    folder = subject.folder if isinstance(subject, Comparison) else subject.folder.path
    name = FILE if isinstance(subject, Comparison) else subject.result_name(FILE)
    target = folder / name if out is None else _checked(Path(out))
    found = report_of_comparison(subject) if isinstance(subject, Comparison) else report_of_run(subject)
    _write(target, page(found))
    return target


def _read(run: Run | str | Path, checkpoint: str | None, device: str | None, announce: Announce) -> Run | Comparison:
    if not isinstance(run, Run) and _is_comparison(Path(run)):
        return _complete(Comparison.read(Path(run)))
    return as_run(run, checkpoint=checkpoint, device=device, announce=announce)


def _refuse_choice(comparison: Comparison, **given: str | None) -> None:
    """Refuse what is about the weights of a run: a comparison has a run for each recipe, and its report loads none."""
    for flag, value in given.items():
        if value is not None:
            raise ElbowroomError(
                f"--{flag} {value} was given, but {comparison.folder} holds a comparison, whose report loads no "
                "weights.",
                f"Leave it out, or name the run of one recipe, such as "
                f"{comparison.folder / next(iter(comparison.entrants))}.",
            )


def _is_comparison(folder: Path) -> bool:
    return (folder / RECORD).is_file() and not (folder / "config.json").is_file()


def _complete(comparison: Comparison) -> Comparison:
    """The comparison, if its record has every key that the report needs.

    Raises:
        ElbowroomError: it lacks a key.
    """
    wanted = {
        "yardstick": (comparison.yardstick, {"method", "k", "starts", "seed", "splits", "points", "protocol"}),
        "budget": (comparison.budget, {"of", "amount"}),
        "protocol": (comparison.yardstick.get("protocol", {}), {"dataset", "binarization", "seed"}),
    }
    for name, (given, keys) in wanted.items():
        if lacking := sorted(keys - given.keys()):
            raise ElbowroomError(
                f"{comparison.folder / RECORD} lacks {', '.join(lacking)} in its {name}.",
                "Restore the file, or compare anew with --overwrite.",
            )
    return comparison


def _checked(path: Path) -> Path:
    """The path, checked before anything is computed.

    Raises:
        ElbowroomError: it is a folder, or would lie in one that is not there.
    """
    if path.is_dir():
        raise ElbowroomError(f"{path} is a folder, but a file is to be written.", f"Name a file: {path / FILE}.")
    if not path.parent.is_dir():
        raise ElbowroomError(
            f"{path} cannot be written: there is no folder {path.parent}.", f"Make it: mkdir -p {path.parent}."
        )
    return path


def _write(path: Path, text: str) -> None:
    """Writes the file atomically: a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        try:
            # a file's name need not be Unicode; what has no character is a question mark
            with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ElbowroomError(
            f"The report cannot be written to {path}: {error.strerror or error}.",
            "Make room, or give the path of a file in a folder that you may write to (--out).",
        ) from error
