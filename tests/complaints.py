"""What the tests of bad input share: a tiny run, a snapshot of a folder, and what a complaint must look like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from elbowroom.cli import main
from elbowroom.running.locks import LOCKS

TINY = {"--model.encoder.hidden": "4", "--model.decoder.hidden": "4", "--model.latent-dim": "2", "--train.epochs": "1"}

Answer = tuple[int, str, str]  # exit code, standard output, standard error
Ask = Callable[..., Answer]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file's content and every folder's existence; a lock is no content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name not in LOCKS:
            digest = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def assert_complains(answer: Answer, *words: str) -> None:
    """Exit code 2, and a problem and its remedy on standard error alone."""
    code, out, err = answer
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    message = err[err.index("elbowroom: ") :]
    problem, _, remedy = message.partition("\n  ")
    assert problem.rstrip().endswith("."), problem
    assert len(remedy.strip()) > 8, message
    for word in words:
        assert word in message, message


def tiny(*argv: str) -> list[str]:
    """The arguments, and those of a tiny model beside what they say themselves."""
    rest = [word for flag, value in TINY.items() if flag not in argv for word in (flag, value)]
    return [*argv, *rest]


def train_run(name: str, *argv: str) -> None:
    main(tiny("train", *argv, "--out", name, "--quiet"))


def tr(arguments: str) -> str:
    """The command line that trains a tiny model with these arguments."""
    return " ".join(tiny("train", *arguments.split(), "--out", "out"))
