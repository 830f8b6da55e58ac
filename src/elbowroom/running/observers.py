"""Observers of training: the terminal, TensorBoard, or any object with the same four methods."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from elbowroom.errors import ElbowroomError

__all__ = ["BOUNDS", "Observer", "Silent", "TensorBoard", "Terminal"]

Row = Mapping[str, Any]

#: the learners' objectives -> their names in the terminal; of several in one row the first is shown
BOUNDS = {
    "naive": "log mean over the prior",
    "laplace-is": "log p(x) by Laplace",
    "iwae": "IWAE",
    "elbo": "ELBO",
    "log_joint": "log p(x, z)",
    "log p(x)": "log p(x)",
}

_PLAIN_SECONDS = 2.0  # least seconds between two plain lines
_NOT_TERMS = {"step", "epoch", "seconds", "split", "visits", "decoder_gradients"}


class Observer(Protocol):
    """An object that is called at the start, after every step, at every report, and at the end."""

    def start(self, step: int, total: int | None) -> None: ...

    def step(self) -> None: ...

    def report(self, rows: Sequence[Row]) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """An observer that does nothing."""

    def start(self, step: int, total: int | None) -> None:
        pass

    def step(self) -> None:
        pass

    def report(self, rows: Sequence[Row]) -> None:
        pass

    def stop(self) -> None:
        pass


class Terminal:
    """A progress bar with the latest values; without a terminal plain lines, one for each report.

    Args:
        console: where to write; by default standard error.
        normalized: False where the objective is not a log-likelihood, which every line then says.
    """

    def __init__(self, console: Console | None = None, *, normalized: bool = True) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._normalized = normalized
        self._bar: Progress | None = None
        self._total: int | None = None
        self._printed = -math.inf  # time of the last plain line

    def start(self, step: int, total: int | None) -> None:
        self._total = total
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            refresh_per_second=4,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total, completed=step)

    def step(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def report(self, rows: Sequence[Row]) -> None:
        line = self._line(rows)
        if self._bar is not None:
            self._bar.update(self._task, description=line)
            return
        step, now = rows[-1]["step"], time.monotonic()
        if now - self._printed >= _PLAIN_SECONDS or step == self._total:
            self._printed = now
            of = "" if self._total is None else f"/{self._total:,}"
            self._console.print(f"step {step:,}{of} · {line}", soft_wrap=True)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, rows: Sequence[Row]) -> str:
        parts = [f"epoch {rows[-1]['epoch']:g}"]
        for row in rows:
            name = next(name for name in BOUNDS if name in row)
            figure = f"{row['split']} {BOUNDS[name]} {row[name]:.2f}"
            if "reconstruction" in row:
                figure += f" (reconstruction {row['reconstruction']:.2f}, KL {row['kl']:.2f})"
            parts.append(figure)
        unit = "nats per example" if self._normalized else "per example, cross-entropy: not a log-likelihood"
        return " · ".join(parts) + f" · {unit} · {rows[-1]['seconds']:.0f} s"


class TensorBoard:
    """Event files for TensorBoard: one scalar for each term, against the step.

    Raises:
        ElbowroomError: the extra is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ElbowroomError(
                "train.tensorboard is set, but TensorBoard is not installed.",
                "Install it: pip install 'elbowroom[tensorboard]'.",
            ) from error
        self._open = functools.partial(SummaryWriter, str(folder))
        self._writer: Any = None

    def start(self, step: int, total: int | None) -> None:
        self._writer = self._open(purge_step=step + 1)  # a resumed run discards the events after this step

    def step(self) -> None:
        pass

    def report(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for name in row.keys() - _NOT_TERMS:
                self._writer.add_scalar(f"{name}/{row['split']}", row[name], row["step"])

    def stop(self) -> None:
        if self._writer is not None:
            self._writer.close()
