"""Two phases that never touch each other's weights, each with the gradient that it says."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

import elbowroom.learners.wakesleep as module
from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import elbo_terms
from elbowroom.learners.update import Update
from elbowroom.learners.wakesleep import GuideDraws, WakeSleep, dream, guide_draws
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import StandardNormal

RATE = 0.01
ASCENT = Update(optimizer=functools.partial(torch.optim.SGD, lr=RATE), total_steps=10)


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scores(per_draw: Tensor, expected: Tensor) -> Tensor:
    """z-scores of the mean over repetitions, (repetitions, weights)."""
    return (per_draw.mean(0) - expected) / (per_draw.std(0) / math.sqrt(len(per_draw))).clamp(min=1e-12)


def _gradient(value: Tensor, part: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(part.parameters()))])


def wake(model: LatentModel, guide: Conditional, batch: Batch, **noise: Any) -> tuple[Tensor, Tensor]:
    """What the wake phase ascends of each datum, and the ELBO of the same draws."""
    z, log_q = guide_draws(guide, batch, **noise)
    log_joint = module.wake(model, batch, z)
    return log_joint.mean(0), (log_joint.detach() - log_q).mean(0)


def sleep(model: LatentModel, guide: Conditional, batch: Batch, **noise: Any) -> Tensor:
    """What the sleep phase ascends of each datum."""
    return module.sleep(guide, batch, dream(model, batch, **noise))


# --- whose gradient is it ----------------------------------------------------------------------------------------


def test_wake_has_no_gradient_in_the_guide_and_sleep_none_in_the_model() -> None:
    model, guide, x = ppca(5, 2, seed=0, num_data=24)
    awake, bound = wake(model, guide, Batch(x), num_samples=3, generator=_generator())
    awake.sum().backward()
    assert all(weight.grad is None for weight in guide.parameters())
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters())
    assert not bound.requires_grad
    for weight in model.parameters():
        weight.grad = None
    sleep(model, guide, Batch(x), num_samples=3, generator=_generator()).sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in guide.parameters())


def test_a_step_moves_each_by_its_own_phase_alone() -> None:
    """Wake first, then sleep, with one stream of noise; each set of weights by the gradient of its own phase."""
    model, guide, x = ppca(5, 2, seed=0, num_data=24)
    pair = Pair(model, guide)
    start = copy.deepcopy(pair)
    noise = _generator()
    awake, bound = wake(start.model, start.guide, Batch(x), num_samples=2, generator=noise)
    asleep = sleep(start.model, start.guide, Batch(x), num_samples=2, generator=noise)
    learner = WakeSleep(update=ASCENT, num_samples=2)
    state, info = learner.step(learner.init(pair), Batch(x), generator=_generator())
    for part, before, value in ((pair.model, start.model, awake), (pair.guide, start.guide, asleep)):
        moved = torch.cat([(a - b).flatten() for a, b in zip(part.parameters(), before.parameters(), strict=True)])
        torch.testing.assert_close(moved.detach(), RATE * _gradient(value.mean(), before), rtol=1e-9, atol=1e-13)
    figures = {"elbo": bound, "wake": awake, "sleep": asleep}
    assert info.terms == pytest.approx({name: value.mean().item() for name, value in figures.items()})
    assert info.decoder_gradients == 2 * 24
    assert state.step == 1


def test_a_leak_from_wake_into_the_guide_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: draws that are differentiated through, as an ELBO's are."""

    def leaking(guide: Conditional, batch: Batch, *, num_samples: int = 1, generator: Any) -> GuideDraws:
        q = guide(batch.x, batch.context)
        z = draw(q, (num_samples,), generator=generator)
        return GuideDraws(z, q.log_prob(z).detach())

    monkeypatch.setattr(module, "guide_draws", leaking)
    with pytest.raises(AssertionError):
        test_a_step_moves_each_by_its_own_phase_alone()


# --- the gradients themselves ------------------------------------------------------------------------------------


