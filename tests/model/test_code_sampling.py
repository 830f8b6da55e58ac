"""Draws by a rule: the law that guidance, temperature and nucleus define, and what words tell a prior."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.autoregressive import AutoregressivePrior, CausalTransformer, Made
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.model.draws import draw
from elbowroom.model.grids.priors import MaskedConvolutions

SPACE, WORDS = CodeSpace(4, 3), (2, 3)
PRIORS: dict[str, Any] = {
    "transformer, words": lambda: CausalTransformer(SPACE, width=12, context_dim=5, words=WORDS),
    "made": lambda: Made(SPACE, width=24, context_dim=5),
    "pixelcnn": lambda: MaskedConvolutions(SPACE, grid=CodeGrid(2, 2), width=8, layers=2, context_dim=5),
}
RULES = {
    "guidance": SamplingRule(guidance=2.5),
    "no guidance at all": SamplingRule(guidance=0.0),
    "temperature": SamplingRule(temperature=0.6),
    "nucleus": SamplingRule(top_p=0.7),
    "all": SamplingRule(1.5, 0.8, 0.9),
}


def build(kind: str) -> AutoregressivePrior:
    torch.manual_seed(0)
    prior: AutoregressivePrior = PRIORS[kind]().double()
    with torch.no_grad():
        for weight in prior.parameters():
            weight.normal_(std=0.6)
    return prior


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_codes() -> Tensor:
    return SPACE.one_hot(torch.tensor(list(itertools.product(range(3), repeat=4))), torch.float64)


def said(first: int | None, second: int | None) -> Tensor:
    """A context of two words, of which each may be left out, shape (1, 5)."""
    context = torch.zeros(1, 5, dtype=torch.float64)
    for word, start in ((first, 0), (second, 2)):
        if word is not None:
            context[0, start + word] = 1
    return context


@torch.no_grad()
def law(prior: AutoregressivePrior, rule: SamplingRule, context: Tensor) -> Tensor:
    """The probability of every code by the rule, slot by slot, written out from the conditionals: shape (81,)."""
    z = all_codes()
    given = prior(None, context.expand(len(z), -1)).conditionals(z)
    nothing = prior(None, torch.zeros(len(z), 5).double()).conditionals(z)
    p = ((1 - rule.guidance) * nothing + rule.guidance * given).div(rule.temperature).softmax(-1)
    kept = torch.zeros_like(p)
    for row, slot in itertools.product(range(len(z)), range(4)):
        total = 0.0
        for code in p[row, slot].argsort(descending=True).tolist():
            if total < rule.top_p:
                kept[row, slot, code] = p[row, slot, code]
                total += float(p[row, slot, code])
    kept = kept / kept.sum(-1, keepdim=True)
    return (SPACE.split(z) * kept).sum(-1).prod(-1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", PRIORS)
def test_draws_follow_the_law_of_the_rule(kind: str, rule: str) -> None:
    prior, context, number = build(kind), said(1, 2), 4000
    expected = law(prior, RULES[rule], context)
    assert abs(float(expected.sum()) - 1) < 1e-9
    with torch.no_grad(), prior.drawing_by(RULES[rule]):
        z = draw(prior(None, context.expand(number, -1)), (), generator=seeded(2))
    places = (SPACE.numbers(z) * torch.tensor([27, 9, 3, 1])).sum(-1)
    counts = torch.bincount(places, minlength=81).double()
    assert (counts[expected == 0] == 0).all()  # outside the nucleus
    scores = (counts - number * expected) / (number * expected * (1 - expected)).clamp(min=1e-12).sqrt()
    assert (scores[number * expected > 5].abs() < 4.5).all()


def test_a_rule_that_changes_nothing_gives_the_models_own_draws_and_ends_with_its_context() -> None:
    prior, context = build("transformer, words"), said(0, 1).expand(50, -1)

    def drawn(rule: SamplingRule) -> Tensor:
        with prior.drawing_by(rule):
            return draw(prior(None, context), (), generator=seeded(1))

    own = draw(prior(None, context), (), generator=seeded(1))
    assert torch.equal(drawn(SamplingRule()), own)
    assert torch.equal(drawn(SamplingRule(temperature=1 + 1e-12)), own)
    assert not torch.equal(drawn(SamplingRule(temperature=0.3)), own)
    assert torch.equal(draw(prior(None, context), (), generator=seeded(1)), own)
    log_p = prior(None, context).log_prob(own)
    with prior.drawing_by(SamplingRule(3.0, 0.5, 0.5)):
        assert torch.equal(prior(None, context).log_prob(own), log_p)  # densities are the model's


def test_known_codes_stay_where_the_nucleus_leaves_them_out() -> None:
    prior, context = build("made"), said(1, 0)
    z = all_codes()[::7]
    with prior.drawing_by(SamplingRule(top_p=0.05)):
        drawn = prior(None, context.expand(len(z), -1)).sample_after(z, 3, generator=seeded())
    assert torch.equal(SPACE.numbers(drawn)[:, :3], SPACE.numbers(z)[:, :3])


@pytest.mark.parametrize("slot", [0, 3])
@pytest.mark.parametrize("word", [0, 1])
def test_every_word_reaches_every_slot_and_none_is_read_for_another(word: int, slot: int) -> None:
    prior, z = build("transformer, words"), all_codes()[:1]
    others = [said(0, 1), said(1, 1) if word == 0 else said(0, 2), said(None, 1) if word == 0 else said(0, None)]
    found = torch.stack([prior(None, context).conditionals(z)[0, slot] for context in others])
    assert torch.pdist(found).min() > 1e-3  # one word, the other, and none are three things


@torch.no_grad()
def test_captions_of_codes_are_found_by_bayes() -> None:
    """p(c | z) = p(z | c) p(c) / p(z), for a prior of captions and of all that leave words out."""
    prior, z = build("transformer, words"), all_codes()
    captions = torch.cat([said(a, b) for a in range(2) for b in range(3)])
    of_captions = torch.tensor([0.1, 0.2, 0.05, 0.3, 0.25, 0.1], dtype=torch.float64)
    given = torch.stack([prior(None, one.expand(len(z), -1)).log_prob(z) for one in captions]).exp()
    joint = of_captions[:, None] * given
    assert abs(float(joint.sum()) - 1) < 1e-9  # over all captions and codes
    posterior = joint / joint.sum(0)
    spread = (posterior - of_captions[:, None]).abs().amax()
    assert spread > 0.1  # codes tell captions apart
    mean_posterior = (posterior * joint.sum(0)).sum(1)
    torch.testing.assert_close(mean_posterior, of_captions)


def test_a_prior_that_learns_with_words_left_out_sums_over_them() -> None:
    """Trained on an exact table p(c, z), p(z | nothing) is Σ p(c) p(z | c), and p(z | one word) the part of it."""
    torch.manual_seed(1)
    space = CodeSpace(2, 2)
    table = torch.rand(2, 2, 4).pow(3)  # first word, second word, z
    table = table / table.sum()
    prior = CausalTransformer(space, width=16, heads=2, layers=1, context_dim=4, words=(2, 2))
    z = space.one_hot(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]))
    words = torch.eye(2)
    rows, weights = [], []
    for a, b, drop in itertools.product(range(2), range(2), itertools.product((0, 1), repeat=2)):
        context = torch.cat([words[a] * (1 - drop[0]), words[b] * (1 - drop[1])])
        rows.append(context.expand(4, -1))
        weights.append(table[a, b] / 4)  # each word is left out half of the time
    context, weight = torch.cat(rows), torch.cat(weights)
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = -(weight * prior(None, context).log_prob(z.repeat(len(rows), 1))).sum()
        loss.backward()
        optimizer.step()

    def found(*said: Tensor) -> Tensor:
        return prior(None, torch.cat(said).expand(4, -1)).log_prob(z).exp().detach()

    none = torch.zeros(2)
    torch.testing.assert_close(found(none, none), table.sum((0, 1)), rtol=0, atol=0.04)
    for at in range(2):
        of_first, of_second = table[at].sum(0), table[:, at].sum(0)
        torch.testing.assert_close(found(words[at], none), of_first / of_first.sum(), rtol=0, atol=0.04)
        torch.testing.assert_close(found(none, words[at]), of_second / of_second.sum(), rtol=0, atol=0.04)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SamplingRule(guidance=-1.0), "--guidance is -1"),
        (lambda: SamplingRule(temperature=0.0), "--temperature is 0"),
        (lambda: SamplingRule(top_p=0.0), "--top-p is 0"),
        (lambda: SamplingRule(top_p=1.5), "--top-p is 1.5"),
        (lambda: CausalTransformer(SPACE, context_dim=4, words=(2, 3)), r"2 \+ 3 numbers .* context of 4"),
        (lambda: Made(SPACE, width=24).drawing_by(SamplingRule(guidance=2.0)).__enter__(), "not conditional"),
    ],
)
def test_refusals(wrong: Any, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        wrong()
