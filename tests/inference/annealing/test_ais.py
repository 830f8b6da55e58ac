"""Annealed importance sampling against exact evidence: the average weight is p(x), whatever the path and the kernel."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing import ais as module
from elbowroom.inference.annealing.ais import AIS, AnnealingPlan, ais, plan
from elbowroom.inference.annealing.chains import AnnealingPath, Pilot, anneal
from elbowroom.inference.annealing.initial import StartDensity
from elbowroom.inference.annealing.tempering import TemperedTarget, temperature_schedule
from elbowroom.inference.target import posterior_target
from elbowroom.inference.weights import log_weights
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.numerics import log_mean_exp
from elbowroom.progress import Detail
from elbowroom.samplers import HMC, NUTS, Density, Kernel, Metric, RandomWalk


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def widened(model: oracles.LinearGaussian, x: Tensor, factor: float = 1.3) -> MultivariateNormal:
    """A start for many dimensions: the posterior, too wide by a factor and off by a third of its scale."""
    exact = model.posterior(x)
    scale_tril = exact.scale_tril.detach()
    return MultivariateNormal(exact.mean.detach() + 0.3 * scale_tril.sum(-1), scale_tril=factor * scale_tril)


def unbiased(found: AIS, truth: Tensor) -> float:
    """z-score of the average weight over all chains and data, in units of p(x); chains and data are independent."""
    relative = (found.log_weights - truth).exp() - 1
    return float(relative.mean() / relative.std() * math.sqrt(relative.numel()))


def frozen(temperatures: int, step: float = 0.8) -> AnnealingPlan:
    """Without a pilot run, whose eighty transitions take longer than the chains that are looked at."""
    return AnnealingPlan(temperature_schedule(temperatures), torch.full((temperatures - 1,), step, dtype=torch.float64))


@pytest.mark.parametrize(
    ("latent_dim", "temperatures"), [(2, 2), (2, frozen(12)), (10, 3), (50, frozen(2)), (50, frozen(12))]
)
def test_the_average_weight_is_the_evidence(latent_dim: int, temperatures: int | AnnealingPlan) -> None:
    model, _, x = oracles.ppca(dim=latent_dim + 3, latent_dim=latent_dim, seed=latent_dim, num_data=60)
    truth = model.log_evidence(x).detach()
    start = widened(model, x, 1 + 0.6 / latent_dim**0.5)
    found = ais(model, x, start=start, temperatures=temperatures, chains=20, generator=seeded(latent_dim))
    assert found.log_weights.dtype == torch.float64
    assert found.log_weights.shape == (20, 60)
    assert abs(unbiased(found, truth)) < 4
    assert (found.log_weights - truth).std() > 0.05  # or the score would not tell


@pytest.mark.parametrize("latent_dim", [2, 10])
def test_the_standard_error_is_that_of_the_estimate(latent_dim: int) -> None:
    """With as many chains as the delta method asks for."""
    model, _, x = oracles.ppca(dim=latent_dim + 3, latent_dim=latent_dim, seed=latent_dim, num_data=150)
    start = widened(model, x, 1 + 0.6 / latent_dim**0.5)
    found = ais(model, x, start=start, temperatures=frozen(12), chains=150, generator=seeded(latent_dim))
    scores = ((found.log_evidence - model.log_evidence(x).detach()).exp() - 1) / found.stderr
    excess = scores.square() - 1
    assert abs(excess.mean() / excess.std() * math.sqrt(len(x))) < 4
    assert abs(scores.mean() * math.sqrt(len(x))) < 4
    assert found.stderr.max() < 0.3


def test_from_the_prior() -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=100)
    truth = model.log_evidence(x).detach()
    found = ais(model, x, start="prior", temperatures=100, chains=8, kernel=HMC(1, "rotation"), generator=seeded())
    assert abs(unbiased(found, truth)) < 4
    assert (truth - found.log_evidence).mean() < 0.2


@pytest.mark.parametrize(
    "kernel", [HMC(3), HMC(1, integrator="rotation"), NUTS(max_depth=3), RandomWalk()], ids=lambda k: str(k.name)
)
def test_any_kernel_gives_the_evidence(kernel: Kernel) -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=1, num_data=100)
    found = ais(model, x, start=guide, temperatures=frozen(6), chains=6, kernel=kernel, generator=seeded())
    assert abs(unbiased(found, model.log_evidence(x).detach())) < 4


class DeepAndLinear(NamedTuple):
    """Two layers without a bend between them, wide enough for packed products; data, their exact evidence, a start."""

    model: LatentModel
    x: Tensor
    truth: Tensor
    start: MultivariateNormal


def deep_and_linear(num_data: int) -> DeepAndLinear:
    """Outputs are large beside the noise: log p(x, z) in half precision would be off by several nats."""
    torch.manual_seed(0)
    network = MLP((3,), (1, 120), hidden=(160,), activation="identity")
    for parameter in network.parameters():
        parameter.data.mul_(7)
    model = LatentModel(StandardNormal(3), Gaussian(network, (120,), scale=0.25)).eval()
    x = model.sample(num_data, generator=seeded()).x
    with torch.no_grad():
        double = copy.deepcopy(network).double()
        offset = double(torch.zeros(3).double())[0]
        slope = (double(torch.eye(3).double())[:, 0] - offset).T
    law = MultivariateNormal(offset, slope @ slope.T + 0.25**2 * torch.eye(120).double())
    covariance = torch.linalg.inv(torch.eye(3).double() + slope.T @ slope / 0.25**2)
    mean = (x.double() - offset) @ slope @ covariance / 0.25**2
    scale_tril = 1.3 * torch.linalg.cholesky(covariance)
    start = MultivariateNormal((mean + 0.3 * scale_tril.sum(-1)).float(), scale_tril=scale_tril.float())
    return DeepAndLinear(model, x, law.log_prob(x.double()), start)


def test_gradients_in_half_precision_leave_the_average_weight_as_it_is() -> None:
    model, x, truth, start = deep_and_linear(60)
    settings: dict[str, Any] = {"temperatures": frozen(6, 0.3), "chains": 16, "kernel": HMC(4)}
    full, half = (
        ais(model, x, start=start, precision=precision, generator=seeded(1), **settings)
        for precision in ("full", "bf16")
    )
    assert not torch.equal(full.log_weights, half.log_weights)
    assert 0.05 < (half.log_weights - truth).std() < 1  # or the score would not tell; rounded energies take it to 3
    assert abs(unbiased(half, truth)) < 4
    assert half.acceptance.mean() > 0.5


def test_a_plan_is_found_in_the_precision_that_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, *_ = deep_and_linear(8)
    asked: list[str] = []
    target = module.posterior_target

    def spy(*args: Any, precision: Any) -> Any:
        asked.append(precision)
        return target(*args, precision=precision)

    monkeypatch.setattr(module, "posterior_target", spy)
    found = plan(model, x, start="prior", temperatures=3, schedule="linear", precision="bf16", generator=seeded())
    ais(model, x, start="prior", temperatures=found, precision="bf16", generator=seeded())
    ais(model, x, start="prior", temperatures=found, generator=seeded())
    assert asked == ["bf16", "bf16", "full"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_temperature_is_importance_sampling(dtype: torch.dtype) -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=20, dtype=dtype)
    found = ais(model, x, start=guide, temperatures=1, chains=7, generator=seeded(5))
    expected = log_weights(model, guide, x, 7, generator=seeded(5)).detach().double()
    torch.testing.assert_close(found.log_weights, expected, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-10)
    assert found.num_gradients == 7
    assert found.pilot_gradients == 0
    assert found.acceptance.isnan().all()


@pytest.mark.parametrize("temperatures", [1, 2, 9])
def test_from_the_exact_posterior_every_weight_is_the_evidence(temperatures: int) -> None:
    model, _, x = oracles.ppca(dim=8, latent_dim=4, seed=0, num_data=10)
    found = ais(model, x, start=model.posterior(x), temperatures=temperatures, chains=3, generator=seeded())
    truth = model.log_evidence(x).detach()
    torch.testing.assert_close(found.log_weights, truth.expand(3, -1), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.log_evidence, truth, rtol=0, atol=1e-9)
    assert (found.ess - 3).abs().max() < 1e-9


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_more_temperatures_tighten_the_bound(schedule: str) -> None:
    model, guide, x = oracles.ppca(dim=9, latent_dim=6, seed=0, num_data=400)
    truth = model.log_evidence(x).detach()
    gaps = []
    for temperatures in (1, 4, 16):
        found = ais(
            model,
            x,
            start=guide,
            temperatures=temperatures,
            schedule=schedule,
            chains=1,
            pilot_chains=1,
            generator=seeded(temperatures),
        )
        gaps.append(truth - found.log_evidence)
    for loose, tight in pairwise(gaps):
        difference = loose - tight  # data are independent, so are the runs
        assert difference.mean() / difference.std() * math.sqrt(len(x)) > 3
    last = gaps[-1]
    assert last.mean() > -4 * last.std() / math.sqrt(len(x))  # a lower bound


def test_the_estimate_is_the_logarithm_of_the_average_weight() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    found = ais(model, x, start=guide, temperatures=frozen(4), chains=5, generator=seeded())
    torch.testing.assert_close(found.log_evidence, log_mean_exp(found.log_weights))
    w = found.log_weights.exp()
    torch.testing.assert_close(found.stderr, w.std(0) / w.mean(0) / math.sqrt(5))
    torch.testing.assert_close(found.ess, w.sum(0).square() / w.square().sum(0))
    single = ais(model, x, start=guide, temperatures=frozen(4), chains=1, generator=seeded())
    torch.testing.assert_close(single.log_evidence, single.log_weights[0])
    assert single.stderr.isnan().all()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_it_costs_what_it_says(num_steps: int) -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=9)
    found = ais(model, x, start=guide, temperatures=11, chains=4, kernel=HMC(num_steps), generator=seeded())
    assert found.num_gradients == 4 * (1 + 10 * num_steps)
    assert found.pilot_gradients == 4 * (60 + 20) * num_steps


def test_a_walk_by_hand() -> None:
    """A path of three temperatures with transitions that do nothing: a sum that can be written down."""
    start, center = Independent(Normal(torch.zeros(2, 1).double(), 1.0), 1), torch.tensor([[1.0], [2.0]]).double()
    joint = Density(lambda z, c: -2 * (z - c).square().sum(-1), center)
    betas = torch.tensor([[0.0, 0.0], [0.25, 0.5], [1.0, 1.0]], dtype=torch.float64)
    z = torch.tensor([[[0.5], [-1.0]], [[2.0], [0.0]]], dtype=torch.float64)
    path = AnnealingPath(betas, torch.full((1, 2), 1e-12, dtype=torch.float64), Metric.identity(z))
    found = anneal(TemperedTarget(StartDensity(start), joint, betas[1]), path, z, kernel=HMC(1), generator=seeded())
    log_q = -0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_weights, -2 * (z - center).square().sum(-1) - log_q, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.acceptance, torch.ones(2).double())
    assert found.num_gradients == 4 + 4


def test_blocks_have_the_same_law_and_their_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=10)
    exact = model.posterior(x)
    truth = model.log_evidence(x).detach()
    sizes: list[int] = []
    target = module.posterior_target
    monkeypatch.setattr(
        module,
        "posterior_target",
        lambda model, part, **options: sizes.append(len(part)) or target(model, part, **options),
    )
    found = ais(model, x, start=exact, temperatures=frozen(3), chains=2, block=4, generator=seeded())
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(found.log_evidence, truth, rtol=0, atol=1e-9)  # each datum met its own start
    again = ais(model, x, start=model.exact_guide(), temperatures=frozen(3), chains=2, block=4, generator=seeded())
    torch.testing.assert_close(again.log_evidence, truth, rtol=0, atol=1e-9)


def test_masked_data() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=2, seed=0, num_data=150)
    mask = torch.rand(x.shape, generator=seeded(3)) < 0.6
    found = ais(model, Batch(x, mask=mask), start=guide, temperatures=frozen(8), chains=8, generator=seeded())
    assert abs(unbiased(found, model.log_evidence(x, mask).detach())) < 4


@functools.cache
def mixture_model() -> tuple[LatentModel, Tensor, Tensor]:
    """A prior of two parts and a decoder that is not linear: autograd's path, and a posterior that is not normal.

    Data, and their evidence by quadrature.
    """
    prior = MixtureOfGaussians(2, components=2, generator=seeded(1)).double()
    with torch.no_grad():
        prior.means.mul_(1.5)
        prior.log_scales.fill_(-0.4)
    model = LatentModel(prior, Bernoulli(MLP((2,), (1, 6), hidden=(8,)).double(), (6,))).eval()
    x = model.sample(60, generator=seeded(2)).x
    return model, x, oracles.quadrature_log_evidence(model, x, points=81)


@pytest.mark.parametrize("temperatures", [frozen(2, 0.4), 8])
def test_any_prior_and_likelihood_against_quadrature(temperatures: int | AnnealingPlan) -> None:
    model, x, truth = mixture_model()
    assert model.likelihood.support is Support.BINARY
    found = ais(model, x, start="prior", temperatures=temperatures, chains=24, generator=seeded())
    assert abs(unbiased(found, truth)) < 4
    assert (found.log_evidence - truth).abs().max() < 1


def test_the_pilot_run_leaves_no_trace_in_the_weighted_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same path, other pilot: the same weights to the last bit, so that nothing else passes from one to the other."""
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    found: dict[int, Tensor] = {}
    original, fixed = module.pilot, []

    def frozen(bridge: TemperedTarget, betas: Tensor, z: Tensor, metric: Metric, **settings: Any) -> Pilot:
        fixed.append(original(bridge, betas, z, metric, **settings))
        return fixed[0]

    monkeypatch.setattr(module, "pilot", frozen)
    for pilot_chains in (1, 5):
        run = ais(model, x, start=guide, temperatures=5, chains=3, pilot_chains=pilot_chains, generator=seeded())
        found[pilot_chains] = run.log_weights
    assert not fixed[0].step_sizes.equal(fixed[1].step_sizes)
    assert found[1].equal(found[5])


