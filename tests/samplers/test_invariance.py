"""The law that matters most: a kernel that starts from exact draws leaves them exact.

Pairs z ~ p(z), x ~ p(x | z) make z an exact draw from p(z | x), one for each x, with no sampler to trust. After any
number of transitions that leave p(z | x) invariant, (z, x) still has the joint distribution: z is N(0, I) again, and
every function of (z, x) has the mean that it had before. Mistakes of samplers show here; mistakes are planted too.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.mlp_target import PerceptronPosterior
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.samplers.hmc import HMC, RandomWalk, mala
from elbowroom.samplers.integrators import Point, advance, force, trajectory
from elbowroom.samplers.jumps import Jumps
from elbowroom.samplers.kernel import Info, Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.target import Density, Target

PAIRS, LATENT, EVENT = 10_000, 3, 30
KERNELS: dict[str, Kernel] = {
    "hmc": HMC(4),
    "hmc-rotation": HMC(4, integrator="rotation"),
    "mala": mala(),
    "random-walk": RandomWalk(),
    "nuts": NUTS(max_depth=4),
    "nuts-rotation": NUTS(max_depth=4, integrator="rotation"),
}
METRICS = ("identity", "guide", "dense", "gauss-newton")
#: a little long, so that rejections take part
STEPS = {"identity": 0.3, "guide": 1.0, "dense": 0.7, "gauss-newton": 1.1}


class Pairs(NamedTuple):
    """A model, and exact draws from its joint distribution."""

    model: LatentModel
    batch: Batch
    z: Tensor  # (1, pairs, latent)


@cache
def pairs(name: str) -> Pairs:
    """Far from normal posteriors: weights well above those that a network starts with."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        network = MLP((LATENT,), (1, EVENT), hidden=(16,), activation="tanh")
    likelihood = Bernoulli(network, (EVENT,)) if name == "bernoulli" else Gaussian(network, (EVENT,), scale=1.5)
    with torch.no_grad():
        for layer in (network.hidden_layers[0], network.output):
            layer.weight.mul_(3.0)
    model = LatentModel(StandardNormal(LATENT), likelihood).eval()
    drawn = model.sample(PAIRS, generator=torch.Generator().manual_seed(2))
    return Pairs(model, Batch(drawn.x), drawn.z.unsqueeze(0))


@cache
def metric(name: str, likelihood: str) -> Metric:
    """A metric for each datum; it may know x, but not z."""
    model, batch, z = pairs(likelihood)
    generator = torch.Generator().manual_seed(3)
    if name == "identity":
        return Metric.identity(z)
    if name == "gauss-newton":
        mode = laplace(model, torch.zeros_like(z[0]), batch, steps=4).mode
        return Metric.from_precision(gauss_newton(model, batch, mode), mode)
    direction = torch.randn(EVENT, LATENT, generator=generator) / EVENT**0.5
    features = batch.x @ direction
    if name == "guide":
        return Metric.diagonal(0.35 * torch.exp(0.3 * torch.tanh(features)), features)
    noise = torch.randn(PAIRS, LATENT, LATENT, generator=generator)
    return Metric.dense(0.05 * (noise @ noise.mT) + 0.05 * torch.eye(LATENT), features)


def tuning(name: str, likelihood: str) -> Tuning:
    """Every datum has its own step size."""
    factors = 0.5 + torch.rand(PAIRS, generator=torch.Generator().manual_seed(4))
    return Tuning(STEPS[name] * factors, metric(name, likelihood))


def z_scores(values: Tensor, expected: Tensor | float = 0.0) -> Tensor:
    """Of the mean over pairs, (pairs, k) -> (k,)."""
    values = values.double()
    return (values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))


