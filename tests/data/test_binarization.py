"""Bits have the probability that the grey value states; fixed bits depend on (seed, row, element) alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from elbowroom.data.binarization import fixed_bits, fresh_bits, hashed_uniforms, mix, threshold_bits

DRAWS = 40_000
BYTES = (0, 1, 51, 127, 128, 200, 254, 255)
GREYS = (0.0, 0.003, 0.25, 0.5, 0.9, 1.0)


def z_score(ones: int, p: float) -> float:
    """Of a count of successes; p = 0 and p = 1 admit no deviation at all."""
    if p in (0.0, 1.0):
        return 0.0 if ones == p * DRAWS else math.inf
    return (ones - DRAWS * p) / math.sqrt(DRAWS * p * (1 - p))


@pytest.mark.parametrize("byte", BYTES)
def test_fresh_bits_of_bytes_have_their_probability(byte: int, generator: torch.Generator) -> None:
    grey = torch.full((DRAWS, 1), byte, dtype=torch.uint8)
    assert abs(z_score(int(fresh_bits(grey, generator, scale=255).sum()), byte / 255)) < 4


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("p", GREYS)
def test_fresh_bits_of_greys_have_their_probability(p: float, scale: int, generator: torch.Generator) -> None:
    grey = torch.full((DRAWS, 1), p * scale)
    assert abs(z_score(int(fresh_bits(grey, generator, scale=scale).sum()), p)) < 4


@pytest.mark.parametrize("byte", BYTES)
def test_fixed_bits_have_their_probability(byte: int) -> None:
    grey = torch.full((DRAWS // 20, 20), byte, dtype=torch.uint8)
    assert abs(z_score(int(fixed_bits(grey, torch.arange(DRAWS // 20), 3, scale=255).sum()), byte / 255)) < 4


def test_a_byte_is_exactly_its_share_of_the_levels() -> None:
    """Of the 255 equally likely levels 0..254, exactly ``byte`` lie below ``byte``."""
    levels = torch.arange(255)
    assert all(int((levels < byte).sum()) == byte for byte in range(256))


@pytest.mark.parametrize("axis", ["rows", "elements", "seeds"])
def test_hash_is_uniform_along(axis: str) -> None:
    u = {
        "rows": lambda: hashed_uniforms(0, torch.arange(20_000), 1).ravel(),
        "elements": lambda: hashed_uniforms(0, torch.arange(1), 20_000).ravel(),
        "seeds": lambda: np.concatenate([hashed_uniforms(seed, torch.arange(1), 1).ravel() for seed in range(5_000)]),
    }[axis]()
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    counts, _ = np.histogram(u, bins=64, range=(0, 1))
    assert stats.chisquare(counts).pvalue > 1e-4
    lag = np.corrcoef(u[:-1], u[1:])[0, 1] * math.sqrt(len(u))
    assert abs(lag) < 4


def test_neighbouring_rows_and_seeds_are_unrelated() -> None:
    one, other = hashed_uniforms(0, torch.arange(200), 100), hashed_uniforms(1, torch.arange(200), 100)
    for a, b in ((one[:-1], one[1:]), (one, other), (one[:-1, 1:], one[1:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1] * math.sqrt(a.size)) < 4


def test_hash_is_the_splitmix_finaliser() -> None:
    """The first outputs of splitmix64 with seed 1234567, as its reference implementation prints them."""
    assert mix(1234567) == 6457827717110365317
    gamma = 0x9E3779B97F4A7C15
    start = mix((-gamma + 5) % 2**64)  # finalise(5)
    assert start != 5
    # the vectorised and the scalar hash are one function: h = m(m(m(s) + i γ) + (j + 1) γ)
    row, seed, element = 9, 4, 2
    inner = mix((mix(seed) + row * gamma - gamma) % 2**64)
    outer = mix((inner + (element + 1) * gamma - gamma) % 2**64)
    assert hashed_uniforms(seed, torch.tensor([row]), 3)[0, element] == (outer >> 11) * 2.0**-53


def test_fixed_bits_ignore_order_and_company() -> None:
    grey = torch.rand(50, 3, 4, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(100, 150)
    together = fixed_bits(grey, rows, 0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fixed_bits(grey[order], rows[order], 0), together[order])
    assert torch.equal(torch.cat([fixed_bits(grey[i : i + 1], rows[i : i + 1], 0) for i in range(50)]), together)
    assert not torch.equal(fixed_bits(grey, rows, 1), together)
    assert not torch.equal(fixed_bits(grey, rows + 1, 0), together)


def test_fixed_bits_do_not_depend_on_the_stored_type() -> None:
    grey = torch.randint(0, 256, (40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(40)
    assert torch.equal(fixed_bits(grey, rows, 0, scale=255), fixed_bits(grey.double(), rows, 0, scale=255))


def test_threshold_is_at_one_half() -> None:
    assert threshold_bits(torch.tensor([0.0, 0.49, 0.5, 1.0])).tolist() == [False, False, True, True]
    assert threshold_bits(torch.tensor([0, 127, 128, 255], dtype=torch.uint8), scale=255).tolist() == [0, 0, 1, 1]
