r"""Likelihoods p(x | z), one class for each kind of data.

================================ =================== ===============================================
name                             an element of x is  its distribution
================================ =================== ===============================================
``bernoulli``                    0 or 1              Bernoulli
``cross-entropy``                in [0, 1]           none: a training loss, ``normalized = False``
``continuous-bernoulli``         in [0, 1]           exponential in x, with its normalising constant
``logit-laplace``                in [0, 1]           Laplace in the logit, on an interval around [0, 1]
``gaussian``                     real                normal; σ given, learned, or from the network
``laplace``                      real                Laplace, with exponential tails; the same scales
``student-t``                    real                Student's t, with heavy tails; the same scales
``discretized-logistic-mixture`` 0..255              mixture of logistics, summed over each bin
``colour-logistic-mixture``      0..255              the same, of green given red, of blue given both
``categorical``                  a category's number categorical
``ordinal``                      a level, 0..K−1     logistic, cut at learned points
``binomial``                     a count, 0..N       binomial
``poisson``                      a count             Poisson
``negative-binomial``            a count             gamma-Poisson, with learned dispersions
================================ =================== ===============================================

They live in a module for each kind of element: :mod:`~elbowroom.model.binary_likelihoods`,
:mod:`~elbowroom.model.real_likelihoods`, :mod:`~elbowroom.model.byte_likelihoods`,
:mod:`~elbowroom.model.category_likelihoods` and :mod:`~elbowroom.model.count_likelihoods`; here all of them can be had.
Their base is in :mod:`elbowroom.model.conditional`.
"""

from __future__ import annotations

from elbowroom.model.binary_likelihoods import Bernoulli, ContinuousBernoulli, CrossEntropy, LogitLaplace
from elbowroom.model.byte_likelihoods import ColourLogisticMixture, DiscretizedLogisticMixture
from elbowroom.model.category_likelihoods import Categorical, Ordinal
from elbowroom.model.conditional import Likelihood
from elbowroom.model.count_likelihoods import Binomial, NegativeBinomial, Poisson
from elbowroom.model.real_likelihoods import Gaussian, Laplace, LocationScale, StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ColourLogisticMixture",
    "ContinuousBernoulli",
    "CrossEntropy",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LocationScale",
    "LogitLaplace",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
]

#: name -> class
LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.name: likelihood
    for likelihood in (
        Bernoulli,
        CrossEntropy,
        ContinuousBernoulli,
        LogitLaplace,
        Gaussian,
        Laplace,
        StudentT,
        DiscretizedLogisticMixture,
        ColourLogisticMixture,
        Categorical,
        Ordinal,
        Binomial,
        Poisson,
        NegativeBinomial,
    )
}
