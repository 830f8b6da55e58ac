"""Variance and bias of every gradient estimator on a trained run: ``python -m bench.gradients RUN``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import elbowroom as er
from elbowroom.studies.gradient_variance import GradientStatistics

ESTIMATORS = {
    "elbo": (1, ["pathwise", "stl", "score-function", "naive"]),
    "elbo, 10 draws": (10, ["pathwise", "stl", "score-function"]),
    "iwae, k = 10": (10, ["pathwise", "stl", "dreg", "score-function"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--draws", type=int, default=500, help="gradients per estimator")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()
    run = er.load(arguments.run)
    batch = next(run.dataset().batches("train", arguments.batch_size))
    print("| objective | estimator | wrt | variance | signal / noise | bias z |\n|---|---|---|---|---|---|")
    first: list[GradientStatistics] = []
    for title, (num_samples, estimators) in ESTIMATORS.items():
        study = er.gradient_study(
            run.model,
            run.guide,
            batch,
            estimators=estimators,
            objective=title[:4],
            num_samples=num_samples,
            kl="auto",
            draws=arguments.draws,
            generator=torch.Generator().manual_seed(0),
        )
        first = first or study
        for one in study:
            print(f"| {title} | {one.estimator} | {one.wrt} | {one.variance:.3g} | {one.snr:.2g} | {one.bias_z:+.1f} |")
    path = run.folder.figures / "gradients.png"
    er.plots.gradient_figure([one._asdict() for one in first], path=path)
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
