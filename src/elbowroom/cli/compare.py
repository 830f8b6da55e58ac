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
    """Train recipes side by side under one budget, and measure all by one yardstick.

    Parameters
    ----------
    recipes
        Names of recipes (`elbowroom recipes list`), or files of your own (.toml).
    seconds
        Budget: wall time of training for each.
    decoder_gradients
        Budget: evaluations of the decoder with its gradient, over data and draws.
    visits
        Budget: data learned from, each as often as it is seen.
    moments
        How often all are measured, at the budget, half of it, a quarter …
    splits
        Where to measure: test (unless given), validation, train. The first ranks.
    points
        How many data of each split.
    k
        Draws for each point, from Laplace approximations around modes of p(x, z).
    starts
        Climbs for each point to such modes.
    seed
        Seed of these draws.
    config
        A recipe file whose keys are laid over every recipe.
    out
        The folder; runs/compare unless given. The same command again goes on where it stopped.
    overwrite
        Replace a comparison that exists.
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
        print_json({"folder": str(found.folder), "standings": [asdict(s) for s in found.standings()], **rest})
    else:
        _print_tables(found)
        wrote(found.folder / RECORD, *([found.folder / VALUES, figure] if found.rows else []))
    if len(failed) == len(found.entrants):
        raise ElbowroomError(
            "No recipe reached the end of the budget.",
            "See above what each failed by; the same command tries again, a changed recipe needs --overwrite.",
        )


def _print_tables(found: Comparison) -> None:
    from elbowroom.running.comparison import amount
    from elbowroom.showing.standings import course, headline, standings

    yardstick = found.yardstick
    say(f"{headline(found)} · each recipe trained for {amount(found.budget['of'], found.budget['amount'])}")
    say(f"log p(x) ≥, in nats per datum: a lower bound, by importance sampling around modes, k = {yardstick['k']:,};")
    say("ESS is the effective number of these draws, the median over points: where it is small, the bound is loose")
    say("gradients are evaluations of the decoder with its gradient; ± paired is the error of the difference\n")
    for split in yardstick["splits"]:
        if split != yardstick["splits"][0]:
            say(f"{split}, {yardstick['points'][split]:,} points")
        _print_aligned(standings(found, split))
        say()
        if len(found.moments) > 1:
            say(f"{split} log p(x) ≥ after so many {found.budget['of'].replace('_', ' ')}")
            _print_aligned(course(found, split))
            say()
    for name, entrant in found.entrants.items():
        if entrant.failed is not None:
            say(f"{name} failed: {entrant.failed}\n")


def _print_aligned(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table whose words stand left and whose numbers stand right."""
    from rich.markup import escape

    from elbowroom.showing import terminal

    words = {"recipe", "learner"}
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
