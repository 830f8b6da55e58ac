r"""Likelihoods of real numbers: a location and a scale for every element, and noise of one of three shapes.

.. math:: x = \mu + \sigma \varepsilon, \qquad \mu = a + u \, g(\mathrm{network}(z)), \qquad
    \varepsilon \sim N(0, 1), \; \mathrm{Laplace}(0, 1) \text{ or } t_\nu

:class:`LocationScale` has the units and the scales, and each likelihood its noise.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import heavy_tails
from elbowroom.model.conditional import Likelihood

__all__ = ["Gaussian", "Laplace", "LocationScale", "Scale", "StudentT"]

Scale = float | Literal["learned", "per-element"]

_SOFTPLUS_1 = math.log(math.expm1(1.0))  # softplus of this is 1
_LEAST_DEGREES = 2.1  # of freedom that are learned: the variance exists
_LOG_DEGREES = (-10.0, 10.0)  # of log(ν − 2.1): below, ν is at its least; above, the density is the normal one
_START_DEGREES = 5.0


class LocationScale(Likelihood):
    r"""The base of likelihoods of real numbers: what the location and the scale of an element are.

    .. math:: \mu = a + u \, g(\mathrm{network}(z)), \qquad
        \sigma = u \, (\sigma_{\min} + \mathrm{softplus}(s))

    The data keep their units: the shift a and the unit u (such as the data's mean and standard deviation) bring the
    network's output to a scale of about one, and the density is that of x itself.

    Args:
        network: z -> (1, \*event), or (2, \*event) with ``scale="per-element"``.
        event_shape: shape of one example.
        scale: σ. A number, in the data's units; "learned", one number in units of u that starts near 1;
            "per-element", from the network, in units of u.
        shift: a, shape (\*event) or a scalar; 0 unless given.
        unit: u > 0, shape (\*event) or a scalar; 1 unless given.
        mean_activation: g, "identity" or "sigmoid".
        min_scale: the smallest σ that can be learned, in units of u; keeps the density bounded.
    Raises:
        ElbowroomError: a σ or ``min_scale`` that is not positive, or an unknown name.
    """

    support = Support.REALS
    shift: Tensor
    unit: Tensor

    def __init__(
        self,
        network: nn.Module,
        event_shape: Sequence[int],
        *,
        scale: Scale = "learned",
        shift: Tensor | None = None,
        unit: Tensor | None = None,
        mean_activation: Literal["identity", "sigmoid"] = "identity",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(network, event_shape, num_parameters=self._parameter_count(scale))
        if mean_activation not in ("identity", "sigmoid"):
            raise ElbowroomError(
                f"mean_activation is '{mean_activation}', but should be 'identity' or 'sigmoid'.", "Use one of them."
            )
        if not min_scale > 0 or (not isinstance(scale, str) and not scale > 0):
            raise ElbowroomError(
                f"A {self.name} likelihood was given scale {scale} and min_scale {min_scale}, but both should be "
                "positive.",
                "Give σ in the data's units, or scale='learned'.",
            )
        self.scale = scale
        self.mean_activation = mean_activation
        self.min_scale = min_scale
        self.register_buffer("shift", torch.zeros(()) if shift is None else shift.detach().clone())
        self.register_buffer("unit", torch.ones(()) if unit is None else unit.detach().clone())
        if not bool((self.unit > 0).all()):
            raise ElbowroomError(
                f"A {self.name} likelihood was given a unit that is not positive, but it is a standard deviation.",
                "Use 1 for elements that are constant in the data.",
            )
        self.raw_scale = nn.Parameter(torch.tensor(_SOFTPLUS_1)) if scale == "learned" else None

    @classmethod
    def parameter_shape(cls, event_shape: Sequence[int], *, scale: Scale = "learned") -> tuple[int, ...]:
        """(2, \\*event), location and scale, with ``scale="per-element"``; otherwise (1, \\*event)."""
        return (cls._parameter_count(scale), *event_shape)

    @staticmethod
    def _parameter_count(scale: Scale) -> int:
        if isinstance(scale, str) and scale not in ("learned", "per-element"):
            raise ElbowroomError(
                f"The scale is '{scale}', but should be a number, 'learned' or 'per-element'.", "Use one of them."
            )
        return 2 if scale == "per-element" else 1

    @abstractmethod
    def noise(self, location: Tensor, scale: Tensor) -> D.Distribution:
        """The distribution of every element, of this location and scale in the data's units."""

    @abstractmethod
    def standard_information(self) -> tuple[float | Tensor, float | Tensor]:
        """The Fisher information of the location, and that of the scale, at a scale of one; the two do not mix."""

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        location, *raw = parameters
        if self.mean_activation == "sigmoid":
            location = location.sigmoid()
        learned = raw[0] if raw else self.raw_scale
        if learned is None:
            scale = location.new_full((), float(self.scale))
        else:
            scale = self.unit * (self.min_scale + F.softplus(learned))
        return self.noise(self.shift + self.unit * location, scale)

    def fisher_information(self, output: Tensor) -> Tensor:
        # I_μ / σ² for the location and I_σ / σ² for σ, each times the squared derivative by what the network returned
        axis = -len(self._parameter_shape)
        of_location, of_scale = self.standard_information()
        location, *raw = output.tensor_split(self._parameter_shape[0], axis)
        sigmoid = self.mean_activation == "sigmoid"
        slope = location.sigmoid() * (-location).sigmoid() if sigmoid else torch.ones_like(location)
        learned = raw[0] if raw else self.raw_scale
        if learned is None:
            return self._as_matrices(of_location * (self.unit * slope / float(self.scale)).square())
        units = self.min_scale + F.softplus(learned)  # σ / u
        first = of_location * (slope / units).square()
        if not raw:
            return self._as_matrices(first)
        second = of_scale * (learned.sigmoid() / units).square()
        none = torch.zeros_like(first)
        rows = [torch.cat([first, none], axis), torch.cat([none, second], axis)]
        return torch.stack(rows, axis - 1)

    def _initial_output(self, mean: Tensor) -> Tensor:
        start = (mean - self.shift) / self.unit
        if self.mean_activation == "sigmoid":
            start = torch.logit(start.clamp(1e-3, 1 - 1e-3))
        rows = [start.expand(self.event_shape)]
        if self._parameter_shape[0] == 2:
            rows.append(torch.full_like(rows[0], _SOFTPLUS_1))
        return torch.stack(rows)


class Gaussian(LocationScale):
    r"""Real elements with normal noise.

    .. math:: \log p(x) = -\tfrac12 \log 2\pi\sigma^2 - \frac{(x - \mu)^2}{2 \sigma^2}

    Args:
        network: z -> (1, \*event), or (2, \*event) with ``scale="per-element"``.
        event_shape: shape of one example.
        settings: of units and scale, see :class:`LocationScale`.
    Raises:
        ElbowroomError: a σ or ``min_scale`` that is not positive, or an unknown name.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Gaussian(MLP((2,), Gaussian.parameter_shape((3,))), (3,), scale=0.5)
        >>> likelihood(torch.zeros(5, 2)).scale.unique()
        tensor([0.5000])
    """

    name = "gaussian"

    def noise(self, location: Tensor, scale: Tensor) -> D.Distribution:
        return D.Normal(location, scale, validate_args=False)

    def standard_information(self) -> tuple[float | Tensor, float | Tensor]:
        return 1.0, 2.0


class Laplace(LocationScale):
    r"""Real elements with noise whose tails are exponential: the location is a median, not a mean of what was seen.

    .. math:: \log p(x) = -\log 2\sigma - \frac{|x - \mu|}{\sigma}

    Args:
        network: z -> (1, \*event), or (2, \*event) with ``scale="per-element"``.
        event_shape: shape of one example.
        settings: of units and scale, see :class:`LocationScale`; σ is the mean absolute deviation, often called b.
    Raises:
        ElbowroomError: a σ or ``min_scale`` that is not positive, or an unknown name.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Laplace(MLP((2,), Laplace.parameter_shape((3,))), (3,), scale=0.5)
        >>> likelihood(torch.zeros(5, 2)).scale.unique()
        tensor([0.5000])
    """

    name = "laplace"

    def noise(self, location: Tensor, scale: Tensor) -> D.Distribution:
        return D.Laplace(location, scale, validate_args=False)

    def standard_information(self) -> tuple[float | Tensor, float | Tensor]:
        return 1.0, 1.0


class StudentT(LocationScale):
    r"""Real elements with noise of heavy tails: a few values far out do not move the location.

    .. math:: \log p(x) = \log \frac{\Gamma(\frac{\nu + 1}{2})}{\Gamma(\frac{\nu}{2})} - \tfrac12 \log \pi \nu \sigma^2
        - \frac{\nu + 1}{2} \log \Big(1 + \frac{(x - \mu)^2}{\nu \sigma^2}\Big)

    The Fisher information of μ is :math:`\frac{\nu + 1}{(\nu + 3) \sigma^2}`, and that of σ is
    :math:`\frac{2 \nu}{(\nu + 3) \sigma^2}`.

    Args:
        network: z -> (1, \*event), or (2, \*event) with ``scale="per-element"``.
        event_shape: shape of one example.
        degrees_of_freedom: ν. A number above 1, or "learned": one for each element, from 2.1 on, that starts at 5.
        settings: of units and scale, see :class:`LocationScale`; σ is a scale, the standard deviation is
            :math:`\sigma \sqrt{\nu / (\nu - 2)}`.
    Raises:
        ElbowroomError: degrees of freedom of 1 or less, for which x has no mean; those of :class:`LocationScale`.
    Reference:
        Lange, Little & Taylor (1989), Robust statistical modeling using the t distribution.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = StudentT(MLP((2,), StudentT.parameter_shape((3,))), (3,), degrees_of_freedom=4.0)
        >>> likelihood(torch.zeros(5, 2)).degrees.unique()
        tensor([4.])
    """

    name = "student-t"

    def __init__(
        self,
        network: nn.Module,
        event_shape: Sequence[int],
        *,
        degrees_of_freedom: float | Literal["learned"] = "learned",
        **settings: Any,
    ) -> None:
        super().__init__(network, event_shape, **settings)
        self.degrees_of_freedom = degrees_of_freedom
        if isinstance(degrees_of_freedom, str) and degrees_of_freedom != "learned":
            raise ElbowroomError(
                f"The degrees of freedom are '{degrees_of_freedom}', but should be a number or 'learned'.",
                "Use one of them.",
            )
        if not isinstance(degrees_of_freedom, str) and not 1 < degrees_of_freedom < math.inf:
            raise ElbowroomError(
                f"A student-t likelihood was given {degrees_of_freedom:g} degrees of freedom, but x has a mean only "
                "above 1.",
                "Give 3, say, or leave them learned.",
            )
        start = torch.full(self.event_shape, math.log(_START_DEGREES - _LEAST_DEGREES))
        self.log_degrees = nn.Parameter(start) if degrees_of_freedom == "learned" else None

    @property
    def degrees(self) -> Tensor:
        """ν, shape (\\*event), or a scalar where it was given."""
        if self.log_degrees is None:
            return self.shift.new_full((), float(self.degrees_of_freedom))
        return _LEAST_DEGREES + self.log_degrees.clamp(*_LOG_DEGREES).exp()

    def noise(self, location: Tensor, scale: Tensor) -> D.Distribution:
        return heavy_tails.StudentT(self.degrees, location, scale)

    def standard_information(self) -> tuple[float | Tensor, float | Tensor]:
        degrees = self.degrees
        return (degrees + 1) / (degrees + 3), 2 * degrees / (degrees + 3)
