"""The E-step draws from the posterior under the present weights, for each datum from its own."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import elbowroom.learners.e_step as module
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.posterior.sample import Method
from elbowroom.learners.chain_store import ChainStore
from elbowroom.learners.e_step import Draws, EStep
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.samplers.kernel import State, init
from elbowroom.samplers.target import Target

DIM, LATENT = 6, 2
WAYS: dict[str, EStep] = {
    "hmc, gauss-newton": EStep(metric="gauss-newton", refresh=3, warmup=5),
    "hmc, identity": EStep(metric="identity", refresh=3, warmup=5),
    "hmc, guide": EStep(metric="guide", refresh=3, warmup=5),
    "nuts, gauss-newton": EStep(sampler="nuts", metric="gauss-newton", refresh=3, warmup=5),
    "nuts, identity": EStep(sampler="nuts", metric="identity", refresh=3, warmup=5),
}
way = pytest.mark.parametrize("e_step", WAYS.values(), ids=WAYS)


class Scene:
    """A model, data, chains, and a common step size; every visit is of all data, in an order of its own."""

    def __init__(self, e_step: EStep, num_data: int = 300, seed: int = 0) -> None:
        self.model, self.guide, self.x = ppca(DIM, LATENT, seed=0, num_data=num_data)
        self.e_step = e_step
        self.generator = torch.Generator().manual_seed(seed)
        self.common = torch.tensor(torch.nan, dtype=torch.float64)
        like = torch.zeros(LATENT, dtype=torch.float64)
        dense = e_step.resolved(self.model).metric == "gauss-newton"
        self.chains = None
        if e_step.start == "persistent":
            self.chains = ChainStore(torch.arange(num_data), e_step.chains, like, dense=dense)

    def visit(self, index: Tensor | None = None, *, draws: int = 1) -> Draws:
        index = torch.arange(len(self.x)) if index is None else index
        return self.e_step.resolved(self.model).run(
            self.model,
            self.guide,
            Batch(self.x[index], index),
            self.chains,
            self.common,
            draws=draws,
            generator=self.generator,
        )

    def shuffled_visit(self) -> tuple[Tensor, Draws]:
        index = torch.randperm(len(self.x), generator=self.generator)
        return index, self.visit(index)

    def start_exactly(self) -> None:
        """Puts every chain at an independent draw from the exact posterior."""
        assert self.chains is not None
        index = torch.arange(len(self.x))
        found = self.chains.read(index)
        epsilon = torch.randn(found.z.shape, generator=self.generator, dtype=torch.float64)
        self.chains.write(index, found._replace(z=self.colour(epsilon)))

    def colour(self, epsilon: Tensor) -> Tensor:
        with torch.no_grad():
            posterior = self.model.posterior(self.x)
            return posterior.mean + (posterior.scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)

    def whiten(self, z: Tensor, index: Tensor) -> Tensor:
        """N(0, I) where z of the data at these positions are exact draws."""
        with torch.no_grad():
            posterior = self.model.posterior(self.x[index])
            away = (z - posterior.mean).unsqueeze(-1)
            white: Tensor = torch.linalg.solve_triangular(posterior.scale_tril, away, upper=False)
            return white.squeeze(-1)


def _statements(white: Tensor) -> Tensor:
    """Functions whose mean is 0 where the draws, shape (\\*, 2), are N(0, I): mean, covariance, fourth moments."""
    a, b = white.unbind(-1)
    return torch.stack([a, b, a.square() - 1, b.square() - 1, a * b, a**4 - 3, b**4 - 3], -1)


def _z_scores(values: Tensor) -> Tensor:
    return values.mean(0) / (values.std(0) / math.sqrt(len(values)))


# --- the stationary distribution ---------------------------------------------------------------------------------


@way
def test_exact_draws_stay_exact_from_visit_to_visit(e_step: EStep) -> None:
    """Of 4,000 data, each with a chain that starts from an exact draw: independent, so plain z-scores hold."""
    scene = Scene(e_step, num_data=4_000)
    scene.visit()  # finds step sizes and metrics
    scene.start_exactly()
    for _ in range(12):  # four refreshes of the metric
        index, found = scene.shuffled_visit()
    white = scene.whiten(found.z[0], index)
    assert _z_scores(_statements(white)).abs().max() < 4
    # the same, as the next visit will find them
    left = scene.chains.read(index) if scene.chains is not None else None
    assert left is not None
    assert torch.equal(left.z[0], found.z[0])
    assert left.visits.unique().tolist() == [13]


@way
def test_every_datum_has_its_own_posterior(e_step: EStep) -> None:
    """The draws of many visits, one datum at a time: 256 chains each, and z-scores of its mean and covariance."""
    scene = Scene(replace(e_step, chains=256), num_data=12)
    scene.visit()
    scene.start_exactly()
    visits = []
    for _ in range(15):
        index, found = scene.shuffled_visit()
        visits.append(scene.whiten(found.z, index)[:, index.argsort()])
    # averages over the visits of independent chains, (chains, data, statements); a few chains tell no fourth moment
    averages = _statements(torch.stack(visits))[..., :5].mean(0)
    scores = averages.mean(0) / (averages.std(0) / math.sqrt(256))
    assert scores.abs().max() < 4.5  # 60 scores: p = 0.0004 of one beyond


@way
def test_chains_from_nowhere_find_the_posterior(e_step: EStep) -> None:
    scene = Scene(replace(e_step, warmup=40), num_data=3_000)
    for _ in range(6):
        index, found = scene.shuffled_visit()
    assert _z_scores(_statements(scene.whiten(found.z[0], index))).abs().max() < 4


@pytest.mark.parametrize(("start", "sampler"), [("prior", "nuts"), ("guide", "hmc")])
def test_chains_started_anew_find_the_posterior_and_forget(start: Any, sampler: Method) -> None:
    scene = Scene(EStep(sampler=sampler, start=start, metric="identity", warmup=40, num_steps=None), num_data=3_000)
    first = scene.visit().z[0]
    second = scene.visit().z[0]
    index = torch.arange(3_000)
    whites = [scene.whiten(z, index) for z in (first, second)]
    for white in whites:
        assert _z_scores(_statements(white)).abs().max() < 4
    assert _z_scores(whites[0] * whites[1]).abs().max() < 4  # nothing of the visit before


def test_a_persistent_chain_remembers() -> None:
    """The counterpart: steps too short to forget within one visit."""
    scene = Scene(EStep(metric="identity", num_steps=1, target_acceptance=0.99), num_data=3_000)
    scene.visit()
    scene.start_exactly()
    index = torch.arange(3_000)
    whites = [scene.whiten(scene.visit().z[0], index) for _ in range(2)]
    assert _z_scores(whites[0] * whites[1]).abs().min() > 4


def test_several_chains_and_draws_lie_side_by_side() -> None:
    """Draws of shape (draws · chains, batch, latent): each datum's around its own mean."""
    scene = Scene(EStep(chains=3, warmup=3), num_data=500)
    found = scene.visit(draws=4)
    assert found.z.shape == (12, 500, LATENT)
    white = scene.whiten(found.z, torch.arange(500))
    for draw in white:
        assert _z_scores(_statements(draw)).abs().max() < 4.5
    assert len(found.z.unique(dim=0)) == 12
    assert scene.chains is not None
    assert torch.equal(scene.chains.read(torch.arange(500)).z, found.z[-3:])


