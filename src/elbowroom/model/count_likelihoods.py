"""Likelihoods of counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.model import distributions
from elbowroom.model.conditional import Likelihood

__all__ = ["NegativeBinomial", "Poisson"]

_LARGEST_LOG = 60.0  # exp(±60) and its products with data stay far from the limits of float32


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
