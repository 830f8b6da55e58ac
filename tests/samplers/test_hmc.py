"""HMC and its baselines on targets whose moments are known, and what happens where a trajectory fails."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.inference.target import posterior_target
from elbowroom.model import oracles
from elbowroom.samplers.adaptation import learn_diagonal, warm_up
from elbowroom.samplers.diagnostics import ess_mean
from elbowroom.samplers.hmc import HMC, RandomWalk, mala
from elbowroom.samplers.kernel import DIVERGENCE, Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.sampling import sample
from elbowroom.samplers.target import Density

EULER = 0.5772156649015329
KERNELS: dict[str, Kernel] = {
    "hmc": HMC(5),
    "rotation": HMC(3, integrator="rotation"),
    "mala": mala(),
    "random-walk": RandomWalk(),
    "nuts": NUTS(),
}
GRADIENT = [name for name in KERNELS if name != "random-walk"]


def normal_draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def chain_scores(values: Tensor, expected: Tensor | float) -> Tensor:
    """z-scores of correlated draws, (draws, chains, *) -> (*), from their effective number."""
    pooled = values.flatten(0, 1)
    ess = ess_mean(values)
    return (pooled.mean(0) - expected) / (pooled.std(0) / ess.sqrt())


def plain_scores(values: Tensor, expected: float) -> float:
    values = values.double().flatten()
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


# --- moments


@pytest.mark.parametrize("name", KERNELS)
def test_the_exact_posterior_of_a_linear_gaussian_model(name: str) -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    target = posterior_target(model, x)
    with torch.no_grad():
        exact = model.posterior(x)
    generator = torch.Generator().manual_seed(1)
    metric = Metric.dense(exact.covariance_matrix, exact.mean)
    z = metric.to_z(normal_draws(24, 8, 3, seed=2))
    step_size = torch.full((8,), 1.2 if name in ("mala", "random-walk") else 0.7, dtype=torch.float64)
    found = sample(KERNELS[name], target, init(target, z), Tuning(step_size, metric), draws=50, generator=generator)
    scores = chain_scores(found.z, exact.mean)
    away = found.z - exact.mean
    products = (away.unsqueeze(-1) * away.unsqueeze(-2)).flatten(-2)
    scores_of_covariance = chain_scores(products, exact.covariance_matrix.flatten(-2))
    assert float(scores.abs().max()) < 4
    assert float(scores_of_covariance.abs().max()) < 4
    assert float(ess_mean(found.z).min()) > (50 if name == "random-walk" else 200)


@pytest.mark.parametrize("name", KERNELS)
def test_an_asymmetric_target(name: str) -> None:
    """log p = z − e^z, the logarithm of an exponential variable; a sign that is wrong shows in its mean."""
    count, generator = 20_000, torch.Generator().manual_seed(3)
    uniform = torch.rand(1, count, 1, generator=generator, dtype=torch.float64)
    z = (-uniform.log()).log()
    target = Density(lambda z: (z - z.exp()).sum(-1))
    tuning = Tuning(torch.full((count,), 1.1, dtype=torch.float64), Metric.identity(z))
    state = init(target, z)
    for _ in range(5):
        state, info = KERNELS[name].step(target, state, tuning, generator=generator)
    assert abs(plain_scores(state.z, -EULER)) < 4
    assert abs(plain_scores((state.z + EULER).square(), math.pi**2 / 6)) < 4
    assert abs(plain_scores(state.z.exp(), 1.0)) < 4
    assert 0.3 < float(info.acceptance.mean()) < 0.99
    assert float((state.z - z).square().mean()) > 0.5


@pytest.mark.parametrize("name", KERNELS)
def test_neals_funnel(name: str) -> None:
    """v ~ N(0, 9), x | v ~ N(0, e^v): exact draws stay so, though the scale of x spans five orders of magnitude."""
    count, generator = 10_000, torch.Generator().manual_seed(4)
    v = 3 * normal_draws(1, count, 1, seed=5)
    z = torch.cat([v, torch.exp(v / 2) * normal_draws(1, count, 4, seed=6)], -1)

    def funnel(z: Tensor) -> Tensor:
        v, x = z[..., 0], z[..., 1:]
        return -0.5 * (v.square() / 9 + x.square().sum(-1) * torch.exp(-v) + 4 * v)

    target, state = Density(funnel), init(Density(funnel), z)
    kernel = NUTS(max_depth=4) if name == "nuts" else KERNELS[name]
    tuning = Tuning(torch.full((count,), 0.5, dtype=torch.float64), Metric.identity(z))
    for _ in range(5):
        state, _ = kernel.step(target, state, tuning, generator=generator)
    v, x = state.z[..., 0], state.z[..., 1:]
    assert abs(plain_scores(v, 0.0)) < 4
    assert abs(plain_scores(v.square(), 9.0)) < 4
    assert abs(plain_scores((x * torch.exp(-v / 2).unsqueeze(-1)).square().mean(-1), 1.0)) < 4
    assert float((state.z[..., 0] - z[..., 0]).square().mean()) > 0.1


class EightSchools(NamedTuple):
    """Rubin's (1981) eight schools with μ ~ N(0, 5²) and τ ~ HalfCauchy(5), as posteriordb has them."""

    effect = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
    stderr = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)

    def log_density(self, z: Tensor) -> Tensor:
        """Not centred: z = (μ, log τ, η), θ = μ + τ η."""
        mu, log_tau, eta = z[..., 0], z[..., 1], z[..., 2:]
        tau = log_tau.exp()
        theta = mu.unsqueeze(-1) + tau.unsqueeze(-1) * eta
        log_prior = -0.5 * (mu / 5).square() - torch.log1p((tau / 5).square()) + log_tau - 0.5 * eta.square().sum(-1)
        return log_prior - 0.5 * ((theta - self.effect) / self.stderr).square().sum(-1)

    def moments(self) -> tuple[float, float, Tensor]:
        """E[μ], E[τ], E[θ] without a sampler: given τ all is normal, and τ = 5 tan(φ) is integrated on a grid."""
        phi = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * (math.pi / 2)
        tau = 5 * torch.tan(phi)  # the prior is uniform in φ
        variance = tau.square().unsqueeze(-1) + self.stderr.square()
        precision = 1 / 25 + (1 / variance).sum(-1)
        mu = (self.effect / variance).sum(-1) / precision
        # log N(effect; 0, diag(variance) + 25 · 1 1ᵀ), up to a constant
        log_weight = -0.5 * (variance.log().sum(-1) + precision.log())
        log_weight += 0.5 * precision * mu.square() - 0.5 * (self.effect.square() / variance).sum(-1)
        weight = log_weight.softmax(0)
        shrink = tau.square().unsqueeze(-1) / variance
        theta = shrink * self.effect + (1 - shrink) * mu.unsqueeze(-1)
        return float(weight @ mu), float(weight @ tau), weight @ theta


