"""Sums over all codes are held against sums by hand; draws and sums of some codes against sums over all."""

from __future__ import annotations

import math

import pytest
import torch

from code_cases import PRIORS, by_hand, listed, small_codes
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference import enumeration
from elbowroom.inference.enumeration import (
    all_codes,
    check_enumerable,
    code_numbers,
    distinct_bound,
    enumerated,
    enumerated_elbo,
    exact_posterior_draws,
    packed,
    sum_of_distinct,
)
from elbowroom.inference.objectives import elbo
from elbowroom.model.autoregressive import CausalTransformer, Made
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from exact_cases import flat_gradient, parameters_of

SPACES = [CodeSpace(3, 4), CodeSpace(5, 2), CodeSpace(2, 9)]


# --- all codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_every_code_is_there_once_in_order(space: CodeSpace) -> None:
    z = all_codes(space, dtype=torch.float64)
    assert z.shape == (space.size, space.dim) and z.dtype == torch.float64
    assert [tuple(row) for row in space.numbers(z).tolist()] == listed(space)
    assert torch.equal(space.split(z).sum(-1), torch.ones(space.size, space.slots).double())
    assert code_numbers(space, z).tolist() == list(range(space.size))


def test_too_many_codes_are_refused_with_their_number() -> None:
    assert check_enumerable(CodeSpace(6, 10)) == 10**6
    with pytest.raises(ElbowroomError, match=r"^a sum goes through every code, but 24 slots × 16 codes have 16\^24 ≈ "
                                             r"7\.9e\+28 of them, more than 1,000,000") as caught:  # fmt: skip
        check_enumerable(CodeSpace(24, 16), "a sum")
    assert "codes,iwae,ais" in caught.value.remedy
    with pytest.raises(ElbowroomError, match=r"512\^200 ≈ 7\.1e\+541"):  # which no floating-point number holds
        all_codes(CodeSpace(200, 512))


def test_a_continuous_z_is_refused() -> None:
    model, guide, x = ppca(4, 2, seed=0)
    for ask in (
        lambda: enumerated(model, x),
        lambda: enumerated_elbo(model, guide, x),
        lambda: exact_posterior_draws(model, x, 1),
        lambda: distinct_bound(model, guide, x, num_samples=2),
    ):
        with pytest.raises(ElbowroomError, match="z is continuous"):
            ask()


