"""The cost of one nat: against closed forms where there are some, and never more than was measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from elbowroom.errors import ElbowroomError
from elbowroom.studies.prior_sampling import Cost, prior_sampling_study


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GUIDE = 0.5 * (1.3 + 0.3**2 - 1 - math.log(1.3))
"""KL(q ‖ p(z|x)) of a dimension, of N(0.3, 1.3) from N(0, 1)"""


@pytest.mark.parametrize(("information", "dim"), [(0.05, 1), (0.2, 1), (0.1, 3)])
@pytest.mark.parametrize(("method", "replicates"), [("prior", 1000), ("ais", 3000), ("guide", 30)])
def test_the_error_of_a_single_draw_is_the_exact_one(
    method: str, replicates: int, information: float, dim: int
) -> None:
    """E[log p(x) − log p(x|z)] of independent x and z: s − ½ log(1 + s) in every dimension; of the guide its KL."""
    (cost,) = prior_sampling_study(
        [dim], [information], methods=[method], tolerance=5.0, replicates=replicates, num_data=6000 // replicates,
        ess_draws=1, generator=seeded(),
    ).costs  # fmt: skip
    exact = dim * (GUIDE if method == "guide" else math.expm1(2 * information) - information)
    assert cost.evaluations == 1  # one temperature of AIS is a single draw, too
    assert cost.reached
    assert cost.log_stderr == 0
    assert abs(cost.error - exact) < 4 * cost.stderr
    assert cost.stderr < 0.1 * exact


@pytest.mark.parametrize("dim", [1, 4])
def test_many_draws_of_the_guide_average_to_the_evidence(dim: int) -> None:
    """E[log p(x) − log p̂_K(x)] ≈ Var[w] / 2K, with E[w²] by quadrature: nothing is left where K is large."""
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    squares = 2 * Normal(0.0, 1.0).log_prob(grid) - Normal(0.3, math.sqrt(1.3)).log_prob(grid)
    second = float(squares.exp().sum() * (grid[1] - grid[0])) ** dim
    for draws in (64, 256):
        (cost,) = prior_sampling_study(
            [dim], [0.5], methods=["guide"], tolerance=1e-12, replicates=20, num_data=200, most_draws=draws,
            ess_draws=1, generator=seeded(draws),
        ).costs  # fmt: skip
        assert (cost.evaluations, cost.reached) == (draws, False)
        assert abs(cost.error - (second - 1) / (2 * draws)) < 4 * cost.stderr


def test_effective_draws_are_kishs() -> None:
    """E[w]² / E[w²] in closed form, for draws that are many: E_x of a ratio of two normal densities."""
    study = prior_sampling_study(
        [1], [0.1], methods=["prior"], replicates=20, num_data=50, ess_draws=2**14, generator=seeded()
    )
    s = math.expm1(0.2)
    # p(x)² / E[p(x|z)²] with 1 + s and 1 + 2 s: N(x; 0, 1+s)² 2√π / N(x; 0, ½ + s) for each x, averaged over x
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    density = Normal(0.0, math.sqrt(1 + s)).log_prob(grid)
    squares = Normal(0.0, math.sqrt(0.5 + s)).log_prob(grid) - math.log(2 * math.sqrt(math.pi))
    expected = float(((3 * density - squares).exp()).sum() * (grid[1] - grid[0])) * 2**14
    (found,) = study.ess
    assert found.draws == 2**14
    assert abs(found.ess - expected) < 4 * found.stderr
    assert found.stderr < 0.02 * expected


def spent(draws: int, tolerance: float) -> Cost:
    """Of the same data and the same draws at every call, as far as they go."""
    study = prior_sampling_study(
        [3], [0.7], methods=["prior"], tolerance=tolerance, replicates=8, num_data=8, most_draws=draws, ess_draws=1,
        generator=seeded(4),
    )  # fmt: skip
    return study.costs[0]


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_between_two_numbers_of_draws_log_error_is_linear_in_log_cost(fraction: float) -> None:
    above, below = spent(4, 1e-9), spent(8, 1e-9)
    assert not above.reached and not below.reached
    assert above.error > below.error
    tolerance = above.error ** (1 - fraction) * below.error**fraction * (1 - 1e-9 if fraction < 1 else 1 + 1e-9)
    found = spent(64, tolerance)
    assert found.reached
    assert found.error == tolerance
    assert found.evaluations == pytest.approx(4 * 2**fraction)
    slope = math.log(above.error / below.error) / math.log(2)
    assert found.log_stderr == pytest.approx(found.stderr / tolerance / slope)
    if fraction in (0.0, 1.0):  # where it was measured, the error is that of the measurement
        assert found.stderr == pytest.approx((below if fraction else above).stderr)


def test_a_cap_on_draws_is_kept_and_told() -> None:
    study = prior_sampling_study(
        [2, 6, 12],
        [1.0],
        methods=["prior"],
        replicates=4,
        num_data=4,
        most_draws=100,
        ess_draws=16,
        generator=seeded(),
    )
    reached = [cost.reached for cost in study.costs]
    assert reached == [True, False, False]
    assert [cost.evaluations for cost in study.costs if not cost.reached] == [64, 64]
    assert all(cost.error > 1 and math.isnan(cost.log_stderr) for cost in study.costs if not cost.reached)
    assert study.rates == []  # one point makes no law


@pytest.mark.parametrize(
    ("method", "law", "dims", "theory"),
    [
        ("prior", "exponential", [1, 6, 8, 10, 12, 60], 0.25),
        ("ais", "power", [1, 6, 9, 12, 15], None),
        # KL(p(z|x) ‖ q), of N(0, 1) from N(0.3, 1.3)
        ("guide", "exponential", [1, 25, 32, 40, 50, 200], 0.5 * (math.log(1.3) + (1 + 0.3**2) / 1.3 - 1)),
    ],
)
def test_a_rate_is_weighted_least_squares(method: str, law: str, dims: list[int], theory: float | None) -> None:
    """Not through what one draw was enough for, nor through what was not reached; scatter widens its error."""
    study = prior_sampling_study(
        dims, [0.25], methods=[method], replicates=8, num_data=16, most_draws=2**8, ess_draws=1, generator=seeded()
    )
    used = [c for c in study.costs if c.reached and c.log_stderr > 0]
    assert study.costs[0].log_stderr == 0 and study.costs[-1].reached == (method == "ais")
    assert len(used) == 4
    at, goal = np.array([c.latent_dim for c in used], dtype=float), np.log([c.evaluations for c in used])
    at, weights = np.log(at) if law == "power" else at, 1 / np.array([c.log_stderr for c in used])
    (slope, intercept), covariance = np.polyfit(at, goal, 1, w=weights, cov="unscaled")
    scatter = float((((goal - intercept - slope * at) * weights) ** 2).sum()) / 2
    (rate,) = study.rates
    assert (rate.method, rate.law, rate.points) == (method, law, 4)
    assert (rate.rate, rate.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert rate.stderr == pytest.approx(math.sqrt(covariance[0, 0] * max(1.0, scatter)))
    assert rate.theory == (None if theory is None else pytest.approx(theory))
    assert (scatter > 1) == (method == "ais")


def test_the_law_is_measured() -> None:
    study = prior_sampling_study([4, 8, 12], [0.5], replicates=8, num_data=16, generator=seeded())
    rates = {rate.method: rate for rate in study.rates}
    assert rates["prior"].theory == 0.5
    assert rates["ais"].theory is None
    assert abs(rates["prior"].rate - 0.5) < 0.05 + 4 * rates["prior"].stderr  # the theory is that of large d
    assert rates["prior"].stderr < 0.1
    costs = {(c.method, c.latent_dim): c.evaluations for c in study.costs}
    assert costs["prior", 12] > 3 * costs["ais", 12] > 3 * costs["guide", 12]
    effective = [size.ess for size in study.ess]
    assert effective == sorted(effective, reverse=True)


def test_the_same_seed_gives_the_same_numbers() -> None:
    settings: dict[str, Any] = {"dims": [2], "information": [0.5], "replicates": 3, "num_data": 3, "ess_draws": 64}
    first, second = (prior_sampling_study(**settings, generator=seeded(7)) for _ in range(2))
    assert first == second
    assert prior_sampling_study(**settings, generator=seeded(8)) != first


def test_it_says_what_comes_next() -> None:
    told: list[tuple[Any, ...]] = []
    prior_sampling_study(
        [1, 2],
        [0.1],
        methods=["guide"],
        replicates=2,
        num_data=2,
        generator=seeded(),
        announce=lambda *step: told.append(step),
    )
    assert told == [(f"guide, {dim} latent dimensions, 0.1 nats each", dim - 1, 2) for dim in (1, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": []}, "dims is 0"),
        ({"dims": [3, 0]}, "dims is 0"),
        ({"information": [0.0]}, "information is 0.0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"methods": ["prior", "laplace"]}, "'laplace'"),
        ({"replicates": 1}, "replicates is 1"),
        ({"num_data": 0}, "num_data is 0"),
        ({"leapfrogs": 0}, "leapfrogs is 0"),
        ({"ess_draws": 1000}, "power of 2"),
        ({"ess_draws": 64, "most_draws": 32}, "at most 32"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        prior_sampling_study(**{"dims": [2], "information": [0.5], **settings}, generator=seeded())
