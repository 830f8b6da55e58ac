r"""Codes on a grid of patches: an encoder that writes slots at every place, a decoder that reads them there.

A picture is cut into patches (:class:`~elbowroom.model.hierarchy.grids.Grid`), residual convolutions stay on the grid,
and each place of it has as many slots, in the order of a :class:`~elbowroom.model.code_distributions.CodeGrid`.

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, section 4.1, arXiv:1711.00937.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.hierarchy.grids import Block, Grid, GridFeatures, flattened
from elbowroom.model.networks import Network

__all__ = ["GridCodeDecoder", "GridCodeEncoder", "with_context"]


class GridCodeEncoder(Network):
    r"""Numbers for every slot of a grid: residual blocks, then a convolution of 1 × 1.

    .. math:: e_{ij} = W \, \phi(h_{ij}), \qquad h = \mathrm{blocks}(\mathrm{stem}(x)) + V c

    Args:
        in_shape: a picture, (H, W) or (C, H, W).
        out_shape: (L, m): m numbers for each slot, those of a vector or the logits of its codes.
        channels: on the grid.
        blocks: residual blocks.
        patch: side of a patch.
        context_dim: length of the context c, which is added at every place; 0 for none.
    Raises:
        ElbowroomError: no picture; sides that the patch does not divide; slots that the places do not divide.
    Example:
        >>> GridCodeEncoder((28, 28), (49, 16))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 49, 16])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: int = 48,
        blocks: int = 2,
        patch: int = 4,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        self.features = GridFeatures(in_shape, channels=channels, blocks=blocks, patch=patch)
        self.context = nn.Linear(context_dim, channels, bias=False) if context_dim else None
        self.output = nn.Conv2d(channels, _at_a_place(math.prod(out_shape), self.features.grid), 1)
        self.widest = max(self.widest, self.features.widest)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        h = with_context(self.features.compute(given, None), self.context, context)
        return flattened(self.output(F.silu(h))).reshape(len(given), *self.out_shape)


class GridCodeDecoder(Network):
    r"""Parameters of every pixel from what each place's slots hold: a convolution, residual blocks, a convolution.

    .. math:: h = \mathrm{blocks}(W * v + V c), \qquad \theta = U * \phi(h) + b

    Args:
        in_shape: (L m,): m numbers for each slot, those of its vector or its one-hot code.
        out_shape: (P, H, W) or (P, C, H, W): P parameters for every element of a picture.
        channels: on the grid.
        blocks: residual blocks.
        patch: side of a patch.
        context_dim: length of the context c, which is added at every place; 0 for none.
    Raises:
        ElbowroomError: no picture; sides that the patch does not divide; slots that the places do not divide.
    Example:
        >>> GridCodeDecoder((49 * 16,), (1, 28, 28))(torch.zeros(5, 49 * 16)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: int = 48,
        blocks: int = 2,
        patch: int = 4,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        self.grid = Grid(out_shape[1:], patch)
        self.first = nn.Conv2d(_at_a_place(math.prod(in_shape), self.grid), channels, 3, padding=1)
        self.context = nn.Linear(context_dim, channels, bias=False) if context_dim else None
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.output = nn.Conv2d(channels, self.out_shape[0] * self.grid.channels, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(self.out_shape))
        self.widest = max(self.widest, channels * self.grid.places)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    @torch.no_grad()
    def set_output_bias(self, values: Tensor) -> None:
        self.bias.copy_(values.expand(self.out_shape))

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        h = with_context(self.first(self.grid.unflattened(given)), self.context, context)
        return self.grid.joined(self.output(F.silu(self.blocks(h))), self.out_shape) + self.bias


def _at_a_place(size: int, grid: Grid) -> int:
    """How many of so many numbers each place has.

    Raises:
        ElbowroomError: the places do not divide them.
    """
    if size % grid.places:
        raise ElbowroomError(
            f"{size} numbers cannot be spread over a grid of {grid.height} × {grid.width} places.",
            "Give as many slots at each place: --model.slots-per-place.",
        )
    return size // grid.places


def with_context(maps: Tensor, layer: nn.Linear | None, context: Tensor | None) -> Tensor:
    """A map with the context added at every place."""
    if layer is None:
        return maps
    assert context is not None  # `forward` has checked it
    shift = cast(Tensor, layer(context.to(maps.dtype)))
    return maps + shift[..., None, None]