def test_wakes_expected_gradient_is_the_elbos_in_the_model() -> None:
    r"""For a linear-Gaussian model and a normal guide the ELBO has a closed form.

    .. math:: E_q \log p(x, z) = \log N(x; W \mu + b, \sigma^2) - \tfrac{1}{2\sigma^2} \sum_j s_j^2 |W_j|^2
        - \tfrac12 (|\mu|^2 + |s|^2 + D \log 2\pi)
    """
    model, guide, x = ppca(5, 2, seed=0, num_data=6)
    with torch.no_grad():
        q = guide(x)
    density = Normal(q.mean @ model.weight.T + model.bias, 0.7).log_prob(x).sum(-1)
    spread = (q.variance @ model.weight.square().sum(0)) / (2 * 0.7**2)
    prior = 0.5 * (q.mean.square() + q.variance + math.log(2 * math.pi)).sum(-1)
    exact = density - spread - prior
    expected = _gradient(exact.mean(), model)
    noise = _generator()
    values, bounds, gradients = [], [], []
    for _ in range(500):
        awake, bound = wake(model, guide, Batch(x), num_samples=8, generator=noise)
        values.append(awake.detach())
        bounds.append(bound)
        gradients.append(_gradient(awake.mean(), model))
    assert _scores(torch.stack(gradients), expected).abs().max() < 4
    assert _scores(torch.stack(values), exact.detach()).abs().max() < 4
    assert _scores(torch.stack(bounds), (exact + q.entropy()).detach()).abs().max() < 4


def test_sleeps_expected_gradient_is_the_reverse_divergences() -> None:
    r"""E log q(z | x) over the model's own data, in closed form for an affine mean :math:`A x + a` and fixed scales.

    With x | z normal, :math:`A x + a - z` is normal under the model with mean :math:`A b + a` and covariance
    :math:`(A W - I)(A W - I)^\top + \sigma^2 A A^\top`.
    """
    model, guide, x = ppca(5, 2, seed=0, num_data=8)
    network = guide.network.output
    gain, shift = network.weight[:2], network.bias[:2]
    log_variance = network.bias[2:]
    with torch.no_grad():  # scales that do not depend on x
        network.weight[2:] = 0.0
    with torch.no_grad():
        weight, bias = model.weight.clone(), model.bias.clone()
    mean = gain @ bias + shift
    left = gain @ weight - torch.eye(2).double()
    variance = left.square().sum(1) + 0.7**2 * gain.square().sum(1)
    exact = -0.5 * (math.log(2 * math.pi) + log_variance + (mean.square() + variance) / log_variance.exp()).sum()
    expected = _gradient(exact, guide)
    values, gradients = [], []
    noise = _generator()
    for _ in range(500):
        value = sleep(model, guide, Batch(x), num_samples=8, generator=noise)
        values.append(value.detach())
        gradients.append(_gradient(value.mean(), guide))
    # the scales' slopes in x have a gradient too, which this closed form leaves out
    compared = torch.ones_like(network.weight, dtype=torch.bool)
    compared[2:] = False
    chosen = torch.cat([compared.flatten(), torch.ones(4, dtype=torch.bool)])
    assert _scores(torch.stack(gradients), expected)[chosen].abs().max() < 4
    assert _scores(torch.stack(values), exact.detach()).abs().max() < 4


def test_the_exact_guide_has_nothing_to_learn_asleep() -> None:
    model, _, x = ppca(5, 2, seed=0, num_data=50)
    guide = model.exact_guide()
    noise = _generator()
    gradients = [
        _gradient(sleep(model, guide, Batch(x), num_samples=4, generator=noise).mean(), guide) for _ in range(200)
    ]
    assert _scores(torch.stack(gradients), torch.zeros_like(gradients[0])).abs().max() < 4
    with torch.no_grad():
        guide.network.output.bias[0] += 0.1
    gradients = [
        _gradient(sleep(model, guide, Batch(x), num_samples=4, generator=noise).mean(), guide) for _ in range(200)
    ]
    assert _scores(torch.stack(gradients), torch.zeros_like(gradients[0])).abs().max() > 8


