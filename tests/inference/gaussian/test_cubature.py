"""Draws that are N(0, I) one by one, and orthogonal together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.inference.gaussian.cubature import num_blocks, orthogonal_normals


def draws(dim: int, blocks: int = 3, batch: int = 5000, seed: int = 0) -> Tensor:
    return orthogonal_normals(blocks, batch, torch.zeros(dim).double(), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_averages_over_a_block_are_those_of_the_standard_normal(dim):
    """Even moments of an element, 1, 3, 15, and the spread of the length, which has its own distribution."""
    epsilon = draws(dim, blocks=2, batch=10_000)
    for power, moment in ((2, 1.0), (4, 3.0), (6, 15.0)):
        values = (epsilon[..., 0] ** power).mean(1).flatten()  # block by block, independent of each other
        assert abs(values.mean() - moment) < 4 * values.std() / math.sqrt(len(values))
    squares = epsilon.square().sum(-1)
    assert squares.mean().item() == pytest.approx(dim, rel=0.02)
    assert squares.var().item() == pytest.approx(2 * dim, rel=0.05)


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_blocks_are_antithetic_and_orthogonal(dim):
    epsilon = draws(dim, batch=50)
    assert epsilon.shape == (3, 2 * dim, 50, dim)
    torch.testing.assert_close(epsilon[:, :dim], -epsilon[:, dim:])
    inner = torch.einsum("binj,bknj->bnik", epsilon[:, :dim], epsilon[:, :dim])
    torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)), atol=1e-10, rtol=0)


def test_directions_are_uniform():
    """Signs too: LAPACK's QR prefers some."""
    first = draws(4, blocks=1, batch=20_000)[0, 0]
    share = (first > 0).double().mean(0)
    assert ((share - 0.5).abs() < 4 * 0.5 / math.sqrt(len(first))).all()
    unit = first / first.norm(dim=-1, keepdim=True)
    assert (unit.square().mean(0) - 0.25).abs().max() < 0.01


def test_a_quadratic_hardly_varies():
    """The mean of εᵀAε over a block, against that of independent draws: a seventh of the variance or less."""
    A = torch.diag(torch.linspace(0.5, 1.5, 10)).double()
    epsilon = draws(10, blocks=1, batch=4000)[0]
    of_blocks = torch.einsum("kni,ij,knj->kn", epsilon, A, epsilon).mean(0)
    assert abs(of_blocks.mean() - A.trace()) < 4 * of_blocks.std() / math.sqrt(len(of_blocks))
    assert of_blocks.var() < 2 * (A @ A).trace() / 10 / 7  # ten independent directions have 2 tr(A²) / 10


def test_blocks_and_data_are_independent():
    epsilon = draws(3, blocks=2, batch=20_000)[:, 0, :, 0]
    product = epsilon[0] * epsilon[1]
    assert abs(product.mean()) < 4 * product.std() / math.sqrt(len(product))
    product = epsilon[0, ::2] * epsilon[0, 1::2]
    assert abs(product.mean()) < 4 * product.std() / math.sqrt(len(product))


@pytest.mark.parametrize(("wanted", "dim", "blocks"), [(1, 1, 2), (128, 20, 4), (40, 20, 2), (129, 32, 3)])
def test_blocks_hold_the_draws_that_were_asked_for(wanted, dim, blocks):
    assert num_blocks(wanted, dim) == blocks


def test_the_generator_is_the_only_source():
    state = torch.random.get_rng_state()
    torch.testing.assert_close(draws(3, batch=4), draws(3, batch=4), atol=0, rtol=0)
    assert not torch.equal(draws(3, batch=4), draws(3, batch=4, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
