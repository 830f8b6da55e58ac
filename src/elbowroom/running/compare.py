"""Comparison of recipes: each is trained under the same budget, and all are evaluated in the same way.

The budget is wall time of training, evaluations of the decoder with its gradient, or visits (training examples
processed, each as often as it is seen). Its moments are the amounts of budget at which all recipes are evaluated; they
double: budget / 2^(m−1), …, budget / 2, budget. Every recipe in turn is trained up to a moment and evaluated, before
any goes on to the next. So other load on the machine affects all recipes alike.

The evaluation depends on the model p(x, z) only: importance sampling from Laplace approximations
(:mod:`elbowroom.inference.importance.laplace_proposal`), without a guide even where there is one, so that a good or bad
guide makes no difference. All recipes are evaluated on the same examples with the same binarisation, and with their
weights at that moment, not with those that were best on validation data.

Beside the recipes for a table stand two simple models of it, independent columns and latent classes
(:mod:`elbowroom.evaluation.baselines`), on the same examples.

Training, resuming and checkpoints are those of the training loop: going on to the next moment resumes a run. Every
measurement is on disk before training goes on, so the same call continues after an interruption at any time. For a
finished comparison it only reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from elbowroom.data.binarization import mix
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.baselines import simple_log_p, simple_models
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.model.latent import evaluation_mode
from elbowroom.model.table.likelihood import Table
from elbowroom.progress import Announce
from elbowroom.running.comparison import (
    BASELINE,
    RECORD,
    UNITS,
    VALUES,
    ComparedRecipe,
    Comparison,
    Row,
    amount,
    summary,
)
from elbowroom.running.config import configure, nested, read_recipe
from elbowroom.running.folder import RunFolder
from elbowroom.running.observers import Silent
from elbowroom.running.preflight import NO_LIMIT, CheckedRecipe, check_comparable, check_recipe
from elbowroom.running.runs import Run
from elbowroom.running.runtime import make_generator, torch_settings
from elbowroom.running.train import train

__all__ = ["compare"]

_SHORTEST = {"seconds": 0.01, "decoder_gradients": 1.0, "visits": 1.0}
_BATCH = 100  # examples at a time
_MEASURING = 4  # random stream of the evaluation, other than those with the same seed
_NOTHING = {".lock", f".{RECORD}.writing"}  # all that a comparison leaves that was killed at its start
# errors of one recipe, which must not stop the others
_FAULTS = (ElbowroomError, torch.linalg.LinAlgError, torch.OutOfMemoryError)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class _Measurement:
    """One task: train a recipe up to a moment, and evaluate it on every split."""

    recipe: str
    at: float


@torch_settings()
def compare(
    recipes: str | Path | Sequence[str | Path],
    *,
    seconds: float | None = None,
    decoder_gradients: float | None = None,
    visits: float | None = None,
    moments: int = 8,
    splits: str | Sequence[str] = ("test",),
    points: int = 1000,
    k: int = 100,
    starts: int = 4,
    seed: int = 0,
    config: str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    announce: Announce = print,
) -> Comparison:
    """Trains recipes under a common budget and evaluates all of them on the same examples at the same moments.

    Called again with the same arguments, it goes on where it stopped. It also goes on with a larger budget whose
    moments include those that are done: for instance twice the budget, with or without one more moment.

    The budget replaces a recipe's own length and patience. A recipe that fails is recorded as failed; the others go
    on, and calling again tries it again.

    Args:
        recipes: names of recipes, or the user's own files (.toml); a single one is fine.
        seconds: budget of wall time for each, without the time of validation and of measuring.
        decoder_gradients: or of evaluations of the decoder with its gradient, over data and draws.
        visits: or of visits, training examples processed, each as often as it is seen: epochs times the size of the
            training set.
        moments: number of evaluations of each recipe; the first is at budget / 2^(moments − 1).
        splits: which splits to evaluate on: test, validation, train. The first one ranks the recipes.
        points: number of examples of each split, chosen by the data's seed; all, where it has fewer.
        k: importance-weighted draws for each example.
        starts: starting points for each example of the search for modes of p(x, z).
        seed: of the draws of the evaluation.
        config: keys that override those of every recipe: nested, or a recipe by name or file.
        out: the folder; by default runs/compare.
        overwrite: replace the comparison in ``out``.
        announce: called with a line for every measurement.
    Returns:
        The comparison: rows, standings and the values behind them.
    Raises:
        ElbowroomError: anything that the user can correct, before training where possible: no budget or two, a schedule
            that needs a fixed length, recipes whose log p(x) are not of the same examples, a folder with another
            comparison.
        KeyboardInterrupt: after Ctrl-C; the same call resumes.
    Example:
        >>> import elbowroom as er
        >>> found = er.compare(["aevb-fig3-n1000-aevb", "aevb-fig3-n1000-mcem"], seconds=60)  # doctest: +SKIP
        >>> found.standings()[0].recipe, found.standings()[0].value                           # doctest: +SKIP
    """
    sources = _sources([recipes] if isinstance(recipes, str | Path) else recipes)
    budget = _budget(seconds=seconds, decoder_gradients=decoder_gradients, visits=visits)
    measured = [splits] if isinstance(splits, str) else list(dict.fromkeys(splits))
    for name, number in {
        "moments": moments,
        "points": points,
        "k": k,
        "starts": starts,
        "splits": len(measured),
    }.items():
        if number < 1:
            raise ElbowroomError(f"{name} is {number}, but must be 1 or more.", f"Give --{name} 1 or more.")
    folder = Path(out) if out is not None else Path("runs") / "compare"
    _check_place(folder, overwrite=overwrite)
    over = nested(config) if isinstance(config, Mapping) else {} if config is None else read_recipe(config)
    checked: dict[str, CheckedRecipe] = {}
    for name, source in sources.items():
        settings = configure(read_recipe(source), over, NO_LIMIT, source=name)
        checked[name] = check_recipe(name, settings, measured, points=points, data=[c.data for c in checked.values()])
    check_comparable(checked, measured)
    first = next(iter(checked.values()))
    asked = Comparison(
        folder=folder,
        budget=budget,
        moments=_moments(budget, moments),
        yardstick={
            "method": "laplace-is", "bound": "lower", "unit": "nats", "k": k, "starts": starts, "seed": seed,
            "splits": measured, "points": {split: first.sizes[split] for split in measured}, **first.protocol,
        },
        entrants={name: found.entrant for name, found in checked.items()},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with RunFolder(folder).lock():
        comparison = _open_or_create(asked, overwrite=overwrite)
        _measure_all(comparison, sources, announce)
    return comparison


# --- what is asked for -------------------------------------------------------------------------------------------


def _sources(recipes: Sequence[str | Path]) -> dict[str, str]:
    """The recipes, by the names of their runs."""
    if not recipes:
        raise ElbowroomError(
            "No recipe was given to compare.", "`elbowroom recipes list` shows ours; your own files end in .toml."
        )
    sources: dict[str, str] = {}
    for recipe in recipes:
        name = Path(recipe).stem if str(recipe).endswith(".toml") else str(recipe)
        if name in sources:
            raise ElbowroomError(
                f"Two recipes are called '{name}' ({sources[name]} and {recipe}), but each needs a run of its own "
                "name.",
                "Name each recipe once, or rename one of the files.",
            )
        sources[name] = str(recipe)
    return sources


def _budget(**given: float | None) -> dict[str, Any]:
    """The budget that was given, as unit and amount."""
    amounts = {unit: amount for unit, amount in given.items() if amount is not None}
    flags = " or ".join(f"--{unit.replace('_', '-')}" for unit in given)
    if len(amounts) != 1:
        what = f"{len(amounts)} were given ({', '.join(amounts)})" if amounts else "none was given"
        raise ElbowroomError(f"A comparison needs one budget, but {what}.", f"Give one of {flags}.")
    unit, number = next(iter(amounts.items()))
    if not 0 < number < float("inf"):
        raise ElbowroomError(
            f"The budget is {number:g} {UNITS[unit]}, which is too little to train.",
            f"Give a number above 0 with --{unit.replace('_', '-')}.",
        )
    return {"of": unit, "amount": float(number)}


def _moments(budget: Mapping[str, Any], number: int) -> list[float]:
    """The moments budget / 2^(number − 1), …, budget; whole numbers where they are counts.

    Raises:
        ElbowroomError: the first is too small to train.
    """
    unit, whole = budget["of"], budget["amount"]
    first = whole / 2 ** (number - 1)
    if first < _SHORTEST[unit]:
        raise ElbowroomError(
            f"The budget of {whole:g} {UNITS[unit]}, halved for each of {number} measurement points, begins at "
            f"{first:.2g}, but less than {_SHORTEST[unit]:g} is too little to train.",
            f"Give a larger --{unit.replace('_', '-')}, or fewer --moments.",
        )
    rising = [whole / 2**i for i in reversed(range(number))]
    return rising if unit == "seconds" else [float(round(moment)) for moment in rising]


# --- the folder --------------------------------------------------------------------------------------------------


def _check_place(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder with other files; a comparison that will be replaced is not read."""
    if folder.exists() and not folder.is_dir():
        raise ElbowroomError(f"{folder} is a file, not a folder.", "Give another name with --out.")
    strange = folder.is_dir() and any(entry.name not in _NOTHING for entry in folder.iterdir())
    if strange and not (folder / RECORD).is_file():
        raise ElbowroomError(
            f"{folder} has files but no {RECORD}: it is not a comparison, so nothing is written to it.",
            "Give another name with --out.",
        )
    if strange and not overwrite:
        Comparison.read(folder)


