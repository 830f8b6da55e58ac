"""Summaries: the null against its theory, quantiles against their definition, and planted faults by their datum."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers.diagnostics import ebfmi, ess_bulk, ess_tail, rhat
from elbowroom.samplers.kernel import Info
from elbowroom.samplers.summary import Diagnostics, Quantiles, measure, rhat_null, summarize


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def independent(num_draws: int = 100, replicas: int = 4, data: int = 30, dim: int = 2) -> tuple[Tensor, Info]:
    """Independent exponential draws, three gradients each."""
    draws = torch.empty(num_draws, replicas, data, dim).exponential_(generator=seeded(7))
    energy = draws.sum(-1)
    none = torch.zeros_like(energy, dtype=torch.bool)
    acceptance = torch.rand(energy.shape, generator=seeded(8))
    return draws, Info(acceptance, energy, none, torch.full_like(energy, 3, dtype=torch.int64))


# ------------------------------------------------------------------ the null


@pytest.mark.parametrize(("num_draws", "replicas"), [(100, 4), (101, 2), (60, 1)])
def test_null_agrees_with_the_analysis_of_variance(num_draws: int, replicas: int) -> None:
    """n B / W of M half-chains is F-distributed, and its folded twin is independent of it."""
    null = rhat_null(num_draws, replicas, generator=seeded(), num_series=4000)
    n, num_halves = num_draws // 2, 2 * replicas
    for p in (0.1, 0.5, 0.9, 0.99):
        ratio = stats.f.ppf(math.sqrt(p), num_halves - 1, num_halves * (n - 1))  # both are below with probability p
        threshold = math.sqrt((n - 1) / n + ratio / n)
        below = (null <= threshold).double().mean().item()
        assert abs(below - p) / math.sqrt(p * (1 - p) / len(null)) < 4


def test_null_is_a_function_of_its_generator() -> None:
    state = torch.get_rng_state()
    first = rhat_null(21, 3, generator=seeded(1), num_series=50)
    assert torch.equal(first, rhat_null(21, 3, generator=seeded(1), num_series=50))
    assert not torch.equal(first, rhat_null(21, 3, generator=seeded(2), num_series=50))
    for chunk_elements in (1, 200, 10**6):
        again = rhat_null(21, 3, generator=seeded(1), num_series=50, chunk_elements=chunk_elements)
        torch.testing.assert_close(again, first, rtol=1e-12, atol=0)
    assert first.shape == (50,)
    assert torch.equal(torch.get_rng_state(), state)


def test_independent_draws_are_not_flagged_whatever_their_distribution() -> None:
    draws, info = independent(data=500)
    summary = summarize(draws, info, generator=seeded())
    null = rhat_null(100, 4, generator=seeded())
    for p, expected in ((0.5, summary.rhat_null.median), (0.9, summary.rhat_null.q90), (0.99, summary.rhat_null.q99)):
        assert expected == null.sort().values[math.ceil(4000 * p) - 1]
        # both quantiles are estimates: of 1,000 R-hats and of 4,000
        below = (rhat(draws) <= expected).double().mean().item()
        assert abs(below - p) / math.sqrt(p * (1 - p) * (1 / 1000 + 1 / 4000)) < 4


# ------------------------------------------------------------------ warnings


def test_independent_draws_have_no_warnings() -> None:
    draws, info = independent(data=200)
    summary = summarize(draws, info, generator=seeded())
    assert summary.warnings() == [] and not any("warning" in line for line in summary.lines())
    assert summary.as_dict()["warnings"] == []


def test_each_fault_has_its_warning_with_a_remedy() -> None:
    draws, info = independent()
    draws[:, 0, 3] += 20.0  # one chain is elsewhere
    energy = info.energy.clone()
    energy[:, :, 8] = torch.linspace(0, 9, 100).unsqueeze(1)  # energies that drift, in every chain
    energy[:, 0, 9] = torch.linspace(0, 9, 100)  # and in one of four, whose average is well
    found = measure(draws, info._replace(energy=energy))
    apart = torch.zeros(30, dtype=torch.float64)
    apart[[5, 7]], apart[6] = torch.tensor([8.0, 60.0], dtype=torch.float64), torch.nan
    summary = replace(found, disagreement=apart).summary(generator=seeded(), num_series=100)
    missed, disagree, slow = summary.warnings()
    assert missed.startswith("The draws of 2 of 30 examples (example 7 most)") and "jumps=True (--jumps)" in missed
    assert disagree.startswith("The chains of an example (example 3) disagree: R-hat") and "more draws" in disagree
    assert slow.startswith("The E-BFMI of 1 of 30 examples is below 0.3") and "--metric dense" in slow
    assert summary.lines()[-3:] == [f"warning: {text}" for text in (missed, disagree, slow)]
    assert "2 of the 29 examples where these are reliable" in summary.lines()[-4]
    assert json.loads(json.dumps(summary.as_dict()))["warnings"] == [missed, disagree, slow]


@pytest.mark.parametrize(("number", "share"), [(1, "under 0.1%"), (24, "0.2%"), (1200, "10.0%")])
def test_divergent_transitions_are_a_warning_with_their_share_and_a_remedy(number: int, share: str) -> None:
    draws, info = independent()
    divergent = torch.zeros(100 * 4, 30, dtype=torch.bool)
    divergent[: number // 3, 7:10] = True
    if number < 3:
        divergent[0, 7] = True
    summary = summarize(draws, info._replace(divergent=divergent.view(100, 4, 30)), generator=seeded(), num_series=100)
    (said,) = summary.warnings()
    examples = 1 if number < 3 else 3
    assert said.startswith(f"{number:,} of 12,000 transitions ({share}) diverged, in {examples} of 30 examples")
    assert "target_acceptance=0.9 (--target-acceptance 0.9)" in said
    assert summary.lines()[-1] == f"warning: {said}"


def test_of_many_comparisons_a_large_one_is_no_surprise() -> None:
    """4.5 standard errors are certain of one example, and chance among 100,000."""
    draws, info = independent(num_draws=4, replicas=1, data=20_000, dim=3)
    many = measure(draws, info)
    few = measure(draws[:, :, :1], Info(*(tensor[:, :, :1] for tensor in info)))
    for found, warned in ((few, 1), (many, 0)):
        scores = torch.zeros(len(found.rhat), dtype=torch.float64)
        scores[0] = 4.5
        summary = replace(found, disagreement=scores).summary(generator=seeded(), num_series=10)
        assert summary.apart_data == warned


def test_parts_with_and_without_a_comparison_are_joined() -> None:
    draws, info = independent(data=3)
    plain = measure(draws, info)
    compared = replace(plain, disagreement=torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
    assert Diagnostics.cat([plain, plain]).disagreement is None
    joined = Diagnostics.cat([plain, compared]).disagreement
    assert joined is not None and joined.isnan().tolist() == [True] * 3 + [False] * 3
    assert joined[3:].tolist() == [1.0, 2.0, 9.0]


# ------------------------------------------------------------------ quantiles


@pytest.mark.parametrize(("worst", "expected"), [("largest", (50, 90, 99, 100)), ("smallest", (51, 11, 2, 1))])
def test_so_many_values_are_at_least_as_good(worst: str, expected: tuple[float, ...]) -> None:
    values = (1 + torch.randperm(100, generator=seeded())).double()
    found = Quantiles.of(values.view(25, 4), worst=worst)
    assert (found.median, found.q90, found.q99, found.worst) == expected
    assert found.datum == int((values == expected[-1]).nonzero()) // 4


@pytest.mark.parametrize("worst", ["largest", "smallest"])
def test_quantiles_of_one_value(worst: str) -> None:
    assert Quantiles.of(torch.tensor([2.5]), worst=worst) == Quantiles(2.5, 2.5, 2.5, 2.5, 0)


# ------------------------------------------------------------------ summaries


def test_each_quantity_comes_from_its_own_diagnostic() -> None:
    draws, info = independent()
    found = summarize(draws, info, generator=seeded(), num_series=100)
    bulk, tail = ess_bulk(draws).amin(1), ess_tail(draws).amin(1)
    assert (found.num_draws, found.num_replicas, found.num_data, found.dim, found.num_null) == (100, 4, 30, 2, 100)
    assert found.rhat.worst == rhat(draws).max()
    assert found.rhat.datum == int(rhat(draws).argmax()) // 2
    assert (found.ess_bulk.worst, found.ess_bulk.datum) == (bulk.min(), bulk.argmin())
    assert (found.ess_tail.worst, found.ess_tail.datum) == (tail.min(), tail.argmin())
    cost = 3 * 400 / bulk
    assert found.gradients_per_effective_sample.worst == pytest.approx(cost.max().item())
    assert found.gradients_per_effective_sample.median == pytest.approx(cost.sort().values[14].item())
    acceptance = info.acceptance.double().mean((0, 1))
    assert (found.acceptance.worst, found.acceptance.datum) == (acceptance.min(), acceptance.argmin())
    energies = ebfmi(info.energy)
    assert (found.ebfmi.worst, found.ebfmi.datum) == (energies.min(), energies.amin(0).argmin())
    assert found.rhat_null.datum is None
    assert (found.divergences, found.divergent_data, found.stuck_chains, found.stuck_data) == (0, 0, 0, 0)


def test_planted_faults_are_found_at_their_datum() -> None:
    draws, info = independent()
    draws[:, 0, 3, 1] += 20.0  # one chain of datum 3 is elsewhere
    draws[:, 1, 5] = 0.7  # a chain of datum 5 never moved
    draws[:, 2, 6, 0] = 0.7  # a chain of datum 6 did, in one dimension
    info.energy[:, 3, 8] = torch.linspace(0, 9, 100)  # energies that drift
    info.acceptance[:, :, 9] /= 10
    info.divergent[4:6, 0, 9] = info.divergent[4, 1, 9] = info.divergent[50, 2, 11] = True
    found = summarize(draws, info, generator=seeded(), num_series=100)
    assert found.rhat.datum == 3
    assert found.rhat.worst > 1.1 > found.rhat_null.worst
    assert found.ess_bulk.worst < 10
    assert (found.ebfmi.worst, found.ebfmi.datum) == (0, 5)  # a stuck chain's energy is all its momentum's
    assert found.ebfmi.q99 < 0.01  # datum 8's
    assert found.acceptance.datum == 9
    assert (found.divergences, found.divergent_data) == (4, 2)
    assert (found.stuck_chains, found.stuck_data) == (1, 1)
    text = found.text()
    assert f"R-hat 99 % quantile {found.rhat.q99:.3f} ({found.rhat_null.q99:.3f} if the draws were independent)" in text
    assert f"largest {found.rhat.worst:.3f} (example 3)" in text
    assert "divergent transitions: 4, in 2 of 30 examples" in text
    assert "chains that never moved: 1, of 1 examples" in text
    assert text.splitlines() == found.lines()


def test_a_datum_that_never_moved_is_the_worst_and_not_the_best() -> None:
    """ArviZ's conventions for constants, R-hat NaN and as many effective samples as draws, would hide it."""
    draws, info = independent()
    draws[:, :, 4] = 1.0
    info.energy[:, :, 4] = 2.0
    found = summarize(draws, info, generator=seeded(), num_series=100)
    assert (found.rhat.worst, found.rhat.datum) == (math.inf, 4)
    assert (found.ess_bulk.worst, found.ess_bulk.datum) == (0, 4)
    assert (found.ess_tail.worst, found.ess_tail.datum) == (0, 4)
    assert (found.ebfmi.worst, found.ebfmi.datum) == (0, 4)
    assert found.gradients_per_effective_sample.worst == math.inf
    assert (found.stuck_chains, found.stuck_data) == (4, 1)
    written = found.as_dict()
    assert written["rhat"]["worst"] is None
    assert written["rhat"]["median"] == found.rhat.median
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_parts_of_the_data_put_together_are_the_whole() -> None:
    draws, info = independent()
    whole = measure(draws, info)
    parts = [
        measure(draws[:, :, at], Info(*(tensor[:, :, at] for tensor in info))) for at in (slice(0, 7), slice(7, 30))
    ]
    together = Diagnostics.cat(parts)
    assert together.num_draws == 100
    for name in ("rhat", "ess_bulk", "ess_tail", "ebfmi", "acceptance", "divergences", "stuck", "num_gradients"):
        torch.testing.assert_close(getattr(together, name), getattr(whole, name), rtol=1e-12, atol=0)
    settings = {"num_series": 100}
    assert together.summary(generator=seeded(), **settings) == summarize(draws, info, generator=seeded(), **settings)


