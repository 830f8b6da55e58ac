"""Small models of pictures whose pixels depend on each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.support import Support
from elbowroom.model import likelihoods
from elbowroom.model.conditional import Conditional, Likelihood
from elbowroom.model.guides import DiagonalNormal, InputTransform
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.model.pixels.masked_convolutions import MaskedPixels
from elbowroom.model.priors import StandardNormal

#: name -> class, what shapes its parameters, further options for an event shape
BASES = {
    "bernoulli": (likelihoods.Bernoulli, {}, lambda shape: {}),
    "continuous-bernoulli": (likelihoods.ContinuousBernoulli, {}, lambda shape: {}),
    "logit-laplace": (likelihoods.LogitLaplace, {}, lambda shape: {}),
    "cross-entropy": (likelihoods.CrossEntropy, {}, lambda shape: {}),
    "gaussian": (
        likelihoods.Gaussian,
        {"scale": "per-element"},
        lambda shape: {"shift": torch.arange(numel(shape)).reshape(shape) / 3, "unit": 1 + torch.rand(shape)},
    ),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 2}, lambda shape: {}),
    "colour-logistic-mixture": (likelihoods.ColourLogisticMixture, {"components": 2}, lambda shape: {}),
    "categorical": (likelihoods.Categorical, {"num_categories": 3}, lambda shape: {}),
    "poisson": (likelihoods.Poisson, {}, lambda shape: {}),
    "negative-binomial": (likelihoods.NegativeBinomial, {}, lambda shape: {}),
}


def bases_of(shapes: Sequence[tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    """Every base with every shape of a picture that it takes: that of colours takes three channels."""
    return [(name, shape) for name in BASES for shape in shapes if "colour" not in name or shape[:-2] == (3,)]


def numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_likelihood(
    base: str = "bernoulli",
    shape: tuple[int, ...] = (4, 5),
    *,
    latent_dim: int = 2,
    features: int = 2,
    context_dim: int = 0,
    scale: float = 0.5,
    **masked: int,
) -> AutoregressivePixels:
    """In float64, with weights all over it, so that every pixel matters to those behind it."""
    kind, shaping, more = BASES[base]
    transform = InputTransform(kind.support, shape, num_categories=shaping.get("num_categories"))
    pixels = MaskedPixels(
        kind.parameter_shape(shape, **shaping),
        features=features,
        transform=transform,
        **{"layers": 2, "width": 3, "kernel": 3, **masked},
    )
    decoder = MLP((latent_dim,), pixels.in_shape, hidden=(5,), activation="tanh", context_dim=context_dim)
    likelihood = AutoregressivePixels(decoder, kind(pixels, shape, **shaping, **more(shape))).double()
    with torch.no_grad():
        for name, weight in likelihood.named_parameters():
            weight.normal_(std=scale, generator=seeded(hash_of(name)))
    return likelihood.eval()


def hash_of(name: str) -> int:
    return sum(ord(letter) * place for place, letter in enumerate(name, 1))


def pixel_model(shape: tuple[int, ...] = (3, 3), *, latent_dim: int = 1, **options: object) -> LatentModel:
    likelihood = pixel_likelihood(shape=shape, latent_dim=latent_dim, **options)  # type: ignore[arg-type]
    return LatentModel(StandardNormal(latent_dim), likelihood).double().eval()


def pixel_guide(shape: tuple[int, ...], latent_dim: int) -> DiagonalNormal:
    network = MLP(shape, DiagonalNormal.parameter_shape(latent_dim), hidden=(6,), activation="tanh")
    return DiagonalNormal(network, latent_dim).double().eval()


def a_picture(likelihood: Likelihood, rows: int = 3, seed: int = 0) -> Tensor:
    """Pictures in the likelihood's support."""
    shape, generator = (rows, *likelihood.event_shape), seeded(seed)
    match likelihood.support:
        case Support.BINARY:
            return (torch.rand(shape, generator=generator) < 0.5).double()
        case Support.UNIT_INTERVAL:
            return torch.rand(shape, generator=generator, dtype=torch.float64)
        case Support.REALS:
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        case support:
            highest = {Support.BYTES: 256, Support.CATEGORIES: likelihood.num_parameters, Support.COUNTS: 9}[support]
            return torch.randint(highest, shape, generator=generator).double()


class QuadratureGuide(Conditional):
    """q(z | x), normal with the mean and the deviation of the posterior, for one latent."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        mean, second = posterior_moments(self.model, given)
        return Independent(Normal(mean, (second - mean.square()).sqrt()), 1)


@torch.no_grad()
def posterior_moments(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """E[z | x] and E[z² | x] of one latent by quadrature, shape (batch, 1)."""
    grid = torch.linspace(-7, 7, 201, dtype=torch.float64).reshape(-1, 1, 1)
    weight = model.log_joint(x, grid.expand(-1, len(x), -1)).softmax(0).unsqueeze(-1)
    return (weight * grid).sum(0), (weight * grid.square()).sum(0)
