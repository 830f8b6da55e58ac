"""The cost of one nat: against closed forms where there are some, and never more than was measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from elbowroom.errors import ElbowroomError
from elbowroom.numerics import mean_and_stderr
from elbowroom.studies import prior_sampling as module
from elbowroom.studies.prior_sampling import Cost, prior_sampling_study


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting(dim: int, information: float, *, replicates: int = 3, num_data: int = 4) -> Any:
    model = module._model(dim, information)
    x = model.sample(replicates * num_data, generator=seeded(1)).x.view(replicates, num_data, dim)
    return module._Setting(model, x, 1.0, seeded(2))


@pytest.mark.parametrize("information", [0.25, 1.0])
def test_every_dimension_carries_its_information(information: float) -> None:
    model = module._model(3, information)
    x = model.sample(20_000, generator=seeded()).x.double()
    posterior = model.double().posterior(x)
    prior = Independent(Normal(torch.zeros(3, dtype=torch.float64), 1.0), 1)
    means, covariance = posterior.mean.detach(), posterior.covariance_matrix[0].detach()
    diagonal = Independent(Normal(means, covariance.diagonal().sqrt().expand_as(means)), 1)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-6
    mean, stderr = mean_and_stderr(kl_divergence(diagonal, prior))
    assert abs(mean - 3 * information) < 4 * stderr


def test_weights_of_prior_draws_are_the_models_likelihood() -> None:
    case = setting(5, 0.7)
    found = module._prior_log_weights(case)(1, 6)
    z = torch.randn(6, 5, generator=seeded(2))
    expected = case.model.log_likelihood(case.x[1], z.unsqueeze(1)).detach()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("information", [0.25, 1.0])
def test_weights_of_the_guide_average_to_the_evidence_and_its_divergence_is_the_one_stated(information: float) -> None:
    case = setting(3, information, replicates=1, num_data=2)
    log_w = module._guide_log_weights(case)(0, 40_000) - case.truth[0]
    w = log_w.exp()
    assert ((w.mean(0) - 1) / w.std(0) * math.sqrt(len(w))).abs().max() < 4
    # E_q[w log w] = KL(p(z|x) ‖ q)
    terms = w * log_w
    divergence = 3 * module._theory("guide", information)
    assert ((terms.mean(0) - divergence) / terms.std(0) * math.sqrt(len(w))).abs().max() < 4


@pytest.mark.parametrize("information", [0.05, 0.1, 0.2])
def test_the_error_of_a_single_draw_is_the_exact_one(information: float) -> None:
    """E[log p(x) − log p(x|z)] of independent x and z: s − ½ log(1 + s) in every dimension."""
    study = prior_sampling_study(
        [1], [information], methods=["prior", "ais"], replicates=3000, num_data=2, ess_draws=1, generator=seeded()
    )
    exact = math.expm1(2 * information) - information
    for cost in study.costs:  # one temperature is a single draw, too
        assert cost.evaluations == 1
        assert cost.reached
        assert cost.log_stderr == 0
        assert abs(cost.error - exact) < 4 * cost.stderr
        assert cost.stderr < 0.1 * exact


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


def curve(exponent: float, scale: float, spread: float = 0.0) -> Any:
    """Errors (scale / K)^exponent, ± spread times themselves in two replicates."""
    costs = [float(2**power) for power in range(12)]
    errors = [
        (scale / cost) ** exponent * torch.tensor([1 - spread, 1 + spread], dtype=torch.float64) for cost in costs
    ]
    return module._Curve(costs, errors)


@pytest.mark.parametrize("exponent", [0.3, 1.0])
@pytest.mark.parametrize("tolerance", [0.5, 1.0])
def test_the_crossing_of_a_power_law_is_exact(exponent: float, tolerance: float) -> None:
    evaluations, log_stderr, reached, error, _ = module._crossing(curve(exponent, 37.0, 0.1), tolerance)
    assert reached
    assert error == tolerance
    assert evaluations == pytest.approx(37 / tolerance ** (1 / exponent))
    # relative error of the mean of two at ±0.1: 0.1; over the slope of log error on log cost
    assert log_stderr == pytest.approx(0.1 / exponent)


def test_what_is_not_reached_is_not_extrapolated() -> None:
    evaluations, log_stderr, reached, error, _ = module._crossing(curve(1.0, 1e6), 1.0)
    assert (evaluations, reached) == (2.0**11, False)
    assert math.isnan(log_stderr)
    assert error == pytest.approx(1e6 / 2**11)


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
    assert all(cost.error > 1 for cost in study.costs if not cost.reached)
    assert study.rates == []  # one point makes no law


def cost(method: str, dim: int, evaluations: float, log_stderr: float, *, reached: bool = True) -> Cost:
    return Cost(method, 0.5, dim, evaluations, log_stderr, reached, 1.0, 0.1)


@pytest.mark.parametrize(("method", "law"), [("prior", "exponential"), ("guide", "exponential"), ("ais", "power")])
def test_rates_are_those_of_exact_laws(method: str, law: str) -> None:
    def at(dim: int) -> float:
        return math.exp(0.4 + 0.7 * (dim if law == "exponential" else math.log(dim)))

    points = [cost(method, dim, at(dim), 0.1) for dim in (2, 4, 9)]
    misleading = [cost(method, 1, 1.0, 0.0), cost(method, 30, 5.0, math.nan, reached=False)]
    rate = module._fit([*misleading, *points])
    assert rate is not None
    assert (rate.law, rate.points) == (law, 3)
    assert rate.rate == pytest.approx(0.7)
    assert rate.intercept == pytest.approx(0.4)
    xs = torch.tensor([2.0, 4.0, 9.0], dtype=torch.float64)
    xs = xs if law == "exponential" else xs.log()
    assert rate.stderr == pytest.approx(0.1 / float((xs - xs.mean()).square().sum().sqrt()))


def test_scatter_about_the_line_widens_the_rates_error() -> None:
    logs = {2: 1.0, 4: 3.0, 6: 3.0, 8: 5.0}  # line 0.6 d + 0, off by ∓0.2, ±0.6
    rate = module._fit([cost("prior", dim, math.exp(value), 0.01) for dim, value in logs.items()])
    assert rate is not None
    residual = sum((value - rate.intercept - rate.rate * dim) ** 2 for dim, value in logs.items())
    assert rate.stderr == pytest.approx(math.sqrt(residual / 2 / 20))


def test_the_law_is_measured() -> None:
    study = prior_sampling_study([4, 6, 8, 10, 12], [0.5], replicates=16, num_data=16, generator=seeded())
    rates = {rate.method: rate for rate in study.rates}
    assert rates["prior"].theory == 0.5
    assert abs(rates["prior"].rate - 0.5) < 0.05 + 4 * rates["prior"].stderr  # the theory is that of large d
    assert rates["prior"].stderr < 0.1
    costs = {(c.method, c.latent_dim): c.evaluations for c in study.costs}
    assert costs["prior", 12] > 3 * costs["ais", 12] > 3 * costs["guide", 12]
    effective = [size.ess for size in study.ess]
    assert effective == sorted(effective, reverse=True)


def test_the_same_seed_gives_the_same_numbers() -> None:
    settings: dict[str, Any] = {"dims": [3], "information": [0.5], "replicates": 3, "num_data": 3}
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
