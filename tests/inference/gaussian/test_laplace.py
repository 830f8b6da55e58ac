"""Laplace's approximation: exact for a linear-Gaussian model, a mode that is never below the start for any other."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, StudentT

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.gaussian import laplace as module
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.inference.gaussian.laplace import Laplace, laplace
from elbowroom.model import likelihoods, oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Likelihood
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.numerics import RowSlots
from likelihood_options import NEEDED, shaping

LATENT = 3
#: name -> class, options, (scale of the weights): far from linear, so that full Newton steps overshoot
LIKELIHOODS = {
    **{
        name: (kind, NEEDED.get(name, {}))
        for name, kind in likelihoods.LIKELIHOODS.items()
        if kind.normalized and kind.fisher_information is not Likelihood.fisher_information
    },
    "gaussian": (likelihoods.Gaussian, {"scale": 0.1}),
    "gaussian-per-element": (likelihoods.Gaussian, {"scale": "per-element"}),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 2}),
}

#: those whose log-density has a slope everywhere: at a mode of the others it can jump, and never be zero
SMOOTH = [name for name in LIKELIHOODS if name not in ("laplace", "logit-laplace")]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(name: str, *, prior: Conditional | None = None, num_data: int = 20, mask: bool = True) -> SimpleNamespace:
    """A model with curved posteriors, data from it with some elements missing, and a start that is not near."""
    torch.manual_seed(3)
    cls, options = LIKELIHOODS[name]
    shape = cls.parameter_shape((16,), **shaping(options))
    network = MLP((LATENT,), shape, hidden=(8,), activation="tanh", context_dim=2)
    for parameter in network.parameters():
        parameter.data.mul_(2.0)
    model = LatentModel(prior or StandardNormal(LATENT), cls(network, (16,), **options)).double()
    context, generator = normal(num_data, 2, seed=1), torch.Generator().manual_seed(2)
    x = draw(model.likelihood(normal(num_data, LATENT, seed=4), context), generator=generator).detach()
    observed = torch.rand(num_data, 16, generator=generator) < 0.8 if mask else None
    return SimpleNamespace(
        model=model, batch=Batch(x, context=context, mask=observed), start=2 * normal(num_data, LATENT)
    )


def log_joint(case: SimpleNamespace, z: Tensor) -> Tensor:
    batch = case.batch
    return case.model.log_joint(batch.x, z, context=batch.context, mask=batch.mask)


def gradient(case: SimpleNamespace, z: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(log_joint(case, leaf).sum(), leaf)[0]


@pytest.mark.parametrize("masked", [False, True])
def test_one_step_is_exact_for_a_linear_gaussian_model(masked):
    model, _, x = oracles.ppca(dim=7, latent_dim=LATENT, seed=2, num_data=6)
    mask = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    found = laplace(model, 3 * normal(6, LATENT), Batch(x, mask=mask), steps=1)
    posterior = model.posterior(x, mask)
    torch.testing.assert_close(found.mode, posterior.mean)
    torch.testing.assert_close(found.precision, posterior.precision_matrix)
    torch.testing.assert_close(found.log_joint, model.log_joint(x, posterior.mean, mask=mask))
    assert found.converged.all()
    assert found.iterations.tolist() == [1] * 6


@functools.cache
def summit(name: str) -> Laplace:
    """Of a problem, found as exactly as can be."""
    case = problem(name)
    return laplace(case.model, case.start, case.batch, steps=200, tolerance=1e-10)


@pytest.mark.parametrize("name", SMOOTH)
def test_it_ends_at_a_mode(name):
    case, found = problem(name), summit(name)
    assert found.converged.all()
    torch.testing.assert_close(found.log_joint, log_joint(case, found.mode).detach())
    torch.testing.assert_close(found.precision, gauss_newton(case.model, case.batch, found.mode))
    slope = gradient(case, found.mode)
    decrement = 0.5 * (slope * torch.linalg.solve(found.precision, slope.unsqueeze(-1)).squeeze(-1)).sum(-1)
    assert (decrement <= 1e-10).all()
    # and it is a summit, not only a place of no slope: no neighbour at a tenth of a standard deviation is higher
    root = torch.linalg.cholesky(torch.linalg.inv(found.precision))
    steps = 0.1 * (root @ normal(20, 1, LATENT, 1, seed=10)).squeeze(-1)
    assert (log_joint(case, found.mode + steps) <= found.log_joint + 1e-6).all()


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow), 8])  # one step more, first and later
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_joint_never_falls(name, steps):
    case = problem(name)
    found = laplace(case.model, case.start, case.batch, steps=steps)
    before = laplace(case.model, case.start, case.batch, steps=steps - 1)
    assert (before.log_joint >= log_joint(case, case.start)).all()
    assert (found.log_joint >= before.log_joint).all()
    assert (found.iterations <= steps).all()
    torch.testing.assert_close(found.log_joint, log_joint(case, found.mode).detach())


def test_the_test_problems_need_the_damping():
    """Without it some data fall: a law of climbing that full steps obey by themselves would say nothing."""
    fell = 0
    for name in LIKELIHOODS:
        case = problem(name)
        precision = gauss_newton(case.model, case.batch, case.start)
        step = torch.linalg.solve(precision, gradient(case, case.start).unsqueeze(-1)).squeeze(-1)
        fell += int((log_joint(case, case.start + step) < log_joint(case, case.start)).sum())
    assert fell > 10


def test_no_steps_are_the_curvature_at_the_start():
    case = problem("bernoulli")
    found = laplace(case.model, case.start, case.batch, steps=0)
    assert torch.equal(found.mode, case.start)
    torch.testing.assert_close(found.precision, gauss_newton(case.model, case.batch, case.start))
    assert not found.converged.any()
    assert (found.iterations == 0).all()


def test_a_start_at_the_mode_has_converged_without_a_step():
    case = problem("bernoulli")
    mode = laplace(case.model, case.start, case.batch, steps=100, tolerance=1e-6).mode
    found = laplace(case.model, mode, case.batch, steps=0, tolerance=1e-3)
    assert found.converged.all()
    assert torch.equal(found.mode, mode)


def test_the_tolerance_is_in_nats():
    """What is left to gain is about the tolerance, whatever the units of z."""
    case = problem("bernoulli")
    best = laplace(case.model, case.start, case.batch, steps=200, tolerance=1e-12).log_joint
    rough = laplace(case.model, case.start, case.batch, steps=200, tolerance=0.1)
    assert rough.converged.all()
    left = best - rough.log_joint
    assert left.median() < 0.1
    assert (left > 1e-6).any()


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_each_datum_climbs_by_itself(name):
    case = problem(name)
    whole = laplace(case.model, case.start, case.batch)
    for i in (0, 7, 13):
        batch = Batch(
            *(None if t is None else t[i : i + 1] for t in (case.batch.x, None, case.batch.context, case.batch.mask))
        )
        alone = laplace(case.model, case.start[i : i + 1], batch)
        for one, all_ in zip(alone, whole, strict=True):
            torch.testing.assert_close(one[0], all_[i])


@pytest.mark.parametrize("rows", [1, 45, 1024])  # one search at a time, two, all
@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_searches_side_by_side_end_where_each_ends_alone(name, rows, monkeypatch):
    case = problem(name)
    starts = torch.stack([scale * normal(20, LATENT, seed=seed) for seed, scale in enumerate((2, 1, 0.5, 3, 2))])
    alone = [laplace(case.model, start, case.batch) for start in starts]
    monkeypatch.setattr(module, "_ROWS", rows)
    evaluated, log_joint = [], case.model.log_joint
    monkeypatch.setattr(case.model, "log_joint", lambda x, z, **o: evaluated.append(len(x)) or log_joint(x, z, **o))
    found = laplace(case.model, starts, case.batch)
    for together, apart in zip(found, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(together, torch.stack(apart))
    assert max(evaluated) == {1: 20, 45: 40, 1024: 100}[rows]


def test_in_slots_searches_go_one_after_the_other_to_the_same_bits():
    case, slots = problem("bernoulli"), RowSlots(period=4, multiple=4)
    starts = torch.stack([case.start, -case.start])
    found = laplace(case.model, starts, case.batch, slots=slots)
    for start, each in zip(starts, zip(*found, strict=True), strict=True):
        assert all(map(torch.equal, each, laplace(case.model, start, case.batch, slots=slots)))


def test_only_data_that_have_not_arrived_are_computed_on(monkeypatch):
    case = problem("bernoulli")
    rows = []
    original = module.gauss_newton
    monkeypatch.setattr(
        module, "gauss_newton", lambda model, batch, z, **o: rows.append(len(z)) or original(model, batch, z, **o)
    )
    found = laplace(case.model, case.start, case.batch)
    assert rows[0] == 20 and rows == sorted(rows, reverse=True)
    assert sum(rows) == 20 + int(found.iterations.sum())


class Cosine(nn.Module):
    """z -> A cos z: any number of modes."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return (3 * torch.cos(2 * z)).unsqueeze(-2)


