r"""An oracle that is not normal: counts with a gamma rate, whose evidence is negative binomial.

.. math:: z = \log \lambda, \quad \lambda \sim \mathrm{Gamma}(a, b), \quad x_d | z \sim \mathrm{Poisson}(e^z)
    \;\Rightarrow\; p(x) = \frac{\Gamma(a + S)}{\Gamma(a)} \frac{b^a}{(b + D)^{a + S}} \prod_d \frac{1}{x_d!}, \qquad
    \lambda | x \sim \mathrm{Gamma}(a + S, b + D), \quad S = \sum_d x_d

The latent is the logarithm, so that it is a real number: its prior, the law of the logarithm of a gamma variable, is
skewed to the left, and so is the posterior of small counts. Estimators that rest on normal approximations are held
against it where these are wrong.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, ExpTransform, Gamma, Independent, TransformedDistribution
from torch.distributions.transforms import Transform

from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Poisson
from elbowroom.model.networks import MLP

__all__ = ["LogGamma", "PoissonGamma"]


class LogGamma(Conditional):
    r"""p(z) of z = log λ, λ ~ Gamma(a, b): :math:`\log p(z) = a \log b - \log \Gamma(a) + a z - b e^z`.

    Args:
        concentration: a > 0.
        rate: b > 0.
    Example:
        >>> LogGamma(1.0, 1.0)(None).log_prob(torch.zeros(1))
        tensor(-1.)
    """

    concentration: Tensor
    rate: Tensor

    def __init__(self, concentration: float, rate: float) -> None:
        super().__init__()
        self.register_buffer("concentration", torch.tensor([float(concentration)]))
        self.register_buffer("rate", torch.tensor([float(rate)]))

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        gamma = Gamma(self.concentration, self.rate, validate_args=False)
        to_log: list[Transform] = [ExpTransform().inv]
        return Independent(TransformedDistribution(gamma, to_log, validate_args=False), 1, validate_args=False)


class PoissonGamma(LatentModel):
    """D counts of one rate, which is gamma a priori.

    Args:
        dim: D.
        concentration: a > 0.
        rate: b > 0.
    Reference:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.6.
    Example:
        >>> model = PoissonGamma(1, concentration=1.0, rate=1.0)  # a geometric law: p(0) = 1/2
        >>> model.log_evidence(torch.zeros(1, 1)).exp()
        tensor([0.5000], dtype=torch.float64)
    """

    def __init__(self, dim: int, concentration: float = 3.0, rate: float = 0.5) -> None:
        with torch.random.fork_rng(devices=()):  # the initial weights are thrown away, and so are their draws
            network = MLP((1,), (1, dim), hidden=())
        with torch.no_grad():  # log λ = z, for every element
            network.output.weight.fill_(1.0)
            network.output.bias.zero_()
        super().__init__(LogGamma(concentration, rate), Poisson(network, (dim,)))
        self.shape_and_rate = float(concentration), float(rate)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), exactly; x of shape (batch, dim), nats of shape (batch,), float64."""
        a, b = self.shape_and_rate
        total, dim = x.double().sum(-1), x.shape[-1]
        constant = a * math.log(b) - math.lgamma(a)
        gammas = torch.lgamma(a + total) - torch.lgamma(x.double() + 1).sum(-1)
        return constant + gammas - (a + total) * math.log(b + dim)

    def rate_posterior(self, x: Tensor) -> Gamma:
        """p(λ | x), exactly; batch shape (batch,)."""
        a, b = self.shape_and_rate
        return Gamma(a + x.double().sum(-1), torch.full((len(x),), b + x.shape[-1], dtype=torch.float64))
