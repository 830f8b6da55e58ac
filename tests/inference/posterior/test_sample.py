"""Draws from posteriors: right for every method, metric and model, each datum's its own, whatever the blocks."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom import memory
from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.posterior import sample as module
from elbowroom.inference.posterior.sample import METHODS, METRICS, gauss_newton_learner, posterior, start_metric
from elbowroom.inference.target import posterior_target
from elbowroom.model import likelihoods, oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.flows import MafPrior
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior
from elbowroom.samplers.diagnostics import ess_mean
from elbowroom.samplers.metric import Metric

LATENT, DATA = 2, 6
# many chains of few draws: a transition of tiny models takes about as long for two hundred chains as for fifty
QUICK: dict[str, Any] = {"draws": 30, "chains": 18, "warmup": 40}
HMC_LONG: dict[str, Any] = {"draws": 70, "chains": 16, "warmup": 60}
WIDE: dict[str, Any] = {"draws": 35, "chains": 20, "warmup": 30}  # for chains that mix in a step or two


class Rough(Conditional):
    """A guide that looks at nothing: the same wide normal for every datum."""

    def __init__(self, loc: float = 0.2, scale: float = 0.7, latent_dim: int = LATENT) -> None:
        super().__init__()
        self.loc, self.scale, self.latent_dim = loc, scale, latent_dim

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        loc = torch.full((len(given), self.latent_dim), self.loc, dtype=torch.float64)
        return Independent(Normal(loc, self.scale), 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(outputs: tuple[int, ...], context_dim: int = 0) -> MLP:
    made = MLP((LATENT,), outputs, hidden=(6,), activation="tanh", context_dim=context_dim)
    for parameter in made.parameters():
        parameter.data.mul_(1.4)
    return made


def vamp() -> VampPrior:
    guide = DiagonalNormal(MLP((10,), (2, LATENT), hidden=(4,)), LATENT)
    return VampPrior(guide, torch.rand(4, 10, generator=seeded(1)), Support.UNIT_INTERVAL)


def case(name: str) -> SimpleNamespace:
    """A model whose posteriors are not normal, and data from it."""
    torch.manual_seed(5)
    prior: Conditional = StandardNormal(LATENT)
    event: tuple[int, ...] = (10,)
    context = mask = None
    if name == "mixture prior":
        prior = MixtureOfGaussians(LATENT, 3, generator=seeded(2))
    if name == "vamp prior":
        prior = vamp()
    if name == "flow prior":
        prior = MafPrior(LATENT, width=8)
        for part in prior.bijection.parts:
            part.hyper[-1].weight.data.mul_(100)  # away from the identity, where it starts
    makers: dict[str, Any] = {
        "poisson": lambda: likelihoods.Poisson(network((1, 10)), event),
        "categorical": lambda: likelihoods.Categorical(network((3, 10)), event, num_categories=3),
        "per-element": lambda: likelihoods.Gaussian(network((2, 10)), event, scale="per-element"),
        "gaussian": lambda: likelihoods.Gaussian(network((1, 10)), event, scale=1.0),
        "convolutions": lambda: likelihoods.Bernoulli(ConvDecoder((LATENT,), (1, 4, 4), channels=(2,)), (4, 4)),
        "context and mask": lambda: likelihoods.Bernoulli(network((1, 10), 2), event),
    }
    likelihood = makers.get(name, lambda: likelihoods.Bernoulli(network((1, 10)), event))()
    if name == "convolutions":
        for parameter in likelihood.parameters():
            parameter.data.mul_(2.0)
    if name == "context and mask":
        context = torch.randn(DATA, 2, generator=seeded(6), dtype=torch.float64)
        mask = torch.rand(DATA, 10, generator=seeded(7)) < 0.5
    model = LatentModel(prior, likelihood).double().eval()
    with torch.no_grad():
        z = torch.randn(DATA, LATENT, generator=seeded(8), dtype=torch.float64)
        x = draw(model.likelihood(z, context), generator=seeded(9))
    return SimpleNamespace(model=model, guide=Rough(), batch=Batch(x, context=context, mask=mask))


CASES = (
    "mixture prior",
    "vamp prior",
    "flow prior",
    "poisson",
    "categorical",
    "per-element",
    "gaussian",
    "convolutions",
    "context and mask",
)


@torch.no_grad()
def moments(model: LatentModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """E[z | x] and E[z zᵀ | x] by quadrature, shapes (data, latent) and (data, latent²)."""
    axis = torch.linspace(-7, 7, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * LATENT).reshape(-1, 1, LATENT)
    log_joint = model.log_joint(batch.x, grid.expand(-1, len(batch), -1), context=batch.context, mask=batch.mask)
    weight = log_joint.softmax(0)
    products = (grid.unsqueeze(-1) * grid.unsqueeze(-2)).flatten(-2)
    return (weight.unsqueeze(-1) * grid).sum(0), (weight.unsqueeze(-1) * products).sum(0)


def scores(z: Tensor, mean: Tensor, second: Tensor) -> Tensor:
    """z-scores of draws (draws, chains, data, latent) with standard errors from their effective number."""
    values = torch.cat([z, (z.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)], -1)
    expected = torch.cat([mean, second], -1)
    pooled = values.flatten(0, 1)
    return (pooled.mean(0) - expected) / (pooled.std(0) / ess_mean(values).sqrt())


@functools.cache
def exact_moments(name: str) -> tuple[Tensor, Tensor]:
    of = case(name)
    return moments(of.model, of.batch)


def assert_right(name: str, **settings: Any) -> None:
    of = case(name)
    settings = {**(HMC_LONG if settings["method"] == "hmc" else QUICK), **settings}
    # the check looks at the draws and changes none (test_agreement.py)
    found = posterior(of.model, of.guide, of.batch, generator=seeded(15), check=False, **settings)
    worst = scores(found.z, *exact_moments(name)).abs()
    assert float(worst.max()) < 4, worst
    assert float(found.diagnostics.ess_bulk.min()) > 60
    assert float(found.diagnostics.rhat.max()) < 1.2
    assert float(found.diagnostics.acceptance.min()) > 0.4


@pytest.mark.parametrize(
    ("method", "metric"), [(METHODS[k % len(METHODS)], metric) for k, metric in enumerate(METRICS)]
)
def test_methods_and_metrics(method: str, metric: str) -> None:
    assert_right("bernoulli", method=method, metric=metric)


@pytest.mark.parametrize("name", CASES)
def test_models(name: str) -> None:
    assert_right(name, method="hmc", metric="gauss-newton", **WIDE)


@pytest.mark.parametrize(
    ("name", "method", "metric"),
    [
        ("mixture prior", "nuts", "gauss-newton"),
        ("context and mask", "nuts", "gauss-newton"),
        ("vamp prior", "hmc", "dense"),
        ("context and mask", "hmc", "diagonal"),
    ],
)
def test_models_by_other_ways(name: str, method: str, metric: str) -> None:
    assert_right(name, method=method, metric=metric)


def test_half_precision() -> None:
    of = case("bernoulli")
    of.model.float()
    of.batch = of.batch.to(dtype=torch.float32)

    class Single(Rough):
        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
            q = super().forward(given, context)
            return Independent(Normal(q.mean.float(), q.stddev.float()), 1)

    found = posterior(of.model, Single(), of.batch, method="hmc", precision="bf16", generator=seeded(10), **HMC_LONG)
    assert found.z.dtype == torch.float32
    assert float(scores(found.z.double(), *exact_moments("bernoulli")).abs().max()) < 4


@pytest.mark.parametrize(
    ("method", "metric"),
    [  # NUTS takes long; `test_methods_and_metrics` has it with all metrics but two, of which "guide" is here
        pytest.param(method, metric, marks=pytest.mark.slow if method == "nuts" and metric != "guide" else [])
        for metric in METRICS
        for method in METHODS
    ],
)
def test_the_exact_posterior_of_a_linear_gaussian_model(method: str, metric: str) -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=LATENT, seed=3, num_data=20)
    quick = {**(QUICK if method == "nuts" else HMC_LONG), "check": False}
    found = posterior(model, guide, x, method=method, metric=metric, generator=seeded(11), **quick)  # type: ignore[arg-type]
    with torch.no_grad():
        exact = model.posterior(x)
    second = exact.covariance_matrix + exact.mean.unsqueeze(-1) * exact.mean.unsqueeze(-2)
    worst = scores(found.z, exact.mean, second.flatten(1)).abs()
    assert float(worst.max()) < 4, worst


# --- data by themselves


@pytest.mark.parametrize("block", [2, 4, 512])
def test_blocks_keep_the_order_of_data(block: int) -> None:
    """Whatever the blocks, each datum's draws are its own posterior's, and its tuning stands beside them."""
    model, guide, x = oracles.ppca(dim=6, latent_dim=LATENT, seed=3, num_data=6)
    found = posterior(
        model,
        guide,
        x,
        method="hmc",
        draws=40,
        chains=4,
        warmup=30,
        block=block,
        check=block == 4,
        generator=seeded(12),
    )
    with torch.no_grad():
        exact = model.posterior(x)
    assert found.z.shape == (40, 4, 6, LATENT)
    assert found.info.energy.shape == found.info.divergent.shape == (40, 4, 6)
    assert found.diagnostics.rhat.shape == (6, LATENT)
    assert found.tuning.step_size.shape == (6,)
    values, pooled = found.z, found.z.flatten(0, 1)
    stderr = pooled.std(0) / ess_mean(values).sqrt()
    assert float(((pooled.mean(0) - exact.mean) / stderr).abs().max()) < 4.5
    assert float((exact.mean - exact.mean.roll(1, 0)).abs().mean()) > 20 * float(stderr.mean())
    ratios = torch.linalg.eigvals(torch.linalg.solve(exact.covariance_matrix, found.tuning.metric.covariance())).real
    assert 0.3 < float(ratios.min()) < float(ratios.max()) < 3
    torch.testing.assert_close(found.tuning.metric.center, exact.mean, rtol=0, atol=1.5)


def test_the_metric_joins_curvature_and_draws() -> None:
    """Of a linear-Gaussian model the curvature is the posterior's precision everywhere, whatever the draws."""
    model, _, x = oracles.ppca(dim=6, latent_dim=LATENT, seed=3, num_data=12)
    exact = model.posterior(x).covariance_matrix.detach()
    z = 3 * torch.randn(50, 12, LATENT, generator=seeded(4), dtype=torch.float64) + 1
    learned = gauss_newton_learner(model, Batch(x))(z, Metric.identity(z))
    seen = torch.stack([torch.cov(z[:, datum].T, correction=0) for datum in range(12)])
    prior_count = 10 * LATENT
    expected = (50 * seen + prior_count * exact) / (50 + prior_count)
    torch.testing.assert_close(learned.covariance(), expected)
    torch.testing.assert_close(learned.center, z.mean(0))


