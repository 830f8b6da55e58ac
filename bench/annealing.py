"""elbowroom's side of the race of annealed importance sampling: `er.ais`, as a user calls it, with a plan.

The plan (temperatures and step sizes that are given) leaves out the pilot run, which the plain loop has not got, and
the start is the prior, which it has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

import elbowroom as er
from bench.problem import build
from bench.worker import serve, settings
from elbowroom.inference.annealing.ais import AnnealingPlan
from elbowroom.inference.annealing.tempering import temperature_schedule
from elbowroom.samplers.hmc import HMC

__all__ = ["main"]


def main() -> None:
    """Serves: images, data, seed, temperatures, chains, leapfrogs, step_size, jitter, precision."""
    asked = settings()
    model, _, batch = build(asked["images"], data=asked["data"], seed=asked["seed"])
    betas = temperature_schedule(asked["temperatures"], "linear")
    plan = AnnealingPlan(betas, torch.full((asked["temperatures"] - 1,), asked["step_size"]))
    kernel = HMC(asked["leapfrogs"], jitter=asked["jitter"])
    generator = torch.Generator().manual_seed(asked["seed"])

    def turn() -> Mapping[str, float]:
        found = er.ais(
            model, batch, start="prior", temperatures=plan, chains=asked["chains"], kernel=kernel,
            precision=asked["precision"], generator=generator,
        )  # fmt: skip
        return {"value": float(found.log_evidence.mean()), "acceptance": float(found.acceptance.mean())}

    serve(turn)


if __name__ == "__main__":
    main()