def suspicion(case: Pairs, state: State, info: Info) -> dict[str, float]:
    """The largest |z-score| of each kind of statement that invariance makes."""
    z, x = state.z[0], case.batch.x
    before = case.z[0]
    with torch.no_grad():
        log_likelihood = [case.model.log_likelihood(x, at) for at in (before, z)]
        log_prior = [case.model.log_prior(at) for at in (before, z)]
    rows, columns = torch.triu_indices(LATENT, LATENT, 1)
    features = torch.tanh(x @ torch.randn(EVENT, LATENT, generator=torch.Generator().manual_seed(5)))

    def joint(at: Tensor, likelihood: Tensor, prior: Tensor) -> Tensor:
        return torch.cat(
            [
                torch.stack([likelihood, likelihood + prior, likelihood.square(), likelihood * prior], 1),
                (at.unsqueeze(2) * features.unsqueeze(1)).flatten(1),
                (at.square().unsqueeze(2) * features.unsqueeze(1)).flatten(1),
            ],
            1,
        )

    there = joint(z, log_likelihood[1], log_prior[1])
    here = joint(before, log_likelihood[0], log_prior[0])
    kinetic = (info.energy + state.log_density)[0].unsqueeze(1)
    scores = {
        "mean": z_scores(z),
        "variance": z_scores(z.square(), 1.0),
        "fourth moment": z_scores(z**4, 3.0),
        "cross moments": z_scores(z[:, rows] * z[:, columns]),
        "joint": z_scores(there - here),  # each pair with itself: the differences have mean 0
        "kinetic energy": z_scores(kinetic, LATENT / 2) if float(kinetic.abs().max()) > 1e-3 else torch.zeros(1),
    }
    return {name: float(score.abs().max()) for name, score in scores.items()}


def run(kernel: Kernel, target: Target, z: Tensor, tuned: Tuning, transitions: int, seed: int) -> tuple[State, Info]:
    generator, state = torch.Generator().manual_seed(seed), init(target, z)
    for _ in range(transitions):
        state, info = kernel.step(target, state, tuned, generator=generator)
    return state, info


CASES = [
    *(("bernoulli", kernel, name, "full") for kernel in KERNELS for name in METRICS),
    # a kernel does not ask which likelihood it is, nor how exact a gradient: each of them once is enough
    *(("gaussian", kernel, ("identity", "gauss-newton")[k % 2], "full") for k, kernel in enumerate(KERNELS)),
    *(("bernoulli", kernel, METRICS[k % 4], "bf16") for k, kernel in enumerate(KERNELS) if kernel != "random-walk"),
    *(("gaussian", kernel, "dense", "bf16") for kernel in ("hmc", "nuts-rotation")),
]


@pytest.mark.parametrize(("likelihood", "kernel", "name", "precision"), CASES, ids=lambda value: str(value))
def test_exact_draws_stay_exact(likelihood: str, kernel: str, name: str, precision: str) -> None:
    case = pairs(likelihood)
    target = PerceptronPosterior(case.model, case.batch, half=precision == "bf16")
    state, info = run(KERNELS[kernel], target, case.z, tuning(name, likelihood), 4, seed=6)
    found = suspicion(case, state, info)
    assert max(found.values()) < 4, found
    # not because nothing happens
    assert 0.1 < float(info.acceptance.mean()) < 0.999
    assert float((state.z - case.z).square().mean()) > 0.01


def jumps(density: bool) -> Jumps:
    """Random walks with jumps to draws of N(0, 1.2² I), and with or without its density in the acceptance."""

    def draw(shape: tuple[int, ...], *, generator: torch.Generator | None) -> Tensor:
        return 1.2 * torch.randn(*shape, PAIRS, LATENT, generator=generator)

    return Jumps(RandomWalk(), draw, lambda z: -0.5 * density * (z / 1.2).square().sum(-1))


