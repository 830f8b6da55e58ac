"""Importance sampling in Pyro: `RenyiELBO` with α = 0, which is the importance-weighted bound, all particles at once.

Its loss is the sum over the data it is given, so that some data at a time bound the memory and the sums add up.
"""

# Pyro's classes carry no annotations
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO
from torch import Tensor

from bench.worker import fastest, serve, settings

__all__ = ["main"]


def main() -> None:
    """Serves: problem (an .npz file), num_samples, draws (of all data, whose rows are
    as many as those at a time; to choose from), calls of a turn, seed."""
    asked = settings()
    pyro.set_rng_seed(asked["seed"])
    pyro.enable_validation(False)
    with np.load(asked["problem"]) as arrays:
        w1, b1, w2, b2, x, mean, stddev = (
            torch.from_numpy(arrays[name]) for name in ("w1", "b1", "w2", "b2", "x", "mean", "stddev")
        )

    def model(x: Tensor, mean: Tensor, stddev: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(mean), torch.ones_like(mean)).to_event(1))
            logits = torch.relu(z @ w1 + b1) @ w2 + b2
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor, mean: Tensor, stddev: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, stddev).to_event(1))

    k = asked["num_samples"]
    bound = RenyiELBO(alpha=0, num_particles=k, vectorize_particles=True, max_plate_nesting=1)

    def estimate(draws: int) -> float:
        at_once = max(1, draws * len(x) // k)
        parts = (slice(start, start + at_once) for start in range(0, len(x), at_once))
        return sum(-bound.loss(model, guide, x[rows], mean[rows], stddev[rows]) for rows in parts) / len(x)

    draws = fastest(estimate, asked["draws"])

    def turn() -> Mapping[str, float]:
        for _ in range(asked["calls"]):
            found = estimate(draws)
        return {"value": found}

    serve(turn)


if __name__ == "__main__":
    main()