def test_of_several_modes_a_near_one_is_found():
    model = LatentModel(StandardNormal(1), likelihoods.Gaussian(Cosine(), (1,), scale=0.5)).double()
    start = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64).unsqueeze(1)
    x = torch.zeros(41, 1, dtype=torch.float64)
    found = laplace(model, start, x, steps=100, tolerance=1e-9)
    # cos 2z = 0 at ±π/4, ±3π/4, … up to the prior's pull; z = 0 is a saddle that only a start upon it finds
    modes = torch.tensor([-5, -3, -1, 1, 3, 5]).double() * math.pi / 4
    distance = (found.mode - modes).abs()
    assert found.converged.all()
    assert (distance.amin(1)[start.squeeze(1).abs() > 1e-9] < 0.05).all()
    assert len(distance.argmin(1).unique()) >= 4
    near = (start - modes).abs().amin(1) < 0.15
    assert torch.equal(distance.argmin(1)[near], (start - modes).abs().argmin(1)[near])


def test_a_mixture_prior_is_climbed_from_both_sides():
    prior = MixtureOfGaussians(LATENT, 2)
    prior.means.data.copy_(torch.stack([torch.full((LATENT,), -4.0), torch.full((LATENT,), 4.0)]))
    case = problem("bernoulli", prior=prior)
    case.batch = Batch(case.batch.x, context=case.batch.context, mask=torch.zeros(20, 16, dtype=torch.bool))
    found = laplace(case.model, case.start, case.batch, steps=100, tolerance=1e-8)
    assert found.converged.all()
    torch.testing.assert_close(found.mode.abs(), torch.full((20, LATENT), 4.0).double(), rtol=0, atol=1e-3)
    assert len(found.mode[:, 0].sign().unique()) == 2


