"""Priors over codes that only slots at the places of a grid can have."""

from __future__ import annotations

from collections.abc import Sequence

from elbowroom.model.autoregressive import AutoregressivePrior
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.grids.causal_convolutions import GridConvolutions, LevelConvolutions

__all__ = ["GRID_PRIORS", "MaskedConvolutions"]


class MaskedConvolutions(AutoregressivePrior):
    r"""The prior of a PixelCNN over codes (:class:`~elbowroom.model.grids.causal_convolutions.GridConvolutions`).

    On several levels, each has masked convolutions of its own, which read the codes above
    (:class:`~elbowroom.model.grids.causal_convolutions.LevelConvolutions`).

    Args:
        space: L and K.
        grid: where the slots are, one at each place; of several levels, the top level first.
        width: channels.
        layers: convolutions, the first of 7 × 7, the others of 5 × 5.
        context_dim: length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: several slots at a place; fewer than two slots or codes; a context that is missing or of another
            length.
    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel Recurrent Neural Networks, arXiv:1601.06759.
        Razavi, van den Oord & Vinyals (2019), VQ-VAE-2, section 3.2, arXiv:1906.00446, for levels.
    Example:
        >>> p = MaskedConvolutions(CodeSpace(4, 3), grid=CodeGrid(2, 2), width=8)(None)
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    def __init__(
        self,
        space: CodeSpace,
        *,
        grid: CodeGrid | Sequence[CodeGrid],
        width: int = 128,
        layers: int = 4,
        context_dim: int = 0,
    ) -> None:
        shape = {"width": width, "layers": layers, "context_dim": context_dim}
        space.check(2)
        super().__init__(
            GridConvolutions(space, grid, **shape)
            if isinstance(grid, CodeGrid)
            else LevelConvolutions(space, grid, **shape)
        )


#: name -> class, of the priors over slots at the places of a grid
GRID_PRIORS: dict[str, type[Conditional]] = {"pixelcnn": MaskedConvolutions}
