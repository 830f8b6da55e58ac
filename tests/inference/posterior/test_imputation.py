"""Missing elements against the conditional normal distribution, against quadrature, and against held-back truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.posterior import imputation
from elbowroom.inference.posterior.imputation import impute
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Categorical, CrossEntropy, Poisson
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal

N, DIM, LATENT = 40, 6, 2


@pytest.fixture(scope="module", autouse=True)
def _unchecked() -> Iterator[None]:
    """The check of the draws changes none and takes as long as they do: both are seen to in test_agreement.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imputation, "posterior", partial(imputation.posterior, check=False))
        yield


@pytest.fixture(scope="module")
def case() -> tuple[Any, Any, Batch]:
    """A linear-Gaussian model, and data of which each misses other elements; the first misses all, the second none."""
    model, guide, x = oracles.ppca(dim=DIM, latent_dim=LATENT, seed=1, num_data=N)
    mask = torch.rand(N, DIM, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[0], mask[1] = False, True
    return model, guide, Batch(x, mask=mask)


@pytest.fixture(scope="module")
def found(case: Any) -> imputation.Imputation:
    return fill(*case, draws=40, chains=40, warmup=30, interval=0.8, method="hmc")


def fill(model: LatentModel, guide: Any, batch: Batch, *, seed: int = 0, **settings: Any) -> imputation.Imputation:
    settings = {"draws": 100, "chains": 4, "warmup": 60, **settings}
    return impute(model, guide, batch, generator=torch.Generator().manual_seed(seed), **settings)


def conditional(model: oracles.LinearGaussian, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every missing element given the observed ones, from the joint covariance."""
    weight, bias = model.weight.detach(), model.bias.detach()
    joint = weight @ weight.T + model.noise_scale**2 * torch.eye(DIM, dtype=weight.dtype)
    mean, stddev = batch.x.clone(), torch.zeros_like(batch.x)
    assert batch.mask is not None
    for row, (x, seen) in enumerate(zip(batch.x, batch.mask, strict=True)):
        gain = joint[~seen][:, seen] @ torch.linalg.inv(joint[seen][:, seen])
        mean[row, ~seen] = bias[~seen] + gain @ (x - bias)[seen]
        covariance = joint[~seen][:, ~seen] - gain @ joint[seen][:, ~seen]
        stddev[row, ~seen] = covariance.diagonal().sqrt()
    return mean, stddev


def noise_of_means(model: oracles.LinearGaussian, stddev: Tensor) -> Tensor:
    """Standard deviations of E[x | z], which has no noise of its own."""
    return (stddev.square() - model.noise_scale**2).clamp(min=0).sqrt()


def test_the_mean_is_that_of_the_conditional_distribution(case: Any, found: imputation.Imputation) -> None:
    model, _, batch = case
    mean, stddev = conditional(model, batch)
    assert found.diagnostics is not None
    ess = torch.ones(N, dtype=torch.float64)
    ess[found.incomplete] = found.diagnostics.ess_bulk.amin(1).double()
    hidden = ~batch.mask
    stderr = (noise_of_means(model, stddev) / ess.sqrt().unsqueeze(-1))[hidden]
    z = (found.mean - mean)[hidden] / stderr
    assert z.abs().max() < 4
    # the standard error is that of E[x | z]: an average of draws of x would carry their noise too
    assert z.square().mean() < 1.6


def test_the_deviation_and_the_ends_are_those_of_the_conditional_distribution(
    case: Any, found: imputation.Imputation
) -> None:
    model, _, batch = case
    mean, stddev = conditional(model, batch)
    hidden = ~batch.mask
    # 1,600 draws, no fewer than 300 of them effective
    assert ((found.stddev / stddev)[hidden].log().abs() < 4 / math.sqrt(2 * 300)).all()
    end = Normal(0.0, 1.0).icdf(torch.tensor(0.9)).item()
    density = math.exp(-(end**2) / 2) / math.sqrt(2 * math.pi)
    stderr = math.sqrt(0.1 * 0.9 / 300) / density
    for sign, values in ((-1, found.lower), (1, found.upper)):
        z = ((values - mean) / stddev - sign * end)[hidden] / stderr
        assert z.abs().max() < 4
        assert abs(float(z.mean())) < 0.5


def test_samples_are_draws_that_vary_together(case: Any) -> None:
    """The covariance of two missing elements, which no interval of single elements tells."""
    model, guide, x = oracles.ppca(dim=DIM, latent_dim=LATENT, seed=1, num_data=30)
    mask = torch.zeros_like(x, dtype=torch.bool)  # nothing is known: the prior predictive
    drawn = fill(model, guide, Batch(x, mask=mask), method="hmc", num_samples=40).samples.flatten(0, 1)
    exact = (model.weight @ model.weight.T).detach() + model.noise_scale**2 * torch.eye(DIM, dtype=x.dtype)
    centred = drawn - model.bias.detach()
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    z = (products.mean(0) - exact) / (products.std(0) / math.sqrt(len(drawn) / 2))  # draws of a chain are related
    assert z.abs().max() < 4


def test_what_was_observed_is_unchanged(case: Any, found: imputation.Imputation) -> None:
    _, _, batch = case
    for values in (found.mean, found.lower, found.upper, found.completed, *found.samples):
        assert torch.equal(values[batch.mask], batch.x[batch.mask])
    assert (found.stddev[batch.mask] == 0).all()
    assert (found.stddev[~batch.mask] > 0).all()
    assert ((found.lower < found.mean) & (found.mean < found.upper))[~batch.mask].all()
    assert torch.equal(found.completed, found.mean)
    assert found.incomplete.tolist() == [row for row in range(N) if row != 1 and not batch.mask[row].all()]
    assert torch.equal(found.mask, batch.mask)


def test_the_filler_does_not_matter(case: Any) -> None:
    model, guide, batch = case
    other = Batch(torch.where(batch.mask, batch.x, batch.x + 3), mask=batch.mask)
    one, two = (
        fill(model, guide, which, draws=25, chains=48, warmup=25, method="hmc", num_steps=2) for which in (batch, other)
    )
    hidden = ~batch.mask
    assert not torch.equal(one.mean, two.mean)  # the chains start elsewhere
    assert ((one.mean - two.mean).abs() / one.stddev)[hidden].max() < 0.3


@pytest.mark.parametrize("mask", [None, torch.ones(N, DIM, dtype=torch.bool)])
def test_nothing_missing_costs_nothing(case: Any, mask: Tensor | None) -> None:
    model, guide, batch = case
    found = fill(model, guide, Batch(batch.x, mask=mask))
    for values in (found.mean, found.lower, found.upper, found.completed, *found.samples):
        assert torch.equal(values, batch.x)
    assert (found.stddev == 0).all()
    assert found.diagnostics is None
    assert len(found.incomplete) == 0


@pytest.mark.parametrize("interval", [0.5, 0.9])
def test_the_interval_holds_what_it_says(interval: float) -> None:
    model, guide, x = oracles.ppca(dim=DIM, latent_dim=LATENT, seed=3, num_data=300)
    mask = torch.rand(300, DIM, generator=torch.Generator().manual_seed(4)) < 0.5
    found = fill(model, guide, Batch(x, mask=mask), draws=50, warmup=25, method="hmc", interval=interval)
    inside = ((x >= found.lower) & (x <= found.upper)).double()
    rows = torch.where(mask, interval, inside).mean(1)  # elements of a datum are related; data are not
    z = (rows.mean() - interval) / (rows.std() / math.sqrt(len(rows)))
    assert abs(z) < 4


@pytest.mark.parametrize("interval", [0.5, 0.9])
def test_few_draws_make_no_interval_too_narrow(interval: float) -> None:
    """Where z tells nothing the draws are independent, and another one lies inside with exactly this probability."""
    model = oracles.LinearGaussian(torch.zeros(60, 1), torch.zeros(60), scale=1.0).double()
    x = model.sample(150, generator=torch.Generator().manual_seed(0)).x.double()
    batch = Batch(x, mask=torch.zeros_like(x, dtype=torch.bool))
    few = {"draws": 19, "chains": 1, "warmup": 2, "method": "hmc", "num_steps": 1, "num_samples": 1}
    found = fill(model, model.exact_guide(), batch, interval=interval, **few)
    inside = ((x >= found.lower) & (x <= found.upper)).double()
    assert abs(inside.mean() - interval) < 4 * math.sqrt(interval * (1 - interval) / x.numel())


def test_ends_are_draws_of_a_rank_and_those_of_whole_numbers_lie_further_out() -> None:
    """The rank is p (S + 1), numpy's "weibull": of 24 draws, 2.5 for 10%."""
    every = {"draws": 6, "chains": 4, "num_samples": 24, "interval": 0.8, "warmup": 10}
    model, guide, x = oracles.ppca(dim=DIM, latent_dim=LATENT, seed=1, num_data=5)
    found = fill(model, guide, Batch(x, mask=torch.zeros_like(x, dtype=torch.bool)), **every)
    for values, share in ((found.lower, 0.1), (found.upper, 0.9)):
        np.testing.assert_allclose(values, np.quantile(found.samples, share, axis=0, method="weibull"))
    counts = curved(Poisson)
    x = counts.sample(5, generator=torch.Generator().manual_seed(0)).x
    found = fill(counts, wide_guide(), Batch(x.double(), mask=torch.zeros_like(x, dtype=torch.bool)), **every)
    ordered = found.samples.sort(0).values
    assert torch.equal(found.lower, ordered[1])
    assert torch.equal(found.upper, ordered[22])
    assert not torch.equal(ordered[1], ordered[2]) and not torch.equal(ordered[21], ordered[22])


# --- models without a closed form --------------------------------------------------------------------------------


def curved(kind: type[Any], **settings: Any) -> LatentModel:
    """Two latents and a decoder that is no line."""
    torch.manual_seed(5)
    network = MLP((2,), kind.parameter_shape((DIM,), **settings), hidden=(8,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    return LatentModel(StandardNormal(2), kind(network, (DIM,), **settings)).double().eval()


def by_quadrature(model: LatentModel, batch: Batch) -> Tensor:
    """Probabilities of the values of every element given the observed ones, shape (n, dim[, C])."""
    axis = torch.linspace(-6, 6, 81, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis).unsqueeze(1)
    with torch.no_grad():
        weights = model.log_joint(batch.x, z.expand(-1, len(batch), -1), mask=batch.mask).softmax(0)
        probabilities = model.likelihood(z).probs
    return torch.einsum("gn,g...->n...", weights, probabilities.squeeze(1))


def wide_guide() -> Any:
    return oracles.ppca(dim=DIM, latent_dim=2, seed=0)[1]


def test_binary_elements_are_filled_in_with_their_probability() -> None:
    model = curved(Bernoulli)
    x = model.sample(20, generator=torch.Generator().manual_seed(0)).x.double()
    mask = torch.rand(20, DIM, generator=torch.Generator().manual_seed(1)) < 0.5
    batch = Batch(x, mask=mask)
    found = fill(model, wide_guide(), batch, draws=30, chains=20, warmup=25, method="hmc", num_steps=4)
    exact = by_quadrature(model, batch)
    hidden = ~mask
    # each element's E[x | z] varies by no more than √(p (1 − p)); at least 100 draws are effective
    bound = (exact * (1 - exact) / 100).sqrt().clamp(min=1e-3)
    assert ((found.mean - exact).abs() / bound)[hidden].max() < 4
    assert set(found.samples.unique().tolist()) == {0.0, 1.0}
    assert set(torch.stack([found.lower, found.upper]).unique().tolist()) == {0.0, 1.0}
    sure = hidden & (exact < 0.03)
    assert sure.any()
    assert (found.upper[sure] == 0).all()
    assert found.probability is None
    assert ((found.stddev - (exact * (1 - exact)).sqrt()).abs()[hidden] < 0.12).all()


def test_categories_are_filled_in_with_the_most_probable_one() -> None:
    model = curved(Categorical, num_categories=3)
    x = model.sample(20, generator=torch.Generator().manual_seed(0)).x
    mask = torch.rand(20, DIM, generator=torch.Generator().manual_seed(1)) < 0.5
    batch = Batch(x.double(), mask=mask)
    found = fill(model, wide_guide(), batch, draws=30, chains=20, warmup=25, method="hmc", num_steps=4)
    exact = by_quadrature(model, batch)
    assert found.mean is found.stddev is found.lower is found.upper is None
    assert found.probability is not None
    probability = exact.gather(-1, found.completed.long().unsqueeze(-1)).squeeze(-1)
    assert (found.probability - probability)[~mask].abs().max() < 0.12
    assert (probability > exact.max(-1).values - 0.1)[~mask].all()
    assert (found.probability[mask] == 1).all()
    assert torch.equal(found.completed[mask], batch.x[mask])
    assert set(found.samples.unique().tolist()) == {0.0, 1.0, 2.0}


def test_of_elements_that_name_levels_the_commonest_draw_is_filled_in() -> None:
    model = curved(Bernoulli)
    x = model.sample(20, generator=torch.Generator().manual_seed(0)).x.double()
    mask = torch.rand(20, DIM, generator=torch.Generator().manual_seed(1)) < 0.5
    batch, names = Batch(x, mask=mask), torch.arange(DIM) % 2 == 0
    quick: dict[str, Any] = {"draws": 30, "chains": 40, "warmup": 25, "method": "hmc", "num_steps": 4}
    found = fill(model, wide_guide(), batch, names=names, **quick)
    plain = fill(model, wide_guide(), batch, **quick)
    named, other = ~mask & names, ~mask & ~names
    assert found.probability is not None
    # the same draws: elements that are no names have what they always have, and no probability
    assert torch.equal(found.mean[other], plain.mean[other])
    assert torch.equal(found.upper[other], plain.upper[other])
    assert found.probability[other].isnan().all()
    exact = by_quadrature(model, batch)
    exact = torch.where(found.completed == 1, exact, 1 - exact)[named]
    # as many draws as make a share vary by √(p (1 − p) / 100) at most
    assert ((found.probability[named] - exact).abs() / (exact * (1 - exact) / 100).sqrt().clamp(min=1e-3)).max() < 4
    assert (found.probability[named] >= 0.5).all()
    assert all(part[named].isnan().all() for part in (found.mean, found.stddev, found.lower, found.upper))
    assert torch.equal(found.completed[mask], x[mask])
    assert (found.probability[mask] == 1).all()


def test_whole_numbers_of_integer_type_have_means_too() -> None:
    model = curved(Bernoulli).float()
    x = torch.zeros(3, DIM, dtype=torch.uint8)
    found = fill(model, wide_guide().float(), Batch(x, mask=x.bool()), draws=20, warmup=10)
    assert found.mean.is_floating_point()
    assert ((found.mean > 0) & (found.mean < 1)).all()


# --- numbers of draws, of data, of elements at a time ------------------------------------------------------------


def test_chunks_change_the_draws_and_not_what_they_are_of(case: Any) -> None:
    model, guide, batch = case
    large, small = (
        fill(model, guide, batch, draws=50, warmup=20, method="hmc", num_steps=2, chunk_elements=size)
        for size in (2**22, 700)
    )
    assert torch.allclose(small.mean, large.mean)  # the same z, and no draw of x is part of it
    assert not torch.equal(small.samples, large.samples)
    assert (((small.upper - large.upper).abs()[~batch.mask] / large.stddev[~batch.mask]).mean()) < 0.3


def test_a_seed_repeats_everything(case: Any) -> None:
    model, guide, batch = case
    one, two, other = (fill(model, guide, batch, seed=seed, draws=10, warmup=5, method="hmc") for seed in (0, 0, 1))
    assert torch.equal(one.samples, two.samples)
    assert not torch.equal(one.samples, other.samples)


def test_samples_come_from_all_chains_and_distant_draws(case: Any) -> None:
    quick = {"draws": 100, "warmup": 10, "method": "hmc", "num_steps": 1}
    few, every = (fill(*case, **quick, num_samples=number).samples for number in (5, 400))
    chain, at = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([10, 30, 50, 70, 90])
    assert torch.equal(few, every[4 * at + chain])


def test_settings_reach_the_sampler(case: Any) -> None:
    model, guide, batch = case
    found = fill(model, guide, batch, draws=10, method="hmc", num_steps=3, metric="diagonal")
    assert found.settings["method"] == "hmc"
    assert (found.settings["num_steps"], found.settings["metric"]) == (3, "diagonal")


BAD: list[tuple[str, dict[str, Any]]] = [
    ("interval is 0", {"interval": 0.0}),
    ("interval is 1", {"interval": 1.0}),
    ("199 or more", {"interval": 0.99, "draws": 40}),
    ("draws is 3", {"draws": 3, "chains": 1}),
    ("0 completed samples", {"num_samples": 0}),
    ("there are 400 draws", {"num_samples": 401}),
    ("'gibbs'", {"method": "gibbs"}),
]


@pytest.mark.parametrize(("words", "settings"), BAD, ids=[words for words, _ in BAD])
def test_what_cannot_be(case: Any, words: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ElbowroomError, match=words):
        fill(*case, **settings)


def test_a_loss_is_no_distribution_to_draw_from(case: Any) -> None:
    model = LatentModel(StandardNormal(2), CrossEntropy(MLP((2,), (1, DIM), hidden=()), (DIM,)))
    with pytest.raises(ElbowroomError, match="does not integrate to one"):
        fill(model, case[1], case[2])


def test_a_mask_of_another_shape(case: Any) -> None:
    model, guide, batch = case
    with pytest.raises(ElbowroomError, match=r"mask has shape \(6,\)"):
        fill(model, guide, Batch(batch.x, mask=torch.ones(DIM, dtype=torch.bool)))


def test_what_does_not_fit_is_refused(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elbowroom.memory.available_memory", lambda: 1000)
    with pytest.raises(ElbowroomError, match="completed samples"):
        fill(*case)
