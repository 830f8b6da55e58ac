"""Pyro's estimators beside the native objectives that they should equal, and the size of the cases compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import elbo_terms, iwae_terms
from elbowroom.model.latent import Pair

MakePair = Callable[..., tuple[Pair, Batch]]
SGD = functools.partial(torch.optim.SGD, lr=0.01)
EVENT, LATENT, ROWS = (3, 2), 2, 6

#: our name for each of Pyro's estimators -> the native objective that it should be, as a function of the particles
NATIVE: dict[str, Callable[[int], Callable[..., Any]]] = {
    "trace": lambda particles: functools.partial(elbo_terms, num_samples=particles, kl="monte-carlo"),
    "trace-mean-field": lambda particles: functools.partial(elbo_terms, num_samples=particles, kl="analytic"),
    "renyi": lambda particles: functools.partial(iwae_terms, num_samples=particles),
}


def weights_of(module: nn.Module) -> list[Tensor]:
    """Copies of a module's parameters."""
    return [weight.detach().clone() for weight in module.parameters()]
