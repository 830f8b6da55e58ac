"""Warm-up: step sizes that meet their target and metrics that meet the density, for each datum on its own."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.adaptation import (
    DualAveraging,
    initial_step_size,
    learn_dense,
    learn_diagonal,
    warm_up,
)
from elbowroom.samplers.hmc import HMC, RandomWalk
from elbowroom.samplers.kernel import Info, Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.sampling import sample
from elbowroom.samplers.target import Density, Target


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(precision: Tensor, mean: Tensor) -> Density:
    """N(mean, precision⁻¹) of each datum; shapes (data, dim, dim) and (data, dim)."""

    def log_density(z: Tensor, precision: Tensor, mean: Tensor) -> Tensor:
        return -0.5 * torch.einsum("rni,nij,rnj->rn", z - mean, precision, z - mean)

    return Density(log_density, precision, mean)


def round_gaussians(scales: Tensor, dim: int = 2) -> Density:
    """N(0, scale² I), a scale for each datum."""
    return Density(lambda z, scale: -0.5 * (z / scale).square().sum(-1), scales.unsqueeze(-1))


# --- dual averaging


def reference(first: float, acceptances: list[float], delta: float) -> tuple[list[float], list[float]]:
    """Hoffman & Gelman (2014), algorithm 4, in floats: ε and its average after each update."""
    gamma, t0, kappa, mu = 0.05, 10.0, 0.75, math.log(10 * first)
    error, log_average, steps, averages = 0.0, 0.0, [], []
    for m, alpha in enumerate(acceptances, 1):
        error = (1 - 1 / (m + t0)) * error + (delta - alpha) / (m + t0)
        log_step = mu - math.sqrt(m) / gamma * error
        log_average = m**-kappa * log_step + (1 - m**-kappa) * log_average
        steps.append(math.exp(log_step))
        averages.append(math.exp(log_average))
    return steps, averages


def test_dual_averaging_is_hoffman_and_gelmans() -> None:
    first = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    acceptances = torch.rand(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    search = DualAveraging.start(first)
    found = []
    for acceptance in acceptances:
        search = search.update(acceptance.unsqueeze(0), 0.65)
        found.append((search.log_step.exp(), search.log_average.exp()))
    for datum in range(3):
        steps, averages = reference(float(first[datum]), acceptances[:, datum].clamp(min=1e-3).tolist(), 0.65)
        for (step, average), step_here, average_here in zip(found, steps, averages, strict=True):
            assert float(step[datum]) == pytest.approx(step_here, rel=1e-12)
            assert float(average[datum]) == pytest.approx(average_here, rel=1e-12)


def test_replicas_are_pooled_by_the_harmonic_mean() -> None:
    """Three chains that do well do not hide a fourth that is stuck."""
    healthy = torch.full((4, 1), 0.9, dtype=torch.float64)
    stuck = healthy.clone()
    stuck[0] = 0.0
    mixed = torch.tensor([[0.4], [0.8]], dtype=torch.float64)
    first = torch.ones(1, dtype=torch.float64)

    def pooled(acceptance: Tensor) -> float:
        """What an update of the error says."""
        search = DualAveraging.start(first).update(acceptance, 0.8)
        return 0.8 - float(search.error) * 11

    assert pooled(healthy) == pytest.approx(0.9)
    assert pooled(mixed) == pytest.approx(2 / (1 / 0.4 + 1 / 0.8))
    assert pooled(stuck) < 0.01  # the arithmetic mean, 0.675, would be near the target
    assert pooled(torch.zeros(4, 1, dtype=torch.float64)) > 0  # and no division by zero


def test_one_stuck_replica_shortens_the_step() -> None:
    """Of four chains one starts in a well a thousand times narrower, where the others' steps never move it."""
    target = Density(lambda z: torch.where(z.abs() < 0.5, -0.5 * (z / 1e-3).square(), -0.5 * (z - 5).square()).sum(-1))
    z = torch.tensor([0.0, 5.0, 5.1, 4.9], dtype=torch.float64).reshape(4, 1, 1)
    generator = torch.Generator().manual_seed(1)
    warm = warm_up(HMC(3), target, z, metric=Metric.identity(z), num_steps=200, generator=generator)
    assert float(warm.tuning.step_size) < 0.01


