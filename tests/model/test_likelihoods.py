"""Laws that every likelihood obeys: it is a density, its draws follow it, and z and context decide its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import likelihoods
from elbowroom.model.draws import draw, mean
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import LIKELIHOODS, Likelihood
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from likelihood_options import NEEDED, shaping

#: case -> class, options; every registered likelihood, with the options that it needs, and a Gaussian of each kind
CASES: dict[str, tuple[type[Likelihood], dict]] = {
    **{name: (kind, NEEDED.get(name, {})) for name, kind in LIKELIHOODS.items()},
    "gaussian-fixed": (likelihoods.Gaussian, {"scale": 0.3}),
    "gaussian-per-element": (likelihoods.Gaussian, {"scale": "per-element"}),
    "gaussian-units": (
        likelihoods.Gaussian,
        {"scale": "per-element", "shift": torch.tensor(5.0), "unit": torch.tensor(20.0), "mean_activation": "sigmoid"},
    ),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 3}),
    "laplace-per-element": (likelihoods.Laplace, {"scale": "per-element"}),
    "student-t-per-element": (likelihoods.StudentT, {"scale": "per-element"}),
    "student-t-fixed": (likelihoods.StudentT, {"scale": 0.3, "degrees_of_freedom": 6.0}),
    "logit-laplace-per-element": (likelihoods.LogitLaplace, {"scale": "per-element"}),
    "logit-laplace-fixed": (likelihoods.LogitLaplace, {"scale": 0.3}),
    "binomial-many": (likelihoods.Binomial, {"trials": 300}),
    "ordinal-shared": (likelihoods.Ordinal, {"levels": 4, "cut_points": "shared"}),
    "ordinal-two": (likelihoods.Ordinal, {"levels": 2}),
}
NORMALIZED = [case for case, (kind, _) in CASES.items() if kind.normalized]
COLOUR = "colour-logistic-mixture"  #: its channels depend on each other: those laws are in test_colour
APART = [case for case in NORMALIZED if case != COLOUR]
DTYPES = [torch.float32, torch.float64]


def build(case: str, event_shape: tuple[int, ...] = (3,), *, context_dim: int = 0, hidden=(6,)) -> Likelihood:
    torch.manual_seed(1)
    cls, options = CASES[case]
    shape = cls.parameter_shape(event_shape, **shaping(options))
    network = MLP((2,), shape, hidden=hidden, activation="tanh", context_dim=context_dim)
    return cls(network, event_shape, **options)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(likelihood: Likelihood, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Values and weights, (n, 1, …), over which Σ weight · density(value) is the total mass."""
    match likelihood.support:
        case Support.BINARY:
            values = torch.arange(2.0)
        case Support.BYTES:
            values = torch.arange(256.0)
        case Support.CATEGORIES:
            values = torch.arange(4.0)
        case Support.COUNTS:
            values = torch.arange(400.0 if likelihood.highest is None else likelihood.highest + 1.0)
        case Support.UNIT_INTERVAL if isinstance(likelihood, likelihoods.LogitLaplace):  # beyond it, and with a kink
            sizes = torch.exp(0.25 * torch.arange(-100, 13).double())  # where y is not yet rounded to 1
            offsets = reshaped(torch.cat([-sizes, sizes]), distribution)
            y = (distribution.loc + distribution.scale * offsets).sigmoid()
            return (y - 0.1) / 0.8, distribution.scale * offsets.abs() * 0.25 * y * (1 - y) / 0.8
        case Support.UNIT_INTERVAL:
            n = 2000
            values = (torch.arange(float(n)) + 0.5) / n  # the midpoint rule
            return reshaped(values, distribution), torch.tensor(1 / n).double()
        case Support.REALS if not isinstance(likelihood, likelihoods.Gaussian):  # a kink, or tails that never end
            sizes = torch.exp(0.25 * torch.arange(-100, 60).double())
            offsets = reshaped(torch.cat([-sizes, sizes]), distribution)
            return distribution.loc + distribution.scale * offsets, distribution.scale * offsets.abs() * 0.25
        case Support.REALS:
            offsets = torch.linspace(-12, 12, 1201).double()
            values = distribution.mean + distribution.stddev * reshaped(offsets, distribution)
            return values, distribution.stddev * 24 / 1200
    return reshaped(values, distribution), torch.tensor(1.0).double()


