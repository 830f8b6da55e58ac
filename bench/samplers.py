"""Samplers on the posteriors of a trained model: writes bench/SAMPLERS.md and bench/samplers.json.

python -m bench.samplers RUN [--rivals-python .venv-rivals/bin/python] [--only throughput|draws|e-step] [--out FOLDER]

RUN is a run folder of the recipe `mnist`, or any other with a Bernoulli decoder of one hidden layer. The rivals live in
an environment of their own, made from bench/requirements-samplers.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

import elbowroom as er
from bench import effective, leapfrogs
from bench.effective import Plan, Result
from bench.machine import bf16_instructions, machine
from bench.outside import Rivals, export

HERE = Path(__file__).parent
PARTS = ("throughput", "draws", "e-step")
FLOATING_POINT_OPERATIONS = 4  # of a gradient, for each weight: multiply and add, forwards and backwards


def main() -> None:
    """Measures, prints, and writes what a full run found."""
    options = _options()
    torch.set_num_threads(options.threads)
    found = _measure(options)
    page = _page(found)
    print("\n" + page)
    out = options.out or (HERE if _complete(options) else None)
    if out is None:
        print("Not a full run: nothing was written. Give --out to keep it.")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "SAMPLERS.md").write_text(page, encoding="utf-8")
    (out / "samplers.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out / 'SAMPLERS.md'} and {out / 'samplers.json'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.samplers", description="Samplers, side by side.")
    parser.add_argument("run", type=Path, help="run folder of a trained model")
    parser.add_argument("--only", choices=PARTS, help="one part of the report")
    parser.add_argument("--rivals-python", type=Path, default=Path(".venv-rivals/bin/python"), help="their interpreter")
    parser.add_argument("--data", type=int, default=256, help="test examples whose posteriors are drawn from")
    parser.add_argument("--draws", type=int, default=400, help="of each chain")
    parser.add_argument("--chains", type=int, default=4, help="of each example")
    parser.add_argument("--warmup", type=int, default=200, help="elbowroom's transitions before the first draw")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the headline contenders")
    parser.add_argument("--metrics-data", type=int, default=128, help="the first so many, for the other metrics")
    parser.add_argument("--blackjax-data", type=int, default=64, help="the first so many of the data")
    parser.add_argument("--blackjax-warmup", type=int, default=300, help="steps of its window adaptation")
    parser.add_argument("--pyro-data", type=int, default=16, help="the first so many of the data")
    parser.add_argument("--pyro-draws", type=int, default=200, help="of its one chain, and as many to warm up")
    parser.add_argument("--e-step-data", type=int, default=60_000, help="training and validation data")
    parser.add_argument("--threads", type=int, default=2, help="of torch here and in Pyro; XLA takes all cores")
    parser.add_argument("--out", type=Path, help="where to write (this folder, after a full run)")
    options = parser.parse_args()
    if not options.rivals_python.is_file():
        print(f"{options.rivals_python} is not there: without rivals (see bench/README.md).")
        options.rivals_python = None
    return options


def _complete(options: argparse.Namespace) -> bool:
    """Whether the run is one to publish."""
    enough = options.data >= 256 and options.draws >= 400 and options.e_step_data >= 60_000 and options.rounds >= 2
    return enough and options.only is None and options.rivals_python is not None


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    run = er.load(options.run)
    batch = next(run.dataset().batches("test", options.data, points=options.data))
    arrays = export(run.model, run.guide, batch)
    plan = Plan(
        draws=options.draws,
        chains=options.chains,
        warmup=options.warmup,
        rounds=options.rounds,
        metrics_data=min(options.metrics_data, len(batch)),
        blackjax_data=min(options.blackjax_data, len(batch)),
        blackjax_warmup=options.blackjax_warmup,
        pyro_data=min(options.pyro_data, len(batch)),
        pyro_draws=options.pyro_draws,
    )
    weights = arrays["w1"].size + arrays["w2"].size
    found: dict[str, Any] = {
        "data": run.dataset().name,
        "count": len(batch),
        "layers": [*arrays["w1"].shape, arrays["w2"].shape[1]],
        "flop_per_gradient": FLOATING_POINT_OPERATIONS * weights,
        "machine": {**machine(), "bf16 instructions": bf16_instructions(), "load before": f"{os.getloadavg()[0]:.1f}"},
        "plan": asdict(plan),
    }
    with tempfile.TemporaryDirectory() as folder:
        rivals = None
        if options.rivals_python is not None:
            rivals = Rivals(options.rivals_python, Path(folder), arrays, threads=options.threads)
        if options.only in (None, "throughput"):
            print("Gradients per second …", flush=True)
            found["throughput"] = leapfrogs.throughput(
                run.model, run.guide, batch, chains=options.chains, rounds=2 * options.rounds, rivals=rivals
            )
        if options.only in (None, "e-step"):
            print("E-step …", flush=True)
            visits = leapfrogs.e_step(
                run.model, run.guide, run.dataset(), points=options.e_step_data, rounds=1 + options.rounds
            )
            found["e-step"] = {name: visit._asdict() for name, visit in visits.items()}
        if options.only in (None, "draws"):
            print("Effective samples per second …", flush=True)
            results = effective.race(run.model, run.guide, batch, plan, rivals)
            found["draws"] = {name: [result._asdict() for result in turns] for name, turns in results.items()}
    return found


def _page(found: dict[str, Any]) -> str:
    latent, hidden, event = found["layers"]
    lines = [
        "# Benchmarks: samplers",
        "",
        f"Posteriors of {found['count']} test examples of {found['data']} under a trained Bernoulli decoder,",
        f"{latent}-{hidden}-{event}. Everything here was measured in one run, one process at a time. `bench/README.md`",
        "says what the contenders are and how the figures are made.",
        "",
    ]
    if "throughput" in found:
        lines += _throughput_section(found)
    if "draws" in found:
        lines += _draws_section(found)
    if "e-step" in found:
        lines += _e_step_section(found)
    about = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
    return "\n".join([*lines, f"Machine: {about}.", ""])


def _throughput_section(found: dict[str, Any]) -> list[str]:
    rates: dict[str, list[float]] = found["throughput"]
    products, rival = rates[leapfrogs.SGEMM], rates.get(leapfrogs.BLACKJAX)
    gflops = median(products) * found["flop_per_gradient"] / 1e9
    chains = found["plan"]["chains"]
    lines = [
        "## Gradients per second",
        "",
        f"{chains} × {found['count']} chains at once. A gradient is {found['flop_per_gradient'] / 1e6:.3f} MFLOP; the "
        f"products alone reach {gflops:.0f} GFLOP/s.",
        "",
        "| | gradients per second | of the sgemm rate | relative to BlackJAX |",
        "|---|---|---|---|",
    ]
    for name, own in rates.items():
        paired = own if len(own) == len(products) else [median(own)] * len(products)
        fractions = [one / best for one, best in zip(paired, products, strict=True)]
        relative = f"{median(own) / median(rival):.2f}" if rival else "–"
        lines.append(f"| {name} | {_spread(own)} | {median(fractions):.2f} | {relative} |")
    return [*lines, ""]


def _draws_section(found: dict[str, Any]) -> list[str]:
    turns = {name: [Result(**one) for one in results] for name, results in found["draws"].items()}
    plan, rivals = found["plan"], turns.get(effective.BLACKJAX)
    baseline = median(one.rate for one in rivals) if rivals else None
    tail_baseline = median(one.tail_rate for one in rivals) if rivals else None
    lines = [
        "## Effective samples per second",
        "",
        f"elbowroom and BlackJAX make {plan['chains']} × {plan['draws']} draws of each example after "
        f"{plan['warmup']} and {plan['blackjax_warmup']} steps of warm-up; Pyro "
        f"makes one chain of {plan['pyro_draws']} after as many.",
        "",
        "| sampler | data | bulk ESS/s | × BlackJAX | tail ESS/s | × BlackJAX |"
        " bulk ESS/s, warm-up included | × BlackJAX | gradients per effective sample | bulk / tail ESS of draws |"
        " seconds: warm-up + draws | acceptance |"
        " divergent | disagreement |",
        "|" + "---|" * 14,
    ]
    warm_baseline = median(one.rate_with_warmup for one in rivals) if rivals else None
    for name, results in turns.items():
        one = results[0]
        rate, warm = median(r.rate for r in results), median(r.rate_with_warmup for r in results)
        lines.append(
            f"| {name} | {one.data} | {_spread([r.rate for r in results])} | {_times(rate, baseline)} "
            f"| {median(r.tail_rate for r in results):,.0f} "
            f"| {_times(median(r.tail_rate for r in results), tail_baseline)} "
            f"| {warm:,.0f} | {_times(warm, warm_baseline)} "
            f"| {median(r.gradients_per_sample for r in results):.1f} "
            f"| {one.ess_bulk:,.0f} / {one.ess_tail:,.0f} of {one.draws:,} "
            f"| {one.warmup_seconds:.1f} + {one.seconds:.1f} | {_or_dash(one.acceptance)} "
            f"| {one.divergent:.1%} | {_or_dash(one.disagreement)} |"
        )
    if rivals:
        seconds = median(one.compile_seconds for one in rivals)
        lines += ["", f"BlackJAX's functions took {seconds:.0f} s to compile, which are in none of the figures."]
    return [*lines, ""]


def _e_step_section(found: dict[str, Any]) -> list[str]:
    lines = [
        "## An E-step",
        "",
        f"One chain for each example, {leapfrogs.NUM_STEPS} leapfrog steps and the refreshing of caches, as after a",
        "change of the weights; the guide's standard deviations as the metric; data in memory.",
        "",
        "| gradients in | data | seconds | acceptance |",
        "|---|---|---|---|",
    ]
    for name, visit in found["e-step"].items():
        spread = f"{median(visit['seconds']):.2f} ({min(visit['seconds']):.2f}–{max(visit['seconds']):.2f})"
        lines.append(f"| {name} | {visit['data']:,} | {spread} | {visit['acceptance']:.2f} |")
    return [*lines, ""]


def _spread(values: list[float]) -> str:
    spread = f" ({min(values):,.0f}–{max(values):,.0f})" if len(values) > 1 else ""
    return f"{median(values):,.0f}{spread}"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _times(rate: float, baseline: float | None) -> str:
    return "–" if baseline is None else f"{rate / baseline:.1f}" if rate >= baseline else f"{rate / baseline:.3f}"


if __name__ == "__main__":
    main()
