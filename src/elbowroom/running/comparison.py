r"""The record of a comparison: its rows, the values behind them, and the ranking of the recipes.

All recipes are evaluated on the same examples, so the gain of one recipe over another is the mean of paired
differences,

.. math:: \bar{d} = \frac1n \sum_{i=1}^n d_i, \qquad d_i = \log \hat{p}_a(x_i) - \log \hat{p}_b(x_i), \qquad
    \mathrm{stderr}(\bar{d}) = s_d / \sqrt{n}

Some examples have a low probability under every model. That cancels in the differences, so that their standard error
is several times smaller than those of the two means suggest.

FOLDER/
  compare.json           settings, recipes, and a row for every measurement
  values.safetensors     log p(x) of every example behind every row
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

__all__ = ["BASELINE", "RECORD", "VALUES", "ComparedRecipe", "Comparison", "RankedRecipe", "Row", "amount", "summary"]

RECORD, VALUES = "compare.json", "values.safetensors"
BASELINE = "baseline"
"""In the place of a learner and of a moment, where a simple model stands beside the recipes."""
UNITS = {"seconds": "seconds", "decoder_gradients": "decoder gradients", "visits": "training examples"}
"""What a budget counts, in words."""


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement: one recipe at one moment, on one split.

    Attributes:
        recipe: its name.
        learner: aevb, naive, mcem, wake-sleep or svi.
        moment: the amount of budget that it was trained for, in the budget's unit.
        step: number of updates so far.
        seconds: wall time of training so far.
        visits: training examples processed so far, each as often as it was seen.
        decoder_gradients: evaluations of the decoder with its gradient so far.
        split: the split that was evaluated.
        value: the mean over examples of the lower bound on log p(x), nats.
        stderr: its standard error; None for a single example.
        median_ess: effective sample size of the importance sampling, the median over examples.
        points: number of examples.
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
    """A recipe of the comparison.

    Attributes:
        recipe: its name, and that of its run folder.
        learner: of the configuration.
        latent_dim: of the configuration: dimensions of z, of a hierarchy those of the top group.
        train_size: number of examples in its training set.
        config: all of its settings, nested.
        failed: why training failed; None if it did not.
    """

    recipe: str
    learner: str
    latent_dim: int
    train_size: int
    config: dict[str, Any]
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class RankedRecipe:
    """A recipe at the last moment; if it failed before, only the names and the reason are set.

    Attributes:
        recipe, learner, value, stderr, seconds, decoder_gradients: as in :class:`Row`.
        difference: from the best, nats per example; 0 for the best itself.
        difference_stderr: its standard error, from the paired differences; None for the best.
        epochs: visits divided by the size of its training set.
        seconds_per_epoch: wall time divided by epochs.
        failed: why training failed.
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
    """A comparison of recipes.

    Attributes:
        folder: where it is written.
        budget: its unit ("seconds", "decoder_gradients" or "visits") and its amount.
        moments: amounts of budget at which all recipes are evaluated, in the budget's unit, rising.
        yardstick: the evaluation protocol: method, k, starts, seed, splits, points, data and digests of the examples.
        entrants: the recipes, by name.
        rows: the measurements, in the order in which they were made.
        values: log p(x) of every example by :meth:`key`, nats, float64, shape (examples,).
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
        """The key of a row's values.

        Example:
            >>> Comparison.key("mnist", "test", 7.5)
            'mnist/test/7.5'
        """
        return f"{recipe}/{split}/{float(moment)!r}"

    # --- results ---

    def row(self, recipe: str, split: str, moment: float) -> Row | None:
        """The measurement of a recipe at a moment, if there is one."""
        return next((r for r in self.rows if (r.recipe, r.split, r.moment) == (recipe, split, moment)), None)

    def curve(self, recipe: str, split: str) -> list[Row]:
        """All measurements of a recipe, by moment."""
        return sorted((r for r in self.rows if (r.recipe, r.split) == (recipe, split)), key=lambda r: r.moment)

    def standings(self, split: str | None = None) -> list[RankedRecipe]:
        """The ranking of the recipes at the last moment, best first; failed recipes come last.

        Args:
            split: the split that ranks them; by default the first one.
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

    def baselines(self, split: str | None = None) -> list[RankedRecipe]:
        """Simple models of a table on the same examples, with their difference from the best recipe, the better first.

        Args:
            split: as in :meth:`standings`.
        """
        split = self.yardstick["splits"][0] if split is None else split
        best = next((ranked for ranked in self.standings(split) if ranked.value is not None), None)
        found = []
        for key, values in self.values.items():
            name, of, kind = key.rsplit("/", 2)
            if (of, kind) != (split, BASELINE) or best is None:
                continue
            value, stderr = summary(values)
            theirs = self.values[self.key(best.recipe, split, self.moments[-1])]
            difference, difference_stderr = summary(values - theirs)
            found.append(
                RankedRecipe(name, BASELINE, value, stderr, difference=difference, difference_stderr=difference_stderr)
            )
        return sorted(found, key=lambda ranked: -(ranked.value or 0.0))

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
        """The content of compare.json."""
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
        """Adds a measurement and writes it to disk, the values first, so that no row lacks them."""
        self.values[self.key(row.recipe, row.split, row.moment)] = values
        self._write_values()
        self.rows.append(row)
        self.write()

    def add_baselines(self, split: str, values: dict[str, Tensor]) -> None:
        """Adds log p(x) of every example by simple models, by name, and writes it to disk."""
        self.values |= {f"{name}/{split}/{BASELINE}": each for name, each in values.items()}
        self._write_values()

    def _write_values(self) -> None:
        temporary = self.folder / f".{VALUES}.writing"
        with full_disk_explained(self.folder / VALUES):
            save_file({name: tensor.contiguous() for name, tensor in self.values.items()}, temporary)
            temporary.replace(self.folder / VALUES)

    def write(self) -> None:
        """Writes compare.json, in one step."""
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
                "Restore its files, or compare again with --overwrite.",
            ) from error
        lacking = [key for row in rows if (key := cls.key(row.recipe, row.split, row.moment)) not in found.values]
        if lacking:
            raise ElbowroomError(
                f"{folder / VALUES} lacks the values behind {lacking[0]}, a row of {RECORD}.",
                "Restore the file, or compare again with --overwrite.",
            )
        return found


def summary(values: Tensor) -> tuple[float, float | None]:
    """Mean and standard error, which is None where unknown.

    Example:
        >>> import torch
        >>> summary(torch.tensor([1.0]))
        (1.0, None)
    """
    mean, stderr = mean_and_stderr(values)
    return mean, stderr if math.isfinite(stderr) else None


def amount(unit: str, moment: float) -> str:
    """An amount of a budget, in words.

    Example:
        >>> amount("seconds", 0.46875), amount("seconds", 3600.0), amount("decoder_gradients", 1e6)
        ('0.469 s', '3,600 s', '1,000,000 decoder gradients')
    """
    if unit == "seconds":
        return f"{moment:,.0f} s" if moment >= 100 else f"{moment:.3g} s"
    return f"{moment:,.0f} {UNITS[unit]}"