def reshaped(values: Tensor, distribution: Distribution) -> Tensor:
    return values.double().reshape(-1, *(1 for _ in distribution.batch_shape))


def expectation(likelihood: Likelihood, distribution: Distribution, f: Callable[[Tensor], Tensor]) -> Tensor:
    values, weights = grid(likelihood, distribution)
    return (weights * distribution.log_prob(values).exp() * f(values)).sum(0)


def at_z(likelihood: Likelihood, batch: int = 4) -> Distribution:
    with torch.no_grad():
        return likelihood.double()(torch.randn(batch, 2, generator=seeded(3)).double())


def test_a_likelihood_is_registered_by_its_own_name():
    assert all(LIKELIHOODS[name].name == name for name in LIKELIHOODS)
    assert [name for name, kind in LIKELIHOODS.items() if not kind.normalized] == ["cross-entropy"]


@pytest.mark.parametrize("case", APART)
def test_density_integrates_to_one(case):
    likelihood = build(case)
    assert likelihood.normalized
    total = expectation(likelihood, at_z(likelihood), torch.ones_like)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_cross_entropy_does_not_integrate_to_one_and_says_so():
    likelihood = build("cross-entropy")
    assert not likelihood.normalized
    total = expectation(likelihood, at_z(likelihood), torch.ones_like)
    assert (total < 0.9).all()


