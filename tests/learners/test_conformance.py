"""What holds of every learner, whatever it maximises: one suite over the registry, and one model that all must find."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.learners.learner import Learner, StepInfo, TrainingState
from elbowroom.model.guides import FullNormal, PriorGuide
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.running import build_learner as registry
from elbowroom.running.build import DataFacts
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair, guide_name
from elbowroom.running.config import Config, TrainConfig, configure

DATA, DIM, LATENT, CONTEXT = 24, 6, 2, 3

CODES = {"prior": "unigram", "slots": 3, "codes": 4, "code_dim": 2}
FLOWS = {"prior_width": 4, "prior_transforms": 1, "guide_width": 4, "guide_transforms": 1}
HIERARCHY = {"groups": [2, 1], "group_hidden": [3], "prior": "mixture", "prior_components": 3}
VQ = {"model": CODES, "vq": {"reconstruction_share": 0.1, "prior_share": 0.1, "joint_rate": 1.0}}

#: learner, or a way of using it -> its settings and the names of what a step reports
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "aevb": ({}, {"elbo", "reconstruction", "kl"}),
    "aevb, iwae": ({"objective": {"name": "iwae", "num_samples": 3}}, {"iwae", "elbo", "ess"}),
    "aevb, flows": ({"model": FLOWS | {"prior": "maf", "guide": "iaf"}}, {"elbo", "reconstruction", "kl"}),
    "aevb, top-down": ({"model": HIERARCHY}, {"elbo", "reconstruction", "kl", "kl_1", "kl_2", "kl_3"}),
    "aevb, bottom-up": (
        {"model": HIERARCHY | {"guide": "bottom-up"}, "objective": {"name": "iwae", "estimator": "dreg"}},
        {"iwae", "elbo", "ess"},
    ),
    "naive": ({"objective": {"num_samples": 4}}, {"naive", "elbo", "ess"}),
    "wake-sleep": ({"objective": {"num_samples": 2}}, {"elbo", "wake", "sleep"}),
    "wake-sleep, flows": (
        {"objective": {"num_samples": 2}, "model": FLOWS | {"prior": "coupling", "guide": "nsf"}},
        {"elbo", "wake", "sleep"},
    ),
    "mcem": ({}, {"log_joint", "acceptance", "divergent"}),
    "mcem, hierarchy": ({"model": HIERARCHY}, {"log_joint", "acceptance", "divergent"}),
    "mcem, nuts": ({"mcem": {"sampler": "nuts", "metric": "identity"}}, {"log_joint", "acceptance", "divergent"}),
    "mcem, from the prior": (
        {"mcem": {"start": "prior", "metric": "identity"}},
        {"log_joint", "acceptance", "divergent"},
    ),
    "mcem, from the guide": (
        {"mcem": {"start": "guide", "metric": "guide"}, "model": {"guide": "diagonal"}},
        {"log_joint", "log_q", "acceptance", "divergent"},
    ),
    "mcem, on disk": ({"mcem": {"storage": "disk", "chains": 2, "draws": 2}}, {"log_joint", "acceptance", "divergent"}),
    "mcem, several updates": ({"mcem": {"updates": 3, "growth": 1.0}}, {"log_joint", "acceptance", "divergent"}),
    # all three stages within three steps, at one learning rate
    "vq": (VQ, {"elbo", "reconstruction", "kl"}),
    "vq, codebook by gradient": (
        VQ | {"model": CODES | {"codebook": "gradient", "prior": "made", "prior_width": 8}},
        {"elbo", "reconstruction", "kl"},
    ),
    "svi": ({}, {"elbo"}),
    "svi, top-down": ({"model": HIERARCHY | {"guide": "top-down"}}, {"elbo"}),
    "svi, renyi": ({"svi": {"elbo": "renyi", "num_particles": 3}}, {"iwae"}),
}


def _needs_pyro(name: str, *values: Any) -> Any:
    missing = importlib.util.find_spec("pyro") is None
    return pytest.param(name, *values, marks=pytest.mark.skipif(missing and "svi" in name, reason="needs pyro"))


every_case = pytest.mark.parametrize("name", [_needs_pyro(name) for name in CASES])

#: these differ from mcem in where chains start, how they move and where they are kept, not in their target
TARGET_OF_MCEM = {"mcem, nuts", "mcem, from the prior", "mcem, on disk", "mcem, several updates"}
every_target = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in TARGET_OF_MCEM else _needs_pyro(name) for name in CASES],
)


class Scene(NamedTuple):
    learner: Learner
    pair: Pair
    batch: Batch


def _config(name: str, changes: Mapping[str, Any]) -> Config:
    small = {
        "model": {"latent_dim": LATENT, "encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}},
        "runtime": {"dtype": "float64"},
        "train": {"learner": name.split(",")[0]},
        "optimizer": {"lr": 1e-2},
        **({"mcem": {"warmup": 3}} if name.startswith("mcem") else {}),  # nothing here asks chains to have converged
    }
    return configure(small, CASES[name][0], changes)


def _scene(
    name: str, folder: Path, changes: Mapping[str, Any] | None = None, *, context: bool = False, copies: int = 1
) -> Scene:
    config = _config(name, changes or {})
    facts = DataFacts(
        event_shape=(DIM,),
        support=Support.REALS,
        native_support=Support.REALS,
        context_dim=CONTEXT if context else 0,
        steps_per_epoch=2,
    )
    number = copies * DATA
    learner = build_learner(
        config, RunLength(10, 2, None if number is None else torch.arange(number), folder / "chains")
    )
    x = ppca(DIM, LATENT, seed=0, num_data=DATA)[2].repeat(copies, 1)
    covariates = torch.eye(CONTEXT, dtype=torch.float64).repeat(number // CONTEXT, 1) if context else None
    return Scene(learner, build_pair(config, facts, seed=0), Batch(x, torch.arange(number), covariates))


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _run(
    scene: Scene, steps: int, generator: torch.Generator, state: TrainingState | None = None
) -> tuple[TrainingState, list[StepInfo]]:
    """Two batches an epoch, in turn."""
    state, infos = scene.learner.init(scene.pair) if state is None else state, []
    for _ in range(steps):
        half = slice(0, len(scene.batch) // 2) if state.step % 2 == 0 else slice(len(scene.batch) // 2, None)
        state, info = scene.learner.step(state, scene.batch.rows(half), generator=generator)
        infos.append(info)
    return state, infos


def _weights(pair: Pair) -> list[Tensor]:
    return [weight.detach().clone() for weight in pair.parameters()]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_every_registered_learner_is_examined() -> None:
    # em has no gradient, rate, average, draws or context to speak of: `test_em` holds it to its own contract
    assert {name.split(",")[0] for name in CASES} | {"em"} == set(registry._LEARNERS)
    assert set(registry._LEARNERS) == set(get_args(TrainConfig.model_fields["learner"].annotation))


# --- the contract ------------------------------------------------------------------------------------------------


@every_case
def test_a_step_moves_every_weight_and_says_what_it_did(name: str, tmp_path: Path) -> None:
    scene = _scene(name, tmp_path)
    before = _weights(scene.pair)
    state, infos = _run(scene, 3, _generator())
    assert all(not torch.equal(a, b) for a, b in zip(before, _weights(state.pair), strict=True))
    assert state.step == 3
    assert state.pair is scene.pair
    for info in infos:
        assert set(info.terms) == CASES[name][1]
        assert all(isinstance(value, float) and math.isfinite(value) for value in info.terms.values())
        assert info.lr == pytest.approx(1e-2)
        trains_the_prior_alone = name.startswith("vq") and info is infos[1]
        assert info.decoder_gradients >= (0 if trains_the_prior_alone else DATA // 2)
        assert info.decoder_gradients % (DATA // 2) == 0 or "nuts" in name or name.startswith("mcem")


# what Monte Carlo EM measures knows of no chains
@pytest.mark.parametrize("name", [_needs_pyro(name) for name in CASES if name not in TARGET_OF_MCEM])
def test_what_is_measured_is_per_datum_under_the_learners_name(name: str, tmp_path: Path) -> None:
    scene = _scene(name, tmp_path)
    with evaluation_mode(scene.pair):
        measured = scene.learner.measure(scene.pair, scene.batch, generator=_generator())
        again = scene.learner.measure(scene.pair, scene.batch, generator=_generator())
    assert scene.learner.name in measured
    for key, values in measured.items():
        assert values.shape == (DATA,)
        assert values.isfinite().all()
        assert torch.equal(values, again[key])
        of_group = key.startswith("kl_")  # whose part of a small network may not tell some examples apart
        of_one_draw = key == "ess" and name == "aevb, bottom-up"
        assert len(values.unique()) == DATA or of_group or of_one_draw
    # nats of whole data, not of elements or batches: near the density of the same model
    assert measured[scene.learner.name].mean() == pytest.approx(-13, abs=8)


@every_case
def test_a_seed_says_it_all(name: str, tmp_path: Path) -> None:
    """The same numbers whatever the global generator holds, which is left as it was; three steps see every stage."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        scene = _scene(name, tmp_path / str(seed))
        before = torch.get_rng_state()
        state, infos = _run(scene, 3, _generator())
        assert torch.equal(torch.get_rng_state(), before)
        found.append((_weights(state.pair), infos))
    (weights, infos), (others, again) = found
    assert _equal(weights, others)
    assert infos == again
    state, _ = _run(_scene(name, tmp_path / "other"), 3, _generator(2))
    assert not _equal(weights, _weights(state.pair))