def test_eight_schools_by_quadrature_is_posteriordbs() -> None:
    mu, tau, _ = EightSchools().moments()
    assert abs(mu - 4.41) < 0.05
    assert 3.4 < tau < 3.8


@pytest.mark.parametrize("name", ["hmc", "nuts"])
def test_eight_schools(name: str) -> None:
    schools, generator = EightSchools(), torch.Generator().manual_seed(7)
    target = Density(schools.log_density)
    z = 0.5 * normal_draws(320, 1, 10, seed=8)  # a step costs hardly more than for few chains
    kernel = HMC(8) if name == "hmc" else NUTS(max_depth=4)
    warm = warm_up(
        kernel,
        target,
        z,
        metric=Metric.identity(z),
        num_steps=30,
        target_acceptance=0.9,
        learn=learn_diagonal,
        generator=generator,
    )
    found = sample(kernel, target, warm.state, warm.tuning, draws=20, generator=generator)
    drawn = found.z[:, :, 0]
    tau = drawn[..., 1].exp()
    theta = drawn[..., :1] + tau.unsqueeze(-1) * drawn[..., 2:]
    mu, expected_tau, expected_theta = schools.moments()
    scores = chain_scores(
        torch.cat([drawn[..., :1], tau.unsqueeze(-1), theta], -1),
        torch.cat([torch.tensor([mu, expected_tau], dtype=torch.float64), expected_theta]),
    )
    assert float(scores.abs().max()) < 4, scores
    assert float(ess_mean(theta).min()) > 1000
    assert float(found.info.divergent.double().mean()) < 0.01


