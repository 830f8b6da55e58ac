"""NUTS: draws stay exact whatever the tuning, chains do not meet, and what goes wrong is counted."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.integrators import INTEGRATORS, Integrator
from elbowroom.samplers.kernel import Info, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import MAX_DEPTH, NUTS
from elbowroom.samplers.target import Density, Target


def z_score(values: Tensor, expected: float) -> float:
    values = values.double().flatten()
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


def identity_tuning(z: Tensor, step_size: float | Tensor) -> Tuning:
    return Tuning(torch.as_tensor(step_size, dtype=z.dtype).expand(z.shape[1]), Metric.identity(z))


def run(
    kernel: NUTS, target: Target, z: Tensor, tuning: Tuning, generator: torch.Generator, steps: int
) -> tuple[State, Info]:
    state = init(target, z)
    for _ in range(steps):
        state, info = kernel.step(target, state, tuning, generator=generator)
    return state, info


def standard_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square().sum(-1)


class Normals(Target):
    """N(mean, variance) with a mean and variances for each datum, elementwise; counts what is asked of it."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        self.mean, self.variance = mean, variance
        self.points: list[Tensor] = []
        self.selections: list[Tensor] = []

    def log_density(self, z: Tensor) -> Tensor:
        return -0.5 * ((z - self.mean).square() / self.variance).sum(-1)

    def gradient(self, z: Tensor) -> Tensor:
        self.points.append(z)
        return (self.mean - z) / self.variance

    def select(self, index: Tensor) -> Normals:
        part = Normals(self.mean[index], self.variance[index])
        part.points, part.selections = self.points, self.selections
        self.selections.append(index)
        return part


