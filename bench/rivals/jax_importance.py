"""Importance sampling in JAX: the log weight of one draw, vmapped over data and draws, compiled with its loop.

NumPyro's distributions would trace to the same operations; written out, there is nothing of theirs to wait for.
Compiled by the warm-up. XLA takes as many threads as this process may use processors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.worker import fastest, serve, settings

__all__ = ["main"]


def main() -> None:
    """Serves: problem (an .npz file), num_samples, draws (at a time, to choose from), calls of a turn, seed."""
    asked = settings()
    with np.load(asked["problem"]) as arrays:
        problem = {name: jnp.asarray(arrays[name]) for name in arrays.files}

    def log_weight(eps: Any, x: Any, mean: Any, stddev: Any, weights: Any) -> Any:
        w1, b1, w2, b2 = weights
        z = mean + stddev * eps
        logits = jax.nn.relu(z @ w1 + b1) @ w2 + b2
        log_likelihood = jnp.sum(x * logits - jax.nn.softplus(logits))
        return log_likelihood + jnp.sum(0.5 * (eps**2 - z**2) + jnp.log(stddev))

    every = jax.vmap(jax.vmap(log_weight, in_axes=(0, 0, 0, 0, None)), in_axes=(0, None, None, None, None))

    def estimate(key: Any, problem: Any, at_once: int) -> Any:
        x, mean, stddev = (problem[name] for name in ("x", "mean", "stddev"))
        weights = tuple(problem[name] for name in ("w1", "b1", "w2", "b2"))

        def chunk(key: Any) -> Any:
            return every(jax.random.normal(key, (at_once, *mean.shape)), x, mean, stddev, weights)

        chunks = -(-asked["num_samples"] // at_once)  # as many draws as were asked for, or a few more
        log_weights = jax.lax.map(chunk, jax.random.split(key, chunks)).reshape(-1, len(x))
        return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))

    keys = iter(jax.random.split(jax.random.key(asked["seed"]), 10_000))
    compiled = jax.jit(estimate, static_argnames="at_once")

    def run(at_once: int) -> Any:
        return jax.block_until_ready(compiled(next(keys), problem, at_once=at_once))

    at_once = fastest(run, asked["draws"])

    def turn() -> Mapping[str, float]:
        for _ in range(asked["calls"]):
            found = run(at_once)
        return {"value": float(found.mean())}

    serve(turn)


if __name__ == "__main__":
    main()