# --- what a transition does, and does not


def test_a_rejected_proposal_is_not_kept(generator: torch.Generator) -> None:
    """States either move with all of their caches, or stay with all of them."""
    target = Density(lambda z: (z - z.exp()).sum(-1))
    state = init(target, torch.randn(4, 50, 2, generator=generator))
    for name in KERNELS:
        tuning = Tuning(torch.full((50,), 1.3), Metric.identity(state.z))
        new, info = KERNELS[name].step(target, state, tuning, generator=generator)
        moved = (new.z != state.z).any(-1)
        assert 0.02 < float((~moved).double().mean()) < 0.98
        assert torch.equal(new.z[~moved], state.z[~moved])
        assert torch.equal(new.log_density[~moved], state.log_density[~moved])
        if name != "random-walk":
            fresh = init(target, new.z)
            torch.testing.assert_close(new.log_density, fresh.log_density)
            torch.testing.assert_close(new.gradient, fresh.gradient)
        assert bool((moved | (info.acceptance < 1)).all())


def test_the_energy_is_that_of_the_kept_state() -> None:
    """H + log p is the momentum's: half a χ² of `dim` degrees of freedom, whether a proposal was kept or not."""
    target, generator = Density(lambda z: (z - z.exp()).sum(-1)), torch.Generator().manual_seed(9)
    uniform = torch.rand(1, 20_000, 3, generator=generator, dtype=torch.float64)
    state = init(target, (-uniform.log()).log())
    tuning = Tuning(torch.full((20_000,), 1.2, dtype=torch.float64), Metric.identity(state.z))
    new, info = HMC(4).step(target, state, tuning, generator=generator)
    kinetic = info.energy + new.log_density
    assert float(info.acceptance.mean()) < 0.9
    assert float(kinetic.min()) >= 0
    assert abs(plain_scores(kinetic, 1.5)) < 4
    assert abs(plain_scores((kinetic - 1.5).square(), 1.5)) < 4


def test_acceptance_is_metropolis_probability(generator: torch.Generator) -> None:
    """The share of accepted proposals is the mean probability that was reported."""
    target = Density(lambda z: -z.pow(4).sum(-1))
    state = init(target, 0.5 * torch.randn(1, 40_000, 2, generator=generator))
    tuning = Tuning(torch.full((40_000,), 0.6), Metric.identity(state.z))
    for kernel in (HMC(3), mala(), RandomWalk()):
        new, info = kernel.step(target, state, tuning, generator=generator)
        moved = (new.z != state.z).any(-1).double()
        difference = moved - info.acceptance.double()
        assert abs(plain_scores(difference, 0.0)) < 4
        assert 0.2 < float(moved.mean()) < 0.95


def test_each_datum_has_its_own_step_size(generator: torch.Generator) -> None:
    target = Density(lambda z: -0.5 * z.square().sum(-1))
    state = init(target, torch.randn(2000, 3, 2, generator=generator))
    step_size = torch.tensor([1e-3, 0.5, 100.0])
    new, info = mala().step(target, state, Tuning(step_size, Metric.identity(state.z)), generator=generator)
    distance = (new.z - state.z).square().mean((0, 2))
    assert float(distance[0]) < 1e-5 < 0.05 < float(distance[1])
    assert float(info.acceptance[:, 0].min()) > 0.999 > 0.01 > float(info.acceptance[:, 2].mean())


