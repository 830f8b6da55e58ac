"""Likelihoods of bytes, integers 0..255."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import colour, distributions
from elbowroom.model.conditional import Likelihood
from elbowroom.numerics import chunks

__all__ = ["ColourLogisticMixture", "DiscretizedLogisticMixture"]

_CHUNK_ELEMENTS = 2**22  # of the largest tensor, where values are enumerated


class DiscretizedLogisticMixture(Likelihood):
    r"""Integers 0..255: a mixture of K logistic distributions for each element, discretised by bin.

    Args:
        network: z -> (3 K, \*event): weights' logits, locations, log-scales; locations are −1 at 0 and 1 at 255.
        event_shape: shape of one example.
        components: K.
    Reference:
        Salimans et al. (2017), PixelCNN++, eq. 2, arXiv:1701.05517 (here without dependence among colours).
    """

    name = "discretized-logistic-mixture"
    support = Support.BYTES

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, components: int = 5) -> None:
        super().__init__(network, event_shape, num_parameters=self.parameter_shape((), components=components)[0])
        self.components = components

    @classmethod
    def parameter_shape(cls, event_shape: Sequence[int], *, components: int = 5) -> tuple[int, ...]:
        """(3 K, \\*event)."""
        _check_components(components)
        return (3 * components, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        return distributions.DiscretizedLogisticMixture(*torch.stack(parameters, -1).chunk(3, -1))

    @torch.no_grad()
    def fisher_information(self, output: Tensor) -> Tensor:
        # no closed form: the expectation is a sum over the 256 values, for a bounded number of elements at a time
        elements = output.movedim(-len(self._parameter_shape), -1)
        flat = elements.reshape(-1, elements.shape[-1])
        values = torch.arange(256.0, dtype=output.dtype, device=output.device)
        per_chunk = max(1, _CHUNK_ELEMENTS // (len(values) * flat.shape[-1]))
        parts = [self._enumerated(flat[chunk], values) for chunk in chunks(len(flat), per_chunk)]
        found = torch.cat(parts).reshape(*elements.shape, -1)
        return found.movedim((-2, -1), (-1 - len(self._parameter_shape), -len(self._parameter_shape)))

    @staticmethod
    @torch.enable_grad()
    def _enumerated(parameters: Tensor, values: Tensor) -> Tensor:
        """Parameters of shape (n, P), and all values: Σ p(x) s sᵀ, shape (n, P, P)."""
        leaf = parameters.unsqueeze(1).repeat(1, len(values), 1).requires_grad_()  # a copy of θ for every value
        log_p = distributions.DiscretizedLogisticMixture(*leaf.chunk(3, -1)).log_prob(values)
        (score,) = torch.autograd.grad(log_p.sum(), leaf)
        return (score * log_p.detach().exp().unsqueeze(-1)).mT @ score

    def _initial_output(self, mean: Tensor) -> Tensor:
        return torch.cat(_initial_mixture(mean, self.components, self.event_shape))


class ColourLogisticMixture(Likelihood):
    r"""Colour pictures in bytes: a mixture of K for each pixel, with green given red, and blue given both.

    .. math:: p(r, g, b) = \sum_{k=1}^K \pi_k \, P_k(r) \, P_k(g | r) \, P_k(b | r, g), \qquad
        m_k(g | r) = m_k^G + \alpha_k r', \quad m_k(b | r, g) = m_k^B + \beta_k r' + \gamma_k g'

    Pixels can be missing, channels of a pixel cannot (:meth:`check_mask`). It has no Fisher information, which would be
    an expectation over the 256³ colours of a pixel.

    Args:
        network: z -> (4 K, 3, \*grid): weights' logits, which are added up over the channels of a pixel, locations,
            log-scales, and what tanh makes α, β and γ of, in the places of the three channels.
        event_shape: (3, H, W), or (3, \*grid) with any grid of pixels.
        components: K.
    Raises:
        ElbowroomError: a shape that does not start with three channels; no components.
    Reference:
        Salimans et al. (2017), PixelCNN++, section 2.2, arXiv:1701.05517.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = ColourLogisticMixture(MLP((2,), ColourLogisticMixture.parameter_shape((3, 4, 4))), (3, 4, 4))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3, 4, 4)).shape
        torch.Size([5, 3, 4, 4])
    """

    name = "colour-logistic-mixture"
    support = Support.BYTES

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, components: int = 5) -> None:
        count = self.parameter_shape(event_shape, components=components)[0]
        super().__init__(network, event_shape, num_parameters=count)
        self.components = components

    @classmethod
    def parameter_shape(cls, event_shape: Sequence[int], *, components: int = 5) -> tuple[int, ...]:
        """(4 K, 3, \\*grid)."""
        _check_components(components)
        if tuple(event_shape[:1]) != (3,):
            raise ElbowroomError(
                f"A colour-logistic-mixture needs colour pictures, (3, H, W), but an example has shape "
                f"{tuple(event_shape)}.",
                "Use --model.likelihood discretized-logistic-mixture, which takes bytes of any shape.",
            )
        return (4 * components, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        logits, locations, log_scales, raw = torch.stack(parameters, -1).chunk(4, -1)
        return colour.ColourLogisticMixture(
            logits.sum(-1 - len(self.event_shape)),
            locations,
            log_scales,
            raw.tanh(),
            grid_dims=len(self.event_shape) - 1,
        )

    def check_mask(self, mask: Tensor) -> None:
        axis = -len(self.event_shape)
        partial = mask.any(axis) & ~mask.all(axis)
        if bool(partial.any()):
            raise ElbowroomError(
                f"One or two channels are missing of {int(partial.sum()):,} of {partial.numel():,} pixels, but the "
                "channels of a pixel depend on each other.",
                "Mark all channels of such pixels as missing, or use --model.likelihood discretized-logistic-mixture.",
            )

    def _initial_output(self, mean: Tensor) -> Tensor:
        logits, locations, log_scales = _initial_mixture(mean, self.components, self.event_shape)
        return torch.cat([logits, locations, log_scales, torch.zeros_like(logits)])


def _check_components(components: int) -> None:
    if components < 1:
        raise ElbowroomError(f"A mixture of {components} components was asked for, but 1 is the least.", "Give more.")


def _initial_mixture(mean: Tensor, components: int, event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, locations and log-scales of bytes with this mean, each of shape (K, \\*event).

    The locations are spread over a quarter of the range around the mean, so that components differ from the start.
    """
    spread = torch.linspace(-0.25, 0.25, components).to(mean)
    locations = (mean / 127.5 - 1) + (spread - spread.mean()).reshape(-1, *(1 for _ in event_shape))
    locations = locations.expand(components, *event_shape)
    return torch.zeros_like(locations), locations, torch.full_like(locations, -2.0)