@pytest.mark.parametrize(
    ("name", "ema"),
    # without an average, one case of each learner: what its step does is the same with one
    [_needs_pyro(name, ema) for ema in (0.8, 0.0) for name in CASES if ema or "," not in name],
)
def test_a_state_written_down_goes_on_bit_for_bit(name: str, ema: float, tmp_path: Path) -> None:
    changes = {"train": {"ema": ema}}
    scene, generator = _scene(name, tmp_path / "whole", changes), _generator()
    state, _ = _run(scene, 3, generator)
    tensors = {key: tensor.clone() for key, tensor in state.tensors().items()}
    weights, noise = copy.deepcopy(state.learned.state_dict()), generator.get_state()
    state, infos = _run(scene, 2, generator, state)

    parted = _scene(name, tmp_path / "parted", changes)
    again = parted.learner.init(parted.pair)
    again.learned.load_state_dict(weights)
    again.load(tensors)
    again.step = 3
    generator.set_state(noise)
    again, others = _run(parted, 2, generator, again)
    assert infos == others
    assert _equal(_weights(state.pair), _weights(again.pair))
    assert _equal(_weights(state.learned), _weights(again.learned))
    ours, theirs = again.tensors(), state.tensors()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (state.learned is state.pair) == (ema == 0.0)


