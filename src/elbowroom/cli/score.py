"""``elbowroom score``: a lower bound on log p(x) of every example, as CSV."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, Split, load_run, result_path
from elbowroom.cli.speech import print_json, remark, say, wrote
from elbowroom.cli.writing import checked_target, write_csv, write_evaluated

if TYPE_CHECKING:
    from elbowroom.data.dataset import DataSet
    from elbowroom.evaluation.scores import Scores
    from elbowroom.running.runs import Run

__all__ = ["score"]

_NAMED = 8  # rows that a message names
_LARGE = 1e6  # from here on a number is shown with its power of ten


def score(
    run: RunPath,
    data: str | None = None,
    *,
    split: Split = None,
    points: int | None = None,
    method: Literal["auto", "iwae", "laplace-is", "ais"] = "auto",
    k: int | None = None,
    proposal_width: float = 1.0,
    prior_share: float = 0.0,
    columns: Literal["auto", "yes", "no"] = "auto",
    tolerance: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    write_data: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write log p(x) of every example, its standard error, and whether both are reliable, as CSV.

    Parameters
    ----------
    data
        Other data: a path or a built-in name (default: a split of the run's own data).
    split
        Split of the run's own data (default: test); DATA has none.
    points
        Number of examples, chosen at random by the data's seed (default: all).
    method
        What log p(x) is estimated from: draws of the encoder (iwae), of Laplace approximations of each posterior
        (laplace-is), or annealed importance sampling (ais). auto takes laplace-is where the likelihood allows it, and
        else iwae.
    k
        Draws per example (default: 1000); for ais the number of chains.
    proposal_width
        For iwae, how many times as wide as the encoder's normal the draws are (1.2, say, where its tails are too
        light).
    prior_share
        For iwae, the share of the draws that are of the prior.
    columns
        Whether to say which columns make a row unlikely, too, by log p of each value given all others of its row;
        auto does where a table has columns of several kinds. The CSV file gets the columns least_likely_column,
        least_likely_log_p and surprise, how many nats that is below what is usual in its column; a file beside it,
        named scores-columns.csv, has these numbers of every value.
    tolerance
        Nats: examples whose standard error is larger, or that are not reliable, get 4, 16 and 64 times as many draws
        (for ais, temperatures).
    seed
        Seed of the draws.
    out
        The CSV file (default: RUN/scores.csv, or RUN/scores-latest.csv with --checkpoint latest; none with --json).
        Its columns: row (the position in the data), log_p, stderr (of log_p), ess (effective draws), pareto_k (the
        tail of the weights), draws, reliable (whether log_p and stderr can be trusted). A value that is not finite is
        left empty.
    write_data
        Also write the values that were evaluated, after binarisation and filling in, to this .npz file: `elbowroom
        score RUN FILE` gives the same numbers for them.
    """
    from elbowroom.cli.score_columns import cells_path, in_words, of_cells, of_rows, wants_columns
    from elbowroom.showing import terminal

    path = checked_target(out or result_path(run, "scores.csv", checkpoint), folder=run)
    values = None if write_data is None else checked_target(write_data, suffix=".npz")
    loaded = load_run(run, device, checkpoint)
    with_columns = wants_columns(loaded, columns)
    source, part = loaded.asked(data, split, None, None, command="score")
    with terminal.progress(unit="examples") as announce:
        scores = loaded.score(
            None if data is None else source,
            split=split, points=points, method=method, k=k, tolerance=tolerance, seed=seed, announce=announce,
            proposal_width=proposal_width, prior_share=prior_share,
        )  # fmt: skip
    by_column = None
    if with_columns:
        draws = None if method == "ais" else k  # for ais, k chains
        with terminal.progress(unit="examples") as announce:
            by_column = loaded.score_columns(
                None if data is None else source, split=split, points=points, k=draws, seed=seed, announce=announce
            )
    found = _columns(scores) | ({} if by_column is None else of_rows(loaded, by_column))
    table = source.row_columns(scores.rows, found) | found
    if values is not None:
        write_evaluated(values, source, scores.rows)
    if out is not None or not as_json:
        write_csv(path, list(table), zip(*table.values(), strict=True))
        if by_column is not None:
            cells = of_cells(loaded, by_column, source)
            write_csv(cells_path(path), list(cells), zip(*cells.values(), strict=True))
    if as_json:
        about = {"run": str(run), "data": data or part, "unit": "nats", "bound": "lower", "method": scores.method}
        counts = {"k": k or _most(scores), "unreliable": int((~scores.reliable).sum())}
        rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        print_json({**about, **counts, "scores": rows})
        return
    say(_summary(scores))
    for line in _warnings(scores, source, _remedy(loaded, scores, tolerance)):
        remark(line)
    for line in [] if by_column is None else in_words(loaded, by_column, source):
        say(line)
    wrote(path, *([] if by_column is None else [cells_path(path)]), *([] if values is None else [values]))


