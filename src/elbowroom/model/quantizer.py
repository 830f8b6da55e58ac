r"""Vector quantisation: a codebook, the guide that chooses its nearest vectors, the decoder that reads them.

An encoder turns x into one vector :math:`e_l` for each slot, and a codebook has K vectors :math:`c_{l1} \dots c_{lK}`
for it. A VQ-VAE takes the nearest one, always. As a density that choice is worthless: all of q(z | x) is in a single
code, and

.. math:: \log p(x) - \big(\log p(x | z_q) + \log p(z_q)\big) = -\log p(z_q | x),

so the bound that is left is loose by how unsure the posterior is. Here the guide is softened,

.. math:: q(z_l = k \,|\, x) \propto \exp(-\lVert e_l - c_{lk} \rVert^2 / T_l),

with the temperature T in the density itself. Draws then reach every code, so that importance weights are unbiased for
every T, and :math:`T \to 0` is the VQ-VAE.

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, arXiv:1711.00937.
    Mentzer, Minnen, Agustsson & Tschannen (2024), Finite Scalar Quantization, arXiv:2309.15505.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import CategoricalGuide
from elbowroom.model.conditional import LatentSupport
from elbowroom.model.guides import Guide, InputTransform
from elbowroom.model.networks import Network

__all__ = [
    "GUIDES_OVER_CODES",
    "Codebook",
    "CodebookKind",
    "EmbeddedCodes",
    "LevelCodebooks",
    "NearestCodeGuide",
    "Quantized",
    "QuantizingGuide",
    "grid_levels",
    "squared_distances",
]

CodebookKind = Literal["ema", "gradient", "fsq"]
"""How the vectors are learned: as moving averages of the encoder's output, by gradient, or not at all."""


