"""The cost of knowing log p(x): the gap between bounds on simulated data against decoder evaluations per example.

python -m bench.bounds RUN [--data 512] [--public 8] [--threads 2] [--out FOLDER]

RUN is a run folder, of the recipe `mnist` say. Every row anneals the same simulated data from a start, with a schedule,
and bounds their log p(x) from both sides. The public recipe (Wu et al., 2017: from the prior, 10,000 temperatures on a
sigmoid, 16 chains, 10 leapfrog steps) is run on a few of them, with --public.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import elbowroom as er
from bench.machine import machine
from elbowroom.evaluation.settings import ScheduleName
from elbowroom.inference.annealing.ais import plan
from elbowroom.inference.annealing.bidirectional import Simulated, bidirectional, simulate
from elbowroom.inference.annealing.initial import StartName
from elbowroom.model.latent import evaluation_mode
from elbowroom.numerics import mean_and_stderr
from elbowroom.samplers.hmc import HMC

#: start, schedule, (temperatures, chains) of each row
GRID: tuple[tuple[StartName, ScheduleName, tuple[tuple[int, int], ...]], ...] = (
    ("laplace", "linear", ((1, 50), (1, 100), (1, 200), (1, 1000), (8, 32), (16, 24), (32, 32), (64, 32))),
    ("laplace", "adapted", ((8, 32), (16, 24), (32, 32))),
    ("laplace", "sigmoid", ((8, 32), (16, 24), (32, 32))),
    ("guide", "linear", ((1, 100), (1, 1000), (16, 24), (64, 32), (256, 32))),
    ("guide", "adapted", ((16, 24), (64, 32), (256, 32))),
    ("prior", "linear", ((64, 16), (256, 16))),
    ("prior", "sigmoid", ((64, 16), (256, 16))),
    ("prior", "adapted", ((64, 16), (256, 16))),
)


@dataclass(frozen=True)
class Row:
    """One way to measure, and what it gave."""

    start: str
    schedule: str
    temperatures: int
    chains: int
    data: int
    evaluations: float
    gap: float
    stderr: float
    largest: float
    lower: float
    upper: float
    seconds: float


def main() -> None:
    """Measures, prints, and writes a page where --out says."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bounds", description="The gap between bounds on log p(x), and its cost."
    )
    parser.add_argument("run", type=Path, help="run folder of a trained model")
    parser.add_argument("--data", type=int, default=512, help="simulated data")
    parser.add_argument("--starts", default="laplace,guide,prior", help="those to try, with commas between")
    parser.add_argument("--public", type=int, default=0, help="data on which the public recipe is run, too")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--out", type=Path, help="where to write bounds.md and bounds.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = er.load(options.run)
    with evaluation_mode(run.pair):
        rows = measure(run, options.data, options.public, options.starts.split(","))
    page = _page(rows, options.run)
    print("\n" + page)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bounds.md").write_text(page, encoding="utf-8")
        found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        (options.out / "bounds.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(run: er.Run, num_data: int, public: int, starts: list[str]) -> list[Row]:
    """Every row of the grid on the same simulated data."""
    generator = torch.Generator(run.device).manual_seed(0)
    like = next(iter(run.dataset().batches("test", num_data, points=num_data)))
    data = simulate(run.model, like, generator=generator)
    pilots = simulate(run.model, like.rows(slice(64)), generator=generator).batch
    rows = []
    for start, schedule, sizes in GRID:
        for temperatures, chains in sizes if start in starts else ():
            settings: dict[str, Any] = {"guide": run.guide, "start": start, "climbs": 1}
            began = time.perf_counter()
            frozen = plan(
                run.model, pilots, temperatures=temperatures, schedule=schedule, generator=generator, **settings
            )
            rows.append(
                _row(run, data, start, schedule, began, generator, temperatures=frozen, chains=chains, **settings)
            )
    if public:
        few = Simulated(data.batch.rows(slice(public)), data.z[:public])
        recipe = {"temperatures": 10_000, "schedule": "sigmoid", "chains": 16, "kernel": HMC(10, "leapfrog")}
        began = time.perf_counter()
        rows.append(_row(run, few, "prior", "public recipe", began, generator, start="prior", **recipe))
        lap = {"guide": run.guide, "climbs": 1, "temperatures": 32, "chains": 32, "schedule": "linear"}
        began = time.perf_counter()
        rows.append(_row(run, few, "laplace", "linear, the same data", began, generator, start="laplace", **lap))
    return rows


def _row(
    run: er.Run, data: Simulated, name: str, way: str, began: float, generator: torch.Generator, **settings: Any
) -> Row:
    found = bidirectional(run.model, data, generator=generator, **settings)
    seconds = time.perf_counter() - began
    gap, stderr = mean_and_stderr(found.gap)
    steps = settings["temperatures"]
    row = Row(
        name, way, steps if isinstance(steps, int) else len(steps.betas) - 1, settings["chains"], len(data.z),
        found.forward.num_gradients + found.forward.start_gradients, gap, stderr, float(found.gap.max()),
        float(found.lower.mean()), float(found.upper.mean()), seconds,
    )  # fmt: skip
    print(row, flush=True)
    return row


def _page(rows: list[Row], run: Path) -> str:
    columns = (
        "start",
        "schedule",
        "temperatures × chains",
        "evaluations per example",
        "gap, nats",
        "largest",
        "lower",
        "upper",
    )
    lines = [
        f"# Benchmarks: the gap between bounds on log p(x), and its cost: {run.name}",
        "",
        f"| {' | '.join(columns)} | data | s |",
        "|---" * (len(columns) + 2) + "|",
    ]
    lines += [
        f"| {row.start} | {row.schedule} | {row.temperatures:,} × {row.chains} | {row.evaluations:,.0f} "
        f"| {row.gap:.4f} ± {row.stderr:.4f} | {row.largest:.1f} | {row.lower:.3f} | {row.upper:.3f} "
        f"| {row.data} | {row.seconds:.1f} |"
        for row in rows
    ]
    return "\n".join([*lines, "", " · ".join(f"{name} {value}" for name, value in machine().items()), ""])


if __name__ == "__main__":
    main()
