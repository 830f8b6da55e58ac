"""A race: contenders that are processes of their own take turns, A B C A B C, and ratios are formed within a round.

A busy moment of the machine then falls on neighbours alike, and a ratio of two turns of one round says more than one of
two averages. One process computes at a time: the others wait in a read, and what processor time they take while they
wait is measured, for a thread pool that spins would take it from whoever works. All are bound to the same processors,
as many as there are threads, which is also what limits libraries (XLA for one) that have no setting for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Contender", "Result", "Spread", "limit_processors", "race", "ratios"]

ROOT = Path(__file__).resolve().parent.parent
_PAUSE = 0.3  # seconds between turns, in which thread pools that spin for a while come to rest
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True)
class Contender:
    """One that takes part.

    Attributes:
        name: for the report.
        module: that is run, ``python -m``.
        python: the interpreter of its environment.
        settings: handed over as JSON.
    """

    name: str
    module: str
    python: Path
    settings: Mapping[str, Any]


@dataclass
class Result:
    """What was measured of a contender, one entry for each round.

    Attributes:
        name: the contender's.
        seconds: wall time of a turn.
        found: what else it reported, by name.
        cores: processor time of a turn by its wall time; NaN where the system does not tell.
        idle: processor time by wall time between its turns.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    found: dict[str, list[float]] = field(default_factory=dict)
    cores: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """A figure of every round: median, least, greatest."""

    middle: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Mine by theirs, within each round."""
    return Spread.of([one / other for one, other in zip(mine, theirs, strict=True)])


def limit_processors(threads: int) -> None:
    """Binds this process, and all that it starts, to the first so many of its processors, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def race(contenders: Sequence[Contender], *, rounds: int, threads: int) -> list[Result]:
    """Starts all, one after another, and lets them take turns.

    Args:
        contenders: in the order of their turns.
        rounds: turns of each that count; what each does to warm up is its own.
        threads: told to all by the environment variables of OpenMP and MKL; see :func:`limit_processors`.
    Raises:
        SystemExit: one of them stopped; with the end of what it said.
    """
    with ExitStack() as stack:
        workers = []
        for contender in contenders:  # each prepares and warms up alone: pools of threads would wait for each other
            worker = stack.enter_context(_Worker(contender, threads))
            workers.append(worker)
            worker.read()
            worker.rest()
            print(f"  ready: {worker.result.name}", flush=True)
        for turn in range(rounds):
            for worker in workers:
                worker.take_turn()
            seconds = ", ".join(f"{worker.result.name} {worker.result.seconds[-1]:.2f}" for worker in workers)
            print(f"  round {turn + 1}, seconds: {seconds}", flush=True)
        return [worker.result for worker in workers]


class _Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.result = Result(contender.name)
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed on exit
        few = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [str(contender.python), "-m", contender.module, json.dumps(dict(contender.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
            env={**os.environ, **few, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        )
        self._rested = (time.perf_counter(), 0.0)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.stdin.close()  # it waits for a word and finds that there is none
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def read(self) -> dict[str, float]:
        """Its next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            raise SystemExit(f"{self.result.name} stopped:\n{self._said.read()[-4000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def rest(self) -> None:
        """Waits until its threads have come to rest, and notes when that was."""
        time.sleep(_PAUSE)
        self._rested = (time.perf_counter(), self._processor_seconds())

    def take_turn(self) -> None:
        """Lets it work, and enters what it reports."""
        assert self._process.stdin is not None
        since, spent = self._rested
        before = self._processor_seconds()
        self.result.idle.append((before - spent) / (time.perf_counter() - since))
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = self.read()
        seconds = answer.pop("seconds")
        self.result.seconds.append(seconds)
        self.result.cores.append((self._processor_seconds() - before) / seconds)
        for name, value in answer.items():
            self.result.found.setdefault(name, []).append(value)
        self.rest()

    def _processor_seconds(self) -> float:
        """Of all its threads so far, user and system; NaN where there is no /proc."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.is_file():
            return float("nan")
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
