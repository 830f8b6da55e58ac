"""A small model with a codebook, data of two kinds of rows for it, and which of its parts a value trains."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.quantizer import Codebook, CodebookKind, EmbeddedCodes, NearestCodeGuide

SPACE, DIM, X, ROWS = CodeSpace(3, 4), 2, 6, 24
KINDS: tuple[CodebookKind, ...] = ("ema", "gradient", "fsq")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything() -> Tensor:
    numbers = torch.tensor(list(itertools.product(range(SPACE.codes), repeat=SPACE.slots)))
    return SPACE.one_hot(numbers, torch.float64)


def make_pair(kind: CodebookKind = "ema", *, seed: int = 0, batch_norm: bool = False) -> Pair:
    torch.manual_seed(seed)
    codebook = Codebook(SPACE, DIM, kind=kind)
    encoder = MLP((X,), (SPACE.slots, DIM), hidden=(8,), batch_norm=batch_norm)
    decoder = EmbeddedCodes(codebook, MLP((SPACE.slots * DIM,), (1, X), hidden=(8,), activation="silu"))
    model = LatentModel(UnigramCodes(SPACE), Bernoulli(decoder, (X,)))
    return Pair(model, NearestCodeGuide(encoder, codebook)).double()


def make_batch(rows: int = ROWS, seed: int = 0) -> Batch:
    """Two kinds of rows, so that there is something to learn."""
    generator = seeded(seed)
    kind = torch.randint(2, (rows, 1), generator=generator).double()
    p = 0.9 * kind + 0.1 * (1 - kind)
    return Batch(torch.bernoulli(p.expand(rows, X).contiguous(), generator=generator))


def guide_of(pair: Pair) -> NearestCodeGuide:
    assert isinstance(pair.guide, NearestCodeGuide)
    return pair.guide


def gradients(pair: Pair, value: Tensor) -> dict[str, Tensor]:
    pair.zero_grad(set_to_none=True)
    value.backward()
    return {name: torch.zeros_like(w) if w.grad is None else w.grad.clone() for name, w in pair.named_parameters()}


def parts_with_gradient(pair: Pair, value: Tensor) -> set[str]:
    """Encoder, temperature, codebook, decoder, prior: those with a gradient that is not zero."""
    names = {
        "guide.network": "encoder",
        "guide.log_temperature": "temperature",
        "guide.codebook": "codebook",
        "model.likelihood.network.codebook": "codebook",
        "model.likelihood": "decoder",
        "model.prior": "prior",
    }
    return {
        next(part for start, part in names.items() if name.startswith(start))
        for name, gradient in gradients(pair, value).items()
        if bool(gradient.abs().sum() > 0)
    }
