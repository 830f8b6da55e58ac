"""The names that a user can choose, each in one place: likelihoods, priors, guides, training methods and so on.

The configuration offers them as choices, the registries beside the implementations (``LIKELIHOODS``, ``PRIORS``, …)
have one entry for each, the reference has one page for each, and the tests go through them. Only the standard library
is imported here, so that ``--help`` is quick.
"""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "CODE_GUIDES",
    "CODE_PRIORS",
    "NAMES",
    "CheckpointName",
    "EstimatorName",
    "Exist",
    "GuideName",
    "LearnerName",
    "LikelihoodName",
    "MethodName",
    "ObjectiveName",
    "PriorName",
]

#: likelihoods p(x | z), classes of :mod:`elbowroom.model.likelihoods`, and of `model.table.likelihood`
LikelihoodName = Literal[
    "bernoulli",
    "continuous-bernoulli",
    "logit-laplace",
    "gaussian",
    "laplace",
    "student-t",
    "discretized-logistic-mixture",
    "colour-logistic-mixture",
    "categorical",
    "ordinal",
    "binomial",
    "poisson",
    "negative-binomial",
    "table",
    "cross-entropy",
]
#: priors p(z), classes of :mod:`elbowroom.model.priors`; flows, of `model.flows`; over codes, of `model.codes` and
#: `model.autoregressive`
PriorName = Literal[
    "normal", "mixture", "vamp", "maf", "nsf", "coupling", "uniform", "unigram", "made", "transformer", "pixelcnn"
]
#: guides q(z | x), classes of :mod:`elbowroom.model.guides`; flows, of `model.flows`; of hierarchies, of
#: `model.hierarchy.guides`; over codes, of `model.codes`, `model.quantizer` and `model.exact_guide`; "none" is the
#: prior in the place of a guide
GuideName = Literal[
    "diagonal", "full", "iaf", "nsf", "top-down", "bottom-up", "categorical", "nearest-code", "exact", "none"
]
#: training methods, built by :mod:`elbowroom.running.build_learner`
LearnerName = Literal["aevb", "naive", "mcem", "wake-sleep", "svi", "vq", "em"]
#: training objectives, functions of :mod:`elbowroom.inference.objectives`
ObjectiveName = Literal["elbo", "iwae"]
#: gradient estimators of the objectives, described in :mod:`elbowroom.inference.weights`
EstimatorName = Literal[
    "pathwise", "stl", "dreg", "score-function", "straight-through", "gumbel-softmax", "st-gumbel", "reinmax"
]
#: evaluation methods, functions in :data:`elbowroom.evaluation.evaluate.METHODS`
MethodName = Literal[
    "elbo",
    "iwae",
    "laplace-is",
    "k-curve",
    "ais",
    "bdmc",
    "room",
    "active-units",
    "codes",
    "enumerate",
    "samples",
    "baselines",
]

#: guides and priors whose z are codes: slots with one of K codes each
CODE_GUIDES: frozenset[str] = frozenset({"categorical", "nearest-code", "exact"})
CODE_PRIORS: frozenset[str] = frozenset({"uniform", "unigram", "made", "transformer", "pixelcnn"})

#: the checkpoints that a run points to
CheckpointName = Literal["best", "latest"]
#: what to do where a run exists already: see `running.place`
Exist = Literal["error", "overwrite", "resume", "new"]

#: kind -> its names; kinds are called as the folders of the reference are
NAMES: dict[str, tuple[str, ...]] = {
    "likelihoods": get_args(LikelihoodName),
    "priors": get_args(PriorName),
    "guides": get_args(GuideName),
    "learners": get_args(LearnerName),
    "objectives": get_args(ObjectiveName),
    "estimators": get_args(EstimatorName),
    "methods": get_args(MethodName),
}
