"""The law of the Fisher information: it is the expected outer product of the score, whatever the likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model import byte_likelihoods, likelihoods
from elbowroom.model.likelihoods import LIKELIHOODS, Likelihood
from likelihood_options import NEEDED, shaping

UNITS = {"shift": torch.tensor([5.0, -2.0, 0.3]).double(), "unit": torch.tensor([20.0, 0.5, 1.5]).double()}
WITHOUT = {"colour-logistic-mixture"}  #: an expectation over 256³ colours
#: case -> class, options; every registered likelihood, with the options that it needs, and a Gaussian of each kind
CASES: dict[str, tuple[type[Likelihood], dict]] = {
    **{name: (kind, NEEDED.get(name, {})) for name, kind in LIKELIHOODS.items() if name not in WITHOUT},
    "gaussian-learned-units": (likelihoods.Gaussian, UNITS),
    "gaussian-fixed": (likelihoods.Gaussian, {"scale": 0.3}),
    "gaussian-fixed-units-sigmoid": (likelihoods.Gaussian, {"scale": 0.3, "mean_activation": "sigmoid", **UNITS}),
    "gaussian-per-element": (likelihoods.Gaussian, {"scale": "per-element", "min_scale": 0.1}),
    "gaussian-per-element-units-sigmoid": (
        likelihoods.Gaussian,
        {"scale": "per-element", "mean_activation": "sigmoid", **UNITS},
    ),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 2}),
    "laplace-per-element": (likelihoods.Laplace, {"scale": "per-element", "min_scale": 0.1}),
    "logit-laplace-per-element": (likelihoods.LogitLaplace, {"scale": "per-element", "min_scale": 0.1}),
    "student-t-per-element-units-sigmoid": (
        likelihoods.StudentT,
        {"scale": "per-element", "mean_activation": "sigmoid", **UNITS},
    ),
    "student-t-fixed": (likelihoods.StudentT, {"scale": 0.3, "degrees_of_freedom": 1.5}),
    "ordinal-shared": (likelihoods.Ordinal, {"levels": 4, "cut_points": "shared"}),
}


class Output(nn.Module):
    """A network whose output is given."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output


def at(case: str, output: Tensor, event_shape: tuple[int, ...]) -> Likelihood:
    """A likelihood whose network returns ``output``; its own parameters are not at their starting values."""
    cls, options = CASES[case]
    likelihood = cls(Output(output), event_shape, **options).to(output.dtype)
    for i, parameter in enumerate(likelihood.parameters()):
        parameter.data.add_(torch.linspace(0.3, 0.9, parameter.numel()).reshape(parameter.shape) + i)
    return likelihood


def output_for(case: str, lead: tuple[int, ...], event_shape: tuple[int, ...]) -> Tensor:
    cls, options = CASES[case]
    shape = (*lead, *cls.parameter_shape(event_shape, **shaping(options)))
    output = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return output - 1.5 if case.startswith("logit-laplace") else output  # tails that end before y rounds to 1