class Heavy(Conditional):
    """A prior that is not log-concave, and no mixture of normals."""

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return Independent(StudentT(torch.full((LATENT,), 2.0).double(), validate_args=False), 1, validate_args=False)


def test_a_prior_that_is_not_log_concave_is_climbed_from_its_tails():
    case = problem("bernoulli", prior=Heavy())
    case.start = 10 * case.start
    found = laplace(case.model, case.start, case.batch, steps=200, tolerance=1e-8)
    assert found.converged.all()
    assert gradient(case, found.mode).abs().max() < 1e-2


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_float32_survives_a_precision_that_it_cannot_factor(scale):
    """Two latents that the data tell apart by the sixth digit only: H is indefinite by rounding."""
    weight = torch.ones(50, 2) + 1e-5 * torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = oracles.LinearGaussian(weight, torch.zeros(50), scale)
    x = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    plain = gauss_newton(model, x, torch.zeros(8, 2))
    assert (torch.linalg.cholesky_ex(plain)[1] != 0).any()  # or the test is of nothing
    found = laplace(model, torch.zeros(8, 2), x)
    assert (found.log_joint >= model.log_joint(x, torch.zeros(8, 2))).all()
    assert (torch.linalg.cholesky_ex(found.precision)[1] == 0).all()
    again = laplace(model, torch.zeros(8, 2), x)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))  # no chance in the jitter


@pytest.mark.parametrize("name", SMOOTH)
def test_float32_finds_what_float64_finds(name):
    case, double = problem(name), summit(name)
    start = (double.mode + 0.05).float()
    model, batch = case.model.float(), case.batch.to(dtype=torch.float32)
    single = laplace(model, start, batch, steps=50)
    assert single.mode.dtype == single.precision.dtype == single.log_joint.dtype == torch.float32
    assert single.converged.all()
    torch.testing.assert_close(single.log_joint.double(), double.log_joint, rtol=1e-4, atol=2e-3)


