r"""What a model is worth, in nats per datum, each figure with its standard error.

============= ============================================================================== ===========
method        estimates                                                                      bounds log p
============= ============================================================================== ===========
elbo          :math:`E_q[\log p(x|z)] - KL(q(z|x) \| p(z))`, and the two terms                from below
iwae          :math:`E \log \frac1K \sum_k p(x, z_k) / q(z_k|x)`                              from below
laplace-is    the same, with q made of Laplace approximations around the posterior's modes    from below
k-curve       iwae for k = 1, 10, …, 5000 from one set of draws, with Pareto k̂ of their tail         from below
ais           log p(x) by annealed importance sampling                                       from below
bdmc          log p(x) of data simulated from the model, and the gap between the bounds      both sides
room          the elbow room's parts: amortisation gap and approximation gap                 —
active-units  the number of latent dimensions whose posterior mean varies with the data      —
============= ============================================================================== ===========

The standard error is that of the mean over data, :math:`s / \sqrt{n}`; it holds the noise of the draws of z too.
Evaluation data are in a fixed order with a fixed binarisation, draws come from a seeded generator, networks are in
evaluation mode: the same call gives the same figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.evaluation.annealed import annealed, sandwiched
from elbowroom.evaluation.bounds import active_units, elbo, iwae, k_curve, laplace_is
from elbowroom.evaluation.inference_gaps import room
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import (
    Announce,
    EvaluationCache,
    EvaluationData,
    Keep,
    Study,
    evaluation_mode,
    require_normalized,
    stream,
)
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel

__all__ = ["METHODS", "evaluate", "score"]

METHODS: dict[str, Callable[[Study], list[Result]]] = {
    "elbo": elbo,
    "iwae": iwae,
    "laplace-is": laplace_is,
    "k-curve": k_curve,
    "ais": annealed,
    "bdmc": sandwiched,
    "room": room,
    "active-units": active_units,
}


def evaluate(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    methods: Sequence[str] = ("elbo", "iwae", "active-units"),
    split: str = "test",
    announce: Announce = lambda method, done, total: None,
    keep: Keep = lambda method, values: None,
    parts: EvaluationCache | None = None,
    **settings: Any,
) -> list[Result]:
    r"""Measures a model by the named methods.

    Args:
        model: p(x, z).
        guide: q(z | x); of it laplace-is takes no more than a place to start from.
        data: the data set, delivered in the likelihood's support.
        methods: names from ``METHODS``.
        split: "test", "validation" or "train".
        announce: called with (method, data done, data in all).
        keep: given (method, the figures of every datum by name, with their rows in the data set).
        parts: where what is finished of a long method is kept, so that an interrupted one goes on where it was.
        **settings: ``points``, how many data of the split to measure, chosen by seed; ``seed``, of the draws of z; and
            how the methods measure: see :class:`~elbowroom.evaluation.settings.Settings`.
    Returns:
        Results; ``elbo`` comes with its two terms, ``iwae`` with the elbow room, iwae − elbo on the same data.
        ``laplace-is`` has also found the median effective sample size, the share of data where it is below a tenth of
        k (there the bound is loose), the mean number of modes, the share of data whose largest one no climb arrived
        at, and the mean number of decoder evaluations. What a result was ``asked`` can be asked again:
        ``evaluate(…, methods=[result.method], points=result.points, **result.asked)``.
    Raises:
        ElbowroomError: an unknown method, split or setting, a likelihood that is none, a number below one.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8 and section 5.2 (active units:
        :math:`\mathrm{Var}_x(E_q[z|x]) > 0.01`), arXiv:1509.00519.
    """
    for method in methods:
        if method not in METHODS:
            raise ElbowroomError(f"There is no method '{method}'.", did_you_mean(method, METHODS))
    study = Study(model, guide, data, split, Settings.of(settings), announce, keep, parts)
    with evaluation_mode(model, guide):
        results = [result for method in methods for result in METHODS[method](study)]
    if parts is not None:
        parts.forget()
    return results


def score(
    model: LatentModel, guide: Conditional, batches: Iterable[Batch], *, k: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """log p(x) of every datum, as the importance-weighted bound, with its standard error.

    Args:
        model: p(x, z).
        guide: q(z | x).
        batches: the data, in order.
        k: draws per datum.
        seed: of the draws.
    Returns:
        (n,) nats and (n,) standard errors (of the Monte Carlo average, by the delta method), float64.
    Raises:
        ElbowroomError: the likelihood is not normalised; there are no data.
    """
    require_normalized(model, "score")
    values, errors, generator = [], [], None
    with evaluation_mode(model, guide):
        for batch in batches:
            generator = generator or stream(batch.x.device, seed)
            estimate = importance_estimate(model, guide, batch, num_samples=k, generator=generator)
            values.append(estimate.log_evidence.double().cpu())
            errors.append(estimate.stderr.double().cpu())
    if not values:
        raise ElbowroomError("There are no data to score.", "Give one datum or more.")
    return torch.cat(values), torch.cat(errors)
