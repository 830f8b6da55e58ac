r"""Colour pictures in bytes: the channels of a pixel given each other, as in PixelCNN++.

Under independent channels a pixel that is grey and of unknown brightness costs three times the bits of one channel.
Here a pixel is a mixture of K components with one indicator for its three channels; the location of green is moved by
red, and that of blue by red and green,

.. math:: p(r, g, b) = \sum_{k=1}^K \pi_k \, P_k(r) \, P_k(g | r) \, P_k(b | r, g),

.. math:: m_k(r) = m_k^R, \quad m_k(g | r) = m_k^G + \alpha_k r', \quad
    m_k(b | r, g) = m_k^B + \beta_k r' + \gamma_k g',

where :math:`r' = 2 r / (L - 1) - 1 \in [-1, 1]`, and each P is the mass of a bin of a logistic distribution
(:func:`~elbowroom.model.distributions.log_bin_mass`). A likelihood returns one number for each element, so the sum over
k is split by the chain rule:

.. math:: p(g | r) = \frac{\sum_k \pi_k P_k(r) P_k(g | r)}{\sum_k \pi_k P_k(r)},

which is the mixture with the weights that k has after red was seen, and so for blue. Each conditional sums to one, and
their product is p(r, g, b).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from elbowroom.errors import ElbowroomError
from elbowroom.model import noise
from elbowroom.model.distributions import LOG_SCALE_RANGE, log_bin_mass, mean_level, nearest_level
from elbowroom.model.noise import NoiseSource
from elbowroom.numerics import log_sum_exp

__all__ = ["ColourLogisticMixture"]

_NODES = 16  # equally probable values of an earlier channel that a mean is taken over


class ColourLogisticMixture(Distribution):
    r"""Pixels of three channels with values 0..L−1, in a mixture with one indicator for each pixel.

    Elementwise, as all densities of likelihoods: the three numbers of a pixel are log p(r), log p(g | r) and
    log p(b | r, g), whose sum is log p(r, g, b). Axes before the channels are a batch, axes behind them the grid of
    pixels.

    Args:
        logits: of the weights :math:`\pi_k`, shape (\*, \*grid, K).
        locations: :math:`m_k`, −1 at 0 and 1 at L − 1, shape (\*, 3, \*grid, K).
        log_scales: :math:`\log s_k`, shape (\*, 3, \*grid, K); kept between −7 and 7.
        coefficients: α, of red in green, β, of red in blue, and γ, of green in blue, shape (\*, 3, \*grid, K).
        grid_dims: number of axes of the grid of pixels; 2 for pictures.
        levels: L.
    Raises:
        ElbowroomError: an axis of channels that is not three long.
    Reference:
        Salimans et al. (2017), PixelCNN++, section 2.2, eq. 3, arXiv:1701.05517.
    Example:
        >>> three, green_is_red = torch.zeros(3, 1), torch.tensor([[1.0], [0.0], [0.0]])
        >>> pixel = ColourLogisticMixture(torch.zeros(1), three, three - 5, green_is_red, grid_dims=0)
        >>> pixel.log_prob(torch.tensor([200.0, 200.0, 127.0])).round(decimals=1)
        tensor([-84.2000,  -1.3000,  -1.3000])
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.nonnegative_integer

    def __init__(
        self,
        logits: Tensor,
        locations: Tensor,
        log_scales: Tensor,
        coefficients: Tensor,
        *,
        grid_dims: int = 2,
        levels: int = 256,
    ) -> None:
        self._channels = -2 - grid_dims  # the axis of channels among those of the parameters
        shapes = [part.shape for part in (logits.unsqueeze(self._channels), locations, log_scales, coefficients)]
        shape = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        if shape[self._channels] != 3:
            raise ElbowroomError(
                f"A mixture over red, green and blue was given parameters of {shape[self._channels]} channels.",
                "Give parameters of shape (*, 3, *grid, K).",
            )
        self.levels = levels
        self.logits = logits.expand(*shape[: self._channels], *shape[self._channels + 1 :])
        self.locations, self.coefficients = locations.expand(shape), coefficients.expand(shape)
        self.log_scales = log_scales.clamp(*LOG_SCALE_RANGE).expand(shape)
        super().__init__(shape[:-1], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(r), log p(g | r), log p(b | r, g), nats, in the places of r, g and b; the shapes broadcast."""
        x = value.to(self.logits.dtype).unsqueeze(-1)
        red, green, _ = self._scaled(x).unbind(self._channels)
        alpha, beta, gamma = self.coefficients.unbind(self._channels)
        moves = [torch.zeros_like(alpha * red), alpha * red, beta * red + gamma * green]
        locations = self.locations + torch.stack(moves, self._channels)
        mass = log_bin_mass(x, locations, self.log_scales, levels=self.levels)
        weights = F.log_softmax(self.logits, -1).unsqueeze(self._channels)
        # log p(r), log p(r, g), log p(r, g, b)
        so_far = log_sum_exp(weights + mass.cumsum(self._channels))
        axis = self._channels + 1
        return torch.cat([so_far.narrow(axis, 0, 1), so_far.diff(dim=axis)], axis)

    @property
    def mean(self) -> Tensor:
        r"""E[r], E[g], E[b]; that of red is exact.

        Given k, those of green and blue are averages over 16 equally probable values of red, and of green for each of
        them, of the mean of a logistic variable that is clipped and not rounded,

        .. math:: \frac{L - 1}{2} \, s \, \big(\mathrm{softplus}((m + 1) / s) - \mathrm{softplus}((m - 1) / s)\big).

        """
        (m_red, m_green, m_blue), (s_red, s_green, _) = (
            parameter.unbind(self._channels) for parameter in (self.locations, self.log_scales)
        )
        alpha, beta, gamma = self.coefficients.unbind(self._channels)
        green, blue = torch.zeros_like(m_green), torch.zeros_like(m_blue)
        nodes = torch.logit((torch.arange(_NODES, dtype=m_red.dtype, device=m_red.device) + 0.5) / _NODES)
        s_blue = self.log_scales.select(self._channels, 2)
        for first in nodes:
            r = self._scaled(self._level(m_red, s_red, first))
            at_red = m_green + alpha * r
            green = green + self._clipped_mean(at_red, s_green)
            for second in nodes:
                g = self._scaled(self._level(at_red, s_green, second))
                blue = blue + self._clipped_mean(m_blue + beta * r + gamma * g, s_blue)
        red = mean_level(m_red, s_red, levels=self.levels)
        means = torch.stack([red, green / _NODES, blue / _NODES**2], self._channels)
        return (means * self.logits.softmax(-1).unsqueeze(self._channels)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = (), generator: NoiseSource | None = None) -> Tensor:
        """Draws of a component for each pixel, then of red, green and blue in turn, each rounded and clipped."""
        shape, axis = Size((*sample_shape, *self.batch_shape)), self._channels + 1
        grid = (*shape[:axis], *shape[len(shape) + axis + 1 :])
        k = noise.category(self.logits, grid, generator).unsqueeze(-1).unsqueeze(self._channels)
        index = k.expand(*shape, 1)
        location, log_scale, coefficient = (
            parameter.expand(*shape, -1).gather(-1, index).squeeze(-1).unbind(axis)
            for parameter in (self.locations, self.log_scales, self.coefficients)
        )
        logistic = torch.logit(noise.uniform(shape, self.locations, generator)).unbind(axis)
        alpha, beta, gamma = coefficient
        red = self._level(location[0], log_scale[0], logistic[0])
        r = self._scaled(red)
        green = self._level(location[1] + alpha * r, log_scale[1], logistic[1])
        g = self._scaled(green)
        blue = self._level(location[2] + beta * r + gamma * g, log_scale[2], logistic[2])
        return torch.stack([red, green, blue], axis)

    def _scaled(self, x: Tensor) -> Tensor:
        """0..L−1 as −1..1."""
        return x / (0.5 * (self.levels - 1)) - 1

    def _level(self, location: Tensor, log_scale: Tensor, logistic: Tensor) -> Tensor:
        """The integer 0..L−1 of a standard logistic number."""
        return nearest_level(location + log_scale.exp() * logistic, levels=self.levels)

    def _clipped_mean(self, location: Tensor, log_scale: Tensor) -> Tensor:
        scale = log_scale.exp()
        span = F.softplus((location + 1) / scale) - F.softplus((location - 1) / scale)
        return 0.5 * (self.levels - 1) * scale * span
