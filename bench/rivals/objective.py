"""A bare loop around elbowroom's own objective: what is left to the engine is the difference to this."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

import elbowroom as er
from bench.worker import serve_epochs
from elbowroom.model.networks import MLP

__all__ = ["objective"]


def objective(
    images: npt.NDArray[np.uint8], *, batch_size: int, hidden: int, latent_dim: int, lr: float, seed: int
) -> Callable[[], float]:
    """A function that trains for one more epoch and returns its mean loss, nats per example."""
    torch.manual_seed(seed)
    data = torch.from_numpy(images).float().div_(255)
    n, event = len(data), data.shape[1:]
    guide = er.guides.DiagonalNormal(MLP(event, (2, latent_dim), hidden=(hidden,)), latent_dim)
    likelihood = er.likelihoods.CrossEntropy(MLP((latent_dim,), (1, *event), hidden=(hidden,)), event)
    model = er.LatentModel(er.priors.StandardNormal(latent_dim), likelihood)
    optimizer = torch.optim.Adam([*guide.parameters(), *model.parameters()], lr=lr, fused=True)
    generator = torch.Generator().manual_seed(seed)

    def epoch() -> float:
        total = torch.zeros(())
        order = torch.randperm(n, generator=generator)
        for start in range(0, n, batch_size):
            x = data[order[start : start + batch_size]]
            loss = -er.objectives.elbo(model, guide, x, generator=generator).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        return total.item() / n

    return epoch


if __name__ == "__main__":
    serve_epochs(objective)
