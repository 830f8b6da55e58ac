"""One step is exactly the update that a loop written by hand makes, and many of them find the best model there is."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo, elbo_terms, iwae_terms
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.learner import StepInfo, TrainingState
from elbowroom.learners.update import Update, cosine
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes
from elbowroom.model.guides import FullNormal
from elbowroom.model.latent import LatentModel, Pair, evaluation_mode
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.runtime import autocast_networks

SGD = functools.partial(torch.optim.SGD, lr=0.01)


def _pair(seed: int = 0, latent_dim: int = 2) -> tuple[Pair, Tensor]:
    model, guide, x = ppca(dim=5, latent_dim=latent_dim, seed=seed, num_data=24)
    return Pair(model, guide), x


def _aevb(**changes: Any) -> Aevb:
    climbing = {key: changes.pop(key) for key in [*changes] if key in Update.__dataclass_fields__}
    settings: dict[str, Any] = {"name": "elbo", "objective": elbo_terms}
    return Aevb(update=Update(**{"optimizer": SGD, "total_steps": 10} | climbing), **settings | changes)


def _weights(pair: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in pair.parameters()]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _run(learner: Aevb, pair: Pair, x: Tensor, steps: int, seed: int = 1) -> tuple[TrainingState, list[StepInfo]]:
    state, generator, infos = learner.init(pair), torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        state, info = learner.step(state, Batch(x), generator=generator)
        infos.append(info)
    return state, infos


# --- the update --------------------------------------------------------------------------------------------------


def test_a_step_of_sgd_is_the_gradient_of_the_batchs_mean() -> None:
    pair, x = _pair()
    start = copy.deepcopy(pair)
    _run(_aevb(), pair, x, 1)
    elbo(start.model, start.guide, Batch(x), generator=torch.Generator().manual_seed(1)).sum().backward()
    for before, after in zip(start.parameters(), pair.parameters(), strict=True):
        assert before.grad is not None
        assert torch.allclose(after, before + 0.01 * before.grad / len(x), rtol=1e-12, atol=1e-15)
        assert not torch.equal(after, before)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, lr=1e-2),
    "sgd with momentum": functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(("objective", "num_samples"), [(elbo_terms, 1), (iwae_terms, 3)], ids=["elbo", "iwae"])
def test_several_steps_are_those_of_a_plain_loop_bit_for_bit(
    optimizer: Callable[..., torch.optim.Optimizer], objective: Callable[..., Any], num_samples: int
) -> None:
    pair, x = _pair()
    plain = copy.deepcopy(pair)
    weighs_kl = objective is elbo_terms
    name = "elbo" if weighs_kl else "iwae"
    learner = _aevb(
        name=name,
        objective=objective,
        num_samples=num_samples,
        optimizer=optimizer,
        schedule=cosine,
        weighs_kl=weighs_kl,
    )
    _run(learner, pair, x, 6)

    by_hand, generator = optimizer(plain.parameters()), torch.Generator().manual_seed(1)
    for step in range(6):
        for group in by_hand.param_groups:
            group["lr"] = 1e-2 * 0.5 * (1 + math.cos(math.pi * step / 10))
        by_hand.zero_grad()
        terms = objective(plain.model, plain.guide, Batch(x), num_samples=num_samples, generator=generator)
        loss = -terms.value.mean()
        loss.backward()
        by_hand.step()
    assert _equal(_weights(pair), _weights(plain))


@pytest.mark.parametrize("copies", [2, 5])
def test_the_step_does_not_depend_on_the_batch_size(copies: int) -> None:
    """A guide without spread makes draws deterministic, so that every copy of a datum has the same gradient."""

    def moved(x: Tensor) -> tuple[list[Tensor], StepInfo]:
        pair, _ = _pair()
        with torch.no_grad():
            pair.guide.network.output.bias[2:] = -80.0
        _, infos = _run(_aevb(), pair, x, 1)
        return _weights(pair), infos[0]

    _, x = _pair()
    once, info = moved(x)
    many, infos = moved(x.repeat(copies, 1))
    for a, b in zip(once, many, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert info.terms["elbo"] == pytest.approx(infos.terms["elbo"])


def test_the_gradient_is_clipped_to_the_given_norm_and_no_further() -> None:
    pair, x = _pair()
    start, free = _weights(pair), copy.deepcopy(pair)
    _, (unclipped,) = _run(_aevb(clip_norm=1e9), free, x, 1)
    norm = unclipped.grad_norm
    assert norm is not None
    assert norm == pytest.approx(
        math.sqrt(sum(((a - b) / 0.01).square().sum().item() for a, b in zip(_weights(free), start, strict=True)))
    )
    _, (info,) = _run(_aevb(clip_norm=norm / 10), pair, x, 1)
    assert info.grad_norm == norm
    for before, clipped, full in zip(start, _weights(pair), _weights(free), strict=True):
        assert torch.allclose(clipped - before, (full - before) / 10, rtol=1e-4, atol=1e-9)

    pair, _ = _pair()
    _run(_aevb(clip_norm=norm * 10), pair, x, 1)
    assert _equal(_weights(pair), _weights(free))


def test_the_rate_follows_the_schedule_in_every_group() -> None:
    pair, x = _pair()

    def two_groups(weights: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        first, *rest = weights
        return torch.optim.SGD([{"params": [first], "lr": 1e-3}, {"params": rest, "lr": 1e-4}])

    learner = _aevb(optimizer=two_groups, schedule=lambda progress: 1 - progress)
    state, infos = _run(learner, pair, x, 4)
    assert [info.lr for info in infos] == pytest.approx([1e-3, 0.9e-3, 0.8e-3, 0.7e-3])
    assert state.optimizer.param_groups[1]["lr"] == pytest.approx(0.7e-4)
    assert state.step == 4


def test_autocast_is_for_networks_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 5)
    likelihood = Gaussian(MLP((2,), (1, 5), hidden=()), (5,), scale=1.0)
    pair = Pair(LatentModel(StandardNormal(2), likelihood), FullNormal(MLP((5,), FullNormal.parameter_shape(2)), 2))
    autocast_networks(pair, torch.bfloat16)
    inside: list[torch.dtype] = []
    outputs: dict[str, Tensor] = {}
    likelihood.network.output.register_forward_hook(lambda module, given, output: inside.append(output.dtype))
    likelihood.network.register_forward_hook(lambda module, given, out: outputs.update(z=given[0], mean=out[..., 0, :]))
    pair.guide.register_forward_hook(lambda module, given, out: outputs.update(loc=out.loc, tril=out.scale_tril))
    seen: list[Tensor] = []

    def watched(*args: Any, **settings: Any) -> Any:
        terms = elbo_terms(*args, **settings)
        seen.extend([terms.value, terms.parts["reconstruction"]])
        return terms

    _run(_aevb(objective=watched), pair, x, 1)
    z, reconstruction = outputs["z"].detach(), seen[1].detach()
    assert inside == [torch.bfloat16]
    assert [value.dtype for value in seen] == [torch.float32, torch.float32]
    assert (z != z.bfloat16().float()).float().mean() > 0.9  # no draw is rounded
    # exact to float32, given what the networks returned
    epsilon = torch.randn(1, 24, 2, generator=torch.Generator().manual_seed(1))
    loc, tril = outputs["loc"].detach().double(), outputs["tril"].detach().double()
    by_hand = loc + (tril @ epsilon.double().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(z.double(), by_hand, rtol=1e-5, atol=1e-6)
    density = torch.distributions.Normal(outputs["mean"].detach().double(), 1.0).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(reconstruction.double(), density[0], rtol=1e-5, atol=1e-5)


def test_networks_measure_in_full_precision() -> None:
    network = MLP((4,), (3,))
    given = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    exact = network(given)
    autocast_networks(network, torch.bfloat16)
    assert not torch.equal(network(given), exact)
    assert torch.equal(network.eval()(given), exact)


# --- the weight of the KL term ----------------------------------------------------------------------------------


def test_the_warm_up_grows_linearly_from_0_to_beta() -> None:
    pair, x = _pair()
    _, infos = _run(_aevb(beta=2.0, warmup_steps=4), pair, x, 6)
    assert [info.beta for info in infos] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


def test_the_weight_reaches_the_objective() -> None:
    pair, x = _pair()
    plain = copy.deepcopy(pair)
    _run(_aevb(beta=3.0), pair, x, 1)
    value = elbo(plain.model, plain.guide, Batch(x), beta=3.0, generator=torch.Generator().manual_seed(1))
    value.mean().backward()
    for before, after in zip(plain.parameters(), pair.parameters(), strict=True):
        assert before.grad is not None
        assert torch.allclose(after, before + 0.01 * before.grad, rtol=1e-12)


@pytest.mark.parametrize("last_name", [None, "iwae"])
def test_the_temperature_falls_along_half_a_cosine_and_reaches_the_gradient(last_name: str | None) -> None:
    torch.manual_seed(0)
    space = CodeSpace(3, 4)
    guide = CategoricalGuide(MLP((5,), space, hidden=(6,)), space)
    model = LatentModel(UniformCodes(space), Bernoulli(MLP((12,), (1, 5), hidden=(6,)), (5,)))
    pair, x = Pair(model, guide).double(), torch.eye(5, dtype=torch.float64)
    plain = copy.deepcopy(pair)
    bounds = [
        functools.partial(bound, estimator="gumbel-softmax", temperature=1.0) for bound in (elbo_terms, iwae_terms)
    ]
    learner = _aevb(
        objective=bounds[0], temperature=1.0, last_temperature=1 / 16, total_steps=4, num_samples=2,
        last_objective=bounds[1] if last_name else None, last_name=last_name, last_from=3,
    )  # fmt: skip
    _run(learner, pair, x, 4)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        temperature = 1 / 16 + 15 / 16 * (1 + math.cos(math.pi * step / 4)) / 2
        assert learner.temperature_at(step) == pytest.approx(temperature, rel=1e-12)
        bound = bounds[1 if last_name and step == 3 else 0]
        value = bound(
            plain.model, plain.guide, Batch(x), temperature=temperature, num_samples=2, generator=generator
        ).value
        gradients = torch.autograd.grad(value.mean(), list(plain.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(plain.parameters(), gradients, strict=True):
                weight += 0.01 * gradient
    for one, other in zip(pair.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_draws_grow_at_the_end_and_validation_takes_the_larger_number() -> None:
    asked = []

    def objective(model: Any, guide: Any, batch: Batch, **settings: Any) -> Any:
        asked.append(settings["num_samples"])
        return elbo_terms(model, guide, batch, **settings)

    pair, x = _pair()
    learner = dataclasses.replace(_aevb(), objective=objective, num_samples=2, last_samples=7, last_from=3)
    _, infos = _run(learner, pair, x, 5)
    assert asked == [2, 2, 2, 7, 7]
    assert [info.decoder_gradients for info in infos] == [number * len(x) for number in asked]
    learner.measure(pair, Batch(x), generator=torch.Generator().manual_seed(0))
    assert asked[-1] == 7


def test_another_gradient_estimator_serves_in_the_last_part_and_validation_keeps_the_first() -> None:
    asked = []

    def objective(model: Any, guide: Any, batch: Batch, *, estimator: Any, **settings: Any) -> Any:
        asked.append(estimator)
        return elbo_terms(model, guide, batch, estimator=estimator, **settings)

    first, last = (functools.partial(objective, estimator=name) for name in ("pathwise", "score-function"))
    pair, x = _pair()
    learner = dataclasses.replace(_aevb(), objective=first, last_objective=last, num_samples=2, last_from=3)
    _run(learner, pair, x, 5)
    assert asked == ["pathwise"] * 3 + ["score-function"] * 2
    learner.measure(pair, Batch(x), generator=torch.Generator().manual_seed(0))
    assert asked[-1] == "pathwise"


def test_the_importance_weighted_bound_may_serve_in_the_last_part_without_a_weight_on_its_kl() -> None:
    pair, x = _pair()
    learner = _aevb(last_objective=iwae_terms, last_name="iwae", last_samples=5, last_from=2, beta=0.5, warmup_steps=9)
    _, infos = _run(learner, pair, x, 3)
    assert [set(info.terms) >= {"reconstruction", "kl"} for info in infos] == [True, True, False]
    assert set(infos[2].terms) == {"iwae", "elbo", "ess"} and infos[2].beta is None
    measured = learner.measure(pair, Batch(x), generator=torch.Generator().manual_seed(0))
    assert set(measured) == {"elbo", "reconstruction", "kl"}


@pytest.mark.parametrize(
    "settings",
    [{"beta": 5.0}, {"beta": 0.0}, {"objective": functools.partial(elbo_terms, free_bits=3.0)}],
    ids=["beta 5", "beta 0", "free bits"],
)
def test_what_is_reported_as_elbo_is_one(settings: dict[str, Any]) -> None:
    """The reported figure is the unweighted bound at the weights before the step, with the step's own draws."""
    pair, x = _pair()
    before = copy.deepcopy(pair)
    learner = _aevb(**settings)
    _, (info,) = _run(learner, pair, x, 1)
    honest = elbo(before.model, before.guide, Batch(x), generator=torch.Generator().manual_seed(1))
    assert info.terms["elbo"] == pytest.approx(honest.mean().item(), rel=1e-9)
    measured = learner.measure(before, Batch(x), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(measured["elbo"], honest)
    assert set(measured) == {"elbo", "reconstruction", "kl"}


def test_iwae_is_reported_beside_the_elbo_of_the_same_draws() -> None:
    pair, x = _pair()
    learner = _aevb(name="iwae", objective=iwae_terms, num_samples=20, weighs_kl=False)
    _, (info,) = _run(learner, pair, x, 1)
    assert set(info.terms) == {"iwae", "elbo", "ess"}
    assert 1 <= info.terms["ess"] <= 20
    assert info.decoder_gradients == 20 * len(x)
    assert info.terms["elbo"] < info.terms["iwae"]


# --- the moving average ------------------------------------------------------------------------------------------


def test_the_moving_average_is_the_recursion() -> None:
    pair, x = _pair()
    learner, generator = _aevb(ema=0.8), torch.Generator().manual_seed(1)
    state, expected = learner.init(pair), None
    for _ in range(5):
        state, _ = learner.step(state, Batch(x), generator=generator)
        now = _weights(pair)
        expected = now if expected is None else [0.8 * a + 0.2 * b for a, b in zip(expected, now, strict=True)]
    assert expected is not None
    assert state.learned is not pair
    for ours, theirs in zip(_weights(state.learned), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)
    assert not _equal(_weights(state.learned), _weights(pair))


def test_the_moving_average_is_torchs() -> None:
    pair, x = _pair()
    oracle = AveragedModel(copy.deepcopy(pair), avg_fn=get_ema_avg_fn(0.9))
    learner, generator = _aevb(ema=0.9), torch.Generator().manual_seed(1)
    state = learner.init(pair)
    for _ in range(4):
        state, _ = learner.step(state, Batch(x), generator=generator)
        oracle.update_parameters(pair)
    for ours, theirs in zip(_weights(state.learned), _weights(oracle.module), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_batch_norm_statistics_of_the_average_are_those_of_the_weights() -> None:
    torch.manual_seed(0)
    guide = FullNormal(MLP((6,), FullNormal.parameter_shape(2), hidden=(8,), batch_norm=True), 2)
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 6), hidden=(8,)), (6,)))
    x = torch.rand(32, 6, generator=torch.Generator().manual_seed(0)).round()
    state, _ = _run(_aevb(ema=0.99), Pair(model, guide), x, 3)
    ours, theirs = dict(state.learned.named_buffers()), dict(state.pair.named_buffers())
    statistics = [name for name in theirs if "running" in name]
    assert statistics
    assert all(torch.equal(ours[name], theirs[name]) for name in statistics)


