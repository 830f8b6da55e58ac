"""elbowroom's side of the race of training: `elbowroom.train`, as a user runs it, an epoch for each turn.

Checks and records are in its time. Checkpoints are not: they fall due by the wall clock, which goes on while the others
take their turns, so that in a race they would come several times as often as in a user's run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.worker import Line, settings
from elbowroom.running.train import train

__all__ = ["main"]


def main() -> None:
    """Serves: images, batch_size, hidden, latent_dim, lr, seed, epochs, compile, autocast."""
    asked = settings()
    images, hidden = np.load(asked["images"]), [asked["hidden"]]
    with tempfile.TemporaryDirectory() as folder:
        train(
            images,
            out=Path(folder) / "run",
            data={"validation": 0, "test": 0},
            model={
                "likelihood": "cross-entropy",
                "latent_dim": asked["latent_dim"],
                "encoder": {"hidden": hidden},
                "decoder": {"hidden": hidden},
                "output_bias": "zero",
            },
            optimizer={"name": "adam", "lr": asked["lr"]},
            train={
                "batch_size": asked["batch_size"],
                "epochs": asked["epochs"],
                "seed": asked["seed"],
                "checkpoint_seconds": 3600,
            },
            runtime={"device": "cpu", "compile": asked["compile"], "autocast": asked["autocast"]},
            observers=[_Turns(Line())],
            announce=_ignore,
        )


class _Turns:
    """An observer that waits for its turn before every epoch but the first, the warm-up."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def start(self, step: int, total: int | None) -> None:
        pass

    def step(self) -> None:
        pass

    def report(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._line.answer(loss=-rows[0]["elbo"])
        self._line.wait()

    def stop(self) -> None:
        pass


def _ignore(remark: str) -> None:
    """The report is the benchmark's own."""


if __name__ == "__main__":
    main()
