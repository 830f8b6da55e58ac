"""A contender's side of a race: prepare, say so, then work when told to and report, one turn after another.

A contender is a process of its own, so that no library's threads, caches or settings are another's. It reads "go" on
its standard input, works, and answers with one line of JSON on its standard output; in between it waits in a read and
does nothing. This file needs NumPy alone: contenders that know nothing of elbowroom import it too.

python -m bench.rivals.SOMETHING '{"folder": …}', by :mod:`bench.turns`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["Line", "fastest", "serve", "serve_epochs", "settings"]


def settings() -> dict[str, Any]:
    """What the parent asks for: the one argument of the command, JSON."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    return asked


class Line:
    """The line to the parent.

    Whatever the contender's libraries print goes to standard error: standard output is the line's alone.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._since = time.perf_counter()

    def wait(self) -> None:
        """Returns when it is this contender's turn, with the clock started.

        Raises:
            SystemExit: there is no further turn.
        """
        if sys.stdin.readline().strip() != "go":
            raise SystemExit(0)
        self._since = time.perf_counter()

    def answer(self, **found: float) -> None:
        """Stops the clock and reports."""
        seconds = time.perf_counter() - self._since
        self._out.write(json.dumps({"seconds": seconds, **found}) + "\n")
        self._out.flush()


def serve(turn: Callable[[], Mapping[str, float]]) -> None:
    """A contender that is a function: one turn to warm up, then one whenever it is told to.

    Args:
        turn: works and returns what it found, numbers by name.
    """
    line = Line()
    turn()
    line.answer()  # the first answer says that all is prepared; its seconds are those of preparing
    while True:
        line.wait()
        line.answer(**turn())


def fastest(work: Callable[[int], object], choices: Iterable[int]) -> int:
    """The number with which the work is done soonest, each tried once to warm up and twice by the clock."""

    def seconds(number: int) -> float:
        begin = time.perf_counter()
        work(number)
        return time.perf_counter() - begin

    found = {number: [seconds(number) for _ in range(3)] for number in choices}
    return min(found, key=lambda number: min(found[number][1:]))


def serve_epochs(make: Callable[..., Callable[[], float]]) -> None:
    """A contender of the race of training.

    Args:
        make: from images (uint8, shape (n, 28, 28)) and, by keyword, batch_size, hidden, latent_dim, lr and seed, a
            function that trains for one more epoch and returns its mean loss, nats per example.
    """
    asked = settings()
    wanted = {name: asked[name] for name in ("batch_size", "hidden", "latent_dim", "lr", "seed")}
    epoch = make(np.load(asked["images"]), **wanted)
    serve(lambda: {"loss": epoch()})
