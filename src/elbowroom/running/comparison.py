r"""What a comparison has found: its rows, the values behind them, and the standings they make.

All recipes are measured on the same points, so what one gains over another is judged example by example,

.. math:: \bar{d} = \frac1n \sum_{i=1}^n d_i, \qquad d_i = \log \hat{p}_a(x_i) - \log \hat{p}_b(x_i), \qquad
    \mathrm{stderr}(\bar{d}) = s_d / \sqrt{n}

Some data are harder than others under any model; in the differences that cancels, and their standard error is several
times less than those of the two means would make one believe.

FOLDER/
  compare.json           what was asked, of whom, and a row for every measurement
  values.safetensors     log p(x) of every point behind every row
  NAME/                  the run of each recipe
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from elbowroom import __version__
from elbowroom.errors import ElbowroomError
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.checkpoints import full_disk_explained, write_text_atomically

__all__ = ["RECORD", "VALUES", "ComparedRecipe", "Comparison", "RankedRecipe", "Row", "amount", "summary"]

RECORD, VALUES = "compare.json", "values.safetensors"


@dataclass(frozen=True, slots=True)
class Row:
    """One recipe at one moment, measured on one split.

    Attributes:
        recipe: its name.
        learner: aevb, naive, mcem, wake-sleep or svi.
        moment: how much of the budget it was trained for, in the budget's unit.
        step: updates behind its weights.
        seconds: wall time of training so far.
        visits: data learned from so far, each as often as it was seen.
        decoder_gradients: evaluations of the decoder with its gradient so far.
        split: of the data.
        value: the mean over points of the lower bound on log p(x), nats.
        stderr: its standard error; None for a single point.
        median_ess: effective draws of the importance sampling, the median over points.
        points: how many.
    """

    recipe: str
    learner: str
    moment: float
    step: int
    seconds: float
    visits: int
    decoder_gradients: int
    split: str
    value: float
    stderr: float | None
    median_ess: float
    points: int


@dataclass(slots=True)
class ComparedRecipe:
    """A recipe that takes part.

    Attributes:
        recipe: its name, that of its run's folder too.
        learner: of the configuration.
        latent_dim: dimensions of z.
        train_size: data in its training set.
        config: all of its settings, nested.
        failed: why it could not go on; None as long as it can.
    """

    recipe: str
    learner: str
    latent_dim: int
    train_size: int
    config: dict[str, Any]
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class RankedRecipe:
    """A recipe at the end; all None but the names where it failed before.

    Attributes:
        recipe, learner, value, stderr, seconds, decoder_gradients: as in :class:`Row`.
        difference: from the best, nats per example; 0 for the best itself.
        difference_stderr: its standard error, from the differences of the single data; None for the best.
        epochs: visits over the size of its training set.
        seconds_per_epoch: wall time over epochs.
        failed: why.
    """

    recipe: str
    learner: str
    value: float | None = None
    stderr: float | None = None
    difference: float | None = None
    difference_stderr: float | None = None
    seconds: float | None = None
    epochs: float | None = None
    decoder_gradients: int | None = None
    seconds_per_epoch: float | None = None
    failed: str | None = None


@dataclass(slots=True)
class Comparison:
    """Recipes side by side.

    Attributes:
        folder: where it is written.
        budget: its unit ("seconds", "decoder_gradients" or "visits") and its amount.
        moments: when all are measured, in the budget's unit, rising.
        yardstick: how all are measured: method, k, starts, seed, splits, points, data and digests of the points.
        entrants: who takes part, by name.
        rows: what was measured, in the order of measuring.
        values: log p(x) of every point by :meth:`key`, nats, float64, shape (points,).
    """

    folder: Path
    budget: dict[str, Any]
    moments: list[float]
    yardstick: dict[str, Any]
    entrants: dict[str, ComparedRecipe]
    rows: list[Row] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def key(recipe: str, split: str, moment: float) -> str:
        """Under which name the values of a row are kept.

        Example:
            >>> Comparison.key("mnist", "test", 7.5)
            'mnist/test/7.5'
        """
        return f"{recipe}/{split}/{float(moment)!r}"

    # --- what it says ---

    def row(self, recipe: str, split: str, moment: float) -> Row | None:
        """What was measured of a recipe at a moment, if it was."""
        return next((r for r in self.rows if (r.recipe, r.split, r.moment) == (recipe, split, moment)), None)

    def curve(self, recipe: str, split: str) -> list[Row]:
        """All that was measured of a recipe, by moment."""
        return sorted((r for r in self.rows if (r.recipe, r.split) == (recipe, split)), key=lambda r: r.moment)

    def standings(self, split: str | None = None) -> list[RankedRecipe]:
        """The recipes at the last moment, best first, those that failed last.

        Args:
            split: where they are compared; the first that was measured unless given.
        """
        split = self.yardstick["splits"][0] if split is None else split
        last = {name: self.row(name, split, self.moments[-1]) for name in self.entrants}
        ranked = sorted((row for row in last.values() if row is not None), key=lambda row: -row.value)
        best = ranked[0] if ranked else None
        out = [self._standing(row, best or row) for row in ranked]
        return out + [
            RankedRecipe(name, entrant.learner, failed=entrant.failed)
            for name, entrant in self.entrants.items()
            if last[name] is None
        ]

    def _standing(self, row: Row, best: Row) -> RankedRecipe:
        difference, stderr = (0.0, math.nan) if row is best else self._difference(row, best)
        epochs = row.visits / self.entrants[row.recipe].train_size
        return RankedRecipe(
            recipe=row.recipe,
            learner=row.learner,
            value=row.value,
            stderr=row.stderr,
            difference=difference,
            difference_stderr=stderr if math.isfinite(stderr) else None,
            seconds=row.seconds,
            epochs=epochs,
            decoder_gradients=row.decoder_gradients,
            seconds_per_epoch=row.seconds / epochs,
        )

    def _difference(self, row: Row, best: Row) -> tuple[float, float]:
        ours, theirs = (self.values[self.key(r.recipe, r.split, r.moment)] for r in (row, best))
        return mean_and_stderr(ours - theirs)

    def content(self) -> dict[str, Any]:
        """compare.json."""
        return {
            "elbowroom": __version__,
            "budget": self.budget,
            "moments": self.moments,
            "yardstick": self.yardstick,
            "recipes": [asdict(entrant) for entrant in self.entrants.values()],
            "rows": [asdict(row) for row in self.rows],
        }

    # --- files ---

    def add(self, row: Row, values: Tensor) -> None:
        """Enters a measurement, on disk too: the values first, so that no row lacks them."""
        self.values[self.key(row.recipe, row.split, row.moment)] = values
        temporary = self.folder / f".{VALUES}.writing"
        with full_disk_explained(self.folder / VALUES):
            save_file({name: tensor.contiguous() for name, tensor in self.values.items()}, temporary)
            temporary.replace(self.folder / VALUES)
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """compare.json, in one step."""
        write_text_atomically(self.folder / RECORD, json.dumps(self.content(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """The comparison in a folder.

        Raises:
            ElbowroomError: a file is missing or damaged, or a row has no values.
        """
        try:
            content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            rows = [Row(**row) for row in content["rows"]]
            found = cls(
                folder=folder,
                budget=content["budget"],
                moments=content["moments"],
                yardstick=content["yardstick"],
                entrants={entry["recipe"]: ComparedRecipe(**entry) for entry in content["recipes"]},
                rows=rows,
                values=load_file(folder / VALUES) if rows else {},
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ElbowroomError(
                f"The comparison in {folder} cannot be read ({type(error).__name__}: {error}).",
                "Restore its files, or compare anew with --overwrite.",
            ) from error
        lacking = [key for row in rows if (key := cls.key(row.recipe, row.split, row.moment)) not in found.values]
        if lacking:
            raise ElbowroomError(
                f"{folder / VALUES} lacks the values behind {lacking[0]}, a row of {RECORD}.",
                "Restore the file, or compare anew with --overwrite.",
            )
        return found


def summary(values: Tensor) -> tuple[float, float | None]:
    """Mean and standard error, None where that is unknown.

    Example:
        >>> import torch
        >>> summary(torch.tensor([1.0]))
        (1.0, None)
    """
    mean, stderr = mean_and_stderr(values)
    return mean, stderr if math.isfinite(stderr) else None


def amount(unit: str, moment: float) -> str:
    """So much of a budget, in words.

    Example:
        >>> amount("seconds", 0.46875), amount("seconds", 3600.0), amount("decoder_gradients", 1e6)
        ('0.469 s', '3,600 s', '1,000,000 decoder gradients')
    """
    if unit == "seconds":
        return f"{moment:,.0f} s" if moment >= 100 else f"{moment:.3g} s"
    return f"{moment:,.0f} {unit.replace('_', ' ')}"
