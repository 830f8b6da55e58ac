"""Objectives of vector quantisation: whose gradient goes where, by enumeration; and the choice of a temperature."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.inference.objectives import elbo
from elbowroom.learners.vq_objectives import (
    QUANTIZER_GRADIENTS,
    choose_temperature,
    joint_terms,
    prior_terms,
    reconstruction_terms,
    rotated,
    straight_through,
)
from elbowroom.model.code_distributions import Codes
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import Pair
from vq_cases import (
    SPACE,
    everything,
    gradients,
    guide_of,
    make_batch,
    make_pair,
    parts_with_gradient,
    seeded,
)

# --- the gradient past the choice --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTIZER_GRADIENTS)
def test_the_value_is_the_chosen_vector(name: str) -> None:
    e, c = torch.randn(2, 20, 3, 5, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(QUANTIZER_GRADIENTS[name](e, c), c, rtol=1e-9)


def test_straight_through_hands_the_gradient_on() -> None:
    e, c, g = torch.randn(3, 20, 5, generator=seeded(), dtype=torch.float64)
    e.requires_grad_()
    (gradient,) = torch.autograd.grad(straight_through(e, c), e, g)
    assert torch.equal(gradient, g)


def test_a_rotation_keeps_the_angle_between_gradient_and_vector() -> None:
    """∠(gradient, e) = ∠(g, c), with the length |g| |c| / |e|; and what is orthogonal to both is only stretched."""
    e, c, g = torch.randn(3, 20, 5, generator=seeded(), dtype=torch.float64)
    e.requires_grad_()
    (gradient,) = torch.autograd.grad(rotated(e, c), e, g)
    stretch = (c.norm(dim=-1) / e.norm(dim=-1)).detach()
    assert torch.allclose(gradient.norm(dim=-1), stretch * g.norm(dim=-1))
    similar = functools.partial(torch.cosine_similarity, dim=-1)
    assert torch.allclose(similar(gradient, e), similar(g, c))
    plane = torch.linalg.qr(torch.stack([e.detach(), c], -1)).Q
    outside = g - (plane @ (plane.mT @ g.unsqueeze(-1))).squeeze(-1)
    (turned,) = torch.autograd.grad(rotated(e, c), e, outside)
    assert torch.allclose(turned, stretch.unsqueeze(-1) * outside)


@pytest.mark.parametrize("name", QUANTIZER_GRADIENTS)
@pytest.mark.parametrize("case", ["opposite", "zero", "equal"])
def test_the_gradient_is_finite_where_no_rotation_is_defined(name: str, case: str) -> None:
    c = torch.tensor([[1.0, 2.0]])
    e = {"opposite": -c, "zero": torch.zeros_like(c), "equal": c.clone()}[case].requires_grad_()
    (gradient,) = torch.autograd.grad(QUANTIZER_GRADIENTS[name](e, c).sum(), e)
    assert bool(gradient.isfinite().all())


# --- the first stage ---------------------------------------------------------------------------------------------


def _first_stage(pair: Pair, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    batch = make_batch()
    z = guide_of(pair).nearest(batch.x)
    return reconstruction_terms(pair, batch, z, **({"commitment": 0.25} | settings))


@pytest.mark.parametrize("gradient", QUANTIZER_GRADIENTS)
@pytest.mark.parametrize(
    ("codebook_loss", "moved"),
    [(False, {"encoder", "decoder"}), (True, {"encoder", "decoder", "codebook"})],
    ids=["averages", "gradient"],
)
def test_which_parts_the_first_stage_trains(gradient: str, codebook_loss: bool, moved: set[str]) -> None:
    pair = make_pair()
    value, _ = _first_stage(pair, codebook_loss=codebook_loss, gradient=gradient)
    assert parts_with_gradient(pair, value.sum()) == moved


def test_its_terms_are_those_of_the_guide_that_takes_the_nearest_codes() -> None:
    pair, batch = make_pair(), make_batch()
    guide = guide_of(pair)
    z = guide.nearest(batch.x)
    value, parts = _first_stage(pair)
    assert torch.allclose(parts["elbo"], pair.model.log_joint(batch.x, z))
    assert torch.allclose(parts["kl"], -pair.model.log_prior(z))
    drift = (guide.vectors(batch.x).flatten(1) - guide.codebook.embed(z)).square().sum(-1)
    assert torch.allclose(value, parts["reconstruction"] - 0.25 * drift)
    with torch.no_grad():  # with no temperature left, this is the ELBO of draws
        guide.log_temperature.fill_(-30.0)
        drawn = elbo(pair.model, guide, batch, kl="auto", generator=seeded())
    assert torch.allclose(drawn, parts["elbo"])


def _moves(pair: Pair, commitment: float, codebook_loss: bool) -> tuple[Tensor, Tensor]:
    """Gradients of minus the two squared distances alone, in the encoder's output bias and in the codebook."""
    differences = []
    for weight, loss in ((commitment, codebook_loss), (0.0, False)):
        value, _ = _first_stage(pair, commitment=weight, codebook_loss=loss)
        differences.append(gradients(pair, value.sum()))
    name = next(key for key in differences[0] if key.endswith("codebook.vectors"))
    bias = "guide.network.output.bias"
    return tuple(differences[0][key] - differences[1][key] for key in (bias, name))  # type: ignore[return-value]


