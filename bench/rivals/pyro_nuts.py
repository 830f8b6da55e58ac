"""Pyro's NUTS on the same posteriors, one example after another: it has no notion of many.

python bench/rivals/pyro_nuts.py PROBLEM.npz FOUND.npz '{"data": 16, …}', by `bench.outside`. The potential is given
as a function, which is faster than a model that Pyro traces in every step; diagonal mass matrix and step size adapt.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pyro
import torch
import torch.nn.functional as F
from pyro.infer import MCMC, NUTS


class Potential:
    """−log p(x, z) up to a constant, and how often it was asked for, with a gradient each time."""

    def __init__(self, x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> None:
        self.x, self.w1, self.b1, self.w2, self.b2 = x, w1.T.contiguous(), b1, w2.T.contiguous(), b2
        self.calls = 0

    def __call__(self, parameters: dict[str, Any]) -> Any:
        self.calls += 1
        z = parameters["z"]
        o = F.linear(F.linear(z, self.w1, self.b1).relu(), self.w2, self.b2)
        return F.softplus(o).sum() - self.x @ o + 0.5 * z @ z


class Stopwatch:
    """When the warm-up ended, and after how many gradients each draw came."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.warm_at = self.begin = time.perf_counter()
        self.calls: list[int] = []

    def __call__(self, kernel: Any, sample: Any, stage: str, index: int) -> None:
        if stage.startswith("Warmup"):
            self.warm_at = time.perf_counter()
            self.calls = [self.potential.calls]
        else:
            self.calls.append(self.potential.calls)


def main() -> None:
    """Does the task that the third argument describes."""
    problem_path, found_path, text = sys.argv[1:]
    task = json.loads(text)
    torch.set_num_threads(task["threads"])
    pyro.set_rng_seed(task["seed"])
    with np.load(problem_path) as arrays:
        problem = {name: torch.from_numpy(array) for name, array in arrays.items()}
    weights = [problem[name] for name in ("w1", "b1", "w2", "b2")]
    draws, gradients, divergent, warmup_seconds, seconds = [], [], 0, 0.0, 0.0
    for index in range(task["data"]):
        potential = Potential(problem["x"][index], *weights)
        start = torch.normal(problem["mean"][index], problem["stddev"][index])
        watch = Stopwatch(potential)
        mcmc = MCMC(
            NUTS(potential_fn=potential, jit_compile=False),
            num_samples=task["draws"],
            warmup_steps=task["warmup"],
            initial_params={"z": start},
            hook_fn=watch,
            disable_progbar=True,
        )
        mcmc.run()
        seconds += time.perf_counter() - watch.warm_at
        warmup_seconds += watch.warm_at - watch.begin
        draws.append(mcmc.get_samples()["z"].numpy())
        gradients.append(np.diff(watch.calls))
        divergent += len(mcmc.diagnostics()["divergences"]["chain 0"])
    np.savez(
        found_path,
        z=np.stack(draws, 1)[:, None],  # (draws, 1 chain, data, dim)
        num_gradients=np.stack(gradients, 1)[:, None],
        divergent=divergent / (task["data"] * task["draws"]),
        warmup_seconds=warmup_seconds,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