@every_case
def test_data_that_are_not_finite_reach_no_weight(name: str, tmp_path: Path) -> None:
    scene = _scene(name, tmp_path, {"train": {"ema": 0.8}})
    state, _ = _run(scene, 2, _generator())
    before, average = _weights(state.pair), _weights(state.learned)
    x = scene.batch.x.clone()
    x[3, 1] = math.nan
    with pytest.raises(ElbowroomError) as caught:
        scene.learner.step(state, Batch(x, scene.batch.index), generator=_generator())
    assert caught.value.remedy
    assert "finite" in str(caught.value)
    assert _equal(_weights(state.pair), before)
    assert _equal(_weights(state.learned), average)
    assert state.step == 2
    _run(scene, 1, _generator(), state)  # it can go on


@every_target
def test_covariates_and_masks_are_for_all(name: str, tmp_path: Path) -> None:
    """What the batch holds reaches the learner: hiding elements, or other covariates, gives another update."""
    weights, nats = [], []
    for change in ("none", "context", "mask"):
        scene = _scene(name, tmp_path / change, context=True)
        assert scene.batch.context is not None
        context = scene.batch.context.roll(1, 0) if change == "context" else scene.batch.context
        mask = torch.ones(DATA, DIM, dtype=torch.bool)
        if change == "mask":
            mask[:, ::2] = False
        batch = Batch(scene.batch.x, scene.batch.index, context, mask)
        state, infos = _run(scene._replace(batch=batch), 2, _generator())
        assert all(math.isfinite(value) for info in infos for value in info.terms.values())
        weights.append(_weights(state.pair))
        if change != "context":
            nats.append(scene.learner.measure(state.pair, batch, generator=_generator())[scene.learner.name].mean())
    assert not _equal(weights[0], weights[1])
    assert not _equal(weights[0], weights[2])
    assert nats[1] > nats[0] + 1.0  # half of the elements, half of the nats


