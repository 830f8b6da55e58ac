"""Figures of any likelihood and guide: labels, refusals, repetition, tails of importance weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import (
    LIKELIHOODS,
    CrossEntropy,
    Likelihood,
)
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import quadrature_log_evidence
from elbowroom.model.priors import StandardNormal
from evaluation_cases import data_of, measure, oracle
from likelihood_options import NEEDED

# --- what is no likelihood ---------------------------------------------------------------------------------------


def _cross_entropy() -> tuple[LatentModel, DiagonalNormal, DataSet]:
    torch.manual_seed(0)
    model = LatentModel(StandardNormal(2), CrossEntropy(MLP((2,), (1, 4), hidden=()), (4,)))
    x = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    data = load_data(x, validation=0, test=0.0)
    assert isinstance(data, DataSet)
    return model, DiagonalNormal(MLP((4,), (2, 2), hidden=()), 2), data


def test_cross_entropy_is_labelled() -> None:
    found = evaluate(*_cross_entropy(), methods=["elbo"], split="train")
    assert [result.name for result in found] == [
        f"{name} (cross-entropy: not a log-likelihood)" for name in ("elbo", "reconstruction", "kl")
    ]
    assert {result.bound for result in found} == {None}


def test_cross_entropy_has_no_evidence_to_estimate() -> None:
    model, guide, data = _cross_entropy()
    for method in ("iwae", "laplace-is"):
        with pytest.raises(ElbowroomError, match=f"{method} estimates log p"):
            evaluate(model, guide, data, methods=[method], split="train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["iwea"]}, "no method 'iwea'"),
        ({"k": 0}, "k is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"num_samples": -1}, "num_samples is -1"),
        ({"points": 0}, "points is 0"),
        ({"split": "tset"}, "no split 'tset'"),
        ({"split": "test"}, "no test rows"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    model, guide, x = oracle(10)
    with pytest.raises(ElbowroomError, match=message):
        evaluate(model, guide, data_of(x), **settings)


# --- the same again ----------------------------------------------------------------------------------------------


def test_the_same_call_gives_the_same_figures() -> None:
    model, guide, x = oracle(150)
    torch.manual_seed(1)
    first = evaluate(model, guide, data_of(x), split="train", k=20)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert evaluate(model, guide, data_of(x), split="train", k=20) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(model, guide, data_of(x), split="train", k=20, seed=1)[0].value != first[0].value


def test_a_method_gives_the_same_whichever_others_are_asked_for() -> None:
    model, guide, x = oracle(120)
    together = measure(model, guide, data_of(x), "elbo", "active-units", "laplace-is", "iwae", k=10)
    by_method = {"elbo": "elbo", "iwae": "iwae", "laplace-is": "laplace-is", "active units": "active-units"}
    for name, method in by_method.items():
        assert measure(model, guide, data_of(x), method, k=10)[name] == together[name]


def test_estimates_of_log_p_take_a_thousand_data_unless_told_otherwise() -> None:
    model, guide, x = oracle(1100)
    few = {"k": 1, "starts": 1}
    for method in ("iwae", "laplace-is"):
        assert measure(model, guide, data_of(x), method, **few)[method].points == 1000
        assert measure(model, guide, data_of(x), method, **few, points=1100)[method].points == 1100
    assert measure(model, guide, data_of(x), "elbo")["elbo"].points == 1100


# --- every likelihood --------------------------------------------------------------------------------------------

#: name -> what load_data takes, and its options
SUPPORTS: dict[str, dict[str, Any]] = {
    "binary": {},
    "unit-interval": {},
    "reals": {},
    "bytes": {},
    "categories": {"num_categories": 4},
    "counts": {},
}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in LIKELIHOODS.items()
        if kind.normalized and kind.fisher_information is not Likelihood.fisher_information
    ],
)
def test_laplace_is_measures_every_likelihood(name: str) -> None:
    """Against integration over a grid."""
    torch.manual_seed(0)
    cls = LIKELIHOODS[name]
    options = NEEDED.get(name, {})
    network = MLP((2,), cls.parameter_shape((6,), **options), hidden=(5,), activation="tanh")
    model = LatentModel(StandardNormal(2), cls(network, (6,), **options))
    x = model.sample(10, generator=torch.Generator().manual_seed(1)).x
    if cls.support == Support.BYTES:
        x = x.to(torch.uint8)
    elif cls.support == Support.UNIT_INTERVAL:
        x = x.clamp(0, 1)  # draws of a logit-laplace reach beyond
    data = load_data(x, validation=0.0, test=0.0, support=cls.support.value, **SUPPORTS[cls.support.value])
    assert isinstance(data, DataSet)
    found = measure(model, PriorGuide(model.prior), data, "laplace-is", k=500)["laplace-is"]
    delivered = next(iter(data.batches("train", 10))).x
    exact = quadrature_log_evidence(model, delivered, points=81).mean().item()
    assert found.value == pytest.approx(exact, abs=0.03)


# --- the tails of importance weights -------------------------------------------------------------------------------


def test_the_k_curve_rises_to_the_evidence_and_says_how_heavy_its_tail_is() -> None:
    model, guide, x = oracle(num_data=100)
    results = evaluate(model, guide, data_of(x), methods=("k-curve",), split="train")
    assert [result.asked["k"] for result in results] == [1, 10, 100, 1000, 5000]
    values = [result.value for result in results]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(model.log_evidence(x).mean().item(), abs=0.01)
    assert results[-1].found["unreliable"] == 0.0 and "unreliable" not in results[0].found


def test_a_guide_that_is_too_narrow_is_called_unreliable() -> None:
    model, guide, x = oracle(num_data=100)

    class Narrow(Conditional):
        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
            q = guide(given)
            return Independent(Normal(q.mean, 0.1 * q.stddev, validate_args=False), 1)

    narrow, fair = (measure(model, g, data_of(x), "iwae", k=1000)["iwae"].found for g in (Narrow(), guide))
    assert narrow["unreliable"] > 0.8 and narrow["median_pareto_k"] > 0.7
    assert fair["unreliable"] == 0.0 and fair["median_pareto_k"] < 0.5
