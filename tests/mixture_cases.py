"""Small mixtures of likelihoods, whose components differ."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.model.composite_networks import ByComponent, WithLinear
from elbowroom.model.conditional import Likelihood
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.mixtures import Mixture
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def spread_out(module: nn.Module, scale: float = 1.0, seed: int = 5) -> None:
    """Gives every parameter normal values."""
    for parameter in module.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(seed), dtype=parameter.dtype))
        seed += 1


def mixture(
    kind: type[Likelihood] = Bernoulli,
    shape: tuple[int, ...] = (4,),
    *,
    latent_dim: int = 1,
    components: int = 3,
    hidden: tuple[int, ...] = (6,),
    context_dim: int = 0,
    shaping: dict[str, Any] | None = None,
    **options: Any,
) -> Mixture:
    """A mixture in float64 with random weights; ``shaping`` are the options that shape the parameters, too."""
    out = kind.parameter_shape(shape, **(shaping or {}))
    network = WithLinear(
        MLP((latent_dim + components,), out, hidden=hidden, activation="tanh", context_dim=context_dim)
    )
    likelihood = Mixture(
        ByComponent(network, components), kind(nn.Identity(), shape, **(shaping or {}), **options)
    ).double()
    spread_out(likelihood)
    return likelihood.eval()


def mixture_model(**options: Any) -> LatentModel:
    """p(x, z) with the prior N(0, I) and such a likelihood."""
    return LatentModel(StandardNormal(options.get("latent_dim", 1)), mixture(**options)).double().eval()


def every_row(elements: int) -> Tensor:
    """All binary rows, shape (2^elements, elements)."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=elements)), dtype=torch.float64)


def some_z(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
