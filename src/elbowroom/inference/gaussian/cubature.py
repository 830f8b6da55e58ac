r"""Standard normal draws that integrate almost without noise: antithetic, orthogonal, with stratified lengths.

An average of f over N(0, I) from independent draws has an error of :math:`\mathrm{sd}(f) / \sqrt{K}`. For a log density
near its mode, which is nearly quadratic, almost all of that error can be removed at no cost. A normal vector is a
direction and a length, independent of each other, :math:`\epsilon = r \, u`, and a block of 2 D draws is made of

- the D columns of a random rotation, :math:`u_i^\top u_j = \delta_{ij}`: of a quadratic form the average over them is
  :math:`\sum_i u_i^\top A u_i / D = \operatorname{tr}(A) / D`, whatever the rotation;
- one length from each of D strata of the distribution of r, so that :math:`\sum_i r_i^2 / D` hardly varies;
- their reflections, -ε, which cancel every odd term.

A draw taken from a block at random is exactly N(0, I), so averages over blocks are unbiased. Draws of a block depend on
each other, blocks do not: the spread of the blocks' means gives the standard error.

Reference:
    Genz & Monahan (1998), Stochastic integration rules for infinite regions, SIAM J. Sci. Comput. 19.
    Rowland et al. (2018), Geometrically coupled Monte Carlo sampling, NeurIPS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elbowroom.model import noise
from elbowroom.model.noise import NoiseSource, PerRow

__all__ = ["num_blocks", "orthogonal_normals"]

_PER_STRATUM = 16  # lengths of which one is kept; the sorted draws are the strata


def num_blocks(draws: int, dim: int) -> int:
    """The least number of blocks, 2 or more, that holds this many draws of D dimensions.

    Example:
        >>> num_blocks(128, 20), num_blocks(128, 100)
        (4, 2)
    """
    return max(2, math.ceil(draws / (2 * dim)))


def orthogonal_normals(blocks: int, batch: int, like: Tensor, generator: NoiseSource | None) -> Tensor:
    """Blocks of normal draws for each example; blocks and examples are independent of each other.

    Args:
        blocks: B, of 2 D draws each.
        batch: data.
        like: D is the length of its last axis; the draws get its type and place.
        generator: the source of randomness.
    Returns:
        Shape (blocks, 2 D, batch, D).
    Example:
        >>> draws = orthogonal_normals(1, 5, torch.zeros(3), torch.Generator().manual_seed(0))
        >>> draws.shape, bool(torch.allclose(draws[0, :3], -draws[0, 3:]))
        (torch.Size([1, 6, 5, 3]), True)
    """
    if isinstance(generator, PerRow):
        return torch.cat([orthogonal_normals(blocks, 1, like, own) for own in generator.generators], 2)
    dim = like.shape[-1]
    gaussian = noise.normal((blocks, batch, dim, dim), like, generator)
    rotation, triangle = torch.linalg.qr(gaussian)
    # with R's diagonal positive, Q is uniform over rotations and reflections; LAPACK's signs are not
    rotation = rotation * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    length = _lengths((blocks, batch), dim, like, generator)
    half = (rotation.mT * length.unsqueeze(-1)).movedim(-2, 1)  # (blocks, D, batch, D)
    return torch.cat([half, -half], 1)


def _lengths(shape: tuple[int, int], dim: int, like: Tensor, generator: NoiseSource | None) -> Tensor:
    """Of normal vectors, one from each of D strata, shape (\\*shape, D); in random order."""
    squares = 2 * noise.gamma(like.new_full((*shape, dim * _PER_STRATUM), dim / 2), generator)  # χ² of D degrees
    strata = squares.sort(-1).values.reshape(*shape, dim, _PER_STRATUM)
    chosen = (noise.uniform((*shape, dim, 1), like, generator) * _PER_STRATUM).long().clamp(max=_PER_STRATUM - 1)
    # the directions are exchangeable, so the lengths need no shuffling
    lengths: Tensor = strata.gather(-1, chosen).squeeze(-1).sqrt()
    return lengths
