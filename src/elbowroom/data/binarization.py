r"""Binarisation: grey values as probabilities of binary ones.

A grey pixel p in [0, 1] is taken as a probability, and the binary pixel is a draw x ~ Bernoulli(p). There are two ways
to draw:

* **afresh** at every visit, from the run's generator (dynamic binarisation, training);
* **fixed**, from a stateless hash of (seed, row, element), so that a row has the same bits in every evaluation,
  whatever the order, the batch size or the machine (static binarisation, and *every* evaluation of dynamic data:
  otherwise the same bound would be a different number at each evaluation).

Both ask whether a uniform u lies *below* p: P(u < p) = p, never for p = 0 and always for p = 1. The hash is the
finaliser of splitmix64, applied to a stream with a different start for each row:

.. math:: h(s, i, j) = m(m(m(s) + i \gamma) + (j + 1) \gamma), \qquad u = \lfloor h / 2^{11} \rfloor \, 2^{-53}
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Binarization", "fixed_bits", "fresh_bits", "hashed_uniforms", "mix", "threshold_bits"]

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_MASK = (1 << 64) - 1


class Binarization(StrEnum):
    """How grey values become 0 or 1."""

    NONE = "none"  #: not at all
    STATIC = "static"  #: drawn once, the same bits in every epoch
    DYNAMIC = "dynamic"  #: drawn anew at every visit in training; fixed in evaluation
    THRESHOLD = "threshold"  #: 1 where the grey value is at least one half


def mix(*numbers: int) -> int:
    """One 64-bit number that depends on all of the given ones, in their order.

    Example:
        >>> mix(0, 1) == mix(1, 0)
        False
    """
    state = 0
    for number in numbers:
        state = _finalise_int((state + (number & _MASK) + _GAMMA) & _MASK)
    return state


def _finalise_int(h: int) -> int:
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK
    return h ^ (h >> 31)


def _finalise(h: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64, in place."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h ^= h >> np.uint64(shift)
        h *= np.uint64(factor)
    h ^= h >> np.uint64(31)
    return h


def hashed_uniforms(seed: int, rows: Tensor, num_elements: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) that depend on (seed, row, element) only.

    Args:
        seed: any integer.
        rows: positions in the data set, int64, shape (n,).
        num_elements: elements per row.
    Returns:
        Uniform multiples of 2⁻⁵³, shape (n, num_elements).
    Reference:
        Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators, doi:10.1145/2660193.2660195.
    Example:
        >>> one = hashed_uniforms(0, torch.tensor([7]), 3)
        >>> many = hashed_uniforms(0, torch.tensor([5, 6, 7]), 3)
        >>> bool((one[0] == many[2]).all())
        True
    """
    gamma = np.uint64(_GAMMA)
    starts = rows.cpu().numpy().astype(np.uint64) * gamma + np.uint64(mix(seed))
    steps = np.arange(1, num_elements + 1, dtype=np.uint64) * gamma
    h = _finalise(_finalise(starts)[:, None] + steps)  # (n, num_elements), modulo 2^64
    h >>= np.uint64(11)
    return h.astype(np.float64) * 2.0**-53


def fixed_bits(grey: Tensor, rows: Tensor, seed: int, *, scale: int = 1) -> Tensor:
    """The fixed bits of these rows: u(seed, row, element) < grey / scale.

    Args:
        grey: values in [0, scale], shape (n, \\*event).
        rows: their positions in the data set, int64, shape (n,).
        seed: of the data set.
        scale: 255 for bytes.
    Returns:
        Bool, shape (n, \\*event), on the device of ``grey``.
    """
    p = grey.to("cpu", torch.float64).flatten(1) / scale
    u = torch.from_numpy(hashed_uniforms(seed, rows, p.shape[1]))
    return (u < p).view(grey.shape).to(grey.device)


def fresh_bits(grey: Tensor, generator: torch.Generator, *, scale: int = 1) -> Tensor:
    """Newly drawn bits: P(bit = 1) = grey / scale.

    Bytes are compared with integers uniform on 0..254, of which exactly ``grey`` lie below ``grey``: the probability
    is grey/255 without rounding, and nothing is converted to floating point.

    Args:
        grey: values in [0, scale], shape (n, \\*event).
        generator: the source of randomness.
        scale: 255 for bytes.
    Returns:
        Bool, shape (n, \\*event), on the device of ``grey``.
    Example:
        >>> fresh_bits(torch.tensor([[0, 255]], dtype=torch.uint8), torch.Generator().manual_seed(0), scale=255)
        tensor([[False,  True]])
    """
    if scale == 255 and grey.dtype == torch.uint8:
        if grey.device.type == "cpu" == generator.device.type:
            return torch.from_numpy(_levels(grey.shape, generator) < grey.numpy())
        levels = torch.randint(0, scale, grey.shape, generator=generator, dtype=torch.uint8, device=generator.device)
        return levels.to(grey.device) < grey
    p = grey.to(torch.promote_types(grey.dtype, torch.float32))
    u = torch.rand(grey.shape, generator=generator, dtype=p.dtype, device=generator.device)
    return u.to(grey.device) * scale < p


def _levels(shape: torch.Size, generator: torch.Generator) -> npt.NDArray[np.uint8]:
    """Uniform integers 0..254: eight from each draw of 64 bits; a 255 is drawn again."""
    number = shape.numel()
    words = torch.empty(-(-number // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    levels = words.view(torch.uint8).numpy()[:number]  # numpy compares bytes several times as fast as torch
    again = np.flatnonzero(levels == 255)
    levels[again] = torch.randint(0, 255, again.shape, generator=generator, dtype=torch.uint8).numpy()
    return levels.reshape(shape)


def threshold_bits(grey: Tensor, *, scale: int = 1) -> Tensor:
    """True where grey is at least half of ``scale``.

    Example:
        >>> threshold_bits(torch.tensor([[127, 128]], dtype=torch.uint8), scale=255)
        tensor([[False,  True]])
    """
    return grey * 2.0 >= scale
