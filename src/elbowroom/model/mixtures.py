r"""Likelihoods that are a mixture of K components given z, summed exactly.

.. math:: p(x | z) = \sum_{c=1}^K \pi_c \prod_j p(x_j \,|\, \theta_{cj}), \qquad \theta_c = \mathrm{network}([z, e_c])

The component c is a discrete latent beside z that no guide has to infer. Special cases are a latent class model (a
network that ignores z), factor analysis (K = 1, an affine network) and mixtures of factor analysers.

Given z, elements are not independent: each says something about c. Elementwise densities follow the chain rule, in the
order of the elements,

.. math:: \log p(x_j \,|\, x_{<j}, z) = \log \sum_c r_{c,j-1} \, p(x_j \,|\, \theta_{cj}), \qquad
    r_{cj} \propto \pi_c \prod_{i \le j} p(x_i \,|\, \theta_{ci}),

and their sum is log p(x | z). A missing element is left out of the products, so that it is summed out exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.composite_networks import ByComponent
from elbowroom.model.conditional import Likelihood
from elbowroom.model.draws import completions, draw, mean, observed_log_density
from elbowroom.model.left_out import LeftOut, draw_left_out, left_out, sums_without_each
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import log_sum_exp
from elbowroom.phrasing import with_article

__all__ = ["ElementMixture", "Mixture"]


class ElementMixture(Distribution):
    r"""A mixture of distributions of all elements of x together, batch shape (\*, \*event).

    Args:
        components: elementwise, batch shape (\*, K, \*event).
        log_weights: log π, normalised, of a shape that broadcasts to (\*, K).
        event_dim: axes of the event.
    Example:
        >>> from torch.distributions import Bernoulli
        >>> components = Bernoulli(torch.tensor([[0.1, 0.1], [0.9, 0.9]]))
        >>> p_x = ElementMixture(components, torch.tensor([0.5, 0.5]).log(), 1)
        >>> p_x.log_prob(torch.ones(2)).exp()  # of x_1, and of x_2 given x_1
        tensor([0.5000, 0.8200])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, components: Distribution, log_weights: Tensor, event_dim: int) -> None:
        self.components, self.log_weights, self.event_dim = components, log_weights, event_dim
        self._axis = -1 - event_dim  # of the components, before those of the event
        shape = components.batch_shape
        batch = (*shape[: self._axis], *shape[len(shape) - event_dim :])
        super().__init__(torch.Size(batch), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_j | x_<j, z) in nats, the shape that ``value`` and the batch broadcast to."""
        of_each = self._of_each(value)
        log_density = of_each.flatten(self._axis + 1) if self.event_dim else of_each.unsqueeze(-1)
        earlier = torch.cat([torch.zeros_like(log_density[..., :1]), log_density[..., :-1]], -1).cumsum(-1)
        before = self.log_weights.unsqueeze(-1) + earlier
        # what no component can explain is impossible, and so is all after it
        total = log_sum_exp(before, -2).unsqueeze(-2)
        responsibility = before - torch.where(total.isneginf(), 0.0, total)
        found = log_sum_exp(responsibility + log_density, -2)
        return found.reshape(of_each.shape[: self._axis] + of_each.shape[of_each.dim() - self.event_dim :])

    def total_log_prob(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """log p of the observed elements together in nats, without the axes of the event."""
        return log_sum_exp(self.log_weights + self._totals(value, mask), -1)

    def left_out(self, value: Tensor, mask: Tensor | None) -> LeftOut:
        """log p of the observed elements, and of them without each, of vectors; the component is summed out of both."""
        each = self._observed(value, mask).double()
        log_weights = self.log_weights.double()
        rest = log_weights.unsqueeze(-1) + sums_without_each(each)
        return LeftOut(log_sum_exp(log_weights + each.sum(-1), -1), log_sum_exp(rest, -2))

    @torch.no_grad()
    def sample_left_out(self, value: Tensor, mask: Tensor | None, generator: NoiseSource | None) -> Tensor:
        """Draws of each element of vectors given the others: for each a component that the others leave possible."""
        log_joint = self.log_weights.unsqueeze(-1) + sums_without_each(self._observed(value, mask))  # (*, K, D)
        which = noise.category(log_joint.movedim(-2, -1), (*log_joint.shape[:-2], log_joint.shape[-1]), generator)
        everyone = draw(self.components, generator=generator)
        return everyone.gather(-2, which.unsqueeze(-2)).squeeze(-2)

    def given(self, value: Tensor, mask: Tensor | None) -> ElementMixture:
        """The mixture of the unobserved elements given the observed ones: p(c | x, z) takes the place of π_c."""
        log_joint = self.log_weights + self._totals(value, mask)
        return ElementMixture(self.components, log_joint.log_softmax(-1), self.event_dim)

    @property
    def mean(self) -> Tensor:
        """E[x] of every element."""
        return self._average(mean(self.components))

    @property
    def probs(self) -> Tensor:
        """Of categories, the probability of each, batch shape and one axis more."""
        probabilities: Tensor = self.components.probs  # type: ignore[attr-defined]  # of a Categorical
        return self._average(probabilities.movedim(-1, 0)).movedim(0, -1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws: one component for each example, and all elements from it."""
        lead = self.components.batch_shape[: self._axis]
        weights = self.log_weights.expand(*lead, -1)
        which = noise.category(weights, (*sample_shape, *lead), generator)
        everyone = draw(self.components, sample_shape, generator=generator)
        axis = which.dim()
        index = which.reshape(*which.shape, *[1] * (self.event_dim + 1))
        index = index.expand(*which.shape, 1, *everyone.shape[axis + 1 :])
        return everyone.gather(axis, index).squeeze(axis)

    def _of_each(self, value: Tensor) -> Tensor:
        """log p of every element in every component, shape (\\*, K, \\*event)."""
        return self.components.log_prob(value.unsqueeze(self._axis))

    def _observed(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """The same, 0 where nothing was observed."""
        of_each = self._of_each(value)
        return of_each if mask is None else torch.where(mask.unsqueeze(self._axis), of_each, 0.0)

    def _totals(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """log p of the observed elements together in every component, shape (\\*, K)."""
        of_each = self._observed(value, mask)
        return of_each.flatten(self._axis + 1).sum(-1) if self.event_dim else of_each.clone()

    def _average(self, values: Tensor) -> Tensor:
        """Of values of shape (\\*, K, \\*event), the average over the components."""
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *[1] * self.event_dim) * values).sum(self._axis)


