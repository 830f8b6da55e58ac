r"""Guides over levels of codes: the top level first, then each level given x and the levels above it.

.. math:: q(z | x) = \prod_m q(z_m | z_1, \dots, z_{m-1}, x)

Within a level the slots are independent given what is above, as they are in guides of one level
(:mod:`elbowroom.model.codes`, :mod:`elbowroom.model.quantizer`).

Reference:
    Razavi, van den Oord & Vinyals (2019), Generating Diverse High-Fidelity Images with VQ-VAE-2, algorithm 1,
    arXiv:1906.00446.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.conditional import LatentSupport
from elbowroom.model.grids.level_networks import LevelRecognition
from elbowroom.model.guides import Guide, InputTransform
from elbowroom.model.networks import Network
from elbowroom.model.priors import checked_context
from elbowroom.model.quantizer import LevelCodebooks, Quantized, QuantizingGuide, Through
from elbowroom.model.top_down_codes import Rows, TopDownCodes, by_level

__all__ = ["LevelCategoricalGuide", "LevelGuide", "LevelNearestCodeGuide"]


class LevelGuide(Guide):
    """A guide over levels of codes.

    Args:
        network: transformed x -> a map on the grid of the bottom level, shape (channels, H, W).
        recognition: from this map and the values of the slots above, numbers for every slot of a level.
        codes: K.
        transform: of x; None leaves x as it is.
    Attributes:
        levels: L and K of every level, the top level first.
    """

    latent_support: LatentSupport = "codes"

    def __init__(
        self, network: Network, recognition: LevelRecognition, codes: int, transform: InputTransform | None = None
    ) -> None:
        levels = tuple(CodeSpace(grid.slots, codes) for grid in recognition.grids)
        space = CodeSpace(sum(level.slots for level in levels), codes)
        super().__init__(network, space.dim, transform, network.out_shape)
        self.levels, self.space, self.recognition = levels, space, recognition

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> TopDownCodes:
        return self._distribution(self.features(given, context))

    def features(self, given: Tensor | None, context: Tensor | None = None) -> tuple[Tensor, ...]:
        """Features of x for every level, the top level first, each of shape (batch, channels, H, W)."""
        maps = self._output(given, context)
        context_dim = self.recognition.context_dim
        return self.recognition.features(maps, checked_context(context, context_dim) if context_dim else None)

    @abstractmethod
    def _logits(self, level: int, output: Tensor) -> Tensor:
        """Logits of a level from the recognition's output, (n, L, m) to (n, L, K)."""

    @abstractmethod
    def _values(self, level: int, z: Tensor) -> Tensor:
        """What the recognition of lower levels reads of codes, (n, L K) to (n, L, m)."""

    def _distribution(self, features: Sequence[Tensor]) -> TopDownCodes:
        batch = len(features[0])

        def logits(level: int, above: Tensor) -> Tensor:
            lead = (*above.shape[:-2], batch)  # one z may stand for all examples
            parts = by_level(self.levels[:level], above.expand(*lead, -1).flatten(0, -2)) if level else []
            values = [self._values(number, part) for number, part in enumerate(parts)]
            own = features[level]
            spread = own.expand(*lead, *own.shape[1:]).flatten(0, len(lead) - 1)
            found = self._logits(level, self.recognition.output(level, spread, values))
            return found.reshape(*lead, *self.levels[level])

        def rows(index: Rows) -> TopDownCodes:
            return self._distribution([own[index] for own in features])

        widest = self.recognition.widest
        return TopDownCodes(self.levels, logits, (batch,), like=features[0], rows=rows, widest=widest)


