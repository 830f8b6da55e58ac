"""Annealed importance sampling as one writes it in PyTorch: from the prior, HMC with gradients by autograd.

The gradient at the end of a trajectory that was accepted is not kept for the next, for the temperature has changed: a
transition of L leapfrog steps takes L + 1 gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.worker import serve, settings

__all__ = ["main"]


def main() -> None:
    """Serves: problem (an .npz file), temperatures, chains, leapfrogs, step_size, jitter, seed."""
    asked = settings()
    torch.manual_seed(asked["seed"])
    with np.load(asked["problem"]) as arrays:
        w1, b1, w2, b2, x, mean = (torch.from_numpy(arrays[name]) for name in ("w1", "b1", "w2", "b2", "x", "mean"))
    betas = torch.linspace(0, 1, asked["temperatures"] + 1)

    def log_likelihood(z: Tensor) -> Tensor:
        logits = torch.relu(z @ w1 + b1) @ w2 + b2
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def evaluate(z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density up to a constant, its gradient, and log p(x | z)."""
        z = z.detach().requires_grad_()
        likelihood = log_likelihood(z)
        density = -0.5 * z.square().sum(-1) + beta * likelihood
        (gradient,) = torch.autograd.grad(density.sum(), z)
        return density.detach(), gradient, likelihood.detach()

    def transition(z: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where each chain is next, log p(x | z) there, and the probability of acceptance."""
        start, momentum = z, torch.randn_like(z)
        jitter = 1 + asked["jitter"] * (2 * torch.rand(z.shape[:-1]) - 1)
        step_size = (asked["step_size"] * jitter).unsqueeze(-1)
        density, gradient, likelihood = evaluate(z, beta)
        before = 0.5 * momentum.square().sum(-1) - density
        for _ in range(asked["leapfrogs"]):
            momentum = momentum + 0.5 * step_size * gradient
            z = z + step_size * momentum
            density, gradient, proposed = evaluate(z, beta)
            momentum = momentum + 0.5 * step_size * gradient
        rise = 0.5 * momentum.square().sum(-1) - density - before
        acceptance = torch.exp(-rise.clamp(min=0))
        accepted = torch.rand(rise.shape) < acceptance
        return torch.where(accepted.unsqueeze(-1), z, start), torch.where(accepted, proposed, likelihood), acceptance

    def turn() -> Mapping[str, float]:
        z = torch.randn(asked["chains"], *mean.shape)
        with torch.no_grad():
            likelihood = log_likelihood(z)
        log_weights = (betas[1] - betas[0]) * likelihood
        rates = []
        for beta, after in pairwise(betas[1:]):
            z, likelihood, acceptance = transition(z, beta)
            log_weights = log_weights + (after - beta) * likelihood
            rates.append(float(acceptance.mean()))
        value = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
        return {"value": float(value.mean()), "acceptance": sum(rates) / max(1, len(rates))}

    serve(turn)


if __name__ == "__main__":
    main()
