"""The context that samples are drawn for."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.running.build import DataFacts
from elbowroom.running.config import Config

__all__ = ["class_contexts", "sample_context"]


def sample_context(config: Config, facts: DataFacts, num_samples: int, context: Tensor | None) -> Tensor | None:
    """The context of ``num_samples`` samples; equal numbers of each class if none is given."""
    if context is None and facts.context_dim:
        return class_contexts(config, facts, num_samples)
    return context


def class_contexts(config: Config, facts: DataFacts, num_samples: int) -> Tensor:
    """One-hot labels in blocks of nearly equal size; as `Run.class_contexts`."""
    if config.data.context != "labels":
        raise ElbowroomError(
            f"The model is conditional on {facts.context_dim} covariates, but none were given.",
            "Give context=, a tensor of shape (n, context_dim).",
        )
    classes = facts.context_dim
    return torch.eye(classes)[torch.arange(num_samples) * classes // max(num_samples, classes)]
