"""Where annealing starts: every name gives the distribution it stands for, and mixtures of normals are written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing import ais as module
from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.annealing.initial import (
    STARTS,
    NormalMixture,
    StartDensity,
    default_start,
    metric_of,
    rows_of,
    start_density,
    start_of,
)
from elbowroom.model import oracles
from elbowroom.model.conditional import Likelihood
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians

DIM, DATA, CHAINS, PARTS = 3, 5, 7, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def factors(*shape: int, seed: int = 1) -> Tensor:
    """Lower triangular, of scales between 0.4 and 2.5."""
    raw = normal(*shape, DIM, DIM, seed=seed)
    return raw.tril(-1) + torch.diag_embed((0.9 * raw.diagonal(dim1=-2, dim2=-1).tanh()).exp())


def mixture(*, missing: bool = False, parts: int = PARTS) -> MixtureSameFamily:
    logits = normal(DATA, parts, seed=2)
    if missing:
        logits[1, 2] = logits[3, :3] = -math.inf  # components that a datum has not
    normals = MultivariateNormal(2 * normal(DATA, parts, DIM, seed=3), scale_tril=factors(DATA, parts))
    return MixtureSameFamily(Categorical(logits=logits, validate_args=False), normals, validate_args=False)


def full() -> MultivariateNormal:
    return MultivariateNormal(normal(DATA, DIM, seed=4), scale_tril=factors(DATA))


def diagonal() -> Distribution:
    return Independent(Normal(normal(DATA, DIM, seed=5), normal(DATA, DIM, seed=6).exp()), 1)


def written_out(q: MixtureSameFamily) -> NormalMixture:
    target = start_density(q)
    assert isinstance(target, NormalMixture)
    return target


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("parts", [1, PARTS])
def test_density_and_gradient_are_torchs(parts: int, missing: bool) -> None:
    q = mixture(missing=missing and parts > 1, parts=parts)
    z = (3 * normal(CHAINS, DATA, DIM, seed=7)).requires_grad_()
    expected = q.log_prob(z)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    target, at = written_out(q), z.detach()
    found = target.evaluate(at)
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1], gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(target.log_density(at), found[0])
    torch.testing.assert_close(target.gradient(at), found[1])


@pytest.mark.parametrize("make", [full, mixture, diagonal])
@pytest.mark.parametrize("index", [torch.tensor([4, 0, 4]), torch.tensor([2])], ids=["three", "one"])
def test_parts_of_the_data_keep_their_own(make: Callable[[], Distribution], index: Tensor) -> None:
    q = make()
    z = normal(CHAINS, DATA, DIM)
    chosen = start_density(q).select(index)
    assert type(chosen) is type(start_density(q))
    torch.testing.assert_close(chosen.log_density(z[:, index]), q.log_prob(z)[:, index])
    torch.testing.assert_close(chosen.gradient(z[:, index]), start_density(q).gradient(z)[:, index])


def test_what_is_made_of_full_normals_is_written_out_and_the_rest_is_not() -> None:
    assert isinstance(start_density(full()), NormalMixture)
    assert isinstance(start_density(diagonal()), StartDensity)
    shared = MultivariateNormal(torch.zeros(DIM), torch.eye(DIM))
    assert isinstance(start_density(shared), StartDensity)  # one for all data
    z = normal(CHAINS, DATA, DIM).float()
    torch.testing.assert_close(start_density(shared).evaluate(z), (shared.log_prob(z), -z))


def test_float32_loses_no_more_than_its_rounding() -> None:
    """Narrow components far from the origin, as of posteriors that data say much of."""
    exact = mixture()
    parts = exact.component_distribution
    narrow = MultivariateNormal(parts.loc, scale_tril=1e-2 * parts.scale_tril)
    z = narrow.loc[:, 0] + 1e-2 * normal(CHAINS, DATA, DIM)
    z = z.float()  # the same points for both
    as_float = NormalMixture(narrow.loc.float(), narrow.scale_tril.float(), exact.mixture_distribution.logits.float())
    same = MultivariateNormal(narrow.loc.float().double(), scale_tril=narrow.scale_tril.float().double())
    truth = MixtureSameFamily(exact.mixture_distribution, same, validate_args=False)
    value, gradient = as_float.evaluate(z)
    assert value.dtype == gradient.dtype == torch.float32
    leaf = z.double().requires_grad_()
    expected = truth.log_prob(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    assert (value - expected).abs().max() < 1e-4
    assert ((gradient - slope).norm(dim=-1) / slope.norm(dim=-1)).max() < 1e-4


def test_far_away_the_density_underflows_to_no_nan() -> None:
    value, gradient = written_out(mixture(missing=True)).evaluate(1e4 * torch.ones(1, DATA, DIM).double())
    assert value.isfinite().all()
    assert gradient.isfinite().all()


CASE = oracles.ppca(dim=6, latent_dim=DIM, seed=0, num_data=DATA)


def test_the_guide_is_asked_for_these_data() -> None:
    model, guide, x = CASE
    z, batch = normal(CHAINS, DATA, DIM), Batch(x)
    for start, given in (("guide", guide), (guide, None)):
        q, spent = start_of(model, given, batch, start)
        torch.testing.assert_close(q.log_prob(z), guide(x).log_prob(z))
        assert spent == 0
    with pytest.raises(ElbowroomError, match="none was given"):
        start_of(model, None, batch, "guide")


def test_the_prior_knows_nothing_of_x() -> None:
    model, guide, x = CASE
    q, spent = start_of(model, guide, Batch(x), "prior")
    z = normal(CHAINS, DATA, DIM)
    torch.testing.assert_close(q.log_prob(z), -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1))
    assert spent == 0


@pytest.mark.parametrize("defence", [0.0, 0.1])
def test_laplace_is_the_widened_posterior_where_that_is_normal_and_defended_by_the_prior(defence: float) -> None:
    """Its components, the refined one with them, all have the mean and the width of the posterior, widened."""
    model, _, x = CASE
    q, spent = start_of(model, None, Batch(x), "laplace", defence=defence, generator=seeded())
    exact = model.posterior(x)
    widened = MultivariateNormal(exact.mean.detach(), scale_tril=math.sqrt(1.44) * exact.scale_tril.detach())
    prior = MultivariateNormal(torch.zeros(DIM).double(), torch.eye(DIM).double())
    z = 3 * normal(CHAINS, DATA, DIM)
    expected = (1 - defence) * widened.log_prob(z).exp() + defence * prior.log_prob(z).exp()
    torch.testing.assert_close(q.log_prob(z), expected.log(), rtol=1e-6, atol=1e-6)
    assert spent > 0


@pytest.mark.parametrize("temperatures", [1, 2])
def test_importance_sampling_has_the_prior_among_its_draws_and_chains_that_move_have_not(
    temperatures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    original = module.start_of
    monkeypatch.setattr(module, "start_of", lambda *a, **kw: shares.append(kw["defence"]) or original(*a, **kw))
    model, _, x = CASE
    found = ais(model, x, start="laplace", temperatures=temperatures, chains=4, generator=seeded())
    assert shares == [0.1 if temperatures == 1 else 0.0]
    assert found.start_gradients > 0


def test_distributions_are_taken_as_they_are() -> None:
    model, _, x = CASE
    for q in (full(), MultivariateNormal(torch.zeros(DIM), torch.eye(DIM))):
        assert start_of(model, None, Batch(x), q) == (q, 0.0)
    with pytest.raises(ElbowroomError, match=r"batch shape \(5,\) .* but 4 examples"):
        start_of(model, None, Batch(x[:4]), full())


def test_names_that_do_not_exist_are_refused() -> None:
    model, guide, x = CASE
    with pytest.raises(ElbowroomError, match="start 'mode'"):
        start_of(model, guide, Batch(x), "mode")  # type: ignore[arg-type]
    assert set(STARTS) == {"laplace", "guide", "prior"}


class Uncurved(Bernoulli):
    """A likelihood of one's own, without a Fisher information."""

    fisher_information = Likelihood.fisher_information