@draw.register
def _(
    distribution: ElementMixture, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None
) -> Tensor:
    return distribution.sample(sample_shape, generator)


@observed_log_density.register
def _(distribution: ElementMixture, x: Tensor, mask: Tensor | None = None, *, event_dim: int) -> Tensor:
    return distribution.total_log_prob(x, mask)


@completions.register
def _(distribution: ElementMixture, x: Tensor, mask: Tensor | None = None) -> Distribution:
    return distribution.given(x, mask)


@left_out.register
def _(distribution: ElementMixture, x: Tensor, mask: Tensor | None = None) -> LeftOut:
    return distribution.left_out(x, mask)


@draw_left_out.register
def _(
    distribution: ElementMixture, x: Tensor, mask: Tensor | None = None, *, generator: NoiseSource | None = None
) -> Tensor:
    return distribution.sample_left_out(x, mask, generator)


class Mixture(Likelihood):
    r"""K components of p(x | z), each with elements that are independent, and learned weights π.

    Args:
        network: z -> parameters of every component.
        base: what the parameters of an element mean; its own network is not used. What it learns beside the network is
            shared by the components, or has an axis of length K before those of the event.
    Attributes:
        base: as given.
        name: of the base, as are ``support`` and ``normalized``.
    Raises:
        ElbowroomError: a base that has a ``forward`` of its own; a network for other parameters than the base's.
    Reference:
        McLachlan & Peel (2000), Finite Mixture Models, chapter 8, on mixtures of factor analysers.
    Example:
        >>> from elbowroom.model.likelihoods import Bernoulli
        >>> from elbowroom.model.networks import MLP
        >>> network = ByComponent(MLP((2 + 4,), (1, 5)), 4)
        >>> likelihood = Mixture(network, Bernoulli(nn.Identity(), (5,)))
        >>> likelihood(torch.zeros(3, 2)).log_prob(torch.ones(3, 5)).shape
        torch.Size([3, 5])
    """

    def __init__(self, network: ByComponent, base: Likelihood) -> None:
        if type(base).forward is not Likelihood.forward or base.sees_other_elements:
            raise ElbowroomError(
                f"A mixture of {type(base).__name__} likelihoods was asked for, but their elements are not independent "
                "given z.",
                "Use one component, or a likelihood that defines `distribution` and not `forward`.",
            )
        wanted = (network.components * base.num_parameters, *base.event_shape)
        if network.out_shape != wanted:
            raise ElbowroomError(
                f"The network of {network.components} components of {with_article(base.name)} likelihood returns shape "
                f"{network.out_shape}, but should return {wanted}.",
                f"Build the network of each with out_shape={type(base).__name__}.parameter_shape(…).",
            )
        super().__init__(network, base.event_shape, num_parameters=wanted[0])
        self.base = base
        self.components = network.components
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.name, self.support, self.normalized = base.name, base.support, base.normalized

    @property
    def log_weights(self) -> Tensor:
        """log π, shape (K,)."""
        return self.logits.log_softmax(0)

    @property
    def elementwise(self) -> Likelihood:
        return self.base

    @property
    def sees_other_elements(self) -> bool:
        return False

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> ElementMixture:
        return self._mixture(self._output(given, context))

    def fisher_information(self, output: Tensor) -> Tensor:
        r"""That of x and its component together, :math:`\pi_c F_c` for each, at least that of x alone.

        Returns:
            Block diagonal, shape (\*, K P, K P, \*event).
        """
        return self._blocks(output, self.log_weights)

    def information_at(self, output: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""The expected curvature given the component, averaged over the components that x may be of.

        .. math:: -\nabla^2_\theta \log p(x | \theta) = \underbrace{\textstyle \sum_c r_c (-\nabla^2 \log p_c)}_{
            \text{kept, as } r_c F_c} - \underbrace{\operatorname{Cov}_r(\nabla \log p_c)}_{\text{dropped}},
            \qquad r_c = p(c | x, z)

        It is never indefinite. Where one component is responsible for x, nothing is dropped.
        """
        return self._blocks(output, self._mixture(output).given(x, mask).log_weights)

    def check_mask(self, mask: Tensor) -> None:
        self.base.check_mask(mask)

    @torch.no_grad()
    def init_output_bias(self, mean: Tensor) -> None:
        start = self.base._initial_output(mean)
        if start is not None:
            self.start_at(start)

    @torch.no_grad()
    def start_at(self, output: Tensor) -> None:
        """Start every component at these parameters, of a shape that expands to (P, \\*event)."""
        of_one = output.expand(self.base.num_parameters, *self.event_shape)
        cast(ByComponent, self.network).set_output_bias(torch.cat([of_one] * self.components))

    def _mixture(self, output: Tensor) -> ElementMixture:
        components = self.base.distribution(*self.base.split(self._by_component(output)))
        return ElementMixture(components, self.log_weights, len(self.event_shape))

    def _by_component(self, output: Tensor) -> Tensor:
        """(\\*, K P, \\*event) as (\\*, K, P, \\*event)."""
        lead = output.shape[: output.dim() - 1 - len(self.event_shape)]
        return output.reshape(*lead, self.components, self.base.num_parameters, *self.event_shape)

    def _blocks(self, output: Tensor, log_weights: Tensor) -> Tensor:
        """The base's information of each component times its weight, of shape (\\*, K): (\\*, K P, K P, \\*event)."""
        found = self.base.fisher_information(self._by_component(output))  # (*, K, P, P, *event)
        event = len(self.event_shape)
        weights = log_weights.exp().to(found)
        found = found * weights.reshape(*weights.shape, *[1] * (event + 2))
        axis, size = output.dim() - 1 - event, self.base.num_parameters
        blocks = output.new_zeros(*output.shape[: axis + 1], *output.shape[axis:])
        for c in range(self.components):
            own = slice(c * size, (c + 1) * size)
            where = (*[slice(None)] * axis, own, own)
            blocks[where] = found.select(axis, c)
        return blocks
