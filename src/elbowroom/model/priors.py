r"""Priors p(z) over the latent vector.

A richer prior is a cheap way to a better bound: the best prior for a given guide is the aggregate posterior
:math:`\frac{1}{N} \sum_n q(z | x_n)`, which :class:`VampPrior` imitates with K learned pseudo-inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.conditional import Conditional
from elbowroom.model.distributions import DiagonalNormalMixture
from elbowroom.model.sequential_normal import BlockDistribution

__all__ = ["PRIORS", "MixtureOfGaussians", "StandardNormal", "TopPrior", "VampPrior", "checked_context"]


class StandardNormal(Conditional):
    """p(z) = N(0, I), whatever the context.

    Args:
        latent_dim: dimensions of z.
    Example:
        >>> StandardNormal(2)(None).log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)


class MixtureOfGaussians(Conditional):
    r"""A learned mixture of K normals with diagonal covariances.

    .. math:: p(z | c) = \sum_k \pi_k \, N(z \,|\, \mu_k, \operatorname{diag} \sigma_k^2)

    With a context, the weights' logits, means and log-scales each are an affine function of c.

    Args:
        latent_dim: dimensions of z.
        components: K.
        context_dim: length of the context c; 0 ignores any context.
        generator: the source of randomness for the initial means, which are draws from N(0, I); None is torch's
            global one, as for the weights of any network.
    Raises:
        ElbowroomError: fewer than one component; a context that is missing or of another length.
    Example:
        >>> MixtureOfGaussians(2, components=10)(None).sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, latent_dim: int, components: int, *, context_dim: int = 0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        _check_components(components)
        self.latent_dim, self.components, self.context_dim = latent_dim, components, context_dim
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(noise.normal((components, latent_dim), torch.zeros(()), generator))
        self.log_scales = nn.Parameter(torch.zeros(components, latent_dim))
        size = components * (1 + 2 * latent_dim)
        self.shift = nn.Linear(context_dim, size, bias=False) if context_dim else None

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        logits, means, log_scales = self.logits, self.means, self.log_scales
        if self.shift is not None:
            context = checked_context(context, self.context_dim)
            shift = self.shift(context.to(means.dtype)).to(means.dtype)
            shift = shift.unflatten(-1, (self.components, 1 + 2 * self.latent_dim))  # (batch, K, 1 + 2 D)
            logits = logits + shift[..., 0]
            means = means + shift[..., 1 : 1 + self.latent_dim]
            log_scales = log_scales + shift[..., 1 + self.latent_dim :]
        normal = Independent(Normal(means, log_scales.exp(), validate_args=False), 1, validate_args=False)
        return DiagonalNormalMixture(Categorical(logits=logits, validate_args=False), normal, validate_args=False)


class VampPrior(Conditional):
    r"""The VampPrior: the guide, averaged over K learned pseudo-inputs.

    .. math:: p(z | c) = \frac{1}{K} \sum_{k=1}^K q(z | u_k, c)

    The context c of each example is combined with every pseudo-input. The guide's weights are shared: they are learned
    as part of the prior too. The pseudo-inputs stay inside the data's range, by a sigmoid or a softplus of the learned
    values.

    Args:
        guide: q(z | x, c); the same module as the one that is trained.
        pseudo_inputs: where the u_k start, say some of the data; shape (K, \*event), in the data's units.
        support: of the data.
        context_dim: length of the context c; 0 ignores any context.
    Raises:
        ElbowroomError: no pseudo-inputs, or data that are categories, between which nothing can be learned.
    Reference:
        Tomczak & Welling (2018), VAE with a VampPrior, eq. 9, arXiv:1705.07120.
    Example:
        >>> from elbowroom.model.guides import DiagonalNormal
        >>> from elbowroom.model.networks import MLP
        >>> guide = DiagonalNormal(MLP((8,), (2, 3)), 3)
        >>> prior = VampPrior(guide, torch.rand(10, 8), Support.UNIT_INTERVAL)
        >>> prior(None).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, guide: Conditional, pseudo_inputs: Tensor, support: Support, *, context_dim: int = 0) -> None:
        super().__init__()
        _check_components(len(pseudo_inputs))
        if support not in _RANGES:
            raise ElbowroomError(
                f"A VampPrior learns pseudo-inputs, but the data are {support.description}, between which nothing "
                "can be learned.",
                "Use the mixture prior.",
            )
        self.guide = guide
        self.support = support
        self.context_dim = context_dim
        start = pseudo_inputs.detach()
        if not start.is_floating_point():
            start = start.to(torch.get_default_dtype())
        self.raw = nn.Parameter(_RANGES[support][1](start.clone()))

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, shape (K, \\*event), in the data's units and range."""
        return _RANGES[self.support][0](self.raw)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        u = self.pseudo_inputs
        if self.context_dim:
            context = checked_context(context, self.context_dim)
            u = u.expand(*context.shape[:-1], *u.shape)  # (batch, K, *event)
            q = self.guide(u, context.unsqueeze(-2).expand(*context.shape[:-1], len(self.raw), -1))
        else:
            q = self.guide(u)
        weights = Categorical(logits=torch.zeros(q.batch_shape).to(self.raw), validate_args=False)
        factorised = isinstance(q, Independent) and type(q.base_dist) is Normal
        kind = DiagonalNormalMixture if factorised else MixtureSameFamily
        return kind(weights, q, validate_args=False)


