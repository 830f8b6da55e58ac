"""Chains that walk a path and back: E[w] = p(x), E[1/w] = 1 / p(x), and what a pilot run promises of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.chains import (
    Annealed,
    AnnealingPath,
    Pilot,
    anneal,
    anneal_back,
    pilot,
    pilot_transitions,
    weighable,
)
from elbowroom.inference.annealing.initial import metric_of, start_density
from elbowroom.inference.annealing.tempering import TemperedTarget
from elbowroom.inference.target import posterior_target
from elbowroom.model import oracles
from elbowroom.samplers import HMC, NUTS, Info, Kernel, Metric, RandomWalk, State, Target, Tuning

BOTH_WAYS = [anneal, anneal_back]
ROTATION = HMC(2, integrator="rotation", jitter=0.6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(Target):
    """A target that counts the points where it is evaluated, with and without the gradient."""

    def __init__(self, target: Target) -> None:
        self.target, self.gradients, self.values = target, 0, 0

    def log_density(self, z: Tensor) -> Tensor:
        self.values += z.shape[:2].numel()
        return self.target.log_density(z)

    def gradient(self, z: Tensor) -> Tensor:
        self.gradients += z.shape[:2].numel()
        return self.target.gradient(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += z.shape[:2].numel()
        return self.target.evaluate(z)

    def select(self, index: Tensor) -> Target:
        return self.target.select(index)


class Walkable:
    """A linear-Gaussian model, a start that is off, and a path of T temperatures with steps that are frozen."""

    def __init__(self, latent_dim: int, temperatures: int, *, num_data: int = 150, seed: int = 0) -> None:
        model, _, x = oracles.ppca(latent_dim + 3, latent_dim, seed, num_data)
        self.truth = model.log_evidence(x).detach()
        exact = model.posterior(x)
        self.posterior = MultivariateNormal(exact.mean.detach(), scale_tril=exact.scale_tril.detach())
        scale_tril = self.posterior.scale_tril
        away = self.posterior.mean + 0.9 / latent_dim**0.5 * scale_tril.sum(-1)
        self.q: Distribution = MultivariateNormal(away, scale_tril=(1 + 0.35 / latent_dim**0.5) * scale_tril)
        self.joint = Counting(posterior_target(model, x))
        betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).square()
        step_sizes = torch.linspace(0.3, 1.1, temperatures + 1, dtype=torch.float64)[1:-1]
        self.betas, self.step_sizes = betas, step_sizes
        self.bridge = TemperedTarget(start_density(self.q), self.joint, torch.ones(num_data).double())

    def path(self, metric: Metric | None = None) -> AnnealingPath:
        num_data = len(self.truth)
        rows = (part.unsqueeze(1).expand(-1, num_data) for part in (self.betas, self.step_sizes))
        return AnnealingPath(*rows, metric_of(self.q, self.z(self.q, 1)) if metric is None else metric)

    def z(self, q: Distribution, chains: int, seed: int = 1) -> Tensor:
        noise = torch.randn(chains, *q.batch_shape, *q.event_shape, generator=seeded(seed), dtype=torch.float64)
        assert isinstance(q, MultivariateNormal)
        return q.mean + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


def z_score(log_ratio: Tensor) -> float:
    """Of the mean of a ratio whose expectation is 1; draws are independent."""
    off = log_ratio.exp() - 1
    return float(off.mean() / off.std() * math.sqrt(off.numel()))


@pytest.mark.parametrize("temperatures", [1, 2, 4, 9])
@pytest.mark.parametrize("latent_dim", [2, 5, 20])
def test_both_ways_have_the_expectations_that_bound_the_evidence(latent_dim: int, temperatures: int) -> None:
    case = Walkable(latent_dim, temperatures, seed=latent_dim)
    settings = {"kernel": ROTATION, "generator": seeded(temperatures)}
    there = anneal(case.bridge, case.path(), case.z(case.q, 16), **settings).log_weights
    back = anneal_back(case.bridge, case.path(), case.z(case.posterior, 16), **settings).log_weights
    assert there.dtype == back.dtype == torch.float64
    assert abs(z_score(there - case.truth)) < 4
    assert abs(z_score(case.truth - back)) < 4
    for errors in (there - case.truth, case.truth - back):  # both are lower bounds, and by an amount that is seen
        assert errors.mean() / errors.std() * math.sqrt(errors.numel()) < -4


@pytest.mark.parametrize(
    "kernel", [HMC(3), HMC(1, jitter=0.0), ROTATION, NUTS(max_depth=3), RandomWalk()], ids=lambda k: str(k.name)
)
def test_every_reversible_kernel_goes_back(kernel: Kernel) -> None:
    case = Walkable(3, 4)
    back = anneal_back(case.bridge, case.path(), case.z(case.posterior, 16), kernel=kernel, generator=seeded())
    assert abs(z_score(case.truth - back.log_weights)) < 4


def test_a_reverse_path_weighs_what_the_same_path_weighs_forward() -> None:
    """The transitions of a reverse chain turned round: Crooks' relation between the laws of the two weights.

    For any test function h, the average of h(log w) over reverse paths is that of h(log w) w / p(x) over forward ones.
    """
    case = Walkable(2, 4)
    settings = {"kernel": ROTATION, "generator": seeded()}
    there = anneal(case.bridge, case.path(), case.z(case.q, 40), **settings).log_weights - case.truth
    back = anneal_back(case.bridge, case.path(), case.z(case.posterior, 40), **settings).log_weights - case.truth
    for h in (torch.tanh, torch.sin, lambda v: (v > 0).double(), lambda v: (v > 0.5).double()):
        expected, found = h(there) * there.exp(), h(back)
        spread = math.sqrt(expected.var() / expected.numel() + found.var() / found.numel())
        assert abs(expected.mean() - found.mean()) / spread < 4


def test_one_temperature_weighs_the_exact_draw_where_it_is() -> None:
    case = Walkable(3, 1)
    z = case.z(case.posterior, 2)
    back = anneal_back(case.bridge, case.path(), z, kernel=ROTATION, generator=seeded())
    weights = case.joint.target.log_density(z) - case.q.log_prob(z)
    torch.testing.assert_close(back.log_weights, weights, rtol=0, atol=1e-9)
    assert back.z.equal(z)
    assert back.acceptance.isnan().all()


@pytest.mark.parametrize("walk", BOTH_WAYS)
def test_with_transitions_that_stay_both_ways_weigh_the_start(walk: Callable[..., Annealed]) -> None:
    """ε → 0: every interval is weighed at the same z, and their sum is the whole."""
    case = Walkable(3, 6)
    case.step_sizes = torch.full_like(case.step_sizes, 1e-13)
    z = case.z(case.posterior, 3)
    found = walk(case.bridge, case.path(), z, kernel=HMC(1), generator=seeded())
    expected = case.joint.target.log_density(z) - case.q.log_prob(z)
    torch.testing.assert_close(found.log_weights, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("walk", BOTH_WAYS)
def test_where_the_metric_sits_does_not_matter_to_the_expectation(walk: Callable[..., Annealed]) -> None:
    case = Walkable(3, 4)
    metric = case.path().metric
    elsewhere = Metric(metric.center + 1.5, 0.7 * metric.factor, metric.upper)
    forward = walk is anneal
    z = case.z(case.q if forward else case.posterior, 16)
    found = walk(case.bridge, case.path(elsewhere), z, kernel=ROTATION, generator=seeded())
    log_ratio = found.log_weights - case.truth
    assert abs(z_score(log_ratio if forward else -log_ratio)) < 4


class Recording:
    """A kernel that notes the temperature and the step of every transition."""

    name, max_step_size = "recording", math.inf

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        assert isinstance(target, TemperedTarget)
        fresh = target.log_density(state.z), target.gradient(state.z)
        torch.testing.assert_close(state.log_density, fresh[0])  # of this temperature, not of the one before
        torch.testing.assert_close(state.gradient, fresh[1])
        self.seen.append((float(target.beta[0]), float(tuning.step_size[0])))
        return HMC(1).step(target, state, tuning, generator=generator)


def test_the_way_back_makes_the_same_transitions_in_the_opposite_order() -> None:
    case, there, back = Walkable(2, 5), Recording(), Recording()
    anneal(case.bridge, case.path(), case.z(case.q, 2), kernel=there, generator=seeded())
    anneal_back(case.bridge, case.path(), case.z(case.posterior, 2), kernel=back, generator=seeded())
    expected = list(zip(case.betas[1:-1].tolist(), case.step_sizes.tolist(), strict=True))
    assert there.seen == expected
    assert back.seen == expected[::-1]


@pytest.mark.parametrize("walk", BOTH_WAYS)
@pytest.mark.parametrize(("temperatures", "num_steps"), [(1, 2), (2, 1), (7, 1), (7, 3)])
def test_a_chain_costs_one_evaluation_and_its_transitions(
    walk: Callable[..., Annealed], temperatures: int, num_steps: int
) -> None:
    case = Walkable(2, temperatures, num_data=5)
    z, told = case.z(case.posterior, 3), []
    found = walk(
        case.bridge, case.path(), z, kernel=HMC(num_steps), generator=seeded(), announce=lambda *step: told.append(step)
    )
    taken = 15 * (1 + (temperatures - 1) * num_steps)
    assert found.num_gradients == taken
    assert (case.joint.gradients, case.joint.values) == ((taken, 0) if temperatures > 1 else (0, 15))
    in_all = temperatures - 1
    assert [step[:3] for step in told] == [("annealing", done, in_all) for done in range(1, in_all + 1)]


def test_weights_are_of_float64_where_chains_are_of_float32() -> None:
    """Three hundred terms of a few dozen nats: their sum, rounded to float32 every time, would be off by far more."""
    start = Independent(Normal(torch.zeros(1, 2), torch.ones(1, 2)), 1)
    z = torch.randn(4, 1, 2, generator=seeded())
    depth = 1e4

    class Deep(Target):
        def log_density(self, z: Tensor) -> Tensor:
            return start.log_prob(z) - depth

        def gradient(self, z: Tensor) -> Tensor:
            return -z

        def select(self, index: Tensor) -> Target:
            return self

    betas = torch.linspace(0, 1, 301, dtype=torch.float64).unsqueeze(1).float()
    path = AnnealingPath(betas, torch.full((299, 1), 0.5), Metric.identity(z))
    bridge = TemperedTarget(start_density(start), Deep(), betas[-1])
    found = anneal(bridge, path, z, kernel=HMC(1), generator=seeded())
    assert found.log_weights.dtype == torch.float64
    # what is left is the rounding of the densities themselves, of about 5e-4 each and of either sign
    assert (found.log_weights + depth).abs().max() < 5e-4


def tuned(latent_dim: int, temperatures: int, kernel: Kernel, **settings: Any) -> tuple[Walkable, Pilot]:
    case = Walkable(latent_dim, temperatures, num_data=40)
    path, z = case.path(), case.z(case.q, 4)
    return case, pilot(case.bridge, path.betas, z, path.metric, kernel=kernel, generator=seeded(), **settings)


@pytest.mark.parametrize(("temperatures", "shared"), [(2, True), (12, False), (90, False)])
def test_what_a_pilot_run_returns(temperatures: int, shared: bool) -> None:
    told: list[tuple[Any, ...]] = []
    _, found = tuned(5, temperatures, HMC(3), shared=shared, announce=lambda *step: told.append(step))
    assert found.step_sizes.shape == found.spread.shape == (temperatures - 1, 40)
    assert (found.step_sizes > 0).all()
    assert bool((found.step_sizes.std(1) < 1e-12).all()) == shared
    in_all = pilot_transitions(temperatures)
    assert [step[:3] for step in told] == [("pilot run", done, in_all) for done in range(1, in_all + 1)]
    assert found.num_gradients == in_all * 3 * 4 * 40
    assert pilot_transitions(1) == 0


def test_a_rotation_takes_no_longer_step_than_it_may() -> None:
    """Start and posterior are of one shape nearly, so that any step would be accepted."""
    _, found = tuned(5, 6, ROTATION)
    longest = ROTATION.max_step_size
    assert found.step_sizes.max() <= longest * (1 + 1e-9)
    assert (found.step_sizes[-1] > 0.9 * longest).any()


def test_the_spread_is_that_of_the_log_ratio_at_each_temperature() -> None:
    """Against draws from f_β, which between two normals of one model is a normal of known moments."""
    case, found = tuned(2, 30, ROTATION)
    exact, q = case.posterior, case.q
    assert isinstance(q, MultivariateNormal)
    for t in (3, 15, 28):
        beta = float(case.betas[t])
        precision = (1 - beta) * q.precision_matrix + beta * exact.precision_matrix
        pulled = (1 - beta) * (q.precision_matrix @ q.mean.unsqueeze(-1)) + beta * (
            exact.precision_matrix @ exact.mean.unsqueeze(-1)
        )
        between = MultivariateNormal(torch.linalg.solve(precision, pulled).squeeze(-1), precision_matrix=precision)
        z = case.z(between, 2000)
        truth = (exact.log_prob(z) - q.log_prob(z)).std(0)
        # eight or so dependent draws per datum; their average over data is what a plan uses
        assert abs(float(found.spread[t - 1].mean() / truth.mean()) - 1) < 0.2


def test_what_cannot_be_weighed_is_refused() -> None:
    case = Walkable(2, 3, num_data=4)
    ends = case.bridge.ends(case.z(case.q, 2))
    assert weighable(ends) is ends
    nowhere = ends._replace(log_joint=torch.full_like(ends.log_joint, -math.inf))
    assert weighable(nowhere) is nowhere  # a zero density is a weight of zero
    unknown = ends.log_joint.clone()
    unknown[1, 2] = math.nan
    with pytest.raises(ElbowroomError, match=r"1 of 4 examples \(the first is example 2"):
        weighable(ends._replace(log_joint=unknown))
    with pytest.raises(ElbowroomError, match="4 of 4 examples"):
        weighable(ends._replace(log_start=nowhere.log_joint))
