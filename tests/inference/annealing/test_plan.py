"""Plans: temperatures and steps that are found on a few data and serve any others."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing import ais as module
from elbowroom.inference.annealing.ais import AnnealingPlan, ais, plan
from elbowroom.inference.annealing.bidirectional import bidirectional, simulate
from elbowroom.inference.annealing.chains import Pilot
from elbowroom.inference.annealing.tempering import adapted_schedule, temperature_schedule
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.samplers import HMC


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def bernoulli_model() -> LatentModel:
    network = MLP((4,), (1, 30), hidden=(16,), activation="tanh")
    for number, parameter in enumerate(network.parameters()):
        noise = torch.randn(parameter.shape, generator=seeded(number))
        parameter.data = 1.5 * noise / math.sqrt(parameter[0].numel())
    return LatentModel(StandardNormal(4), Bernoulli(network, (30,))).double().eval()


@pytest.mark.parametrize("start", ["laplace", "prior"])
@pytest.mark.parametrize("schedule", ["adapted", "sigmoid", "linear"])
def test_temperatures_rise_and_steps_are_positive(schedule: str, start: str) -> None:
    data = simulate(bernoulli_model(), 16, generator=seeded())
    found = plan(bernoulli_model(), data.batch, start=start, temperatures=6, schedule=schedule, generator=seeded(1))
    assert found.betas.shape == (7,)
    assert (found.betas[0], found.betas[-1]) == (0, 1)
    assert (found.betas.diff() > 0).all()
    assert found.step_sizes.shape == (5,)
    assert ((found.step_sizes > 0) & found.step_sizes.isfinite()).all()
    assert found.num_gradients > 0
    assert (schedule == "adapted") or found.betas.equal(temperature_schedule(6, schedule))


@pytest.mark.parametrize(("start", "aim"), [("laplace", 0.65), ("prior", 0.8)])
def test_a_plan_of_64_data_serves_500_others(start: str, aim: float) -> None:
    model, kernel = bernoulli_model(), HMC(2)
    few, many = (simulate(model, n, generator=seeded(n)).batch for n in (64, 500))
    found = plan(model, few, start=start, temperatures=12, kernel=kernel, target_acceptance=aim, generator=seeded(1))
    settings = {"start": start, "temperatures": found, "kernel": kernel, "chains": 2}
    fresh, known = (ais(model, batch, **settings, generator=seeded(2)) for batch in (many, few))
    assert abs(fresh.acceptance.mean() - known.acceptance.mean()) < 0.1
    # the aim is for the harmonic mean over a datum's chains, which lies below the plain one
    assert aim - 0.1 < fresh.acceptance.mean() < aim + 0.2
    assert fresh.pilot_gradients == 0
    assert fresh.num_gradients == 2 * (1 + 11 * 2)


@pytest.mark.parametrize("start", ["guide", "laplace"])
def test_under_a_plan_weights_are_unbiased_on_both_sides(start: str) -> None:
    model, guide, _ = oracles.ppca(dim=5, latent_dim=2, seed=3)
    generator = seeded(5)
    few, data = (simulate(model, n, generator=generator) for n in (20, 1500))
    found = plan(model, few.batch, guide=guide, start=start, temperatures=4, generator=generator)
    pair = bidirectional(
        model, data, guide=guide, start=start, temperatures=found, chains=2, block=700, generator=generator
    )
    truth = model.log_evidence(data.batch.x).detach()
    for log_ratio in (pair.lower - truth, truth - pair.upper):
        off = log_ratio.exp() - 1
        assert abs(off.mean() / off.std() * math.sqrt(len(off))) < 4


def test_from_the_prior_adapted_temperatures_close_more_of_the_gap_than_even_ones() -> None:
    """Of data that say much of z, where the densities change most at small β."""
    model, _, _ = oracles.ppca(dim=60, latent_dim=4, seed=1)
    few, data = (simulate(model, n, generator=seeded(n)) for n in (64, 400))
    gaps = {}
    for schedule in ("adapted", "linear"):
        found = plan(model, few.batch, start="prior", temperatures=16, schedule=schedule, generator=seeded(1))
        run = bidirectional(model, data, start="prior", temperatures=found, chains=2, generator=seeded(2))
        gaps[schedule] = run.gap
    saved = gaps["linear"] - gaps["adapted"]
    assert saved.mean() / saved.std() * 20 > 3


def test_steps_and_temperatures_are_read_off_the_pilot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot run that found ε = exp(−2β) and, on average over data, a spread of 1 + 3β."""

    def known(bridge: object, betas: torch.Tensor, z: torch.Tensor, metric: object, **settings: object) -> Pilot:
        between = betas[1:-1]
        share = torch.linspace(0, 2, betas.shape[1], dtype=torch.float64)  # 1 on average, but not its square
        return Pilot((-2 * between).exp(), (1 + 3 * between) * share, 0)

    monkeypatch.setattr(module, "pilot", known)
    model, guide, x = oracles.ppca(dim=5, latent_dim=2, seed=3)
    found = plan(model, x, guide=guide, start="guide", temperatures=5)
    at = temperature_schedule(16)[1:-1]
    torch.testing.assert_close(found.betas, adapted_schedule(at, 1 + 3 * at, 5), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.step_sizes, (-2 * found.betas[1:-1]).exp(), rtol=1e-6, atol=1e-9)