@pytest.mark.parametrize("updates", [0, 1, 5])
def test_the_longest_step_is_kept(updates: int) -> None:
    search = DualAveraging.start(torch.tensor([0.1, 5.0]), max_step_size=math.pi / 2)
    for _ in range(updates):
        search = search.update(torch.ones(1, 2), 0.8)
        assert float(search.log_step.exp().max()) <= math.pi / 2 + 1e-6
    assert float(search.log_average.exp().max()) <= math.pi / 2 + 1e-6
    assert float(search.log_average.exp()[0]) >= 0.1 - 1e-6


# --- the first guess


@pytest.mark.parametrize("exponent", [-3, -2, 0, 2, 3])
def test_the_first_step_has_the_scale_of_the_density(exponent: int) -> None:
    scales = 10.0**exponent * torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    target = round_gaussians(scales)
    z = scales.unsqueeze(-1) * normal(8, 3, 2, seed=2)
    found = initial_step_size(target, init(target, z), Metric.identity(z), generator=torch.Generator().manual_seed(3))
    ratio = found / scales
    assert float(ratio.min()) > 0.4
    assert float(ratio.max()) < 3


def test_the_first_step_comes_to_an_end_for_a_flat_density() -> None:
    target = Density(lambda z: 0 * z.sum(-1))
    z = torch.zeros(2, 3, 1)
    found = initial_step_size(target, init(target, z), Metric.identity(z), generator=torch.Generator().manual_seed(3))
    assert bool(torch.isfinite(found).all())
    kernel = HMC(2, integrator="rotation")
    warm = warm_up(
        kernel, target, z, metric=Metric.identity(z), num_steps=5, generator=torch.Generator().manual_seed(3)
    )
    assert float(warm.tuning.step_size.max()) <= math.pi / 2 + 1e-6


def test_the_first_step_stays_out_of_a_cliff() -> None:
    target = Density(lambda z: torch.where(z.abs() > 1, math.nan, z).sum(-1))
    z = torch.zeros(4, 3, 1)
    found = initial_step_size(target, init(target, z), Metric.identity(z), generator=torch.Generator().manual_seed(3))
    assert bool(((found > 0) & (found <= 2)).all())


# --- the whole warm-up


@pytest.mark.parametrize(
    ("kernel", "delta", "steps"),
    [(HMC(5), 0.75, 120), (HMC(5), 0.85, 120), (HMC(1), 0.6, 250), (NUTS(), 0.8, 80), (RandomWalk(), 0.3, 400)],
    ids=["hmc-0.75", "hmc-0.85", "mala-0.6", "nuts-0.8", "random-walk-0.3"],
)
def test_each_datum_reaches_the_acceptance(kernel: Kernel, delta: float, steps: int) -> None:
    """One replica, so that pooling does not matter; the scales span four orders of magnitude."""
    scales = torch.logspace(-2, 2, 9, dtype=torch.float64)
    target, generator = round_gaussians(scales, 10), torch.Generator().manual_seed(4)
    z = scales.unsqueeze(-1) * normal(1, 9, 10, seed=5)
    warm = warm_up(
        kernel, target, z, metric=Metric.identity(z), num_steps=steps, target_acceptance=delta, generator=generator
    )
    state = init(target, (scales.unsqueeze(-1) * normal(100, 9, 10, seed=6)))
    found = sample(kernel, target, state, warm.tuning, draws=10, generator=generator)
    acceptance = found.info.acceptance.mean((0, 1))
    assert float((acceptance - delta).abs().max()) < 0.12, acceptance
    relative = warm.tuning.step_size / scales
    assert float(relative.max() / relative.min()) < 2.5


def test_data_do_not_meet(generator: torch.Generator) -> None:
    """A datum whose density is a thousand times narrower changes nothing for the others."""
    z = normal(4, 3, 2, seed=7)
    tunings = []
    for last in (1.0, 1e-3):
        scales = torch.tensor([1.0, 2.0, last], dtype=torch.float64)
        warm = warm_up(
            HMC(3),
            round_gaussians(scales),
            z * scales.unsqueeze(-1),
            metric=Metric.identity(z),
            num_steps=60,
            learn=learn_diagonal,
            generator=torch.Generator().manual_seed(8),
        )
        tunings.append(warm.tuning.select(torch.tensor([0, 1])))
    torch.testing.assert_close(tunings[0].step_size, tunings[1].step_size)
    torch.testing.assert_close(tunings[0].metric.factor, tunings[1].metric.factor)