def quadrature(likelihood: Likelihood, z: Tensor) -> tuple[Tensor, Tensor]:
    """Values of the elements, along a new first axis, and their weights: Σ weight · p(value) f(value) is E f(x)."""
    p = likelihood(z)
    mean = p.mean.detach()

    def along(numbers: Tensor) -> Tensor:
        return numbers.view(-1, *(1 for _ in mean.shape)).expand(-1, *mean.shape)

    def every(count: int) -> tuple[Tensor, Tensor]:
        return along(torch.arange(count, dtype=torch.float64)), along(torch.ones(count, dtype=torch.float64))

    match likelihood.support:
        case Support.BINARY:
            return every(2)
        case Support.BYTES:
            return every(256)
        case Support.CATEGORIES:
            return every(4)
        case Support.COUNTS:
            return every(300 if likelihood.highest is None else likelihood.highest + 1)
        case Support.UNIT_INTERVAL if isinstance(likelihood, likelihoods.LogitLaplace):  # in logits, around the kink
            loc, scale = p.loc.detach(), p.scale.detach()
            size = torch.tensor([0.25 * k for k in range(-88, 13)], dtype=torch.float64).exp()
            y = (loc + along(torch.cat([-size, size])) * scale).sigmoid()
            return (y - 0.1) / 0.8, 0.25 * along(torch.cat([size, size])) * scale * y * (1 - y) / 0.8
        case Support.UNIT_INTERVAL if likelihood.normalized:
            n = 1000  # Simpson's rule
            weights = torch.tensor([1.0, *(4.0, 2.0) * (n // 2 - 1), 4.0, 1.0], dtype=torch.float64)
            return along(torch.linspace(0, 1, n + 1, dtype=torch.float64)), along(weights / (3 * n))
        case Support.UNIT_INTERVAL:  # the Bernoulli's score, with the Bernoulli's draws
            return every(2)
        case Support.REALS if not isinstance(likelihood, likelihoods.Gaussian):  # a kink, or tails that never end
            loc, scale = p.loc.detach(), p.scale.detach()
            size = torch.tensor([0.25 * k for k in range(-88, 60)], dtype=torch.float64).exp()
            return loc + along(torch.cat([-size, size])) * scale, 0.25 * along(torch.cat([size, size])) * scale
        case Support.REALS:
            eighths, stddev = along(torch.arange(-96, 97, dtype=torch.float64)), p.stddev.detach()  # ends at 12 σ
            return mean + stddev * eighths / 8, (stddev / 8).expand_as(eighths)


def expected_outer_product(likelihood: Likelihood, output: Tensor) -> Tensor:
    """By autograd through the likelihood itself, all values of x at once: shape (\\*, P, P, \\*event)."""
    axis = -len(likelihood.event_shape) - 1
    likelihood.network.output = output
    z = torch.zeros(*output.shape[:axis], 1, dtype=output.dtype)
    values, weights = quadrature(likelihood, z)
    leaf = likelihood.network.output = output.expand(len(values), *output.shape).clone().requires_grad_()
    log_p = likelihood(z.expand(len(values), *z.shape)).log_prob(values)
    (score,) = torch.autograd.grad(log_p.sum(), leaf)
    p = log_p.detach().exp() * weights
    torch.testing.assert_close(p.sum(0), torch.ones_like(p[0]), rtol=0, atol=1e-8)  # the grid covers the density
    p = p.unsqueeze(axis).unsqueeze(axis)
    return (p * score.unsqueeze(axis) * score.unsqueeze(axis - 1)).sum(0)


@pytest.mark.parametrize(("lead", "event_shape"), [((2,), (2, 3)), ((2, 3), (3,))], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_expected_outer_product_of_the_score(case, lead, event_shape):
    output = output_for(case, lead, event_shape)
    likelihood = at(case, output, event_shape)
    found = likelihood.fisher_information(output)
    num_parameters = likelihood.num_parameters
    assert found.shape == (*lead, num_parameters, num_parameters, *event_shape)
    torch.testing.assert_close(found, expected_outer_product(likelihood, output), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("extreme", [-100.0, -50.0, 50.0, 100.0])
@pytest.mark.parametrize("case", CASES)
def test_it_is_finite_and_never_indefinite(case, extreme, dtype):
    output = (output_for(case, (4,), (3,)) + extreme).to(dtype)
    found = at(case, output, (3,)).fisher_information(output).detach()
    assert found.dtype == dtype
    assert found.isfinite().all()
    matrices = found.movedim(-1, 1)
    torch.testing.assert_close(matrices, matrices.mT)
    largest = matrices.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    assert (torch.linalg.eigvalsh(matrices) >= -20 * torch.finfo(dtype).eps * largest).all()


@pytest.mark.parametrize("case", ["poisson", "negative-binomial"])
def test_a_clamped_output_tells_nothing(case):
    output = torch.tensor([[[-61.0, 0.0, 61.0]]]).double()
    found = at(case, output, (3,)).fisher_information(output).flatten()
    assert found[0] == found[2] == 0
    assert found[1] > 0


def test_a_log_scale_beyond_its_range_tells_nothing():
    output = torch.tensor([0.0, 0.1, -8.0]).double().reshape(1, 3, 1)  # one component: logit, location, log-scale
    likelihood = likelihoods.DiscretizedLogisticMixture(Output(output), (1,), components=1)
    found = likelihood.fisher_information(output)[0, :, :, 0]
    assert found[1, 1] > 0
    assert (found[2] == 0).all() and (found[:, 2] == 0).all()


def test_enumeration_does_not_depend_on_the_chunks(monkeypatch):
    case = "discretized-logistic-mixture"
    output = output_for(case, (5,), (3,))
    likelihood = at(case, output, (3,))
    whole = likelihood.fisher_information(output)
    monkeypatch.setattr(byte_likelihoods, "_CHUNK_ELEMENTS", 4 * 256 * 6)  # 4 of the 15 elements at a time
    torch.testing.assert_close(likelihood.fisher_information(output), whole)


def test_the_gaussians_is_in_the_networks_units():
    # μ = 20 h with σ = 4: one unit of h moves the mean by five standard deviations
    output = torch.zeros(1, 1, 3)
    likelihood = likelihoods.Gaussian(Output(output), (3,), scale=4.0, unit=torch.tensor(20.0))
    torch.testing.assert_close(likelihood.fisher_information(output), torch.full((1, 1, 1, 3), 25.0))


def test_the_bernoullis_does_not_vanish_before_its_type_does():
    output = torch.tensor([[[-30.0, 30.0]]])
    found = likelihoods.Bernoulli(Output(output), (2,)).fisher_information(output)
    torch.testing.assert_close(found, torch.full((1, 1, 1, 2), math.exp(-30)), rtol=1e-5, atol=0)


def test_the_likelihoods_without_one_are_known():
    without = {n for n, kind in LIKELIHOODS.items() if kind.fisher_information is Likelihood.fisher_information}
    assert without == WITHOUT


def test_a_likelihood_without_one_says_what_to_implement():
    class Own(Likelihood):
        name, support = "own", Support.REALS

        def forward(self, given, context=None):
            raise AssertionError

    output = torch.zeros(2, 1, 3)
    with pytest.raises(ElbowroomError, match=r"own likelihood(.|\n)*Own\.fisher_information"):
        Own(Output(output), (3,)).fisher_information(output)