@every_target
def test_hidden_values_mean_nothing_to_the_model(name: str, tmp_path: Path) -> None:
    """The encoder sees the filler; the model never does."""
    mask = torch.ones(DATA, DIM, dtype=torch.bool)
    mask[:, 4:] = False
    found = []
    for filler in (0.0, 7.0):
        scene = _scene(name, tmp_path / str(filler))
        x = torch.where(mask, scene.batch.x, filler)
        state, _ = _run(scene._replace(batch=Batch(x, scene.batch.index, None, mask)), 2, _generator())
        found.append(_weights(state.pair))
    if guide_name(_config(name, {})) == "none":
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)
    else:
        assert not _equal(*found)


@every_case
def test_networks_with_batch_norm_train_and_measure(name: str, tmp_path: Path) -> None:
    normed = {"hidden": [4], "batch_norm": True}
    if "groups" in _config(name, {}).model.model_fields_set:
        with pytest.raises(ElbowroomError, match="Batch normalisation was asked for"):
            _scene(name, tmp_path, {"model": {"encoder": normed, "decoder": normed}})
        return
    scene = _scene(name, tmp_path, {"model": {"encoder": normed, "decoder": normed}})
    scene.pair.train()
    before = {key: value.clone() for key, value in scene.pair.named_buffers() if "running" in key}
    state, _ = _run(scene, 3, _generator())
    assert all(not torch.equal(dict(state.pair.named_buffers())[key], value) for key, value in before.items())
    assert all(module.training for module in scene.pair.modules())
    after = {key: value.clone() for key, value in scene.pair.named_buffers()}
    with evaluation_mode(scene.pair):
        scene.learner.measure(scene.pair, scene.batch, generator=_generator())
    assert all(torch.equal(value, after[key]) for key, value in scene.pair.named_buffers())


# --- means, not sums ---------------------------------------------------------------------------------------------


def _updates(name: str, folder: Path, copies: int, number: int) -> Tensor:
    """What so many first steps of plain SGD add to the weights, per unit of the rate."""
    changes = {"optimizer": {"name": "sgd", "lr": 1e-3}, "train": {"ema": 0.0}}
    # the gradient of draws from anywhere is a mean over examples: chains need not converge
    chains = {"mcem": {"warmup": 1}} if name.startswith("mcem") else {}
    scene = _scene(name, folder, changes | chains, copies=copies)
    weights, before, found = list(scene.pair.parameters()), _weights(scene.pair), []
    for seed in range(number):
        scene.learner.step(scene.learner.init(scene.pair), scene.batch, generator=_generator(seed + 1000 * copies))
        found.append(torch.cat([((a.detach() - b) / 1e-3).flatten() for a, b in zip(weights, before, strict=True)]))
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
    return torch.stack(found)


