"""Monte Carlo EM climbs log p(x) itself: Fisher's identity, EM's monotony, and chains that outlive a visit."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.learners.e_step import Draws, EStep
from elbowroom.learners.learner import StepInfo
from elbowroom.learners.mcem import Mcem, McemState, m_step_terms
from elbowroom.learners.update import Update, cosine
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import StandardNormal

DIM, LATENT = 5, 2
SGD = functools.partial(torch.optim.SGD, lr=0.01)
ADAM = functools.partial(torch.optim.Adam, lr=0.02)


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _model(seed: int = 7) -> LinearGaussian:
    """Away from the data's own."""
    generator = _generator(seed)
    weight = torch.randn(DIM, LATENT, generator=generator, dtype=torch.float64)
    return LinearGaussian(0.5 * weight, torch.zeros(DIM, dtype=torch.float64), 0.7)


def _data(num_data: int = 60) -> Tensor:
    return ppca(DIM, LATENT, seed=0, num_data=num_data)[2]


def _mcem(num_data: int | None, *, optimizer: Any = ADAM, total_steps: int = 100, **settings: Any) -> Mcem:
    rest = {key: settings.pop(key) for key in ("schedule", "ema", "clip_norm") if key in settings}
    update = Update(optimizer=optimizer, total_steps=total_steps, **rest)
    settings.setdefault("e_step", EStep())
    positions = None if num_data is None else torch.arange(num_data)
    return Mcem(update=update, latent_dim=LATENT, positions=positions, **settings)


def _without_guide(model: LatentModel) -> Pair:
    return Pair(model, PriorGuide(model.prior))


def _exact_draws(model: LinearGaussian, x: Tensor, number: int, generator: torch.Generator) -> Tensor:
    with torch.no_grad():
        posterior = model.posterior(x)
        epsilon = torch.randn(number, len(x), LATENT, generator=generator, dtype=torch.float64)
        return posterior.mean + (posterior.scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)


def _gradient(value: Tensor, part: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(part.parameters()))])


def _evidence(model: LinearGaussian, x: Tensor) -> float:
    return model.log_evidence(x).mean().item()


def _steps(
    learner: Mcem, state: McemState, x: Tensor, steps: int, generator: torch.Generator, *, batch_size: int | None = None
) -> list[StepInfo]:
    infos = []
    for _ in range(steps):
        index = torch.randperm(len(x), generator=generator)[:batch_size]
        _, info = learner.step(state, Batch(x[index], index), generator=generator)
        infos.append(info)
    return infos


# --- Fisher's identity -------------------------------------------------------------------------------------------