def test_jitter_is_each_chains_own_and_may_be_none(generator: torch.Generator) -> None:
    flat = Density(lambda z: 0 * z.sum(-1))
    state = init(flat, torch.zeros(3, 1000, 2))
    tuning = Tuning(torch.ones(1000), Metric.identity(state.z))
    for jitter in (0.0, 0.3):
        new, info = HMC(2, jitter=jitter).step(flat, state, tuning, generator=generator)
        speed = (2 * info.energy).sqrt()  # without a force r stays, and z = ε L r
        step = new.z.norm(dim=-1) / (2 * speed)
        assert float(step.min()) >= 1 - jitter - 1e-5
        assert float(step.max()) <= 1 + jitter + 1e-5
        assert abs(float(step.std()) - jitter / math.sqrt(3)) < 0.01
        assert (float(step.std(0).mean()) > 0.1) == (jitter > 0)  # replicas differ too


# --- trajectories that fail


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_nowhere_is_no_place_to_go(name: str, bad: float, generator: torch.Generator) -> None:
    """Beyond |z| = 1 the density is no number: chains stay inside, and the failure is counted."""
    target = Density(lambda z: torch.where(z.abs() > 1, bad, 0.1 * z).sum(-1))
    z = 2 * torch.rand(4, 100, 1, generator=generator) - 1
    state, tuning = init(target, z), Tuning(torch.full((100,), 0.5), Metric.identity(z))
    kernel = NUTS(max_depth=4) if name == "nuts" else KERNELS[name]
    count = 0
    for _ in range(20):
        state, info = kernel.step(target, state, tuning, generator=generator)
        assert bool(torch.isfinite(info.acceptance).all() and torch.isfinite(info.energy).all())
        assert bool(((info.acceptance >= 0) & (info.acceptance <= 1)).all())
        assert bool(torch.isfinite(state.log_density).all() and torch.isfinite(state.gradient).all())
        assert float(state.z.abs().max()) <= 1
        count += int(info.divergent.sum())
    assert count > 100
    assert float((state.z - z).abs().mean()) > 0.1


@pytest.mark.parametrize("name", GRADIENT)
def test_a_cliff_is_a_divergence(name: str, generator: torch.Generator) -> None:
    """A fall of 10⁴ nats, which is finite; a fall of 100 nats is a rejection and no more."""
    for depth, diverges in ((1e4, True), (1e2, False)):
        target = Density(lambda z, depth=depth: torch.where(z > 1, z - depth, z).sum(-1))
        z = torch.rand(2, 200, 1, generator=generator)
        tuning = Tuning(torch.full((200,), 1.0), Metric.identity(z))
        kernel = NUTS(max_depth=3) if name == "nuts" else KERNELS[name]
        state, info = kernel.step(target, init(target, z), tuning, generator=generator)
        assert float(state.z.max()) <= 1
        assert (int(info.divergent.sum()) > 50) == diverges
        assert (depth > DIVERGENCE) == diverges


@pytest.mark.parametrize("name", GRADIENT)
def test_an_unstable_step_is_reported(name: str, generator: torch.Generator) -> None:
    target = Density(lambda z: -0.5 * (z / 1e-3).square().sum(-1))
    z = 1e-3 * torch.randn(2, 50, 3, generator=generator)
    state, info = KERNELS[name].step(
        target, init(target, z), Tuning(torch.full((50,), 1.0), Metric.identity(z)), generator=generator
    )
    assert bool(info.divergent.all())
    assert torch.equal(state.z, z)
    assert float(info.acceptance.max()) == 0


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "A trajectory of 0 steps"),
        ({"integrator": "leap-frog"}, "no integrator 'leap-frog'"),
        ({"jitter": 1.0}, "jitter is 1.0"),
        ({"jitter": -0.1}, "jitter is -0.1"),
        ({"jitter": math.nan}, "jitter is nan"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message) as error:
        HMC(**settings)  # type: ignore[arg-type]
    assert error.value.remedy


def test_settings() -> None:
    assert mala(jitter=0.0) == HMC(num_steps=1, jitter=0.0)
    assert HMC().max_step_size == math.inf
    # a quarter of a turn at once, and less than half a turn in all
    longest = [HMC(steps, integrator="rotation").max_step_size for steps in (1, 2, 5)]
    assert longest == pytest.approx([0.5 * math.pi, 0.35 * math.pi, 0.14 * math.pi])
    assert isinstance(init(Density(lambda z: -z.square().sum(-1)), torch.zeros(1, 1, 1)), State)