# --- what was cached is stale ------------------------------------------------------------------------------------


def _after_an_update(scene: Scene) -> tuple[Tensor, Tensor]:
    """Whitened draws of the visit after one in which the weights changed, the chains being exact under the new."""
    scene.visit()
    with torch.no_grad():
        scene.model.bias.add_(0.3 * scene.model.weight[:, 0])
    scene.start_exactly()
    index = torch.arange(len(scene.x))
    found = scene.visit()
    return scene.whiten(found.z[0], index), found.acceptance


@way
def test_densities_are_those_of_the_present_weights(e_step: EStep) -> None:
    white, _ = _after_an_update(Scene(e_step, num_data=4_000))
    assert _z_scores(_statements(white)).abs().max() < 4


@pytest.mark.parametrize("e_step", [WAYS["hmc, identity"]], ids=["hmc, identity"])
def test_a_density_that_is_kept_over_an_update_is_seen(e_step: EStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the log density under the weights before, which would take some proposals and refuse others wrongly."""
    scene = Scene(e_step, num_data=4_000)
    before = copy.deepcopy(scene.model)

    def stale(target: Any, z: Tensor) -> State:
        with torch.no_grad():
            return init(target, z)._replace(log_density=before.log_joint(scene.x, z))

    monkeypatch.setattr(module, "init", stale)
    white, _ = _after_an_update(scene)
    assert _z_scores(_statements(white)).abs().max() > 8


def test_the_chains_of_another_datum_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: positions off by one, so that every datum goes on with its neighbour's chain."""
    scene = Scene(EStep(metric="identity", num_steps=1, warmup=0), num_data=4_000)
    read = ChainStore.read
    monkeypatch.setattr(ChainStore, "read", lambda self, index: read(self, (index + 1) % 4_000))
    scene.visit()
    scene.start_exactly()
    _, found = scene.shuffled_visit()
    assert _z_scores(_statements(scene.whiten(found.z[0], torch.arange(4_000)))).abs().max() > 8


# --- the metric --------------------------------------------------------------------------------------------------


def _count_modes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    climbed: list[int] = []
    laplace = module.laplace

    def counted(model: LatentModel, start: Tensor, batch: Batch, **settings: Any) -> Any:
        climbed.append(len(batch))
        return laplace(model, start, batch, **settings)

    monkeypatch.setattr(module, "laplace", counted)
    return climbed


def test_a_metric_is_made_anew_after_so_many_visits_of_its_datum(monkeypatch: pytest.MonkeyPatch) -> None:
    climbed = _count_modes(monkeypatch)
    scene = Scene(EStep(metric="gauss-newton", refresh=3, warmup=0), num_data=10)
    early, late = torch.arange(4), torch.arange(4, 10)
    for _ in range(2):
        scene.visit(early)
    assert climbed == [4]
    for _ in range(2):
        scene.visit()  # the late come first; then the early are due at their fourth visit
    assert climbed == [4, 6, 4]
    for _ in range(2):
        scene.visit(late)  # their third, and their fourth
    assert climbed == [4, 6, 4, 6]


def test_a_metric_made_anew_is_that_of_the_present_weights_and_moves_no_chain() -> None:
    scene = Scene(EStep(metric="gauss-newton", refresh=2, warmup=0, transitions=0), num_data=8)
    index = torch.arange(8)
    assert scene.chains is not None
    scene.visit()
    scene.visit()
    with torch.no_grad():
        scene.model.weight.mul_(0.5)
    before = scene.chains.read(index)
    scene.visit(draws=1)
    found = scene.chains.read(index)
    with torch.no_grad():
        posterior = scene.model.posterior(scene.x)
    torch.testing.assert_close(found.metric.covariance(), posterior.covariance_matrix)
    torch.testing.assert_close(found.metric.center, posterior.mean)
    assert not torch.allclose(before.metric.covariance(), posterior.covariance_matrix)
    assert torch.equal(found.z, before.z)


def test_auto_is_gauss_newton_where_there_is_a_fisher_information() -> None:
    model, _, _ = ppca(DIM, LATENT, seed=0)
    assert EStep().resolved(model).metric == "gauss-newton"
    assert EStep(metric="guide").resolved(model).metric == "guide"


# --- step sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "target"), [("hmc", 0.6), ("nuts", 0.8), ("hmc", 0.9)])
def test_the_acceptance_is_that_which_was_aimed_at(sampler: Method, target: float) -> None:
    scene = Scene(EStep(sampler=sampler, metric="identity", target_acceptance=target), num_data=300)
    for _ in range(40):
        scene.visit()
    seen = torch.stack([scene.visit().acceptance.mean() for _ in range(20)])
    # an integrating rule: the mean error over n transitions is the change of log ε / (gain · n), and log ε stays put
    assert seen.mean().item() == pytest.approx(target, abs=0.02)


def test_each_datum_finds_a_step_size_of_its_own() -> None:
    """Half of the data have their elements observed by a much sharper likelihood: their posteriors are narrower."""
    scene = Scene(EStep(metric="identity", num_steps=4), num_data=400)
    mask = torch.ones(400, DIM, dtype=torch.bool)
    mask[::2, 1:] = False  # one element instead of six
    index = torch.arange(400)
    accepted = []
    assert scene.chains is not None
    for _ in range(150):
        found = scene.e_step.run(
            scene.model,
            scene.guide,
            Batch(scene.x, index, mask=mask),
            scene.chains,
            scene.common,
            draws=1,
            generator=scene.generator,
        )
        accepted.append(found.acceptance)
    own = scene.chains.read(index).log_step
    assert own[::2].mean() - own[1::2].mean() > 0.2
    groups = torch.stack(accepted[-50:]).mean(0)
    assert groups[::2].mean().item() == pytest.approx(groups[1::2].mean().item(), abs=0.05)
    assert groups.mean().item() == pytest.approx(0.8, abs=0.02)


def test_new_data_start_from_the_common_step_size() -> None:
    scene = Scene(EStep(metric="identity", warmup=0), num_data=200)
    assert scene.chains is not None
    old, new = torch.arange(100), torch.arange(100, 200)
    for _ in range(60):
        scene.visit(old)
    common = scene.common.clone()
    assert scene.chains.read(new).log_step.abs().max() == 0
    found = scene.visit(new)
    assert found.acceptance.mean().item() == pytest.approx(0.8, abs=0.1)
    assert (scene.common - common).abs() < 0.1
    assert scene.chains.read(old).log_step.abs().max() > 0


def test_a_step_size_does_not_grow_past_the_longest_while_all_is_accepted() -> None:
    """A rotation is exact on a normal target; what grew without bound there would be missing once it is not."""
    scene = Scene(EStep(metric="gauss-newton"), num_data=50)
    for _ in range(100):
        found = scene.visit()
    assert found.acceptance.min() > 0.999
    longest = 0.7 * math.pi / 4
    assert scene.common.exp().item() == pytest.approx(longest)
    assert scene.chains is not None
    assert scene.chains.read(torch.arange(50)).log_step.max() < 1e-9


# --- what it takes -----------------------------------------------------------------------------------------------


class _Counting(Target):
    """Another target, and at how many z its gradient was taken."""

    def __init__(self, inner: Target, taken: list[int]) -> None:
        self.inner, self.taken = inner, taken

    def log_density(self, z: Tensor) -> Tensor:
        return self.inner.log_density(z)

    def gradient(self, z: Tensor) -> Tensor:
        self.taken.append(z.shape[:2].numel())
        return self.inner.gradient(z)

    def evaluate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.taken.append(z.shape[:2].numel())
        return self.inner.evaluate(z)

    def select(self, index: Tensor) -> Target:
        return _Counting(self.inner.select(index), self.taken)


@pytest.mark.parametrize("start", ["persistent", "prior"])
def test_every_gradient_is_counted(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    make = module.posterior_target
    monkeypatch.setattr(module, "posterior_target", lambda model, batch: _Counting(make(model, batch), taken))
    scene = Scene(EStep(start=start, metric="identity", chains=3, num_steps=5, warmup=4, transitions=2), num_data=20)
    scene.visit()  # looks for a first step size, too
    for draws, warmup in ((1, 0), (6, 0)):
        taken.clear()
        found = scene.visit(draws=draws)
        transitions = 2 * draws + (4 if start == "prior" else warmup)
        assert found.decoder_gradients == sum(taken) == 3 * 20 * (1 + 5 * transitions)


def test_nuts_counts_the_gradients_that_its_trees_take(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    make = module.posterior_target
    monkeypatch.setattr(module, "posterior_target", lambda model, batch: _Counting(make(model, batch), taken))
    scene = Scene(EStep(sampler="nuts", metric="identity", warmup=4), num_data=20)
    scene.visit()
    taken.clear()
    assert scene.visit().decoder_gradients == sum(taken)


def test_a_curvature_counts_as_half_the_latent_dimensions() -> None:
    """A linear-Gaussian posterior takes one Newton step: two curvatures and gradients, in 2 dimensions 1 + 1 each."""
    scene = Scene(EStep(metric="gauss-newton", refresh=2, warmup=0), num_data=20)
    transitions = 20 * (1 + 4)
    assert scene.visit().decoder_gradients == transitions + 20 * 2 * (1 + 1)
    assert scene.visit().decoder_gradients == transitions
    assert scene.visit().decoder_gradients == transitions + 20 * (1 + 1)  # the mode before is the mode now


# --- networks, covariates, bad luck ------------------------------------------------------------------------------


def _normed() -> tuple[LatentModel, DiagonalNormal, Tensor]:
    decoder = MLP((LATENT,), (1, DIM), hidden=(8,), batch_norm=True)
    guide = DiagonalNormal(MLP((DIM,), (2, LATENT), hidden=(8,), batch_norm=True), LATENT)
    x = torch.rand(40, DIM, generator=torch.Generator().manual_seed(0)).round()
    return LatentModel(StandardNormal(LATENT), Bernoulli(decoder, (DIM,))).train(), guide.train(), x


@pytest.mark.parametrize("metric", ["gauss-newton", "guide", "identity"])
def test_networks_are_in_evaluation_mode_and_then_as_they_were(metric: Any) -> None:
    model, guide, x = _normed()
    modes: list[bool] = []
    for network in (model.likelihood, guide):
        network.register_forward_hook(lambda at, given, out: modes.append(at.training))
    model.likelihood.network.output.eval()  # one that was in evaluation mode stays so
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    e_step = EStep(start="guide", metric=metric, warmup=2)
    unknown = torch.tensor(torch.nan, dtype=torch.float64)
    e_step.run(model, guide, Batch(x), None, unknown, draws=1, generator=torch.Generator().manual_seed(0))
    assert modes
    assert not any(modes)
    assert model.training
    assert not model.likelihood.network.output.training
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_no_draw_carries_a_gradient() -> None:
    scene = Scene(EStep(start="guide", metric="guide"), num_data=5)
    assert not scene.visit().z.requires_grad


@pytest.mark.parametrize("metric", ["gauss-newton", "identity"])
def test_masked_elements_say_nothing(metric: Any) -> None:
    """Draws given a few elements are draws from the posterior of those elements."""
    scene = Scene(EStep(metric=metric, warmup=40), num_data=3_000)
    mask = torch.rand(3_000, DIM, generator=scene.generator) < 0.5
    batch = Batch(torch.where(mask, scene.x, 1e3), torch.arange(3_000), mask=mask)
    for _ in range(5):
        found = scene.e_step.run(
            scene.model, scene.guide, batch, scene.chains, scene.common, draws=1, generator=scene.generator
        )
    with torch.no_grad():
        posterior = scene.model.posterior(scene.x, mask)
    away = (found.z[0] - posterior.mean).unsqueeze(-1)
    white = torch.linalg.solve_triangular(posterior.scale_tril, away, upper=False).squeeze(-1)
    assert _z_scores(_statements(white)).abs().max() < 4


@pytest.mark.parametrize("start", ["persistent", "prior", "guide"])
@pytest.mark.parametrize("metric", ["gauss-newton", "identity"])
def test_chains_start_where_they_are_told_to(start: Any, metric: Any) -> None:
    """Without a transition: at draws of the prior, of the guide, or of the normal approximation, exact here."""
    scene = Scene(EStep(start=start, metric=metric, chains=2, warmup=0, transitions=0), num_data=4_000)
    found = scene.visit()
    with torch.no_grad():
        q = scene.guide(scene.x)
    white = scene.whiten(found.z, torch.arange(4_000))
    expected = {
        "prior": found.z,
        "guide": (found.z - q.mean) / q.stddev,
        "persistent": white if metric == "gauss-newton" else (found.z - q.mean) / q.stddev,
    }[start]
    assert found.z.shape == (2, 4_000, LATENT)
    for chain in expected:
        assert _z_scores(_statements(chain)).abs().max() < 4


@pytest.mark.parametrize("start", ["persistent", "prior"])
def test_a_prior_with_weights_of_its_own_serves_without_a_guide(start: Any) -> None:
    torch.manual_seed(1)
    linear, _, x = ppca(DIM, LATENT, seed=0, num_data=20, dtype=torch.float32)
    model = LatentModel(MixtureOfGaussians(LATENT, 3), linear.likelihood)
    chains = ChainStore(torch.arange(20), 1, torch.zeros(LATENT), dense=True) if start == "persistent" else None
    unknown = torch.tensor(torch.nan, dtype=torch.float64)
    generator, batch = torch.Generator().manual_seed(0), Batch(x, torch.arange(20))
    e_step, guide = EStep(start=start, metric="gauss-newton"), PriorGuide(model.prior)
    found = e_step.run(model, guide, batch, chains, unknown, draws=2, generator=generator)
    assert found.z.shape == (2, 20, LATENT) and bool(found.z.isfinite().all())


@pytest.mark.parametrize("metric", ["gauss-newton", "identity"])
def test_what_is_not_finite_leaves_the_chains_alone(metric: Any) -> None:
    scene = Scene(EStep(metric=metric), num_data=10)
    scene.visit()
    assert scene.chains is not None
    before = {name: tensor.clone() for name, tensor in scene.chains.tensors().items()}
    common = scene.common.clone()
    scene.x[3, 1] = math.nan
    for _ in range(2):
        with pytest.raises(ElbowroomError, match="not finite"):
            scene.visit()
    assert all(torch.equal(tensor, before[name]) for name, tensor in scene.chains.tensors().items())
    assert torch.equal(scene.common, common)