# --- the sum over all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_evidence_and_posterior_are_those_by_hand(prior: str, space: CodeSpace) -> None:
    model, _, x, _ = small_codes(*space, prior=prior, rows=6)
    found, exact = enumerated(model, x), by_hand(model, x)
    torch.testing.assert_close(found.log_evidence, exact.logsumexp(0), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.log_posterior, exact.log_softmax(0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.log_posterior.exp().sum(0), torch.ones(6).double())


@pytest.mark.parametrize("chunk_elements", [160, 10**6])
def test_a_context_and_a_mask_are_used_whatever_the_chunks(chunk_elements: int) -> None:
    model, guide, x, context = small_codes(context_dim=2, rows=5)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    batch = Batch(x, context=context, mask=mask)
    found = enumerated(model, batch, chunk_elements=chunk_elements)
    rows = [enumerated(model, batch.rows(slice(i, i + 1))).log_evidence for i in range(5)]
    torch.testing.assert_close(found.log_evidence, torch.cat(rows))
    assert torch.equal(mask.all(1), torch.zeros(5, dtype=torch.bool))
    whole = enumerated(model, Batch(x, context=context)).log_evidence
    assert bool((whole < found.log_evidence).all())  # bits that are summed out cost nothing
    exact = by_hand(model, x, context)
    torch.testing.assert_close(whole, exact.logsumexp(0), rtol=1e-6, atol=1e-5)
    first = enumerated_elbo(model, guide, batch, chunk_elements=chunk_elements)
    torch.testing.assert_close(first, enumerated_elbo(model, guide, batch, known=found))


def test_all_data_have_probability_one() -> None:
    """Summed over every x of ten bits: nothing else checks the enumeration without computing log p(x, z) itself."""
    model, *_ = small_codes(2, 3)
    every = torch.tensor([[float(i >> bit & 1) for bit in range(10)] for i in range(1024)])
    with torch.no_grad():
        total = enumerated(model, every).log_evidence.logsumexp(0)
    assert float(total) == pytest.approx(0, abs=1e-5)


def test_the_gradient_is_that_of_the_sum_by_hand_and_of_differences() -> None:
    model, guide, x, _ = small_codes(rows=3)
    model, guide, x = model.double(), guide.double(), x.double()
    parameters = parameters_of(model)
    exact = flat_gradient(by_hand(model, x).logsumexp(0).mean(), parameters)
    for chunk_elements in (100, 10**6):  # computed a second time, and kept
        found = flat_gradient(enumerated(model, x, chunk_elements=chunk_elements).log_evidence.mean(), parameters)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
    torch.manual_seed(1)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.add_(sign * 1e-5 * step)
            sides.append(enumerated(model, x).log_evidence.mean().item())
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.sub_(sign * 1e-5 * step)
    along = float(exact @ torch.cat([step.flatten() for step in direction]))
    assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(along, rel=1e-6)


def test_the_exact_elbo_is_the_mean_of_its_estimates_and_its_gradient_that_of_the_score_function() -> None:
    model, guide, x, _ = small_codes(rows=4)
    exact = enumerated_elbo(model, guide, x)
    drawn = torch.stack([
        elbo(model, guide, x, num_samples=1, kl="monte-carlo", estimator="score-function",
             generator=torch.Generator().manual_seed(seed)) for seed in range(400)
    ]).double()  # fmt: skip
    z = (drawn.mean(0) - exact) / (drawn.std(0) / math.sqrt(len(drawn)))
    assert float(z.detach().abs().max()) < 4
    # E_q ∇ log q = 0, so that the gradient in the guide is Σ q (log p − log q) ∇ log q
    codes = all_codes(model.space)
    log_q = guide(x).log_prob(codes.unsqueeze(1).expand(-1, len(x), -1)).double()
    signal = (by_hand(model, x) - log_q).detach()
    surrogate = (log_q.exp().detach() * signal * log_q).sum(0).mean()
    found, by_score = (flat_gradient(value, parameters_of(guide)) for value in (exact.mean(), surrogate))
    torch.testing.assert_close(found, by_score, rtol=1e-4, atol=1e-5)


def test_a_code_that_the_guide_rules_out_adds_nothing() -> None:
    model, guide, x, _ = small_codes(rows=3)
    with torch.no_grad():
        guide.network.output.bias[0] = -math.inf  # the first code of the first slot
    value = enumerated_elbo(model, guide, x)
    assert bool(value.isfinite().all())
    assert bool((value <= enumerated(model, x).log_evidence).all())


@pytest.mark.parametrize("slots", [1, 2])
def test_codes_that_the_guide_rules_out_have_no_gradient_and_spoil_none(slots: int) -> None:
    """log q of a code with two ruled out slots is −∞; the limit of ever smaller probabilities is the oracle."""
    values, gradients = [], []
    for logit in (-60.0, -math.inf):
        model, guide, x, _ = small_codes(rows=3)
        biases = guide.network.output.bias
        with torch.no_grad():
            biases[: 4 * slots : 4] = logit  # the first code of each slot
        value = enumerated_elbo(model, guide, x)
        values.append(value.detach())
        gradients.append(flat_gradient(value.mean(), [*parameters_of(model), *parameters_of(guide)]))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert float(gradients[1].abs().max()) > 1e-2


def test_the_room_is_the_divergence_from_the_posterior() -> None:
    model, guide, x, _ = small_codes(rows=7)
    found = enumerated(model, x)
    log_q = guide(x).log_prob(all_codes(model.space).unsqueeze(1).expand(-1, 7, -1)).double()
    divergence = (log_q.exp() * (log_q - found.log_posterior)).sum(0)
    torch.testing.assert_close(found.log_evidence - enumerated_elbo(model, guide, x), divergence, rtol=1e-5, atol=1e-5)
    assert bool((divergence > 0).all())


def test_a_posterior_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from elbowroom import memory

    model, _, x, _ = small_codes(rows=5)
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000)
    with pytest.raises(ElbowroomError, match="The posterior of 5 examples over 64 codes takes"):
        enumerated(model, x)


# --- draws of the posterior --------------------------------------------------------------------------------------


def test_draws_have_the_frequencies_of_the_posterior() -> None:
    model, _, x, _ = small_codes(2, 4, rows=5)
    n = 20_000
    z = exact_posterior_draws(model, x, n, generator=torch.Generator().manual_seed(0))
    assert z.shape == (n, 5, 8) and z.dtype == torch.float32
    exact = enumerated(model, x).log_posterior.exp().detach()
    counts = torch.nn.functional.one_hot(code_numbers(model.space, z), 16).double().mean(0).T
    scores = (counts - exact) / (exact * (1 - exact) / n).sqrt()
    assert float(scores.abs().max()) < 4


