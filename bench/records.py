"""Records: how good a likelihood is after so many minutes of training. Writes bench/RECORDS.md and bench/records.json.

python -m bench.records [--recipes mnist-5min,mnist-15min,mnist-45min] [--runs runs/records] [--threads 2] [--k 5000]

Every recipe is trained by the command that a user would give, under a wall clock that counts all of it, start-up and
checkpoints too; then the bound from k draws of the guide is measured on all test examples. What is in the folder
already is not done again, and records of other recipes stay: a record can be measured today and another added
tomorrow. A bound from fewer draws, which is lower, serves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.machine import machine
from elbowroom.running.folder import RunFolder

__all__ = ["main"]

HERE = Path(__file__).parent
TEST = 10_000  # digits
RECIPES = "mnist-5min,mnist-15min,mnist-45min"

#: bound on log p(x) with k = 5,000, nats per digit of dynamic MNIST; who published it
PUBLISHED = (
    (-86.76, "VAE, one layer (Burda et al. 2016)"),
    (-84.78, "IWAE, one layer, k = 50 (Burda et al. 2016)"),
    (-82.90, "IWAE, two layers, k = 50 (Burda et al. 2016)"),
    (-82.43, "VAE with VampPrior, one layer (Tomczak & Welling 2018)"),
    (-82.09, "Exemplar VAE, one layer (Norouzi et al. 2020)"),
    (-81.22, "Exemplar VAE, two layers (Norouzi et al. 2020)"),
    (-79.58, "Exemplar VAE, two layers of convolutions (Norouzi et al. 2020)"),
    (-79.10, "VAE with inverse autoregressive flow (Kingma et al. 2016)"),
    (-78.53, "VLAE, autoregressive decoder (Chen et al. 2017)"),
    (-78.41, "BIVA (Maaløe et al. 2019)"),
    (-78.01, "NVAE (Vahdat & Kautz 2020)"),
)


def main() -> None:
    """Trains and measures what is missing, then writes the page."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.runs.mkdir(parents=True, exist_ok=True)
    out = options.out or HERE
    kept = out / "records.json"
    known = (
        {row["recipe"]: row for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]} if kept.is_file() else {}
    )
    for recipe in options.recipes.split(","):
        folder = options.runs / recipe
        clock = options.runs / f"{recipe}.json"
        if not clock.is_file():
            clock.write_text(json.dumps(_train(recipe, folder, options.threads)), encoding="utf-8")
        trained = json.loads(clock.read_text(encoding="utf-8"))
        known[recipe] = {"recipe": recipe, **trained, **_measure(folder, options.k)}
        print(known[recipe], flush=True)
    rows = sorted(known.values(), key=lambda row: float(row["iwae"]))
    text = page(rows)
    print("\n" + text)
    (out / "RECORDS.md").write_text(text, encoding="utf-8")
    kept.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.records", description="log p(x) for a given training time.")
    parser.add_argument("--recipes", default=RECIPES, help="with commas between")
    parser.add_argument("--runs", type=Path, default=Path("runs/records"), help="where runs are kept")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--k", type=int, default=5000, help="draws of the guide per example")
    parser.add_argument("--out", type=Path, help="where to write (this folder)")
    return parser.parse_args()


def _train(recipe: str, folder: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "elbowroom", "train", recipe, "--out", str(folder)]
    begin, before = time.perf_counter(), _processor_seconds()
    subprocess.run([*command, "--runtime.threads", str(threads)], check=True)
    spent = _processor_seconds() - before
    return {"seconds": time.perf_counter() - begin, "processor seconds": spent, "threads": threads}


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _measure(folder: Path, k: int) -> dict[str, Any]:
    """ELBO and importance-weighted bound of all test examples, from evaluation.json if they are in it."""
    found = _results(folder, k)
    if found is None:
        command = [sys.executable, "-m", "elbowroom", "evaluate", str(folder), "--methods", "elbo,iwae"]
        subprocess.run([*command, "--k", str(k), "--points", str(TEST)], check=True)
        found = _results(folder, k)
    if found is None:
        raise SystemExit(f"{folder / 'evaluation.json'} holds no bound from {k} draws on all test examples.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    return {**found, "seed": config["train"]["seed"]}


def _results(folder: Path, k: int) -> dict[str, Any] | None:
    """Bounds on all test examples from evaluation.json, of the most draws up to k; None where there are none."""
    whole = [
        result for result in RunFolder(folder).evaluations() if (result["split"], result["points"]) == ("test", TEST)
    ]
    elbos = [result for result in whole if result["name"] == "elbo"]
    bounds = [result for result in whole if result["name"] == "iwae" and result["asked"]["k"] <= k]
    if not (elbos and bounds):
        return None
    bound = max(bounds, key=lambda result: result["asked"]["k"])
    return {
        "elbo": elbos[-1]["value"],
        "elbo stderr": elbos[-1]["stderr"],
        "iwae": bound["value"],
        "iwae stderr": bound["stderr"],
        "k": bound["asked"]["k"],
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The table, with the published figures that each row passes."""
    lines = [
        "# Benchmarks: log p(x) for a given training time",
        "",
        f"Dynamic MNIST, all 60,000 training digits, measured on all {TEST:,} test digits by the bound from k draws",
        "of the guide (nats per digit, higher is better). Training is timed from the command to its end. Settings of",
        "perceptrons were chosen on a validation split of 5,000 training digits, with the test digits unseen; those of",
        "`mnist-ar-…` and `mnist-hierarchy-…` follow trials that were measured on test digits. `make bench-records`",
        "trains, measures and writes this page.",
        "",
        "| recipe | training, minutes | of processors | threads | seed | ELBO | bound | k | better than |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spent = f"{row['processor seconds'] / 60:.1f}" if "processor seconds" in row else ""
        passed = [name for value, name in PUBLISHED if row["iwae"] > value]
        lines.append(
            f"| `{row['recipe']}` | {row['seconds'] / 60:.1f} | {spent} | {row['threads']} | {row['seed']} "
            f"| {row['elbo']:.2f} ± {row['elbo stderr']:.2f} | **{row['iwae']:.2f} ± {row['iwae stderr']:.2f}** "
            f"| {row['k']:,} | {passed[-1] if passed else ''} |"
        )
    lines += ["", "| published, the same protocol | bound, k = 5,000 |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for value, name in PUBLISHED]
    about = machine() | {"threads": "as in the table"}
    return "\n".join([*lines, "", "Machine: " + ", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""])


if __name__ == "__main__":
    main()
