r"""Networks over codes whose output for a slot depends on the slots before it only.

.. math:: \ell_l = f_l(z_1, \dots, z_{l-1}, c), \qquad l = 1, \dots, L

One pass gives the logits of all slots of a known z, as a density needs. A z that is to be found slot by slot needs a
pass for each slot, unless what earlier slots have led to is kept, as :meth:`CausalNetwork.decode` does: each unit of a
masked MLP, and each token of a transformer, is computed once. All of it is linear in z at the input, so that a z
between codes has logits, too, and gradients.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.networks import Network

__all__ = ["AttentionNetwork", "CausalNetwork", "MaskedMLP", "start_small"]


class CausalNetwork(Network):
    """A function (\\*, L K) -> (\\*, L, K) from z to logits, whose slot l reads the slots before l only.

    Args:
        space: L and K.
        width: of the layers.
        layers: their number.
        context_dim: C, length of the context vector of each example; 0 ignores any context.
    Raises:
        ElbowroomError: a size below 1.
    """

    def __init__(self, space: CodeSpace, *, width: int, layers: int, context_dim: int = 0) -> None:
        super().__init__((space.dim,), space, context_dim=context_dim)
        self.space = space
        for size, flag in ((width, "--model.prior-width"), (layers, "--model.prior-layers")):
            _check_positive(size, flag)
        self._rule: Callable[[Tensor], Tensor] | None = None

    @contextmanager
    def choosing_by(self, rule: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """A context in which :meth:`decode` chooses by other logits.

        Args:
            rule: from the logits of a slot, shape (n, K), to those by which its code is chosen.
        """
        networks = [part for part in self.modules() if isinstance(part, CausalNetwork)]
        for network in networks:
            network._rule = rule
        try:
            yield
        finally:
            for network in networks:
                network._rule = None

    @abstractmethod
    def decode(self, bias: Tensor, context: Tensor | None) -> Tensor:
        r"""Chooses the codes one slot after the other.

        .. math:: k_l = \arg\max_k \; \ell_{lk}(z_{<l}, c) + b_{lk}

        With standard Gumbel noise for b this draws from the distribution of these logits; with zeros each code is the
        most likely one, given those before.

        Args:
            bias: b, shape (n, L, K).
            context: shape (n, C), or None.
        Returns:
            z, one-hot, shape (n, L, K).
        """

    def _chosen(self, logits: Tensor, bias: Tensor) -> Tensor:
        """The code of one slot, one-hot, from shape (n, K)."""
        logits = logits if self._rule is None else self._rule(logits)
        return F.one_hot((logits + bias).argmax(-1), self.space.codes).to(bias.dtype)


class MaskedMLP(CausalNetwork):
    r"""MADE: a residual MLP in which masks remove every path to a slot from itself and from later ones.

    .. math:: h_1 = \phi(W_1 z + V c + b_1), \quad h_i = h_{i-1} + \phi(W_i h_{i-1} + b_i), \quad
        \ell = W h_n + b, \qquad \phi = \mathrm{SiLU}

    A hidden unit has a degree m, and reads the slots up to m: W₁ has no weight from a later slot, Wᵢ none from a unit
    of a higher degree, and W none to a slot up to m. Degrees go from the first slot to the last but one, with the same
    number of units each. With a context there are also units that read no slot but the context, without which the
    first slot could not depend on it; the context itself is never masked.

    Args:
        space: L and K.
        width: of the hidden layers.
        layers: n, hidden layers.
        context_dim: C, length of the context c.
    Raises:
        ElbowroomError: fewer hidden units than degrees; a size below 1.
    Reference:
        Germain, Gregor, Murray & Larochelle (2015), MADE: Masked Autoencoder for Distribution Estimation,
        section 4, arXiv:1502.03509.
    Example:
        >>> network = MaskedMLP(CodeSpace(4, 3), width=16)
        >>> network(torch.zeros(5, 12)).shape
        torch.Size([5, 4, 3])
    """

    def __init__(self, space: CodeSpace, *, width: int = 512, layers: int = 2, context_dim: int = 0) -> None:
        super().__init__(space, width=width, layers=layers, context_dim=context_dim)
        lowest = -1 if context_dim else 0  # slots are counted from 0: degree −1 reads none
        kinds = space.slots - 1 - lowest
        if width < kinds:
            raise ElbowroomError(
                f"A MADE of {width} hidden units was asked for, but {space.slots} slots need {kinds} at the least: "
                "with fewer, some slots would not be read.",
                "Give a larger --model.prior-width, or use --model.prior transformer.",
            )
        degrees = lowest + torch.arange(width) * kinds // width  # ascending
        slots = torch.arange(space.slots).repeat_interleave(space.codes)  # of each input and each output
        self.input = _MaskedLinear(degrees[:, None] >= slots, ones=1 / space.codes)
        self.context = nn.Linear(context_dim, width, bias=False) if context_dim else None
        self.hidden = nn.ModuleList(_MaskedLinear(degrees[:, None] >= degrees) for _ in range(layers - 1))
        self.output = _MaskedLinear(slots[:, None] > degrees)
        self.widest = max(self.widest, width)
        self._read = [int((degrees < slot).sum()) for slot in range(space.slots)]  # units that each slot's logits read
        start_small(self.output)

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        h = F.silu(self._add_context(self.input(given), context))
        for layer in self.hidden:
            h = h + F.silu(layer(h))
        out: Tensor = self.output(h)
        return out

    def decode(self, bias: Tensor, context: Tensor | None) -> Tensor:
        width, codes = len(self.input.bias), self.space.codes
        z = torch.zeros_like(bias)
        total = self._add_context(self.input.bias.expand(len(bias), width), context)  # W₁ z + V c + b₁ so far
        layers = [bias.new_zeros(len(bias), width) for _ in range(1 + len(self.hidden))]
        start = 0
        for slot, read in enumerate(self._read):
            new, known = slice(start, read), slice(0, read)  # the units of degree slot − 1, and all up to it
            layers[0][:, new] = F.silu(total[:, new])
            for linear, below, above in zip(self.hidden, layers, layers[1:], strict=False):
                assert isinstance(linear, nn.Linear)
                inside = F.linear(below[:, known], linear.weight[new, known], linear.bias[new])
                above[:, new] = below[:, new] + F.silu(inside)
            own = slice(slot * codes, (slot + 1) * codes)
            logits = F.linear(layers[-1][:, known], self.output.weight[own, known], self.output.bias[own])
            z[:, slot] = self._chosen(logits, bias[:, slot])
            total = total + F.linear(z[:, slot], self.input.weight[:, own])
            start = read
        return z

    def _add_context(self, h: Tensor, context: Tensor | None) -> Tensor:
        if self.context is None:
            return h
        assert context is not None  # `forward` has checked it
        shift: Tensor = self.context(context.to(h.dtype))
        return h + shift


class AttentionNetwork(CausalNetwork):
    r"""A small causal transformer: token l holds the code of the slot before, and attends to no later token.

    .. math:: h_l = E_{l-1} z_{l-1} + p_l, \quad h_1 = V c + p_1, \qquad
        h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h)), \quad h \leftarrow h + \mathrm{MLP}(\mathrm{norm}(h)),
        \qquad \ell_l = W_l \, \mathrm{norm}(h_l) + b_l

    The positions p are learned; p₁ is the token that starts a sequence. Each slot has an embedding and an output layer
    of its own, because code k of one slot has nothing to do with code k of another. Where slots are at the places of a
    grid, code k means the same at every place: embeddings and output layers are shared, and the position of slot t at
    row i and column j is :math:`r_i + s_j + p_t`. On several levels, each has all of this to itself, and the tokens of
    a lower level are added, beside their positions, an embedding of the codes above their place.

    Args:
        space: L and K.
        width: D, of the tokens.
        layers: blocks of attention and MLP.
        heads: of the attention, each of width D / heads.
        grid: where the slots are; of several levels, the top level first, whose rows and columns divide those of the
            one below; None for slots without places.
        context_dim: C, length of the context c.
        words: the widths of the words that the context consists of, one-hot after one another; a word of zeros says
            nothing. Each is a token of its own before the others, :math:`h = E c_w + q_w`. Without words the context
            is in the first token, as above.
    Raises:
        ElbowroomError: a width that the heads do not divide; a size below 1; words of another width than the context.
    Reference:
        Vaswani et al. (2017), Attention Is All You Need, section 3, arXiv:1706.03762; with the norm before each layer,
        Xiong et al. (2020), On Layer Normalization in the Transformer Architecture, arXiv:2002.04745.
    Example:
        >>> network = AttentionNetwork(CodeSpace(4, 3), width=16)
        >>> network(torch.zeros(5, 12)).shape
        torch.Size([5, 4, 3])
    """

    def __init__(
        self,
        space: CodeSpace,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        grid: CodeGrid | Sequence[CodeGrid] | None = None,
        context_dim: int = 0,
        words: Sequence[int] = (),
    ) -> None:
        super().__init__(space, width=width, layers=layers, context_dim=context_dim)
        _check_positive(heads, "--model.prior-heads")
        if width % heads:
            raise ElbowroomError(
                f"A transformer of width {width} was asked for, but {heads} heads do not divide it.",
                f"Give --model.prior-width {-(-width // heads) * heads}, or another --model.prior-heads.",
            )
        slots, codes = space
        self.heads = heads
        self.grids = () if grid is None else (grid,) if isinstance(grid, CodeGrid) else tuple(grid)
        # of slots that differ in what their codes mean
        self._kinds = slots if not self.grids else sum(own.each for own in self.grids)
        self.embedding = nn.Parameter(0.05 * torch.randn(self._kinds if self.grids else slots - 1, codes, width))
        self.positions = nn.Parameter(0.05 * torch.randn(self._kinds, width))
        if len(self.grids) == 1:
            self.rows = nn.Parameter(0.05 * torch.randn(self.grids[0].height, 1, 1, width))
            self.columns = nn.Parameter(0.05 * torch.randn(self.grids[0].width, 1, width))
        elif self.grids:
            self.level_rows = nn.ParameterList(0.05 * torch.randn(own.height, 1, 1, width) for own in self.grids)
            self.level_columns = nn.ParameterList(0.05 * torch.randn(own.width, 1, width) for own in self.grids)
            self.above = nn.Parameter(0.05 * torch.randn(self._kinds - self.grids[-1].each, codes, width))
        self.words = tuple(words)
        if words and sum(words) != context_dim:
            raise ElbowroomError(
                f"Words of {' + '.join(map(str, words))} numbers were given for a context of {context_dim}.",
                "Give words that make up the context.",
            )
        if words:
            self.word_embedding = nn.Parameter(0.05 * torch.randn(context_dim, width))
            self.word_positions = nn.Parameter(0.05 * torch.randn(len(words), width))
        self.context = nn.Linear(context_dim, width) if context_dim and not words else None
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, self._kinds * codes)  # the rows of a kind of slot are its own layer
        self.widest = max(self.widest, slots * 4 * width)
        start_small(self.output)

    @property
    def output_layer(self) -> nn.Linear:
        return self.output

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        z = self.space.split(given)
        h = torch.cat([self._start(z, context), self._tokens(z)], 1) + self._positions()
        if len(self.grids) > 1:
            places = [self._from_above(level, z[:, self._slots(level - 1)]) for level in range(1, len(self.grids))]
            h = torch.cat([h[:, self._slots(0)], *(h[:, self._slots(n)] + p for n, p in enumerate(places, 1))], 1)
        h, (weights, biases) = self.norm(self._read(h, context)), self._output()
        logits = []
        for own, kinds in self._parts():
            by_kind = h[:, own].reshape(len(h), -1, kinds.stop - kinds.start, h.shape[-1])
            logits.append((torch.einsum("npld,lkd->nplk", by_kind, weights[kinds]) + biases[kinds]).flatten(1, 2))
        return logits[0] if len(logits) == 1 else torch.cat(logits, 1)

    def decode(self, bias: Tensor, context: Tensor | None) -> Tensor:
        z = torch.zeros_like(bias)
        token = self._start(bias, context)
        seen = self._read_words(token, context)
        positions, (weights, biases) = self._positions(), self._output()
        kind_of = [kind for own, kinds in self._parts() for kind in _repeated(kinds, own)]
        first_of = {self._slots(level).start: level for level in range(1, len(self.grids))}
        above: Tensor | None = None
        for slot, kind in enumerate(kind_of):
            if slot in first_of:
                above, begins = self._from_above(first_of[slot], z[:, self._slots(first_of[slot] - 1)]), slot
            h = token + positions[slot]
            if above is not None:
                h = h + above[:, slot - begins].unsqueeze(1)
            for i, block in enumerate(self.blocks):
                h, seen[i] = block(h, seen[i])
            logits = F.linear(self.norm(h)[:, 0], weights[kind], biases[kind])
            z[:, slot] = self._chosen(logits, bias[:, slot])
            if slot + 1 < self.space.slots:
                token = z[:, slot : slot + 1] @ self.embedding[kind]
        return z

    def _read(self, h: Tensor, context: Tensor | None) -> Tensor:
        """The tokens after all blocks, which have read the words before them; the words themselves are left out."""
        h = torch.cat([*self._words(h, context), h], 1)
        for block in self.blocks:
            h, _ = block(h)
        return h[:, len(self.words) :]

    def _read_words(self, token: Tensor, context: Tensor | None) -> list[_Seen]:
        """What the first token of codes attends to beside itself, in every block."""
        nothing = token.new_zeros(len(token), self.heads, 0, token.shape[-1] // self.heads)
        seen: list[_Seen] = [(nothing, nothing)] * len(self.blocks)
        for h in self._words(token, context):
            for i, block in enumerate(self.blocks):
                h, seen[i] = block(h, None)
        return seen

    def _words(self, like: Tensor, context: Tensor | None) -> list[Tensor]:
        """The tokens of the words, shape (n, W, D), as the only entry; no entry where there are none."""
        if not self.words:
            return []
        assert context is not None  # `forward` has checked it
        said, sizes = context.to(like.dtype), self.words
        parts = zip(said.split_with_sizes(sizes, -1), self.word_embedding.split_with_sizes(sizes), strict=True)
        return [torch.stack([word @ embedding for word, embedding in parts], 1) + self.word_positions]

    def _tokens(self, z: Tensor) -> Tensor:
        """What the tokens after the first hold, shape (n, L − 1, D); nothing reads the last slot."""
        if not self.grids:
            return torch.einsum("nlk,lkd->nld", z[:, :-1], self.embedding)
        tokens = []
        for own, kinds in self._parts():
            by_place = z[:, own].reshape(len(z), -1, kinds.stop - kinds.start, self.space.codes)
            tokens.append(torch.einsum("npek,ekd->nped", by_place, self.embedding[kinds]).flatten(1, 2))
        return (tokens[0] if len(tokens) == 1 else torch.cat(tokens, 1))[:, :-1]

    def _positions(self) -> Tensor:
        """p, shape (L, D)."""
        if not self.grids:
            return self.positions
        if len(self.grids) == 1:
            return (self.rows + self.columns + self.positions).flatten(0, 2)
        parts = zip(self.level_rows, self.level_columns, self._parts(), strict=True)
        return torch.cat(
            [(rows + columns + self.positions[kinds]).flatten(0, 2) for rows, columns, (_, kinds) in parts]
        )

    def _from_above(self, level: int, z: Tensor) -> Tensor:
        """What the codes above add to the tokens of a level: (n, slots of the level above, K) to (n, L, D)."""
        above, grid = self.grids[level - 1], self.grids[level]
        kinds = self._parts()[level - 1][1]
        by_place = z.reshape(len(z), above.height, above.width, above.each, self.space.codes)
        read = torch.einsum("nhwek,ekd->nhwd", by_place, self.above[kinds])
        wide = read.repeat_interleave(grid.height // above.height, 1).repeat_interleave(grid.width // above.width, 2)
        return wide.flatten(1, 2).repeat_interleave(grid.each, 1)

    def _slots(self, level: int) -> slice:
        """The slots of a level."""
        return self._parts()[level][0]

    def _parts(self) -> list[tuple[slice, slice]]:
        """The slots of every level, and their kinds; without levels, all."""
        found, slot, kind = [], 0, 0
        for own in self.grids:
            found.append((slice(slot, slot + own.slots), slice(kind, kind + own.each)))
            slot, kind = slot + own.slots, kind + own.each
        return found or [(slice(0, self.space.slots), slice(0, self._kinds))]

    def _output(self) -> tuple[Tensor, Tensor]:
        """W and b of each kind of slot, shapes (kinds, K, D) and (kinds, K)."""
        shape = (self._kinds, self.space.codes)
        return self.output.weight.reshape(*shape, -1), self.output.bias.reshape(shape)

    def _start(self, like: Tensor, context: Tensor | None) -> Tensor:
        """What the first token holds, shape (n, 1, D)."""
        if self.context is None:
            return like.new_zeros(len(like), 1, self.positions.shape[-1])
        assert context is not None  # `forward` has checked it
        start: Tensor = self.context(context.to(like.dtype))
        return start.unsqueeze(1)


def _repeated(kinds: slice, slots: slice) -> list[int]:
    """The kind of every slot: those of a place follow each other."""
    every = range(kinds.start, kinds.stop)
    return [*every] * ((slots.stop - slots.start) // len(every))


_Seen = tuple[Tensor, Tensor]
"""Keys and values of the tokens so far, each of shape (n, heads, l, D / heads)."""


class _Block(nn.Module):
    """Attention, then an MLP of four times the width, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, seen: _Seen | None = None) -> tuple[Tensor, _Seen]:
        """All tokens, each attending to those up to itself; or a single one that attends to those seen before, too."""
        projected: Tensor = self.queries_keys_values(self.attention_norm(h))
        split = projected.reshape(*h.shape[:2], 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (n, heads, l, D / heads)
        if seen is not None:
            k, v = torch.cat([seen[0], k], 2), torch.cat([seen[1], v], 2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=seen is None)
        h = h + self.attention_output(attended.transpose(1, 2).flatten(2))
        return h + self.mlp(self.mlp_norm(h)), (k, v)


class _MaskedLinear(nn.Linear):
    """A linear map without the weights where the mask is False.

    Its weights start such that outputs have variance 1, however few inputs the mask leaves them.

    Args:
        mask: shape (out, in).
        ones: the share of inputs that is not 0: 1, or 1 / K where they are one-hot.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, ones: float = 1.0) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.weight.normal_().div_((ones * mask.sum(1, keepdim=True)).clamp(min=1).sqrt())
            self.bias.zero_()

    def forward(self, given: Tensor) -> Tensor:
        return F.linear(given, self.weight * self.mask, self.bias)


@torch.no_grad()
def start_small(output: nn.Linear | nn.Conv2d) -> None:
    """Logits that start near 0, so that training starts near the uniform distribution over codes."""
    output.weight.normal_(std=0.1 / math.sqrt(output.weight[0].numel()))
    assert output.bias is not None
    output.bias.zero_()


def _check_positive(size: int, flag: str) -> None:
    if size < 1:
        raise ElbowroomError(f"{flag} is {size}, but it starts at 1.", f"Give {flag} a positive number.")
