"""What a memory-mapped file costs beside an array in memory, and how long elbowroom takes to start.

python -m bench.memory [--gib 2] [--steps 500] [--rounds 3] [--threads 2] [--folder FOLDER] [--out FILE]

A file of random bytes, shape (n, 784), is generated, and a 784-400-20 network is trained for the same number of steps
from the file and from an array of its first rows, as many as MNIST has, in fresh processes that take turns. Each reads
of itself, at its end, the most that was ever resident (VmHWM) and what is resident now: anonymous memory, and pages of
files, which the system takes back when it wants them. The file is deleted. Start-up is the best of five.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.machine import machine

__all__ = ["main", "measure", "report", "startup"]

WIDTH, ROWS_IN_MEMORY, BATCH = 784, 60_000, 128
_CHUNK_ROWS, _REPORT = 50_000, 50
_NUMBERS = ("VmHWM", "RssAnon", "RssFile")  # of /proc/self/status
#: what is wanted: GiB above the run from memory, its speed, seconds
MOST_ABOVE, LEAST_SPEED, MOST_HELP, MOST_IMPORT = 1.0, 0.8, 0.4, 0.3


def generate(path: Path, rows: int) -> None:
    """Writes random bytes, shape (rows, 784), a part at a time."""
    generator = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, WIDTH))
    for first in range(0, rows, _CHUNK_ROWS):
        part = array[first : first + _CHUNK_ROWS]
        part[:] = generator.integers(0, 256, part.shape, dtype=np.uint8)
    array.flush()


def measure(path: Path, *, mapped: bool, steps: int) -> dict[str, float]:
    """Trains in this process.

    Returns:
        Steps per second after the first report, seconds in all, and bytes that are and were resident.
    """
    import elbowroom as er

    source = path if mapped else np.array(np.load(path, mmap_mode="r")[:ROWS_IN_MEMORY])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = er.train(
            source,
            out=Path(folder) / "run",
            observers=(),
            data={"binarization": "dynamic", "test": 0, "validation": 0},
            model={"latent_dim": 20, "encoder": {"hidden": [400]}, "decoder": {"hidden": [400]}},
            train={"steps": steps, "batch_size": BATCH, "report_every": _REPORT, "checkpoint_seconds": 3600},
        )
        whole = time.perf_counter() - began
        first, *_, last = run.history
        speed = (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return {"speed": speed, "seconds": whole, **{name: int(lines[name].split()[0]) * 1024 for name in _NUMBERS}}


def _in_a_fresh_process(path: Path, *, mapped: bool, steps: int, threads: int) -> dict[str, float]:
    how = json.dumps({"path": str(path), "mapped": mapped, "steps": steps})
    said = subprocess.run(
        [sys.executable, "-m", "bench.memory", "--one", how],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )
    found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return found


def startup(times: int = 5) -> dict[str, float]:
    """Seconds, each the best of several: ``elbowroom --help``, and ``import elbowroom`` beyond ``import torch``."""

    def best(*command: str) -> float:
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    torch, both = (best(sys.executable, "-c", f"import {names}") for names in ("torch", "torch, elbowroom"))
    return {"help": best(str(Path(sys.executable).with_name("elbowroom")), "--help"), "import": both - torch}


def report(
    rows: int, steps: int, runs: Sequence[tuple[dict[str, float], dict[str, float]]], seconds: dict[str, float]
) -> str:
    """The page, from pairs (from memory, from the file), one for each round."""
    memory, file = ([pair[at] for pair in runs] for at in (0, 1))

    def gib(found: Sequence[dict[str, float]], name: str) -> float:
        return max(each[name] for each in found) / 2**30

    speeds = [one["speed"] / other["speed"] for other, one in runs]
    above = gib(file, "VmHWM") - gib(memory, "VmHWM")
    lines = [
        "# Benchmarks: memory and start-up",
        "",
        f"A file of {rows * WIDTH / 2**30:.1f} GiB, {rows:,} rows of {WIDTH} bytes, memory-mapped, beside an array of "
        f"{ROWS_IN_MEMORY:,} of them:",
        f"784-400-20 for {steps:,} steps of {BATCH} data, {len(runs)} rounds in turns. Sizes are the largest of the "
        "rounds, in GiB; the last two are of the end.",
        "",
        "| trained from | steps per second | seconds with loading | resident at most | anonymous | pages of files |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in (("an array in memory", memory), ("the file", file)):
        speed, whole = (median(each[what] for each in found) for what in ("speed", "seconds"))
        sizes = " | ".join(f"{gib(found, what):.2f}" for what in _NUMBERS)
        lines.append(f"| {name} | {speed:.0f} | {whole:.1f} | {sizes} |")
    targets = (
        ("resident above the run from memory, GiB", above, "at most", MOST_ABOVE, above <= MOST_ABOVE),
        ("speed by that from memory", median(speeds), "at least", LEAST_SPEED, median(speeds) >= LEAST_SPEED),
        ("`elbowroom --help`, seconds", seconds["help"], "at most", MOST_HELP, seconds["help"] <= MOST_HELP),
        ("`import elbowroom` over `import torch`", seconds["import"], "at most", MOST_IMPORT,
         seconds["import"] <= MOST_IMPORT),
    )  # fmt: skip
    lines += ["", "| | found | wanted | |", "|---|---:|---:|---|"]
    lines += [f"| {w} | {v:.2f} | {side} {t} | {'met' if ok else 'missed'} |" for w, v, side, t, ok in targets]
    lines += ["", f"The ratio of speeds lay between {min(speeds):.2f} and {max(speeds):.2f}.", ""]
    return "\n".join([*lines, " · ".join(f"{name}: {value}" for name, value in machine().items()), ""])


def main(argv: Sequence[str] | None = None) -> None:
    """Generates, measures, writes the page, and deletes the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.0, help="of the file")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="on a disk with room; the system's unless given")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("MEMORY.md"))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.one is not None:
        one: dict[str, Any] = given.one
        print(json.dumps(measure(Path(one["path"]), mapped=one["mapped"], steps=one["steps"])))
        return
    if given.steps < 2 * _REPORT:
        parser.error(f"--steps is {given.steps}, but speed is measured from step {_REPORT} on: give {2 * _REPORT}.")
    rows = max(ROWS_IN_MEMORY, round(given.gib * 2**30 / WIDTH))
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "rows.npy"
        generate(path, rows)
        runs = []
        for number in range(given.rounds):
            how = {"steps": given.steps, "threads": given.threads}
            pair = (_in_a_fresh_process(path, mapped=False, **how), _in_a_fresh_process(path, mapped=True, **how))
            runs.append(pair)
            print(f"round {number + 1}, steps per second: {pair[0]['speed']:.0f} from memory, {pair[1]['speed']:.0f} "
                  "from the file", flush=True)  # fmt: skip
    page = report(rows, given.steps, runs, startup())
    print(page)
    given.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
