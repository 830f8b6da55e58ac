r"""Guides of hierarchies: from the top down, with the decoder's own state, or from the bottom up.

Both are distributions of the residuals u of :mod:`elbowroom.model.hierarchy.ladders`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.model.guides import Guide, InputTransform
from elbowroom.model.hierarchy.grids import GridLadder, GridReader, flattened, started_small
from elbowroom.model.hierarchy.ladders import Ladder, VectorLadder
from elbowroom.model.networks import MLP, Network
from elbowroom.model.sequential_normal import Choose, Coordinates, ResidualNormal, Rows, SequentialNormal
from elbowroom.numerics import bounded

__all__ = [
    "HIERARCHICAL_GUIDES",
    "BottomUpGuide",
    "GridRecognition",
    "Recognition",
    "TopDownGuide",
    "VectorRecognition",
    "no_way_up",
]

_LOG_SCALES = (-6.0, 3.0)  # least and largest log σ of a guide


class Recognition(Protocol):
    """Reads μ and log σ of the groups' residuals off the features of x, and off the decoder's state above a group."""

    def first(self, features: Tensor, context: Tensor | None) -> Tensor:
        """Of the top group: (n, \\*) to (n, 2 size), μ and log σ in a row."""

    def below(self, group: int, state: Tensor, features: Tensor, context: Tensor | None) -> Tensor:
        """Of a group, 1 and upwards, given the state above it: (n, 2 size)."""


class VectorRecognition(nn.Module):
    """Recognition for a :class:`~elbowroom.model.hierarchy.ladders.VectorLadder`: an MLP for every group.

    Args:
        features: length of the features of x.
        sizes: latents of each group, the top group first.
        hidden: widths of the hidden layers.
        activation: a name in ``ACTIVATIONS``.
    """

    def __init__(
        self, features: int, sizes: Sequence[int], *, hidden: Sequence[int] = (100,), activation: str = "tanh"
    ) -> None:
        super().__init__()
        inputs = [features, *(above + features for above in sizes[:-1])]
        self.heads = nn.ModuleList(
            MLP((size,), (2 * own,), hidden=hidden, activation=activation)
            for size, own in zip(inputs, sizes, strict=True)
        )

    def first(self, features: Tensor, context: Tensor | None) -> Tensor:
        return cast(MLP, self.heads[0]).compute(features, None)

    def below(self, group: int, state: Tensor, features: Tensor, context: Tensor | None) -> Tensor:
        return cast(MLP, self.heads[group]).compute(torch.cat([state, features], -1), None)


class GridRecognition(nn.Module):
    """Recognition for a :class:`~elbowroom.model.hierarchy.grids.GridLadder`, from one map of x for all groups.

    Args:
        ladder: the decoder.
        features: shape of the map of x.
        dense: width of the dense layer between the map and the top group.
    """

    def __init__(self, ladder: GridLadder, features: Sequence[int], *, dense: int = 300) -> None:
        super().__init__()
        top, *below = ladder.sizes
        self.top = GridReader(features, 2 * top, dense=dense, context_dim=ladder.context_dim)
        self.groups = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(ladder.channels + features[0], ladder.channels, 1),
                nn.SiLU(),
                started_small(nn.Conv2d(ladder.channels, 2 * size // ladder.grid.places, 1)),
            )
            for size in below
        )

    def first(self, features: Tensor, context: Tensor | None) -> Tensor:
        return cast(Tensor, self.top(features, context))

    def below(self, group: int, state: Tensor, features: Tensor, context: Tensor | None) -> Tensor:
        joined = torch.nn.functional.silu(torch.cat([state, features], 1))
        loc, log_scale = cast(Tensor, self.groups[group - 1](joined)).chunk(2, 1)
        return torch.cat([flattened(loc), flattened(log_scale)], -1)


class TopDownGuide(Guide):
    r"""A guide that goes down the hierarchy with the decoder.

    .. math:: q(u | x) = \prod_l N\big(u_l \,|\, \mu_l(e(x), h_{l-1}),
        \operatorname{diag} \sigma_l^2(e(x), h_{l-1})\big)

    with features e of x, and h the decoder's state, which depends on the groups above. For the groups' values
    :math:`z_l = m_l + s_l \odot u_l` this is the residual form: mean :math:`m_l + s_l \mu_l` and deviation
    :math:`s_l \sigma_l`.

    Args:
        network: transformed x -> e.
        recognition: μ and log σ.
        ladder: the decoder, shared with the likelihood.
        transform: of x.
    Reference:
        Sønderby et al. (2016), Ladder Variational Autoencoders, arXiv:1602.02282; Vahdat & Kautz (2020), NVAE, section
        3.2, arXiv:2007.03898.
    Example:
        >>> ladder = VectorLadder((2, 4), (1, 8))
        >>> guide = TopDownGuide(MLP((8,), (16,)), VectorRecognition(16, ladder.sizes), ladder)
        >>> guide(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 6])
    """

    def __init__(
        self,
        network: Network,
        recognition: VectorRecognition | GridRecognition,
        ladder: Ladder,
        transform: InputTransform | None = None,
    ) -> None:
        super().__init__(network, sum(ladder.sizes), transform, network.out_shape)
        self.recognition, self.ladder = recognition, ladder

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        def walk(choose: Choose) -> Tensor:
            return self.walk(given, context, choose)

        def frozen(choose: Choose) -> Tensor:
            return _with_frozen_weights(self, lambda guide: guide.walk(given, context, choose))

        def rows(index: Rows) -> SequentialNormal:
            found = self(*_rows(index, given, context))
            assert isinstance(found, SequentialNormal)  # a guide's output is always of one type
            return found

        like = _like(self, given)
        return SequentialNormal(walk, self.ladder.sizes, like, rows=rows, frozen=frozen, decoder=self.ladder.resuming)

    def walk(self, given: Tensor | None, context: Tensor | None, choose: Choose) -> Tensor:
        """Asks for the u of every group, given its μ and σ; returns the decoder's state below all groups."""
        features, ladder = self._output(given, context), self.ladder
        with ladder.lowered(features):
            folded = ladder.folded_context(context, features.shape[:1])
            u = choose(*_normal(self.recognition.first(features, folded), features))
            lead = u.shape[:-1]
            features = features.expand(*lead, *features.shape[1:]).flatten(0, len(lead) - 1)
            folded = ladder.folded_context(context, lead)
            state = ladder.first(u.flatten(0, -2), folded)
            for group in range(1, len(ladder.sizes)):
                found = self.recognition.below(group, state, features, folded).reshape(*lead, -1)
                u = choose(*_normal(found, u))
                state = ladder.advance(group, state, u.flatten(0, -2), folded)
        return state


