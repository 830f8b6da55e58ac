"""Flows: determinants against autograd, the way back, what depends on what, and bounds against exact evidence."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.ais import AnnealingPlan, ais
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.inference.objectives import elbo, iwae
from elbowroom.model import oracles
from elbowroom.model.draws import draw
from elbowroom.model.flow_distributions import FlowDistribution
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS, AutoregressiveBijection, FlowGuide, FlowPrior
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP

REPEATS = 60  # of averages over draws
#: scalar function, coupling
KINDS: list[tuple[Any, bool]] = [("affine", False), ("affine", True), ("spline", False), ("spline", True)]
every_kind = pytest.mark.parametrize(("scalar", "coupling"), KINDS, ids=["maf", "coupling", "nsf", "nsf-coupling"])
every_prior = pytest.mark.parametrize("name", FLOW_PRIORS)
every_guide = pytest.mark.parametrize("name", FLOW_GUIDES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(module: Any, seed: int = 3, scale: float = 1.0) -> Any:
    """In float64, with weights far from those of the identity."""
    module.double()
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            noise = torch.randn(weight.shape, generator=seeded(100 * seed + number), dtype=torch.float64)
            weight.copy_(scale * noise / math.sqrt(weight.shape[-1] if weight.dim() > 1 else 4))
    return module


def bijection(scalar: Any, coupling: bool, dim: int = 3, context_dim: int = 0) -> AutoregressiveBijection:
    return lively(  # type: ignore[no-any-return]
        AutoregressiveBijection(dim, scalar, coupling=coupling, transforms=3, width=8, context_dim=context_dim)
    )


def guide(name: str, latent_dim: int = 2, dim: int = 4, *, context_dim: int = 0) -> FlowGuide:
    kind = FLOW_GUIDES[name]
    network = MLP((dim,), kind.parameter_shape(latent_dim), hidden=(5,), activation="tanh", context_dim=context_dim)
    made: FlowGuide = lively(kind(network, latent_dim, transforms=2, width=8), scale=0.7)
    return made


# --- the maps ----------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(("dim", "context_dim"), [(1, 0), (1, 2), (3, 0), (4, 2)])
def test_the_determinant_is_that_of_the_jacobian_both_ways(
    scalar: Any, coupling: bool, dim: int, context_dim: int
) -> None:
    f = bijection(scalar, coupling, dim, context_dim)
    x = (1.5 * torch.randn(3, dim, generator=seeded(1), dtype=torch.float64)).clamp(-4, 4)  # where splines bend
    context = torch.randn(3, context_dim, generator=seeded(2), dtype=torch.float64) if context_dim else None
    for inverse in (False, True):
        _, log_det = f(x, context, inverse=inverse)
        for row in range(3):
            given = None if context is None else context[row]
            map_of_row = functools.partial(f, context=given, inverse=inverse)
            jacobian = torch.autograd.functional.jacobian(lambda one, g=map_of_row: g(one)[0], x[row])
            torch.testing.assert_close(log_det[row], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-6, atol=1e-8)
            assert (jacobian.abs() > 0).all()  # after three transforms everything depends on everything


@every_kind
def test_the_way_back_leads_back(scalar: Any, coupling: bool) -> None:
    f = bijection(scalar, coupling, context_dim=2)
    x = 2 * torch.randn(5, 40, 3, generator=seeded(1), dtype=torch.float64)
    context = torch.randn(40, 2, generator=seeded(2), dtype=torch.float64)
    y, log_det = f(x, context)
    again, back = f(y, context, inverse=True)
    torch.testing.assert_close(again, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(back, -log_det, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(y, f(x, context + 1)[0])


@every_kind
def test_one_transform_has_a_triangular_jacobian(scalar: Any, coupling: bool) -> None:
    f = lively(AutoregressiveBijection(4, scalar, coupling=coupling, transforms=1, width=8))
    x = torch.randn(4, generator=seeded(1), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda one: f(one)[0], x)
    before = torch.ones(4, 4).tril(-1).bool()
    if coupling:
        before[:2], before[2:, 2:] = False, False
    assert torch.equal(jacobian != 0, before | torch.eye(4).bool())


@every_kind
def test_it_starts_near_the_identity(scalar: Any, coupling: bool) -> None:
    torch.manual_seed(0)
    for dim in (1, 3):
        f = AutoregressiveBijection(dim, scalar, coupling=coupling, width=64)
        x = torch.randn(50, dim, generator=seeded(1))
        y, log_det = f(x)
        torch.testing.assert_close(y, x, rtol=0, atol=0.2)
        assert log_det.abs().max() < 0.2


@every_kind
def test_in_single_precision_the_way_back_is_known_to_five_digits(scalar: Any, coupling: bool) -> None:
    torch.manual_seed(0)
    f = AutoregressiveBijection(20, scalar, coupling=coupling, width=32)
    with torch.no_grad():  # as steep as trained ones
        for part in f.parts:
            for weight in part.hyper[-1].parameters():
                weight.mul_(50)
    x = torch.randn(200, 20, generator=seeded(1))
    y, _ = f(x)
    assert (y - x).abs().max() > 0.5
    torch.testing.assert_close(f(y, inverse=True)[0], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"transforms": 0}, "0 transforms"),
        ({"layers": 0}, "0 hidden layers"),
        ({"width": 2}, "3 latents was given layers of width 2"),
    ],
)
def test_refusals(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        AutoregressiveBijection(3, "affine", **wrong)


# --- guides ------------------------------------------------------------------------------------------------------


@every_guide
def test_the_density_of_a_guide_integrates_to_one_and_draws_follow_it(name: str) -> None:
    q = guide(name)(torch.randn(2, 4, generator=seeded(5), dtype=torch.float64))
    assert isinstance(q, FlowDistribution)
    # a spline's density has kinks, and is that of N(0, 1) beyond 5
    limit, points = (8, 161) if name == "iaf" else (6, 141)
    axis = torch.linspace(-limit, limit, points, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).unsqueeze(1)  # of standardised z
    z = q.loc + q.log_scale.exp() * grid
    with torch.no_grad():
        density = q.log_prob(z).exp() * (axis[1] - axis[0]) ** 2 * q.log_scale.exp().prod(-1)
    torch.testing.assert_close(density.sum(0), torch.ones(2).double(), rtol=0, atol=1e-5 if name == "iaf" else 3e-3)
    n = 4_000
    draws = draw(q, (n,), generator=seeded()).detach()
    for f in (lambda v: -q.log_prob(v), lambda v: v.sum(-1), lambda v: v.square().sum(-1), lambda v: v.prod(-1)):
        with torch.no_grad():
            values, exact = f(draws), (density * f(z)).sum(0)
        assert ((values.mean(0) - exact).abs() < 4 * values.std(0) / math.sqrt(n) + 5e-3).all()
    # and its own account of its moments
    exact_mean = (density.unsqueeze(-1) * z).sum(0)
    assert ((q.mean - exact_mean).abs() < 4 * q.stddev / 16).all()


@every_guide
def test_shapes_types_and_gradients_of_a_guide(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        made = guide(name, latent_dim=3).to(dtype)
        q = made(torch.randn(2, 6, 4, dtype=dtype, generator=seeded()))  # leading axes too
        z = draw(q, (5,), generator=seeded())
        assert z.shape == (5, 2, 6, 3)
        assert z.dtype == dtype
        assert q.log_prob(z).shape == (5, 2, 6)
        (q.log_prob(z) + z.sum(-1)).sum().backward()
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in made.parameters())


@every_guide
def test_a_guide_starts_near_the_normal_one_and_reads_its_context(name: str) -> None:
    kind = FLOW_GUIDES[name]
    torch.manual_seed(0)
    made = kind(MLP((4,), kind.parameter_shape(2), hidden=(5,), context_dim=2), 2)
    x, context = torch.randn(6, 4, generator=seeded()), torch.randn(6, 2, generator=seeded(1))
    q = made(x, context)
    torch.testing.assert_close(q.mean, q.loc, rtol=0, atol=0.05)
    torch.testing.assert_close(q.stddev, q.log_scale.exp(), rtol=0.05, atol=0)
    assert not torch.allclose(q.mean, made(x, context + 1).mean)


@every_guide
def test_features_of_x_reach_the_transforms(name: str) -> None:
    """Not the location and the scale alone: the shape of q is that of each x."""
    made = guide(name)
    q = made(torch.randn(2, 4, generator=seeded(5), dtype=torch.float64))
    u = torch.randn(2, generator=seeded(6), dtype=torch.float64)
    y, _ = made.bijection(u, q.context)
    assert (y[0] - y[1]).abs().max() > 1e-3


@every_guide
def test_an_input_far_away_has_a_finite_density(name: str) -> None:
    made = guide(name)
    with torch.no_grad():
        made.network.output.weight.mul_(1e3)
    q = made(torch.full((1, 4), 50.0, dtype=torch.float64))
    z = draw(q, (5,), generator=seeded())
    assert z.isfinite().all()
    assert q.log_prob(z).isfinite().all()


# --- bounds ------------------------------------------------------------------------------------------------------


def correlated() -> tuple[oracles.LinearGaussian, Tensor]:
    """Two latents that the data measure by their sum: a posterior far from factorised."""
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.9], [0.8, 1.0]], dtype=torch.float64)
    model = oracles.LinearGaussian(weight, torch.zeros(3, dtype=torch.float64), scale=0.5)
    return model, model.sample(40, generator=seeded(1)).x


def bound_of(made: Any, k: int = 1, repeats: int = REPEATS) -> tuple[float, float]:
    """The mean of the importance-weighted bound over data and draws, with its standard error over draws."""
    model, x = correlated()
    with torch.no_grad():
        every = iwae(model, made, x.repeat(repeats, 1), num_samples=k, generator=seeded())
    values = every.view(repeats, len(x)).mean(1)
    return float(values.mean()), float(values.std()) / math.sqrt(repeats)


@functools.cache
def trained(name: str) -> Any:
    """A linear guide of the oracle's data; a network can do no more here, so that a flow is needed for the rest."""
    model, x = correlated()
    torch.manual_seed(0)
    kind = FLOW_GUIDES[name]
    made = kind(MLP((3,), kind.parameter_shape(2), hidden=()), 2, transforms=2, width=8).double()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.03)
    steps = 250 if name == "nsf" else 400  # a spline is near sooner, and its steps take longest
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for step in range(steps):
        optimizer.zero_grad()
        elbo(model, made, x, kl="monte-carlo", generator=seeded(step)).mean().neg().backward()
        optimizer.step()
        schedule.step()
    return made


