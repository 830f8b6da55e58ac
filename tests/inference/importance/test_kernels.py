"""Kernels: a density that is one, draws that have it, and the mean and the spread of what they were fitted to."""

from __future__ import annotations

import math

import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from elbowroom.inference.importance.kernels import NormalKernels, fitted_kernels
from elbowroom.model.draws import draw

AXES = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [0.0, 0.3, 0.1]]).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_density_is_that_of_a_mixture_of_normals() -> None:
    mean, factor = torch.randn(2, 3, generator=seeded(0)).double(), torch.stack([AXES, 2 * AXES])
    centres, width = torch.randn(2, 5, 3, generator=seeded(1)).double(), 0.4
    loc = torch.cat(
        [mean.unsqueeze(1), mean.unsqueeze(1) + (factor.unsqueeze(1) @ centres.unsqueeze(-1)).squeeze(-1)], 1
    )
    scale = torch.tensor([1.0, *[width] * 5]).double()[:, None, None]
    plain = MixtureSameFamily(
        Categorical(probs=torch.tensor([0.5, *[0.1] * 5]).double().expand(2, 6)),
        MultivariateNormal(loc, scale_tril=factor.unsqueeze(1) * scale),
    )
    found = NormalKernels(mean, factor, centres, width)
    assert (found.batch_shape, found.event_shape) == ((2,), (3,))
    z = plain.sample((50, 4))
    torch.testing.assert_close(found.log_prob(z), plain.log_prob(z))
    drawn, expected = draw(found, (20_000,), generator=seeded(2)), plain.mean
    stderr = (plain.variance / len(drawn)).sqrt()
    assert ((drawn.mean(0) - expected) / stderr).abs().max() < 4
    assert (drawn.var(0) / plain.variance - 1).abs().max() < 4 * math.sqrt(3 / len(drawn))


def test_a_fit_has_the_mean_and_the_covariance_of_weighted_draws() -> None:
    z = torch.randn(4000, 1, 3, generator=seeded(0), dtype=torch.float64) @ AXES.T + 5.0
    log_weights = 0.3 * z[..., 0]
    weights = log_weights.softmax(0)
    mean = (weights.unsqueeze(-1) * z).sum(0)
    centred = (z - mean).squeeze(1)
    covariance = (weights * centred).T @ centred
    drawn = draw(fitted_kernels(z, log_weights, 2000, generator=seeded(1)), (40_000,), generator=seeded(2)).squeeze(1)
    assert ((drawn.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max() < 4 * math.sqrt(
        1 / 4 / 2000 + 1 / 40_000
    )
    ratio = torch.linalg.eigvals(torch.linalg.solve(covariance, drawn.T.cov())).real  # 1 in every direction
    assert (ratio - 1).abs().max() < 4 * math.sqrt(2 / 4 / 2000 + 2 / 40_000)