def test_the_same_seed_gives_the_same_draws() -> None:
    of = case("bernoulli")
    settings: dict[str, Any] = {"draws": 6, "chains": 2, "warmup": 5, "block": 4, "check": False}
    before = torch.get_rng_state()
    one, same, other = (
        posterior(of.model, of.guide, of.batch, generator=seeded(seed), **settings) for seed in (1, 1, 2)
    )
    assert torch.equal(one.z, same.z)
    assert torch.equal(one.info.energy, same.info.energy)
    assert torch.equal(one.tuning.step_size, same.tuning.step_size)
    assert not torch.equal(one.z, other.z)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_datum_has_a_tuning_of_its_own() -> None:
    """Data of which more was observed have narrower posteriors, and so narrower metrics."""
    model, guide, x = oracles.ppca(dim=30, latent_dim=LATENT, seed=3, num_data=4)
    mask = torch.arange(30) < torch.tensor([[2], [5], [10], [30]])
    settings: dict[str, Any] = {"method": "hmc", "metric": "diagonal", "draws": 4, "warmup": 60, "chains": 12}
    found = posterior(model, guide, Batch(x, mask=mask), check=False, generator=seeded(13), **settings)
    with torch.no_grad():
        exact = model.posterior(x, mask).variance.sqrt()
    ratio = found.tuning.metric.factor / exact
    assert float(ratio.min()) > 0.6
    assert float(ratio.max()) < 1.6
    assert float(exact.max() / exact.min()) > 3