# --- distinct codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [CodeSpace(2, 3), CodeSpace(70, 2), CodeSpace(24, 16), CodeSpace(3, 5000)], ids=str)
def test_equal_codes_count_once(space: CodeSpace) -> None:
    """Against sets of the standard library; the larger spaces need several words for a code."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randint(space.codes, (5, space.slots), generator=generator)
    few[1:3] = few[0]  # almost the same: they differ in the first or in the last slot
    few[1, 0], few[2, -1] = (few[0, 0] + 1) % space.codes, (few[0, -1] + 1) % space.codes
    numbers = few[torch.randint(5, (30, 4), generator=generator)]  # (n, batch, L)
    value = torch.randn(5, generator=generator)
    log_joint = torch.stack([torch.stack([value[(few == row).all(1)][0] for row in rows]) for rows in numbers])
    found = sum_of_distinct(packed(space, numbers), log_joint)
    for i in range(4):
        different = {tuple(row): float(v) for row, v in zip(numbers[:, i].tolist(), log_joint[:, i], strict=True)}
        assert found.number[i] == len(different)
        assert float(found.log_sum[i]) == pytest.approx(math.log(sum(map(math.exp, different.values()))))


def test_the_first_of_equals_counts() -> None:
    numbers = torch.tensor([[[1, 1]], [[0, 1]], [[1, 1]]])
    found = sum_of_distinct(packed(CodeSpace(2, 2), numbers), torch.tensor([[0.0], [-math.inf], [5.0]]))
    assert (float(found.log_sum), int(found.number)) == (0.0, 2)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_distinct_bound_lies_between_the_mode_and_the_evidence_for_every_row_and_draw(prior: str) -> None:
    model, guide, x, _ = small_codes(prior=prior, rows=30)
    with torch.no_grad():
        evidence = enumerated(model, x).log_evidence
        lower = model.log_joint(x, guide(x).mode).double()
    for draws in (1, 7, 100):
        for seed in range(5):
            bound = distinct_bound(
                model, guide, x, num_samples=draws, generator=torch.Generator().manual_seed(seed), chunk_elements=900
            )
            assert bool((bound <= evidence + 1e-5).all())
            assert bool((bound >= lower - 1e-5).all())


def test_with_every_code_drawn_it_is_the_evidence() -> None:
    model, guide, x, _ = small_codes(2, 3, rows=8)
    with torch.no_grad():
        guide.network.output.weight.zero_()  # all codes are about equally likely
        guide.network.output.bias.zero_()
    bound = distinct_bound(model, guide, x, num_samples=500, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bound, enumerated(model, x).log_evidence, rtol=1e-6, atol=1e-5)


def test_a_guide_without_a_mode_of_slots_gives_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, x, _ = small_codes(rows=3)

    class FromThePrior(torch.nn.Module):
        latent_support = "codes"

        def forward(self, given: torch.Tensor, context: object = None) -> object:
            p = model.prior(None)
            return type(p)(p.space, p._logits, (len(given),), like=p._like)

    bound = distinct_bound(model, FromThePrior(), x, num_samples=50, generator=torch.Generator().manual_seed(0))
    assert bool((bound <= enumerated(model, x).log_evidence + 1e-5).all())


def test_what_is_said_of_the_largest_count_is_what_is_checked() -> None:
    assert enumeration.LARGEST_COUNT == 10**6
    assert isinstance(small_codes()[0], LatentModel)


@pytest.mark.parametrize("prior", [Made(CodeSpace(5, 4), width=100), CausalTransformer(CodeSpace(5, 4), width=16)])
def test_a_chunk_is_bounded_by_the_layers_of_the_networks_too(prior: Conditional) -> None:
    """A thousand codes, of which the prior's network would take a hundred numbers each."""
    model = LatentModel(prior, Bernoulli(MLP((20,), (1, 6), hidden=(5,)), (6,)))
    rows: list[int] = []
    prior.network.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[:-1].numel()))
    with torch.no_grad():
        found = enumerated(model, torch.ones(2, 6), chunk_elements=20_000)
    assert sum(rows) == 4**5 and max(rows) * prior.network.widest <= 20_000
    torch.testing.assert_close(found.log_posterior.exp().sum(0), torch.ones(2).double())