def test_the_default_is_the_best_there_is() -> None:
    model, guide, _ = CASE
    assert default_start(model, guide) == default_start(model, None) == "laplace"
    uncurved = LatentModel(model.prior, Uncurved(MLP((DIM,), (1, 6), hidden=()).double(), (6,)))
    assert default_start(uncurved, guide) == "guide"
    assert default_start(uncurved, None) == "prior"


def test_without_a_fisher_information_annealing_starts_elsewhere() -> None:
    prior = MixtureOfGaussians(2, components=2, generator=seeded(1))
    model = LatentModel(prior, Uncurved(MLP((2,), (1, 6), hidden=()), (6,))).double().eval()
    x = model.sample(40, generator=seeded()).x
    found = ais(model, x, temperatures=6, chains=30, generator=seeded(1))
    assert found.start_gradients == 0
    relative = (found.log_weights - oracles.quadrature_log_evidence(model, x, points=161)).exp() - 1
    assert abs(relative.mean() / relative.std() * math.sqrt(relative.numel())) < 4


def test_the_metric_makes_the_largest_component_round() -> None:
    q, z = mixture(), normal(2, DATA, DIM)
    metric, largest = metric_of(q, z), q.mixture_distribution.logits.argmax(-1)
    parts = q.component_distribution
    for datum, k in enumerate(largest.tolist()):
        torch.testing.assert_close(metric.center[datum], parts.loc[datum, k])
        torch.testing.assert_close(metric.covariance()[datum], parts.covariance_matrix[datum, k])
    alone = rows_of(q, torch.tensor([3]))
    torch.testing.assert_close(metric_of(alone, z[:, 3:4]).center, metric.center[3:4])
    assert metric_of(full(), z.float()).center.dtype == torch.float32