def test_a_gain_that_the_type_cannot_resolve_is_not_waited_for():
    case = problem("gaussian")
    model, batch = case.model.float(), case.batch.to(dtype=torch.float32)
    found = laplace(model, case.start.float(), batch, steps=200, tolerance=0.0)
    assert found.converged.all()


def test_a_convolutional_decoder_serves():
    torch.manual_seed(0)
    network = ConvDecoder((LATENT,), (1, 4, 4), channels=(4,), activation="tanh")
    model = LatentModel(StandardNormal(LATENT), likelihoods.Bernoulli(network, (4, 4))).double()
    x = (torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    found = laplace(model, normal(5, LATENT), x, tolerance=1e-9)
    assert found.converged.all()


class Cliff(Likelihood):
    """log p = −∞ beyond |z| = 1, and at ``edge`` a slope that is not finite."""

    name, support = "cliff", Support.REALS

    def __init__(self, edge: float = math.inf) -> None:
        super().__init__(Linear(), (1,))
        self.edge = edge

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        (theta,) = self._slices(given, context)
        return _Cliff(theta, self.edge)

    def fisher_information(self, output: Tensor) -> Tensor:
        return self._as_matrices(torch.where(output.abs() < self.edge, torch.zeros_like(output), math.nan))


class Linear(nn.Module):
    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.unsqueeze(-2)


class _Cliff(Normal):
    def __init__(self, theta: Tensor, edge: float) -> None:
        super().__init__(theta, 1.0, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self.loc.abs() < 1, 5 * self.loc, -math.inf)


def test_a_step_over_a_cliff_is_shortened():
    model = LatentModel(StandardNormal(1), Cliff()).double()
    found = laplace(model, torch.zeros(2, 1).double(), torch.zeros(2, 1).double(), steps=50)
    assert (found.mode > 0.99).all() and (found.mode < 1).all()  # the step H⁻¹g = 5 is far too long
    assert not found.converged.any()
    assert found.log_joint.isfinite().all() and found.precision.isfinite().all()


def test_a_step_to_where_the_curvature_is_not_finite_is_not_taken():
    model = LatentModel(StandardNormal(1), Cliff(edge=0.5)).double()
    start = torch.zeros(2, 1).double()
    found = laplace(model, start, torch.zeros(2, 1).double())
    assert torch.equal(found.mode, start)
    assert not found.converged.any()
    assert (found.iterations == 0).all()
    torch.testing.assert_close(found.log_joint, model.log_joint(torch.zeros(2, 1).double(), start))


@pytest.mark.parametrize("where", ["x", "z", "support"])
def test_what_is_not_finite_at_the_start_is_refused(where):
    model, x, start = (
        oracles.ppca(dim=4, latent_dim=1, seed=0)[0],
        torch.zeros(3, 4).double(),
        torch.zeros(3, 1).double(),
    )
    if where == "x":
        x[1, 2] = math.nan
    elif where == "z":
        start[1] = math.inf
    else:
        model, x = LatentModel(StandardNormal(1), Cliff()).double(), x[:, :1]
        start[1] = 1.5
    for starts in (start, torch.stack([start, torch.zeros_like(start), start])):  # of several searches in none's words
        with pytest.raises(
            NotFiniteError, match=r"at the start for 1 of 3 examples \(the first is example 1\)"
        ) as told:
            laplace(model, starts, x)
        assert told.value.places == (1,)


@pytest.mark.parametrize("options", [{"steps": -1}, {"tolerance": -1.0}, {"tolerance": math.nan}], ids=str)
def test_what_cannot_be_is_refused(options):
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match="neither can be negative"):
        laplace(model, torch.zeros(64, 2).double(), x, **options)
    with pytest.raises(ElbowroomError, match="z has shape"):
        laplace(model, torch.zeros(2).double(), x)


def test_nothing_of_the_inputs_changes_and_no_graph_is_kept():
    case = problem("bernoulli")
    start = case.start.clone().requires_grad_()
    found = laplace(case.model, start, case.batch)
    assert torch.equal(start, case.start)
    assert not any(tensor.requires_grad for tensor in found)
    assert all(parameter.grad is None for parameter in case.model.parameters())
