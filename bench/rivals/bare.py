r"""The bare loop: what one would write by hand for speed, and nothing else.

A float tensor in memory, a permutation per epoch, the loss from logits, the closed-form KL, fused Adam. It keeps no
record, checks nothing and writes nothing, so its time is the price of the mathematics alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from bench.worker import serve_epochs

__all__ = ["bare"]


def bare(
    images: npt.NDArray[np.uint8], *, batch_size: int, hidden: int, latent_dim: int, lr: float, seed: int
) -> Callable[[], float]:
    """A function that trains for one more epoch and returns its mean loss, nats per example."""
    torch.manual_seed(seed)
    data = torch.from_numpy(images).flatten(1).float().div_(255)
    n, pixels = data.shape
    encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr, fused=True)

    def epoch() -> float:
        total = torch.zeros(())
        order = torch.randperm(n)
        for start in range(0, n, batch_size):
            x = data[order[start : start + batch_size]]
            mu, log_var = encoder(x).chunk(2, dim=-1)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()
            loss = (reconstruction + kl) / len(x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        return total.item() / n

    return epoch


if __name__ == "__main__":
    serve_epochs(bare)
