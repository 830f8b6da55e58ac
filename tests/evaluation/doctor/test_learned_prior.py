"""The mixture in the prior's place: its gain against divergences known in closed form or by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from elbowroom.evaluation.doctor.learned_prior import CANDIDATES, learn_priors
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.numerics import mean_and_stderr


def _model(prior) -> LatentModel:
    (dim,) = prior(None).event_shape
    network = MLP((dim,), Gaussian.parameter_shape((3,)), hidden=())
    return LatentModel(prior, Gaussian(network, (3,)))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clusters(shape, generator, *, at=2.0, width=0.5):
    sign = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    return at * sign + width * torch.randn(shape, generator=generator)


def _gains(model, z, fresh, spread=None):
    spread = torch.ones(z.shape[-1]) if spread is None else spread
    found = learn_priors(model, z, spread, generator=_generator(0))
    return {name: mean_and_stderr(prior.log_ratio(model, fresh)) for name, prior in found.items()}, found


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_wrong_scale_gains_its_divergence(scale):
    model, generator = _model(StandardNormal(3)), _generator(1)
    z, fresh = (scale * torch.randn(1, 4000, 3, generator=generator) for _ in range(2))
    gains, _ = _gains(model, z, fresh)
    exact = 3 * (0.5 * (scale**2 - 1) - math.log(scale))  # KL(N(0, s²I) ‖ N(0, I))
    for value, stderr in gains.values():
        assert abs(value - exact) < 4 * stderr + 0.02


def test_a_correlation_gains_its_divergence_and_is_named():
    model, generator = _model(StandardNormal(2)), _generator(2)
    z, fresh = torch.randn(2, 1, 4000, 2, generator=generator)
    for draws in (z, fresh):
        draws[..., 1] = 0.8 * draws[..., 0] + 0.6 * draws[..., 1]
    gains, _ = _gains(model, z, fresh)
    assert abs(gains["rescaled"][0]) < 0.01
    value, stderr = gains["correlated"]
    assert abs(value + 0.5 * math.log(1 - 0.8**2)) < 4 * stderr + 0.02


def test_two_clusters_gain_what_quadrature_says():
    model, generator = _model(StandardNormal(1)), _generator(3)
    z, fresh = (_clusters((1, 4000, 1), generator) for _ in range(2))
    gains, found = _gains(model, z, fresh)
    at = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = Categorical(logits=torch.zeros(2, dtype=torch.float64))
    q = MixtureSameFamily(weights, Normal(torch.tensor([-2.0, 2.0], dtype=torch.float64), 0.5))
    log_q, log_p = q.log_prob(at), Normal(0.0, 1.0).log_prob(at)
    exact = float((log_q.exp() * (log_q - log_p)).sum() * (at[1] - at[0]))
    value, stderr = gains["mixture"]
    assert abs(value - exact) < 4 * stderr + 0.02
    assert gains["rescaled"][0] < exact - 0.5  # a wider normal does not know of the hole
    # the learned density integrates to one, kept share included
    grid = at.float().reshape(1, -1, 1)
    ratio = found["mixture"].log_ratio(model, grid)[0]
    assert float((ratio + log_p).exp().sum() * (at[1] - at[0])) == pytest.approx(1.0, abs=1e-5)


def test_samples_have_the_density():
    model, generator = _model(StandardNormal(1)), _generator(4)
    found = learn_priors(model, _clusters((1, 2000, 1), generator), torch.ones(1), generator=generator)["mixture"]
    drawn = found.sample(model, torch.randn(20_000, 1, generator=generator), generator)
    at = torch.linspace(-9, 9, 4001)
    density = (found.log_ratio(model, at.reshape(1, -1, 1))[0] + Normal(0.0, 1.0).log_prob(at)).exp()
    for power in (1, 2, 4):
        exact = float((density * at**power).sum() * (at[1] - at[0]))
        value, stderr = mean_and_stderr(drawn**power)
        assert abs(value - exact) < 4 * stderr


@pytest.mark.parametrize("points", [64, 2000])
def test_a_right_prior_is_left_alone(points):
    model, generator = _model(StandardNormal(4)), _generator(5)
    z, fresh = torch.randn(1, points, 4, generator=generator), torch.randn(1, 4000, 4, generator=generator)
    gains, _ = _gains(model, z, fresh)
    for value, _ in gains.values():
        assert -0.1 < value < 0.02


def test_a_learned_prior_that_is_right_gains_nothing():
    prior = MixtureOfGaussians(2, 3, generator=_generator(0))
    with torch.no_grad():
        prior.means.mul_(3)
    model, generator = _model(prior), _generator(6)
    with torch.no_grad():
        draws = prior(None).sample((1, 8000))
        z, fresh = draws[:, :4000], draws[:, 4000:]
        found = learn_priors(model, z, torch.ones(2), generator=generator)
        for name in CANDIDATES:
            value, stderr = mean_and_stderr(found[name].log_ratio(model, fresh))
            assert -0.05 < value < 4 * stderr + 0.02


def test_idle_latents_keep_their_prior():
    model, generator = _model(StandardNormal(3)), _generator(7)
    z = torch.randn(1, 2000, 3, generator=generator)
    z[..., 1] = _clusters((1, 2000), generator)
    found = learn_priors(model, z, torch.tensor([0.0, 1.0, 0.001]), generator=generator)["mixture"]
    assert found.dims.tolist() == [1]
    moved = z.clone()
    moved[..., 0] += 5
    assert torch.equal(found.log_ratio(model, z), found.log_ratio(model, moved))
    prior = torch.randn(500, 3, generator=generator)
    drawn = found.sample(model, prior, generator)
    assert torch.equal(drawn[:, [0, 2]], prior[:, [0, 2]])
    assert not torch.equal(drawn[:, 1], prior[:, 1])


def test_clusters_are_not_learned_by_heart():
    # sixty data in ten dimensions: a mixture of their own places would gain on them alone
    model, generator = _model(StandardNormal(10)), _generator(8)
    z, fresh = torch.randn(40, 60, 10, generator=generator) * 0.1, torch.randn(1, 3000, 10, generator=generator)
    z = z + torch.randn(1, 60, 10, generator=generator)
    gains, _ = _gains(model, z, fresh)
    assert gains["mixture"][0] > -1.0


def test_covariances_are_shrunk_where_there_are_few_draws():
    dim, generator = 10, _generator(0)
    means, root = 2 * torch.randn(5, dim, generator=generator), 0.3 * torch.randn(dim, dim, generator=generator)
    covariance = root @ root.T + 0.05 * torch.eye(dim)
    q = MixtureSameFamily(Categorical(torch.ones(5)), MultivariateNormal(means, covariance.expand(5, dim, dim)))

    def drawn(n):
        noise = torch.randn(n, dim, generator=generator) @ torch.linalg.cholesky(covariance).T
        return (means[torch.randint(5, (n,), generator=generator)] + noise).unsqueeze(0)

    model, z, fresh = _model(StandardNormal(dim)), drawn(400), drawn(4000)
    gains, found = _gains(model, z, fresh)
    exact = float((q.log_prob(fresh) - model.log_prior(fresh)).mean())
    assert found["mixture"].components == 5
    assert exact - 0.5 < gains["mixture"][0] < exact + 0.01  # without it, 0.85 nats are lost


def test_the_same_generator_gives_the_same_prior():
    model = _model(StandardNormal(2))
    z = _clusters((1, 1000, 2), _generator(9))
    first, second = (learn_priors(model, z, torch.ones(2), generator=_generator(1))["mixture"] for _ in range(2))
    assert torch.equal(first.log_ratio(model, z), second.log_ratio(model, z))
