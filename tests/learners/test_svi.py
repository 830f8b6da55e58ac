"""Pyro's SVI climbs the same bounds by the same gradients, of the same model and guide, as the native objectives."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

pyro = pytest.importorskip("pyro")

from pyro.infer import SVI  # noqa: E402

from elbowroom.data.batch import Batch  # noqa: E402
from elbowroom.errors import ElbowroomError  # noqa: E402
from elbowroom.inference.objectives import elbo, iwae  # noqa: E402
from elbowroom.learners.aevb import Aevb  # noqa: E402
from elbowroom.learners.learner import StepInfo, TrainingState  # noqa: E402
from elbowroom.learners.svi import ELBOS, Svi, to_pyro  # noqa: E402
from elbowroom.learners.update import Update, cosine  # noqa: E402
from elbowroom.model.conditional import Conditional  # noqa: E402
from elbowroom.model.guides import DiagonalNormal, FullNormal, PriorGuide  # noqa: E402
from elbowroom.model.latent import LatentModel, Pair, evaluation_mode  # noqa: E402
from elbowroom.model.likelihoods import Bernoulli, Gaussian  # noqa: E402
from elbowroom.model.networks import MLP  # noqa: E402
from elbowroom.model.oracles import LinearGaussian, ppca  # noqa: E402
from elbowroom.model.priors import StandardNormal  # noqa: E402
from pyro_estimators import EVENT, LATENT, NATIVE, ROWS, SGD, MakePair, weights_of  # noqa: E402


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    """No test sees another's weights in Pyro's global store."""
    with pyro.get_param_store().scope():
        yield


def _svi(kind: str = "trace", particles: int = 1, **changes: Any) -> Svi:
    settings: dict[str, Any] = {"optimizer": SGD, "total_steps": 10} | changes
    return Svi(elbo=kind, num_particles=particles, update=Update(**settings))  # type: ignore[arg-type]


def _close(a: list[Tensor], b: list[Tensor], rtol: float = 1e-9) -> bool:
    return all(torch.allclose(x, y, rtol=rtol, atol=1e-12) for x, y in zip(a, b, strict=True))


def _inner_seed(generator: torch.Generator) -> int:
    """With what the learner seeds torch for a step."""
    return int(torch.randint(2**63 - 1, (), generator=generator))


def _z(ours: list[float], theirs: list[float]) -> float:
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
    return float((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt())


# --- the pair: the same densities --------------------------------------------------------------------------------


# --- the same gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    ("kind", "guide", "prior"),
    [
        *((kind, guide, "normal") for kind in ELBOS for guide in ("diagonal", "full")),
        *((kind, "full", prior) for kind in ("trace", "renyi") for prior in ("mixture", "vamp")),
    ],
)
def test_steps_are_the_native_learners_given_the_same_noise(
    make_pair: MakePair, kind: str, guide: str, prior: str, particles: int
) -> None:
    """Means over the batch, masks, contexts, the closed form of the KL: all of it, to rounding."""
    pair, batch = make_pair(guide=guide, prior=prior, context_dim=2)
    mask = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    batch = Batch(batch.x, None, batch.context, mask)
    native = copy.deepcopy(pair)
    start = weights_of(pair)
    learner = _svi(kind, particles)
    state, info = learner.step(learner.init(pair), batch, generator=torch.Generator().manual_seed(5))
    theirs = Aevb(
        name="bound",
        objective=lambda *args, num_samples, **more: NATIVE[kind](num_samples)(*args, **more),
        update=learner.update,
        num_samples=particles,
        weighs_kl=False,
    )
    noise = torch.Generator().manual_seed(_inner_seed(torch.Generator().manual_seed(5)))
    _, expected = theirs.step(theirs.init(native), batch, generator=noise)
    assert info.terms == {learner.name: pytest.approx(expected.terms["bound"], rel=1e-9)}
    assert info.decoder_gradients == expected.decoder_gradients == particles * ROWS
    assert state.step == 1
    assert _close(weights_of(pair), weights_of(native))
    assert not _close(weights_of(pair), start)


@pytest.mark.parametrize("kind", ELBOS)
@pytest.mark.parametrize("oracle", ["ppca", "bernoulli"])
def test_expected_gradients_agree(make_pair: MakePair, kind: str, oracle: str) -> None:
    """Along random directions, from unrelated seeds."""
    if oracle == "ppca":
        model, guide, x = ppca(dim=4, latent_dim=2, seed=3, num_data=8)
        pair, batch = Pair(model, guide), Batch(x)
    else:
        pair, batch = make_pair()
    weights, times, particles = list(pair.parameters()), 60, 4
    directions = [
        [torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight) for weight in weights]
        for seed in range(3)
    ]

    def projections() -> list[float]:
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        pair.zero_grad()
        return [sum(float((d * g).sum()) for d, g in zip(way, gradients, strict=True)) for way in directions]

    learner = _svi(kind, particles, optimizer=functools.partial(torch.optim.SGD, lr=1.0))
    generator, pyros = torch.Generator().manual_seed(21), []
    start = weights_of(pair)
    for _ in range(times):
        learner.step(learner.init(pair), batch, generator=generator)
        with torch.no_grad():
            for weight, before in zip(weights, start, strict=True):
                weight.grad = before - weight  # with a learning rate of 1
                weight.copy_(before)
        pyros.append(projections())
    generator, ours = torch.Generator().manual_seed(22), []
    for _ in range(times):
        (-NATIVE[kind](particles)(pair.model, pair.guide, batch, generator=generator).value.mean()).backward()
        ours.append(projections())
    for a, b in zip(zip(*ours, strict=True), zip(*pyros, strict=True), strict=True):
        assert abs(_z(list(a), list(b))) < 4


# --- Pyro's own tools --------------------------------------------------------------------------------------------


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], Callable[[int], Any], float]] = {
    # Pyro's loss is a sum: plain descent needs the rate divided by the batch's size, and Adam all but ignores the scale
    "sgd": (SGD, lambda size: pyro.optim.SGD({"lr": 0.01 / size}), 1e-9),
    "adam": (functools.partial(torch.optim.Adam, lr=0.01), lambda _: pyro.optim.Adam({"lr": 0.01}), 1e-5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ELBOS)
def test_pyros_own_svi_makes_the_same_steps(make_pair: MakePair, kind: str, optimizer: str) -> None:
    pair, batch = make_pair()
    plain, (ours, theirs, rtol) = copy.deepcopy(pair), OPTIMIZERS[optimizer]
    learner = _svi(kind, 3, optimizer=ours)
    state, generator = learner.init(pair), torch.Generator().manual_seed(5)
    estimator = ELBOS[kind](num_particles=3, vectorize_particles=True)
    svi = SVI(*to_pyro(plain.model, plain.guide), theirs(ROWS), estimator)
    seeds = torch.Generator().manual_seed(5)
    svi.evaluate_loss(batch)  # Pyro counts the plates by a first trace
    for _ in range(4):
        state, info = learner.step(state, batch, generator=generator)
        torch.manual_seed(_inner_seed(seeds))
        loss = svi.step(batch.x, batch.context)
        assert info.terms[learner.name] == pytest.approx(-loss / ROWS, rel=rtol)
    assert _close(weights_of(pair), weights_of(plain), rtol)


# --- what would go wrong silently --------------------------------------------------------------------------------


def test_frozen_weights_stay_and_are_no_cause_for_a_warning(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    pair.model.likelihood.requires_grad_(False)
    frozen, learned = weights_of(pair.model), weights_of(pair.guide)
    learner = _svi()
    learner.step(learner.init(pair), batch, generator=torch.Generator().manual_seed(0))
    assert _close(weights_of(pair.model), frozen, rtol=0.0)
    assert not _close(weights_of(pair.guide), learned)


class _LogVarianceForScale(Conditional):
    """The tutorial's mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP(EVENT, (2, LATENT), hidden=())

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        loc, log_variance = self.network(given).unbind(-2)
        return Independent(Normal(loc, log_variance, validate_args=False), 1, validate_args=False)


