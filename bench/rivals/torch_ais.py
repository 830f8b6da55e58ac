"""Annealed importance sampling as one writes it in PyTorch: from the prior, HMC with gradients by autograd.

The gradient of log p(x | z) is kept with each chain from one temperature to the next, so that a transition of L
leapfrog steps takes L gradients.
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
    """Serves: problem (an .npz file), data, temperatures, chains, leapfrogs, step_size, jitter, seed."""
    asked = settings()
    torch.manual_seed(asked["seed"])
    with np.load(asked["problem"]) as arrays:
        w1, b1, w2, b2, x = (torch.from_numpy(arrays[name]) for name in ("w1", "b1", "w2", "b2", "x"))
    x = x[: asked["data"]]  # the file holds the data of the largest evaluation
    betas = torch.linspace(0, 1, asked["temperatures"] + 1)

    def log_likelihood(z: Tensor) -> Tensor:
        logits = torch.relu(z @ w1 + b1) @ w2 + b2
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x | z) and its gradient."""
        z = z.detach().requires_grad_()
        likelihood = log_likelihood(z)
        (gradient,) = torch.autograd.grad(likelihood.sum(), z)
        return likelihood.detach(), gradient

    def transition(
        z: Tensor, likelihood: Tensor, gradient: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where each chain is next, log p(x | z) and its gradient there, and the probability of acceptance."""
        start, slope, momentum = z, gradient, torch.randn_like(z)
        jitter = 1 + asked["jitter"] * (2 * torch.rand(z.shape[:-1]) - 1)
        step_size = (asked["step_size"] * jitter).unsqueeze(-1)
        before = 0.5 * (momentum.square() + z.square()).sum(-1) - beta * likelihood
        proposed = likelihood
        for _ in range(asked["leapfrogs"]):
            momentum = momentum + 0.5 * step_size * (beta * slope - z)
            z = z + step_size * momentum
            proposed, slope = evaluate(z)
            momentum = momentum + 0.5 * step_size * (beta * slope - z)
        rise = 0.5 * (momentum.square() + z.square()).sum(-1) - beta * proposed - before
        acceptance = torch.exp(-rise.clamp(min=0))
        accepted = torch.rand(rise.shape) < acceptance
        rows = accepted.unsqueeze(-1)
        kept = torch.where(rows, z, start), torch.where(accepted, proposed, likelihood)
        return *kept, torch.where(rows, slope, gradient), acceptance

    def turn() -> Mapping[str, float]:
        z = torch.randn(asked["chains"], len(x), len(w1))
        likelihood, gradient = evaluate(z)
        log_weights = (betas[1] - betas[0]) * likelihood
        rates = []
        for beta, after in pairwise(betas[1:]):
            z, likelihood, gradient, acceptance = transition(z, likelihood, gradient, beta)
            log_weights = log_weights + (after - beta) * likelihood
            rates.append(float(acceptance.mean()))
        value = torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
        return {"value": float(value.mean()), "acceptance": sum(rates) / max(1, len(rates))}

    serve(turn)


if __name__ == "__main__":
    main()
