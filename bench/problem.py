"""The model that is evaluated: 784-400-20 with a Bernoulli decoder, as it starts, and binarised data.

What a decode costs does not depend on the weights, so none are trained; with the weights of the start, log p(x) is
estimated so well that contenders who disagree are found out. A seed gives the same model in every process.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import elbowroom as er
from elbowroom.data.batch import Batch
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP

__all__ = ["HIDDEN", "LATENT_DIM", "Problem", "build"]

HIDDEN, LATENT_DIM = 400, 20


class Problem(NamedTuple):
    """p(x, z) and q(z | x), in evaluation mode, and data."""

    model: LatentModel
    guide: Conditional
    batch: Batch


def build(images: str | Path, *, data: int, seed: int) -> Problem:
    """The first so many images of the file, thresholded at one half, under the model of that seed."""
    x = torch.from_numpy(np.load(images)[:data] > 127).float()
    event = x.shape[1:]
    torch.manual_seed(seed)
    guide = er.guides.DiagonalNormal(MLP(event, (2, LATENT_DIM), hidden=(HIDDEN,)), LATENT_DIM)
    likelihood = er.likelihoods.Bernoulli(MLP((LATENT_DIM,), (1, *event), hidden=(HIDDEN,)), event)
    model = er.LatentModel(er.priors.StandardNormal(LATENT_DIM), likelihood)
    return Problem(model.eval(), guide.eval(), Batch(x))
