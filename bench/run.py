"""Runs the benchmarks and writes bench/RESULTS.md and bench/results.json: ``make bench``.

python -m bench.run [--rounds 5] [--rows 60000] [--threads 2] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.machine import machine
from bench.pixels import Pixels, read_pixels
from bench.training import BASELINE, OBJECTIVE, Contender, race

HERE = Path(__file__).parent
FULL_ROUNDS = 5  # fewer say nothing about spread


def main() -> None:
    """Measures, prints, and writes what a full run found."""
    options = _options()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    pixels = read_pixels(options.rows)
    print(f"{len(pixels.images):,} images ({pixels.name}), {options.rounds} rounds after a warm-up …", flush=True)
    contenders = race(pixels.images, rounds=options.rounds)
    page = _page(contenders, pixels, options.rounds)
    print(page)
    complete = options.rows is None and options.rounds >= FULL_ROUNDS
    out = options.out or (HERE if complete else None)
    if out is None:
        print("A short run: nothing was written. Give --out to keep it.")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "RESULTS.md").write_text(page, encoding="utf-8")
    (out / "results.json").write_text(json.dumps(_record(contenders, pixels), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out / 'RESULTS.md'} and {out / 'results.json'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Seconds per epoch, side by side.")
    parser.add_argument("--rounds", type=int, default=FULL_ROUNDS, help="epochs of each contender")
    parser.add_argument("--rows", type=int, help="images to train on (all 60,000)")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's choice)")
    parser.add_argument("--out", type=Path, help="where to write (this folder, after a full run)")
    options = parser.parse_args()
    if options.rounds < 1 or (options.rows is not None and options.rows < 1):
        parser.error("--rounds and --rows are at least 1")
    return options


def _page(contenders: list[Contender], pixels: Pixels, rounds: int) -> str:
    baseline = next(contender for contender in contenders if contender.name == BASELINE)
    lines = [
        "# Seconds per epoch",
        "",
        f"784-400-20, batches of 128, Adam 1e-3, cross-entropy and closed-form KL, {len(pixels.images):,} grey images:",
        f"{pixels.name}. The contenders took turns in one process, {rounds} rounds after a warm-up; a ratio is formed",
        "within a round. Medians, with the least and the greatest in brackets. `make bench` writes this page.",
        "",
        f"| | seconds per epoch | relative to the {BASELINE} | loss of the last epoch |",
        "|---|---|---|---|",
    ]
    for contender in contenders:
        seconds, (middle, least, most) = contender.seconds, contender.ratios(baseline)
        lines.append(
            f"| {contender.name} | {median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) "
            f"| {middle:.2f} ({least:.2f}–{most:.2f}) | {contender.losses[-1]:.1f} |"
        )
    by_name = {contender.name: contender for contender in contenders}
    middle, least, most = contenders[0].ratios(by_name[OBJECTIVE])
    about = machine()
    lines += [
        "",
        f"The engine over a loop around its own objective: {middle:.2f} ({least:.2f}–{most:.2f}).",
        "",
        "elbowroom is timed as `elbowroom.train` runs, records included; a checkpoint comes every 120 seconds of",
        "this race's clock, so in a race of five rounds or so none falls due, and its cost is not in these",
        "figures. The others keep no records. The last column shows that all did the same work, up to the draws",
        "that each makes for itself, in nats per datum (the cross-entropy of grey pixels: not a log-likelihood).",
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in about.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _record(contenders: list[Contender], pixels: Pixels) -> dict[str, Any]:
    return {
        "data": pixels.name,
        "rows": len(pixels.images),
        "unit": "seconds per epoch",
        "machine": machine(),
        "contenders": {c.name: {"seconds": c.seconds, "losses": c.losses} for c in contenders},
    }


if __name__ == "__main__":
    main()
