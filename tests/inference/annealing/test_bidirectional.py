"""Bounds from both sides on simulated data, against exact evidence: p(x) / p̂₊(x) is 1 on average, and they sandwich."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing import ais as module
from elbowroom.inference.annealing.ais import AnnealingPlan, ais
from elbowroom.inference.annealing.bidirectional import Sandwich, Simulated, bidirectional, simulate
from elbowroom.inference.annealing.chains import Annealed
from elbowroom.inference.annealing.tempering import TemperedTarget
from elbowroom.model import oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.flows import CouplingPrior
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Gaussian, NegativeBinomial, Poisson
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior
from elbowroom.numerics import log_mean_exp
from elbowroom.samplers import HMC, Info, State, Target, Tuning


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_score(log_ratio: Tensor) -> float:
    """Of the mean of a ratio whose expectation is 1; draws are independent."""
    off = log_ratio.exp() - 1
    return float(off.mean() / off.std() * math.sqrt(off.numel()))


def frozen(temperatures: int, *, longest: float = 1.0) -> AnnealingPlan:
    """Temperatures and steps that differ, with no pilot run."""
    step_sizes = torch.linspace(0.4 * longest, longest, max(temperatures - 1, 0), dtype=torch.float64)
    return AnnealingPlan(torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).pow(1.5), step_sizes)


@pytest.mark.parametrize("chains", [1, 4, 16])
@pytest.mark.parametrize("temperatures", [1, 2, 5])
def test_what_the_upper_bound_errs_by_is_one_on_average(temperatures: int, chains: int) -> None:
    model, guide, _ = oracles.ppca(dim=5, latent_dim=2, seed=4)
    generator = seeded(7 * chains + temperatures)
    data = simulate(model, 4000, generator=generator)
    found = bidirectional(
        model, data, guide=guide, start="guide", temperatures=frozen(temperatures), chains=chains, generator=generator
    )
    truth = model.log_evidence(data.batch.x).detach()
    assert found.lower.dtype == found.upper.dtype == torch.float64
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4
    for errors in (found.lower - truth, truth - found.upper):  # bounds, and by an amount that is seen
        assert errors.mean() / errors.std() * math.sqrt(errors.numel()) < -2.5
    torch.testing.assert_close(found.gap, found.upper - found.lower)


@pytest.mark.parametrize("start", ["laplace", "prior"])
@pytest.mark.parametrize("temperatures", [1, 3])
def test_from_every_start(start: str, temperatures: int) -> None:
    # data that say little of z: else 1 / w has no variance where chains come back to the prior
    weight = 0.4 * torch.randn(4, 3, generator=seeded(2), dtype=torch.float64)
    model = oracles.LinearGaussian(weight, torch.zeros(4).double(), scale=0.8)
    data = simulate(model, 3000, generator=seeded(3))
    found = bidirectional(
        model, data, start=start, temperatures=frozen(temperatures, longest=0.6), chains=2, generator=seeded(1)
    )
    truth = model.log_evidence(data.batch.x).detach()
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4
    assert found.gap.mean() > 0.02


@pytest.mark.parametrize(("start", "climbs"), [("guide", 1), ("laplace", 1), ("laplace", 4)])
def test_with_steps_of_a_pilot_run(start: str, climbs: int) -> None:
    """The pilot run is for these data, and its steps are the same on both ways."""
    model, guide, _ = oracles.ppca(dim=6, latent_dim=3, seed=1)
    data = simulate(model, 400, generator=seeded(3))
    found = bidirectional(
        model, data, guide=guide if start == "guide" else None, start=start, temperatures=3, chains=3, climbs=climbs,
        kernel=HMC(2), pilot_chains=2, generator=seeded(),
    )  # fmt: skip
    truth = model.log_evidence(data.batch.x).detach()
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4


class Errors(NamedTuple):
    """Of both bounds, nats: estimate minus truth, shape (models, data)."""

    lower: Tensor
    upper: Tensor


@functools.cache
def a_hundred_models() -> Errors:
    """Random linear-Gaussian models of 2 to 50 latents, 20 data each, few temperatures and chains."""
    lower, upper = [], []
    random = seeded(2026)
    for model_number in range(100):
        latent_dim = int(torch.randint(2, 51, (), generator=random))
        dim = latent_dim + int(torch.randint(0, 8, (), generator=random))
        model, guide, _ = oracles.ppca(dim=dim, latent_dim=latent_dim, seed=model_number, num_data=1)
        data = simulate(model, 20, generator=random)
        start = ("guide", "guide", "laplace")[model_number % 3]
        found = bidirectional(
            model, data, guide=guide, start=start, temperatures=frozen(4, longest=0.8), chains=1 + model_number % 4,
            climbs=1, generator=random,
        )  # fmt: skip
        truth = model.log_evidence(data.batch.x).detach()
        lower.append(found.lower - truth)
        upper.append(found.upper - truth)
    return Errors(torch.stack(lower), torch.stack(upper))


def test_the_sandwich_holds_the_truth_in_nearly_all_of_a_hundred_models() -> None:
    """The mean over a model's data, as far as it can be told: two standard errors are allowed for."""
    lower, upper = a_hundred_models()
    above, below = lower.mean(1), upper.mean(1)
    holds = (above <= 2 * lower.std(1) / 20**0.5) & (below >= -2 * upper.std(1) / 20**0.5)
    assert holds.double().mean() >= 0.95
    loose = (upper - lower).mean(1) > 0.5  # where noise is no excuse
    assert loose.sum() > 25
    assert ((above <= 0) & (below >= 0))[loose].double().mean() >= 0.95
    for errors in (lower.mean(1), -upper.mean(1)):  # all models together leave no doubt
        assert errors.mean() / errors.std() * math.sqrt(len(errors)) < -4