# --- dreams ------------------------------------------------------------------------------------------------------


class _Witness(Conditional):
    """A guide that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Any:
        assert given is not None
        self.given, self.context = given, context
        loc = self.loc if context is None else self.loc + context[:, :1]
        return Independent(Normal(loc.expand(len(given), 2), 1.0), 1)


def test_data_are_not_looked_at_asleep() -> None:
    model, guide, x = ppca(5, 2, seed=0, num_data=24)
    asleep = [sleep(model, guide, Batch(given), generator=_generator()) for given in (x, x * math.nan)]
    assert torch.equal(*asleep)


def test_every_dream_has_the_context_of_its_datum() -> None:
    torch.manual_seed(0)
    network = MLP((2,), (1, 3), hidden=(), context_dim=1)
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.weight[:, -1] = 1.0
        network.output.bias.zero_()
    model = LatentModel(StandardNormal(2), Gaussian(network, (3,), scale=1e-3))
    context = torch.tensor([[-100.0], [0.0], [50.0], [200.0]])
    witness = _Witness()
    values = sleep(model, witness, Batch(torch.zeros(4, 3), context=context), num_samples=3, generator=_generator())
    assert witness.given.shape == (12, 3)
    assert witness.context is not None
    torch.testing.assert_close(witness.given, witness.context.expand(12, 3), atol=0.1, rtol=0.0)
    # a dream of z near 0 scored by a normal at its datum's context: −½ · 2 c², to a few per cent
    torch.testing.assert_close(values[[0, 2, 3]], -context[[0, 2, 3], 0].square(), rtol=0.1, atol=5.0)
    assert values[1] > -20


def test_what_is_measured_is_the_elbo() -> None:
    model, guide, x = ppca(5, 2, seed=0, num_data=24)
    learner = WakeSleep(update=ASCENT, num_samples=3)
    measured = learner.measure(Pair(model, guide), Batch(x), generator=_generator())
    assert isinstance(guide, DiagonalNormal)
    terms = elbo_terms(model, guide, Batch(x), num_samples=3, generator=_generator())
    torch.testing.assert_close(measured[learner.name], terms.value)
    torch.testing.assert_close(measured["kl"], kl_divergence(guide(x), model.prior(None)))


def test_it_does_not_ascend_the_elbo_in_the_guide() -> None:
    """The divergence it lowers is the other one: from a guide that is too wide the two gradients differ."""
    model, guide, x = ppca(5, 2, seed=0, num_data=400)
    assert isinstance(model, LinearGaussian)
    asleep = _gradient(sleep(model, guide, Batch(x.repeat(20, 1)), generator=_generator()).mean(), guide)
    bound = elbo_terms(model, guide, Batch(x.repeat(20, 1)), generator=_generator()).value
    forward = _gradient(bound.mean(), guide)
    assert (asleep - forward).norm() > 0.2 * forward.norm()


def test_asleep_the_guide_sees_no_more_of_a_dream_than_of_the_data() -> None:
    """Where the batch hides an element, its dream shows the filler, as the guide will meet it when awake."""
    model, guide, x = ppca(5, 2, seed=0, num_data=40)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    filled = torch.where(mask, x, -7.0)
    shown: list[Tensor] = []
    guide.register_forward_pre_hook(lambda module, given: shown.append(given[0]))
    sleep(model, guide, Batch(filled, mask=mask), num_samples=3, generator=torch.Generator().manual_seed(1))
    dreamt = model.sample(120, generator=torch.Generator().manual_seed(1)).x
    (seen,) = shown
    assert bool((seen[~mask.repeat(3, 1)] == -7.0).all())
    assert torch.equal(seen[mask.repeat(3, 1)], dreamt[mask.repeat(3, 1)])