@pytest.mark.parametrize("name", ["poisson", "context and mask"])
def test_start_metrics(name: str) -> None:
    of = case(name)
    for metric in METRICS:
        with torch.no_grad():
            found = start_metric(of.model, of.guide, of.batch, metric)  # type: ignore[arg-type]
        expected = {"identity": 1.0, "guide": 0.7, "diagonal": 0.7, "dense": 0.7}.get(metric)
        if expected is not None:
            torch.testing.assert_close(found.factor, torch.full((DATA, LATENT), expected, dtype=torch.float64))
            assert float((found.center - 0.2).abs().max()) < 1e-12
        else:
            gradient = posterior_target(of.model, of.batch).gradient(found.center.unsqueeze(0))[0]
            newton = (found.covariance() @ gradient.unsqueeze(-1)).squeeze(-1)
            assert float((0.5 * gradient * newton).sum(-1).max()) < 1e-2  # at the mode
    assert torch.isfinite(found.center).all()


def test_progress_counts_transitions_of_data() -> None:
    of, told = case("bernoulli"), []
    posterior(
        of.model,
        of.guide,
        of.batch,
        draws=5,
        warmup=3,
        chains=2,
        block=4,
        method="hmc",
        generator=seeded(0),
        announce=lambda what, done, total, info=None: told.append((done, total)),
    )
    assert told[-1] == (DATA * 8, DATA * 8)
    assert [done for done, _ in told] == [*range(4, 33, 4), *range(34, 49, 2)]


