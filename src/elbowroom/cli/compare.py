"""``elbowroom compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from elbowroom.cli.options import Json
from elbowroom.cli.speech import print_json, remark, say, wrote
from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    from elbowroom.running.comparison import Comparison

__all__ = ["compare"]


def compare(
    *recipes: str,
    seconds: float | None = None,
    decoder_gradients: float | None = None,
    visits: float | None = None,
    moments: int = 8,
    splits: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    points: int = 1000,
    k: int = 100,
    starts: int = 4,
    seed: int = 0,
    config: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    as_json: Json = False,
) -> None:
    """Train several recipes with the same budget, and evaluate all of them in the same way.

    Parameters
    ----------
    recipes
        Names of recipes (`elbowroom recipes list`), or recipe files of your own (.toml).
    seconds
        Budget: wall time of training of each recipe.
    decoder_gradients
        Budget: evaluations of the decoder with its gradient, summed over examples and draws.
    visits
        Budget: training examples seen; an example counts each time that it is seen.
    moments
        Number of measurement points: at the budget, at half of it, at a quarter … Every recipe is measured with its
        weights at that moment, so there is no --checkpoint to choose.
    splits
        Data to evaluate on: test (the default), validation, train. The first split decides the ranking.
    points
        Number of examples of each split.
    k
        Importance draws per example, from Laplace approximations around modes of p(x, z).
    starts
        Starting points per example (restarts) of the local optimiser that finds these modes.
    seed
        Seed of the importance draws.
    config
        A recipe file whose keys override those of every recipe.
    out
        The folder (default: runs/compare). The same command again resumes an unfinished comparison.
    overwrite
        Replace an existing comparison.
    """
    from elbowroom.running import compare as comparing
    from elbowroom.running.comparison import RECORD, VALUES
    from elbowroom.showing import gallery
    from elbowroom.showing.figures.style import write

    found = comparing.compare(
        recipes,
        seconds=seconds,
        decoder_gradients=decoder_gradients,
        visits=visits,
        moments=moments,
        splits=[name for given in splits or ["test"] for name in given.split(",") if name],
        points=points,
        k=k,
        starts=starts,
        seed=seed,
        config=config,
        out=out,
        overwrite=overwrite,
        announce=remark,
    )
    failed = [name for name, entrant in found.entrants.items() if entrant.failed is not None]
    if found.rows:
        figure = write(gallery.comparison(found), found.folder / "compare.png")
    if as_json:
        rest = {key: value for key, value in found.content().items() if key != "elbowroom"}
        ranked = {"standings": [asdict(s) for s in found.standings()]}
        if simple := found.baselines():
            ranked["baselines"] = [asdict(s) for s in simple]
        print_json({"folder": str(found.folder), **ranked, **rest})
    else:
        _print_tables(found)
        wrote(found.folder / RECORD, *([found.folder / VALUES, figure] if found.rows else []))
    if len(failed) == len(found.entrants):
        raise ElbowroomError(
            "No recipe reached the end of the budget.",
            "The reasons are above. The same command tries again; a changed recipe needs --overwrite.",
        )


def _print_tables(found: Comparison) -> None:
    from elbowroom.running.comparison import UNITS, amount
    from elbowroom.showing.standings import headline, standings, trajectories

    method = found.yardstick
    say(f"{headline(found)} · each recipe trained for {amount(found.budget['of'], found.budget['amount'])}")
    say("log p(x) ≥, in nats per example: a lower bound, by importance sampling from Laplace approximations,")
    say(
        f"k = {method['k']:,} draws per example. ESS is their effective sample size, the median over examples: where it"
    )
    say(
        "is small, the bound is loose. ± paired is the standard error of the difference from the best; gradients counts"
    )
    say("evaluations of the decoder with its gradient.\n")
    for split in method["splits"]:
        if split != method["splits"][0]:
            say(f"{split}, {method['points'][split]:,} examples")
        _print_aligned(standings(found, split))
        say()
        if len(found.moments) > 1:
            say(f"{split} log p(x) ≥ after so many {UNITS[found.budget['of']]}")
            _print_aligned(trajectories(found, split))
            say()
    for name, entrant in found.entrants.items():
        if entrant.failed is not None:
            say(f"{name} failed: {entrant.failed}\n")


def _print_aligned(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a table with words aligned to the left and numbers to the right."""
    from rich.markup import escape

    from elbowroom.showing import terminal

    words = {"recipe", "training method"}
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    terminal.print_table(
        [
            {
                (key if key in words else key.rjust(widths[key])): escape(
                    row[key] if key in words else row[key].rjust(widths[key])
                )
                for key in row
            }
            for row in rows
        ]
    )