def normals(data: int, dim: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Normals:
    mean = 3 * torch.randn(data, dim, generator=generator, dtype=dtype)
    return Normals(mean, 10 ** (2 * torch.rand(data, dim, generator=generator, dtype=dtype) - 1))


def exact_draws(target: Normals, replicas: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(replicas, *target.mean.shape, generator=generator, dtype=target.mean.dtype)
    return target.mean + target.variance.sqrt() * noise


# --- exactness


METRICS: dict[str, Callable[[Normals], Metric]] = {
    "the right one": lambda target: Metric.diagonal(target.variance.sqrt(), target.mean),
    "identity": lambda target: Metric.identity(target.mean[None]),
    "another datum's, dense": lambda target: Metric.dense(
        torch.diag_embed(target.variance.flip(0)) + 0.05, target.mean.flip(0)
    ),
}


STEPS = [(0.15, torch.float64), (0.6, torch.float32), (1.9, torch.float64)]


@pytest.mark.parametrize(
    ("integrator", "step_size", "metric", "dtype"),
    [  # every metric with every step, and each of these with either integrator in turn
        (list(INTEGRATORS)[(row + column) % len(INTEGRATORS)], step_size, metric, dtype)
        for row, metric in enumerate(METRICS)
        for column, (step_size, dtype) in enumerate(STEPS)
    ],
)
def test_exact_draws_stay_exact(
    integrator: Integrator, step_size: float, metric: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    target = normals(2500, 2, generator, dtype)
    z = exact_draws(target, 4, generator)
    tuning = Tuning(torch.full((2500,), step_size, dtype=dtype), METRICS[metric](target))
    state, info = run(NUTS(max_depth=5, integrator=integrator), target, z, tuning, generator, 3)

    whitened = (state.z - target.mean) / target.variance.sqrt()
    assert abs(z_score(whitened, 0)) < 4
    assert abs(z_score(whitened.square(), 1)) < 4
    assert abs(z_score(whitened.prod(-1), 0)) < 4
    assert abs(z_score(-state.log_density, 1)) < 4  # half a χ² with 2 degrees of freedom
    assert abs(z_score(info.energy, 2)) < 4  # and with the momentum's, of 4
    assert abs(z_score((info.energy - 2).square(), 2)) < 4


@pytest.mark.parametrize("step_size", [0.3, 1.2])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_asymmetric_target(integrator: Integrator, step_size: float, generator: torch.Generator) -> None:
    """The logarithm of an exponential variable has the density exp(x − eˣ)."""
    target = Density(lambda z: (z - z.exp()).sum(-1))
    z = torch.empty(8, 2500, 1, dtype=torch.float64).exponential_(generator=generator).log()
    state, info = run(NUTS(integrator=integrator), target, z, identity_tuning(z, step_size), generator, 4)
    mean, variance = -0.5772156649015329, math.pi**2 / 6
    assert abs(z_score(state.z, mean)) < 4
    assert abs(z_score((state.z - mean).square(), variance)) < 4
    assert abs(z_score((state.z - mean) ** 3, -2 * 1.2020569031595942)) < 4
    assert abs(z_score(state.z.exp(), 1)) < 4
    assert abs(z_score(info.energy, 1 - mean + 0.5)) < 4


def test_long_run_from_a_point_finds_the_asymmetric_target(generator: torch.Generator) -> None:
    target = Density(lambda z: (z - z.exp()).sum(-1))
    z = torch.full((4, 2500, 1), 2.0, dtype=torch.float64)
    state, _ = run(NUTS(), target, z, identity_tuning(z, 0.7), generator, 15)
    assert abs(z_score(state.z, -0.5772156649015329)) < 4
    assert abs(z_score((state.z + 0.5772156649015329).square(), math.pi**2 / 6)) < 4


def test_neals_funnel(generator: torch.Generator) -> None:
    """v ~ N(0, 9), xᵢ ~ N(0, eᵛ): the neck diverges, the mouth takes long trajectories, exact draws stay exact."""

    def log_density(z: Tensor) -> Tensor:
        v, x = z[..., 0], z[..., 1:]
        return -v.square() / 18 - 0.5 * x.square().sum(-1) * (-v).exp() - 0.5 * x.shape[-1] * v

    v = 3 * torch.randn(4, 2500, 1, generator=generator, dtype=torch.float64)
    x = (v / 2).exp() * torch.randn(4, 2500, 4, generator=generator, dtype=torch.float64)
    z = torch.cat([v, x], -1)
    state, info = run(NUTS(max_depth=6), Density(log_density), z, identity_tuning(z, 0.4), generator, 2)
    assert bool(info.divergent.any()) and bool((info.num_gradients == 63).any())
    v, x = state.z[..., 0], state.z[..., 1:]
    assert abs(z_score(v, 0)) < 4
    assert abs(z_score(v.square(), 9)) < 4
    assert abs(z_score(v**3, 0)) < 4
    assert abs(z_score(x / (v / 2).exp()[..., None], 0)) < 4
    assert abs(z_score(x.square() / v.exp()[..., None], 1)) < 4


def test_gradients_that_only_approximate_leave_draws_exact(generator: torch.Generator) -> None:
    class Coarse(Normals):
        def gradient(self, z: Tensor) -> Tensor:
            return super().gradient(z).to(torch.bfloat16).to(z.dtype) * 1.1

        def select(self, index: Tensor) -> Coarse:
            return Coarse(self.mean[index], self.variance[index])

    exact = normals(2500, 2, generator)
    target = Coarse(exact.mean, exact.variance)
    tuning = Tuning(torch.full((2500,), 0.5, dtype=torch.float64), METRICS["the right one"](exact))
    state, info = run(NUTS(), target, exact_draws(exact, 4, generator), tuning, generator, 4)
    whitened = (state.z - target.mean) / target.variance.sqrt()
    assert abs(z_score(whitened, 0)) < 4
    assert abs(z_score(whitened.square(), 1)) < 4
    assert abs(z_score(info.energy, 2)) < 4


# --- compaction, layout, caches


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_compaction_changes_nothing(integrator: Integrator, dtype: torch.dtype, generator: torch.Generator) -> None:
    target = normals(60, 4, generator, dtype)
    z = exact_draws(target, 3, generator)
    step_size = 10 ** (1.5 * torch.rand(60, generator=generator, dtype=dtype) - 1.5)
    runs = []
    for compact in (False, True):
        kernel = NUTS(max_depth=7, integrator=integrator, compact=compact)
        seeded = torch.Generator().manual_seed(7)
        runs.append(run(kernel, target, z, identity_tuning(z, step_size), seeded, 2))
        assert bool(target.selections) == compact
    for plain, compacted in zip(*((*state, *info) for state, info in runs), strict=True):
        assert torch.equal(plain, compacted)


def test_compaction_with_a_dense_metric_and_shared_weights(generator: torch.Generator) -> None:
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    target = Density(lambda z, x: -0.5 * (x - (z @ weight.T).tanh()).square().sum(-1) + standard_normal(z), x)
    z = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(40, 3, 6, generator=generator, dtype=torch.float64)
    tuning = Tuning(
        10 ** (-1.5 * torch.rand(40, generator=generator, dtype=torch.float64)), Metric.dense(root @ root.mT)
    )
    plain, compacted = (
        run(NUTS(compact=compact), target, z, tuning, torch.Generator().manual_seed(7), 2) for compact in (False, True)
    )
    torch.testing.assert_close(plain, compacted, rtol=1e-9, atol=1e-9)


def test_work_follows_the_chains_that_still_run(generator: torch.Generator) -> None:
    target = normals(100, 2, generator)
    z = exact_draws(target, 2, generator)
    state = init(target, z)
    target.points.clear()
    step_size = torch.full((100,), 1.0, dtype=torch.float64)
    step_size[3] = 0.01  # one datum's trajectories are a hundred times as long
    _, info = NUTS().step(target, state, identity_tuning(z, step_size), generator=generator)
    rows = [points.shape[:2].numel() for points in target.points]
    assert rows[0] == 200 and target.points[0].shape == z.shape
    assert rows[-1] <= 2
    assert len(rows) == int(info.num_gradients.max()) > 60
    assert int(info.num_gradients.sum()) <= sum(rows) <= 1.5 * int(info.num_gradients.sum()) + 200
    assert all(int(index.max()) < 100 for index in target.selections)


def test_without_compaction_the_target_is_never_selected(generator: torch.Generator) -> None:
    target = normals(20, 2, generator)
    z = exact_draws(target, 2, generator)
    run(NUTS(compact=False), target, z, identity_tuning(z, 0.3), generator, 1)
    assert not target.selections
    assert {points.shape for points in target.points} == {z.shape}


@pytest.mark.parametrize("compact", [False, True])
def test_a_transition_costs_its_leaves_and_caches_what_was_evaluated(compact: bool, generator: torch.Generator) -> None:
    target = normals(30, 3, generator, torch.float32)
    z = exact_draws(target, 2, generator)
    before = init(target, z)
    kept = [tensor.clone() for tensor in before]
    target.points.clear()
    after, info = NUTS(compact=compact).step(target, before, identity_tuning(z, 0.3), generator=generator)
    assert len(target.points) == int(info.num_gradients.max())
    visited = torch.cat([z.flatten(0, 1), *(points.flatten(0, 1) for points in target.points)])
    assert all(bool((point == visited).all(-1).any()) for point in after.z.flatten(0, 1))
    assert torch.equal(after.log_density, target.log_density(after.z))
    assert torch.equal(after.gradient, target.gradient(after.z))
    assert all(torch.equal(old, new) for old, new in zip(kept, before, strict=True))
    assert not torch.equal(after.z, before.z)


def test_replicas_and_data_may_be_transposed_in_memory(generator: torch.Generator) -> None:
    target = normals(30, 3, generator)
    z = exact_draws(target, 2, generator)
    strided = z.transpose(0, 1).contiguous().transpose(0, 1)
    one, other = (
        run(NUTS(), target, start, identity_tuning(z, 0.3), torch.Generator().manual_seed(3), 2)
        for start in (z, strided)
    )
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_randomness_comes_from_the_generator_alone(generator: torch.Generator) -> None:
    target = normals(10, 2, generator)
    z = exact_draws(target, 2, generator)
    before = torch.get_rng_state()
    same = [run(NUTS(), target, z, identity_tuning(z, 0.3), torch.Generator().manual_seed(s), 2)[0] for s in (1, 1, 2)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(same[0].z, same[1].z)
    assert not torch.equal(same[0].z, same[2].z)


# --- trajectories


def test_both_directions_are_as_likely(generator: torch.Generator) -> None:
    target = Normals(torch.zeros(20_000, 1), torch.ones(20_000, 1))
    z = torch.zeros(1, 20_000, 1)
    state = init(target, z)
    target.points.clear()
    r = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    NUTS(max_depth=1).step(target, state, identity_tuning(z, 0.1), generator=torch.Generator().manual_seed(5))
    with_the_momentum = target.points[0] / r > 0  # no force at 0, so that the first step is ± ε r
    assert abs(z_score(with_the_momentum.double(), 0.5)) < 4


def test_a_trajectory_is_half_a_period_long_at_least_and_one_at_most(generator: torch.Generator) -> None:
    """In many dimensions all chains of a normal target go round circles, of 2π, and chords turn after half of it."""
    z = torch.randn(4, 5, 1000, generator=generator, dtype=torch.float64)
    for step_size in (0.05, 0.1, 0.17):
        _, info = run(NUTS(), Density(standard_normal), z, identity_tuning(z, step_size), generator, 1)
        length = step_size * info.num_gradients
        assert bool((length > math.pi - 0.3).all())
        assert bool((length < 2 * math.pi + 0.3).all())


@pytest.mark.parametrize("step_size", [1.9, 2.1, 2.2, 2.5, 3.0])
def test_long_rotations_do_not_go_round_and_round(step_size: float, generator: torch.Generator) -> None:
    """Steps that are exact can be as long as a third of a period; ends alone then look straight again and again."""
    z = torch.randn(2, 200, 10, generator=generator, dtype=torch.float64)
    kernel = NUTS(integrator="rotation")
    _, info = run(kernel, Density(standard_normal), z, identity_tuning(z, step_size), generator, 1)
    assert float(info.num_gradients.double().mean()) < 3.5
    assert float(info.acceptance.min()) > 1 - 1e-9


@pytest.mark.parametrize("max_depth", [1, 2, 5])
def test_depth_is_capped_and_the_cap_is_visible(max_depth: int, generator: torch.Generator) -> None:
    z = torch.randn(2, 10, 3, generator=generator, dtype=torch.float64)
    _, info = run(NUTS(max_depth=max_depth), Density(standard_normal), z, identity_tuning(z, 1e-4), generator, 1)
    assert info.num_gradients.tolist() == [[2**max_depth - 1] * 10] * 2
    assert bool((info.acceptance > 0.999).all())


# --- divergences


@pytest.mark.parametrize("compact", [False, True])
def test_divergences_are_counted_and_the_chain_stays(compact: bool, generator: torch.Generator) -> None:
    variance = torch.ones(6, 2, dtype=torch.float64)
    variance[2] = 1e-8  # a step of 0.5 is 5000 standard deviations
    target = Normals(torch.zeros_like(variance), variance)
    z = exact_draws(target, 2, generator)
    state, info = run(NUTS(compact=compact), target, z, identity_tuning(z, 0.5), generator, 1)
    assert info.divergent.tolist() == [[False, False, True, False, False, False]] * 2
    assert info.num_gradients[:, 2].tolist() == [1, 1]
    assert info.acceptance[:, 2].tolist() == [0, 0]
    assert torch.equal(state.z[:, 2], z[:, 2])
    assert bool(torch.isfinite(info.energy).all())


@pytest.mark.parametrize("beyond", [math.nan, -math.inf, math.inf])
def test_energies_that_are_no_number_are_divergences(beyond: float, generator: torch.Generator) -> None:
    """N(0, I) that is no number outside the square |zᵢ| < 1: draws stay uniform over what is left."""

    def log_density(z: Tensor) -> Tensor:
        return torch.where((z.abs() < 1).all(-1), 0 * z.sum(-1), beyond)

    z = 2 * torch.rand(4, 2500, 2, generator=generator, dtype=torch.float64) - 1
    state, info = run(NUTS(max_depth=4), Density(log_density), z, identity_tuning(z, 0.4), generator, 4)
    assert 0.5 < float(info.divergent.double().mean()) <= 1
    assert bool((state.z.abs() < 1).all()) and bool(torch.isfinite(state.log_density).all())
    assert abs(z_score(state.z, 0)) < 4
    assert abs(z_score(state.z.square(), 1 / 3)) < 4


def test_chains_that_ended_do_not_wander(generator: torch.Generator) -> None:
    """A density is not asked about ever wilder points on behalf of a chain that has diverged."""
    target = Normals(torch.zeros(2, 1, dtype=torch.float64), torch.tensor([[1e-4], [1.0]], dtype=torch.float64))
    z = torch.full((1, 2, 1), 0.5, dtype=torch.float64)
    run(NUTS(compact=False), target, z, identity_tuning(z, 0.1), generator, 1)
    assert len(target.points) > 10
    assert float(torch.stack(target.points).abs().max()) < 1000


# --- settings


@pytest.mark.parametrize("max_depth", [0, -1, MAX_DEPTH + 1])
def test_depth_out_of_range(max_depth: int) -> None:
    with pytest.raises(ElbowroomError, match=f"max_depth is {max_depth}, .* between 1 and {MAX_DEPTH}"):
        NUTS(max_depth=max_depth)


def test_unknown_integrator() -> None:
    with pytest.raises(ElbowroomError, match=r"integrator is 'leapforg'[\s\S]*Did you mean 'leapfrog'"):
        NUTS(integrator="leapforg")  # type: ignore[arg-type]
