"""Distributions of flows: an affine map makes a full normal distribution, which is known in all respects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from elbowroom.model.draws import detach, draw, mean
from elbowroom.model.flow_distributions import Bijection, Direction, FlowDistribution
from elbowroom.model.noise import PerRow, Prepared, Recorder

DIRECTIONS: list[Direction] = ["normalizing", "generative"]
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Affine(Bijection):
    """y = A x + B c, with a lower triangular A; it counts its calls."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.widest, self.calls = dim, 0
        matrix = torch.randn(dim, dim, generator=seeded(dim), dtype=torch.float64).tril(-1)
        self.matrix = torch.nn.Parameter(matrix + torch.diag(torch.linspace(0.5, 1.5, dim, dtype=torch.float64)))
        self.context = torch.nn.Parameter(torch.randn(dim, 2, generator=seeded(9), dtype=torch.float64))

    def forward(self, given: Tensor, context: Tensor | None = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        self.calls += 1
        shift = 0.0 if context is None else context @ self.context.T
        log_det = self.matrix.diagonal().log().sum()
        if inverse:
            away = (given - shift).unsqueeze(-1)
            out = torch.linalg.solve_triangular(self.matrix.tril(), away, upper=False).squeeze(-1)
        else:
            out = given @ self.matrix.tril().T + shift
        return out, (-log_det if inverse else log_det).expand(out.shape[:-1])


class Exponential(Bijection):
    """y = eˣ, elementwise: z is log-normal."""

    widest = 1

    def forward(self, given: Tensor, context: Tensor | None = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        out = given.log() if inverse else given.exp()
        return out, -out.sum(-1) if inverse else given.sum(-1)


def parameters(dim: int = 3, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """m and log s of every row, and contexts."""
    return tuple(torch.randn(rows, n, generator=seeded(n), dtype=torch.float64) for n in (dim, dim, 2))  # type: ignore[return-value]


def affine(direction: Direction) -> FlowDistribution:
    loc, log_scale, context = parameters()
    return FlowDistribution(Affine(3), direction, loc, 0.3 * log_scale, context)


def as_normal(q: FlowDistribution) -> MultivariateNormal:
    """The same distribution, by its mean and its covariance."""
    assert isinstance(q.bijection, Affine) and q.context is not None
    shift, factor = q.context @ q.bijection.context.T, q.bijection.matrix.tril()
    if q.direction == "normalizing":  # u = A y + b, so that y = A⁻¹ (u − b)
        factor = torch.linalg.inv(factor).tril()
        shift = -shift @ factor.T
    scale = q.log_scale.exp()
    return MultivariateNormal(q.loc + scale * shift, scale_tril=scale.unsqueeze(-1) * factor)


@every_direction
def test_an_affine_flow_is_a_full_normal(direction: Direction) -> None:
    q = affine(direction)
    same = as_normal(q)
    z = torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), same.log_prob(z))
    torch.testing.assert_close(q.log_prob(z[0, 0]), same.log_prob(z[0, 0]))  # one z for all rows
    torch.testing.assert_close(q.mean, same.mean.detach())
    torch.testing.assert_close(mean(q), same.mean.detach())
    torch.testing.assert_close(q.variance, same.variance.detach())
    torch.testing.assert_close(q.stddev, same.stddev.detach())
    assert q.batch_shape == (4,)
    assert q.event_shape == (3,)


@every_direction
def test_draws_follow_the_density(direction: Direction) -> None:
    q, n = affine(direction), 20_000
    same = as_normal(q)
    z = draw(q, (n,), generator=seeded(3)).detach()
    away = z - same.mean.detach()
    products = away.unsqueeze(-1) * away.unsqueeze(-2)
    for values, exact in ((away, 0.0), (products, same.covariance_matrix.detach())):
        assert ((values.mean(0) - exact) / (values.std(0) / math.sqrt(n))).abs().max() < 4.5  # of 60 numbers


@every_direction
def test_the_density_of_the_last_draws_is_remembered_and_that_of_no_others(direction: Direction) -> None:
    q = affine(direction)
    same, bijection = as_normal(q), q.bijection
    assert isinstance(bijection, Affine)
    first, z = (draw(q, (5,), generator=seeded(seed)) for seed in (1, 2))
    calls = bijection.calls
    torch.testing.assert_close(q.log_prob(z), same.log_prob(z))
    assert bijection.calls == calls
    for other in (first, z.clone(), z[:]):
        torch.testing.assert_close(q.log_prob(other), same.log_prob(other))
    assert bijection.calls == calls + 3


@every_direction
def test_draws_that_are_changed_in_place_have_another_density(direction: Direction) -> None:
    q = affine(direction)
    with torch.no_grad():
        z = draw(q, (5,), generator=seeded())
        z += 1.0
        torch.testing.assert_close(q.log_prob(z), as_normal(q).log_prob(z))


@every_direction
@pytest.mark.parametrize("without", ["sample", "detach"])
def test_the_density_of_draws_has_a_gradient_where_the_draws_have_none(direction: Direction, without: str) -> None:
    q = affine(direction)
    z = q.sample((5,), seeded()) if without == "sample" else draw(q, (5,), generator=seeded()).detach()
    weights = list(q.bijection.parameters())
    found = torch.autograd.grad(q.log_prob(z).sum(), weights)
    exact = torch.autograd.grad(as_normal(q).log_prob(z).sum(), weights)
    torch.testing.assert_close(found, exact)


@every_direction
def test_what_is_remembered_has_the_whole_gradient(direction: Direction) -> None:
    """Through the draws and through the density: that of log N(u) − log |J|."""
    found = []
    for remembered in (True, False):
        q = affine(direction)
        z = draw(q, (5,), generator=seeded())
        log_q = q.log_prob(z if remembered else z.clone())
        found.append(torch.autograd.grad((log_q + z.sum(-1).sin()).sum(), list(q.bijection.parameters())))
    torch.testing.assert_close(*found)


@every_direction
def test_detached_it_has_a_gradient_in_z_alone(direction: Direction) -> None:
    q = affine(direction)
    q.loc.requires_grad_()
    z = draw(q, (5,), generator=seeded())
    leaf = z.detach().requires_grad_()
    log_q = detach(q).log_prob(leaf)
    torch.testing.assert_close(log_q, q.log_prob(z))
    (found,) = torch.autograd.grad(log_q.sum(), leaf)
    (exact,) = torch.autograd.grad(as_normal(q).log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(found, exact)
    alone = detach(q).log_prob(z.detach())
    assert not alone.requires_grad
    assert all(weight.requires_grad for weight in q.bijection.parameters())


@every_direction
def test_rows_and_larger_batches(direction: Direction) -> None:
    q = affine(direction)
    z = torch.randn(7, 2, 3, generator=seeded(), dtype=torch.float64)
    for index in (torch.tensor([3, 1]), slice(1, 3)):
        some = q.rows(index)
        assert some.batch_shape == (2,)
        torch.testing.assert_close(
            some.log_prob(z), as_normal(q).log_prob(z.unsqueeze(-2))[..., index].diagonal(0, 1, 2)
        )
    loc, log_scale, _ = parameters()
    one = FlowDistribution(Affine(3), direction, loc[0], log_scale[0])
    assert one.batch_shape == ()
    assert draw(one, (5,), generator=seeded()).shape == (5, 3)
    wide = one.expand((2,))
    assert draw(wide, (5,), generator=seeded()).shape == (5, 2, 3)
    torch.testing.assert_close(wide.log_prob(z), one.log_prob(z))


def test_of_a_shared_mean_and_a_context_each_row_has_its_own() -> None:
    """As for a prior with a context."""
    loc, log_scale, context = parameters()
    p = FlowDistribution(Affine(3), "normalizing", loc[0], log_scale[0], context)
    assert p.batch_shape == (4,)
    z = torch.randn(3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(p.rows(slice(2, 3)).log_prob(z), p.log_prob(z)[2:3])
    assert p.rows(torch.tensor([1])).mean.shape == (1, 3)


def test_moments_of_a_map_that_is_not_affine_are_near() -> None:
    q = FlowDistribution(Exponential(), "generative", torch.zeros(3).double(), torch.zeros(3).double())
    exact, kurtosis = (math.exp(0.5), (math.e - 1) * math.e), 113.94  # of a log-normal variable
    assert (q.mean - exact[0]).abs().max() < math.sqrt(exact[1] / 256)  # the error of as many draws
    assert (q.variance / exact[1] - 1).abs().max() < math.sqrt((kurtosis - 1) / 256)
    assert torch.equal(q.mean, FlowDistribution(Exponential(), "generative", q.loc, q.log_scale).mean)


def test_moments_are_the_same_however_many_rows_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    import elbowroom.model.flow_distributions as module

    wanted = affine("generative").mean
    monkeypatch.setattr(module, "_ROWS", 12)
    torch.testing.assert_close(affine("generative").mean, wanted)


@every_direction
def test_noise_is_prepared_or_drawn_by_rows(direction: Direction) -> None:
    recorder = Recorder(seeded(4))
    z = draw(affine(direction), (5,), generator=recorder)
    assert torch.equal(z, draw(affine(direction), (5,), generator=Prepared(recorder.draw(seeded(4)))))
    many = draw(affine(direction), (5,), generator=PerRow([seeded(row) for row in range(4)]))
    two = draw(affine(direction).rows(slice(1, 3)), (5,), generator=PerRow([seeded(1), seeded(2)]))
    torch.testing.assert_close(many[:, 1:3], two)
    assert not torch.allclose(many[:, 0], many[:, 1])


def test_a_mixture_of_flows_draws_from_its_components() -> None:
    q = affine("generative")
    mixture = MixtureSameFamily(Categorical(logits=torch.tensor([0.0, 1.0, 2.0, 0.5]).double()), q, validate_args=False)
    exact = MixtureSameFamily(mixture.mixture_distribution, as_normal(q))
    z, n = draw(mixture, (20_000,), generator=seeded(1)), 20_000
    assert z.shape == (n, 3)
    assert (((z.mean(0) - exact.mean) / (z.std(0) / math.sqrt(n))).abs() < 4).all()
    squares = z.square()
    second = exact.variance + exact.mean.square()
    assert (((squares.mean(0) - second) / (squares.std(0) / math.sqrt(n))).abs() < 4).all()
    torch.testing.assert_close(mixture.log_prob(z[:9]), exact.log_prob(z[:9]))
