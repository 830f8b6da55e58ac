"""Bounds of a model with codes from draws of a guide, held against sums over all codes."""

from __future__ import annotations

import math

import pytest
import torch

from code_cases import PRIORS, MixedGuide, by_hand, small_codes
from elbowroom.errors import ElbowroomError
from elbowroom.inference.enumeration import all_codes, code_numbers, enumerated, enumerated_elbo
from elbowroom.inference.importance.codes import CodeBounds, code_bounds, missed_share
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import UniformCodes
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca
from largest_tensor import Largest


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("prior", PRIORS)
def test_bounds_are_in_their_order(prior: str) -> None:
    """Row by row where nothing is left to chance; in the mean, with its error, where draws decide."""
    model, _, x, _ = small_codes(prior=prior, rows=100)
    guide = MixedGuide(model)
    with evaluation_mode(model, guide):
        found = code_bounds(model, guide(x), x, num_samples=20, generator=_generator())
        exact, elbo = enumerated(model, x).log_evidence, enumerated_elbo(model, guide, x)
        one = code_bounds(model, guide(x), x, num_samples=1, generator=_generator())
    assert bool((one.deterministic <= one.distinct).all())  # the mode counts, drawn or not
    assert bool((found.deterministic <= found.distinct).all())
    assert bool((found.distinct <= exact + 1e-5).all())
    assert bool((found.distinct - found.deterministic > 0.01).any())
    below = found.log_evidence - exact
    assert float(below.mean()) < 4 * float(below.std()) / math.sqrt(len(x))  # ≤ 0 in expectation
    for estimate, error, truth in (("elbo", "elbo_stderr", elbo), ("log_evidence", "stderr", exact)):
        z = (getattr(found, estimate) - truth) / getattr(found, error)
        assert float(z.mean().abs()) < 4 / math.sqrt(len(x)) + 0.3  # the bias of a logarithm of 20 draws
        assert 0.7 < float(z.square().mean().sqrt()) < 1.5
    torch.testing.assert_close(found.elbo, -(found.distortion + found.rate))


@pytest.mark.parametrize("prior", PRIORS)
def test_rate_and_distortion_are_right(prior: str) -> None:
    model, _, x, _ = small_codes(prior=prior, rows=40)
    guide, codes = MixedGuide(model), all_codes(model.space)
    with evaluation_mode(model, guide):
        found = code_bounds(model, guide(x), x, num_samples=400, generator=_generator())
        log_q = guide(x).log_prob(codes.unsqueeze(1).expand(-1, len(x), -1)).double()
        log_p, joint = model.log_prior(codes).double().unsqueeze(1), by_hand(model, x)
        exact = {
            "rate": (log_q.exp() * (log_q - log_p)).sum(0),
            "distortion": -(log_q.exp() * (joint - log_p)).sum(0),
        }
    likely = log_q.argmax(0), torch.arange(len(x))
    torch.testing.assert_close(found.deterministic, joint[likely], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.deterministic_rate, -log_p[likely[0], 0], rtol=1e-5, atol=1e-5)
    for name, truth in exact.items():
        error = getattr(found, f"{name}_stderr")
        if prior != "chain" and name == "rate":  # in closed form
            assert torch.equal(error, torch.zeros_like(error))
            torch.testing.assert_close(getattr(found, name), truth, rtol=1e-5, atol=1e-5)
        else:
            z = (getattr(found, name) - truth) / error
            assert float(z.mean().abs()) * math.sqrt(len(x)) < 4
            assert 0.7 < float(z.square().mean().sqrt()) < 1.4


def test_the_gap_of_a_deterministic_code_is_minus_its_log_posterior() -> None:
    """A vector-quantised model, the softening of whose guide has gone to zero: all draws are the nearest code."""
    model, guide, x, _ = small_codes(rows=40)
    with torch.no_grad():
        for parameter in guide.network.output.parameters():
            parameter.mul_(1e4)
        found = enumerated(model, x)
        number = code_numbers(model.space, guide(x).mode)
    with evaluation_mode(model, guide):
        bounds = code_bounds(model, guide(x), x, num_samples=30, generator=_generator())
    gap = found.log_evidence - bounds.deterministic
    torch.testing.assert_close(gap, -found.log_posterior[number, torch.arange(len(x))], rtol=1e-5, atol=1e-5)
    assert float(gap.min()) > 0
    sure = bounds.num_distinct == 1
    assert float(sure.double().mean()) > 0.9
    for name in ("log_evidence", "elbo", "distinct"):  # without another code they are all the same
        torch.testing.assert_close(getattr(bounds, name)[sure], bounds.deterministic[sure], rtol=1e-5, atol=1e-4)


