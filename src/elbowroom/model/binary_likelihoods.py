"""Likelihoods of bits and of grey pixels, elements between 0 and 1."""

from __future__ import annotations

import torch
import torch.distributions as D
from torch import Tensor

from elbowroom.data.support import Support
from elbowroom.model import distributions
from elbowroom.model.conditional import Likelihood

__all__ = ["Bernoulli", "ContinuousBernoulli", "CrossEntropy"]


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