def _columns(scores: Scores) -> dict[str, list[Any]]:
    return {
        "log_p": scores.log_evidence.tolist(),
        "stderr": scores.stderr.tolist(),
        "ess": scores.ess.tolist(),
        "pareto_k": scores.pareto_k.tolist(),
        "draws": scores.draws.tolist(),
        "reliable": scores.reliable.tolist(),
    }


def _most(scores: Scores) -> int:
    """Draws of a row that needed no more than it was given at first; rows that are not finite may have none."""
    return int(scores.draws[scores.draws > 0].min())


def _summary(scores: Scores) -> str:
    from elbowroom.evaluation.row_estimates import mean_over_rows

    finite = scores.log_evidence.isfinite()
    mean, stderr = mean_over_rows(scores.log_evidence[finite], scores.stderr[finite])
    number, of = int(finite.sum()), len(finite)
    over = (
        f"{of:,} example{'s' if of > 1 else ''}"
        if number == of
        else f"the {number:,} of {of:,} examples whose value is finite"
    )
    error = f" ± {_number(stderr)}" if math.isfinite(stderr) else ""  # that of a single example is not known
    most = _most(scores)
    unit = f"{'chain' if scores.method == 'ais' else 'draw'}{'s' if most > 1 else ''}"
    return f"mean log p(x) ≥ {_number(mean)}{error} nats over {over} ({scores.method}, {most:,} {unit} each)"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:.4g}"


def _warnings(scores: Scores, source: DataSet, remedy: str) -> list[str]:
    """How many rows are not reliable, why, and what to do."""
    infinite = ~scores.log_evidence.isfinite()
    far = ~scores.resolved & ~infinite
    rest = ~scores.reliable & ~far & ~infinite
    lines = []
    if bool(infinite.any()):
        lines.append(
            f"{_named(source, scores.rows[infinite])}: so far from the training data that log p(x) is not finite; "
            "the value is left empty."
        )
    if bool(far.any()):
        lines.append(
            f"{_named(source, scores.rows[far])}: so far from the training data that log p(x) is a huge number "
            "without a valid standard error; read it as very low."
        )
    number = int(rest.sum())
    if number:
        of = f"{number:,} of {len(rest):,} rows {'is' if number == 1 else 'are'} not reliable (column `reliable`)"
        lines.append(f"{of}: {'its' if number == 1 else 'their'} log p(x) may be nats too low. {remedy}")
    return lines


def _remedy(run: Run, scores: Scores, tolerance: float | None) -> str:
    """What makes rows reliable that are not."""
    from elbowroom.inference.annealing.initial import default_start

    if scores.method == "ais" and bool((scores.draws < 16).any()):
        return "So few chains do not tell: --k 32."
    if scores.method == "ais":
        return "--tolerance 0.1 anneals them more slowly." if tolerance is None else "Read it as a lower bound."
    if bool((scores.draws <= 20).any()):
        return "So few draws do not tell: --k 1000."
    if scores.method == "iwae" and default_start(run.model, None) == "laplace":
        return "The encoder may not cover their posteriors: --method laplace-is does."
    anneals = "--method ais anneals them."
    return anneals if tolerance is not None else f"--tolerance 0.1 spends more draws on them; {anneals}"


def _named(source: DataSet, rows: Any) -> str:
    """Some rows by position, and by their identifiers where they have any."""
    columns = source.row_columns(rows[:_NAMED])
    places, *others = columns.values()
    names = [f"{place} ({others[0][at]})" if others else f"{place}" for at, place in enumerate(places)]
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(names)}{more}"
