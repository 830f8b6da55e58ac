"""``elbowroom score``: a lower bound on log p(x) of every example, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from elbowroom.cli.options import Checkpoint, Device, Json, RunPath, Split, load_run
from elbowroom.cli.speech import print_json, say, wrote
from elbowroom.cli.writing import checked_target

__all__ = ["score"]


def score(
    run: RunPath,
    data: str | None = None,
    *,
    split: Split = "test",
    k: int = 1000,
    seed: int = 0,
    out: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write a lower bound on log p(x) of every example, with its standard error, as CSV.

    Parameters
    ----------
    data
        Other data: a path or a built-in name (default: a split of the run's own data).
    split
        Split of the run's own data, if no DATA is given.
    k
        Draws per example of the importance-weighted bound.
    seed
        Seed of the draws.
    out
        The CSV file (default: RUN/scores.csv).
    """
    from elbowroom.numerics import mean_and_stderr

    path = checked_target(out or run / "scores.csv", folder=run)
    loaded = load_run(run, device, checkpoint)
    scores = loaded.score(data, split=split, k=k, seed=seed)
    rows = list(zip(scores.log_evidence.tolist(), scores.stderr.tolist(), strict=True))
    mean, stderr = mean_and_stderr(scores.log_evidence)
    if as_json:
        values = [{"row": i, "log_p": value, "stderr": error} for i, (value, error) in enumerate(rows)]
        print_json({"run": str(run), "data": data or split, "unit": "nats", "bound": "lower", "k": k, "scores": values})
        return
    _write_csv(path, ["row", "log_p", "stderr"], ((i, *row) for i, row in enumerate(rows)))
    bound = f"importance-weighted bound, k = {k:,}"
    say(f"mean log p(x) ≥ {mean:.3f} ± {stderr:.3f} nats over {len(rows):,} examples ({bound})")
    wrote(path)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from elbowroom.running.checkpoints import write_text_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())
