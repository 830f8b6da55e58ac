"""How long an epoch takes: elbowroom against the same step written by hand, and against the tutorials' loop.

All contenders train 784-400-20-400-784 with Adam at 1e-3 on batches of 128 grey images, maximising minus the
cross-entropy minus the closed-form KL. They take turns, A B C A B C …, in one process, so that a busy moment of the
machine falls on all of them; a ratio is formed within a round, and the median over the rounds is reported with its
range. The first round is a warm-up and is dropped.

elbowroom is timed as a user runs it, by `elbowroom.train`: checks and records are in its time, and checkpoints where
the race is long enough for one (every 120 seconds of its clock). The others keep no records.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.rivals.bare import bare
from bench.rivals.itemwise import itemwise
from bench.rivals.objective import objective
from elbowroom.running.train import train

__all__ = ["BASELINE", "OBJECTIVE", "Contender", "race"]

BATCH_SIZE, HIDDEN, LATENT_DIM, LR = 128, 400, 20, 1e-3

BASELINE = "bare PyTorch loop"
OBJECTIVE = "bare loop around `er.objectives.elbo`"
RIVALS: dict[str, Callable[..., Callable[[], float]]] = {
    BASELINE: bare,
    OBJECTIVE: objective,
    "tutorials' item-by-item loop": itemwise,
}


@dataclass
class Contender:
    """One way to train, and what was measured of it: one entry for each round.

    Attributes:
        name: for the report.
        seconds: wall time of an epoch.
        losses: mean loss of an epoch, nats per datum: contenders that do the same work agree on it.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def ratios(self, other: Contender) -> tuple[float, float, float]:
        """Time relative to another's within each round: median, least, greatest."""
        ratios = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def race(images: npt.NDArray[np.uint8], *, rounds: int, seed: int = 0) -> list[Contender]:
    """Lets all contenders take turns.

    Args:
        images: grey, uint8, shape (n, 28, 28).
        rounds: epochs of each that count.
        seed: of the weights and the order of the data.
    Returns:
        elbowroom, then the others, with ``rounds`` entries each.
    """
    settings = {"batch_size": BATCH_SIZE, "hidden": HIDDEN, "latent_dim": LATENT_DIM, "lr": LR, "seed": seed}
    ours = Contender("elbowroom")
    rivals = [(Contender(name), make(images, **settings)) for name, make in RIVALS.items()]

    def others_turn(seconds: float, loss: float) -> None:
        ours.seconds.append(seconds)
        ours.losses.append(loss)
        for contender, epoch in rivals:
            start = time.perf_counter()
            contender.losses.append(epoch())
            contender.seconds.append(time.perf_counter() - start)

    _train_elbowroom(images, epochs=rounds + 1, seed=seed, after_epoch=others_turn)
    contenders = [ours, *(contender for contender, _ in rivals)]
    for contender in contenders:  # the warm-up
        del contender.seconds[0], contender.losses[0]
    return contenders


def _train_elbowroom(
    images: npt.NDArray[np.uint8], *, epochs: int, seed: int, after_epoch: Callable[[float, float], None]
) -> None:
    """Trains as a user would, stopping after each epoch to say how many seconds it took and what its loss was."""
    with tempfile.TemporaryDirectory() as folder:
        train(
            images,
            out=Path(folder) / "run",
            data={"validation": 0, "test": 0},
            model={
                "likelihood": "cross-entropy",
                "latent_dim": LATENT_DIM,
                "encoder": {"hidden": [HIDDEN]},
                "decoder": {"hidden": [HIDDEN]},
                "output_bias": "zero",
            },
            optimizer={"name": "adam", "lr": LR},
            # the clock goes on while the others take their turns: 120 seconds of it are about 30 of elbowroom's own
            train={"batch_size": BATCH_SIZE, "epochs": epochs, "seed": seed, "checkpoint_seconds": 120},
            observers=[_Stopwatch(after_epoch)],
            announce=_ignore,
        )


class _Stopwatch:
    """An observer that times epochs and leaves out what happens between them."""

    def __init__(self, after_epoch: Callable[[float, float], None]) -> None:
        self._after_epoch = after_epoch
        self._since = 0.0

    def start(self, step: int, total: int | None) -> None:
        self._since = time.perf_counter()

    def step(self) -> None:
        pass

    def report(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._after_epoch(time.perf_counter() - self._since, -rows[0]["elbo"])
        self._since = time.perf_counter()

    def stop(self) -> None:
        pass


def _ignore(remark: str) -> None:
    """The report is the benchmark's own."""