def test_without_an_average_the_weights_themselves_are_learned() -> None:
    pair, _ = _pair()
    assert _aevb().init(pair).learned is pair


# --- what is not finite ------------------------------------------------------------------------------------------


def test_an_objective_that_is_not_finite_leaves_the_weights_alone() -> None:
    pair, x = _pair()
    learner = _aevb(ema=0.9, optimizer=OPTIMIZERS["adam"])
    state, _ = _run(learner, pair, x, 2)
    before, average = _weights(pair), _weights(state.learned)
    x = x.clone()
    x[3, 1] = 1e300
    with pytest.raises(ElbowroomError, match=r"step 3 .* reconstruction = "):
        learner.step(state, Batch(x), generator=torch.Generator().manual_seed(0))
    assert state.step == 2
    assert _equal(_weights(pair), before)
    assert _equal(_weights(state.learned), average)


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone() -> None:
    pair, x = _pair()
    before = _weights(pair)

    def steep(*args: Any, **settings: Any) -> Any:
        terms = elbo_terms(*args, **settings)
        zero = (terms.value - terms.value.detach()).sum()
        return terms._replace(value=terms.value + zero.square().sqrt())  # 0 with the derivative 0 / 0

    for clip in (None, 1.0):
        with pytest.raises(ElbowroomError, match="gradient"):
            _run(_aevb(objective=steep, clip_norm=clip), pair, x, 1)
        assert _equal(_weights(pair), before)


