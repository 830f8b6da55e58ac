"""The bridge between a start and a posterior: nothing stale after a change of β, and nothing evaluated for it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.initial import StartDensity, metric_of, rows_of
from elbowroom.inference.annealing.tempering import (
    Ends,
    TemperedTarget,
    inverse_temperatures,
    temperature_schedule,
)
from elbowroom.samplers import HMC, NUTS, Density, Kernel, Metric, RandomWalk, Target, Tuning, init

DIM, DATA, CHAINS = 3, 4, 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(Target):
    """A target that counts the points at which its gradient is taken."""

    def __init__(self, target: Target) -> None:
        self.target, self.gradients, self.values = target, 0, 0

    def log_density(self, z: Tensor) -> Tensor:
        self.values += 1
        return self.target.log_density(z)

    def gradient(self, z: Tensor) -> Tensor:
        self.gradients += 1
        return self.target.gradient(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += 1
        return self.target.evaluate(z)

    def select(self, index: Tensor) -> Target:
        return self.target.select(index)


def log_joint(z: Tensor, center: Tensor) -> Tensor:
    return -(z - center).square().sum(-1) - 0.1 * (z - center).pow(4).sum(-1) - 7.0


@pytest.fixture
def q() -> Distribution:
    loc = torch.randn(DATA, DIM, generator=seeded(1), dtype=torch.float64)
    return Independent(Normal(loc, torch.full_like(loc, 1.5)), 1)


@pytest.fixture
def joint() -> Counting:
    return Counting(Density(log_joint, torch.randn(DATA, DIM, generator=seeded(2), dtype=torch.float64)))


@pytest.fixture
def z() -> Tensor:
    return torch.randn(CHAINS, DATA, DIM, generator=seeded(3), dtype=torch.float64)


def bridge(q: Distribution, joint: Target, beta: float) -> TemperedTarget:
    return TemperedTarget(StartDensity(q), joint, torch.full((DATA,), beta, dtype=torch.float64))


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("temperatures", [1, 2, 7, 100])
def test_schedules_rise_from_0_to_1_and_are_symmetric(schedule: str, temperatures: int) -> None:
    betas = temperature_schedule(temperatures, schedule)
    assert betas.dtype == torch.float64
    assert len(betas) == temperatures + 1
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones_like(betas), rtol=0, atol=1e-12)


def test_sigmoid_schedule_term_by_term() -> None:
    raw = [1 / (1 + math.exp(-4 * (2 * t / 5 - 1))) for t in range(6)]
    expected = [(b - raw[0]) / (raw[-1] - raw[0]) for b in raw]
    assert temperature_schedule(5, "sigmoid").tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_density_and_gradient_are_those_of_the_formula(
    q: Distribution, joint: Counting, z: Tensor, beta: float
) -> None:
    leaf = z.clone().requires_grad_()
    value = (1 - beta) * q.log_prob(leaf) + beta * log_joint(leaf, joint.target.data[0])  # type: ignore[attr-defined]
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    target = bridge(q, joint, beta)
    torch.testing.assert_close(target.log_density(z), value.detach())
    torch.testing.assert_close(target.gradient(z), gradient)
    for found, expected in zip(target.evaluate(z), (value.detach(), gradient), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_change_of_beta_evaluates_nothing_and_leaves_nothing_stale(
    q: Distribution, joint: Counting, z: Tensor
) -> None:
    target = bridge(q, joint, 0.2)
    ends = target.ends(z)
    spent = joint.gradients, joint.values
    ends.state(target.beta)
    hot = target.at(torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64))  # data need not share β
    state = ends.state(hot.beta)
    assert (joint.gradients, joint.values) == spent
    for found, expected in zip(state, init(hot, z), strict=True):
        torch.testing.assert_close(found, expected)


KERNELS: list[Kernel] = [HMC(3), HMC(2, integrator="rotation"), NUTS(), RandomWalk()]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.name}")
def test_ends_follow_the_chains(kernel: Kernel, q: Distribution, joint: Counting, z: Tensor) -> None:
    ends = bridge(q, joint, 0.5).ends(z)
    generator, moved = seeded(), []
    for beta in (0.3, 0.6, 0.9):
        target = bridge(q, joint, beta)
        tuning = Tuning(torch.full((DATA,), 1.1, dtype=torch.float64), Metric.identity(z))
        state, _ = kernel.step(target, ends.state(target.beta), tuning, generator=generator)
        before, ends = ends, target.ends_after(state, ends)
        assert (ends.z == state.z).all()
        for found, expected in zip(ends, bridge(q, joint, beta).ends(state.z), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        moved.append((ends.z != before.z).any(-1))
    assert torch.stack(moved).any()
    if kernel.name != "nuts":
        assert not torch.stack(moved).all()  # rejected chains were among them


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_transition_takes_exactly_its_gradients(num_steps: int, q: Distribution, joint: Counting, z: Tensor) -> None:
    target = bridge(q, joint, 0.4)
    ends = target.ends(z)
    before = joint.gradients
    tuning = Tuning(torch.full((DATA,), 0.9, dtype=torch.float64), Metric.identity(z))
    state, _ = HMC(num_steps).step(target, ends.state(target.beta), tuning, generator=seeded())
    target.ends_after(state, ends)
    assert joint.gradients - before == num_steps
    assert joint.values == 0


def test_select(q: Distribution, joint: Counting, z: Tensor) -> None:
    target = TemperedTarget(StartDensity(q), joint, torch.linspace(0.1, 0.9, DATA, dtype=torch.float64))
    index = torch.tensor([3, 0, 3])
    torch.testing.assert_close(target.select(index).log_density(z[:, index]), target.log_density(z)[:, index])
    torch.testing.assert_close(target.select(index).gradient(z[:, index]), target.gradient(z)[:, index])


def test_where_takes_all_of_a_chain() -> None:
    def ends(value: float) -> Ends:
        wide, narrow = torch.full((1, 2, DIM), value), torch.full((1, 2), value)
        return Ends(wide, narrow, narrow, wide, wide)

    mixed = ends(1.0).where(torch.tensor([[True, False]]), ends(2.0))
    assert all(part[0, 0].eq(1).all() and part[0, 1].eq(2).all() for part in mixed)


def _tril(*shape: int) -> Tensor:
    return torch.randn(*shape, DIM, DIM, generator=seeded(5)).tril(-1) + torch.eye(DIM)


def _mixture(*shape: int) -> MixtureSameFamily:
    weights = Categorical(logits=torch.randn(*shape, 2, generator=seeded(6)))
    loc = torch.randn(*shape, 2, DIM, generator=seeded(7))
    return MixtureSameFamily(weights, MultivariateNormal(loc, scale_tril=_tril(*shape, 2)))


def _normal(*shape: int) -> Distribution:
    return Independent(Normal(torch.randn(*shape, DIM, generator=seeded(8)), 0.5), 1)


def _full(*shape: int) -> Distribution:
    return MultivariateNormal(torch.randn(*shape, DIM, generator=seeded(9)), scale_tril=_tril(*shape))


@pytest.mark.parametrize("make", [_normal, _full, _mixture])
@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0])], ids=["slice", "index"])
def test_rows_have_the_densities_of_their_data(make: Callable[..., Distribution], index: slice | Tensor) -> None:
    q, points = make(DATA), torch.randn(CHAINS, DATA, DIM, generator=seeded())
    rows = rows_of(q, index)
    assert rows.batch_shape == (2,)
    torch.testing.assert_close(rows.log_prob(points[:, index]), q.log_prob(points)[:, index])
    shared = make()
    assert rows_of(shared, index) is shared


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="Laplace"):
        rows_of(Independent(Laplace(torch.zeros(DATA, DIM), 1.0), 1), slice(2))


@pytest.mark.parametrize("make", [_normal, _full])
def test_metric_is_the_starts_covariance(make: Callable[..., Distribution]) -> None:
    q = make(DATA)
    draws = q.sample((200_000,))
    metric = metric_of(q, draws[:1])
    away = draws - metric.center
    # standard errors of a mean and of a second moment, from the draws
    assert (away.mean(0) / away.std(0) * math.sqrt(len(draws))).abs().max() < 4.5
    products = away.unsqueeze(-1) * away.unsqueeze(-2)
    difference = products.mean(0) - metric.covariance()
    assert (difference / products.std(0) * math.sqrt(len(draws))).abs().max() < 4.5


def test_metric_of_a_mixture_is_that_of_its_largest_component() -> None:
    q = _mixture(DATA)
    metric = metric_of(q, torch.zeros(1, DATA, DIM))
    for datum, largest in enumerate(q.mixture_distribution.probs.argmax(-1).expand(DATA).tolist()):
        part = q.component_distribution
        torch.testing.assert_close(metric.center[datum], part.loc.expand(DATA, -1, -1)[datum, largest])
        covariance = part.covariance_matrix.expand(DATA, -1, -1, -1)[datum, largest]
        torch.testing.assert_close(metric.covariance()[datum], covariance)


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor([0.0]),
        torch.tensor([0.1, 1.0]),
        torch.tensor([0.0, 0.9]),
        torch.tensor([0.0, 0.5, 0.5, 1.0]),
        torch.tensor([0.0, math.nan, 1.0]),
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
    ],
    ids=str,
)
def test_temperatures_that_do_not_rise_are_refused(given: Tensor) -> None:
    with pytest.raises(ElbowroomError, match="do not rise"):
        inverse_temperatures(given, "linear", 3)


def test_given_temperatures_are_taken_as_they_are() -> None:
    given = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert inverse_temperatures(given, "linear", 2).tolist() == [[0.0, 0.0], [0.3, 0.3], [1.0, 1.0]]
    by_datum = torch.tensor([[0.0, 0.0], [0.3, 0.5], [1.0, 1.0]], dtype=torch.float64)
    assert inverse_temperatures(by_datum, "linear", 2).equal(by_datum)


@pytest.mark.parametrize(("temperatures", "schedule"), [(0, "linear"), (-3, "sigmoid"), (5, "sigmoidal")])
def test_schedules_that_do_not_exist(temperatures: int, schedule: str) -> None:
    with pytest.raises(ElbowroomError):
        temperature_schedule(temperatures, schedule)