@pytest.mark.parametrize("nats", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_a_bound_is_on_the_wrong_side_by_b_nats_with_a_probability_of_at_most_exp_minus_b(nats: float) -> None:
    """Markov's inequality, for 2,000 data of all these models; the count is binomial."""
    lower, upper = a_hundred_models()
    most = math.exp(-nats)
    allowed = lower.numel() * most + 4 * math.sqrt(lower.numel() * most * (1 - most))
    assert (lower > nats).sum() <= allowed
    assert (upper < -nats).sum() <= allowed


def small(network: Any, seed: int, scale: float) -> Any:
    """Weights of known size, so that posteriors are far from normal."""
    for number, parameter in enumerate(network.parameters()):
        noise = torch.randn(parameter.shape, generator=seeded(100 * seed + number))
        parameter.data = scale * noise / math.sqrt(max(1, parameter[0].numel()))
    return network


def bernoulli_model(prior: Conditional | None = None) -> LatentModel:
    network = small(MLP((2,), (1, 6), hidden=(8,), activation="tanh"), 1, 2.0)
    return LatentModel(prior or StandardNormal(2), Bernoulli(network, (6,)))


def mixture_model() -> LatentModel:
    prior = MixtureOfGaussians(2, components=3, generator=seeded(1))
    prior.means.data.mul_(2.0)
    prior.log_scales.data.fill_(-0.5)
    return bernoulli_model(prior)


def vamp_model() -> LatentModel:
    guide = DiagonalNormal(small(MLP((6,), (2, 2), hidden=()), 3, 0.8), 2)
    return bernoulli_model(VampPrior(guide, torch.rand(4, 6, generator=seeded(5)), Support.UNIT_INTERVAL))


def flow_model() -> LatentModel:
    prior = CouplingPrior(2, width=8)
    for part in prior.bijection.parts:
        part.hyper[-1].weight.data.mul_(100)  # away from the identity, where it starts
    return bernoulli_model(prior)


def conv_model() -> LatentModel:
    network = small(ConvDecoder((2,), (1, 4, 4), channels=(3, 2), activation="tanh"), 4, 1.5)
    return LatentModel(StandardNormal(2), Bernoulli(network, (4, 4)))


def count_model(likelihood: type = Poisson) -> LatentModel:
    shape = likelihood.parameter_shape((4,))
    return LatentModel(
        StandardNormal(2), likelihood(small(MLP((2,), shape, hidden=(6,), activation="tanh"), 6, 0.7), (4,))
    )


def gaussian_model() -> LatentModel:
    network = small(MLP((2,), (1, 4), hidden=(6,), activation="tanh"), 7, 2.0)
    return LatentModel(StandardNormal(2), Gaussian(network, (4,), scale=0.4))


MODELS = {
    "bernoulli": bernoulli_model,
    "mixture-prior": mixture_model,
    "vamp-prior": vamp_model,
    "flow-prior": flow_model,
    "conv": conv_model,
    "poisson": count_model,
    "negative-binomial": functools.partial(count_model, NegativeBinomial),
    "gaussian": gaussian_model,
}


@functools.cache
def known(name: str) -> tuple[LatentModel, Simulated, Tensor]:
    model = MODELS[name]().double().eval()
    data = simulate(model, 100, generator=seeded(1))
    return model, data, oracles.quadrature_log_evidence(model, data.batch.x, points=81)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        *((name, "laplace") for name in MODELS),
        *(
            pytest.param(name, "prior", marks=[] if name in ("mixture-prior", "gaussian") else pytest.mark.slow)
            for name in MODELS
        ),
    ],
)
def test_models_without_a_closed_form_against_quadrature(name: str, start: str) -> None:
    model, data, truth = known(name)
    for temperatures in (1, 4):
        found = bidirectional(
            model, data, start=start, temperatures=frozen(temperatures, longest=0.5), chains=4, climbs=4,
            generator=seeded(2),
        )  # fmt: skip
        assert abs(z_score(found.lower - truth)) < 4
        assert abs(z_score(truth - found.upper)) < 4
        # each datum by itself, by Markov's inequality: among 100, exceeding by log(100 · 1000) has a chance of 1 / 1000
        assert (found.lower - truth).max() < math.log(100_000)
        assert (truth - found.upper).max() < math.log(100_000)


