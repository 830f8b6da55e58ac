r"""Hierarchies on a grid of patches: residual convolutions at one low resolution, cheap on a CPU.

A picture is cut into patches of p × p pixels, which become the channels of a small grid; all convolutions stay on that
grid. On top is one vector of latents, below it groups of few-channel latents, one for every place of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.hierarchy.ladders import Ladder, residual_value
from elbowroom.model.networks import Network

__all__ = [
    "Block",
    "Grid",
    "GridEncoder",
    "GridFeatures",
    "GridLadder",
    "GridReader",
    "started_small",
]

_START = 0.1  # factor of the initial weights of a layer that is to begin near zero


class Grid:
    """Pictures of a shape, cut into patches.

    Args:
        shape: of a picture, (H, W) or (C, H, W).
        patch: p, side of a patch.
    Attributes:
        height, width: of the grid, H / p and W / p.
        channels: values of a patch, C p².
    Raises:
        ElbowroomError: no picture; sides that p does not divide.
    """

    def __init__(self, shape: Sequence[int], patch: int) -> None:
        if len(shape) not in (2, 3):
            raise ElbowroomError(
                f"A grid of patches needs pictures, (H, W) or (C, H, W), but an example has shape {tuple(shape)}.",
                "Use an MLP (kind = mlp or residual), or reshape the data into pictures.",
            )
        *channels, height, width = shape
        if height % patch or width % patch:
            common = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
            raise ElbowroomError(
                f"Pictures of {height} × {width} pixels cannot be cut into patches of {patch} × {patch}.",
                f"Give a patch of {' or '.join(map(str, common))}.",
            )
        self.patch, self.height, self.width = patch, height // patch, width // patch
        self.channels = math.prod(channels) * patch * patch

    @property
    def places(self) -> int:
        """Places of the grid."""
        return self.height * self.width

    def cut(self, pictures: Tensor) -> Tensor:
        """(n, H, W) or (n, C, H, W) to (n, C p², H / p, W / p)."""
        flat = pictures.reshape(len(pictures), -1, self.height * self.patch, self.width * self.patch)
        return _channels_last(F.pixel_unshuffle(flat, self.patch))

    def joined(self, patches: Tensor, shape: Sequence[int]) -> Tensor:
        """(n, values of a patch, H / p, W / p) to (n, \\*shape)."""
        return F.pixel_shuffle(patches, self.patch).reshape(len(patches), *shape)

    def unflattened(self, vectors: Tensor) -> Tensor:
        """(n, channels × places) to (n, channels, H / p, W / p)."""
        return _channels_last(vectors.reshape(len(vectors), -1, self.height, self.width))


class Block(nn.Module):
    r"""A residual block, :math:`h + W' \phi(W \phi(h))`, with W a 3 × 3 convolution, W′ 1 × 1 and small at first.

    Args:
        channels: of h.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1)
        self.mixed = started_small(nn.Conv2d(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.mixed(F.silu(self.wide(F.silu(h))))
        return h + change


class GridFeatures(Network):
    """A picture read into a map on the grid of patches, by residual blocks.

    Args:
        in_shape: a picture, (H, W) or (C, H, W).
        channels: of the map.
        blocks: number of residual blocks.
        patch: side of a patch.
    Raises:
        ElbowroomError: no picture; sides that the patch does not divide.
    Example:
        >>> GridFeatures((28, 28))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 48, 7, 7])
    """

    def __init__(self, in_shape: Sequence[int], *, channels: int = 48, blocks: int = 2, patch: int = 4) -> None:
        grid = Grid(in_shape, patch)
        super().__init__(in_shape, (channels, grid.height, grid.width))
        self.grid = grid
        self.stem = nn.Conv2d(grid.channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.stem

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.blocks(self.stem(self.grid.cut(given))))


class GridReader(nn.Module):
    """A vector read off a map, by a dense layer and an affine map.

    Args:
        shape: of the map.
        size: of the vector.
        dense: width of the dense layer.
        context_dim: length of the context, which joins the map; 0 for none.
    """

    def __init__(self, shape: Sequence[int], size: int, *, dense: int = 300, context_dim: int = 0) -> None:
        super().__init__()
        self.dense = nn.Linear(math.prod(shape) + context_dim, dense)
        self.output = nn.Linear(dense, size)

    def forward(self, features: Tensor, context: Tensor | None) -> Tensor:
        flat = F.silu(features).flatten(1)
        joined = flat if context is None else torch.cat([flat, context.to(flat.dtype)], 1)
        return cast(Tensor, self.output(F.silu(self.dense(joined))))


class GridEncoder(Network):
    """Encoder on a grid of patches: residual blocks, a dense layer, an affine map.

    Args:
        in_shape: a picture, (H, W) or (C, H, W).
        out_shape: shape of one output.
        channels, blocks, patch: as for :class:`GridFeatures`.
        dense: width of the dense layer.
        context_dim: length of the context, which joins the dense layer's input; 0 for none.
    Example:
        >>> GridEncoder((28, 28), (2, 20))(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: int = 48,
        blocks: int = 2,
        dense: int = 300,
        patch: int = 4,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        self.features = GridFeatures(in_shape, channels=channels, blocks=blocks, patch=patch)
        self.reader = GridReader(self.features.out_shape, math.prod(out_shape), dense=dense, context_dim=context_dim)
        self.widest = max(self.widest, self.features.widest)

    @property
    def output_layer(self) -> nn.Linear:
        return self.reader.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.reader(self.features.compute(given, None), context))


class _GroupBelow(nn.Module):
    """A group of latents on the grid: m and log s from the state above it, and the state below it."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.conditional = started_small(nn.Conv2d(channels, 2 * latents, 1))
        self.added = nn.Conv2d(latents, channels, 1)
        self.block = Block(channels)

    def forward(self, state: Tensor, residual: Tensor) -> Tensor:
        z = residual_value(self.conditional(F.silu(state)), residual, 1)
        below: Tensor = self.block(state + self.added(z))
        return below


class GridLadder(Ladder):
    r"""Decoder on a grid of patches: a vector of latents on top, groups of few channels on the grid below it.

    .. math:: h_1 = \mathrm{block}(\mathrm{dense}(u_1)), \qquad
        h_l = \mathrm{block}(h_{l-1} + W z_l), \qquad z_l = m_l(h_{l-1}) + s_l(h_{l-1}) \odot u_l

    Args:
        top: latents of the top group.
        groups: channels of each group below it; every group has so many latents at each place of the grid.
        out_shape: (P, H, W) or (P, C, H, W): P parameters for every element of a picture.
        channels: on the grid.
        dense: width of the dense layer below the top group.
        patch: side of a patch.
        blocks: residual blocks between the top group and the next.
        context_dim: length of the context, which joins the top group; 0 for none.
    Raises:
        ElbowroomError: no picture; sides that the patch does not divide.
    Example:
        >>> GridLadder(8, (2, 2), (1, 28, 28))(torch.zeros(3, 8 + 2 * 2 * 49)).shape
        torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self,
        top: int,
        groups: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: int = 48,
        dense: int = 300,
        patch: int = 4,
        blocks: int = 1,
        context_dim: int = 0,
    ) -> None:
        grid = Grid(out_shape[1:], patch)
        sizes = [top, *(number * grid.places for number in groups)]
        super().__init__(sizes, out_shape, context_dim=context_dim)
        self.grid, self.channels = grid, channels
        self.down = nn.Sequential(
            nn.Linear(top + context_dim, dense), nn.SiLU(), nn.Linear(dense, channels * self.grid.places)
        )
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.groups = nn.ModuleList(_GroupBelow(channels, number) for number in groups)
        self.output = nn.Conv2d(channels, self.out_shape[0] * self.grid.channels, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(self.out_shape))
        self.widest = max(self.widest, channels * self.grid.places, dense)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    @torch.no_grad()
    def set_output_bias(self, values: Tensor) -> None:
        self.bias.copy_(values.expand(self.out_shape))

    def first(self, top: Tensor, context: Tensor | None) -> Tensor:
        joined = top if context is None else torch.cat([top, context.to(top.dtype)], 1)
        return cast(Tensor, self.blocks(self.grid.unflattened(self.down(joined))))

    def advance(self, group: int, state: Tensor, residual: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.groups[group - 1](state, self.grid.unflattened(residual)))

    def finish(self, state: Tensor, context: Tensor | None) -> Tensor:
        return self.grid.joined(self.output(F.silu(state)), self.out_shape) + self.bias


@torch.no_grad()
def started_small(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer whose initial weights are a tenth of torch's, so that what it adds is small at first."""
    for weight in layer.parameters():
        weight.mul_(_START)
    return layer


def _channels_last(pictures: Tensor) -> Tensor:
    # as contiguous(memory_format=torch.channels_last), which vmap lacks
    return pictures.movedim(1, -1).contiguous().movedim(-1, 1)
