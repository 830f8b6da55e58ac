r"""Hierarchical decoders: groups of latents one below the other, in residual coordinates.

A hierarchy is :math:`p(z_1) \prod_{l > 1} p(z_l | z_{<l}) \, p(x | z)` with the top group :math:`z_1` and normal
conditionals below it. With the residual of a group in the place of its value,

.. math:: z_l = m_l(z_{<l}) + s_l(z_{<l}) \odot u_l, \qquad u_l \sim N(0, I), \qquad u_1 = z_1,

the same model has the prior p(u_1) N(0, I) and a deeper decoder, which computes z from u on its way to x. So the
latent vector of a hierarchical model is u, all groups in a row, top first: log p(x) is the same, prior and Kullback–
Leibler divergence are simple, and samplers meet a posterior that is not stretched by the conditionals.

Reference:
    Kingma & Welling (2014), Efficient Gradient-Based Inference through Transformations between Bayes Nets and Neural
    Nets, arXiv:1402.0480, on this non-centred form; Vahdat & Kautz (2020), NVAE, section 3.2, arXiv:2007.03898, on the
    residual form of the guide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError
from elbowroom.model.networks import MLP, Network
from elbowroom.numerics import bounded

__all__ = ["Ladder", "VectorLadder", "log_scale_of", "residual_value"]

_LOG_SCALES = (-5.0, 3.0)  # least and largest log s


class Ladder(Network):
    """A decoder that goes down a hierarchy: u -> parameters of x.

    Args:
        sizes: latents of each group, the top group first.
        out_shape: shape of one output.
        context_dim: length of the context; 0 for none.
    Attributes:
        sizes: latents of each group.
    Raises:
        ElbowroomError: no group.
    """

    def __init__(self, sizes: Sequence[int], out_shape: Sequence[int], *, context_dim: int = 0) -> None:
        if not sizes:
            raise ElbowroomError("A hierarchy of no groups was asked for.", "Give one size at least.")
        super().__init__((sum(sizes),), out_shape, context_dim=context_dim)
        self.sizes = tuple(sizes)
        self._state: Tensor | None = None

    @abstractmethod
    def first(self, top: Tensor, context: Tensor | None) -> Tensor:
        """The state below the top group: (n, size) and (n, context_dim) to (n, \\*)."""

    @abstractmethod
    def advance(self, group: int, state: Tensor, residual: Tensor, context: Tensor | None) -> Tensor:
        """The state below a group, 1 and upwards, from the state above it and the group's u, (n, size)."""

    @abstractmethod
    def finish(self, state: Tensor, context: Tensor | None) -> Tensor:
        """The output from the state below all groups."""

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        if self._state is not None:
            return self.finish(self._state, context)
        top, *below = given.split_with_sizes(self.sizes, -1)
        state = self.first(top, context)
        for group, residual in enumerate(below, 1):
            state = self.advance(group, state, residual, context)
        return self.finish(state, context)

    @contextmanager
    def resuming(self, state: Tensor) -> Iterator[None]:
        """A context in which the decoder starts from the state below all groups, whatever u it is given."""
        self._state = state
        try:
            yield
        finally:
            self._state = None


def residual_value(parameters: Tensor, residual: Tensor, axis: int) -> Tensor:
    """z = m + s u, from m and log s in a row along an axis."""
    mean, log_scale = parameters.to(residual.dtype).chunk(2, axis)
    return mean + log_scale_of(log_scale).exp() * residual


def log_scale_of(output: Tensor) -> Tensor:
    """log s of a network's output, between −5 and 3."""
    return bounded(output, *_LOG_SCALES)


class VectorLadder(Ladder):
    r"""A chain of vectors: each group depends on the one above it, x on the last.

    .. math:: (m_l, \log s_l) = \mathrm{MLP}_l(z_{l-1}, c), \qquad z_l = m_l + s_l \odot u_l, \qquad
        \theta = \mathrm{MLP}(z_L, c)

    Args:
        sizes: latents of each group, the top group first.
        out_shape: shape of one output.
        hidden: widths of the hidden layers between z_L and x.
        between: widths of the hidden layers between two groups.
        activation: a name in ``ACTIVATIONS``.
        context_dim: length of the context c; 0 for none.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, section 5, arXiv:1509.00519, for the
        models of two stochastic layers.
    Example:
        >>> VectorLadder((2, 4), (1, 8))(torch.zeros(5, 6)).shape
        torch.Size([5, 1, 8])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        out_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (200,),
        between: Sequence[int] = (100,),
        activation: str = "tanh",
        context_dim: int = 0,
    ) -> None:
        super().__init__(sizes, out_shape, context_dim=context_dim)

        def mlp(size: int, shape: Sequence[int], widths: Sequence[int]) -> MLP:
            return MLP((size,), shape, hidden=widths, activation=activation, context_dim=context_dim)

        self.conditionals = nn.ModuleList(mlp(above, (2 * size,), between) for above, size in pairwise(self.sizes))
        self.decoder = mlp(self.sizes[-1], out_shape, hidden)
        inner = [part.widest for part in [*self.conditionals, self.decoder] if isinstance(part, Network)]
        self.widest = max(self.widest, *inner)

    @property
    def output_layer(self) -> nn.Linear:
        return self.decoder.output_layer

    def conditional(self, group: int, above: Tensor, context: Tensor | None) -> Tensor:
        """m and log s of a group given the value of the one above, in a row: (n, 2 size)."""
        return cast(MLP, self.conditionals[group - 1]).compute(above, context)

    def first(self, top: Tensor, context: Tensor | None) -> Tensor:
        return top

    def advance(self, group: int, state: Tensor, residual: Tensor, context: Tensor | None) -> Tensor:
        return residual_value(self.conditional(group, state, context), residual, -1)

    def finish(self, state: Tensor, context: Tensor | None) -> Tensor:
        return self.decoder.compute(state, context)

    def values(self, u: Tensor, context: Tensor | None) -> list[Tensor]:
        """z of every group, the top group first, each (\\*, size); u of shape (\\*, latent)."""
        folded = self.folded_context(context, u.shape[:-1])
        top, *below = u.reshape(-1, u.shape[-1]).split_with_sizes(self.sizes, -1)
        z = [top]
        for group, residual in enumerate(below, 1):
            z.append(self.advance(group, z[-1], residual, folded))
        return [value.reshape(*u.shape[:-1], -1) for value in z]

    def residuals(self, values: Sequence[Tensor], context: Tensor | None) -> tuple[Tensor, Tensor]:
        """u, and the sum of log s over all groups, from the z of every group: (\\*, latent) and (\\*,)."""
        lead = values[0].shape[:-1]
        folded = self.folded_context(context, lead)
        flat = [value.reshape(-1, value.shape[-1]) for value in values]
        u, total = [flat[0]], torch.zeros_like(flat[0][:, 0])
        for group, (above, value) in enumerate(pairwise(flat), 1):
            mean, log_scale = self.conditional(group, above, folded).to(value.dtype).chunk(2, -1)
            log_scale = log_scale_of(log_scale)
            u.append((value - mean) * torch.exp(-log_scale))
            total = total + log_scale.sum(-1)
        return torch.cat(u, -1).reshape(*lead, -1), total.reshape(lead)