def test_the_pilot_run_has_chains_and_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that knew of the weighted chains' starts would bias the weights, by too little to be seen."""
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    seen: dict[str, tuple[Tensor, torch.Generator]] = {}

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **given: Any) -> Any:
            seen[call.__name__] = (args[2], given["generator"])
            return call(*args, **given)

        return noted

    monkeypatch.setattr(module, "pilot", noting(module.pilot))
    monkeypatch.setattr(module, "anneal", noting(module.anneal))
    ais(model, x, start=guide, temperatures=3, chains=3, pilot_chains=3, generator=seeded())
    (first, other), (weighed, own) = seen["pilot"], seen["anneal"]
    assert first.shape == weighed.shape
    assert not (first == weighed).any()
    assert other is not own
    assert other.initial_seed() != own.initial_seed()


@pytest.mark.parametrize("aim", [0.5, 0.8])
def test_the_pilot_run_finds_steps_of_the_acceptance_aimed_at(aim: float) -> None:
    model, guide, x = oracles.ppca(dim=13, latent_dim=10, seed=0, num_data=40)
    settings: dict[str, Any] = {"start": guide, "temperatures": 60, "kernel": HMC(1), "target_acceptance": aim}
    one = ais(model, x, **settings, pilot_chains=1, generator=seeded()).acceptance
    assert abs(one.mean() - aim) < 0.06  # the densities narrow while ε follows
    many = ais(model, x, **settings, pilot_chains=8, generator=seeded()).acceptance
    assert aim < many.mean() < 0.95  # the harmonic mean over chains lies below the plain one


