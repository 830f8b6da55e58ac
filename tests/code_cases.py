"""Small models with codes as latents, all of whose codes can be listed."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.model.code_distributions import AutoregressiveCodes, CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP

DIM = 10  # binary elements of x


class ChainPrior(Conditional):
    """p(z | c): each slot given the one before it."""

    latent_support = "codes"

    def __init__(self, space: CodeSpace, context_dim: int = 0) -> None:
        super().__init__()
        self.space = space
        self.start = nn.Parameter(torch.randn(space.codes))
        self.step = nn.Parameter(1.5 * torch.randn(space.slots - 1, space.codes, space.codes))
        self.shift = nn.Linear(context_dim, space.dim, bias=False) if context_dim else None

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        def logits(z: Tensor) -> Tensor:
            slots = self.space.split(z)
            later = torch.einsum("...lk,lkj->...lj", slots[..., :-1, :], self.step)
            found = torch.cat([self.start.expand_as(later[..., :1, :]), later], -2)
            return found if self.shift is None else found + self.space.split(self.shift(context))

        batch = () if self.shift is None or context is None else context.shape[:-1]
        return AutoregressiveCodes(self.space, logits, batch, like=self.start)


PRIORS = {"uniform": UniformCodes, "unigram": UnigramCodes, "chain": ChainPrior}


def small_codes(
    slots: int = 3, codes: int = 4, *, prior: str = "chain", seed: int = 0, context_dim: int = 0, rows: int = 20
) -> tuple[LatentModel, CategoricalGuide, Tensor, Tensor | None]:
    """Model, guide, x of shape (rows, 10) drawn from the model, and its context; weights are far from zero."""
    torch.manual_seed(seed)
    space = CodeSpace(slots, codes)
    more = {"context_dim": context_dim} if context_dim else {}
    network = MLP((space.dim,), (1, DIM), hidden=(16,), context_dim=context_dim)
    model = LatentModel(PRIORS[prior](space, **more), Bernoulli(network, (DIM,)))
    guide = CategoricalGuide(MLP((DIM,), space, hidden=(16,), context_dim=context_dim), space)
    with torch.no_grad():
        for part in (network, guide):
            for parameter in part.parameters():
                parameter.mul_(3)
        if isinstance(model.prior, UnigramCodes):
            model.prior.logits.normal_()
    context = torch.randn(rows, context_dim) if context_dim else None
    x = model.sample(rows, context=context, generator=torch.Generator().manual_seed(seed)).x
    return model, guide, x, context


def listed(space: CodeSpace) -> list[tuple[int, ...]]:
    """The code numbers of every z, by the standard library."""
    return list(itertools.product(range(space.codes), repeat=space.slots))


def by_hand(model: LatentModel, x: Tensor, context: Tensor | None = None) -> Tensor:
    """log p(x, z) of every z, one z and one row at a time, shape (K^L, rows)."""
    rows = []
    for numbers in listed(model.space):
        z = model.space.one_hot(torch.tensor(numbers), next(model.parameters()).dtype)
        row = [
            model.log_joint(x[i : i + 1], z.unsqueeze(0), context=None if context is None else context[i : i + 1])
            for i in range(len(x))
        ]
        rows.append(torch.cat(row))
    return torch.stack(rows).double()