def test_the_settings_are_kept() -> None:
    of = case("bernoulli")
    found = posterior(of.model, of.guide, of.batch, method="hmc", draws=5, warmup=3, generator=seeded(0))
    assert found.settings["method"] == "hmc"
    assert (found.settings["draws"], found.settings["chains"], found.settings["warmup"]) == (5, 4, 3)
    assert found.settings["num_steps"] == 4
    assert found.warmup_gradients == 12
    assert found.summary().num_data == DATA
    assert not found.z.requires_grad


@pytest.mark.parametrize("name", ["flow prior", "context and mask"])  # a prior of one draw for all, and of each its own
def test_every_second_chain_starts_about_a_mode_of_its_own(name: str) -> None:
    """Found side by side where one search for each would end, from the same draws of the prior."""
    of = case(name)
    around, prior = start_metric(of.model, of.guide, of.batch, "gauss-newton"), of.model.prior(None, of.batch.context)
    z = module._starting_points(of.model, of.batch, around, 5, seeded(2), at_modes=True)
    noise = torch.randn(5, *z.shape[1:], generator=(generator := seeded(2)), dtype=torch.float64)
    torch.testing.assert_close(z[::2], around.to_z(noise)[::2])
    for chain in (1, 3):
        start = draw(prior, () if prior.batch_shape else (len(of.batch),), generator=generator)
        found = laplace(of.model, start, of.batch)
        about = Metric.from_precision(found.precision, found.mode)
        torch.testing.assert_close(z[chain], about.to_z(noise[chain : chain + 1])[0])


# --- what goes wrong


