"""Likelihoods of counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import distributions
from elbowroom.model.conditional import Likelihood

__all__ = ["Binomial", "NegativeBinomial", "Poisson"]

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


class Binomial(Likelihood):
    r"""Counts out of a known number of trials, N.

    .. math:: \log p(x) = \log \binom{N}{x} + x \log p + (N - x) \log (1 - p), \qquad p = \sigma(\mathrm{network}(z))

    Args:
        network: z -> logits of shape (1, \*event).
        event_shape: shape of one example.
        trials: N, the same for every element.
    Raises:
        ElbowroomError: no trials.
    Reference:
        McCullagh & Nelder (1989), Generalized Linear Models, chapter 4.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = Binomial(MLP((2,), Binomial.parameter_shape((3,), trials=16)), (3,), trials=16)
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.tensor([0.0, 16.0, 17.0]))[0, 2]
        tensor(-inf, grad_fn=<SelectBackward0>)
    """

    name = "binomial"
    support = Support.COUNTS

    def __init__(self, network: nn.Module, event_shape: Sequence[int], *, trials: int) -> None:
        super().__init__(network, event_shape, num_parameters=self.parameter_shape((), trials=trials)[0])
        self.trials = self.highest = trials

    @classmethod
    def parameter_shape(  # type: ignore[override]  # there is no sensible default
        cls, event_shape: Sequence[int], *, trials: int
    ) -> tuple[int, ...]:
        """(1, \\*event), a logit for each element."""
        if trials < 1:
            raise ElbowroomError(
                f"A binomial likelihood was given {trials} trials, but the least is 1.",
                "Give the largest count that is possible.",
            )
        return (1, *event_shape)

    def distribution(self, *parameters: Tensor) -> D.Distribution:
        (logits,) = parameters
        return distributions.Binomial(self.trials, logits)

    def fisher_information(self, output: Tensor) -> Tensor:
        return self._as_matrices(self.trials * output.sigmoid() * (-output).sigmoid())

    def _initial_output(self, mean: Tensor) -> Tensor:
        return torch.logit((mean / self.trials).clamp(1e-3, 1 - 1e-3))


def _within(output: Tensor, information: Tensor) -> Tensor:
    """Beyond ±60 the distribution no longer depends on the output."""
    return torch.where(output.abs() <= _LARGEST_LOG, information, 0.0)
