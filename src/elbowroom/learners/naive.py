r"""Naive Monte Carlo: maximise the logarithm of an average over draws from the prior.

.. math:: \theta \leftarrow \theta + \eta \, \nabla_\theta \frac{1}{B} \sum_{b=1}^B
    \log \frac1K \sum_{k=1}^K p_\theta(x_b | z_k), \qquad z_k \sim p(z)

It needs no guide, and its average is an unbiased estimate of p(x). But it fails: nearly every draw from the prior gives
nearly every x almost no probability, so that the sum is dominated by one lucky term. The number of draws that are
needed grows like exp(KL(p(z|x) ‖ p(z))). The effective sample size, which is reported, shows how many draws count
(:mod:`elbowroom.studies.prior_sampling` measures this law).

This is the importance-weighted bound with the prior as its guide, where log p(z) and log q(z) cancel. So it has no code
of its own.
"""

from __future__ import annotations

import functools

from elbowroom.inference.objectives import iwae_terms
from elbowroom.inference.weights import Estimator
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.update import Update

__all__ = ["naive"]


def naive(*, num_samples: int, update: Update, estimator: Estimator = "pathwise", execution: Execution = eager) -> Aevb:
    """The learner of naive Monte Carlo, for a pair whose guide is a :class:`~elbowroom.model.guides.PriorGuide`.

    Args:
        num_samples: K, draws of the prior for each example.
        update: optimiser, schedule, clipping, moving average.
        estimator: gradient estimator for the weights of the prior; without such weights it makes no difference.
        execution: how objective and gradient are computed.
    """
    objective = functools.partial(iwae_terms, estimator=estimator)
    return Aevb(
        name="naive",
        objective=objective,
        update=update,
        num_samples=num_samples,
        weighs_kl=False,
        execution=execution,
    )
