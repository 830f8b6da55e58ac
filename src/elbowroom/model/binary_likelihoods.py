"""Likelihoods of bits and of grey pixels, elements between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributions as D
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.model import distributions, logit_laplace
from elbowroom.model.conditional import Likelihood
from elbowroom.model.real_likelihoods import LocationScale, Scale

__all__ = ["Bernoulli", "ContinuousBernoulli", "CrossEntropy", "LogitLaplace"]


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


class LogitLaplace(LocationScale):
    r"""Grey pixels in [0, 1], as the sigmoid of a Laplace variable: the likelihood of DALL-E's pictures.

    .. math:: \log p(x) = \log (1 - 2 \epsilon) - \log 2 b - \log y (1 - y) - \frac{|\mathrm{logit}\, y - \mu|}{b},
        \qquad y = (1 - 2 \epsilon) x + \epsilon, \quad \epsilon = 0.1

    It is a density of x, in its own unit: :math:`\log (1 - 2 \epsilon)` is the log-derivative of y. It integrates to
    one over (−1/8, 9/8), an interval around the grey values, so that those at its ends have a density, too. Nothing is
    said of the width of a grey step, and so there are no bits.

    Args:
        network: z -> μ of shape (1, \*event), or μ and the raw scale, (2, \*event), with ``scale="per-element"``.
        event_shape: shape of one example.
        scale: b, in logits. A number; "learned", one number that starts near 1; "per-element", from the network.
        min_scale: the smallest b that can be learned; keeps the density bounded.
    Raises:
        ElbowroomError: a b or ``min_scale`` that is not positive, or an unknown name.
    Reference:
        Ramesh et al. (2021), Zero-Shot Text-to-Image Generation, appendix A.3, arXiv:2102.12092.
    Example:
        >>> from elbowroom.model.networks import MLP
        >>> likelihood = LogitLaplace(MLP((2,), LogitLaplace.parameter_shape((28, 28))), (28, 28))
        >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 28, 28)).shape
        torch.Size([5, 28, 28])
    """

    name = "logit-laplace"
    support = Support.UNIT_INTERVAL

    def __init__(
        self, network: nn.Module, event_shape: Sequence[int], *, scale: Scale = "learned", min_scale: float = 1e-3
    ) -> None:
        super().__init__(network, event_shape, scale=scale, min_scale=min_scale)

    def noise(self, location: Tensor, scale: Tensor) -> D.Distribution:
        return logit_laplace.LogitLaplace(location, scale)

    def standard_information(self) -> tuple[float | Tensor, float | Tensor]:
        return 1.0, 1.0  # of a Laplace variable: a smooth map of x changes nothing

    def _initial_output(self, mean: Tensor) -> Tensor:
        rows = super()._initial_output(mean)  # of the scale, as they start
        scale = self.distribution(*rows).scale  # type: ignore[attr-defined]  # a LogitLaplace's
        started = logit_laplace.LogitLaplace.with_mean(mean.clamp(1e-3, 1 - 1e-3), scale.detach().to(mean))
        return torch.stack([started.loc.expand(self.event_shape), *rows[1:]])
