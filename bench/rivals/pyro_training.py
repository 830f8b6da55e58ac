"""Pyro's stochastic variational inference, as its tutorial on the variational autoencoder does it, from memory.

`Trace_ELBO` draws the KL's terms rather than integrating them, which costs nothing here and has the same
expectation; `JitTrace_ELBO` compiles a step for each size of a batch, in the warm-up, before the clock starts. In the
rival's favour, batches are slices of a tensor by a permutation, not a `DataLoader`'s, the losses are from logits, and
validation is off.
"""

# Pyro's classes carry no annotations
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from bench.worker import serve_epochs, settings

__all__ = ["pyro_epochs"]


class _Pair(nn.Module):
    """p(x, z) and q(z | x); ``rows`` is a keyword so that the compiled step is one for each size of a batch."""

    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.latent_dim = latent_dim

    def model(self, x: Tensor, *, rows: int) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", rows), pyro.poutine.scale(scale=1 / rows):
            zeros = x.new_zeros(rows, self.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x: Tensor, *, rows: int) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", rows), pyro.poutine.scale(scale=1 / rows):
            mu, log_var = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mu, torch.exp(0.5 * log_var)).to_event(1))


def pyro_epochs(
    images: npt.NDArray[np.uint8], *, batch_size: int, hidden: int, latent_dim: int, lr: float, seed: int, jit: bool
) -> Callable[[], float]:
    """A function that trains for one more epoch and returns its mean loss, nats per example."""
    pyro.set_rng_seed(seed)
    pyro.enable_validation(False)
    data = torch.from_numpy(images).flatten(1).float().div_(255)
    n, pixels = data.shape
    pair = _Pair(pixels, hidden, latent_dim)
    loss = JitTrace_ELBO(ignore_jit_warnings=True) if jit else Trace_ELBO()
    svi = SVI(pair.model, pair.guide, PyroOptim(torch.optim.Adam, {"lr": lr, "fused": True}), loss=loss)

    def epoch() -> float:
        total = 0.0
        order = torch.randperm(n)
        for start in range(0, n, batch_size):
            x = data[order[start : start + batch_size]]
            total += svi.step(x, rows=len(x)) * len(x)
        return total / n

    return epoch


if __name__ == "__main__":
    serve_epochs(partial(pyro_epochs, jit=settings()["jit"]))
