"""Standard noise from an explicit generator, on the device of the parameters.

A generator belongs to one device. Noise is drawn on the generator's device and moved to the parameters', so that a
generator on the CPU serves a model on a GPU, with the same numbers. ``generator=None`` is torch's own default
generator, for interactive use; the package itself always passes one.

A compiled function cannot draw. Its noise is drawn before the call and passed in:

1. a :class:`Recorder` in the generator's place records once what a function draws;
2. :meth:`Recorder.draw` makes the same draws from a generator, in the same order, so with the same numbers;
3. a :class:`Prepared` in the generator's place returns them.

That works for standard noise, normal and uniform. Draws that depend on parameters (gamma, Poisson, binomial,
categories) cannot be prepared, and both raise an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from elbowroom.errors import ElbowroomError

__all__ = [
    "CannotPrepareError",
    "NoiseSource",
    "PerRow",
    "Prepared",
    "Recorder",
    "binomial",
    "category",
    "gamma",
    "global_generator_seeded_from",
    "normal",
    "poisson",
    "uniform",
]


class CannotPrepareError(ElbowroomError):
    """Draws that depend on parameters cannot be made beforehand."""


class _Draw(NamedTuple):
    """One call for standard noise."""

    kind: Callable[[Sequence[int], Tensor, Generator | None], Tensor]
    shape: tuple[int, ...]
    like: Tensor  #: of no elements


class Recorder:
    """A stand-in for a generator that draws from it and records what was drawn.

    Args:
        generator: the source of randomness.
    Example:
        >>> recorder = Recorder(torch.Generator().manual_seed(0))
        >>> first = normal((2,), torch.zeros(()), recorder)
        >>> (again,) = recorder.draw(torch.Generator().manual_seed(0))
        >>> bool((first == again).all())
        True
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._draws: list[_Draw] = []

    def note(self, draw: _Draw) -> Generator:
        """Records a draw, and returns the generator to make it from."""
        self._draws.append(draw)
        return self._generator

    def draw(self, generator: Generator) -> list[Tensor]:
        """New draws of everything recorded, in the same order."""
        return [kind(shape, like, generator) for kind, shape, like in self._draws]


class Prepared:
    """A stand-in for a generator that returns noise drawn before, in the order of :meth:`Recorder.draw`.

    Args:
        drawn: the noise.
    """

    def __init__(self, drawn: Sequence[Tensor]) -> None:
        self._drawn = drawn
        self._used = 0

    def take(self) -> Tensor:
        """The next tensor of noise."""
        self._used += 1
        return self._drawn[self._used - 1]


class PerRow:
    """A stand-in for a generator where each row of a batch has a generator of its own.

    A row's draws then depend neither on the other rows of the batch nor on their number. It serves noise with an axis
    for the rows: the last but one of standard noise, (\\*samples, batch, latent), and the last of category numbers,
    (\\*samples, batch).

    Args:
        generators: one for each row.
    Example:
        >>> def rows(*seeds):
        ...     return PerRow([torch.Generator().manual_seed(seed) for seed in seeds])
        >>> one, many = (normal((5, n, 2), torch.zeros(()), rows(*range(n))) for n in (1, 3))
        >>> bool((one[:, 0] == many[:, 0]).all())
        True
    """

    def __init__(self, generators: Sequence[Generator]) -> None:
        self.generators = generators

    def stack(self, shape: Sequence[int], axis: int, kind: Callable[[Sequence[int], int, Generator], Tensor]) -> Tensor:
        """Noise of this shape: for every row the shape without ``axis``, by (shape, row, the row's generator).

        Raises:
            ElbowroomError: the axis is not that of the rows.
        """
        axis += len(shape)
        if axis < 0 or shape[axis] != len(self.generators):
            raise ElbowroomError(
                f"Noise of shape {tuple(shape)} was asked for, which has no axis for {len(self.generators)} rows "
                "where one was expected.",
                "Give a torch.Generator.",
            )
        part = (*shape[:axis], *shape[axis + 1 :])
        return torch.stack([kind(part, row, g) for row, g in enumerate(self.generators)], axis)


NoiseSource = Generator | PerRow | Prepared | Recorder
"""Where noise comes from."""


def _generator(source: NoiseSource | None) -> Generator | None:
    """A true generator, for what can be drawn from nothing else.

    Raises:
        CannotPrepareError: the draws were to be made beforehand.
    """
    if isinstance(source, PerRow | Prepared | Recorder):
        raise CannotPrepareError(
            "Its draws depend on parameters (as those of a mixture, of counts or of categories do), so they cannot "
            "be made before the parameters are known.",
            "Give a torch.Generator.",
        )
    return source