class Cliff(likelihoods.Gaussian):
    """The data say nothing, but where z is beyond 1 there is nothing at all."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        q = super().forward(given, context)
        assert given is not None
        loc = torch.where((given.abs() > 1).any(-1, keepdim=True), math.nan, q.mean)
        return Normal(loc, q.stddev, validate_args=False)


def test_a_second_mode_does_not_stay_hidden() -> None:
    """Two modes that chains do not pass between: with all of them at one, R-hat would be 1 and half of it missing."""
    prior = MixtureOfGaussians(LATENT, 2)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))
        prior.log_scales.fill_(-1.0)
    model = LatentModel(prior, likelihoods.Gaussian(network((1, 3)), (3,), scale=0.3)).eval()
    nothing = Batch(torch.zeros(8, 3), mask=torch.zeros(8, 3, dtype=torch.bool))
    guide = DiagonalNormal(MLP((3,), (2, LATENT), hidden=(8,)), LATENT).eval()
    found = posterior(model, guide, nothing, method="hmc", generator=seeded(0), **QUICK)
    share = (found.z[..., 0] > 0).float().mean((0, 1))
    assert int(((share > 0) & (share < 1)).sum()) >= 6  # of 8 data, both modes were visited
    assert float(found.diagnostics.rhat.amax(1).median()) > 1.3


@pytest.mark.parametrize("scale", [0.01, 0.003, 0.001])
def test_a_stiff_posterior_in_single_precision(scale: float) -> None:
    """The decoder sees 3 of 8 directions, so sharply that float32 would round the covariance to indefinite."""
    dim = 8
    decoder = MLP((dim,), (1, 784), hidden=(32,), activation="tanh")
    with torch.no_grad():
        first = decoder.hidden_layers[0].weight
        first.copy_(torch.randn(32, 3, generator=seeded(1)) @ torch.randn(3, dim, generator=seeded(2)) / dim**0.5)
    model = LatentModel(StandardNormal(dim), likelihoods.Gaussian(decoder, (784,), scale=scale)).eval()
    guide = DiagonalNormal(MLP((784,), (2, dim), hidden=(8,)), dim).eval()
    x = model.sample(8, generator=seeded(3)).x
    found = posterior(model, guide, x, method="hmc", draws=10, warmup=25, generator=seeded(4))
    assert bool(torch.isfinite(found.z).all())
    assert int(found.diagnostics.stuck.sum()) == 0


def test_what_precision_was_used_is_what_is_told() -> None:
    """A model that the path by hand does not take has its gradients in full."""
    quick = {"draws": 4, "chains": 2, "warmup": 2, "precision": "bf16"}
    of = case("bernoulli")
    by_hand = LatentModel(StandardNormal(LATENT), likelihoods.Bernoulli(network((1, 4)), (4,))).double().eval()
    other = LatentModel(MixtureOfGaussians(LATENT, 2), by_hand.likelihood).double().eval()
    x = torch.ones(3, 4).double()
    for model, used in ((by_hand, "bf16"), (other, "full")):
        assert posterior(model, Rough(0.0, 1.0), x, generator=seeded(0), **quick).settings["precision"] == used
    assert posterior(of.model, of.guide, of.batch, draws=4, warmup=2).settings["precision"] == "full"


def test_the_metric_unless_one_is_named() -> None:
    logistic = likelihoods.DiscretizedLogisticMixture
    slow = LatentModel(StandardNormal(LATENT), logistic(network(logistic.parameter_shape((4,))), (4,))).double().eval()
    x = torch.full((3, 4), 100.0).double()
    found = posterior(slow, Rough(0.0, 1.0), x, draws=4, warmup=2, chains=2, generator=seeded(0))
    assert found.settings["metric"] == "dense"  # its Fisher information is a sum over 256 values
    of = case("bernoulli")
    assert posterior(of.model, of.guide, of.batch, draws=4, warmup=2).settings["metric"] == "gauss-newton"


def test_divergences_are_counted_and_reported() -> None:
    model = LatentModel(StandardNormal(LATENT), Cliff(network((1, 4)), (4,), scale=30.0)).double().eval()
    x = torch.randn(3, 4, generator=seeded(1), dtype=torch.float64)
    settings: dict[str, Any] = {"method": "hmc", "metric": "guide", "draws": 25, "warmup": 10, "chains": 12}
    found = posterior(model, Rough(0.0, 0.2), x, generator=seeded(2), check=False, **settings)
    assert int(found.diagnostics.divergences.min()) > 0
    assert int(found.diagnostics.divergences.sum()) > 20
    assert torch.equal(found.diagnostics.divergences, found.info.divergent.sum((0, 1)))
    assert found.summary().divergences == int(found.info.divergent.sum())
    assert float(found.z.abs().max()) <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nutz"}, "method"),
        ({"metric": "gaus-newton"}, "metric"),
        ({"precision": "bf17"}, "precision"),
        ({"draws": 3}, "draws is 3, but 4 is the least"),
        ({"draws": 0}, "draws is 0"),
        ({"chains": 0}, "chains is 0, but 1 is the least"),
        ({"warmup": 0}, "warmup is 0"),
        ({"block": 0}, "block is 0"),
        ({"target_acceptance": 1.5}, "target acceptance is 1.5"),
        ({"method": "hmc", "num_steps": 0}, "trajectory of 0 steps"),
        ({"method": "nuts", "num_steps": 5}, "num_steps is 5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    of = case("bernoulli")
    with pytest.raises(ElbowroomError, match=message) as error:
        posterior(of.model, of.guide, of.batch, **settings)
    assert error.value.remedy


def test_no_data() -> None:
    of = case("bernoulli")
    with pytest.raises(ElbowroomError, match="the batch is empty") as error:
        posterior(of.model, of.guide, of.batch.rows(slice(0)))
    assert error.value.remedy


def test_draws_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is drawn, with how much it would be."""
    of = case("bernoulli")
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000_000)
    with pytest.raises(ElbowroomError, match=r"1,000,000 draws of 4 chains of 6 examples .* takes 3\.2 GB") as error:
        posterior(of.model, of.guide, of.batch, draws=1_000_000)
    assert "fewer draws" in error.value.remedy
    assert len(posterior(of.model, of.guide, of.batch, draws=4, warmup=1).z) == 4


@pytest.mark.parametrize("where", ["data", "weights"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_posterior_that_is_not_finite(where: str, metric: str) -> None:
    of = case("gaussian")
    if where == "data":
        of.batch.x[2, 3] = math.nan
    else:
        of.model.likelihood.network.output.weight.data[0, 0] = math.inf
    with pytest.raises(ElbowroomError, match=r"not finite|NaN|infinit") as error:
        posterior(of.model, of.guide, of.batch, metric=metric, draws=4, warmup=1)  # type: ignore[arg-type]
    assert error.value.remedy


@pytest.mark.parametrize("scale", [0.0, math.nan, math.inf])
def test_a_guide_without_width(scale: float) -> None:
    of = case("bernoulli")

    class Flat(Rough):
        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
            q = super().forward(given, context)
            return Independent(Normal(q.mean, torch.full_like(q.mean, scale), validate_args=False), 1)

    with pytest.raises(ElbowroomError) as error:
        posterior(of.model, Flat(), of.batch, metric="guide", draws=4, warmup=1)
    assert "metric" in error.value.problem or "guide" in error.value.problem
