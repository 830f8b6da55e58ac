r"""Levels of codes on grids of patches: coarse slots first, then finer ones that know them.

The bottom level has slots at the places of the grid of patches; each level above has half the rows and half the
columns. An encoder reads features at every size, a decoder goes from the coarsest grid to the finest.

Reference:
    Razavi, van den Oord & Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2, section 3.1,
    arXiv:1906.00446.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeGrid
from elbowroom.model.grids.code_networks import with_context
from elbowroom.model.hierarchy.grids import Block, Grid, flattened
from elbowroom.model.networks import Network, NetworkPart

__all__ = ["LevelDecoder", "LevelRecognition", "level_grids"]


def level_grids(bottom: CodeGrid, levels: int) -> tuple[CodeGrid, ...]:
    """The grids of all levels, the top level first.

    Args:
        bottom: the grid of patches.
        levels: their number; each has half the rows and columns of the one below it.
    Raises:
        ElbowroomError: rows or columns that cannot be halved so often.
    Example:
        >>> level_grids(CodeGrid(4, 8), 3)[0]
        CodeGrid(height=1, width=2, each=1)
    """
    factor = 2 ** (levels - 1)
    if bottom.height % factor or bottom.width % factor:
        halvings = "once" if levels == 2 else f"{levels - 1} times"
        raise ElbowroomError(
            f"{levels} levels of codes were asked for, but a grid of {bottom.height} × {bottom.width} places cannot be "
            f"halved {halvings}.",
            "Cut smaller patches (--model.encoder.patch, and the same for the decoder), or ask for fewer levels "
            "(--model.code-levels).",
        )
    sizes = [2**level for level in reversed(range(levels))]
    return tuple(CodeGrid(bottom.height // size, bottom.width // size, bottom.each) for size in sizes)


class LevelRecognition(NetworkPart):
    r"""What is said about the slots of every level, from a map of x and the values of the levels above.

    .. math:: f_M = h, \quad f_{m-1} = \mathrm{block}(\mathrm{down}(f_m)), \qquad
        g_1 = f_1 + V c, \quad g_m = f_m + \mathrm{up}(g_{m-1}),

    .. math:: e_m = W_m \, \phi\big(\mathrm{block}(g_m + \mathrm{up}(s_{m-1}))\big), \qquad
        s_m = U_m v_m + \mathrm{up}(s_{m-1})

    with h the map of x on the bottom grid, M, and v the values of the slots above, which are chosen one level after the
    other. The features g are computed once for an example, however many values are tried.

    Args:
        grids: of the levels, the top level first.
        channels: of the map of x.
        out: m, numbers for each slot.
        read: numbers of each slot above that are read.
        context_dim: length of the context c, which is added at every place of the top grid; 0 for none.
    Example:
        >>> network = LevelRecognition((CodeGrid(2, 2), CodeGrid(4, 4)), 8, out=5, read=3)
        >>> top, bottom = network.features(torch.zeros(7, 8, 4, 4), None)
        >>> network.output(0, top, []).shape, network.output(1, bottom, [torch.zeros(7, 4, 3)]).shape
        (torch.Size([7, 4, 5]), torch.Size([7, 16, 5]))
    """

    def __init__(self, grids: Sequence[CodeGrid], channels: int, *, out: int, read: int, context_dim: int = 0) -> None:
        super().__init__()
        self.grids, self.out, self.context_dim = tuple(grids), out, context_dim
        lower = range(len(grids) - 1)
        self.down = nn.ModuleList(_Down(channels) for _ in lower)
        self.up = nn.ModuleList(_Up(channels) for _ in lower)
        self.chosen = nn.ModuleList(nn.Conv2d(grid.each * read, channels, 1) for grid in grids[:-1])
        self.chosen_up = nn.ModuleList(_Up(channels) for _ in lower)
        self.blocks = nn.ModuleList(Block(channels) for _ in lower)
        self.context = nn.Linear(context_dim, channels, bias=False) if context_dim else None
        self.outputs = nn.ModuleList(nn.Conv2d(channels, grid.each * out, 1) for grid in grids)
        self.widest = channels * grids[-1].places

    def features(self, maps: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """g of every level, the top level first: (n, channels, H, W) from the map on the bottom grid."""
        with self.lowered(maps):
            found = [maps]
            for down in self.down:
                found.insert(0, down(found[0]))
            found[0] = with_context(found[0], self.context, context)
            for level, up in enumerate(self.up, 1):
                found[level] = found[level] + up(found[level - 1])
        return tuple(each.to(maps.dtype) for each in found)

    def output(self, level: int, features: Tensor, above: Sequence[Tensor]) -> Tensor:
        """e of a level, shape (n, L, m).

        Args:
            level: its number, from 0.
            features: g of the level, shape (n, channels, H, W).
            above: values of the slots of every level above, each of shape (n, L, read).
        """
        with self.lowered(features):
            h = features
            if level:
                h = self.blocks[level - 1](h + self._from_above(level, above))
            e = flattened(self.outputs[level](F.silu(h)))
        return e.to(features.dtype).reshape(len(features), -1, self.out)

    def _from_above(self, level: int, above: Sequence[Tensor]) -> Tensor:
        state: Tensor | None = None
        for number in range(level):
            own: Tensor = self.chosen[number](_on_grid(above[number], self.grids[number]))
            state = self.chosen_up[number](own if state is None else own + state)
        assert state is not None
        return state


class LevelDecoder(Network):
    r"""Parameters of every pixel from what the slots of all levels hold, from the coarsest grid to the finest.

    .. math:: h_1 = \mathrm{block}(W_1 * v_1 + V c), \quad h_m = W_m * v_m + \mathrm{up}(h_{m-1}), \qquad
        \theta = U * \phi(\mathrm{blocks}(h_M)) + b

    Between the first and the last, every level has a residual block of its own.

    Args:
        grids: of the levels, the top level first; the last is the grid of patches.
        in_shape: (L m,): m numbers for each slot, those of its vector or its one-hot code, the top level first.
        out_shape: (P, H, W) or (P, C, H, W): P parameters for every element of a picture.
        channels: on the grids.
        blocks: residual blocks on the bottom grid.
        patch: side of a patch.
        context_dim: length of the context c, which is added at every place of the top grid; 0 for none.
    Example:
        >>> network = LevelDecoder((CodeGrid(2, 2), CodeGrid(4, 4)), (20 * 3,), (1, 8, 8), patch=2)
        >>> network(torch.zeros(5, 20 * 3)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        grids: Sequence[CodeGrid],
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: int = 48,
        blocks: int = 2,
        patch: int = 4,
        context_dim: int = 0,
    ) -> None:
        super().__init__(in_shape, out_shape, context_dim=context_dim)
        self.grids, self.patches = tuple(grids), Grid(out_shape[1:], patch)
        read = math.prod(in_shape) // sum(grid.slots for grid in grids)
        self.sizes = [grid.slots * read for grid in grids]
        self.first = nn.ModuleList(nn.Conv2d(grid.each * read, channels, 3, padding=1) for grid in grids)
        self.up = nn.ModuleList(_Up(channels) for _ in grids[1:])
        self.coarse = nn.ModuleList(Block(channels) for _ in grids[1:])
        self.context = nn.Linear(context_dim, channels, bias=False) if context_dim else None
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.output = nn.Conv2d(channels, self.out_shape[0] * self.patches.channels, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(self.out_shape))
        self.widest = max(self.widest, channels * grids[-1].places)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    @torch.no_grad()
    def set_output_bias(self, values: Tensor) -> None:
        self.bias.copy_(values.expand(self.out_shape))

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        state: Tensor | None = None
        for level, (grid, part) in enumerate(zip(self.grids, given.split_with_sizes(self.sizes, -1), strict=True)):
            own: Tensor = self.first[level](_on_grid(part, grid))
            state = with_context(own, self.context, context) if state is None else own + self.up[level - 1](state)
            if level < len(self.coarse):
                state = self.coarse[level](state)
        return self.patches.joined(self.output(F.silu(self.blocks(state))), self.out_shape) + self.bias


class _Down(nn.Module):
    """A map on a grid of half the rows and columns: a 2 × 2 patch in each place, a convolution, a residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(4 * channels, channels, 3, padding=1)
        self.block = Block(channels)

    def forward(self, h: Tensor) -> Tensor:
        below: Tensor = self.block(self.mixed(F.pixel_unshuffle(F.silu(h), 2)))
        return below


class _Up(nn.Module):
    """A map on a grid of twice the rows and columns: of each place a 2 × 2 patch, by a linear map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(channels, 4 * channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mixed(h), 2)


def _on_grid(values: Tensor, grid: CodeGrid) -> Tensor:
    """What slots hold, in the order of slots, as a map: (n, \\*) to (n, each × m, H, W), without a copy."""
    return values.reshape(len(values), grid.height, grid.width, -1).permute(0, 3, 1, 2)