def _fisher_scores(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Of the M-step's gradient with exact draws against autograd's of log p(x), one for every weight."""
    model = _model()
    expected = _gradient(model.log_evidence(x, mask).mean(), model)
    generator, gradients = _generator(), []
    with torch.no_grad():
        posterior = model.posterior(x, mask)
    for _ in range(250):
        epsilon = torch.randn(2, len(x), LATENT, generator=generator, dtype=torch.float64)
        z = posterior.mean + (posterior.scale_tril @ epsilon.unsqueeze(-1)).squeeze(-1)
        value, _ = m_step_terms(_without_guide(model), Batch(x, mask=mask), z)
        assert value.shape == (len(x),)
        gradients.append(_gradient(value.mean(), model))
    found = torch.stack(gradients)
    return (found.mean(0) - expected) / (found.std(0) / math.sqrt(len(found)))


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_the_evidence(masked: bool) -> None:
    r""":math:`\nabla_\theta \log p(x) = E_{p(z|x)} \nabla_\theta \log p(x, z)`."""
    x = _data(20)
    mask = torch.rand(20, DIM, generator=_generator()) < 0.6 if masked else None
    assert _fisher_scores(x, mask).abs().max() < 4


@pytest.mark.parametrize("over", ["draws", "data"])
def test_a_sum_in_place_of_an_average_is_seen(over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = m_step_terms

    def planted(pair: Pair, batch: Batch, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = right(pair, batch, z)
        return value * (len(z) if over == "draws" else len(batch)), parts

    monkeypatch.setattr(f"{__name__}.m_step_terms", planted)
    assert _fisher_scores(_data(20)).abs().max() > 8


def test_chains_give_the_gradient_of_the_evidence_too() -> None:
    """A whole step, E and M: with plain SGD the weights move by the rate times that gradient, on average."""
    x, rate = _data(20), 0.01
    model = _model()
    expected = _gradient(model.log_evidence(x).mean(), model)
    learner = _mcem(20, optimizer=functools.partial(torch.optim.SGD, lr=rate), e_step=EStep(metric="identity"))
    state = learner.init(_without_guide(model))
    start = [weight.detach().clone() for weight in model.parameters()]
    generator, moved = _generator(), []
    for _ in range(320):
        _steps(learner, state, x, 1, generator)
        both = zip(model.parameters(), start, strict=True)
        moved.append(torch.cat([((weight - old) / rate).detach().flatten() for weight, old in both]))
        with torch.no_grad():
            for weight, old in zip(model.parameters(), start, strict=True):
                weight.copy_(old)
    gradients = torch.stack(moved[20:]).view(15, 20, -1).mean(1)  # chains go on: averages of 20 visits, hardly related
    scores = (gradients.mean(0) - expected) / (gradients.std(0) / math.sqrt(len(gradients)))
    assert scores.abs().max() < 5  # Student's t with 14 degrees of freedom, 15 weights: p = 0.003


# --- EM ----------------------------------------------------------------------------------------------------------


def _m_step_to_the_end(model: LinearGaussian, x: Tensor, z: Tensor) -> None:
    r"""The maximum of the M-step's objective in closed form: regression of x on the draws.

    .. math:: [W \; b] = \Big(\sum x_b u_{bs}^\top\Big) \Big(\sum u_{bs} u_{bs}^\top\Big)^{-1}, \qquad u = [z \; 1]
    """
    design = torch.cat([z, torch.ones_like(z[..., :1])], -1).flatten(0, 1)
    target = x.expand(len(z), *x.shape).flatten(0, 1)
    solution = torch.linalg.lstsq(design, target).solution.T
    with torch.no_grad():
        model.weight.copy_(solution[:, :-1])
        model.bias.copy_(solution[:, -1])
    value, _ = m_step_terms(_without_guide(model), Batch(x), z)
    assert _gradient(value.mean(), model).abs().max() < 1e-8  # it is the maximum of what the learner ascends


def test_em_with_exact_draws_never_decreases_the_likelihood() -> None:
    """Complete iterations: beyond the noise of 800 draws for each datum there is no step down."""
    x, model, generator = _data(), _model(), _generator()
    path = [_evidence(model, x)]
    for _ in range(20):
        _m_step_to_the_end(model, x, _exact_draws(model, x, 800, generator))
        path.append(_evidence(model, x))
    rises = torch.tensor(path).diff()
    # an M-step on S draws misses the exact one by δ ~ 1/√(S N), which costs ½ δ² p: 15 weights, 48,000 draws
    noise = 15 / (2 * 800 * 60)
    assert rises.min() > -4 * noise
    assert path[-1] - path[0] > 1.0
    assert (rises[:5] > 4 * noise).all()


def test_em_with_wrong_draws_decreases_it() -> None:
    """The counterpart: draws of another datum's posterior."""
    x, model, generator = _data(), _model(), _generator()
    path = []
    for _ in range(10):
        z = _exact_draws(model, x, 500, generator)
        _m_step_to_the_end(model, x, z.roll(1, 1) if len(path) > 4 else z)
        path.append(_evidence(model, x))
    assert torch.tensor(path).diff().min() < -0.1


def test_the_learners_own_em_climbs_without_a_step_down() -> None:
    """Short steps of plain gradient ascent, each with the draws of many chains."""
    x, model = _data(), _model()
    rate = 0.02
    learner = _mcem(60, optimizer=functools.partial(torch.optim.SGD, lr=rate), e_step=EStep(chains=100))
    state, generator = learner.init(_without_guide(model)), _generator()
    path, gradients = [_evidence(model, x)], []
    for _ in range(30):
        gradients.append(_gradient(model.log_evidence(x).mean(), model).square().sum().item())
        _steps(learner, state, x, 1, generator)
        path.append(_evidence(model, x))
    rises = torch.tensor(path).diff()
    assert rises.min() > 0
    # the first order of a step uphill: rate · |gradient|²
    torch.testing.assert_close(rises, rate * torch.tensor(gradients), rtol=0.35, atol=1e-3)


# --- what a step does --------------------------------------------------------------------------------------------


def _fixed_draws(monkeypatch: pytest.MonkeyPatch, learner: Mcem) -> list[int]:
    """In place of chains, draws that are known; keeps how many were asked for."""
    asked: list[int] = []

    def run(self: EStep, *given: Any, draws: int, **rest: Any) -> Draws:
        asked.append(draws)
        batch = given[2]
        z = torch.randn(draws, len(batch), LATENT, generator=_generator(3), dtype=torch.float64)
        return Draws(z, torch.full((len(batch),), 0.5, dtype=torch.float64), torch.zeros(len(batch)), 1_000)

    monkeypatch.setattr(EStep, "run", run)
    return asked


@pytest.mark.parametrize("updates", [1, 4])
def test_updates_share_the_draws_of_their_e_step(updates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, model = _data(), _model()
    by_hand = copy.deepcopy(model)
    learner = _mcem(60, draws=3, updates=updates, schedule=cosine, total_steps=2)
    _fixed_draws(monkeypatch, learner)
    state = learner.init(_without_guide(model))
    infos = []
    for _ in range(2):
        _, info = learner.step(state, Batch(x, torch.arange(60)), generator=_generator())
        infos.append(info)

    z = torch.randn(3, 60, LATENT, generator=_generator(3), dtype=torch.float64)
    optimizer = ADAM(by_hand.parameters())
    firsts = []
    for step in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * cosine(step / 2)  # all updates of a step at the rate of the step
        for update in range(updates):
            optimizer.zero_grad()
            value = by_hand.log_joint(x, z).mean()
            if update == 0:
                firsts.append(value.item())
            (-value).backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert [info.terms["log_joint"] for info in infos] == pytest.approx(firsts)  # of the weights that drew
    assert [info.lr for info in infos] == pytest.approx([0.02, 0.01])
    assert [info.decoder_gradients for info in infos] == [1_000 + updates * 3 * 60] * 2
    assert [set(info.terms) for info in infos] == [{"log_joint", "acceptance", "divergent"}] * 2
    assert state.step == 2


def test_the_average_follows_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _data()
    learner = _mcem(60, updates=3, ema=0.5)
    _fixed_draws(monkeypatch, learner)
    state = learner.init(_without_guide(_model()))
    learner.step(state, Batch(x, torch.arange(60)), generator=_generator())
    assert state.average is not None
    assert int(state.average.n_averaged) == 3


@pytest.mark.parametrize(
    ("steps_per_epoch", "growth", "expected"),
    [(4, 1.0, [2, 2, 2, 2, 3, 3, 3, 3, 4]), (4, 0.5, [2, 2, 2, 2, 2, 2, 2, 2, 3]), (2, 3.0, [2, 3, 5, 6, 8])],
)
def test_draws_grow_with_the_epochs(
    steps_per_epoch: int, growth: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = _mcem(60, draws=2, growth_per_step=growth / steps_per_epoch)
    asked = _fixed_draws(monkeypatch, learner)
    _steps(learner, learner.init(_without_guide(_model())), _data(), len(expected), _generator())
    assert asked == expected


@pytest.mark.parametrize("steps_per_epoch", [49, 98, 103, 107, 391])
def test_a_draw_more_comes_with_the_epoch_and_not_a_step_later(
    steps_per_epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 / 49 · 49 is less than 1 in floating point."""
    learner = _mcem(60, growth_per_step=1 / steps_per_epoch)
    asked = _fixed_draws(monkeypatch, learner)
    state = learner.init(_without_guide(_model()))
    for step in (steps_per_epoch - 1, steps_per_epoch):
        state.step = step
        _steps(learner, state, _data(), 1, _generator())
    assert asked == [1, 2]


def test_a_guide_beside_learns_from_the_same_draws_and_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _data()
    guide = DiagonalNormal(MLP((DIM,), (2, LATENT), hidden=()).double(), LATENT)
    alone, beside = _without_guide(_model()), Pair(_model(), guide)
    by_hand = copy.deepcopy(guide)
    for pair, learns_guide in ((alone, False), (beside, True)):
        learner = _mcem(60, optimizer=SGD, draws=3, learns_guide=learns_guide)
        _fixed_draws(monkeypatch, learner)
        _, info = learner.step(learner.init(pair), Batch(x, torch.arange(60)), generator=_generator())
    for a, b in zip(alone.model.parameters(), beside.model.parameters(), strict=True):
        assert torch.equal(a, b)
    z = torch.randn(3, 60, LATENT, generator=_generator(3), dtype=torch.float64)
    value = by_hand(x).log_prob(z).mean()
    gradient = _gradient(value, by_hand)
    moved = torch.cat([(a - b).flatten() for a, b in zip(guide.parameters(), by_hand.parameters(), strict=True)])
    torch.testing.assert_close(moved.detach(), 0.01 * gradient, rtol=1e-9, atol=1e-14)
    assert info.terms["log_q"] == pytest.approx(value.item())


def test_a_guide_learns_the_posterior() -> None:
    """Its minimum of KL(p ‖ q): with a full covariance, the exact posterior."""
    model, _, x = ppca(DIM, LATENT, seed=0, num_data=200)
    guide = model.exact_guide()
    with torch.no_grad():
        for weight in guide.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=_generator(), dtype=torch.float64))
    for weight in model.parameters():
        weight.requires_grad_(False)

    def divergence() -> float:
        with torch.no_grad():
            return torch.distributions.kl_divergence(model.posterior(x), guide(x)).mean().item()

    before = divergence()
    learner = _mcem(200, total_steps=200, schedule=cosine, e_step=EStep(chains=4), learns_guide=True)
    _steps(learner, learner.init(Pair(model, guide)), x, 200, _generator())
    assert divergence() < 0.02 * before


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "on_disk", "stop"),
    [("gauss-newton", False, 9), ("gauss-newton", True, 5), ("identity", False, 5), ("identity", True, 9)],
)
def test_a_state_written_down_and_read_goes_on_bit_for_bit(
    metric: Any, on_disk: bool, stop: int, tmp_path: Any
) -> None:
    """60 data in batches of 20: metrics are refreshed at a datum's first, fourth and seventh visit."""
    x = _data()

    def learner(name: str) -> Mcem:
        e_step = EStep(metric=metric, refresh=3, chains=2)
        return _mcem(60, e_step=e_step, updates=2, ema=0.9, scratch=tmp_path / name if on_disk else None)

    whole = learner("whole")
    state, generator = whole.init(_without_guide(_model())), _generator()
    _steps(whole, state, x, stop, generator, batch_size=20)
    written = {name: tensor.clone() for name, tensor in state.tensors().items()}
    noise = generator.get_state()
    weights = copy.deepcopy(state.learned.state_dict())
    _steps(whole, state, x, 14 - stop, generator, batch_size=20)

    parted = learner("parted")
    again = parted.init(_without_guide(_model()))
    again.learned.load_state_dict(weights)
    again.load(written)
    again.step = stop
    generator.set_state(noise)
    _steps(parted, again, x, 14 - stop, generator, batch_size=20)
    ours, theirs = again.tensors(), state.tensors()
    assert set(ours) == set(theirs)
    assert {"chains.z", "chains.factor", "chains.log_step", "chains.visits", "chains.common_log_step"} < set(ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for a, b in zip(again.learned.parameters(), state.learned.parameters(), strict=True):
        assert torch.equal(a, b)
    assert theirs["chains.visits"].max() > 3


def test_a_state_without_the_common_step_size_is_seen() -> None:
    """The counterpart: what is not written down changes what follows."""
    x, learner = _data(), _mcem(60, e_step=EStep(metric="identity"))
    state, generator = learner.init(_without_guide(_model())), _generator()
    _steps(learner, state, x, 4, generator)
    other = copy.deepcopy(state)
    assert other.common_log_step is not None
    other.common_log_step += 0.1
    noise = generator.get_state()
    _steps(learner, state, x, 2, generator)
    generator.set_state(noise)
    _steps(learner, other, x, 2, generator)
    assert not torch.equal(state.tensors()["chains.z"], other.tensors()["chains.z"])


def test_chains_started_anew_keep_nothing_but_the_step_size() -> None:
    learner = _mcem(None, e_step=EStep(start="prior"))
    state = learner.init(_without_guide(_model()))
    learner.step(state, Batch(_data()), generator=_generator())  # no positions
    assert [name for name in state.tensors() if name.startswith("chains.")] == ["chains.common_log_step"]
    assert state.common_log_step is not None
    assert state.common_log_step.isfinite()


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_a_stream_has_no_persistent_chains() -> None:
    with pytest.raises(ElbowroomError, match="stream") as caught:
        _mcem(None)
    assert "--mcem.start prior" in caught.value.remedy
    learner = _mcem(60)
    with pytest.raises(ElbowroomError, match="position in the data set"):
        learner.step(learner.init(_without_guide(_model())), Batch(_data()), generator=_generator())


@pytest.mark.parametrize("key", ["start", "metric"])
def test_a_guide_that_is_not_there_cannot_help(key: str) -> None:
    with pytest.raises(ElbowroomError, match=rf"mcem\.{key} is guide") as caught:
        _mcem(60, e_step=EStep(**{key: "guide"}))
    assert "--model.guide diagonal" in caught.value.remedy


def test_what_is_measured_is_the_evidence() -> None:
    """Importance weights, unbiased for p(x), so close to it that eight draws are enough."""
    model, x = _model(), _data()
    learner = _mcem(60)
    with torch.no_grad():
        measured = learner.measure(_without_guide(model), Batch(x.repeat(20, 1)), generator=_generator())
        assert list(measured) == [learner.name]
        error = measured["laplace-is"] - model.log_evidence(x).repeat(20)
    ratio = error.exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(len(ratio))
    assert -0.05 < error.mean() < 0.01


def _bias_under_new_bits(transitions: int) -> tuple[float, float]:
    """The M-step's gradient against Fisher's, when x is drawn anew at every visit: largest |z|, and bias over norm."""
    likelihood = Bernoulli(MLP((1,), (1, 30), hidden=()), (30,))
    model = LatentModel(StandardNormal(1), likelihood).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in likelihood.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        grey = likelihood(torch.randn(150, 1, generator=generator, dtype=torch.float64)).mean
    weights, index = list(likelihood.parameters()), torch.arange(150)
    grid = torch.linspace(-5, 5, 41, dtype=torch.float64).view(-1, 1, 1).expand(-1, 150, 1)

    def flat(value: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(value, weights)])

    still = functools.partial(torch.optim.SGD, lr=1e-12)
    learner = Mcem(
        update=Update(optimizer=still, total_steps=None),
        e_step=EStep(transitions=transitions),
        latent_dim=1,
        positions=index,
    )
    state, differences = learner.init(Pair(model, PriorGuide(model.prior))), []
    for visit in range(60):
        x = (torch.rand(grey.shape, generator=generator, dtype=torch.float64) < grey).double()
        learner.step(state, Batch(x, index), generator=generator)
        assert state.chains is not None
        if visit >= 10:
            value, _ = m_step_terms(state.pair, Batch(x, index), state.chains.read(index).z)
            exact = flat(torch.logsumexp(model.log_joint(x, grid), 0).mean())
            differences.append(flat(value.mean()) - exact)
    blocks = torch.stack(differences).view(10, 5, -1).mean(1)
    stderr = blocks.std(0) / math.sqrt(10)
    return float((blocks.mean(0) / stderr).abs().max()), float(blocks.mean(0).norm() / exact.norm())


def test_chains_that_meet_other_bits_at_every_visit_need_several_transitions() -> None:
    """The largest of 60 ratios of 10 blocks each; Student's t with 9 degrees of freedom is beyond 6 once in 10,000."""
    z_score, bias = _bias_under_new_bits(4)
    assert z_score < 6
    assert bias < 0.15
    z_score, bias = _bias_under_new_bits(1)  # why it is not the default there
    assert z_score > 10
    assert bias > 0.3
