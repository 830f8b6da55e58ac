"""Importance sampling written by hand in PyTorch: the log weights of some draws at a time, and one `logsumexp`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.worker import fastest, serve, settings

__all__ = ["main"]


def main() -> None:
    """Serves: problem (an .npz file), num_samples, draws (at a time, to choose from), calls of a turn, seed."""
    asked = settings()
    torch.manual_seed(asked["seed"])
    with np.load(asked["problem"]) as arrays:
        w1, b1, w2, b2, x, mean, stddev = (
            torch.from_numpy(arrays[name]) for name in ("w1", "b1", "w2", "b2", "x", "mean", "stddev")
        )

    def log_weights(draws: int) -> Tensor:
        eps = torch.randn(draws, *mean.shape)
        z = mean + stddev * eps
        logits = torch.relu(z @ w1 + b1) @ w2 + b2
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        # log p(z) − log q(z | x); what both have of log 2π cancels
        return -cross_entropy + (0.5 * (eps.square() - z.square()) + stddev.log()).sum(-1)

    def estimate(at_once: int) -> Tensor:
        k = asked["num_samples"]
        parts = [log_weights(min(at_once, k - start)) for start in range(0, k, at_once)]
        return torch.logsumexp(torch.cat(parts), 0) - math.log(k)

    at_once = fastest(estimate, asked["draws"])

    def turn() -> Mapping[str, float]:
        for _ in range(asked["calls"]):
            found = estimate(at_once)
        return {"value": float(found.mean())}

    serve(turn)


if __name__ == "__main__":
    with torch.no_grad():
        main()