def test_one_temperature_needs_no_pilot_run() -> None:
    model, guide, x = oracles.ppca(dim=5, latent_dim=2, seed=3)
    found = plan(model, x, guide=guide, temperatures=1)
    assert found.betas.tolist() == [0, 1]
    assert (len(found.step_sizes), found.num_gradients) == (0, 0)
    given = {"guide": guide, "start": "guide", "chains": 5}
    planned = ais(model, x, temperatures=found, generator=seeded(), **given)
    plain = ais(model, x, temperatures=1, generator=seeded(), **given)
    assert planned.log_weights.equal(plain.log_weights)


def test_a_plan_is_found_the_same_again_and_used_as_it_is() -> None:
    model, guide, x = oracles.ppca(dim=5, latent_dim=2, seed=3)
    first, again, other = (plan(model, x, guide=guide, temperatures=5, generator=seeded(s)) for s in (1, 1, 2))
    assert first.betas.equal(again.betas) and first.step_sizes.equal(again.step_sizes)
    assert not first.betas.equal(other.betas)
    longer = AnnealingPlan(first.betas, 0.1 * first.step_sizes)
    runs = [ais(model, x, guide=guide, temperatures=p, generator=seeded()).acceptance.mean() for p in (first, longer)]
    assert runs[1] > runs[0] + 0.01
    assert runs[1] > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": 0}, "number of temperatures is 0"),
        ({"pilot_chains": 0}, "pilot_chains is 0"),
        ({"climbs": 0}, "climbs is 0"),
        ({"target_acceptance": 0.0}, "target acceptance is 0.0"),
        ({"schedule": "cubic"}, "schedule 'cubic'"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else "",
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=3)
    with pytest.raises(ElbowroomError, match=message):
        plan(model, x, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperatures", [1, 2, 5, 64])
def test_adapted_intervals_have_equal_areas(temperatures: int) -> None:
    """Of a spread that falls fast, as from the prior; its integral is known."""
    at = torch.linspace(0, 1, 2001, dtype=torch.float64)
    betas = adapted_schedule(at, 1 / (0.05 + at), temperatures)
    assert betas.dtype == torch.float64
    assert (betas[0], betas[-1]) == (0, 1)
    assert (betas.diff() > 0).all()
    # a hundredth of the whole is spread evenly over all β
    whole = math.log(1.05 / 0.05)
    area = (0.05 + betas).log() - math.log(0.05) + 0.01 * whole * betas
    even = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64) * 1.01 * whole
    torch.testing.assert_close(area, even, rtol=0, atol=1e-3 * whole)


def test_the_spread_is_linear_in_between_and_constant_beyond() -> None:
    betas = adapted_schedule(torch.tensor([0.25, 0.75]), torch.tensor([3.0, 1.0]), 8)
    fine = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    density = 3 - 4 * (fine.clamp(0.25, 0.75) - 0.25)
    share = torch.cumsum(density + 0.01 * density.mean(), 0)
    found = [float(share[min(19_999, int(beta * 20_000))] / share[-1]) for beta in betas]
    assert found == pytest.approx([t / 8 for t in range(9)], abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, 7.0, math.nan])
def test_where_the_spread_is_the_same_everywhere_or_unknown_temperatures_are_even(value: float) -> None:
    betas = adapted_schedule(torch.tensor([0.1, 0.4, 0.9]), torch.full((3,), value), 5)
    torch.testing.assert_close(betas, torch.linspace(0, 1, 6, dtype=torch.float64), rtol=0, atol=1e-9)


def test_where_the_spread_is_unknown_in_part_some_temperatures_are_left() -> None:
    betas = adapted_schedule(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1.0, math.nan, 1.0]), 100)
    assert (betas.diff() > 0).all()
    assert betas.diff().max() < 0.2


@pytest.mark.parametrize("step_sizes", [[], [0.5], [0.5, 0.5, 0.5], [0.5, -0.5]], ids=str)
def test_a_plan_has_a_positive_step_for_each_transition(step_sizes: list[float]) -> None:
    with pytest.raises(ElbowroomError, match="needs 2, all positive"):
        AnnealingPlan(torch.tensor([0.0, 0.3, 0.6, 1.0]), torch.tensor(step_sizes))


def test_exact_draws_of_another_model_are_refused() -> None:
    model, guide, x = oracles.ppca(dim=5, latent_dim=2, seed=0, num_data=8)
    with pytest.raises(ElbowroomError, match="3 latents, but the model has 2"):
        ais(model, x, guide=guide, exact=torch.zeros(8, 3), generator=torch.Generator().manual_seed(0))