def test_same_seed_same_weights() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    runs = [ais(model, x, start=guide, temperatures=5, chains=3, generator=seeded(s)).log_weights for s in (1, 1, 2)]
    assert runs[0].equal(runs[1])
    assert not runs[0].equal(runs[2])


def test_the_global_generator_is_left_alone() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=8)
    before = torch.random.get_rng_state()
    ais(model, x, start=guide, temperatures=5, chains=3, generator=seeded())
    assert torch.random.get_rng_state().equal(before)


@pytest.mark.parametrize("temperatures", [1, 6])
def test_progress_ends_where_it_should(temperatures: int) -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=10)
    told: list[tuple[int, int]] = []

    def announce(what: str, done: int, total: int, detail: Detail | None = None, /) -> None:
        told.append((done, total))

    ais(model, x, start=guide, temperatures=temperatures, chains=2, block=6, generator=seeded(), announce=announce)
    if temperatures == 1:
        assert not told
    else:
        assert told[-1][0] == told[-1][1]
        assert [done for done, _ in told] == sorted({done for done, _ in told})


def walk(joint: Density, z: Tensor) -> Tensor:
    start = Independent(Normal(torch.zeros(2, 1), torch.ones(2, 1)), 1)
    betas = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
    path = AnnealingPath(betas, torch.full((1, 2), 0.5), Metric.identity(z))
    bridge = TemperedTarget(StartDensity(start), joint, betas[1])
    return anneal(bridge, path, z, kernel=HMC(2), generator=seeded()).log_weights


