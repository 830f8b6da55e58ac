"""Pareto k̂ against draws with a known tail, against ArviZ's, and against proposals whose tail index is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from code_cases import MixedGuide, small_codes
from elbowroom.inference.enumeration import enumerated
from elbowroom.inference.importance import pareto
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.inference.importance.pareto import LargestWeights, pareto_k, pareto_threshold


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generalised_pareto(shape: float, draws: int, data: int, seed: int) -> Tensor:
    """log(1 + x) of x from a generalised Pareto distribution with σ = 1: a weight never below 1."""
    u = torch.rand(draws, data, generator=seeded(seed), dtype=torch.float64)
    x = (u**-shape - 1) / shape if shape else -u.log()
    return torch.log1p(x)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.6, 0.9, 1.5])
@pytest.mark.parametrize("draws", [200, 5000])
def test_the_shape_of_a_known_tail(shape: float, draws: int) -> None:
    """Any tail of a generalised Pareto distribution has its shape; the prior adds ten draws at a half."""
    found = pareto_k(generalised_pareto(shape, draws, 300, seed=1))
    tail = math.ceil(min(0.2 * draws, 3 * math.sqrt(draws)))
    expected = (tail * shape + 10 * 0.5) / (tail + 10)
    # the estimator's own bias is of the order of 1 / tail
    assert abs(found.mean() - expected) < 4 * found.std() / math.sqrt(300) + 1.5 / tail


@pytest.mark.parametrize("draws", [100, 900, 2500])  # where M needs no rounding, which ArviZ does downwards
def test_it_is_arviz_s(draws: int) -> None:
    arviz = pytest.importorskip("arviz_stats.base")
    log_weights = 0.8 * torch.randn(draws, 20, generator=seeded(3), dtype=torch.float64).cumsum(1)
    for datum, ours in enumerate(pareto_k(log_weights)):
        _, theirs = arviz.array_stats.psislw(-log_weights[:, datum].numpy())  # it takes log-likelihoods
        assert float(ours) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("ratio", [0.4, 0.7])
def test_a_normal_proposal_that_is_too_narrow_has_the_known_index(ratio: float) -> None:
    """σ_q² = ratio · σ_p²: P(w > t) falls like t^(−1/k), up to logarithms, with k = 1 − ratio."""
    z = math.sqrt(ratio) * torch.randn(200_000, 10, generator=seeded(5), dtype=torch.float64)
    log_weights = -0.5 * z.square() + 0.5 * z.square() / ratio
    found = pareto_k(log_weights)
    assert abs(found.mean() - (1 - ratio)) < 0.1
    assert (pareto_k(-log_weights) < 0.3).all()  # the other way round weights are bounded


def test_a_chunk_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    log_weights = 2 * torch.randn(1000, 7, generator=seeded(), dtype=torch.float64)
    largest = LargestWeights.empty(1000, 7)
    for chunk in log_weights.split([1, 500, 13, 300, 186]):
        largest = largest.add(chunk)
    assert torch.equal(largest.pareto_k(), pareto_k(log_weights))
    assert len(largest.kept) < 250
    monkeypatch.setattr(pareto, "_CHUNK_ELEMENTS", 1)  # of the data, one after the other
    torch.testing.assert_close(largest.pareto_k(), pareto_k(log_weights))


def test_a_common_factor_changes_nothing() -> None:
    log_weights = 2 * torch.randn(500, 4, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(pareto_k(log_weights - 1e4), pareto_k(log_weights), rtol=1e-6, atol=1e-6)


def test_weights_without_a_tail_and_with_nothing_else() -> None:
    equal = torch.full((200, 1), -3.0)
    nothing = torch.full((200, 1), -math.inf)
    three_draws = torch.full((200, 1), -math.inf)
    three_draws[:3] = torch.tensor([[0.0], [1.0], [2.0]])
    assert pareto_k(torch.cat([equal, nothing, three_draws], 1)).tolist() == [-math.inf, math.inf, math.inf]


def test_what_is_no_number_gives_none() -> None:
    log_weights = torch.randn(200, 2, generator=seeded())
    log_weights[7, 0], log_weights[9, 1] = math.nan, math.inf
    assert pareto_k(log_weights).isnan().all()


def test_some_weights_that_are_zero_do_no_harm() -> None:
    log_weights = torch.randn(1000, 3, generator=seeded(), dtype=torch.float64)
    spoilt = log_weights.clone()
    spoilt[log_weights < -1] = -math.inf
    torch.testing.assert_close(pareto_k(spoilt), pareto_k(log_weights))


def test_a_weight_that_many_draws_share_has_no_tail_unless_it_is_next_to_nothing() -> None:
    """200 draws, 41 of them the tail: all but a few have one weight, as where few codes are likely."""
    close, far = torch.zeros(200, 1), torch.zeros(200, 1)
    close[:20], far[:3] = 0.5, 14.0  # three draws of e¹⁴ outweigh all others together
    found = pareto_k(torch.cat([close, far], 1))
    assert math.isnan(found[0]) and found[1] == math.inf


def test_a_good_guide_over_few_codes_is_not_called_unreliable() -> None:
    model, _, x, _ = small_codes(2, 4, rows=200)
    with torch.no_grad():
        truth, q = enumerated(model, x).log_evidence, MixedGuide(model)(x)
        found = importance_estimate_from(model, q, x, num_samples=1000, generator=torch.Generator().manual_seed(0))
    scores = (found.log_evidence - truth) / found.stderr
    assert 0.7 < float(scores.square().mean().sqrt()) < 1.3  # the standard errors are right
    assert float((found.pareto_k > pareto_threshold(1000)).double().mean()) < 0.05


@pytest.mark.parametrize("draws", [1, 5, 20])
def test_too_few_draws_tell_nothing(draws: int) -> None:
    assert pareto_k(torch.randn(draws, 3, generator=seeded())).isnan().all()


def test_the_limit_is_lower_for_few_draws() -> None:
    limits = [pareto_threshold(draws) for draws in (1, 20, 100, 1000, 10**6)]
    assert limits == sorted(limits)
    assert limits[2] == pytest.approx(0.5) and limits[-1] == 0.7
