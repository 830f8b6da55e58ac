"""Small models over codes, whose bounds and gradients are sums over all codes; written out here a second time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch
from torch import Tensor

from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP

DIM = 6


def case(slots: int, codes: int, *, prior: str = "unigram", sharpness: float = 1.0, seed: int = 0) -> SimpleNamespace:
    """A model in float64, a guide whose logits are ``sharpness`` times those of a small network, data."""
    torch.manual_seed(seed)
    space = CodeSpace(slots, codes)
    p: Conditional = UniformCodes(space)
    if prior == "unigram":
        p = UnigramCodes(space)
        p.logits.data.normal_()
    model = LatentModel(p, Bernoulli(MLP((space.dim,), (1, DIM), hidden=(8,)), (DIM,))).double()
    guide = CategoricalGuide(MLP((DIM,), space, hidden=(8,)), space).double()
    with torch.no_grad():
        for weight in model.likelihood.parameters():
            weight.mul_(3.0)  # so that the decoder bends between codes
        guide.network.output.weight.mul_(sharpness)  # type: ignore[union-attr, operator]
        guide.network.output.bias.normal_().mul_(sharpness)  # type: ignore[union-attr, operator]
    x = torch.bernoulli(torch.full((3, DIM), 0.5, dtype=torch.float64))
    return SimpleNamespace(model=model, guide=guide, x=x, space=space)


def all_codes(space: CodeSpace) -> Tensor:
    """Every z, float64, shape (K^L, L K)."""
    return space.one_hot(torch.tensor(list(itertools.product(range(space.codes), repeat=space.slots))), torch.float64)


def elbo(model: LatentModel, guide: Conditional, x: Tensor) -> Tensor:
    """The exact ELBO, nats, shape (batch,), differentiable in both."""
    z = all_codes(model.space)[:, None].expand(-1, len(x), -1)
    log_q = guide(x).log_prob(z)
    found: Tensor = (log_q.exp() * (model.log_joint(x, z) - log_q)).sum(0)
    return found