@functools.cache
def conditional_case() -> tuple[LatentModel, Batch, Simulated, Tensor]:
    """A decoder with a context, data to imitate of which a third is missing, their imitation and its evidence."""
    network = small(MLP((2,), (1, 6), hidden=(8,), activation="tanh", context_dim=3), 8, 2.0)
    model = LatentModel(StandardNormal(2), Bernoulli(network, (6,))).double().eval()
    context = torch.randn(150, 3, generator=seeded(1), dtype=torch.float64)
    mask = torch.rand(150, 6, generator=seeded(2)) < 0.67
    like = Batch(torch.zeros(150, 6, dtype=torch.float64), context=context, mask=mask)
    data = simulate(model, like, generator=seeded(3))
    truth = oracles.quadrature_log_evidence(
        model, data.batch.x, context=data.batch.context, mask=data.batch.mask, points=81
    )
    return model, like, data, truth


@pytest.mark.parametrize("temperatures", [1, 4])
def test_contexts_and_masks_are_those_of_the_data_imitated(temperatures: int) -> None:
    model, like, data, truth = conditional_case()
    assert data.batch.context is not None and data.batch.context.equal(like.context)
    assert data.batch.mask is not None and data.batch.mask.equal(like.mask)
    assert data.z.shape == (150, 2)
    found = bidirectional(
        model, data, start="laplace", temperatures=frozen(temperatures, longest=0.5), chains=2, block=60,
        generator=seeded(4),
    )  # fmt: skip
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4


def test_z_is_drawn_from_the_posterior_of_its_x() -> None:
    """Whitened by the exact posterior it is standard normal."""
    model, _, _ = oracles.ppca(dim=6, latent_dim=3, seed=2)
    data = simulate(model, 4000, generator=seeded())
    exact = model.posterior(data.batch.x)
    white = torch.linalg.solve_triangular(
        exact.scale_tril.detach(), (data.z - exact.mean.detach()).unsqueeze(-1), upper=False
    ).squeeze(-1)
    assert (white.mean(0) * math.sqrt(4000)).abs().max() < 4
    products = white.unsqueeze(-1) * white.unsqueeze(-2) - torch.eye(3).double()
    assert (products.mean(0) / products.std(0) * math.sqrt(4000)).abs().max() < 4


