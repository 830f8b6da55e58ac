"""Speed of training and evaluation beside other libraries; writes bench/RESULTS.md and results.json. ``make bench``.

python -m bench.run [--only training|quantiser|importance|ais] [--rounds 5] [--rows 60000] [--threads 2]
                    [--rivals-python .venv-rivals/bin/python] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contenders import PARTS, Part, Rivals, part
from bench.machine import bf16_instructions, machine
from bench.outside import export
from bench.page import page, section
from bench.pixels import read_pixels
from bench.problem import build
from bench.turns import Result, limit_processors, race

__all__ = ["main"]

HERE = Path(__file__).parent
FULL_ROUNDS = 5  # fewer say nothing about spread
_EVALUATED = 100  # data of the largest evaluation


def main() -> None:
    """Measures, prints, and writes what a full run found."""
    options = _options()
    limit_processors(options.threads)
    torch.set_num_threads(options.threads)
    rivals = Rivals.at(options.rivals_python)
    about = machine() | {"bf16 instructions": bf16_instructions(), "load before": f"{os.getloadavg()[0]:.1f}"}
    pixels = read_pixels(options.rows)
    print(f"{len(pixels.images):,} images ({pixels.name}), {options.rounds} rounds after a warm-up …", flush=True)
    races: list[tuple[Part, list[Result]]] = []
    with tempfile.TemporaryDirectory() as folder:
        images, problem = Path(folder) / "images.npy", Path(folder) / "problem.npz"
        np.save(images, pixels.images)
        np.savez(problem, **dict[str, Any](export(*build(images, data=_EVALUATED, seed=0))))
        for name in PARTS if options.only is None else (options.only,):
            entered = part(
                name,
                rivals,
                images=images,
                problem=problem,
                rows=len(pixels.images),
                rounds=options.rounds,
                short=options.rows is not None,
            )
            print(f"{name} …" + "".join(f"\n  left out: {one}" for one in entered.missing), flush=True)
            races.append((entered, race(entered.contenders, rounds=options.rounds, threads=options.threads)))
    sections = [section(entered, results, data=pixels.name) for entered, results in races]
    text = page(sections, rounds=options.rounds, about=about, rivals=rivals.versions)
    print("\n" + text)
    found = {
        "data": pixels.name,
        "rows": len(pixels.images),
        "machine": about,
        "rivals": dict(rivals.versions),
        "races": {entered.name: _record(entered, results) for entered, results in races},
    }
    out = options.out or (HERE if _complete(options, races) else None)
    if out is None:
        print("Not a full run: nothing was written. Give --out to keep it.")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "RESULTS.md").write_text(text, encoding="utf-8")
    (out / "results.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {out / 'RESULTS.md'} and {out / 'results.json'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description="Speed of training and evaluation beside other libraries, in turns."
    )
    parser.add_argument("--only", choices=PARTS, help="one part of the report")
    parser.add_argument("--rounds", type=int, default=FULL_ROUNDS, help="turns of each contender")
    parser.add_argument("--rows", type=int, help="images to train on (all 60,000); shortens the evaluations, too")
    parser.add_argument("--threads", type=int, default=2, help="and processors, of every contender")
    parser.add_argument("--rivals-python", type=Path, default=Path(".venv-rivals/bin/python"), help="their interpreter")
    parser.add_argument("--out", type=Path, help="where to write (this folder, after a full run)")
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1 or (options.rows is not None and options.rows < 1):
        parser.error("--rounds, --threads and --rows are at least 1")
    return options


def _complete(options: argparse.Namespace, races: list[tuple[Part, list[Result]]]) -> bool:
    """Whether the run is one to publish."""
    whole = options.only is None and options.rows is None and options.rounds >= FULL_ROUNDS
    return whole and not any(
        "environment" in one or "installed" in one for entered, _ in races for one in entered.missing
    )


def _record(entered: Part, results: list[Result]) -> dict[str, Any]:
    return {
        "unit": entered.unit,
        "work of a turn": entered.work,
        "left out": entered.missing,
        "contenders": {result.name: asdict(result) for result in results},
    }


if __name__ == "__main__":
    main()
