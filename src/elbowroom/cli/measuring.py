"""``elbowroom evaluate`` and ``elbowroom score``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from elbowroom.cli.options import Device, Json, RunPath, Split, load_run
from elbowroom.cli.speech import print_json, say, wrote
from elbowroom.cli.writing import checked_target

__all__ = ["evaluate", "score"]


def evaluate(
    run: RunPath,
    data: str | None = None,
    *,
    methods: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    split: Split = "test",
    points: int | None = None,
    k: int | None = None,
    starts: int = 4,
    num_samples: int = 1,
    start: Literal["laplace", "guide", "prior"] | None = None,
    climbs: int = 1,
    temperatures: int | None = None,
    chains: int | None = None,
    schedule: Literal["adapted", "linear", "sigmoid"] | None = None,
    tolerance: float = 0.1,
    budget: float | None = None,
    simulated: int = 1000,
    seed: int = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a run, in nats per datum with standard errors.

    Parameters
    ----------
    data
        Other data to measure on, all of them: a path or a built-in name; a split of the run's own unless given.
    methods
        elbo, iwae, active-units, k-curve, laplace-is, ais, bdmc, room. Unless given the first three; laplace-is for a
        run without a guide. Several: with commas or spaces between.
    split
        The data to measure on.
    points
        How many data; all of them unless given, but 1,000 for iwae, laplace-is and ais, 200 for room.
    k
        Draws per datum of the importance-weighted bounds; unless given 5,000 for iwae, 500 for room and 100 for
        laplace-is.
    starts
        Climbs per datum to modes of the posterior, for laplace-is.
    num_samples
        Draws per datum of the ELBO.
    start
        Where annealing starts; Laplace approximations where the likelihood allows them unless given.
    climbs
        Per datum to modes of the posterior, where annealing starts from Laplace approximations.
    temperatures
        Of annealing (ais, bdmc); raised until the gap on simulated data is below the tolerance unless given.
    chains
        Of annealing; 32 unless given, and 100 or more draws where there is one temperature.
    schedule
        Of the temperatures; adapted to the densities from the prior, linear from a nearer start, unless given.
    tolerance
        Nats that the mean gap between the bounds on simulated data may be.
    budget
        Seconds after which no more temperatures are tried.
    simulated
        Data that bdmc simulates, at most as many as the split has.
    seed
        Seed of the draws.
    """
    from elbowroom.memory import in_words, peak_memory
    from elbowroom.showing import gallery, plots, terminal
    from elbowroom.showing.room import by_split

    loaded = load_run(run, device)
    names = [name for given in methods or [] for name in given.split(",") if name]
    with terminal.progress() as announce:
        results = loaded.evaluate(
            *names,
            data=data,
            split=split,
            points=points,
            k=k,
            starts=starts,
            num_samples=num_samples,
            start=start,
            climbs=climbs,
            temperatures=temperatures,
            chains=chains,
            schedule=schedule,
            tolerance=tolerance,
            budget=budget,
            simulated=simulated,
            seed=seed,
            announce=announce,
        )
    peak, own = peak_memory(loaded.device), results[0].split
    if as_json:
        rows = [result.model_dump(exclude={"split", "protocol"}) for result in results]
        rows = [row if r.split == own else {**row, "split": r.split} for row, r in zip(rows, results, strict=True)]
        content = {"run": str(run), "split": own, "protocol": results[0].protocol, "peak_memory": peak}
        print_json({**content, "results": rows})
        return
    terminal.print_results([result for result in results if result.split in (own, "simulated")])
    if peak is not None:
        say(f"peak memory {in_words(peak)}")
    wrote(loaded.folder.path / "evaluation.json")
    wrote(loaded.folder.path / "evaluation")
    # what was measured of other data does not belong on one axis with what was measured of these
    shown = [result for result in results if result.split == own]
    if any(result.bound and math.isfinite(result.value) for result in shown):
        wrote(gallery.keep(loaded, "evaluation", gallery.evaluation(loaded, shown)))
    if "room" in names:
        terminal.print_table(plots.room_rows(by_split(results)))
        wrote(gallery.keep(loaded, "room", gallery.room(loaded, results)))


def score(
    run: RunPath,
    data: str | None = None,
    *,
    split: Split = "test",
    k: int = 1000,
    seed: int = 0,
    out: Path | None = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Write log p(x) of every datum with its standard error, as CSV.

    Parameters
    ----------
    data
        A path or a built-in name; a split of the run's own data unless given.
    split
        Which split, where no data are named.
    k
        Draws per datum.
    seed
        Seed of the draws.
    out
        The CSV file; RUN/scores.csv unless given.
    """
    from elbowroom.numerics import mean_and_stderr

    path = checked_target(out or run / "scores.csv", folder=run)
    loaded = load_run(run, device)
    scores = loaded.score(data, split=split, k=k, seed=seed)
    rows = list(zip(scores.log_evidence.tolist(), scores.stderr.tolist(), strict=True))
    mean, stderr = mean_and_stderr(scores.log_evidence)
    if as_json:
        values = [{"row": i, "log_p": value, "stderr": error} for i, (value, error) in enumerate(rows)]
        print_json({"run": str(run), "data": data or split, "unit": "nats", "bound": "lower", "k": k, "scores": values})
        return
    _write_csv(path, ["row", "log_p", "stderr"], ((i, *row) for i, row in enumerate(rows)))
    say(
        f"mean log p(x) ≥ {mean:.3f} ± {stderr:.3f} nats over {len(rows):,} data (importance-weighted bound, k = {k:,})"
    )
    wrote(path)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from elbowroom.running.checkpoints import write_text_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())