@contextmanager
def global_generator_seeded_from(source: NoiseSource) -> Iterator[None]:
    """For what draws from torch's global generator and from no other: seeds it for a while, and puts it back."""
    generator = _generator(source)
    assert generator is not None
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else ()):
        torch.manual_seed(seed)  # of every GPU in use, too
        yield


def normal(shape: Sequence[int], like: Tensor, generator: NoiseSource | None) -> Tensor:
    """Draws from N(0, 1) with the dtype and device of ``like``.

    Example:
        >>> normal((2, 3), torch.zeros(()), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3])
    """
    if isinstance(generator, Prepared):
        return generator.take()
    if isinstance(generator, Recorder):
        generator = generator.note(_Draw(normal, tuple(shape), like.new_empty(0)))
    if isinstance(generator, PerRow):
        return generator.stack(shape, -2, lambda part, row, own: normal(part, like, own))
    device = like.device if generator is None else generator.device
    return torch.randn(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def uniform(shape: Sequence[int], like: Tensor, generator: NoiseSource | None) -> Tensor:
    """Draws from the uniform distribution on [0, 1) with the dtype and device of ``like``.

    Example:
        >>> bool((uniform((1000,), torch.zeros(()), torch.Generator().manual_seed(0)) < 1).all())
        True
    """
    if isinstance(generator, Prepared):
        return generator.take()
    if isinstance(generator, Recorder):
        generator = generator.note(_Draw(uniform, tuple(shape), like.new_empty(0)))
    if isinstance(generator, PerRow):
        return generator.stack(shape, -2, lambda part, row, own: uniform(part, like, own))
    device = like.device if generator is None else generator.device
    return torch.rand(tuple(shape), dtype=like.dtype, device=device, generator=generator).to(like.device)


def gamma(concentration: Tensor, source: NoiseSource | None) -> Tensor:
    """Draws from Gamma(concentration, 1), elementwise.

    Example:
        >>> bool((gamma(torch.full((5,), 3.0), torch.Generator().manual_seed(0)) > 0).all())
        True
    """
    generator = _generator(source)
    device = concentration.device if generator is None else generator.device
    # torch has no public function for this that takes a generator; torch.distributions.Gamma calls the same one
    return torch._standard_gamma(concentration.to(device), generator=generator).to(concentration.device)


def poisson(rate: Tensor, source: NoiseSource | None) -> Tensor:
    """Draws from Poisson(rate), elementwise.

    Example:
        >>> poisson(torch.zeros(3), torch.Generator().manual_seed(0))
        tensor([0., 0., 0.])
    """
    generator = _generator(source)
    device = rate.device if generator is None else generator.device
    return torch.poisson(rate.to(device), generator=generator).to(rate.device)


def binomial(trials: int, probabilities: Tensor, source: NoiseSource | None) -> Tensor:
    """Draws of counts out of so many trials, elementwise.

    Example:
        >>> binomial(5, torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
        tensor([0., 5.])
    """
    generator = _generator(source)
    device = probabilities.device if generator is None else generator.device
    each = probabilities.to(device)
    return torch.binomial(torch.full_like(each, trials), each, generator=generator).to(probabilities.device)


def category(logits: Tensor, shape: Sequence[int], source: NoiseSource | None) -> Tensor:
    """Draws of a category number from unnormalised log-probabilities.

    Args:
        logits: shape (\\*batch, K).
        shape: of the result, (\\*samples, \\*batch).
        source: of randomness, a generator.
    Returns:
        Numbers 0..K−1, int64.
    Example:
        >>> category(torch.tensor([0.0, -torch.inf]), (4,), torch.Generator().manual_seed(0))
        tensor([0, 0, 0, 0])
    """
    if isinstance(source, PerRow):
        several = logits.dim() > 1  # else one law for all rows
        return source.stack(shape, -1, lambda part, row, own: category(logits[row] if several else logits, part, own))
    generator = _generator(source)
    device = logits.device if generator is None else generator.device
    rows = logits.detach().softmax(-1).reshape(-1, logits.shape[-1]).to(device)
    draws = math.prod(shape[: len(shape) - (logits.dim() - 1)])
    if draws == 0 or len(rows) == 0:
        return torch.zeros(tuple(shape), dtype=torch.int64, device=logits.device)
    picked = torch.multinomial(rows, draws, replacement=True, generator=generator)  # (rows, draws)
    return picked.T.reshape(tuple(shape)).to(logits.device)