def test_a_log_variance_for_a_scale_is_refused_before_anything_is_learned(
    make_pair: MakePair,
) -> None:
    pair, batch = make_pair()
    pair = Pair(pair.model, _LogVarianceForScale().double())
    before, learner = weights_of(pair), _svi()
    with pytest.raises(ElbowroomError, match=r"negative for \d+% of its elements") as caught:
        learner.step(learner.init(pair), batch, generator=torch.Generator().manual_seed(0))
    assert "torch.exp(0.5 * v)" in caught.value.remedy
    assert _close(weights_of(pair), before, rtol=0.0)


@pytest.mark.parametrize("kind", ["trace-mean-field", "renyi"])
def test_draws_without_a_gradient_are_refused_where_one_is_taken(make_pair: MakePair, kind: str) -> None:
    pair, batch = make_pair(prior="mixture")
    pair = Pair(pair.model, PriorGuide(pair.model.prior))
    learner = _svi(kind)
    with pytest.raises(ElbowroomError, match="not reparameterised"):
        learner.step(learner.init(pair), batch, generator=torch.Generator().manual_seed(0))


def test_draws_without_a_gradient_learn_by_the_score_function(make_pair: MakePair) -> None:
    pair, batch = make_pair(prior="mixture")
    pair = Pair(pair.model, PriorGuide(pair.model.prior))
    before, learner = weights_of(pair.model.prior), _svi("trace", 4)
    learner.step(learner.init(pair), batch, generator=torch.Generator().manual_seed(0))
    assert not _close(weights_of(pair.model.prior), before)