def widened(name: str) -> FlowGuide:
    """Trained, then wider by a half: weights of a q with lighter tails than the posterior's have no standard error."""
    made: FlowGuide = copy.deepcopy(trained(name))
    with torch.no_grad():
        made.network.output.bias[2:4] += 2 * math.log(1.5)  # of log σ²
    return made


@every_guide
def test_a_flow_learns_what_a_diagonal_normal_cannot(name: str) -> None:
    model, x = correlated()
    exact, flow = float(model.log_evidence(x).mean().detach()), bound_of(trained(name))
    precision = model.posterior(x[:1]).precision_matrix[0].detach()
    # KL of the posterior from the best normal of independent dimensions, whose precisions are those of the diagonal
    assert 0.5 * (precision.diagonal().log().sum() - precision.logdet()) > 0.8
    assert -4 * flow[1] < exact - flow[0] < (0.02 if name == "iaf" else 0.15)


@every_guide
def test_bounds_lie_below_the_evidence_of_the_oracle_and_weights_average_to_it(name: str) -> None:
    model, x = correlated()
    exact = model.log_evidence(x).detach()
    untrained = guide(name, dim=3)
    few, many = bound_of(untrained), bound_of(untrained, 10)
    assert few[0] + 4 * few[1] < many[0]
    assert many[0] + 4 * many[1] < float(exact.mean())
    near, wide = trained(name), widened(name)
    with torch.no_grad():
        plain = elbo(model, near, x, kl="monte-carlo", num_samples=2000, generator=seeded())
        found = importance_estimate(model, wide, Batch(x), num_samples=2000, generator=seeded(2))
    assert float(plain.mean()) < float(exact.mean()) + 1e-3
    assert ((found.log_evidence - exact) / found.stderr).abs().max() < 4.5
    assert found.stderr.max() < 0.1


