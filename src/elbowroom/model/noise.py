"""Standard noise from an explicit generator, delivered where the parameters live.

A generator belongs to one device. Noise is drawn on the generator's device and moved to the parameters', so that a
generator on the CPU serves a model on a GPU, with the same numbers. ``generator=None`` is torch's own default
generator, for interactive use; the package itself always passes one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

__all__ = ["category", "gamma", "global_generator_seeded_from", "normal", "poisson", "uniform"]


@contextmanager
def global_generator_seeded_from(generator: Generator) -> Iterator[None]:
    """For what draws from torch's global generator and from no other: seeds it for a while, and puts it back."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else ()):
        torch.manual_seed(seed)  # of every GPU in use, too
        yield


def normal(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Draws from N(0, 1) with the dtype and device of ``like``.

    Example:
        >>> normal((2, 3), torch.zeros(()), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def uniform(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Draws from the uniform distribution on [0, 1) with the dtype and device of ``like``.

    Example:
        >>> bool((uniform((1000,), torch.zeros(()), torch.Generator().manual_seed(0)) < 1).all())
        True
    """
    device = like.device if generator is None else generator.device
    return torch.rand(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def gamma(concentration: Tensor, generator: Generator | None) -> Tensor:
    """Draws from Gamma(concentration, 1), elementwise.

    Example:
        >>> bool((gamma(torch.full((5,), 3.0), torch.Generator().manual_seed(0)) > 0).all())
        True
    """
    device = concentration.device if generator is None else generator.device
    # torch has no public function for this that takes a generator; torch.distributions.Gamma calls the same one
    return torch._standard_gamma(concentration.to(device), generator=generator).to(concentration.device)


def poisson(rate: Tensor, generator: Generator | None) -> Tensor:
    """Draws from Poisson(rate), elementwise.

    Example:
        >>> poisson(torch.zeros(3), torch.Generator().manual_seed(0))
        tensor([0., 0., 0.])
    """
    device = rate.device if generator is None else generator.device
    return torch.poisson(rate.to(device), generator=generator).to(rate.device)


def category(logits: Tensor, shape: Sequence[int], generator: Generator | None) -> Tensor:
    """Draws of a category number from unnormalised log-probabilities.

    Args:
        logits: shape (\\*batch, K).
        shape: of the result, (\\*samples, \\*batch).
        generator: the source of randomness.
    Returns:
        Numbers 0..K−1, int64.
    Example:
        >>> category(torch.tensor([0.0, -torch.inf]), (4,), torch.Generator().manual_seed(0))
        tensor([0, 0, 0, 0])
    """
    device = logits.device if generator is None else generator.device
    rows = logits.detach().softmax(-1).reshape(-1, logits.shape[-1]).to(device)
    draws = math.prod(shape[: len(shape) - (logits.dim() - 1)])
    if draws == 0 or len(rows) == 0:
        return torch.zeros(tuple(shape), dtype=torch.int64, device=logits.device)
    picked = torch.multinomial(rows, draws, replacement=True, generator=generator)  # (rows, draws)
    return picked.T.reshape(tuple(shape)).to(logits.device)
