"""Small models with two levels of codes, all of whose codes can be listed."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch
from torch import Tensor

from elbowroom.model.autoregressive import CausalTransformer
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.grids.level_guides import LevelCategoricalGuide, LevelGuide, LevelNearestCodeGuide
from elbowroom.model.grids.level_networks import LevelDecoder, LevelRecognition
from elbowroom.model.grids.priors import MaskedConvolutions
from elbowroom.model.hierarchy.grids import GridFeatures
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.quantizer import Codebook, EmbeddedCodes, LevelCodebooks

GRIDS = (CodeGrid(1, 1), CodeGrid(2, 2))
CODES, DIM, WIDTH, SHAPE = 3, 2, 6, (4, 4)
LEVELS = tuple(CodeSpace(grid.slots, CODES) for grid in GRIDS)
SPACE = CodeSpace(5, CODES)
GUIDES = ("categorical", "nearest-code")


def everything() -> Tensor:
    """Every z, float64, shape (K^5, 5 K)."""
    return SPACE.one_hot(torch.tensor(list(itertools.product(range(CODES), repeat=SPACE.slots))), torch.float64)


def prior_of(name: str, context_dim: int = 0) -> Conditional:
    if name == "unigram":
        return UnigramCodes(SPACE, context_dim=context_dim)
    kind = CausalTransformer if name == "transformer" else MaskedConvolutions
    return kind(SPACE, grid=GRIDS, width=8, layers=1, context_dim=context_dim)


def make_pair(
    guide: str = "nearest-code", *, prior: str = "transformer", kind: str = "ema", seed: int = 0, context_dim: int = 0
) -> Pair:
    """Model and guide in float64."""
    torch.manual_seed(seed)
    network = GridFeatures(SHAPE, channels=WIDTH, blocks=1, patch=2)
    read = DIM if guide == "nearest-code" else CODES
    recognition = LevelRecognition(GRIDS, WIDTH, out=read, read=read, context_dim=context_dim)
    decoder = LevelDecoder(
        GRIDS, (SPACE.slots * read,), (1, *SHAPE), channels=WIDTH, blocks=1, patch=2, context_dim=context_dim
    )
    if guide == "categorical":
        q: LevelGuide = LevelCategoricalGuide(network, recognition, CODES)
        return Pair(LatentModel(prior_of(prior, context_dim), Bernoulli(decoder, SHAPE)), q).double()
    books = [
        Codebook(level, DIM, kind=kind, places=grid.places)  # type: ignore[arg-type]
        for level, grid in zip(LEVELS, GRIDS, strict=True)
    ]
    codebook = LevelCodebooks(books)
    q = LevelNearestCodeGuide(network, recognition, codebook)
    model = LatentModel(prior_of(prior, context_dim), Bernoulli(EmbeddedCodes(codebook, decoder), SHAPE))
    return Pair(model, q).double()


def case(guide: str = "categorical", *, prior: str = "transformer", rows: int = 3, seed: int = 0) -> SimpleNamespace:
    """A pair whose weights are far from zero, and data."""
    pair = make_pair(guide, prior=prior, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (*pair.guide.parameters(), *pair.model.likelihood.parameters(), *pair.model.prior.parameters()):
            part.normal_(std=0.45, generator=generator)
    x = torch.bernoulli(torch.full((rows, *SHAPE), 0.5, dtype=torch.float64), generator=generator)
    return SimpleNamespace(pair=pair, model=pair.model, guide=pair.guide, x=x)


def exact_elbo(pair: Pair, x: Tensor) -> Tensor:
    """The ELBO as a sum over all codes, nats, shape (batch,), differentiable in both."""
    z = everything()[:, None].expand(-1, len(x), -1)
    log_q = pair.guide(x).log_prob(z)
    found: Tensor = (log_q.exp() * (pair.model.log_joint(x, z) - log_q)).sum(0)
    return found