def _open_or_create(asked: Comparison, *, overwrite: bool) -> Comparison:
    """The comparison in the folder, if it is the same one; else a new one, with nothing measured."""
    record = asked.folder / RECORD
    if record.is_file() and overwrite:
        _clear(asked.folder)
    elif record.is_file():
        found = _with_both_moments(Comparison.read(asked.folder), asked)
        for row in found.rows:
            if not (found.folder / row.recipe / "config.json").is_file():
                raise ElbowroomError(
                    f"The run {found.folder / row.recipe} is missing, but {RECORD} has measurements of it.",
                    "Restore it, or compare again with --overwrite.",
                )
        found.write()
        return found
    asked.write()
    return asked


def _clear(folder: Path) -> None:
    """Deletes a comparison and its runs, but no other files in the folder; its record last."""
    (folder / VALUES).unlink(missing_ok=True)
    for path in folder.iterdir():
        if (path / "config.json").is_file():
            shutil.rmtree(path)
    (folder / RECORD).unlink()


def _with_both_moments(found: Comparison, asked: Comparison) -> Comparison:
    """The comparison that was found, with the moments of both.

    Raises:
        ElbowroomError: its settings are not those that are asked for.
    """
    differ = _difference(found, asked)
    if differ is not None:
        what, was, now = differ
        raise ElbowroomError(
            f"The comparison in {found.folder} was made with {what} = {was}, but now it is {now}.",
            "Give another name with --out, or replace it with --overwrite.",
        )
    passed = [moment for moment in asked.moments if moment < found.moments[-1] and moment not in found.moments]
    if passed or asked.moments[-1] < found.moments[-1]:
        raise ElbowroomError(
            f"The comparison in {found.folder} was evaluated at {_list(found.moments)} {UNITS[found.budget['of']]}, "
            f"and training cannot go back to evaluate at {_list(passed or asked.moments)}.",
            "Give the same budget and moments, or twice the budget; or another name with --out; or --overwrite.",
        )
    found.moments = sorted({*found.moments, *asked.moments})
    found.budget = asked.budget
    return found