# --- the learner -------------------------------------------------------------------------------------------------


def _run(learner: Svi, pair: Pair, batch: Batch, steps: int, seed: int = 1) -> tuple[TrainingState, list[StepInfo]]:
    state, generator, infos = learner.init(pair), torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        state, info = learner.step(state, batch, generator=generator)
        infos.append(info)
    return state, infos


def test_nothing_of_the_users_is_touched(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    theirs = pyro.param("elbowroom.model$$$likelihood.network.output.weight", torch.ones(2))
    before, validated = torch.get_rng_state(), pyro.settings.get("validate_infer")
    _run(_svi(), pair, batch, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert pyro.settings.get("validate_infer") == validated
    assert list(pyro.get_param_store().keys()) == ["elbowroom.model$$$likelihood.network.output.weight"]
    assert torch.equal(pyro.param("elbowroom.model$$$likelihood.network.output.weight"), theirs)


def test_learners_do_not_meet(make_pair: MakePair) -> None:
    """Two runs in turns are the two runs one after the other."""
    first, batch = make_pair()
    second, _ = make_pair(seed=1)
    alone = copy.deepcopy(first), copy.deepcopy(second)
    for pair in alone:
        _run(_svi(), pair, batch, 3)
    learner = _svi()
    states = [(learner.init(pair), torch.Generator().manual_seed(1)) for pair in (first, second)]
    for _ in range(3):
        for state, generator in states:
            learner.step(state, batch, generator=generator)
    assert _close(weights_of(first), weights_of(alone[0]), rtol=0.0)
    assert _close(weights_of(second), weights_of(alone[1]), rtol=0.0)


def test_a_run_that_stops_and_goes_on_is_the_same_run(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    whole, learner = copy.deepcopy(pair), _svi(optimizer=functools.partial(torch.optim.Adam, lr=0.01), ema=0.9)
    expected, _ = _run(learner, whole, batch, 6)
    generator, state = torch.Generator().manual_seed(1), learner.init(pair)
    for _ in range(3):
        state, _ = learner.step(state, batch, generator=generator)
    tensors, learned = state.tensors(), copy.deepcopy(state.learned.state_dict())
    fresh, _ = make_pair(seed=9)
    resumed = learner.init(fresh)
    resumed.learned.load_state_dict(learned)
    resumed.load(tensors)
    resumed.step = 3
    for _ in range(3):
        resumed, _ = learner.step(resumed, batch, generator=generator)
    assert _close(weights_of(resumed.pair), weights_of(whole), rtol=0.0)
    assert _close(weights_of(resumed.learned), weights_of(expected.learned), rtol=0.0)


def test_a_joint_gradient_is_clipped_and_a_schedule_kept(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    before, again = weights_of(pair), copy.deepcopy(pair)
    _, (info, second) = _run(_svi(clip_norm=1e-3, schedule=lambda progress: 1 - progress), pair, batch, 2)
    assert info.grad_norm is not None
    assert info.grad_norm > 1e-3
    assert (info.lr, second.lr) == (0.01, pytest.approx(0.009))
    _run(_svi(clip_norm=1e-3), again, batch, 1)
    moved = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(weights_of(again), before, strict=True)))
    assert moved == pytest.approx(0.01 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("kind", ELBOS)
def test_a_loss_that_is_not_finite_leaves_the_weights_alone(kind: str) -> None:
    model, guide, x = ppca(dim=4, latent_dim=2, seed=0)
    pair, learner = Pair(model, guide), _svi(kind, 2)
    state, _ = _run(learner, pair, Batch(x), 2)
    before = weights_of(pair)
    spoilt = x.clone()
    spoilt[3, 1] = 1e300
    with pytest.raises(ElbowroomError, match="step 3"):
        learner.step(state, Batch(spoilt), generator=torch.Generator().manual_seed(0))
    assert state.step == 2
    assert _close(weights_of(pair), before, rtol=0.0)
    assert len(pyro.get_param_store()) == 0
    spoilt[3, 1] = math.nan
    with pytest.raises(ElbowroomError, match="row 3 of the batch"):
        learner.step(state, Batch(spoilt), generator=torch.Generator().manual_seed(0))
    learner.step(state, Batch(x), generator=torch.Generator().manual_seed(0))  # nothing of it is left behind
    assert not _close(weights_of(pair), before)


@pytest.mark.parametrize("kind", ELBOS)
def test_validation_is_by_the_native_objectives(make_pair: MakePair, kind: str) -> None:
    pair, batch = make_pair()
    learner = _svi(kind, 3)
    measured = learner.measure(pair, batch, generator=torch.Generator().manual_seed(0))
    objective = iwae if kind == "renyi" else elbo
    expected = objective(pair.model, pair.guide, batch, num_samples=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(measured[learner.name], expected)
    assert learner.name == ("iwae" if kind == "renyi" else "elbo")


def test_names_and_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ElbowroomError, match="'trac'") as caught:
        _svi("trac")
    assert "trace" in caught.value.remedy
    with pytest.raises(ElbowroomError, match="0"):
        _svi("trace", 0)


@pytest.mark.slow  # the quick tests know that every kind has the native gradient, and that one kind finds the maximum
@pytest.mark.parametrize("kind", [kind for kind in ELBOS if kind != "trace"])  # that one: test_conformance.py
def test_it_finds_the_maximum_likelihood_model_of_linear_gaussian_data(kind: str) -> None:
    r"""The largest mean evidence of any linear-Gaussian model (Tipping & Bishop 1999, eqs. 8 and 14).

    .. math:: -\tfrac12 \big(D \log 2\pi + \sum_{j \le q} \log \lambda_j + (D - q) \log \sigma^2 + D\big), \qquad
        \sigma^2 = \tfrac{1}{D - q} \sum_{j > q} \lambda_j
    """
    dim, latent_dim = 4, 2
    _, _, x = ppca(dim=dim, latent_dim=latent_dim, seed=5, num_data=200)
    torch.manual_seed(0)
    likelihood = Gaussian(MLP((latent_dim,), (1, dim), hidden=()), (dim,), scale="learned")
    guide = FullNormal(MLP((dim,), FullNormal.parameter_shape(latent_dim), hidden=()), latent_dim)
    pair = Pair(LatentModel(StandardNormal(latent_dim), likelihood), guide).double()
    adam = functools.partial(torch.optim.Adam, lr=0.05, betas=(0.9, 0.99))
    _run(_svi(kind, 4, optimizer=adam, schedule=cosine, total_steps=300), pair, Batch(x), 300)
    with evaluation_mode(pair):
        scale = likelihood(torch.zeros(1, latent_dim).double()).scale[0, 0].item()
        network = likelihood.network
        found = LinearGaussian(network.output.weight.detach(), network.output.bias.detach(), scale)
        evidence = found.log_evidence(x).mean().item()
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[latent_dim:].mean()
    logs = values[:latent_dim].log().sum() + (dim - latent_dim) * noise.log()
    best = -0.5 * (dim * math.log(2 * math.pi) + logs.item() + dim)
    assert evidence <= best + 1e-9
    assert evidence == pytest.approx(best, abs=5e-3)


def test_it_learns_images_of_bits() -> None:
    """float32, a hidden layer: nothing of the above needs float64."""
    torch.manual_seed(0)
    x = (torch.rand(32, 9) < torch.rand(1, 9)).float()
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 9), hidden=(8,)), (9,)))
    pair = Pair(model, DiagonalNormal(MLP((9,), (2, 2), hidden=(8,)), 2))
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    _, infos = _run(_svi("trace-mean-field", 2, optimizer=adam, total_steps=60), pair, Batch(x), 60)
    assert sum(i.terms["elbo"] for i in infos[-10:]) > sum(i.terms["elbo"] for i in infos[:10]) + 5