class Codebook(nn.Module):
    r"""A table of K vectors for each of the L slots, or one that the slots at all places of a grid share.

    .. math:: v_l = \sum_k z_{lk} c_{lk}, \qquad d_{lk}^2 = \lVert e_l - c_{lk} \rVert^2

    With P places there are T = L / P tables, and slot l reads table l mod T: the slots of a place follow each other.

    The vectors of "ema" and "gradient" start as draws from N(0, I / d), and are a parameter: a training method moves
    them, and decides how. Those of "fsq" are fixed: in every slot the points of a grid of d axes in [−1, 1], and the
    encoder's output is bounded such that no cell of the grid is wider than another.

    Args:
        space: L and K.
        dim: d, the length of a vector; for "fsq" the number of axes.
        kind: how the vectors are learned.
        places: P; 1 gives every slot a table of its own.
        generator: the source of randomness for the initial vectors; None is torch's global one, as for the weights of
            any network.
    Attributes:
        vectors: c, shape (T, K, d).
        levels: of a fixed grid, the number of points on each axis, whose product is K; else ().
    Raises:
        ElbowroomError: fewer than two codes; K codes that are no grid of d axes; slots that the places do not divide.
    Example:
        >>> codebook = Codebook(CodeSpace(2, 6), 2, kind="fsq")
        >>> codebook.levels, codebook.vectors[0, :3].tolist()
        ((2, 3), [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0]])
    """

    vectors: Tensor

    def __init__(
        self,
        space: CodeSpace,
        dim: int,
        *,
        kind: CodebookKind = "ema",
        places: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if places < 1 or space.slots % places:
            raise ElbowroomError(
                f"A codebook for {space.slots} slots at {places} places was asked for, but every place has as many.",
                "Give a number of slots that the number of places divides.",
            )
        space.check()
        self.space, self.dim, self.kind, self.places = space, dim, kind, places
        self.levels = grid_levels(space.codes, dim) if kind == "fsq" else ()
        if kind == "fsq":
            self.register_buffer("vectors", _grid(self.levels).repeat(self.tables, 1, 1), persistent=False)
        else:
            start = noise.normal((self.tables, space.codes, dim), torch.zeros(()), generator) / math.sqrt(dim)
            self.vectors = nn.Parameter(start)

    @property
    def tables(self) -> int:
        """T, tables of vectors: the slots of a place."""
        return self.space.slots // self.places

    @property
    def parts(self) -> tuple[Codebook, ...]:
        """The codebook of every level: this one."""
        return (self,)

    def by_place(self, values: Tensor) -> Tensor:
        """(\\*, L, m) as (\\*, P, T, m)."""
        return values.reshape(*values.shape[:-2], self.places, self.tables, values.shape[-1])

    def bounded(self, output: Tensor) -> Tensor:
        r"""The encoder's output within the cells of a fixed grid; for other codebooks as it is.

        .. math:: e = \frac{n}{n - 1} \tanh(\mathrm{output}) \quad \text{on an axis of } n \text{ points}
        """
        if not self.levels:
            return output
        reach = [n / (n - 1) for n in self.levels]
        return torch.tanh(output) * torch.tensor(reach, dtype=output.dtype, device=output.device)

    def squared_distances(self, vectors: Tensor) -> Tensor:
        """d², shape (\\*, L, K), of vectors e of shape (\\*, L, d)."""
        return squared_distances(self.by_place(vectors), self.vectors).flatten(-3, -2)

    def logits(self, vectors: Tensor, log_temperature: Tensor) -> Tensor:
        """−‖e − c‖² / T of every code, (\\*, L, d) and log T of every table, (tables, 1), to (\\*, L, K)."""
        return (-self.by_place(self.squared_distances(vectors)) / log_temperature.exp()).flatten(-3, -2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """The nearest code of each slot, one-hot, shape (\\*, L K), for vectors e of shape (\\*, L, d)."""
        return self.space.one_hot(self.squared_distances(vectors).argmin(-1), vectors.dtype)

    def embed(self, z: Tensor) -> Tensor:
        """The vectors of codes, (\\*, L K) to (\\*, L d); linear in z, so that relaxed codes have vectors too."""
        return torch.einsum("...lk,lkd->...ld", self.by_place(self.space.split(z)), self.vectors).flatten(-3)


class LevelCodebooks(nn.Module):
    """A codebook for every level of codes, for one flat z.

    Args:
        codebooks: of the levels, the top level first, with the same number of codes and vectors of one length.
    Attributes:
        space: slots of all levels together, and codes.
    Example:
        >>> books = LevelCodebooks([Codebook(CodeSpace(4, 3), 2, places=4), Codebook(CodeSpace(16, 3), 2, places=16)])
        >>> books.embed(torch.zeros(5, 60)).shape
        torch.Size([5, 40])
    """

    def __init__(self, codebooks: Sequence[Codebook]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(codebooks)
        first = codebooks[0]
        self.dim, self.kind = first.dim, first.kind
        self.space = CodeSpace(sum(book.space.slots for book in codebooks), first.space.codes)

    @property
    def tables(self) -> int:
        """Tables of vectors of all levels."""
        return sum(book.tables for book in self.parts)

    @property
    def parts(self) -> tuple[Codebook, ...]:
        """The codebook of every level, the top level first."""
        return tuple(book for book in self.levels if isinstance(book, Codebook))

    def embed(self, z: Tensor) -> Tensor:
        """The vectors of codes, (\\*, L K) to (\\*, L d)."""
        parts = z.split_with_sizes([book.space.dim for book in self.parts], -1)
        return torch.cat([book.embed(part) for book, part in zip(self.parts, parts, strict=True)], -1)


def squared_distances(vectors: Tensor, table: Tensor) -> Tensor:
    r"""Squared distances of vectors from those of a table, slot by slot, as a product of matrices.

    .. math:: d_{lk}^2 = \lVert e_l \rVert^2 - 2 \, e_l \cdot c_{lk} + \lVert c_{lk} \rVert^2

    Args:
        vectors: e, shape (\*, L, d).
        table: c, shape (L, K, d).
    Returns:
        Shape (\*, L, K); where a vector is in the table, zero up to rounding, of either sign.
    Example:
        >>> squared_distances(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2, 2))
        tensor([[25., 25.]])
    """
    products = torch.einsum("...ld,lkd->...lk", vectors, table)
    return vectors.square().sum(-1, keepdim=True) - 2 * products + table.square().sum(-1)


def grid_levels(codes: int, axes: int) -> tuple[int, ...]:
    """The numbers of points on the axes of a grid of K points, as equal as they can be, the smallest first.

    Args:
        codes: K.
        axes: d.
    Raises:
        ElbowroomError: K is no product of d numbers of at least 2.
    Example:
        >>> grid_levels(16, 2), grid_levels(240, 3)
        ((4, 4), (5, 6, 8))
    """
    ways = list(_products(codes, axes, 2))
    if not ways:
        most = _prime_factors(codes)
        raise ElbowroomError(
            f"Finite scalar quantisation of {codes} codes in {axes} dimensions was asked for, but {codes} is no "
            f"product of {axes} numbers of levels, each at least 2.",
            f"Give --model.code-dim {'1' if most == 1 else f'1 to {most}'}, or another --model.codes.",
        )
    return min(ways, key=lambda levels: levels[-1] - levels[0])


def _products(number: int, parts: int, least: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a number as a product of so many factors in ascending order."""
    if parts == 1:
        if number >= least:
            yield (number,)
        return
    for factor in range(least, int(number ** (1 / parts) + 1e-9) + 1):
        if number % factor == 0:
            yield from ((factor, *rest) for rest in _products(number // factor, parts - 1, factor))


def _prime_factors(number: int) -> int:
    """How many prime factors a number has, each counted as often as it divides it."""
    count, divisor = 0, 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            number, count = number // divisor, count + 1
        else:
            divisor += 1
    return count + (number > 1)


def _grid(levels: tuple[int, ...]) -> Tensor:
    """The points of a grid in [−1, 1], shape (K, d), the last axis fastest."""
    axes = [torch.linspace(-1, 1, n) for n in levels]
    return torch.cartesian_prod(*axes).reshape(-1, len(levels))


class Quantized(NamedTuple):
    """Examples with a code for every slot.

    Attributes:
        vectors: e of every level, each of shape (batch, L, d).
        chosen: the codes' vectors, of the same shapes, with a gradient in the codebook.
        read: what a decoder reads, of the same shapes.
        z: the codes, one-hot, shape (batch, L K), of all levels.
    """

    vectors: list[Tensor]
    chosen: list[Tensor]
    read: list[Tensor]
    z: Tensor


Through = Callable[[Tensor, Tensor], Tensor]
"""The encoder's vectors and the chosen ones to the chosen ones with a gradient in the encoder's."""


class QuantizingGuide(Guide):
    """A guide with a codebook, whose vectors it chooses from.

    Attributes:
        space: L and K.
        codebook: shared with the decoder.
        log_temperature: log T, one for each table of the codebook, shape (tables, 1).
    """

    latent_support: LatentSupport = "codes"
    space: CodeSpace
    codebook: Codebook | LevelCodebooks
    log_temperature: nn.Parameter

    @abstractmethod
    def quantized(
        self,
        given: Tensor | None,
        context: Tensor | None = None,
        *,
        z: Tensor | None = None,
        through: Through | None = None,
    ) -> Quantized:
        """The vectors of x, the codes and their vectors.

        Args:
            given: x.
            context: of x.
            z: codes to take in the place of the nearest ones.
            through: what is read of vectors and chosen ones; by default the chosen ones.
        """

    def nearest(self, given: Tensor | None, context: Tensor | None = None) -> Tensor:
        """The nearest code of each slot, one-hot, shape (batch, L K): the mode of q, whatever T."""
        return self.quantized(given, context).z


class NearestCodeGuide(QuantizingGuide):
    r"""Codes by their distance from the encoder's output: the guide of a VQ-VAE, with a temperature.

    .. math:: q(z | x) = \prod_l \mathrm{Cat}(z_l \,|\, \pi_l), \qquad
        \pi_{lk} \propto \exp(-\lVert e_l(x) - c_{lk} \rVert^2 / T_l)

    Args:
        network: transformed x -> e, shape (L, d).
        codebook: c, shared with the decoder.
        transform: of x; None leaves x as it is.
    Attributes:
        log_temperature: log T, one for each table of the codebook, shape (L / P, 1); learned where the ELBO is
            maximised, 0 at first.
    Raises:
        ElbowroomError: the network returns another shape.
    Reference:
        van den Oord, Vinyals & Kavukcuoglu (2017), eqs. 1 and 2, arXiv:1711.00937, for :math:`T \to 0`.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> codebook = Codebook(CodeSpace(4, 3), 2)
        >>> guide = NearestCodeGuide(MLP((784,), (4, 2)), codebook)
        >>> x = torch.zeros(5, 784)
        >>> bool((guide(x).mode == guide.nearest(x)).all())
        True
    """

    codebook: Codebook

    def __init__(self, network: nn.Module, codebook: Codebook, transform: InputTransform | None = None) -> None:
        space = codebook.space
        super().__init__(network, space.dim, transform, (space.slots, codebook.dim))
        self.space = space
        self.codebook = codebook
        self.log_temperature = nn.Parameter(torch.zeros(codebook.tables, 1))

    def vectors(self, given: Tensor | None, context: Tensor | None = None) -> Tensor:
        """e(x), shape (batch, L, d)."""
        return self.codebook.bounded(self._output(given, context))

    def quantized(
        self,
        given: Tensor | None,
        context: Tensor | None = None,
        *,
        z: Tensor | None = None,
        through: Through | None = None,
    ) -> Quantized:
        vectors = self.vectors(given, context)
        z = self.codebook.nearest(vectors) if z is None else z
        chosen = self.codebook.embed(z).view_as(vectors)
        read = chosen if through is None else through(vectors, chosen.detach())
        return Quantized([vectors], [chosen], [read], z)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        return Codes(self.codebook.logits(self.vectors(given, context), self.log_temperature))


class EmbeddedCodes(Network):
    r"""A decoder's network that reads the vectors of codes.

    .. math:: z \mapsto \mathrm{network}(c_{1 k_1}, \dots, c_{L k_L})

    Args:
        codebook: c, shared with the guide; of one level or of several.
        network: (L d,) -> the parameters of a likelihood.
    Raises:
        ElbowroomError: the network reads vectors of another size.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> codebook = Codebook(CodeSpace(4, 3), 2)
        >>> EmbeddedCodes(codebook, MLP((8,), (1, 784)))(torch.zeros(5, 12)).shape
        torch.Size([5, 1, 784])
    """

    def __init__(self, codebook: Codebook | LevelCodebooks, network: Network) -> None:
        super().__init__((codebook.space.dim,), network.out_shape, context_dim=network.context_dim)
        size = codebook.space.slots * codebook.dim
        if math.prod(network.in_shape) != size:
            raise ElbowroomError(
                f"The decoder's network reads inputs of shape {network.in_shape}, but the vectors of "
                f"{codebook.space} in {codebook.dim} dimensions are {size} numbers.",
                f"Build it with in_shape=({size},).",
            )
        self.codebook = codebook
        self.network = network
        self.widest = max(self.widest, network.widest)
        self._vectors: Tensor | None = None

    @property
    def output_layer(self) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
        return self.network.output_layer

    @contextmanager
    def reading(self, vectors: Tensor) -> Iterator[None]:
        """A context in which the network reads these vectors, shape (\\*, L d), in the place of those of the codes.

        So a gradient can go from the decoder to the encoder past the choice of the nearest code.
        """
        self._vectors = vectors
        try:
            yield
        finally:
            self._vectors = None

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        vectors = self.codebook.embed(given) if self._vectors is None else self._vectors
        out: Tensor = self.network(vectors.reshape(len(given), *self.network.in_shape), context)
        return out


#: name -> class, of the guides over codes
GUIDES_OVER_CODES: dict[str, type[Guide]] = {"categorical": CategoricalGuide, "nearest-code": NearestCodeGuide}
