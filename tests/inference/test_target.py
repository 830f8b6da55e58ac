"""The posterior as a target: autograd's path where the one by hand does not fit; the default metric; sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.inference.mlp_target import PerceptronPosterior
from elbowroom.inference.target import default_metric, posterior_target, widest
from elbowroom.model.autoregressive import CausalTransformer, Made
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, ContinuousBernoulli, DiscretizedLogisticMixture, Gaussian, Poisson
from elbowroom.model.networks import MLP, ConvDecoder, ResidualMLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.samplers.target import Density

DATA, REPLICAS = 7, 2


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Sharpened(Bernoulli):
    """Another likelihood, though a Bernoulli."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        return torch.distributions.Bernoulli(logits=3 * super().forward(given, context).logits, validate_args=False)


class Tempered(nn.Tanh):
    """Another activation, though a tanh."""

    def forward(self, given: Tensor) -> Tensor:
        return super().forward(3 * given)


def with_activation(activation: nn.Module) -> MLP:
    network = MLP((2,), (1, 8, 8), hidden=(5,))
    network.hidden_layers[1] = activation
    return network


def others() -> dict[str, tuple[LatentModel, Tensor]]:
    binary = (normal(DATA, 8, 8) > 0).double()
    mlp = MLP((2,), (1, 8, 8), hidden=(5,))
    standard = StandardNormal(2)
    made = {
        "mixture prior": (MixtureOfGaussians(2, 3), Bernoulli(mlp, (8, 8)), binary),
        "per-element": (standard, Gaussian(MLP((2,), (2, 8, 8)), (8, 8), scale="per-element"), normal(DATA, 8, 8)),
        "sigmoid mean": (standard, Gaussian(mlp, (8, 8), mean_activation="sigmoid"), normal(DATA, 8, 8)),
        "convolutions": (standard, Bernoulli(ConvDecoder((2,), (1, 8, 8), channels=(4, 2)), (8, 8)), binary),
        "residual blocks": (standard, Bernoulli(ResidualMLP((2,), (1, 8, 8), width=5), (8, 8)), binary),
        "poisson": (standard, Poisson(mlp, (8, 8)), 3 * binary),
        "continuous-bernoulli": (standard, ContinuousBernoulli(mlp, (8, 8)), normal(DATA, 8, 8).sigmoid()),
        "a Bernoulli of another kind": (standard, Sharpened(mlp, (8, 8)), binary),
        "another activation": (standard, Bernoulli(with_activation(nn.Hardtanh()), (8, 8)), binary),
        "an activation of another kind": (standard, Bernoulli(with_activation(Tempered()), (8, 8)), binary),
    }
    return {name: (LatentModel(prior, p).double().eval(), x) for name, (prior, p, x) in made.items()}


OTHERS = tuple(others())


@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_fit_takes_autograds_path(name: str, precision: Any) -> None:
    model, x = others()[name]
    assert not PerceptronPosterior.fits(model)
    target = posterior_target(model, x, precision=precision)
    assert isinstance(target, Density)
    z = normal(REPLICAS, DATA, 2)
    torch.testing.assert_close(target.log_density(z), model.log_joint(x, z).detach())
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_joint(x, leaf).sum(), leaf)
    torch.testing.assert_close(target.gradient(z), gradient)


def test_an_unknown_precision_is_refused() -> None:
    model, x = others()["poisson"]
    with pytest.raises(ElbowroomError, match="precision 'half' is not known"):
        posterior_target(model, x, precision="half")  # type: ignore[arg-type]


def test_the_default_metric_needs_a_fisher_information_in_closed_form() -> None:
    assert default_metric(Poisson(MLP((2,), (1, 4)), (4,))) == "gauss-newton"
    shape = DiscretizedLogisticMixture.parameter_shape((4,))
    assert default_metric(DiscretizedLogisticMixture(MLP((2,), shape), (4,))) == "dense"  # a sum over 256 values


@pytest.mark.parametrize(("hidden", "expected"), [((5,), 64), ((5, 100), 100), ((), 64)])
def test_the_widest_tensor_of_a_decoding(hidden: tuple[int, ...], expected: int) -> None:
    network = MLP((2,), (1, 8, 8), hidden=hidden)
    assert widest(LatentModel(StandardNormal(2), Bernoulli(network, (8, 8)))) == expected


def test_the_widest_tensor_may_be_the_priors() -> None:
    space = CodeSpace(4, 3)
    likelihood = Bernoulli(MLP((space.dim,), (1, 8, 8), hidden=(5,)), (8, 8))
    priors = (UnigramCodes(space), 64), (Made(space, width=100), 100), (CausalTransformer(space, width=32), 4 * 4 * 32)
    for prior, expected in priors:
        assert widest(LatentModel(prior, likelihood)) == expected
