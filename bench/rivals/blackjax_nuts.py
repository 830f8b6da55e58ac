"""BlackJAX on the same posteriors: its window-adapted NUTS and its HMC, vmapped, in fp32, as its documentation does.

python bench/rivals/blackjax_nuts.py PROBLEM.npz FOUND.npz '{"task": "nuts", …}', by `bench.outside`. Compilation is
timed apart: every function is compiled before its clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

Weights = tuple[Any, Any, Any, Any]


def log_density(z: Any, x: Any, weights: Weights) -> Any:
    """log p(x, z) up to a constant, of one z and one x."""
    w1, b1, w2, b2 = weights
    o = jax.nn.relu(z @ w1 + b1) @ w2 + b2
    return jnp.sum(x * o - jax.nn.softplus(o)) - 0.5 * jnp.sum(z * z)


def nuts(
    problem: dict[str, Any], weights: Weights, *, data: int, chains: int, draws: int, warmup: int, seed: int
) -> Any:
    """Each example is adapted by one chain, vmapped over data; its draws are made by several, vmapped over both."""
    x, mean, stddev = (problem[name][:data] for name in ("x", "mean", "stddev"))
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    start = mean + stddev * jax.random.normal(first, mean.shape)
    adapt, compile_adapt = _compiled(_adapt_all(warmup), jax.random.split(second, data), start, x, weights)
    (step_size, inverse_mass, path), warmup_seconds = _timed(adapt)
    # where one chain was at times of the last window: the starts of several that need no burn-in
    starts = path[:, -1 - (len(path[0]) // 40) * np.arange(chains)]
    keys = jax.random.split(third, (data, chains))
    run, compile_run = _compiled(_draw_all(draws), keys, starts, x, step_size, inverse_mass, weights)
    (z, steps, divergent, acceptance), seconds = _timed(run)
    return {
        "z": np.transpose(z, (2, 1, 0, 3)),  # (draws, chains, data, dim)
        "num_gradients": np.transpose(steps, (2, 1, 0)),
        "acceptance": np.mean(acceptance),
        "divergent": np.mean(divergent),
        "warmup_seconds": warmup_seconds,
        "seconds": seconds,
        "compile_seconds": compile_adapt + compile_run,
    }


def _adapt_all(num_steps: int) -> Any:
    def one(key: Any, start: Any, x: Any, weights: Weights) -> Any:
        adaptation = blackjax.window_adaptation(blackjax.nuts, partial(log_density, x=x, weights=weights))
        (_, parameters), info = adaptation.run(key, start, num_steps=num_steps)
        return parameters["step_size"], parameters["inverse_mass_matrix"], info.state.position

    return jax.vmap(one, in_axes=(0, 0, 0, None))


def _draw_all(draws: int) -> Any:
    def one(key: Any, start: Any, x: Any, step_size: Any, inverse_mass: Any, weights: Weights) -> Any:
        algorithm = blackjax.nuts(partial(log_density, x=x, weights=weights), step_size, inverse_mass)

        def step(state: Any, key: Any) -> Any:
            state, info = algorithm.step(key, state)
            return state, (state.position, info.num_integration_steps, info.is_divergent, info.acceptance_rate)

        return jax.lax.scan(step, algorithm.init(start), jax.random.split(key, draws))[1]

    chains = jax.vmap(one, in_axes=(0, 0, None, None, None, None))
    return jax.vmap(chains, in_axes=(0, 0, 0, 0, 0, None))


def hmc(
    problem: dict[str, Any], weights: Weights, *, chains: int, num_steps: int, transitions: int, repeats: int
) -> Any:
    """Leapfrogs per second of HMC of so many steps, vmapped over all data and their chains."""
    x, mean, stddev = (problem[name] for name in ("x", "mean", "stddev"))
    noise = jax.random.normal(jax.random.key(0), (chains, *mean.shape))

    def one(key: Any, start: Any, x: Any, variance: Any, weights: Weights) -> Any:
        density = partial(log_density, x=x, weights=weights)
        algorithm = blackjax.hmc(density, 0.2, variance, num_integration_steps=num_steps)

        def step(state: Any, key: Any) -> Any:
            state, info = algorithm.step(key, state)
            return state, info.acceptance_rate

        state, acceptance = jax.lax.scan(step, algorithm.init(start), jax.random.split(key, transitions))
        return state.position, acceptance

    every = jax.vmap(jax.vmap(one, in_axes=(0, 0, 0, 0, None)), in_axes=(0, 0, None, None, None))
    keys = jax.random.split(jax.random.key(1), noise.shape[:2])
    run, compile_seconds = _compiled(every, keys, mean + stddev * noise, x, stddev**2, weights)
    _timed(run)  # a warm-up
    results = [_timed(run) for _ in range(repeats)]
    gradients = noise.shape[0] * noise.shape[1] * transitions * num_steps
    return {
        "rates": np.array([gradients / seconds for _, seconds in results]),
        "acceptance": np.mean(results[0][0][1]),
        "compile_seconds": compile_seconds,
    }


def _compiled(function: Any, *arguments: Any) -> tuple[Callable[[], Any], float]:
    """The function as machine code for these arguments, and the seconds that it took to make."""
    begin = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return partial(program, *arguments), time.perf_counter() - begin


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - begin


TASKS: dict[str, Callable[..., Any]] = {"nuts": nuts, "hmc": hmc}


def main() -> None:
    """Does the task that the third argument describes."""
    problem_path, found_path, text = sys.argv[1:]
    task = json.loads(text)
    task.pop("threads")  # XLA takes all cores
    with np.load(problem_path) as arrays:
        problem = {name: jnp.asarray(array) for name, array in arrays.items()}
    weights = tuple(problem[name] for name in ("w1", "b1", "w2", "b2"))
    run = TASKS[task.pop("task")]
    np.savez(found_path, **run(problem, weights, **task))


if __name__ == "__main__":
    main()
