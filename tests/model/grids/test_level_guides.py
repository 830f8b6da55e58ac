"""Guides over levels of codes: distributions, in which a level reads x and the levels above it."""

from __future__ import annotations

import pytest
import torch

import level_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import Codes
from elbowroom.model.grids.level_guides import LevelNearestCodeGuide
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import mean_and_stderr

kinds = pytest.mark.parametrize("kind", cases.GUIDES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@kinds
def test_probabilities_sum_to_one_and_agree_with_draws(kind: str) -> None:
    """E log q(z) of draws is minus the entropy by enumeration."""
    case = cases.case(kind)
    q, z = case.guide(case.x), cases.everything()
    log_q = q.log_prob(z[:, None].expand(-1, len(case.x), -1)).detach()
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(3).double())
    assert log_q.std() > 0.5
    drawn = q.log_prob(q.sample((4000,), seeded(1))).detach()
    for row in range(len(case.x)):
        mean, stderr = mean_and_stderr(drawn[:, row])
        assert abs(mean - float((log_q.exp() * log_q)[:, row].sum())) < 4 * stderr


@kinds
def test_a_level_depends_on_x_and_on_all_above_it_and_nothing_below(kind: str) -> None:
    case = cases.case(kind)
    q = case.guide(case.x)
    z = q.sample((), seeded())
    one, other = z.clone(), z.clone()
    other[:, :3] = other[:, :3].roll(1, -1)  # another code on top
    below = [q.conditionals(each)[1].logits for each in (one, other)]
    assert ((below[0] - below[1]).abs().amax(-1) > 1e-4).all()  # of each of the slots below
    assert ((case.guide(1 - case.x).conditionals(z)[1].logits - below[0]).abs().amax((1, 2)) > 1e-4).all()
    torch.testing.assert_close(q.rows(torch.tensor([2, 0])).log_prob(z[[2, 0]]), q.log_prob(z)[[2, 0]])


@kinds
def test_without_what_is_read_of_the_top_the_guide_is_a_flat_one_with_the_same_numbers(kind: str) -> None:
    case = cases.case(kind)
    with torch.no_grad():
        case.guide.recognition.chosen[0].weight.zero_()
    q, z = case.guide(case.x), cases.everything()[:, None].expand(-1, 3, -1)
    flat = Codes(torch.cat([level.logits for level in q.conditionals(z[0])], -2))
    torch.testing.assert_close(q.log_prob(z), flat.log_prob(z))
    assert torch.equal(q.mode, flat.mode)


def test_the_nearest_codes_are_the_mode_at_every_temperature() -> None:
    case = cases.case("nearest-code")
    guide = case.guide
    assert isinstance(guide, LevelNearestCodeGuide)
    nearest = guide.nearest(case.x)
    for log_temperature in (-3.0, 0.0, 2.0):
        guide.log_temperature.data.fill_(log_temperature)
        assert torch.equal(guide(case.x).mode, nearest)
    guide.log_temperature.data.fill_(-12.0)  # towards the deterministic guide: all probability in one code
    torch.testing.assert_close(guide(case.x).log_prob(nearest), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_vectors_below_are_given_the_codes_above() -> None:
    case = cases.case("nearest-code")
    guide, z = case.guide, cases.everything()[[5, 77, 200]]
    found = guide.quantized(case.x, z=z)
    own = guide.quantized(case.x)
    torch.testing.assert_close(found.vectors[0], own.vectors[0])
    assert not torch.allclose(found.vectors[1], own.vectors[1])
    assert torch.equal(found.z, z)
    torch.testing.assert_close(torch.cat(found.chosen, 1).flatten(1), guide.codebook.embed(z))
    distances = guide.codebook.parts[1].squared_distances(found.vectors[1])
    expected = (-distances / guide.log_temperature[1].exp()).softmax(-1)
    torch.testing.assert_close(guide(case.x).conditionals(z)[1].probs, expected)


def test_a_gradient_goes_from_the_bottom_past_the_choice_on_top() -> None:
    """Straight through: what is below reads the top's vector as if it were the encoder's."""
    case = cases.case("nearest-code")
    guide = case.guide
    found = guide.quantized(case.x, through=lambda e, c: e + (c - e).detach())
    torch.testing.assert_close(found.read[0], found.chosen[0])
    (gradient,) = torch.autograd.grad(found.vectors[1].square().sum(), guide.recognition.outputs[0].weight)
    assert gradient.abs().max() > 1e-6
    plain = guide.quantized(case.x)
    (none,) = torch.autograd.grad(
        plain.vectors[1].square().sum(), guide.recognition.outputs[0].weight, allow_unused=True
    )
    assert none is None


@kinds
def test_the_context_is_read_at_every_level(kind: str) -> None:
    pair = cases.make_pair(kind, context_dim=2)
    x, context = torch.ones(2, *cases.SHAPE).double(), torch.eye(2).double()
    q = pair.guide(x, context)
    assert isinstance(q, TopDownCodes)
    z = q.mode[:1].expand(2, -1)
    for level in q.conditionals(z):
        assert (level.logits[0] - level.logits[1]).abs().max() > 1e-4
    with pytest.raises(ElbowroomError, match="context of length 2"):
        pair.guide(x)