def _list(moments: Sequence[float]) -> str:
    return ", ".join(f"{moment:g}" for moment in moments)


def _difference(found: Comparison, asked: Comparison) -> tuple[str, Any, Any] | None:
    """The first setting in which two comparisons differ, as (name, old value, new value)."""

    def settings(comparison: Comparison) -> dict[str, Any]:
        entrants = comparison.entrants
        flat = {"recipes": ", ".join(entrants), "the budget's unit": comparison.budget["of"], **comparison.yardstick}
        for name, entrant in entrants.items():
            flat |= {f"{name}: {s}.{key}": v for s, keys in entrant.config.items() for key, v in keys.items()}
            flat[f"{name}: size of the training set"] = entrant.train_size
        return flat

    then, now = settings(found), settings(asked)
    return next(((key, then.get(key), now.get(key)) for key in [*now, *then] if then.get(key) != now.get(key)), None)


# --- doing it ----------------------------------------------------------------------------------------------------


def _measure_all(comparison: Comparison, sources: Mapping[str, str], announce: Announce) -> None:
    """Makes every missing measurement, moment by moment, recipe by recipe."""
    splits, unit = comparison.yardstick["splits"], comparison.budget["of"]
    for entrant in comparison.entrants.values():  # a failed recipe is tried again: it may have lacked memory
        entrant.failed = None
    lacking = [
        _Measurement(name, moment)
        for moment in comparison.moments
        for name in comparison.entrants
        if any(comparison.row(name, split, moment) is None for split in splits)
    ]
    for task in lacking:
        entrant = comparison.entrants[task.recipe]
        if entrant.failed is not None:
            continue
        try:
            run = _train_until(comparison, entrant, sources[task.recipe], task.at)
            for split in splits:
                if comparison.row(task.recipe, split, task.at) is None:
                    row = _measured(comparison, run, entrant, split, task.at)
                    _add_baselines(comparison, run, split)
                    error = "" if row.stderr is None else f" ± {row.stderr:.2f}"
                    announce(
                        f"{amount(unit, task.at)} · {task.recipe} · step {row.step:,}, {row.seconds:,.1f} s · "
                        f"{split} log p(x) ≥ {row.value:.2f}{error}"
                    )
        except _FAULTS as error:
            if isinstance(
                error.__cause__, OSError | SafetensorError
            ):  # a full disk or a lock is not the recipe's fault
                raise
            entrant.failed = str(error) if isinstance(error, ElbowroomError) else f"{type(error).__name__}: {error}"
            comparison.write()
            announce(f"{amount(unit, task.at)} · {task.recipe} failed: {entrant.failed}")