@pytest.mark.parametrize("density", [True, False])
def test_jumps_leave_exact_draws_exact(density: bool) -> None:
    case = pairs("gaussian")
    target = PerceptronPosterior(case.model, case.batch)
    short = tuning("identity", "gaussian")._replace(step_size=torch.full((PAIRS,), 1e-3))
    state, info = run(jumps(density), target, case.z, short, 6, seed=12)
    found = suspicion(case, state, info)
    assert (max(found.values()) < 4) == density, found
    moved = (state.z - case.z).square().sum(-1) > 0.1
    assert 0.05 < float(moved.double().mean()) < 0.95  # by jumps: the walk goes nowhere
    assert torch.equal(state.log_density, target.log_density(state.z))


def test_the_posteriors_are_not_normal() -> None:
    """Exactness is not for the price of an easy target: the Laplace approximation fails the same check."""
    case, tuned = pairs("bernoulli"), tuning("gauss-newton", "bernoulli")
    noise = torch.randn(1, PAIRS, LATENT, generator=torch.Generator().manual_seed(7))
    target = PerceptronPosterior(case.model, case.batch)
    state = init(target, tuned.metric.to_z(noise))
    kinetic = 0.5 * torch.randn(1, PAIRS, LATENT, generator=torch.Generator().manual_seed(8)).square().sum(-1)
    info = Info(kinetic, kinetic - state.log_density, kinetic > 0, kinetic > 0)
    assert max(suspicion(case, state, info).values()) > 8


# --- the check can fail: mistakes that others made, planted


class Planted:
    """HMC, written once more, with a place for each mistake; without one it is right."""

    name, max_step_size = "planted", math.inf

    def __init__(self, mistake: str = "none") -> None:
        self.mistake = mistake
        self.momentum: Tensor | None = None

    def step(
        self, target: Target, state: State, tuning: Tuning, *, generator: torch.Generator | None = None
    ) -> tuple[State, Info]:
        mistake, mass, chart = self.mistake, 2.0, tuning.metric
        momentum = torch.randn(state.z.shape, generator=generator)
        first = momentum
        if mistake == "momentum drawn once for all":
            self.momentum = momentum if self.momentum is None else self.momentum
            momentum = first = self.momentum
        if mistake == "momentum drawn twice":
            first = torch.randn(state.z.shape, generator=generator)
        if mistake == "momentum as randn * mass":  # with that mass, it would be randn * √mass
            momentum = first = mass**0.5 * momentum
        step_size = tuning.step_size.unsqueeze(-1)
        w = chart.to_w(state.z)
        pull = force("leapfrog", chart, state.gradient, w)
        r = momentum
        if mistake == "un-halved momentum":
            r = momentum + 0.5 * step_size * pull  # a half kick more than there should be
        if mistake == "drift before the kick":
            w, _ = advance("leapfrog", w, momentum, 0.5 * step_size)
        end, z, log_density, gradient = trajectory("leapfrog", target, chart, Point(w, r, pull), step_size, 4)
        before = 0.5 * first.square().sum(-1) - state.log_density
        after = 0.5 * end.r.square().sum(-1) - log_density
        if mistake == "kinetic energy left out":
            before, after = -state.log_density, -log_density
        acceptance = torch.exp(before - after).clamp(max=1)
        accepted = torch.rand(acceptance.shape, generator=generator) < acceptance
        kept = accepted | (mistake == "goes on from a rejected proposal")
        where = kept.unsqueeze(-1)
        state = State(
            torch.where(where, z, state.z),
            torch.where(kept & (mistake != "log density not renewed"), log_density, state.log_density),
            torch.where(where & (mistake != "gradient not renewed"), gradient, state.gradient),
        )
        nothing = torch.zeros_like(accepted, dtype=torch.int64)
        return state, Info(acceptance, torch.where(kept, after, before), nothing.bool(), nothing)


MISTAKES = (
    "un-halved momentum",
    "drift before the kick",
    "momentum as randn * mass",
    "momentum drawn once for all",
    "momentum drawn twice",
    "goes on from a rejected proposal",
    "kinetic energy left out",
    "gradient not renewed",
    "log density not renewed",
)


