r"""Likelihoods p(x | z), one class for each kind of data. Their base is in :mod:`elbowroom.model.conditional`.

================================ =================== ===============================================
name                             an element of x is  its distribution
================================ =================== ===============================================
``bernoulli``                    0 or 1              Bernoulli
``cross-entropy``                in [0, 1]           none: a training loss, ``normalized = False``
``continuous-bernoulli``         in [0, 1]           exponential in x, with its normalising constant
``gaussian``                     real                normal; σ given, learned, or from the network
``discretized-logistic-mixture`` 0..255              mixture of logistics, summed over each bin
``colour-logistic-mixture``      0..255              the same, of green given red, of blue given both
``categorical``                  a category's number categorical
``poisson``                      a count             Poisson
``negative-binomial``            a count             gamma-Poisson, with learned dispersions
================================ =================== ===============================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import colour, distributions
from elbowroom.model.conditional import Likelihood
from elbowroom.numerics import chunks

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ColourLogisticMixture",
    "ContinuousBernoulli",
    "CrossEntropy",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
]

_LARGEST_LOG = 60.0  # exp(±60) and its products with data stay far from the limits of float32
_CHUNK_ELEMENTS = 2**22  # of the largest tensor, where values are enumerated
_SOFTPLUS_1 = math.log(math.expm1(1.0))  # softplus of this is 1


class Bernoulli(Likelihood):
    r"""Binary elements.

    .. math:: \log p(x) = x \log p + (1 - x) \log(1 - p), \qquad p = \sigma(\mathrm{network}(z)), \quad x \in \{0, 1\}

    Args:
        network: z -> logits of shape (1, \*event).
        event_shape: shape of one example.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Bernoulli(MLP((2,), Bernoulli.parameter_shape((28, 28))), (28, 28))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 28, 28)).shape
        torch.Size([5, 28, 28])
    """

    name = "bernoulli"
    support = Support.BINARY

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (logits,) = parameters
        return D.Bernoulli(logits=logits, validate_args=False)

    def fisher_information(self, output: Tensor) -> Tensor:
        return self._as_matrices(output.sigmoid() * (-output).sigmoid())

    def _initial_output(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3))


class CrossEntropy(Bernoulli):
    r"""Grey pixels in [0, 1] under the Bernoulli's log-probability: a common training loss, but not a likelihood.

    .. math:: x \log p + (1 - x) \log(1 - p), \qquad x \in [0, 1]

    As a density over [0, 1] this does not integrate to one, so no bound on log p(x) follows from it; ``normalized``
    is False and results are labelled. The density for such data is :class:`ContinuousBernoulli`. Draws are 0 or 1.

    Args:
        network: z -> logits of shape (1, \*event).
        event_shape: shape of one example.
    """

    name = "cross-entropy"
    support = Support.UNIT_INTERVAL
    normalized = False


class ContinuousBernoulli(Likelihood):
    r"""Grey pixels in [0, 1]: the density that is proportional to the Bernoulli's.

    .. math:: \log p(x) = \ell x - \log \frac{e^\ell - 1}{\ell}, \qquad \ell = \mathrm{network}(z), \quad x \in [0, 1]

    Args:
        network: z -> logits :math:`\ell` of shape (1, \*event).
        event_shape: shape of one example.
    Reference:
        Loaiza-Ganem & Cunningham (2019), The continuous Bernoulli, arXiv:1907.06845.
    """

    name = "continuous-bernoulli"
    support = Support.UNIT_INTERVAL

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (logits,) = parameters
        return distributions.ContinuousBernoulli(logits)

    def fisher_information(self, output: Tensor) -> Tensor:
        return self._as_matrices(distributions.ContinuousBernoulli(output).variance)

    def _initial_output(self, mean: Tensor) -> Tensor:
        return distributions.ContinuousBernoulli.with_mean(mean.clamp(1e-3, 1 - 1e-3)).logits


class Gaussian(Likelihood):
    r"""Real elements with normal noise.

    .. math:: \log p(x) = -\tfrac12 \log 2\pi\sigma^2 - \frac{(x - \mu)^2}{2 \sigma^2},
        \qquad \mu = a + u \, f(\mathrm{network}(z))

    The data keep their units: the shift a and the unit u (such as the data's mean and standard deviation) bring the
    network's output to a scale of about one, and the density is that of x itself.

    Args:
        network: z -> (1, \*event), or (2, \*event) with ``scale="per-element"``.
        event_shape: shape of one example.
        scale: σ. A number, in the data's units; "learned", one number in units of u that starts near 1;
            "per-element", from the network, in units of u.
        shift: a, shape (\*event) or a scalar; 0 unless given.
        unit: u > 0, shape (\*event) or a scalar; 1 unless given.
        mean_activation: f, "identity" or "sigmoid".
        min_scale: the smallest σ that can be learned, in units of u; keeps the density bounded.
    Raises:
        ElbowroomError: a σ or ``min_scale`` that is not positive, or an unknown name.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Gaussian(MLP((2,), Gaussian.parameter_shape((3,))), (3,), scale=0.5)
        >>> likelihood(torch.zeros(5, 2)).scale.unique()
        tensor([0.5000])
    """

    name = "gaussian"
    support = Support.REALS
    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        network: nn.Module,
        event_shape: Sequence[int],
        *,
        scale: float | Literal["learned", "per-element"] = "learned",
        shift: Tensor | None = None,
        unit: Tensor | None = None,
        mean_activation: Literal["identity", "sigmoid"] = "identity",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(network, event_shape, num_parameters=self.parameter_shape((), scale=scale)[0])
        if mean_activation not in ("identity", "sigmoid"):
            raise ElbowroomError(
                f"mean_activation is '{mean_activation}', but should be 'identity' or 'sigmoid'.", "Use one of them."
            )
        if not min_scale > 0 or (not isinstance(scale, str) and not scale > 0):
            raise ElbowroomError(
                f"A Gaussian was given scale {scale} and min_scale {min_scale}, but both should be positive.",
                "Give σ in the data's units, or scale='learned'.",
            )
        self.scale = scale
        self.mean_activation = mean_activation
        self.min_scale = min_scale
        self.register_buffer("shift", torch.zeros(()) if shift is None else shift.detach().clone())
        self.register_buffer("unit", torch.ones(()) if unit is None else unit.detach().clone())
        if not bool((self.unit > 0).all()):
            raise ElbowroomError(
                "A Gaussian was given a unit that is not positive, but it is a standard deviation.",
                "Use 1 for elements that are constant in the data.",
            )
        self.raw_scale = nn.Parameter(torch.tensor(_SOFTPLUS_1)) if scale == "learned" else None

    @classmethod
    def parameter_shape(
        cls, event_shape: Sequence[int], *, scale: float | Literal["learned", "per-element"] = "learned"
    ) -> tuple[int, ...]:
        """(2, \\*event), mean and scale, with ``scale="per-element"``; otherwise (1, \\*event)."""
        if isinstance(scale, str) and scale not in ("learned", "per-element"):
            raise ElbowroomError(
                f"The scale is '{scale}', but should be a number, 'learned' or 'per-element'.", "Use one of them."
            )
        return (2 if scale == "per-element" else 1, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        mean, *raw = parameters
        if self.mean_activation == "sigmoid":
            mean = mean.sigmoid()
        learned = raw[0] if raw else self.raw_scale
        if learned is None:
            scale = mean.new_full((), float(self.scale))
        else:
            scale = self.unit * (self.min_scale + F.softplus(learned))
        return D.Normal(self.shift + self.unit * mean, scale, validate_args=False)

    def fisher_information(self, output: Tensor) -> Tensor:
        # 1 / σ² for the mean and 2 / σ² for σ, each times the squared derivative by what the network returned
        axis = -len(self._parameter_shape)
        mean, *raw = output.tensor_split(self._parameter_shape[0], axis)
        slope = mean.sigmoid() * (-mean).sigmoid() if self.mean_activation == "sigmoid" else torch.ones_like(mean)
        learned = raw[0] if raw else self.raw_scale
        if learned is None:
            return self._as_matrices((self.unit * slope / float(self.scale)).square())
        units = self.min_scale + F.softplus(learned)  # σ / u
        of_mean = (slope / units).square()
        if not raw:
            return self._as_matrices(of_mean)
        of_scale = 2 * (learned.sigmoid() / units).square()
        none = torch.zeros_like(of_mean)
        rows = [torch.cat([of_mean, none], axis), torch.cat([none, of_scale], axis)]
        return torch.stack(rows, axis - 1)

    def _initial_output(self, mean: Tensor) -> Tensor:
        start = (mean - self.shift) / self.unit
        if self.mean_activation == "sigmoid":
            start = torch.logit(start.clamp(1e-3, 1 - 1e-3))
        rows = [start.expand(self.event_shape)]
        if self._parameter_shape[0] == 2:
            rows.append(torch.full_like(rows[0], _SOFTPLUS_1))
        return torch.stack(rows)


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


class Categorical(Likelihood):
    r"""Elements that are category numbers 0..C−1.

    .. math:: \log p(x) = \log \mathrm{softmax}(\mathrm{network}(z))_x

    Args:
        network: z -> logits of shape (C, \*event).
        event_shape: shape of one example.
        num_categories: C.
    """

    name = "categorical"
    support = Support.CATEGORIES

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, num_categories: int) -> None:
        super().__init__(network, event_shape, num_parameters=num_categories)
        self.num_categories = num_categories

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, num_categories: int
    ) -> tuple[int, ...]:
        """(C, \\*event)."""
        return (num_categories, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        return D.Categorical(logits=torch.stack(parameters, -1), validate_args=False)

    def fisher_information(self, output: Tensor) -> Tensor:
        axis = -len(self._parameter_shape)
        p = output.softmax(axis).movedim(axis, -1)
        found = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
        return found.movedim((-2, -1), (axis - 1, axis))


class Poisson(Likelihood):
    r"""Counts whose variance is their mean.

    .. math:: \log p(x) = x \log \lambda - \lambda - \log x!, \qquad \log \lambda = \mathrm{network}(z)

    Args:
        network: z -> log rates of shape (1, \*event), kept within ±60.
        event_shape: shape of one example.
    """

    name = "poisson"
    support = Support.COUNTS

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (log_rate,) = parameters
        return distributions.Poisson(log_rate.clamp(-_LARGEST_LOG, _LARGEST_LOG))

    def fisher_information(self, output: Tensor) -> Tensor:
        rate = output.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()
        return self._as_matrices(_within(output, rate))

    def _initial_output(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=1e-3).log()


class NegativeBinomial(Likelihood):
    r"""Counts whose variance exceeds their mean, by a dispersion that is learned for each element.

    .. math:: \operatorname{Var}(x_d) = \mu_d + \mu_d^2 / r_d, \qquad \log \mu = \mathrm{network}(z)

    The dispersion r does not depend on z.

    Args:
        network: z -> log means of shape (1, \*event), kept within ±60.
        event_shape: shape of one example.
    Reference:
        Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics (scVI).
    """

    name = "negative-binomial"
    support = Support.COUNTS

    def __init__(self, network: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__(network, event_shape)
        self.log_dispersion = nn.Parameter(torch.zeros(*self.event_shape))

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (log_mean,) = parameters
        return distributions.NegativeBinomial(
            log_mean.clamp(-_LARGEST_LOG, _LARGEST_LOG), self.log_dispersion.clamp(-_LARGEST_LOG, _LARGEST_LOG)
        )

    def fisher_information(self, output: Tensor) -> Tensor:
        # μ r / (μ + r), in logarithms: neither factor overflows
        log_mean = output.clamp(-_LARGEST_LOG, _LARGEST_LOG)
        log_dispersion = self.log_dispersion.clamp(-_LARGEST_LOG, _LARGEST_LOG)
        found = torch.exp(-torch.logaddexp(-log_mean, -log_dispersion))
        return self._as_matrices(_within(output, found))

    def _initial_output(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=1e-3).log()


def _within(output: Tensor, information: Tensor) -> Tensor:
    """Beyond ±60 the distribution no longer depends on the output."""
    return torch.where(output.abs() <= _LARGEST_LOG, information, 0.0)


#: name -> class
LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.name: likelihood
    for likelihood in (
        Bernoulli,
        CrossEntropy,
        ContinuousBernoulli,
        Gaussian,
        DiscretizedLogisticMixture,
        ColourLogisticMixture,
        Categorical,
        Poisson,
        NegativeBinomial,
    )
}
