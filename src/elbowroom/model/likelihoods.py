r"""Likelihoods p(x | z), one class for each kind of data.

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

They live in a module for each kind of element: :mod:`~elbowroom.model.binary_likelihoods`,
:mod:`~elbowroom.model.real_likelihoods`, :mod:`~elbowroom.model.byte_likelihoods`,
:mod:`~elbowroom.model.category_likelihoods` and :mod:`~elbowroom.model.count_likelihoods`; here all of them can be had.
Their base is in :mod:`elbowroom.model.conditional`.
"""

from __future__ import annotations

from elbowroom.model.binary_likelihoods import Bernoulli, ContinuousBernoulli, CrossEntropy
from elbowroom.model.byte_likelihoods import ColourLogisticMixture, DiscretizedLogisticMixture
from elbowroom.model.category_likelihoods import Categorical
from elbowroom.model.conditional import Likelihood
from elbowroom.model.count_likelihoods import NegativeBinomial, Poisson
from elbowroom.model.real_likelihoods import Gaussian

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
