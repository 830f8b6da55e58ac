"""A mixture that EM will fit: its prior, and where it starts."""

from __future__ import annotations

import torch

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.learners.em_start import start_classes
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.latent import LatentModel
from elbowroom.running.config import Config

__all__ = ["class_prior", "start_mixture", "whole_split"]


def class_prior(config: Config) -> ClassPrior:
    """The prior of the classes' parameters that the configuration asks for."""
    return ClassPrior(rows=config.em.prior_rows, scale=config.em.prior_scale)


def start_mixture(model: LatentModel, config: Config, data: DataSet | StreamSet) -> None:
    """Starts the classes of a mixture at the training rows; of a stream, which EM refuses, nothing.

    Raises:
        ElbowroomError: the model is no mixture.
    """
    if isinstance(data, DataSet):
        generator = torch.Generator().manual_seed(config.train.seed)
        batch = whole_split(data, "train", next(model.parameters()))
        start_classes(model, batch, class_prior(config), starts=config.em.starts, generator=generator)


def whole_split(data: DataSet, split: str, like: torch.Tensor) -> Batch:
    """All rows of a split, where a weight of the model is and in its precision."""
    return data.take(split, torch.arange(data.size(split))).to(like.device, like.dtype)
