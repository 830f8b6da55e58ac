r"""Evaluation of a model: each result in nats per example, with its standard error.

============= ============================================================================== ===========
method        estimates                                                                      bounds log p
============= ============================================================================== ===========
elbo          :math:`E_q[\log p(x|z)] - KL(q(z|x) \| p(z))`, and the two terms                from below
iwae          :math:`E \log \frac1K \sum_k p(x, z_k) / q(z_k|x)`                              from below
laplace-is    the same, with q made of Laplace approximations around the posterior's modes    from below
k-curve       iwae for k = 1, 10, …, 5000 from one set of draws, and Pareto k̂ of their tail  from below
ais           log p(x) by annealed importance sampling                                       from below
bdmc          log p(x) of data simulated from the model, and the gap between the bounds      both sides
room          the parts of the elbow room: amortisation gap and approximation gap            —
active-units  the number of latent dimensions whose posterior mean varies with the data      —
codes         rate, distortion, and the bounds from the codes of a guide; use of the codes   from below
enumerate     log p(x) by the sum over all codes                                             exact
samples       how samples differ from held-out data: a classifier, precision and recall      —
baselines     log p(x) of independent columns and of latent classes, and the gain over them  —
============= ============================================================================== ===========

The elbow room is the inference gap, log p(x) − ELBO = KL(q(z|x) ‖ p(z|x)). codes and enumerate are for discrete
latents, baselines is for tables; laplace-is, room and active-units are for continuous ones.

The standard error is that of the mean over examples, :math:`s / \sqrt{n}`; it includes the noise of the draws of z.
The data are in a fixed order with a fixed binarisation, draws come from seeded generators, and networks are in
evaluation mode: the same call gives the same results. What elbo, iwae, laplace-is, k-curve, room, codes and enumerate
find for an example does not depend on the others that are asked for, to the bit
(:mod:`elbowroom.evaluation.row_estimates`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.evaluation.annealed import annealed, sandwiched
from elbowroom.evaluation.baselines import baselines
from elbowroom.evaluation.bounds import active_units, elbo, iwae, k_curve, laplace_is
from elbowroom.evaluation.codes import codes, enumerate_codes
from elbowroom.evaluation.inference_gaps import room
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.samples import samples
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import EvaluationCache, EvaluationData, Keep, Study
from elbowroom.inference.annealing.initial import default_start
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.table.likelihood import Table
from elbowroom.progress import Progress, silent

__all__ = ["METHODS", "default_methods", "evaluate"]

METHODS: dict[str, Callable[[Study], list[Result]]] = {
    "elbo": elbo,
    "iwae": iwae,
    "laplace-is": laplace_is,
    "k-curve": k_curve,
    "ais": annealed,
    "bdmc": sandwiched,
    "room": room,
    "active-units": active_units,
    "codes": codes,
    "enumerate": enumerate_codes,
    "samples": samples,
    "baselines": baselines,
}


def default_methods(model: LatentModel, *, has_guide: bool) -> tuple[str, ...]:
    """The methods where none is named: elbo, iwae and active-units, as far as model and guide allow; elbo and codes for
    discrete latents, enumerate for a mixture; and baselines for a table.

    Args:
        model: p(x, z).
        has_guide: whether a guide was learned.
    Example:
        >>> from elbowroom.model import oracles
        >>> default_methods(oracles.ppca(dim=8, latent_dim=2, seed=0)[0], has_guide=True)
        ('elbo', 'iwae', 'active-units')
    """
    own = _own_methods(model, has_guide=has_guide)
    return (*own, "baselines") if isinstance(model.likelihood.elementwise, Table) else own


def _own_methods(model: LatentModel, *, has_guide: bool) -> tuple[str, ...]:
    """Those that look at the model alone."""
    normalized, has_codes = model.likelihood.normalized, model.latent_support == "codes"
    if has_codes and normalized and model.space.slots == 1:
        return ("enumerate",)
    if not has_guide:
        curved = default_start(model, None) == "laplace"
        return ("elbo",) if not normalized else ("iwae",) if has_codes else ("laplace-is",) if curved else ("ais",)
    if has_codes:
        return ("elbo", "codes") if normalized else ("elbo",)
    return ("elbo", "iwae", "active-units") if normalized else ("elbo", "active-units")


def evaluate(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    methods: Sequence[str] | None = None,
    split: str = "test",
    announce: Progress = silent,
    keep: Keep = lambda method, values: None,
    parts: EvaluationCache | None = None,
    **settings: Any,
) -> list[Result]:
    r"""Evaluates a model by the named methods.

    Args:
        model: p(x, z).
        guide: q(z | x); laplace-is uses it only as a place to start from.
        data: the data set, with values in the support of the likelihood.
        methods: names from ``METHODS``; by default those of :func:`default_methods`.
        split: "test", "validation" or "train".
        announce: called with the method, the examples done and the examples in all.
        keep: called with (method, the values of every example by name, with their rows in the data set).
        parts: a cache for the finished parts of a long method, so that an interrupted one goes on where it stopped;
            its owner forgets them once the results are safe.
        **settings: ``points``, how many examples of the split to use, chosen by seed; ``seed``, of the draws of z; and
            the settings of the methods: see :class:`~elbowroom.evaluation.settings.Settings`.
    Returns:
        Results; ``elbo`` comes with its two terms, ``iwae`` with the elbow room, iwae − elbo on the same data.
        ``laplace-is`` also reports the median effective sample size, the share of examples where it is below a tenth
        of k (there the bound is loose), the mean number of modes, the share of examples for which no search converged
        to the largest mode, and the mean number of decoder evaluations. A result can be computed again:
        ``evaluate(…, methods=[result.method], points=result.points, **result.asked)``.
    Raises:
        ElbowroomError: an unknown method, split or setting; a likelihood that is not normalised; a number below one.
        NotFiniteError: a bound that is not finite for some examples, whose rows are named; they have no mean.
    Reference:
        Burda, Grosse & Salakhutdinov (2016), Importance Weighted Autoencoders, eq. 8 and section 5.2 (active units:
        :math:`\mathrm{Var}_x(E_q[z|x]) > 0.01`), arXiv:1509.00519.
    """
    methods = default_methods(model, has_guide=not isinstance(guide, PriorGuide)) if methods is None else methods
    for method in methods:
        if method not in METHODS:
            raise ElbowroomError(f"There is no method '{method}'.", did_you_mean(method, METHODS))
    study = Study(model, guide, data, split, Settings.of(settings), announce, keep, parts)
    with evaluation_mode(model, guide):
        return [result for method in methods for result in METHODS[method](study)]