def _expected_moves(pair: Pair) -> tuple[Tensor, Tensor]:
    """2 Σ (c − e) in the bias, and 2 Σ (e − c) in the vector of every code, by a loop."""
    guide, batch = guide_of(pair), make_batch()
    with torch.no_grad():
        e, z = guide.vectors(batch.x), guide.nearest(batch.x)
        c = guide.codebook.embed(z).view_as(e)
        numbers = SPACE.numbers(z)
        pull = torch.zeros_like(guide.codebook.vectors)
        for row in range(len(batch)):
            for slot in range(SPACE.slots):
                pull[slot, numbers[row, slot]] += 2 * (e - c)[row, slot]
    return 2 * (c - e).sum(0).flatten(), pull


def test_commitment_moves_the_encoder_and_the_codebooks_loss_the_codebook() -> None:
    pair = make_pair()
    encoder, codebook = _expected_moves(pair)
    found = _moves(pair, 0.25, codebook_loss=False)
    assert torch.allclose(found[0], 0.25 * encoder)
    assert torch.equal(found[1], torch.zeros_like(codebook))
    found = _moves(pair, 0.0, codebook_loss=True)
    assert torch.equal(found[0], torch.zeros_like(encoder))
    assert torch.allclose(found[1], codebook)


def test_beta_on_the_wrong_term_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: β weighs the codebook's loss, as it did in taming-transformers."""
    right = reconstruction_terms

    def wrong(pair: Pair, batch: Batch, z: Tensor, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value, parts = right(pair, batch, z, **(settings | {"commitment": 0.0, "codebook_loss": False}))
        guide = guide_of(pair)
        e = guide.vectors(batch.x)
        c = guide.codebook.embed(z).view_as(e)
        drift = settings["commitment"] * (e.detach() - c).square().sum((-1, -2))
        return value - drift - (e - c.detach()).square().sum((-1, -2)), parts

    monkeypatch.setitem(globals(), "reconstruction_terms", wrong)
    with pytest.raises(AssertionError):
        test_commitment_moves_the_encoder_and_the_codebooks_loss_the_codebook()


# --- the second stage --------------------------------------------------------------------------------------------


def test_the_second_stage_trains_the_prior_alone() -> None:
    pair = make_pair()
    value, parts = prior_terms(pair, make_batch(), num_samples=3, generator=seeded())
    assert parts_with_gradient(pair, value.sum()) == {"prior"}
    assert torch.allclose(parts["elbo"], parts["reconstruction"] - parts["kl"])


def test_its_elbo_is_that_of_the_enumeration() -> None:
    pair, batch = make_pair(), make_batch()
    with torch.no_grad():
        log_q, log_joint = _log_densities(pair, batch)
        exact = (log_q.exp() * (log_joint - log_q)).sum(0)
        drawn = torch.stack([prior_terms(pair, batch, num_samples=100, generator=seeded(s))[1]["elbo"]
                             for s in range(20)])  # fmt: skip
    assert _scores(drawn, exact).abs().max() < 4


def _log_densities(pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
    z = everything()[:, None].expand(-1, len(batch), -1)
    return pair.guide(batch.x).log_prob(z), pair.model.log_joint(batch.x, z)


def _scores(values: Tensor, expected: Tensor) -> Tensor:
    return (values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values))).clamp(min=1e-12)