class BottomUpGuide(Guide):
    r"""A guide that goes up the hierarchy: first the group next to x, then each group given the one below it.

    .. math:: q(z | x) = N(z_L \,|\, \mathrm{network}(x)) \prod_{l < L} N(z_l \,|\, \mathrm{MLP}_l(z_{l+1}))

    Args:
        network: transformed x -> (2, D_L), μ and log σ of the group next to x.
        ladder: the decoder, shared with the likelihood.
        hidden: widths of the hidden layers between two groups.
        activation: a name in ``ACTIVATIONS``.
        transform: of x.
    Raises:
        ElbowroomError: a ladder that is not one of vectors.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, section 2, arXiv:1509.00519.
    Example:
        >>> ladder = VectorLadder((2, 4), (1, 8))
        >>> BottomUpGuide(MLP((8,), (2, 4)), ladder)(torch.zeros(5, 8)).rsample((3,)).shape
        torch.Size([3, 5, 6])
    """

    ladder: VectorLadder

    def __init__(
        self,
        network: nn.Module,
        ladder: Ladder,
        *,
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
        transform: InputTransform | None = None,
    ) -> None:
        if not isinstance(ladder, VectorLadder):
            raise no_way_up()
        super().__init__(network, sum(ladder.sizes), transform, (2, ladder.sizes[-1]))
        self.ladder = ladder
        self.conditionals = nn.ModuleList(
            MLP((below,), (2 * above,), hidden=hidden, activation=activation, context_dim=ladder.context_dim)
            for below, above in pairwise(reversed(ladder.sizes))
        )

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        def walk(choose: Choose) -> None:
            self.walk(given, context, choose)

        def frozen(choose: Choose) -> None:
            _with_frozen_weights(self, lambda guide: guide.walk(given, context, choose))

        def rows(index: Rows) -> ResidualNormal:
            found = self(*_rows(index, given, context))
            assert isinstance(found, ResidualNormal)  # a guide's output is always of one type
            return found

        ladder = self.ladder
        return ResidualNormal(
            SequentialNormal(walk, ladder.sizes[::-1], _like(self, given), frozen=frozen),
            Coordinates(
                lambda z: _residuals(ladder, z, context),
                lambda u: _values(ladder, u, context),
            ),
            rows=rows,
            frozen=Coordinates(
                lambda z: _with_frozen_weights(ladder, lambda frozen: _residuals(frozen, z, context)),
                lambda u: _with_frozen_weights(ladder, lambda frozen: _values(frozen, u, context)),
            ),
            decoder=ladder.resuming,
        )

    def walk(self, given: Tensor | None, context: Tensor | None, choose: Choose) -> None:
        """Asks for z of every group, the one next to x first, given its μ and σ."""
        output = self._output(given, context)
        z = choose(*_normal(output.flatten(-2), output))
        for conditional in self.conditionals:
            z = choose(*_normal(conditional(z, context), z))