# ------------------------------------------------------------------ bad input


def test_refused_shapes() -> None:
    draws, info = independent()
    with pytest.raises(ElbowroomError, match=r"\(draws, replicas, data, dim\)"):
        measure(draws[..., 0], info)
    with pytest.raises(ElbowroomError, match=r"info.energy has shape \(99, 4, 30\).*\(100, 4, 30\)"):
        measure(draws, info._replace(energy=info.energy[1:]))
    with pytest.raises(ElbowroomError, match="4 draws"):
        measure(draws[:3], Info(*(tensor[:3] for tensor in info)))
    with pytest.raises(ElbowroomError, match="0 examples"):
        summarize(draws[:, :, :0], Info(*(tensor[:, :, :0] for tensor in info)), generator=seeded())


@pytest.mark.parametrize("name", ["acceptance", "energy"])
def test_refused_values(name: str) -> None:
    draws, info = independent()
    getattr(info, name)[1, 2, 3] = math.nan
    with pytest.raises(ElbowroomError, match=f"info.{name} is NaN or infinite in 1 of 12000 places"):
        measure(draws, info)
    draws[5, 0, 2, 1] = math.inf
    with pytest.raises(ElbowroomError, match=r"index \(5, 0, 2, 1\)"):
        measure(draws, independent()[1])


def test_refused_parts() -> None:
    draws, info = independent()
    fewer = measure(draws[:50], Info(*(tensor[:50] for tensor in info)))
    with pytest.raises(ElbowroomError, match=r"\(50, 4, 2\), \(100, 4, 2\)"):
        Diagnostics.cat([measure(draws, info), fewer])
    with pytest.raises(ElbowroomError, match="different"):
        Diagnostics.cat([])


@pytest.mark.parametrize("settings", [(3, 4, 10), (0, 4, 10), (10, 0, 10), (10, 4, 0)])
def test_refused_nulls(settings: tuple[int, int, int]) -> None:
    num_draws, replicas, num_series = settings
    with pytest.raises(ElbowroomError):
        rhat_null(num_draws, replicas, generator=seeded(), num_series=num_series)