class Spy:
    """A kernel that notes the tunings that it is called with."""

    name, max_step_size = "spy", math.inf

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.tunings: list[Tuning] = []

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        self.tunings.append(tuning)
        return self.kernel.step(target, state, tuning, generator=generator)


def test_tuning_ends_where_draws_begin(generator: torch.Generator) -> None:
    spy, target = Spy(HMC(3)), round_gaussians(torch.tensor([1.0, 3.0], dtype=torch.float64))
    z = normal(3, 2, 2, seed=9)
    told: list[tuple[int, int]] = []
    warm = warm_up(
        spy,
        target,
        z,
        metric=Metric.identity(z),
        num_steps=40,
        learn=learn_diagonal,
        generator=generator,
        announce=lambda what, done, total, info=None: told.append((done, total)),
    )
    steps = torch.stack([tuning.step_size for tuning in spy.tunings])
    assert float(steps.std(0).min()) > 0
    assert told == [(done, 40) for done in range(1, 41)]
    frozen = Tuning(
        warm.tuning.step_size.clone(),
        Metric(*(part.clone() for part in (warm.tuning.metric.center, warm.tuning.metric.factor))),
    )
    spy.tunings.clear()
    sample(spy, target, warm.state, warm.tuning, draws=30, generator=generator)
    assert len(spy.tunings) == 30
    for tuning in spy.tunings:
        assert tuning is warm.tuning
        assert torch.equal(tuning.step_size, frozen.step_size)
        assert torch.equal(tuning.metric.factor, frozen.metric.factor)
        assert torch.equal(tuning.metric.center, frozen.metric.center)


def test_a_metric_is_learned_from_the_draws_since_the_one_before(generator: torch.Generator) -> None:
    """Early draws, from before the chains have found their way, are forgotten."""
    z, windows = normal(3, 2, 2, seed=9), []

    def learn(draws: Tensor, metric: Metric) -> Metric:
        windows.append(draws)
        return learn_diagonal(draws, metric)

    target, spy = round_gaussians(torch.tensor([1.0, 3.0], dtype=torch.float64)), Spy(HMC(3))
    warm_up(spy, target, z, metric=Metric.identity(z), num_steps=40, learn=learn, generator=generator)
    changes = [
        step
        for step in range(1, 40)
        if not torch.equal(spy.tunings[step].metric.factor, spy.tunings[step - 1].metric.factor)
    ]
    lengths = [end - start for start, end in pairwise([5, *changes])]  # an eighth to find the way
    assert [draws.shape for draws in windows] == [(length * 3, 2, 2) for length in lengths]
    assert len(windows) >= 2
    assert changes[-1] <= 30  # the step size needs what is left


def test_gradients_are_counted(generator: torch.Generator) -> None:
    z = normal(3, 2, 2, seed=10)
    target = round_gaussians(torch.ones(2, dtype=torch.float64))
    warm = warm_up(HMC(4), target, z, metric=Metric.identity(z), num_steps=25, generator=generator)
    assert warm.num_gradients == 100
    assert bool(torch.isfinite(warm.state.log_density).all())


@pytest.mark.parametrize("learn", [None, learn_diagonal, learn_dense])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 10])
def test_short_warm_ups_leave_a_tuning_of_the_right_order(
    num_steps: int, learn: object, generator: torch.Generator
) -> None:
    """Three steps, of which some end a window, are no reason to forget the scale."""
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)
    z = scales.unsqueeze(-1) * normal(4, 3, 2, seed=11)
    warm = warm_up(
        HMC(3),
        round_gaussians(scales),
        z,
        metric=Metric.identity(z),
        num_steps=num_steps,
        learn=learn,
        generator=generator,  # type: ignore[arg-type]
    )
    metric = warm.tuning.metric
    spread = metric.covariance().diagonal(dim1=1, dim2=2).sqrt().mean(-1)
    relative = warm.tuning.step_size * spread / scales
    assert 1e-2 < float(relative.min()) <= float(relative.max()) < 1e2


# --- metrics


