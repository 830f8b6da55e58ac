"""NumPyro's stochastic variational inference, an epoch compiled as one function: its fastest form.

The data stay on the device; a step gathers its batch by a slice of the epoch's permutation, inside `lax.fori_loop`; a
last, smaller batch is a step of its own behind the loop. The KL is in closed form (`TraceMeanField_ELBO`), the state is
donated to the next epoch, and all is compiled, by the warm-up, before any clock starts. The weights start as
`torch.nn.Linear`'s do. XLA has no setting for threads: it takes as many as this process may use processors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import numpyro  # type: ignore[import-not-found, unused-ignore]
import numpyro.distributions as dist  # type: ignore[import-not-found, unused-ignore]
from numpyro.infer import SVI, TraceMeanField_ELBO  # type: ignore[import-not-found, unused-ignore]
from numpyro.optim import Adam  # type: ignore[import-not-found, unused-ignore]

from bench.worker import serve_epochs

__all__ = ["numpyro_epochs"]


def numpyro_epochs(
    images: npt.NDArray[np.uint8], *, batch_size: int, hidden: int, latent_dim: int, lr: float, seed: int
) -> Callable[[], float]:
    """A function that trains for one more epoch and returns its mean loss, nats per example."""
    data = jnp.asarray(images.reshape(len(images), -1), jnp.float32) / 255
    n, pixels = data.shape
    model, guide = _pair(pixels, hidden, latent_dim)
    svi = SVI(model, guide, Adam(lr), TraceMeanField_ELBO())
    state = svi.init(jax.random.key(seed), data[:batch_size])
    full = n // batch_size

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, key: Any, data: Any) -> Any:
        order = jax.random.permutation(key, n)

        def step(i: Any, carry: Any) -> Any:
            state, total = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            state, loss = svi.update(state, data[rows])
            return state, total + loss * batch_size

        state, total = jax.lax.fori_loop(0, full, step, (state, jnp.zeros(())))
        if left := n - full * batch_size:
            state, loss = svi.update(state, data[order[-left:]])
            total += loss * left
        return state, total / n

    keys = iter(jax.random.split(jax.random.key(seed + 1), 10_000))

    def turn() -> float:
        nonlocal state
        state, loss = epoch(state, next(keys), data)
        return float(loss)

    return turn


def _pair(pixels: int, hidden: int, latent_dim: int) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    """p(x, z) and q(z | x); both are averaged over the batch, as all contenders' losses are."""

    def model(x: Any) -> None:
        h = jax.nn.relu(_linear("decoder.0", latent_dim, hidden, _latent(x, None, None, latent_dim)))
        logits = _linear("decoder.1", hidden, pixels, h)
        with numpyro.plate("data", len(x)), numpyro.handlers.scale(scale=1 / len(x)):
            # validation would refuse grey pixels: the cross-entropy is no likelihood
            numpyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    def guide(x: Any) -> None:
        h = jax.nn.relu(_linear("encoder.0", pixels, hidden, x))
        mu, log_var = jnp.split(_linear("encoder.1", hidden, 2 * latent_dim, h), 2, axis=-1)
        _latent(x, mu, jnp.exp(0.5 * log_var), latent_dim)

    return model, guide


def _latent(x: Any, loc: Any, scale: Any, latent_dim: int) -> Any:
    shape = (len(x), latent_dim)
    loc, scale = (jnp.zeros(shape), jnp.ones(shape)) if loc is None else (loc, scale)
    with numpyro.plate("data", len(x)), numpyro.handlers.scale(scale=1 / len(x)):
        return numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _linear(name: str, inputs: int, outputs: int, given: Any) -> Any:
    bound = inputs**-0.5

    def start(shape: tuple[int, ...], key: Any) -> Any:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weight = numpyro.param(f"{name}.weight", partial(start, (inputs, outputs)))
    return given @ weight + numpyro.param(f"{name}.bias", partial(start, (outputs,)))


if __name__ == "__main__":
    serve_epochs(numpyro_epochs)