@pytest.mark.parametrize("case", APART)
def test_draws_follow_the_density(case):
    """E[−log p(x)] over draws is the entropy; E[x] and E[x²] are the integrals, and E[x] is mean()."""
    likelihood = build(case)
    distribution = at_z(likelihood)
    n = 10_000
    x = draw(distribution, (n,), generator=seeded(5)).double()
    assert x.shape == (n, 4, 3)
    exact_mean = expectation(likelihood, distribution, lambda v: v)
    torch.testing.assert_close(mean(distribution), exact_mean, rtol=1e-6, atol=1e-6)
    for f in (lambda v: -distribution.log_prob(v), lambda v: v, torch.square):
        values, exact = f(x), expectation(likelihood, distribution, f)
        z = (values.mean(0) - exact) / (values.std(0) / math.sqrt(n))
        assert (z.abs() < 4).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("event_shape", [(5,), (4, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_elementwise_shapes(case, event_shape, dtype):
    event_shape = (3, *event_shape[1:]) if case == COLOUR else event_shape
    likelihood = build(case, event_shape).to(dtype)
    for lead in ((7,), (3, 7)):
        distribution = likelihood(torch.randn(*lead, 2, dtype=dtype))
        assert distribution.batch_shape == (*lead, *event_shape)
        assert distribution.event_shape == ()
        x = draw(distribution, generator=seeded())
        assert x.shape == (*lead, *event_shape)
        data = x.reshape(-1, *event_shape)[:7].to(dtype)
        log_p = distribution.log_prob(data)  # data broadcast over the draws of z
        assert log_p.shape == (*lead, *event_shape)
        assert log_p.dtype == dtype
        assert mean(distribution).shape == (*lead, *event_shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extreme", [-100.0, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_density_and_gradient_are_finite_at_extreme_parameters(case, extreme, dtype):
    likelihood = build(case, hidden=()).to(dtype)
    with torch.no_grad():
        likelihood.network.output.bias.fill_(extreme)
        for name, parameter in likelihood.named_parameters():
            if not name.startswith("network"):
                parameter.fill_(extreme)
    edges = {
        Support.BINARY: [0, 1],
        Support.UNIT_INTERVAL: [0, 0.5, 1],
        Support.BYTES: [0, 100, 255],
        Support.CATEGORIES: [0, 3],
        Support.COUNTS: [0, 1, likelihood.highest or 1000],
        Support.REALS: [-10, 0, 10],
    }[likelihood.support]
    for value in edges:
        likelihood.zero_grad()
        log_p = likelihood(torch.zeros(2, 2, dtype=dtype)).log_prob(torch.full((2, 3), float(value), dtype=dtype))
        assert log_p.isfinite().all(), value
        log_p.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in likelihood.parameters()), value


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case):
    likelihood = build(case).double()
    x = draw(at_z(likelihood), generator=seeded()).double()
    likelihood(torch.randn(4, 2, generator=seeded(3)).double()).log_prob(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in likelihood.parameters())


@pytest.mark.parametrize("case", CASES)
def test_mask_sums_elements_out(case):
    likelihood = build(case, (3, 2)).double()
    model = LatentModel(StandardNormal(2).double(), likelihood)
    z = torch.randn(5, 4, 2, generator=seeded()).double()
    x = draw(likelihood(z[0]), generator=seeded()).double()
    mask = torch.rand(4, 3, 2, generator=seeded(1)) < 0.5
    mask = mask[:, :1].expand_as(mask) if case == COLOUR else mask  # whole pixels
    elementwise = likelihood(z).log_prob(x)
    expected = (elementwise * mask).flatten(2).sum(-1)
    torch.testing.assert_close(model.log_likelihood(torch.where(mask, x, 0.0), z, mask=mask), expected)
    torch.testing.assert_close(model.log_likelihood(x, z), elementwise.flatten(2).sum(-1))


@pytest.mark.parametrize("case", CASES)
def test_context_reaches_the_density(case):
    likelihood = build(case, context_dim=2).double()
    z, context = torch.randn(5, 4, 2).double(), torch.randn(4, 2).double()
    first, second = likelihood(z, context), likelihood(z, context + 1)
    assert not torch.allclose(mean(first), mean(second))


@pytest.mark.parametrize("case", CASES)
def test_lower_precision_stays_inside_the_network(case):
    likelihood = build(case)
    z = torch.randn(4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert likelihood.network(z).dtype == torch.bfloat16
        assert mean(likelihood(z)).dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_output_bias_starts_at_the_data_mean(case):
    likelihood = build(case).double()
    likelihood.network.output.weight.data.zero_()
    wanted = {
        Support.BYTES: torch.tensor([60.0, 100, 200]),
        Support.COUNTS: torch.tensor([0.5, 3, 40]),
        Support.REALS: torch.tensor([7.0, 11, 20]),
    }.get(likelihood.support, torch.tensor([0.02, 0.4, 0.9])).double()
    if likelihood.highest is not None:
        wanted = likelihood.highest * torch.tensor([0.02, 0.4, 0.9]).double()
    before = likelihood.network.output.bias.clone()
    likelihood.init_output_bias(wanted)
    if case == "categorical":  # a mean category number says nothing about categories
        torch.testing.assert_close(likelihood.network.output.bias, before)
        return
    got = mean(likelihood(torch.randn(4, 2).double()))
    tolerance = 3.0 if case.endswith("logistic-mixture") else 1e-9  # clipping pulls the tails in
    torch.testing.assert_close(got, wanted.expand(4, 3), rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_output_bias_of_extreme_means_is_finite(case):
    likelihood = build(case)
    for value in (0.0, 1.0):
        likelihood.init_output_bias(torch.full((3,), value))
        assert likelihood.network.output.bias.isfinite().all()


class Bare(nn.Module):
    """A user's network, which does not say its output's shape."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z.unsqueeze(-2)


def test_a_users_network_serves():
    distribution = likelihoods.Bernoulli(Bare(), (2,))(torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(distribution.logits, torch.tensor([[0.0, 1.0]]))
    likelihoods.Bernoulli(Bare(), (2,)).init_output_bias(torch.zeros(2))  # nothing to set, nothing lost


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: likelihoods.Bernoulli(MLP((2,), (3,)), (3,)), r"\(3,\).*\(1, 3\)"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), scale="per-element"), r"\(1, 3\).*\(2, 3\)"),
        (lambda: likelihoods.Categorical(MLP((2,), (1, 3)), (3,), num_categories=4), r"\(1, 3\).*\(4, 3\)"),
        (lambda: likelihoods.Bernoulli(Bare(), (3,))(torch.zeros(1, 2)), r"\(1, 2\).*\(1, 3\)"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), scale=0.0), "positive"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), min_scale=0.0), "positive"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), scale="free"), "'free'"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), mean_activation="tanh"), "'tanh'"),
        (lambda: likelihoods.Gaussian(MLP((2,), (1, 3)), (3,), unit=torch.tensor(0.0)), "not positive"),
        (lambda: likelihoods.DiscretizedLogisticMixture(MLP((2,), (1, 3)), (3,), components=0), "0 components"),
        (lambda: build("bernoulli")(None), "without z"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ElbowroomError, match=message):
        wrong()