#: with several updates, and with codes that are put somewhere, a step is no gradient; the others differ from mcem in
#: how z is drawn, not in how it is averaged, and of hierarchies are aevb's
NO_NEWS = {
    "mcem, hierarchy",
    "mcem, several updates",
    "mcem, on disk",
    "mcem, nuts",
    "mcem, from the prior",
    "aevb, flows",
    "wake-sleep, flows",
    "vq",
    "vq, codebook by gradient",
}


@pytest.mark.parametrize("name", [_needs_pyro(name) for name in CASES if name not in NO_NEWS])
def test_data_given_twice_have_the_expected_gradient_of_once(name: str, tmp_path: Path) -> None:
    once, twice = (_updates(name, tmp_path, copies, 16) for copies in (1, 2))
    spread = ((once.var(0) + twice.var(0)) / 16).sqrt()
    scores = (once.mean(0) - twice.mean(0)) / spread.clamp(min=1e-12)
    assert scores.abs().max() < 5.5  # Student's t with about 30 degrees of freedom, about 90 weights: p < 0.001
    # and twice as large a gradient would have been seen
    assert (once.mean(0) / spread).abs().max() > 11


# --- the best model there is -------------------------------------------------------------------------------------

POINTS, SCALE = 100, 0.7

FULL = {"model": {"guide": "full"}}
#: settings that find the maximum, and how many steps over all data they take
BEST: dict[str, tuple[dict[str, Any], int]] = {
    "aevb": ({"objective": {"num_samples": 4}, "optimizer": {"lr": 0.1}} | FULL, 200),
    "aevb, iwae": ({"objective": {"num_samples": 5, "name": "iwae"}} | FULL, 400),
    "naive": ({"objective": {"num_samples": 300}}, 80),
    "wake-sleep": ({"objective": {"num_samples": 4}} | FULL, 500),
    "mcem": ({"mcem": {"chains": 2}}, 250),
    "mcem, nuts": ({"mcem": {"sampler": "nuts"}}, 200),
    "mcem, identity": ({"mcem": {"metric": "identity"}}, 250),
    "mcem, nuts, identity": ({"mcem": {"sampler": "nuts", "metric": "identity"}}, 400),
    "mcem, from the prior": ({"mcem": {"start": "prior", "metric": "identity", "warmup": 15}}, 250),
    "mcem, from the guide": ({"mcem": {"start": "guide"}} | FULL, 150),
    # chains too short to leave where a guide that still learns sets them off would hold the model back
    "mcem, from the guide, in its metric": (
        {"mcem": {"start": "guide", "metric": "guide", "warmup": 20, "num_steps": 8}} | FULL,
        250,
    ),
    "mcem, a guide beside": ({"mcem": {"metric": "guide"}} | FULL, 250),
    "mcem, several updates": ({"mcem": {"updates": 5, "chains": 4}}, 50),
    "svi": ({"svi": {"num_particles": 4}} | FULL, 250),
    "svi, renyi": ({"svi": {"elbo": "renyi", "num_particles": 5}} | FULL, 400),
}
SLOW = {
    "mcem, identity",  # the E-step's tests hold that its draws are the posterior's, whatever the sampler
    "mcem, nuts",
    "mcem, nuts, identity",
    "mcem, from the guide",
    "mcem, from the prior",
    "mcem, from the guide, in its metric",
    "mcem, a guide beside",  # test_mcem holds that the guide learns the posterior
    "aevb, iwae",
    "svi",  # test_svi holds that its steps are aevb's
    "svi, renyi",
}


def _maximum_likelihood(x: Tensor) -> LinearGaussian:
    r"""Where the scale is fixed: :math:`W = U_q (\Lambda_q - \sigma^2 I)^{1/2}` and b the data's mean.

    Tipping & Bishop (1999), section 3.2, with eigenvalues below σ² cut off.
    """
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    largest = values.flip(0)[:LATENT]
    weight = vectors.flip(1)[:, :LATENT] * (largest - SCALE**2).clamp(min=0).sqrt()
    return LinearGaussian(weight, x.mean(0), SCALE)