def no_way_up() -> ElbowroomError:
    """There is no guide from the bottom up on a grid."""
    return ElbowroomError(
        "A guide from the bottom up was asked for, but its groups are on a grid.",
        "Use --model.guide top-down, or vectors: --model.decoder.kind mlp.",
    )


def _residuals(ladder: VectorLadder, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """u and the sum of log s, from the values of all groups, the one next to x first."""
    return ladder.residuals(z.split_with_sizes(ladder.sizes[::-1], -1)[::-1], context)


def _values(ladder: VectorLadder, u: Tensor, context: Tensor | None) -> Tensor:
    """The values of all groups, the one next to x first."""
    return torch.cat(ladder.values(u, context)[::-1], -1)


_Module = TypeVar("_Module", bound=nn.Module)
_Result = TypeVar("_Result")


#: name -> class, of the guides of hierarchies
HIERARCHICAL_GUIDES: dict[str, type[TopDownGuide | BottomUpGuide]] = {
    "top-down": TopDownGuide,
    "bottom-up": BottomUpGuide,
}


class _Called(nn.Module):
    """A module whose call is any function of it, so that the function can be called with other weights."""

    def __init__(self, module: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self) -> Any:
        return self.function(self.module)


def _with_frozen_weights(module: _Module, function: Callable[[_Module], _Result]) -> _Result:
    """A function of a module whose weights take no gradient meanwhile."""
    weights = {f"module.{name}": weight.detach() for name, weight in module.named_parameters()}
    return cast(_Result, torch.func.functional_call(_Called(module, function), weights, ()))


def _rows(index: Rows, given: Tensor | None, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """x and context of some examples."""
    return None if given is None else given[index], None if context is None else context[index]


def _normal(parameters: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ, from μ and log σ in a row."""
    loc, log_scale = parameters.to(like.dtype).chunk(2, -1)
    return loc, bounded(log_scale, *_LOG_SCALES).exp()


def _like(guide: Guide, given: Tensor | None) -> Tensor:
    """A tensor of the batch's length and of the guide's type and device."""
    if given is None:
        raise ElbowroomError("A guide was called without x, but it is q(z | x).", "Pass x.")
    weight = next(guide.parameters())
    return weight.new_empty(len(given), 0)