@pytest.mark.parametrize("mistake", ["none", *MISTAKES])
def test_a_planted_mistake_is_seen(mistake: str) -> None:
    case, tuned = pairs("bernoulli"), tuning("guide", "bernoulli")
    target = PerceptronPosterior(case.model, case.batch)
    state, info = run(Planted(mistake), target, case.z, tuned, 15, seed=9)
    found = suspicion(case, state, info)
    found.pop("kinetic energy")  # the draws alone have to give it away
    assert (max(found.values()) > 5) == (mistake != "none"), found


def other_model(case: Pairs) -> LatentModel:
    """The model with other weights, as after an update."""
    network = case.model.likelihood.network
    assert isinstance(network, MLP)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(11)
        other = MLP((LATENT,), (1, EVENT), hidden=(16,), activation="tanh")
    other.load_state_dict({name: 0.6 * value for name, value in network.state_dict().items()})
    return LatentModel(StandardNormal(LATENT), Bernoulli(other, (EVENT,))).eval()


@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
@pytest.mark.parametrize("renewed", [True, False])
def test_a_state_is_made_anew_when_the_target_changes(kernel: str, renewed: bool) -> None:
    """Caches of another target break exactness, and `init` is what keeps it."""
    case, tuned = pairs("bernoulli"), tuning("guide", "bernoulli")
    target = PerceptronPosterior(case.model, case.batch)
    state = init(target if renewed else PerceptronPosterior(other_model(case), case.batch), case.z)
    generator = torch.Generator().manual_seed(12)
    for _ in range(2):
        state, info = KERNELS[kernel].step(target, state, tuned, generator=generator)
    found = suspicion(case, state, info)
    assert (max(found.values()) < 4) == renewed, found


@pytest.mark.parametrize("kernel", ["hmc", "hmc-rotation", "nuts", "nuts-rotation"])
def test_any_function_of_z_will_do_for_the_gradient(kernel: str) -> None:
    case, tuned = pairs("bernoulli"), tuning("guide", "bernoulli")
    state, info = run(KERNELS[kernel], Rounded(case.model, case.batch), case.z, tuned, 4, seed=13)
    found = suspicion(case, state, info)
    assert max(found.values()) < 4, found


class Rounded(PerceptronPosterior):
    """The gradient to the nearest even number, and a half beside it."""

    def gradient(self, z: Tensor) -> Tensor:
        return (super().gradient(z) / 2).round() * 2 + 0.5

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_density(z), self.gradient(z)


def funnel(z: Tensor) -> Tensor:
    """v ~ N(0, 9), x | v ~ N(0, e^v)."""
    v, x = z.unbind(-1)
    return -0.5 * (v.square() / 9 + x.square() * torch.exp(-v) + v)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_size_that_follows_its_own_chain_is_seen(adapted: bool) -> None:
    """Where curvature varies, a step that is shortened by each rejection and lengthened by each success is no longer
    independent of where the chain is: that is why a tuning is frozen before draws are kept."""
    generator, count = torch.Generator().manual_seed(15), 20_000
    v = 3 * torch.randn(1, count, generator=generator)
    z = torch.stack([v, torch.exp(v / 2) * torch.randn(1, count, generator=generator)], -1)
    target, metric = Density(funnel), Metric.identity(z)
    state, step_size = init(target, z), torch.full((count,), 0.5)
    for _ in range(20):
        before = state
        state, _ = HMC(2).step(target, state, Tuning(step_size, metric), generator=generator)
        if adapted:
            moved = (state.z != before.z).any(-1)[0]
            step_size = (step_size * torch.where(moved, 1.5, 0.4)).clamp(0.01, 10)
    v = state.z[0, :, :1]
    worst = float(torch.cat([z_scores(v / 3), z_scores((v / 3).square(), 1.0), z_scores(v.abs() - v0(z))]).abs().max())
    assert (worst > 8) if adapted else (worst < 4)


def v0(z: Tensor) -> Tensor:
    """|v| at the start, which is what it is at the end on average."""
    return z[0, :, :1].abs()