def _slopes(usage: Tensor) -> Tensor:
    """Gradients of the second stage in a unigram prior that has this usage, for 200 seeds."""
    pair, batch = make_pair(), make_batch()
    guide_of(pair).log_temperature.data.fill_(0.5)
    assert isinstance(pair.model.prior, UnigramCodes)
    pair.model.prior.logits.data.copy_(usage.log())
    slopes = []
    for seed in range(200):
        value, _ = prior_terms(pair, batch, num_samples=4, generator=seeded(seed))
        slopes.append(gradients(pair, value.mean())["model.prior.logits"].flatten())
    return torch.stack(slopes)


def _usages() -> tuple[Tensor, Tensor]:
    """Of draws, which is the aggregate posterior, and of the nearest codes; both in a temperature of e^½."""
    pair, batch = make_pair(), make_batch()
    guide_of(pair).log_temperature.data.fill_(0.5)
    with torch.no_grad():
        q = pair.guide(batch.x)
        assert isinstance(q, Codes)
        return q.probs.mean(0), SPACE.split(q.mode).mean(0).clamp(min=1e-3)


def test_the_prior_is_fitted_to_draws() -> None:
    """A unigram prior has its maximum at the aggregate posterior, where the expected gradient is zero."""
    draws, _ = _usages()
    assert _scores(_slopes(draws), torch.zeros(SPACE.dim, dtype=torch.float64)).abs().max() < 4


def test_a_prior_that_is_fitted_to_the_nearest_codes_is_seen() -> None:
    """Planted: the maximum for arg max codes, as DALL·E's prior has it; for draws there is a slope."""
    _, nearest = _usages()
    assert _scores(_slopes(nearest), torch.zeros(SPACE.dim, dtype=torch.float64)).abs().max() > 20


# --- the third stage ---------------------------------------------------------------------------------------------


def test_the_third_stage_trains_everything_with_the_gradient_of_the_elbo() -> None:
    """The score function's expected gradient, in every weight, is that of the enumerated ELBO."""
    pair, batch = make_pair(), make_batch(6)
    settings: dict[str, Any] = {"estimator": "score-function", "temperature": 1.0, "num_samples": 20}
    value, _ = joint_terms(pair, batch, generator=seeded(), **settings)
    assert parts_with_gradient(pair, value.sum()) == {"encoder", "temperature", "codebook", "decoder", "prior"}
    log_q, log_joint = _log_densities(pair, batch)
    exact = gradients(pair, (log_q.exp() * (log_joint - log_q)).sum(0).mean())
    found: dict[str, list[Tensor]] = {name: [] for name in exact}
    for seed in range(150):
        value, _ = joint_terms(pair, batch, generator=seeded(seed), **settings)
        for name, gradient in gradients(pair, value.mean()).items():
            found[name].append(gradient)
    for name, several in found.items():
        assert _scores(torch.stack(several).flatten(1), exact[name].flatten()).abs().max() < 4.5, name  # of some 130


# --- the temperature ---------------------------------------------------------------------------------------------


def test_the_best_temperature_of_the_ladder_is_chosen_and_nothing_is_changed() -> None:
    pair, batch = make_pair(), make_batch(200)
    guide = guide_of(pair)
    nn.init.normal_(guide.network.output.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    before = copy.deepcopy(pair.state_dict())
    unit = torch.full((SPACE.slots, 1), 0.3, dtype=torch.float64)
    chosen, value = choose_temperature(pair, batch, unit, generator=seeded())
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.state_dict().items())
    exact = {}
    with torch.no_grad():
        for factor in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
            guide.log_temperature.copy_((factor * unit).log())
            log_q, log_joint = _log_densities(pair, batch)
            exact[factor] = (log_q.exp() * (log_joint - log_q)).sum(0).mean().item()
    best = max(exact, key=exact.__getitem__)
    assert torch.allclose(chosen, (best * unit).log())
    assert value == pytest.approx(exact[best], abs=0.1)
    assert sorted(exact.values())[-2] < exact[best] - 0.01  # it was no tie


def test_a_guide_without_any_spread_has_a_temperature_still() -> None:
    nothing = torch.zeros(SPACE.slots, 1, dtype=torch.float64)
    chosen, _ = choose_temperature(make_pair(), make_batch(), nothing, generator=seeded())
    assert bool(chosen.isfinite().all())
