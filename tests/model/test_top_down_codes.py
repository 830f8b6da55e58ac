"""Codes from the top down: a distribution, drawn from exactly; where no level depends on others it is a flat one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.draws import detach, draw
from elbowroom.model.noise import PerRow
from elbowroom.model.top_down_codes import TopDownCodes, by_level, levels_of
from exact_codes import all_codes

LEVELS = (CodeSpace(1, 3), CodeSpace(2, 3), CodeSpace(1, 3))
SPACE = CodeSpace(4, 3)
ROWS = 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(rows: int = ROWS, *, depends: float = 1.0) -> tuple[TopDownCodes, Tensor]:
    """Three levels, each bilinear in those above, and the part of the logits that depends on nothing, (rows, L, K)."""
    own = 1.5 * torch.randn(ROWS, *SPACE, dtype=torch.float64, generator=seeded())[:rows]
    step = depends * torch.randn(SPACE.dim, SPACE.dim, dtype=torch.float64, generator=seeded(1))

    def distribution(own: Tensor) -> TopDownCodes:
        def logits(level: int, above: Tensor) -> Tensor:
            start = sum(each.slots for each in LEVELS[:level])
            slots = slice(start, start + LEVELS[level].slots)
            rows = step[: above.shape[-1], slots.start * 3 : slots.stop * 3]
            return own[:, slots] + (above @ rows).reshape(*above.shape[:-1], *LEVELS[level])

        return TopDownCodes(LEVELS, logits, (len(own),), like=own, rows=lambda index: distribution(own[index]))

    return distribution(own), own


def by_hand(q: TopDownCodes) -> Tensor:
    """log q of every z, one factor at a time, shape (K^L, rows)."""
    z = all_codes(SPACE)[:, None].expand(-1, ROWS, -1)
    total = torch.zeros(z.shape[:-1], dtype=torch.float64)
    for level, start in enumerate((0, 3, 9)):
        chosen = z[..., start : start + LEVELS[level].dim]
        logits = q._logits(level, z[..., :start])
        total += (chosen * logits.log_softmax(-1).expand(*z.shape[:-1], *LEVELS[level]).flatten(-2)).sum(-1)
    return total


def test_probabilities_are_the_products_of_the_levels_and_sum_to_one() -> None:
    q, _ = make()
    z = all_codes(SPACE)
    log_q = q.log_prob(z[:, None].expand(-1, ROWS, -1))
    torch.testing.assert_close(log_q, by_hand(q))
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(ROWS).double())
    torch.testing.assert_close(q.log_prob(z[:, None]), log_q)  # one code for all rows
    assert q.space == SPACE and q.batch_shape == (ROWS,) and q.event_shape == (12,) and levels_of(q) == LEVELS


def test_draws_follow_the_probabilities() -> None:
    q, number = make()[0], 20_000
    z = draw(q, (number,), generator=seeded(3))
    assert torch.equal(z, q.sample((number,), seeded(3))) and not z.requires_grad
    place = (SPACE.numbers(z) * torch.tensor([27, 9, 3, 1])).sum(-1)
    for row, expected in enumerate(number * by_hand(q).exp().T):
        counts, usual = torch.bincount(place[:, row], minlength=81).double(), expected > 10
        cells = [torch.cat([values[usual], values[~usual].sum(0, keepdim=True)]) for values in (counts, expected)]
        chi_square, freedom = ((cells[0] - cells[1]).square() / cells[1]).sum(), int(usual.sum())
        assert freedom > 10
        assert abs((chi_square - freedom) / math.sqrt(2 * freedom)) < 4


def test_the_mode_is_greedy_from_the_top_down_and_probabilities_are_given_it() -> None:
    q, own = make()
    probs, mode = SPACE.split(q.probs.flatten(-2)), q.mode
    assert torch.equal(SPACE.numbers(mode), probs.argmax(-1))
    torch.testing.assert_close(probs[:, :1], own[:, :1].softmax(-1))
    torch.testing.assert_close(probs[:, 3:], q._logits(2, mode[:, :9]).softmax(-1))


def test_the_mean_entropy_given_draws_is_the_entropy() -> None:
    q = make()[0]
    log_q = by_hand(q)
    found = q.entropy_given(all_codes(SPACE)[:, None].expand(-1, ROWS, -1))
    torch.testing.assert_close((log_q.exp() * found).sum(0), -(log_q.exp() * log_q).sum(0))


def test_levels_that_do_not_depend_on_each_other_are_one_level() -> None:
    q, own = make(depends=0.0)
    flat, z = Codes(own), all_codes(SPACE)[:, None].expand(-1, ROWS, -1)
    torch.testing.assert_close(q.log_prob(z), flat.log_prob(z))
    torch.testing.assert_close(q.probs, flat.probs)
    torch.testing.assert_close(q.entropy_given(z[0]), flat.entropy())
    assert torch.equal(q.mode, flat.mode)
    torch.testing.assert_close(q.tempered(3.0).probs, flat.tempered(3.0).probs)


def test_a_temperature_is_one_of_every_slot_given_those_above() -> None:
    q, z = make()[0], all_codes(SPACE)[:, None].expand(-1, ROWS, -1)
    hot = q.tempered(2.5)
    for cool, warm in zip(q.conditionals(z), hot.conditionals(z), strict=True):
        torch.testing.assert_close(warm.logits, (cool.logits / 2.5).log_softmax(-1))
    torch.testing.assert_close(hot.rows(slice(1, 2)).log_prob(z[:, 1:]), hot.log_prob(z)[:, 1:])


def test_rows_are_those_of_the_examples_and_draw_on_their_own() -> None:
    q, z = make()[0], all_codes(SPACE)[:, None].expand(-1, ROWS, -1)
    torch.testing.assert_close(q.rows(torch.tensor([1])).log_prob(z[:, :1]), q.log_prob(z)[:, 1:])
    one, both = (make(rows)[0].sample((5,), PerRow([seeded(row) for row in range(rows)])) for rows in (1, 2))
    assert torch.equal(one[:, 0], both[:, 0])


def test_detached_logits_have_no_gradient() -> None:
    weight = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)
    levels = (CodeSpace(1, 3), CodeSpace(1, 3))
    q = TopDownCodes(levels, lambda level, above: (above @ weight[: above.shape[-1]]).unsqueeze(-2), (2,), like=weight)
    z = torch.eye(3, dtype=torch.float64)[:2].repeat(1, 2)
    assert q.log_prob(z).requires_grad and not detach(q).log_prob(z).requires_grad
    torch.testing.assert_close(detach(q).log_prob(z), q.log_prob(z))


@pytest.mark.parametrize("lead", [(), (7,)])
def test_a_flat_z_is_cut_at_its_levels(lead: tuple[int, ...]) -> None:
    z = torch.arange(12.0).expand(*lead, 12)
    parts = by_level(LEVELS, z)
    assert [part.shape for part in parts] == [(*lead, 3), (*lead, 6), (*lead, 3)]
    assert torch.equal(torch.cat(parts, -1), z)