class TopPrior(Conditional):
    r"""The prior of a hierarchy: a prior of the top group, and N(0, I) for the residuals of the groups below.

    .. math:: p(u | c) = p(u_1 | c) \prod_{l > 1} N(u_l \,|\, 0, I)

    Args:
        top: of the top group.
        below: latents of all groups below it.
    Example:
        >>> TopPrior(MixtureOfGaussians(2, 10), 3)(None).log_prob(torch.zeros(4, 5)).shape
        torch.Size([4])
    """

    def __init__(self, top: Conditional, below: int) -> None:
        super().__init__()
        self.top, self.below = top, StandardNormal(below)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return BlockDistribution([self.top(given, context), self.below()])


def _unit_to_raw(x: Tensor) -> Tensor:
    return torch.logit(x.clamp(0.01, 0.99))  # at 0 and 1 themselves a sigmoid would no longer learn


def _counts_to_raw(x: Tensor) -> Tensor:
    x = x.clamp(min=0.01)
    return x + torch.log(-torch.expm1(-x))  # the inverse of softplus


#: support -> (the map from all reals to the data's range, its inverse)
_RANGES: dict[Support, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    Support.BINARY: (torch.sigmoid, _unit_to_raw),
    Support.UNIT_INTERVAL: (torch.sigmoid, _unit_to_raw),
    Support.BYTES: (lambda raw: 255 * torch.sigmoid(raw), lambda x: _unit_to_raw(x / 255)),
    Support.COUNTS: (F.softplus, _counts_to_raw),
    Support.REALS: (lambda raw: raw, lambda x: x),
}

#: name -> class
PRIORS: dict[str, type[Conditional]] = {
    "normal": StandardNormal,
    "mixture": MixtureOfGaussians,
    "vamp": VampPrior,
}


def _check_components(components: int) -> None:
    if components < 1:
        raise ElbowroomError(
            f"A prior of {components} components was asked for, but 1 is the least.", "Give a positive number."
        )


def checked_context(context: Tensor | None, context_dim: int) -> Tensor:
    """The context of a prior, which has this length; refused where it is missing or of another."""
    if context is None or context.shape[-1] != context_dim:
        was = "none was" if context is None else f"one of length {context.shape[-1]} was"
        raise ElbowroomError(
            f"A prior needs a context of length {context_dim} for each example, but {was} given.",
            "Pass the context that the model was built with.",
        )
    return context
