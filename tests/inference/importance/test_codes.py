"""Bounds of a model with codes from draws of a guide, held against sums over all codes."""

from __future__ import annotations

import math

import pytest
import torch

from code_cases import PRIORS, MixedGuide, by_hand, small_codes
from elbowroom.errors import ElbowroomError
from elbowroom.inference.enumeration import all_codes, code_numbers, enumerated, enumerated_elbo
from elbowroom.inference.importance.codes import CodeBounds, code_bounds
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