def test_the_estimate_is_that_of_importance_sampling_whatever_the_chunks() -> None:
    model, guide, x, _ = small_codes(rows=9)
    with evaluation_mode(model, guide):
        for elements in (300, 2**20):
            given = {"num_samples": 40, "chunk_elements": elements}
            found = code_bounds(model, guide(x), x, generator=_generator(), **given)
            other = importance_estimate_from(model, guide(x), x, generator=_generator(), **given)
            for name in other._fields:
                assert torch.equal(getattr(found, name), getattr(other, name))


def test_memory_does_not_grow_by_the_numbers_of_all_draws() -> None:
    """A thousand draws of 200 slots for each of eight rows would be 1.6 million numbers."""
    space = CodeSpace(200, 2)
    model = LatentModel(UniformCodes(space), Bernoulli(MLP((space.dim,), (1, 4), hidden=()), (4,)))
    q = Codes(torch.randn(8, *space, generator=_generator()))
    with Largest() as largest:
        code_bounds(model, q, torch.ones(8, 4), num_samples=1000, chunk_elements=50_000, generator=_generator())
    assert largest.elements <= 50_000


def test_a_single_draw_has_no_standard_error() -> None:
    model, guide, x, _ = small_codes(rows=3)
    found: CodeBounds = code_bounds(model, guide(x), x, num_samples=1, generator=_generator())
    assert bool(found.elbo_stderr.isnan().all()) and bool(found.elbo.isfinite().all())
    assert found.num_distinct.tolist() == (1 + (found.mode != found.drawn).any(1).long()).tolist()


def test_a_continuous_z_is_refused() -> None:
    model, _, x = ppca(4, 2, seed=0)
    with pytest.raises(ElbowroomError, match="z is continuous"):
        code_bounds(model, Codes(torch.zeros(len(x), 2, 2)), x, num_samples=2)


# --- what draws miss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "each"), [(1000, 3), (6, 2), (2, 1)])
def test_the_missed_share_is_the_sum_over_the_neighbours_by_hand(k: int, each: int) -> None:
    model, _, x, _ = small_codes(rows=7)
    with torch.no_grad():
        q, joint = MixedGuide(model)(x), by_hand(model, x)
        evidence = enumerated(model, x).log_evidence
        probability = q.log_prob(all_codes(model.space).unsqueeze(1).expand(-1, 7, -1)).double().exp()
    for row, mode in enumerate(model.space.numbers(q.mode).tolist()):
        total = 0.0
        for slot in range(3):
            others = q.logits[row, slot].argsort(descending=True)[1 : each + 1].tolist()
            for code in others:
                place = int(torch.tensor([*mode[:slot], code, *mode[slot + 1 :]]) @ torch.tensor([16, 4, 1]))
                missed = (1 - float(probability[place, row])) ** k
                total += math.exp(float(joint[place, row]) - float(evidence[row])) * missed
        for chunk_elements in (1, 300, 2**20):
            found = missed_share(model, q, x, evidence, num_samples=k, chunk_elements=chunk_elements)[row]
            assert float(found) == pytest.approx(total, rel=1e-3, abs=1e-12)


def test_the_missed_share_is_the_expected_posterior_of_neighbours_that_are_not_drawn() -> None:
    model, _, x, _ = small_codes(2, 5, rows=4)
    k, repeats = 12, 4000  # k / L is more than the other codes of a slot: all neighbours are looked at
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0], [1.0, 0.0, -5.0, -2.0, -4.0]]).expand(4, 2, 5)  # ẑ = (0, 0)
    with torch.no_grad():
        exact = enumerated(model, x)
        z = Codes(logits).sample((repeats, k), _generator())
        found = missed_share(model, Codes(logits), x, exact.log_evidence, num_samples=k)
    drawn = torch.nn.functional.one_hot(code_numbers(model.space, z), 25).amax(1).bool()  # (repeats, batch, 25)
    neighbours = torch.tensor([place != 0 and (place < 5 or place % 5 == 0) for place in range(25)])
    lacking = (exact.log_posterior.exp().T * (neighbours & ~drawn)).sum(-1)
    scores = (lacking.mean(0) - found) / (lacking.std(0) / math.sqrt(repeats))
    assert float(scores.abs().max()) < 4
    assert float(found.max()) > 0.01
