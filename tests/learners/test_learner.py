"""What every learner promises, and the message of the one stop that all share."""

from __future__ import annotations

import math

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.learners.learner import check_finite

FINE = {"elbo": -1.0, "reconstruction": -0.5, "kl": 0.5}


def test_finite_terms_pass() -> None:
    check_finite(1, FINE, 1e-3)
    check_finite(1, FINE, 1e-3, grad_norm=1e30)


@pytest.mark.parametrize(
    ("terms", "cause"),
    [
        ({"elbo": math.nan, "reconstruction": -0.5, "kl": math.inf}, "scale of the guide"),
        ({"elbo": math.nan, "reconstruction": -math.inf, "kl": 0.5}, "parameters of the likelihood"),
        ({"elbo": math.nan, "reconstruction": math.nan, "kl": math.nan}, "diverged"),
        ({"iwae": math.nan, "elbo": -3.0}, "diverged"),
    ],
)
def test_a_term_that_is_not_finite_stops_and_names_step_term_and_cause(terms: dict[str, float], cause: str) -> None:
    with pytest.raises(ElbowroomError, match=cause) as caught:
        check_finite(17, terms, 0.25, grad_norm=math.nan)
    assert "step 17" in caught.value.problem
    assert "0.25" in caught.value.problem
    for name, value in terms.items():
        assert f"{name} = {value:.4g}" in caught.value.problem
    assert "--optimizer.lr" in caught.value.remedy


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops(norm: float) -> None:
    with pytest.raises(ElbowroomError, match=r"step 3 the gradient"):
        check_finite(3, FINE, 1e-3, grad_norm=norm)


@pytest.mark.parametrize(
    ("terms", "norm", "what"),
    [
        ({"elbo": math.nan, "reconstruction": math.nan, "kl": 0.5}, 1.0, "elbo and reconstruction"),
        (FINE, math.inf, "gradient"),
    ],
)
def test_the_learning_rate_is_not_to_blame_before_the_first_update(
    terms: dict[str, float], norm: float, what: str
) -> None:
    with pytest.raises(ElbowroomError, match=what) as caught:
        check_finite(1, terms, 1e-3, grad_norm=norm)
    assert "scale of the data" in caught.value.problem
    assert "lr" not in str(caught.value)
    assert "learning rate" not in str(caught.value)