def correlated(data: int = 5, dim: int = 3) -> tuple[Density, Tensor, Tensor]:
    noise = normal(data, dim, dim, seed=12)
    covariance = noise @ noise.mT + 0.3 * torch.eye(dim, dtype=torch.float64)
    mean = 3 * normal(data, dim, seed=13)
    return gaussian(torch.linalg.inv(covariance), mean), mean, covariance


def test_learned_from_independent_draws() -> None:
    """The formulas: biased moments, shrunk towards the metric before by 5 or dim + 5 draws' weight."""
    z = normal(40, 2, 3, seed=14) * torch.tensor([1.0, 2.0, 3.0]) + 7
    before = Metric.diagonal(torch.full((2, 3), 4.0, dtype=torch.float64))
    diagonal, dense = learn_diagonal(z, before), learn_dense(z, before)
    for datum in range(2):
        away = z[:, datum] - z[:, datum].mean(0)
        covariance = away.T @ away / 40
        torch.testing.assert_close(diagonal.factor[datum], ((40 * covariance.diagonal() + 5 * 16) / 45).sqrt())
        expected = (40 * covariance + 8 * 16 * torch.eye(3, dtype=torch.float64)) / 48
        torch.testing.assert_close(dense.covariance()[datum], expected)
    torch.testing.assert_close(diagonal.center, z.mean(0))
    torch.testing.assert_close(dense.center, z.mean(0))
    torch.testing.assert_close(
        learn_diagonal(z, dense).factor.square(),
        (40 * z.var(0, correction=0) + 5 * dense.covariance().diagonal(dim1=1, dim2=2)) / 45,
    )


def test_chains_that_never_moved_leave_a_metric() -> None:
    z, before = torch.ones(10, 2, 3), Metric.identity(torch.ones(1, 2, 3))
    assert float(learn_diagonal(z, before).factor.min()) > 0
    assert float(torch.linalg.eigvalsh(learn_dense(z, before).covariance()).min()) > 0


@pytest.mark.parametrize("learn", [learn_diagonal, learn_dense])
def test_a_warm_up_recovers_each_datums_covariance(learn: object) -> None:
    target, mean, covariance = correlated()
    z = mean + normal(64, 5, 3, seed=15)
    warm = warm_up(
        HMC(8),
        target,
        z,
        metric=Metric.identity(z),
        num_steps=60,
        learn=learn,
        generator=torch.Generator().manual_seed(16),  # type: ignore[arg-type]
    )
    found = warm.tuning.metric
    variance = covariance.diagonal(dim1=1, dim2=2)
    # 21 steps of 64 chains
    ratio = found.covariance().diagonal(dim1=1, dim2=2) / variance
    assert float((ratio - 1).abs().max()) < 0.25
    assert float(((found.center - mean) / variance.sqrt()).abs().max()) < 0.25
    assert found.is_dense == (learn is learn_dense)
    if learn is learn_dense:
        whitened = torch.linalg.solve_triangular(found.factor, torch.linalg.cholesky(covariance), upper=False)
        spectrum = torch.linalg.svdvals(whitened)
        assert 0.8 < float(spectrum.min()) <= float(spectrum.max()) < 1.25


# --- what cannot be warmed up


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "warm-up of 0 steps"),
        ({"target_acceptance": 1.0}, "target acceptance is 1.0"),
        ({"target_acceptance": 0.0}, "target acceptance is 0.0"),
        ({"target_acceptance": math.nan}, "target acceptance is nan"),
        ({"metric": Metric.identity(torch.zeros(1, 5, 2))}, "metric is for 5 examples in 2 dimensions"),
        ({"metric": Metric.identity(torch.zeros(1, 3, 1))}, "metric is for 3 examples in 1 dimensions"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    z = torch.zeros(2, 3, 2)
    arguments = {"metric": Metric.identity(z), **settings}
    with pytest.raises(ElbowroomError, match=message) as error:
        warm_up(HMC(), Density(lambda z: -z.square().sum(-1)), z, **arguments)  # type: ignore[arg-type]
    assert error.value.remedy


def test_a_start_without_density() -> None:
    z = torch.zeros(2, 3, 2)
    with pytest.raises(ElbowroomError, match="not finite at the starting points of 3 of 3 examples"):
        warm_up(HMC(), Density(lambda z: z.log().sum(-1)), z, metric=Metric.identity(z))
