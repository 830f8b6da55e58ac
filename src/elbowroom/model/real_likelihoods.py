"""Likelihoods of real numbers."""

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
from elbowroom.model.conditional import Likelihood

__all__ = ["Gaussian"]

_SOFTPLUS_1 = math.log(math.expm1(1.0))  # softplus of this is 1


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