class LevelCategoricalGuide(LevelGuide):
    r"""Categorical distributions of the slots of every level: a discrete VAE with levels.

    .. math:: q(z_m | z_{<m}, x) = \prod_l \mathrm{Cat}\big(z_{ml} \,|\, \mathrm{softmax}(e_{ml}(x, z_{<m}))\big)

    Args:
        network: transformed x -> a map on the grid of the bottom level, shape (channels, H, W).
        recognition: e, from that map and the one-hot codes above: K numbers for each slot, reading K.
        codes: K.
        transform: of x; None leaves x as it is.
    Example:
        >>> from elbowroom.model.code_distributions import CodeGrid
        >>> from elbowroom.model.hierarchy.grids import GridFeatures
        >>> recognition = LevelRecognition((CodeGrid(2, 2), CodeGrid(4, 4)), 8, out=3, read=3)
        >>> guide = LevelCategoricalGuide(GridFeatures((8, 8), channels=8, patch=2), recognition, 3)
        >>> guide(torch.zeros(5, 8, 8)).sample((7,)).shape
        torch.Size([7, 5, 60])
    """

    def _logits(self, level: int, output: Tensor) -> Tensor:
        return output

    def _values(self, level: int, z: Tensor) -> Tensor:
        return self.levels[level].split(z)


class LevelNearestCodeGuide(LevelGuide, QuantizingGuide):
    r"""Codes of every level by their distance from the encoder's output: the guide of a VQ-VAE-2, with temperatures.

    .. math:: q(z_{ml} = k \,|\, z_{<m}, x) \propto \exp(-\lVert e_{ml}(x, z_{<m}) - c_{mk} \rVert^2 / T_m)

    Args:
        network: transformed x -> a map on the grid of the bottom level, shape (channels, H, W).
        recognition: e, from that map and the vectors of the codes above: d numbers for each slot, reading d.
        codebook: c, of every level, shared with the decoder.
        transform: of x; None leaves x as it is.
    Attributes:
        log_temperature: log T, one for each table of the codebooks, the top level first; learned where the ELBO is
            maximised, 0 at first.
    Example:
        >>> from elbowroom.model.code_distributions import CodeGrid
        >>> from elbowroom.model.hierarchy.grids import GridFeatures
        >>> from elbowroom.model.quantizer import Codebook
        >>> codebook = LevelCodebooks([Codebook(CodeSpace(n, 3), 2, places=n) for n in (4, 16)])
        >>> recognition = LevelRecognition((CodeGrid(2, 2), CodeGrid(4, 4)), 8, out=2, read=2)
        >>> guide = LevelNearestCodeGuide(GridFeatures((8, 8), channels=8, patch=2), recognition, codebook)
        >>> x = torch.zeros(5, 8, 8)
        >>> bool((guide(x).mode == guide.nearest(x)).all())
        True
    """

    codebook: LevelCodebooks

    def __init__(
        self,
        network: Network,
        recognition: LevelRecognition,
        codebook: LevelCodebooks,
        transform: InputTransform | None = None,
    ) -> None:
        super().__init__(network, recognition, codebook.space.codes, transform)
        self.codebook = codebook
        self.log_temperature = nn.Parameter(torch.zeros(codebook.tables, 1))

    def quantized(
        self,
        given: Tensor | None,
        context: Tensor | None = None,
        *,
        z: Tensor | None = None,
        through: Through | None = None,
    ) -> Quantized:
        features = self.features(given, context)
        known = None if z is None else by_level(self.levels, z)
        found = Quantized([], [], [], features[0].new_empty(0))
        codes: list[Tensor] = []
        for level, book in enumerate(self.codebook.parts):
            vectors = book.bounded(self.recognition.output(level, features[level], found.read))
            own = book.nearest(vectors) if known is None else known[level]
            chosen = book.embed(own).view_as(vectors)
            codes.append(own)
            found.vectors.append(vectors)
            found.chosen.append(chosen)
            found.read.append(chosen if through is None else through(vectors, chosen.detach()))
        return found._replace(z=torch.cat(codes, -1) if z is None else z)

    def _logits(self, level: int, output: Tensor) -> Tensor:
        book = self.codebook.parts[level]
        log_temperature = self.log_temperature.split_with_sizes([part.tables for part in self.codebook.parts])[level]
        return book.logits(book.bounded(output), log_temperature)

    def _values(self, level: int, z: Tensor) -> Tensor:
        book = self.codebook.parts[level]
        return book.embed(z).reshape(*z.shape[:-1], -1, book.dim)