# --- conformance: the best model there is ------------------------------------------------------------------------


def _best_evidence(x: Tensor, latent_dim: int) -> float:
    r"""The largest mean evidence of any linear-Gaussian model (Tipping & Bishop 1999, eqs. 8 and 14).

    .. math:: -\tfrac12 \big(D \log 2\pi + \sum_{j \le q} \log \lambda_j + (D - q) \log \sigma^2 + D\big), \qquad
        \sigma^2 = \tfrac{1}{D - q} \sum_{j > q} \lambda_j
    """
    dim = x.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[latent_dim:].mean()
    logs = values[:latent_dim].log().sum() + (dim - latent_dim) * noise.log()
    return -0.5 * (dim * math.log(2 * math.pi) + logs.item() + dim)


def test_it_finds_the_maximum_likelihood_model_of_linear_gaussian_data() -> None:
    """A guide that can be exact leaves no gap, so that the largest ELBO is the largest evidence."""
    dim, latent_dim, steps = 4, 2, 350
    _, _, x = ppca(dim=dim, latent_dim=latent_dim, seed=5, num_data=200)
    torch.manual_seed(0)
    likelihood = Gaussian(MLP((latent_dim,), (1, dim), hidden=()), (dim,), scale="learned")
    guide = FullNormal(MLP((dim,), FullNormal.parameter_shape(latent_dim), hidden=()), latent_dim)
    pair = Pair(LatentModel(StandardNormal(latent_dim), likelihood), guide).double()
    learner = _aevb(
        objective=functools.partial(elbo_terms, kl="monte-carlo", estimator="stl"),
        num_samples=4,
        optimizer=functools.partial(torch.optim.Adam, lr=0.05, betas=(0.9, 0.99)),
        total_steps=steps,
        schedule=cosine,
    )
    _run(learner, pair, x, steps)
    scale = likelihood(torch.zeros(1, latent_dim).double()).scale[0, 0].item()
    network = likelihood.network
    found = LinearGaussian(network.output.weight.detach(), network.output.bias.detach(), scale)
    best = _best_evidence(x, latent_dim)
    evidence = found.log_evidence(x).mean().item()
    assert evidence <= best + 1e-9
    assert evidence == pytest.approx(best, abs=2e-3)
    with evaluation_mode(pair):
        bound = elbo(pair.model, pair.guide, Batch(x.repeat(50, 1)), generator=torch.Generator().manual_seed(2))
    value, stderr = mean_and_stderr(bound.reshape(50, -1).mean(1))
    assert value == pytest.approx(best, abs=4 * stderr + 4e-3)


def test_data_that_are_not_finite_are_named_first() -> None:
    pair, x = _pair()
    x = x.clone()
    x[3, 1] = math.nan
    with pytest.raises(ElbowroomError, match="row 3 of the batch") as caught:
        _run(_aevb(), pair, x, 1)
    assert "--data.missing mask" in caught.value.remedy
    assert "lr" not in str(caught.value)