def sandwich(num_data: int = 30, **settings: Any) -> tuple[Sandwich, Any]:
    model, guide, _ = oracles.ppca(dim=6, latent_dim=3, seed=2)
    data = simulate(model, num_data, generator=seeded(1))
    given = {"guide": guide, "start": "guide", "temperatures": 4, "generator": seeded(2)} | settings
    return bidirectional(model, data, **given), (model, data, given)


@pytest.mark.parametrize("chains", [1, 2, 5])
def test_one_reverse_chain_takes_the_place_of_a_forward_one(chains: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """C terms in the sum and C in the divisor: C − 1 forward weights are shared by both bounds."""
    backs: list[Tensor] = []
    original = module.anneal_back

    def noted(*args: Any, **given: Any) -> Annealed:
        found = original(*args, **given)
        backs.append(found.log_weights)
        return found

    monkeypatch.setattr(module, "anneal_back", noted)
    found, _ = sandwich(chains=chains, block=12, temperatures=frozen(4))
    forward, back = found.forward.log_weights, torch.cat(backs, 1)
    assert forward.shape == (chains, 30)
    assert back.shape == (1, 30)
    torch.testing.assert_close(found.lower, log_mean_exp(forward))
    kept = found.upper.exp() * chains - back.exp()[0]  # all the forward weights but one, whichever
    without = forward.exp().sum(0) - forward.exp()
    assert ((without - kept).abs() < 1e-9 * forward.exp().sum(0)).any(0).all()


class Noting:
    """A kernel that notes the temperatures and the steps of all data at every transition."""

    name, max_step_size = "noting", 1.2

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        assert isinstance(target, TemperedTarget)
        self.seen.append(torch.stack([target.beta, tuning.step_size]))
        return HMC(1).step(target, state, tuning, generator=generator)


@pytest.mark.parametrize("temperatures", [7, frozen(7), frozen(7).betas], ids=["pilot", "plan", "pilot of given"])
def test_the_way_back_is_the_way_there(temperatures: int | Tensor | AnnealingPlan) -> None:
    """The very β and ε of each datum, met in the opposite order; other ones would shift the bound, by little."""
    kernel = Noting()
    sandwich(temperatures=temperatures, kernel=kernel, chains=2)
    there, back = kernel.seen[-12:-6], kernel.seen[-6:]
    assert all(a.equal(b) for a, b in zip(there, reversed(back), strict=True))
    assert (torch.stack(there)[:, 0].diff(dim=0) > 0).all()


def test_the_lower_bound_is_that_of_the_data_alone() -> None:
    """To the last bit: what the reverse chain does comes after, and nothing else knows of the exact draw."""
    found, (model, data, given) = sandwich(chains=3, temperatures=frozen(4))
    alone = ais(model, data.batch, **given | {"generator": seeded(2)})
    assert found.lower.equal(alone.log_evidence)
    assert alone.log_evidence_above is None


def test_blocks_go_back_from_their_own_draws() -> None:
    """With one temperature and one chain, the upper bound is the importance weight of the exact draw."""
    found, (model, data, given) = sandwich(50, temperatures=1, chains=1, block=16)
    weights = model.log_joint(data.batch.x, data.z) - given["guide"](data.batch.x).log_prob(data.z)
    torch.testing.assert_close(found.upper, weights.detach(), rtol=0, atol=1e-9)


def test_more_temperatures_close_the_gap() -> None:
    gaps = [sandwich(600, temperatures=frozen(t, longest=1.2), chains=1)[0].gap.mean() for t in (1, 4, 32)]
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


@pytest.mark.parametrize(
    "exact", [torch.zeros(5), torch.zeros(29, 3), torch.zeros(2, 30, 3)], ids=lambda z: str(z.shape)
)
def test_draws_that_are_not_one_for_each_datum_are_refused(exact: Tensor) -> None:
    _, (model, data, given) = sandwich(chains=1, temperatures=frozen(2))
    with pytest.raises(ElbowroomError, match="were simulated with one z each"):
        ais(model, data.batch, exact=exact.double(), **given)


def test_fewer_than_one_cannot_be_simulated() -> None:
    model, _, _ = oracles.ppca(dim=6, latent_dim=3, seed=2)
    with pytest.raises(ElbowroomError, match="0 examples were to be simulated"):
        simulate(model, 0)
