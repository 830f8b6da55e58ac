r"""Masked convolutions over a grid of codes: each slot from those around it that come before in the order of reading.

.. math:: h_1 = W_1 * (E z) + r_i + s_j + V c, \qquad h_m = h_{m-1} + W_m * \phi(h_{m-1}), \qquad
    \ell = U \, \phi(h_M) + b, \qquad \phi = \mathrm{SiLU}

The first convolution sees only what comes before a place, the others also the place itself
(:class:`~elbowroom.model.pixels.masked_convolutions.MaskedConv2d`). So a place sees what lies in the first half of the
square around it, and no more: :attr:`GridConvolutions.receptive_field`. Of that, several layers leave out a wedge to
the right, the blind spot of a PixelCNN, since what is to the right in the rows just above is reached by no path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.causal_networks import CausalNetwork, start_small
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.networks import channels_last
from elbowroom.model.pixels.masked_convolutions import LEAST_FIELD, MaskedConv2d, Window

__all__ = ["GridConvolutions", "LevelConvolutions"]

_KERNEL = 5  # of the convolutions after the first


class GridConvolutions(CausalNetwork):
    """A PixelCNN over codes: logits of every slot by masked convolutions over the grid of slots.

    Args:
        space: L and K.
        grid: where the slots are, one at each place.
        width: channels.
        layers: M, convolutions; the first has a kernel of 7 × 7, the others of 5 × 5.
        context_dim: C, length of the context c; 0 ignores any context.
    Attributes:
        receptive_field: side of the square around a place in whose first half everything lies that it depends on.
    Raises:
        ElbowroomError: several slots at a place; a size below 1.
    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel Recurrent Neural Networks, section 3.4, arXiv:1601.06759;
        as a prior over codes: van den Oord, Vinyals & Kavukcuoglu (2017), section 4.1, arXiv:1711.00937.
    Example:
        >>> network = GridConvolutions(CodeSpace(6, 3), CodeGrid(2, 3), width=8)
        >>> network(torch.zeros(5, 18)).shape
        torch.Size([5, 6, 3])
    """

    def __init__(
        self, space: CodeSpace, grid: CodeGrid, *, width: int = 128, layers: int = 4, context_dim: int = 0
    ) -> None:
        super().__init__(space, width=width, layers=layers, context_dim=context_dim)
        if grid.each != 1:
            raise ElbowroomError(
                f"Masked convolutions over codes were given {grid.each} slots at each place, but take one.",
                "Give --model.slots-per-place 1, or use --model.prior transformer.",
            )
        self.grid = grid
        self.embedding = nn.Conv2d(space.codes, width, 1, bias=False)
        self.first = MaskedConv2d(width, width, LEAST_FIELD, sees_itself=False)
        self.rows = nn.Parameter(0.05 * torch.randn(width, grid.height, 1))
        self.columns = nn.Parameter(0.05 * torch.randn(width, 1, grid.width))
        self.context = nn.Linear(context_dim, width, bias=False) if context_dim else None
        self.middle = nn.ModuleList(MaskedConv2d(width, width, _KERNEL, sees_itself=True) for _ in range(layers - 1))
        self.output = nn.Conv2d(width, space.codes, 1)
        self.widest = max(self.widest, width * grid.places)
        self.receptive_field = LEAST_FIELD + (layers - 1) * (_KERNEL - 1)
        start_small(self.output)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        return self.logits(given, self.added(context))

    def logits(self, given: Tensor, added: Tensor) -> Tensor:
        """Logits of shape (n, L, K), with these maps added to the first layer, shape (n or 1, width, H, W)."""
        maps = given.reshape(len(given), self.grid.height, self.grid.width, -1).permute(0, 3, 1, 2)
        h = self.first(self.embedding(channels_last(maps))) + added
        for layer in self.middle:
            h = h + layer(F.silu(h))
        logits: Tensor = self.output(F.silu(h))
        return logits.flatten(2).mT

    def decode(self, bias: Tensor, context: Tensor | None) -> Tensor:
        return self.chosen(bias, self.added(context))

    def chosen(self, bias: Tensor, added: Tensor) -> Tensor:
        """As :meth:`decode`, with these maps added to the first layer."""
        z = torch.zeros_like(bias)
        size = (len(bias), self.grid.height, self.grid.width)
        layers = [self.first, *(layer for layer in self.middle if isinstance(layer, MaskedConv2d))]
        windows = [Window(layer, size, bias) for layer in layers]
        embedding, weight = self.embedding.weight[:, :, 0, 0].T, self.output.weight[:, :, 0, 0]
        for slot in range(self.space.slots):
            place = divmod(slot, self.grid.width)
            h = added[:, :, place[0], place[1]]
            for number, window in enumerate(windows):
                if number:
                    window.put(*place, F.silu(h))
                h = h + window.at(*place)
            z[:, slot] = self._chosen(F.linear(F.silu(h), weight, self.output.bias), bias[:, slot])
            windows[0].put(*place, z[:, slot] @ embedding)
        return z

    def added(self, context: Tensor | None) -> Tensor:
        """What is added to the first layer at every place, r + s + V c, shape (n or 1, width, H, W)."""
        positions = (self.rows + self.columns).unsqueeze(0)
        if self.context is None:
            return positions
        assert context is not None  # `forward` has checked it
        shift: Tensor = self.context(context.to(positions.dtype))
        return positions + shift[..., None, None]


class LevelConvolutions(CausalNetwork):
    r"""A PixelCNN for every level of codes, each of which reads the codes of all levels above it.

    .. math:: p(z) = \prod_m p(z_m | z_{<m}), \qquad a_m = r_i + s_j + \mathrm{up}(s_{m-1}), \qquad
        s_m = U_m * z_m + \mathrm{up}(s_{m-1})

    with a_m what is added to the first layer of level m. The convolutions U are not masked: what is above is known.

    Args:
        space: L and K, of all levels together.
        grids: where the slots are, one at each place, the top level first; rows and columns of a level divide those of
            the one below.
        width: channels.
        layers: convolutions of each level.
        context_dim: C, length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: several slots at a place; a size below 1.
    Reference:
        Razavi, van den Oord & Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2, section 3.2,
        arXiv:1906.00446.
    Example:
        >>> network = LevelConvolutions(CodeSpace(20, 3), [CodeGrid(2, 2), CodeGrid(4, 4)], width=8)
        >>> network(torch.zeros(5, 60)).shape
        torch.Size([5, 20, 3])
    """

    def __init__(
        self, space: CodeSpace, grids: Sequence[CodeGrid], *, width: int = 128, layers: int = 4, context_dim: int = 0
    ) -> None:
        super().__init__(space, width=width, layers=layers, context_dim=context_dim)
        shape = {"width": width, "layers": layers, "context_dim": context_dim}
        self.levels = nn.ModuleList(
            GridConvolutions(CodeSpace(grid.slots, space.codes), grid, **shape) for grid in grids
        )
        self.above = nn.ModuleList(nn.Conv2d(space.codes, width, 3, padding=1) for _ in grids[1:])
        self.widest = max(self.widest, width * grids[-1].places)

    @property
    def output_layer(self) -> nn.Conv2d:
        return self._level(len(self.levels) - 1).output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        state: Tensor | None = None
        logits = []
        for level, part in enumerate(given.split_with_sizes(self._sizes(), -1)):
            network = self._level(level)
            logits.append(network.logits(part, self._added(network, context, state)))
            state = self._read(level, part, state)
        return torch.cat(logits, 1)

    def decode(self, bias: Tensor, context: Tensor | None) -> Tensor:
        state: Tensor | None = None
        found = []
        for level, part in enumerate(bias.split_with_sizes([size // self.space.codes for size in self._sizes()], 1)):
            network = self._level(level)
            z = network.chosen(part, self._added(network, context, state))
            state = self._read(level, z, state)
            found.append(z)
        return torch.cat(found, 1)

    def _level(self, level: int) -> GridConvolutions:
        network = self.levels[level]
        assert isinstance(network, GridConvolutions)
        return network

    def _sizes(self) -> list[int]:
        return [self._level(level).space.dim for level in range(len(self.levels))]

    def _added(self, network: GridConvolutions, context: Tensor | None, state: Tensor | None) -> Tensor:
        added = network.added(context)
        return added if state is None else added + state

    def _read(self, level: int, z: Tensor, state: Tensor | None) -> Tensor | None:
        """What the next level is added: of the codes of this level, and of those above; None below the last."""
        if level == len(self.above):
            return None
        grid, below = self._level(level).grid, self._level(level + 1).grid
        maps = z.reshape(len(z), grid.height, grid.width, -1).permute(0, 3, 1, 2)
        own: Tensor = self.above[level](channels_last(maps))
        own = own if state is None else own + state
        return own.repeat_interleave(below.height // grid.height, 2).repeat_interleave(below.width // grid.width, 3)
