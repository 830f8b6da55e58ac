"""elbowroom's side of the race of quantisers: the first stage of the training method `vq`, an epoch for each turn.

Both sides take the rotation trick, which is the rival's default.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bench.worker import serve, settings
from elbowroom.data.batch import Batch
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.learners.learner import TrainingState
from elbowroom.learners.vq import Vq
from elbowroom.learners.vq_objectives import quantizer_of
from elbowroom.running.build import build_data, facts_of
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair
from elbowroom.running.config import configure

__all__ = ["main"]


def main() -> None:
    """Serves: images, batch_size, hidden, slots, codes, code_dim, lr, decay, seed, epochs."""
    asked = settings()
    images = (np.load(asked["images"]) > 127).astype(np.float32).reshape(-1, 784)
    config = configure(
        {
            "data": {"validation": 0, "test": 0},
            "model": {
                "likelihood": "bernoulli",
                "guide": "nearest-code",
                "prior": "uniform",
                **{key: asked[key] for key in ("slots", "codes", "code_dim")},
                "encoder": {"hidden": [asked["hidden"]]},
                "decoder": {"hidden": [asked["hidden"]]},
                "output_bias": "zero",
            },
            "optimizer": {"lr": asked["lr"]},
            "vq": {"reconstruction_share": 0.9, "decay": asked["decay"], "gradient": "rotation"},
            "train": {"learner": "vq", "batch_size": asked["batch_size"], "seed": asked["seed"]},
        }
    )
    data = build_data(config, images)
    pair = build_pair(config, facts_of(data, asked["batch_size"]), seed=asked["seed"])
    steps = 2 * asked["epochs"] * -(-len(images) // asked["batch_size"])  # the first stage never ends
    learner = build_learner(config, RunLength(steps, None, None, scratch=None))  # type: ignore[arg-type]  # no chains
    assert isinstance(learner, Vq)
    state: TrainingState = learner.init(pair)
    generator = torch.Generator().manual_seed(asked["seed"])
    first = Batch(torch.from_numpy(images[:10_000]))
    done = 0

    def turn() -> Mapping[str, float]:
        nonlocal state, done
        total = 0.0
        pair.train()
        for batch in data.training_batches(asked["batch_size"], seed=0, epoch=done, generator=generator):
            state, info = learner.step(state, batch, generator=generator)
            total -= info.terms["reconstruction"] * len(batch)
        done += 1
        guide, _ = quantizer_of(pair)
        with torch.no_grad():
            z = guide.nearest(first.x)
        usage = code_usage(guide.space, guide.space.numbers(z))
        return {"loss": total / len(images), "perplexity": usage.perplexity}

    serve(turn)


if __name__ == "__main__":
    main()