def test_where_the_density_is_zero_the_weight_is_zero() -> None:
    truncated = Density(lambda z: torch.where(z > 0, -0.5 * z.square(), -math.inf).sum(-1))
    z = torch.tensor([[[1.0], [-1.0]], [[-0.5], [0.3]], [[2.0], [1.0]]])
    assert walk(truncated, z).isneginf().tolist() == [[False, True], [True, False], [False, False]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_density_is_refused(value: float) -> None:
    wrong = Density(lambda z: torch.where(z > 0, -0.5 * z.square(), value).sum(-1))
    with pytest.raises(ElbowroomError, match=r"1 of 2 examples \(the first is example 1"):
        walk(wrong, torch.tensor([[[1.0], [-1.0]]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains is 0"),
        ({"pilot_chains": 0}, "pilot_chains is 0"),
        ({"block": 0}, "block is 0"),
        ({"temperatures": 0}, "number of temperatures is 0"),
        ({"target_acceptance": 1.0}, "target acceptance is 1.0"),
        ({"schedule": "cubic"}, "schedule 'cubic'"),
        ({"temperatures": torch.tensor([0.0, 0.5])}, "do not rise"),
        ({"start": Independent(Normal(torch.zeros(3, 2), 1.0), 1)}, r"batch shape \(3,\)"),
        ({"start": Normal(torch.zeros(8), 1.0)}, r"event shape \(\)"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=0, num_data=8)
    with pytest.raises(ElbowroomError, match=message):
        ais(model, x, **settings, generator=seeded())


def test_no_data() -> None:
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=0, num_data=8)
    with pytest.raises(ElbowroomError, match="the batch is empty"):
        ais(model, x[:0], generator=seeded())


def test_a_target_is_that_of_the_posterior() -> None:
    """What is annealed to is log p(x, z), prior included, on the perceptron's path too."""
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=0, num_data=8)
    z = torch.randn(3, 8, 2, generator=seeded(), dtype=torch.float64)
    bridge = TemperedTarget(StartDensity(model.prior(None)), posterior_target(model, x), torch.ones(8).double())
    likelihood = model.log_likelihood(x, z).detach()
    ends = bridge.ends(z)
    torch.testing.assert_close(ends.log_joint - ends.log_start, likelihood)