def _train_until(comparison: Comparison, entrant: ComparedRecipe, source: str, moment: float) -> Run:
    """The recipe's run, trained up to a moment of the budget, with its latest weights."""
    path, unit = comparison.folder / entrant.recipe, comparison.budget["of"]
    if unit == "visits":
        limit: dict[str, Any] = {"epochs": moment / entrant.train_size}
    else:
        limit = {unit: int(moment) if unit == "decoder_gradients" else moment}
    if (path / "config.json").is_file():
        run = train(out=path, resume=True, observers=[Silent()], announce=_ignore, train=limit)
    else:
        keys = {**entrant.config, "train": {**entrant.config["train"], **limit}}
        run = train(source, out=path, observers=[Silent()], announce=_ignore, **keys)
    return Run(run.folder, checkpoint="latest", data=run.data, announce=_ignore)


def _ignore(remark: str) -> None:
    """Drops the remark that a run goes on, which would come at every moment."""


def _measured(comparison: Comparison, run: Run, entrant: ComparedRecipe, split: str, moment: float) -> Row:
    """A new row, added to the comparison on disk."""
    before = comparison.curve(entrant.recipe, split)
    if before and before[-1].step == run.step:  # the budget grew by less than a step, so the weights are the same
        median_ess = before[-1].median_ess
        values = comparison.values[comparison.key(entrant.recipe, split, before[-1].moment)].clone()
    else:
        values, ess = _estimate_log_p(run, split, comparison.yardstick)
        median_ess = float(ess.median())
    report = [row for row in run.history if row["split"] == "train"][-1]
    value, stderr = summary(values)
    row = Row(
        recipe=entrant.recipe,
        learner=entrant.learner,
        moment=moment,
        step=run.step,
        seconds=report["seconds"],
        visits=report["visits"],
        decoder_gradients=report["decoder_gradients"],
        split=split,
        value=value,
        stderr=stderr,
        median_ess=median_ess,
        points=len(values),
    )
    comparison.add(row, values)
    return row


def _add_baselines(comparison: Comparison, run: Run, split: str) -> None:
    """Adds what simple models of a table are worth on the same examples, where they are not there yet."""
    likelihood = run.model.likelihood
    if not isinstance(likelihood, Table) or any(key.endswith(f"/{split}/{BASELINE}") for key in comparison.values):
        return
    data, protocol = run.dataset(), comparison.yardstick
    models = simple_models(likelihood.columns, data, seed=protocol["seed"])
    parts = [simple_log_p(models, batch) for batch in data.batches(split, _BATCH, points=protocol["points"][split])]
    comparison.add_baselines(split, {name: torch.cat([part[name] for part in parts]) for name in models})


def _estimate_log_p(run: Run, split: str, protocol: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """log p(x) and effective sample size of every example, float64, shape (examples,).

    Raises:
        ElbowroomError: a value that is not finite.
    """
    values, ess = [], []
    generator = make_generator(run.device, mix(_MEASURING, protocol["seed"]) >> 1)
    with evaluation_mode(run.pair):
        for batch in run.dataset().batches(split, _BATCH, points=protocol["points"][split]):
            found = laplace_evidence(
                run.model, None, batch, k=protocol["k"], starts=protocol["starts"], generator=generator
            )
            values.append(found.log_evidence.double().cpu())
            ess.append(found.ess.double().cpu())
    known = torch.cat(values)
    bad = int((~known.isfinite()).sum())
    if bad:
        raise ElbowroomError(
            f"log p(x) of {bad:,} of {len(known):,} {split} examples is not finite at step {run.step:,}.",
            "Lower the recipe's optimizer.lr, or set its optimizer.clip_norm.",
        )
    return known, torch.cat(ess)
