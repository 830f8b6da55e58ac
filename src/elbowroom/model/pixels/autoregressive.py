r"""Autoregressive likelihoods: pixels that depend on each other, given z.

.. math:: p(x | z) = \prod_i p(x_i \,|\, x_1, \dots, x_{i-1}, z), \qquad
    p(x_i | x_{<i}, z) = p(x_i \,|\, \theta_i), \quad \theta = f(x, v(z))

The decoder computes features v of every element from z. A few masked convolutions f
(:class:`~elbowroom.model.pixels.masked_convolutions.MaskedPixels`) turn them and the pixels before i into the
parameters of pixel i. Any other likelihood of pictures says what these mean. Densities take one pass, draws one step
for each pixel.

Neighbouring pixels resemble each other, and where they are independent given z, z has to carry every resemblance. Here
the convolutions model what is local, and z what is beyond their receptive field: log p(x) is better, and z carries
less. If the receptive field is so large that nothing is left for z, the posterior collapses.

No mean of p(x | z) exists in closed form. :func:`~elbowroom.model.draws.conditionals` are the distributions
:math:`p(x_i | x_{<i}, z)` at a given x, with means of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Likelihood
from elbowroom.model.draws import conditionals, draw
from elbowroom.model.noise import CannotPrepareError, NoiseSource, Prepared, Recorder
from elbowroom.model.pixels.masked_convolutions import Cache, MaskedPixels, of_pixel
from elbowroom.numerics import chunks

__all__ = ["AutoregressivePixels", "PixelByPixel"]

_PICTURES = 512  # drawn at a time, which bounds the memory for what earlier pixels have led to


class AutoregressivePixels(Likelihood):
    r"""Each pixel given z and the pixels before it, in the order of reading.

    .. math:: \log p(x | z) = \sum_i \log p(x_i \,|\, \theta_i), \qquad \theta = f(x, \mathrm{network}(z))

    Of pictures in colour, all channels of a pixel see those of earlier pixels; how they depend on each other is the
    base's.

    Args:
        network: z -> features of shape ``base.network.in_shape``, (D, \*event).
        base: what the parameters of an element mean; its network is a
            :class:`~elbowroom.model.pixels.masked_convolutions.MaskedPixels`.
    Attributes:
        base: as given.
        name: of the base, as are ``support`` and ``normalized``.
        receptive_field: side of the square around a pixel in whose first half all lies that it depends on, apart from
            z.
    Raises:
        ElbowroomError: a base whose network is another, or which has a ``forward`` of its own.
    Reference:
        Gulrajani et al. (2017), PixelVAE: A Latent Variable Model for Natural Images, arXiv:1611.05013.
        Chen et al. (2017), Variational Lossy Autoencoder, arXiv:1611.02731.
    Example:
        >>> from elbowroom.model.guides import InputTransform
        >>> from elbowroom.model.likelihoods import Bernoulli
        >>> from elbowroom.model.networks import MLP
        >>> shape = (8, 8)
        >>> pixels = MaskedPixels((1, *shape), features=2, transform=InputTransform(Bernoulli.support, shape))
        >>> likelihood = AutoregressivePixels(MLP((3,), pixels.in_shape), Bernoulli(pixels, shape))
        >>> likelihood(torch.zeros(5, 3)).log_prob(torch.ones(5, *shape)).shape
        torch.Size([5, 8, 8])
        >>> likelihood.receptive_field
        15
    """

    def __init__(self, network: nn.Module, base: Likelihood) -> None:
        pixels = base.network
        if not isinstance(pixels, MaskedPixels) or type(base).forward is not Likelihood.forward:
            raise ElbowroomError(
                f"The pixels of a {type(base).__name__} whose network is a {type(pixels).__name__} cannot be made to "
                "depend on each other.",
                "Give a likelihood that defines `distribution` and not `forward`, with MaskedPixels as its network.",
            )
        made = tuple(getattr(network, "out_shape", pixels.in_shape))
        if made != pixels.in_shape:
            raise ElbowroomError(
                f"The decoder returns features of shape {made}, but the masked convolutions take {pixels.in_shape}.",
                "Build it with out_shape=pixels.in_shape.",
            )
        super().__init__(network, base.event_shape, num_parameters=pixels.in_shape[0])
        self.base = base
        self.name, self.support, self.normalized = base.name, base.support, base.normalized

    @property
    def elementwise(self) -> Likelihood:
        return self.base

    @property
    def num_parameters(self) -> int:
        return self.base.num_parameters

    @property
    def receptive_field(self) -> int:
        network = self.base.network
        assert isinstance(network, MaskedPixels)
        return network.receptive_field

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> PixelByPixel:
        return PixelByPixel(self.base, self._output(given, context))

    def distribution(self, *parameters: Tensor) -> Distribution:
        return self.base.distribution(*parameters)

    def network_given(self, x: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
        def theta(z: Tensor, context: Tensor | None = None) -> Tensor:
            return self.forward(z, context).parameters(x)

        return theta

    def fisher_information(self, output: Tensor) -> Tensor:
        return self.base.fisher_information(output)

    def init_output_bias(self, mean: Tensor) -> None:
        self.base.init_output_bias(mean)

    def check_mask(self, mask: Tensor) -> None:
        holes = int((~mask).sum())
        if holes:
            raise ElbowroomError(
                f"{holes:,} of {mask.numel():,} elements are missing, but each pixel is modelled given those before "
                "it, so that a missing one cannot be summed out.",
                "Train with pixels that are independent given z: --model.masked-layers 0.",
            )


class PixelByPixel(Distribution):
    r"""p(x | z) of pictures whose pixels depend on those before them, for given features of z.

    Elementwise, as all densities of likelihoods: the number of pixel i is :math:`\log p(x_i | x_{<i}, z)`, and their
    sum is log p(x | z).

    Args:
        base: what the parameters of an element mean; its network is a ``MaskedPixels``.
        features: v, shape (\*, D, \*event).
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: Likelihood, features: Tensor) -> None:
        self.base, self.features = base, features
        self._lead = features.shape[: features.dim() - 1 - len(base.event_shape)]
        super().__init__(torch.Size((*self._lead, *base.event_shape)), validate_args=False)

    def parameters(self, x: Tensor) -> Tensor:
        """θ, shape (\\*, P, \\*event), of every element of x given those before it."""
        theta: Tensor = self.base.network(x, self.features)
        return theta

    def conditionals(self, x: Tensor) -> Distribution:
        """The distributions of every element of x given those before it; x of shape (\\*, \\*event) broadcasts."""
        return self.base.distribution(*self.base.split(self.parameters(x)))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x_i | x_<i, z) in nats, the shape that ``value`` and the batch broadcast to."""
        log_density: Tensor = self.conditionals(value).log_prob(value)
        return log_density

    @property
    def mean(self) -> Tensor:
        """None has a closed form.

        Raises:
            ElbowroomError: always; says what serves.
        """
        raise ElbowroomError(
            "The mean of p(x | z) has no closed form where each pixel depends on those before it.",
            "Average draws, or take the means of each pixel given those before it: "
            "mean(conditionals(p_x, x)) of elbowroom.model.draws.",
        )

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws, pixel by pixel in the order of reading.

        Raises:
            CannotPrepareError: the draws were to be made beforehand.
        """
        if isinstance(generator, Prepared | Recorder):
            raise CannotPrepareError(
                "Each pixel is drawn given those before it, so its draw cannot be made beforehand.",
                "Give a torch.Generator.",
            )
        event, shape = self.base.event_shape, (*sample_shape, *self._lead)
        features = self.features.expand(*shape, *self.features.shape[len(self._lead) :])
        rows = features.reshape(-1, *features.shape[len(shape) :])
        parts = [self._drawn(rows[some], generator) for some in chunks(len(rows), _PICTURES)]
        return torch.cat(parts).reshape(*shape, *event) if parts else features.new_empty(*shape, *event)

    def _drawn(self, features: Tensor, generator: NoiseSource | None) -> Tensor:
        """A picture for each of (n, D, \\*event) features."""
        network, event = self.base.network, self.base.event_shape
        assert isinstance(network, MaskedPixels)
        cache, pixels = Cache(network, features), []
        for place in range(math.prod(event[-2:])):
            row, column = divmod(place, event[-1])
            theta = self.base.split(cache.parameters(row, column))
            pixel = draw(of_pixel(self.base, event, row, column).distribution(*theta), generator=generator)
            cache.put(row, column, pixel)
            pixels.append(pixel.flatten(1))
        return torch.stack(pixels, -1).reshape(-1, *event)


@draw.register
def _(distribution: PixelByPixel, sample_shape: Sequence[int] = (), *, generator: NoiseSource | None = None) -> Tensor:
    return distribution.sample(sample_shape, generator)


@conditionals.register
def _(distribution: PixelByPixel, x: Tensor) -> Distribution:
    return distribution.conditionals(x)
