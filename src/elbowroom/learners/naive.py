r"""Naive Monte Carlo: ascend the logarithm of an average over draws from the prior.

.. math:: \theta \leftarrow \theta + \eta \, \nabla_\theta \frac{1}{B} \sum_{b=1}^B
    \log \frac1K \sum_{k=1}^K p_\theta(x_b | z_k), \qquad z_k \sim p(z)

It needs no guide and its average is unbiased for p(x), and it fails: nearly all draws of the prior explain nearly no
datum, so that the sum is one lucky term's. The number of draws that are needed grows like exp(KL(p(z|x) ‖ p(z))), and
the effective sample size, which is reported, says how many of them count
(:mod:`elbowroom.studies.prior_sampling` measures the law).

This is the importance-weighted bound with the prior in the guide's place, where log p(z) and log q(z) cancel, so it is
written nowhere else.
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
    """The learner, for a pair whose guide is a :class:`~elbowroom.model.guides.PriorGuide`.

    Args:
        num_samples: K, draws of the prior for each datum.
        update: optimiser, schedule, clipping, moving average.
        estimator: how a prior with weights of its own learns; without such weights they are all the same.
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
