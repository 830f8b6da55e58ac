"""elbowroom's side of the race of importance sampling: `importance_estimate`, as a user calls it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bench.problem import build
from bench.worker import serve, settings
from elbowroom.inference.importance.estimate import importance_estimate

__all__ = ["main"]


def main() -> None:
    """Serves: images, data, seed, num_samples, calls of a turn."""
    asked = settings()
    model, guide, batch = build(asked["images"], data=asked["data"], seed=asked["seed"])
    generator = torch.Generator().manual_seed(asked["seed"])

    def turn() -> Mapping[str, float]:
        for _ in range(asked["calls"]):
            found = importance_estimate(model, guide, batch, num_samples=asked["num_samples"], generator=generator)
        return {"value": float(found.log_evidence.mean())}

    serve(turn)


if __name__ == "__main__":
    main()
