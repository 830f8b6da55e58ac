"""Draws with an explicit generator, for any distribution, torch's or user-defined.

``torch.distributions`` draws from the global generator only, and a draw that depends on hidden state cannot be
repeated. :func:`draw` is the same operation with the generator as an argument; it is differentiable in the
parameters where the distribution is reparameterised, z = μ + σ ε, and not elsewhere. :func:`detach` detaches a
distribution's parameters from the graph, as path-derivative gradients need for log q.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
)

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes
from elbowroom.model.colour import ColourLogisticMixture
from elbowroom.model.distributions import (
    Binomial,
    ContinuousBernoulli,
    DiagonalNormalMixture,
    DiscretizedLogisticMixture,
    NegativeBinomial,
)
from elbowroom.model.flow_distributions import FlowDistribution
from elbowroom.model.heavy_tails import StudentT
from elbowroom.model.logit_laplace import LogitLaplace
from elbowroom.model.noise import NoiseSource
from elbowroom.model.ordinal import Ordinal
from elbowroom.model.sequential_normal import BlockDistribution, ResidualNormal, SequentialNormal
from elbowroom.model.top_down_codes import TopDownCodes

__all__ = ["completions", "conditionals", "detach", "draw", "mean", "observed_log_density"]


@singledispatch
def draw(
    distribution: Distribution, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    """Draws from a distribution, the randomness taken from ``generator`` alone.

    A type that is not known here is drawn from by its own ``rsample`` or ``sample``, with the global generator
    seeded from ``generator`` for the time of the call and put back afterwards.

    Args:
        distribution: any ``torch.distributions.Distribution``.
        sample_shape: shape of the draws.
        generator: the source of randomness; None is torch's global one.
    Returns:
        Shape (\\*sample_shape, \\*batch_shape, \\*event_shape); differentiable in the parameters if and only if the
        distribution is reparameterised (``has_rsample``).
    Reference:
        Kingma & Welling (2014), Auto-Encoding Variational Bayes, section 2.4, arXiv:1312.6114.
    Example:
        >>> q = Normal(torch.zeros(2), torch.ones(2))
        >>> a, b = (draw(q, (3,), generator=torch.Generator().manual_seed(0)) for _ in range(2))
        >>> bool((a == b).all()), a.shape
        (True, torch.Size([3, 2]))
    """
    size = torch.Size(sample_shape)
    once = distribution.rsample if distribution.has_rsample else distribution.sample
    if generator is None:
        return once(size)
    with noise.global_generator_seeded_from(generator):
        return once(size)


@draw.register
def _(distribution: Normal, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    epsilon = noise.normal((*sample_shape, *distribution.batch_shape), distribution.loc, generator)
    return distribution.loc + distribution.scale * epsilon


@draw.register(Independent)
def _(
    distribution: Independent[Distribution], sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return draw(distribution.base_dist, sample_shape, generator=generator)


@draw.register
def _(
    distribution: MultivariateNormal, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    shape = (*sample_shape, *distribution.batch_shape, *distribution.event_shape)
    epsilon = noise.normal(shape, distribution.loc, generator)
    return distribution.loc + (distribution.scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)


@draw.register
def _(distribution: Bernoulli, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    probability = distribution.probs.detach()
    u = noise.uniform((*sample_shape, *distribution.batch_shape), probability, generator)
    return (u < probability).to(probability.dtype)


@draw.register
def _(distribution: Categorical, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    return noise.category(distribution.logits, (*sample_shape, *distribution.batch_shape), generator)


@draw.register
def _(distribution: Poisson, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    shape = (*sample_shape, *distribution.batch_shape)
    return noise.poisson(distribution.rate.detach().expand(shape).contiguous(), generator)


@draw.register
def _(distribution: Laplace, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    # the difference of two exponential numbers; u < 1, so that both are finite
    u = noise.uniform((2, *sample_shape, *distribution.batch_shape), distribution.loc, generator)
    first, second = torch.log1p(-u).unbind()
    return distribution.loc + distribution.scale * (second - first)


@draw.register(ContinuousBernoulli)
@draw.register(NegativeBinomial)
@draw.register(Binomial)
@draw.register(Ordinal)
@draw.register(StudentT)
@draw.register(LogitLaplace)
@draw.register(DiscretizedLogisticMixture)
@draw.register(ColourLogisticMixture)
@draw.register(Codes)
@draw.register(AutoregressiveCodes)
@draw.register(TopDownCodes)
def _(
    distribution: ContinuousBernoulli
    | NegativeBinomial
    | Binomial
    | Ordinal
    | StudentT
    | LogitLaplace
    | DiscretizedLogisticMixture
    | ColourLogisticMixture
    | Codes
    | AutoregressiveCodes
    | TopDownCodes,
    sample_shape: Sequence[int] = (),
    *,
    generator: NoiseSource | None = None,
) -> Tensor:
    return distribution.sample(sample_shape, generator)


@draw.register(SequentialNormal)
@draw.register(ResidualNormal)
def _(
    distribution: SequentialNormal | ResidualNormal,
    sample_shape: Sequence[int] = (),
    *,
    generator: NoiseSource | None = None,
) -> Tensor:
    return distribution.rsample(sample_shape, generator)


@draw.register
def _(
    distribution: BlockDistribution, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return torch.cat([draw(block, sample_shape, generator=generator) for block in distribution.blocks], -1)


@draw.register
def _(
    distribution: FlowDistribution, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return distribution.rsample(sample_shape, generator)


@draw.register
@torch.no_grad()
def _(
    distribution: MixtureSameFamily, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    # no gradient: the chosen component's path alone would be a part of it, and biased
    shape = (*sample_shape, *distribution.batch_shape)
    k = noise.category(distribution.mixture_distribution.logits, shape, generator)
    chosen = _chosen(distribution.component_distribution, k)
    if chosen is None:
        everyone = draw(distribution.component_distribution, sample_shape, generator=generator)
        return _gathered(everyone, k, len(distribution.event_shape))
    return draw(chosen, generator=generator)


def _chosen(components: Distribution, k: Tensor) -> Distribution | None:
    """Of components with batch shape (\\*batch, K), the k-th for every draw: batch shape (\\*samples, \\*batch).

    Only these are then drawn from; K draws for each would be hundreds of times the memory. None: an unknown type.
    """
    match components:
        case MultivariateNormal():
            loc, scale_tril = _gathered(components.loc, k, 1), _gathered(components.scale_tril, k, 2)
            return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)
        case Independent(base_dist=Normal() as base, reinterpreted_batch_ndims=inner):
            loc, scale = _gathered(base.loc, k, inner), _gathered(base.scale, k, inner)
            return Independent(Normal(loc, scale, validate_args=False), inner, validate_args=False)
        case FlowDistribution():
            each = components.expand(components.batch_shape)
            return each.with_parameters(lambda parameter: _gathered(parameter, k, 1))
        case _:
            return None


def _gathered(parameter: Tensor, k: Tensor, inner: int) -> Tensor:
    """The entries k of values of shape (\\*batch, K, \\*inner): shape (\\*samples, \\*batch, \\*inner)."""
    tail = parameter.shape[parameter.dim() - inner :]
    wide = parameter.expand(*k.shape, *parameter.shape[parameter.dim() - inner - 1 :])
    index = k.reshape(*k.shape, 1, *(1 for _ in tail)).expand(*k.shape, 1, *tail)
    return wide.gather(k.dim(), index).squeeze(k.dim())


@singledispatch
def detach(distribution: Distribution) -> Distribution:
    """The same distribution with its parameters detached from the graph.

    Args:
        distribution: a normal distribution, diagonal or full, a flow, a categorical one, or a mixture of these.
    Raises:
        ElbowroomError: a type whose parameters are not known here.
    Reference:
        Roeder, Wu & Duvenaud (2017), Sticking the Landing, arXiv:1703.09194.
    Example:
        >>> scale = torch.ones(2, requires_grad=True)
        >>> detach(Normal(torch.zeros(2), scale)).scale.requires_grad
        False
    """
    raise ElbowroomError(
        f"The parameters of a {type(distribution).__name__} guide cannot be detached from the graph, as the estimators "
        "'stl' and 'dreg' need.",
        "Use the estimator 'pathwise', or a guide that is normal or a flow.",
    )


@detach.register
def _(distribution: Normal) -> Normal:
    return Normal(distribution.loc.detach(), distribution.scale.detach(), validate_args=False)


@detach.register(Independent)
def _(distribution: Independent[Distribution]) -> Independent[Distribution]:
    base = detach(distribution.base_dist)
    return Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)


@detach.register
def _(distribution: MultivariateNormal) -> MultivariateNormal:
    return MultivariateNormal(
        distribution.loc.detach(), scale_tril=distribution.scale_tril.detach(), validate_args=False
    )


@detach.register
def _(distribution: Categorical) -> Categorical:
    return Categorical(logits=distribution.logits.detach(), validate_args=False)


@detach.register
def _(distribution: Codes) -> Codes:
    return Codes(distribution.logits.detach())


@detach.register
def _(distribution: TopDownCodes) -> TopDownCodes:
    return distribution.detached()


@detach.register(SequentialNormal)
@detach.register(ResidualNormal)
def _(distribution: SequentialNormal | ResidualNormal) -> SequentialNormal | ResidualNormal:
    return distribution.detached()


@detach.register
def _(distribution: BlockDistribution) -> BlockDistribution:
    return BlockDistribution([detach(block) for block in distribution.blocks])


@detach.register
def _(distribution: FlowDistribution) -> FlowDistribution:
    return distribution.detached()


@detach.register
def _(distribution: MixtureSameFamily) -> MixtureSameFamily:
    weights = Categorical(logits=distribution.mixture_distribution.logits.detach(), validate_args=False)
    components = detach(distribution.component_distribution)
    if isinstance(distribution, DiagonalNormalMixture):
        return DiagonalNormalMixture(weights, components, validate_args=False)
    return MixtureSameFamily(weights, components, validate_args=False)


@singledispatch
def mean(distribution: Distribution) -> Tensor:
    """The mean of a distribution; of a categorical one, the expected category number.

    Returns:
        Shape (\\*batch_shape, \\*event_shape), a floating-point number.
    Example:
        >>> mean(Categorical(probs=torch.tensor([0.5, 0.0, 0.5])))
        tensor(1.)
    """
    return distribution.mean


@mean.register
def _(distribution: Categorical) -> Tensor:
    probabilities = distribution.probs
    numbers = torch.arange(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)
    return (probabilities * numbers).sum(-1)


@singledispatch
def conditionals(distribution: Distribution, x: Tensor) -> Distribution:
    """The distribution of every element of x given the elements before it: itself, where they are independent.

    Where p(x | z) has no mean in closed form, theirs are E[x_i | x_<i, z], with the x_<i of the given x.

    Args:
        distribution: of x, elementwise, as a likelihood returns it.
        x: shape (\\*, \\*event).
    Example:
        >>> p_x = Bernoulli(torch.tensor([0.2, 0.7]))
        >>> conditionals(p_x, torch.zeros(2)) is p_x
        True
    """
    return distribution


@singledispatch
def observed_log_density(
    distribution: Distribution, x: Tensor, mask: Tensor | None = None, *, event_dim: int
) -> Tensor:
    r"""log p of the observed elements of x together, in nats; the others are summed out.

    .. math:: \log p(x_o | z) = \sum_{d \text{ observed}} \log p(x_d | z)

    where elements are independent given z.

    Args:
        distribution: of x, elementwise, as a likelihood returns it.
        x: shape (\*, \*event).
        mask: True where x was observed, shape (\*, \*event); None where all were.
        event_dim: axes of the event.
    Returns:
        Shape (\*).
    Example:
        >>> p_x = Bernoulli(torch.tensor([[0.5, 0.25]]))
        >>> observed_log_density(p_x, torch.ones(1, 2), torch.tensor([[True, False]]), event_dim=1).exp()
        tensor([0.5000])
    """
    elementwise: Tensor = distribution.log_prob(x)
    if mask is not None:
        elementwise = torch.where(mask, elementwise, 0.0)
    return elementwise.flatten(elementwise.dim() - event_dim).sum(-1)


@singledispatch
def completions(distribution: Distribution, x: Tensor, mask: Tensor | None = None) -> Distribution:
    """The distribution of the unobserved elements of x given the observed ones: itself, where they are independent.

    Args:
        distribution: of x, elementwise, as a likelihood returns it.
        x: shape (\\*, \\*event).
        mask: True where x was observed, shape (\\*, \\*event); None where all were.
    Returns:
        Elementwise, too; only its unobserved elements mean anything.
    Example:
        >>> p_x = Bernoulli(torch.tensor([0.2, 0.7]))
        >>> completions(p_x, torch.zeros(2), torch.tensor([True, False])) is p_x
        True
    """
    return distribution
