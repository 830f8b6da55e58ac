"""Distributions over codes: they sum to one, draws follow them, and densities are linear in z."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes, CodeSpace, gumbel
from elbowroom.model.draws import detach, draw
from elbowroom.model.noise import PerRow, Prepared, Recorder

SPACE = CodeSpace(3, 4)


def everything(space: CodeSpace = SPACE) -> Tensor:
    numbers = torch.tensor(list(itertools.product(range(space.codes), repeat=space.slots)))
    return space.one_hot(numbers, torch.float64)


def random_codes(*batch: int, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    return Codes(2 * torch.randn(*batch, *SPACE, generator=generator, dtype=torch.float64))


def chain(strength: float = 2.0) -> AutoregressiveCodes:
    """Each slot likes the code of the slot before it."""

    def logits(z: Tensor) -> Tensor:
        slots = SPACE.split(z)
        return strength * torch.cat([torch.zeros_like(slots[..., :1, :]), slots[..., :-1, :]], -2)

    return AutoregressiveCodes(SPACE, logits, like=torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("p", [random_codes(), chain()], ids=["independent", "autoregressive"])
def test_probabilities_of_all_codes_sum_to_one(p: Codes | AutoregressiveCodes) -> None:
    assert float(p.log_prob(everything()).exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("p", [random_codes(), chain()], ids=["independent", "autoregressive"])
def test_draws_follow_the_probabilities(p: Codes | AutoregressiveCodes) -> None:
    number = 20_000
    z = draw(p, (number,), generator=torch.Generator().manual_seed(1))
    assert z.shape == (number, SPACE.dim)
    assert bool((SPACE.split(z).sum(-1) == 1).all())
    powers = SPACE.codes ** torch.arange(SPACE.slots - 1, -1, -1)
    seen = torch.bincount((SPACE.numbers(z) * powers).sum(-1), minlength=SPACE.size).double()
    expected = number * p.log_prob(everything()).exp()
    chi_square = float(((seen - expected).square() / expected).sum())
    freedom = SPACE.size - 1
    assert abs(chi_square - freedom) / math.sqrt(2 * freedom) < 4


def test_one_hot_and_numbers_are_inverse_and_the_order_is_slot_by_slot() -> None:
    numbers = torch.tensor([[2, 0, 3]])
    z = SPACE.one_hot(numbers)
    assert z.tolist() == [[0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1]]
    assert SPACE.numbers(z).tolist() == numbers.tolist()
    assert (SPACE.dim, SPACE.size, str(SPACE)) == (12, 64, "3 slots × 4 codes")


def test_the_entropy_and_the_mean_are_those_of_the_enumeration() -> None:
    q = random_codes(5)
    log_q = q.log_prob(everything()[:, None])  # (codes, batch)
    assert torch.allclose(q.entropy(), -(log_q.exp() * log_q).sum(0))
    assert torch.allclose(q.mean, torch.einsum("cb,cd->bd", log_q.exp(), everything()))
    assert torch.equal(q.mode, everything()[log_q.argmax(0)])


def test_a_code_of_probability_zero_costs_nothing_unless_it_is_drawn() -> None:
    logits = torch.zeros(2, 3)
    logits[0, 1] = -math.inf
    q = Codes(logits)
    assert float(q.entropy()) == pytest.approx(math.log(2) + math.log(3))
    assert float(q.log_prob(torch.tensor([1.0, 0, 0, 0, 0, 1]))) == pytest.approx(-math.log(2) - math.log(3))
    assert float(q.log_prob(torch.tensor([0.0, 1, 0, 0, 0, 1]))) < -1e30
    assert not bool(q.sample((500,), torch.Generator().manual_seed(0))[:, 1].any())


def test_slots_see_those_before_them_only_while_drawing() -> None:
    """Ancestral draws give each conditional its arguments: the law of pairs of neighbours is the chain's."""
    z = SPACE.split(draw(chain(), (20_000,), generator=torch.Generator().manual_seed(3)))
    same = (z[:, :-1] * z[:, 1:]).sum(-1)  # (draws, 2)
    p = math.exp(2) / (math.exp(2) + SPACE.codes - 1)
    z_score = (same.mean(0) - p) / math.sqrt(p * (1 - p) / len(z))
    assert bool((z_score.abs() < 4).all())


def test_noise_can_be_prepared_and_belongs_to_rows() -> None:
    q = random_codes(4)
    recorder = Recorder(torch.Generator().manual_seed(0))
    first = draw(q, (7,), generator=recorder)
    again = draw(q, (7,), generator=Prepared(recorder.draw(torch.Generator().manual_seed(0))))
    assert torch.equal(first, again)
    rows = [torch.Generator().manual_seed(seed) for seed in range(4)]
    together = draw(q, (7,), generator=PerRow(rows))
    alone = draw(Codes(q.logits[2:3]), (7,), generator=PerRow([torch.Generator().manual_seed(2)]))
    assert torch.equal(together[:, 2:3], alone)


def test_gumbel_noise_has_its_mean_and_is_finite_at_the_ends() -> None:
    noise = gumbel((100_000,), torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(0))
    euler, deviation = 0.5772156649015329, math.pi / math.sqrt(6)
    assert abs(float(noise.mean()) - euler) / (deviation / math.sqrt(len(noise))) < 4
    ends = gumbel((2,), torch.zeros(()), Prepared([torch.tensor([0.0, 1.0])]))
    assert bool(ends.isfinite().all())


def test_expanding_and_detaching_keep_the_law() -> None:
    q = random_codes()
    z = everything()[5]
    assert torch.equal(q.expand((3,)).log_prob(z), q.log_prob(z).expand(3))
    logits = torch.zeros(3, 4, requires_grad=True)
    detached = detach(Codes(logits))
    assert isinstance(detached, Codes) and not detached.logits.requires_grad


@pytest.mark.parametrize(("slots", "codes", "named"), [(3, 1, "code"), (0, 4, "slots")])
def test_no_slot_and_fewer_than_two_codes_are_refused(slots: int, codes: int, named: str) -> None:
    with pytest.raises(ElbowroomError, match=f"{min(slots, codes)} {named} of discrete latents"):
        CodeSpace(slots, codes).check()