def _linear(guide: bool) -> Pair:
    torch.manual_seed(5)
    model = LinearGaussian(0.3 * torch.randn(DIM, LATENT, dtype=torch.float64), torch.zeros(DIM).double(), SCALE)
    if not guide:
        return Pair(model, PriorGuide(model.prior))
    return Pair(model, FullNormal(MLP((DIM,), FullNormal.parameter_shape(LATENT), hidden=()).double(), LATENT))


def _best_case(name: str) -> Any:
    marks = [pytest.mark.slow] if name in SLOW else []
    if "svi" in name:
        marks.append(pytest.mark.skipif(importlib.util.find_spec("pyro") is None, reason="needs pyro"))
    return pytest.param(name, marks=marks)


def test_the_closed_form_is_a_maximum() -> None:
    x = ppca(DIM, LATENT, seed=0, num_data=POINTS)[2]
    best = _maximum_likelihood(x)
    gradients = torch.autograd.grad(best.log_evidence(x).mean(), list(best.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-9
    assert torch.linalg.matrix_rank(best.weight) == LATENT
    value = best.log_evidence(x).mean()
    for seed in range(20):
        other, generator = copy.deepcopy(best), _generator(seed)
        with torch.no_grad():
            for weight in other.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        assert other.log_evidence(x).mean() < value


@pytest.mark.parametrize("name", [_best_case(name) for name in BEST])
def test_it_finds_the_maximum_likelihood(name: str, tmp_path: Path) -> None:
    r"""By the exact log p(x) of what was learned, against the closed form.

    No model lies above it. How far below is honest? N data leave the maximum itself uncertain: by Wilks' theorem the
    truth lies p / 2N nats per datum below it, p being the number of free weights. A twentieth of that is a model that
    nobody could tell from the best by these data. Learning by draws, at a rate that falls to 0, has to come that close.

    The naive learner ascends a looser bound, log p − B, and has another maximum, :math:`\hat\theta`. There the bound is
    at least what it is at the best model, :math:`\theta^*`, so that log p is less by :math:`B(\theta^*)` at most, and
    that can be measured.
    """
    settings, steps = BEST[name]
    x = ppca(DIM, LATENT, seed=0, num_data=POINTS)[2]
    maximum = _maximum_likelihood(x)
    best = maximum.log_evidence(x).mean().item()
    config = configure(
        {"model": {"latent_dim": LATENT}, "train": {"learner": name.split(",")[0]}},
        {"optimizer": {"lr": 0.05, "schedule": "cosine", "betas": [0.9, 0.99]}},
        settings,
    )
    learner = build_learner(config, RunLength(steps, 1, torch.arange(POINTS), tmp_path / "chains"))
    pair = _linear(guide="guide" in settings.get("model", {}))
    state, generator, batch = learner.init(pair), _generator(), Batch(x, torch.arange(POINTS))
    assert isinstance(pair.model, LinearGaussian)
    assert best - pair.model.log_evidence(x).mean().item() > 1.0  # there is something to learn
    for _ in range(steps):
        state, _ = learner.step(state, batch, generator=generator)
    gap = best - pair.model.log_evidence(x).mean().item()
    free = DIM * LATENT - LATENT * (LATENT - 1) // 2 + DIM  # W up to a rotation, and b
    loose = 0.0
    if name == "naive":
        repeated = Batch(x.repeat(10, 1))
        with torch.no_grad():
            bound = learner.measure(Pair(maximum, PriorGuide(maximum.prior)), repeated, generator=generator)["naive"]
        loose = best - bound.mean().item()
        assert 0.0 < loose < 0.1
    assert -1e-9 < gap < free / (2 * POINTS) / 20 + loose
