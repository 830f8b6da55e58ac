"""Annealed importance sampling in JAX: a chain's walk from the prior, vmapped over chains and data, compiled whole.

The temperatures are a `lax.scan`, and so are the leapfrogs of a transition. The gradient of log p(x | z) is kept with
each chain from one temperature to the next, so that a transition of L leapfrog steps takes L gradients; two half kicks
that follow each other are one, and log p(x | z) itself is asked for at the end of a trajectory alone: it falls off
beside the gradient. Compiled by the warm-up, which also chooses how the inner loop is written: scanned, or unrolled.
XLA takes as many threads as this process may use processors.
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
    """Serves: problem (an .npz file), data, temperatures, chains, leapfrogs, step_size, jitter, seed."""
    asked = settings()
    with np.load(asked["problem"]) as arrays:
        problem = {name: jnp.asarray(arrays[name]) for name in arrays.files}
    betas = jnp.linspace(0.0, 1.0, asked["temperatures"] + 1)
    leapfrogs = asked["leapfrogs"]

    def log_likelihood(z: Any, x: Any, weights: Any) -> Any:
        w1, b1, w2, b2 = weights
        logits = jax.nn.relu(z @ w1 + b1) @ w2 + b2
        return jnp.sum(x * logits - jax.nn.softplus(logits))

    evaluate = jax.value_and_grad(log_likelihood)
    slope_alone = jax.grad(log_likelihood)

    def transition(key: Any, chain: Any, beta: Any, x: Any, weights: Any, unroll: int) -> Any:
        """Where the chain is next, with log p(x | z) and its gradient there, and the probability of acceptance."""
        z, likelihood, slope = chain
        for_momentum, for_step, for_choice = jax.random.split(key, 3)
        momentum = jax.random.normal(for_momentum, z.shape)
        jitter = 1 + asked["jitter"] * jax.random.uniform(for_step, minval=-1.0, maxval=1.0)
        step_size = asked["step_size"] * jitter
        before = 0.5 * (momentum @ momentum + z @ z) - beta * likelihood

        def step(place: Any, _: None) -> Any:
            z, momentum = place
            z = z + step_size * momentum
            return (z, momentum + step_size * (beta * slope_alone(z, x, weights) - z)), None

        place = z, momentum + 0.5 * step_size * (beta * slope - z)
        place, _ = jax.lax.scan(step, place, None, length=leapfrogs - 1, unroll=unroll)
        end = place[0] + step_size * place[1]
        proposed, pull = evaluate(end, x, weights)
        momentum = place[1] + 0.5 * step_size * (beta * pull - end)
        rise = 0.5 * (momentum @ momentum + end @ end) - beta * proposed - before
        acceptance = jnp.exp(-jnp.maximum(rise, 0.0))
        accepted = jax.random.uniform(for_choice) < acceptance
        kept = (jnp.where(accepted, new, old) for new, old in zip((end, proposed, pull), chain, strict=True))
        return tuple(kept), acceptance

    def walk(key: Any, x: Any, weights: Any, unroll: int) -> Any:
        """The log weight of one chain, and its average acceptance."""
        start, moves = jax.random.split(key)
        z = jax.random.normal(start, (weights[0].shape[0],))
        likelihood, slope = evaluate(z, x, weights)

        def temperature(carry: Any, at: Any) -> Any:
            chain, log_weight = carry
            key, beta, after = at
            chain, acceptance = transition(key, chain, beta, x, weights, unroll)
            return (chain, log_weight + (after - beta) * chain[1]), acceptance

        keys = jax.random.split(moves, len(betas) - 2)
        carry = (z, likelihood, slope), (betas[1] - betas[0]) * likelihood
        (_, log_weight), acceptance = jax.lax.scan(temperature, carry, (keys, betas[1:-1], betas[2:]))
        return log_weight, acceptance.mean()

    chains = jax.vmap(jax.vmap(walk, in_axes=(0, 0, None, None)), in_axes=(0, None, None, None))

    def estimate(key: Any, problem: Any, unroll: int) -> Any:
        x = problem["x"][: asked["data"]]
        keys = jax.random.split(key, (asked["chains"], len(x)))
        weights = tuple(problem[name] for name in ("w1", "b1", "w2", "b2"))
        log_weights, acceptance = chains(keys, x, weights, unroll)
        return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(len(log_weights)), acceptance.mean()

    keys = iter(jax.random.split(jax.random.key(asked["seed"]), 10_000))
    compiled = jax.jit(estimate, static_argnames="unroll")

    def run(unroll: int) -> Any:
        return jax.block_until_ready(compiled(next(keys), problem, unroll=unroll))

    unroll = fastest(run, sorted({1, max(1, leapfrogs - 1)}))

    def turn() -> Mapping[str, float]:
        value, acceptance = run(unroll)
        return {"value": float(value.mean()), "acceptance": float(acceptance)}

    serve(turn)


if __name__ == "__main__":
    main()