@every_guide
def test_stl_and_dreg_have_the_gradient_of_the_other_estimators_on_average(name: str) -> None:
    """Of the same draws: the difference is the score of q, whose mean is zero."""
    model, x = correlated()
    made, repeats = guide(name, dim=3), 30
    weights = [made.network.output.bias, made.bijection.parts[0].hyper[-1].bias]

    def gradient(bound: Any, estimator: Any, seed: int, **more: Any) -> Tensor:
        values = bound(model, made, x[:10], estimator=estimator, generator=seeded(seed), **more)
        return torch.cat([slope.flatten() for slope in torch.autograd.grad(values.sum(), weights)])

    for bound, estimator, more in ((elbo, "stl", {"kl": "monte-carlo"}), (iwae, "dreg", {"num_samples": 4})):
        away = torch.stack(
            [gradient(bound, estimator, s, **more) - gradient(bound, "pathwise", s, **more) for s in range(repeats)]
        )
        found = away.mean(0) / (away.std(0) / math.sqrt(repeats)).clamp(min=1e-9)
        assert found.abs().max() < 4.8  # of some two hundred numbers
        assert away.abs().max() > 1e-3


@every_guide
def test_annealing_starts_from_a_flow(name: str) -> None:
    model, x = correlated()
    path = AnnealingPlan(torch.tensor([0.0, 0.5, 1.0]).double(), torch.tensor([0.5]).double())  # without a pilot run
    found = ais(model, x[:6], guide=widened(name), start="guide", temperatures=path, chains=16, generator=seeded(3))
    z_scores = (found.log_evidence - model.log_evidence(x[:6]).detach()) / found.stderr
    assert z_scores.abs().max() < 4.5
    assert found.stderr.max() < 0.3


# --- priors ------------------------------------------------------------------------------------------------------


def with_prior(name: str) -> tuple[LatentModel, Tensor]:
    """A model whose prior is a flow, and data."""
    prior: FlowPrior = lively(FLOW_PRIORS[name](2, transforms=2, width=8), seed=5, scale=0.7)
    torch.manual_seed(0)
    likelihood = Bernoulli(MLP((2,), (1, 6), hidden=(6,), activation="tanh"), (6,)).double()
    model = LatentModel(prior, likelihood).eval()
    return model, model.sample(20, generator=seeded(1)).x


@every_prior
def test_the_density_of_a_prior_integrates_to_one_and_draws_follow_it(name: str) -> None:
    prior: FlowPrior = lively(FLOW_PRIORS[name](2, transforms=2, width=8), seed=5, scale=1.0)
    p = prior(None)
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid, n = torch.cartesian_prod(axis, axis), 5_000
    draws = draw(p, (n,), generator=seeded())
    with torch.no_grad():
        density = p.log_prob(grid).exp() * (axis[1] - axis[0]) ** 2
        assert abs(float(density.sum()) - 1) < 5e-3
        for f in (lambda v: -p.log_prob(v), lambda v: v.abs().sum(-1), lambda v: torch.exp(-v.square().sum(-1))):
            values, exact = f(draws), (density * f(grid)).sum()
            assert abs(float(values.mean() - exact)) < 4 * float(values.std()) / math.sqrt(n) + 5e-3


@every_prior
def test_the_evidence_by_draws_of_a_prior_is_that_by_its_density(name: str) -> None:
    model, x = with_prior(name)
    x = x[:8]
    with torch.no_grad():
        exact = oracles.quadrature_log_evidence(model, x, points=121)
        found = importance_estimate(model, PriorGuide(model.prior), Batch(x), num_samples=5000, generator=seeded(2))
    assert ((found.log_evidence - exact) / found.stderr.hypot(torch.tensor(2e-3))).abs().max() < 4.5
    assert found.stderr.max() < 0.1


@every_prior
def test_a_prior_forgets_a_context_that_it_was_not_built_with(name: str) -> None:
    prior: FlowPrior = lively(FLOW_PRIORS[name](2, width=8))
    z = torch.randn(3, 2, generator=seeded(), dtype=torch.float64)
    assert torch.equal(prior(None, torch.ones(3, 4)).log_prob(z), prior(None).log_prob(z))


@every_prior
def test_weights_come_back_from_a_state_dict(name: str) -> None:
    prior, other = (FLOW_PRIORS[name](3, width=8, context_dim=2) for _ in range(2))
    z, context = torch.randn(5, 3, generator=seeded()), torch.randn(5, 2, generator=seeded(1))
    wanted = prior(None, context).log_prob(z)
    assert not torch.equal(other(None, context).log_prob(z), wanted)
    other.load_state_dict(copy.deepcopy(prior.state_dict()))
    assert torch.equal(other(None, context).log_prob(z), wanted)
