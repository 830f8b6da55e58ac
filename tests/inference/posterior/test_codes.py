"""Draws of codes given a part of x are held against the posterior over all codes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from code_cases import PRIORS, small_codes
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.enumeration import all_codes, enumerated
from elbowroom.inference.posterior import codes as posterior_of_codes
from elbowroom.inference.posterior.codes import posterior_codes
from elbowroom.inference.posterior.imputation import Imputation, impute
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.oracles import ppca

HIDDEN = torch.arange(10) % 3 == 0


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _masked(x: Tensor, context: Tensor | None = None) -> Batch:
    """A third of the elements is missing, with a filler in their place."""
    return Batch(torch.where(HIDDEN, 0.5, x), context=context, mask=(~HIDDEN).expand_as(x))


def _marginals(model: LatentModel, batch: Batch) -> Tensor:
    """p(z_l = k | x observed), flat, shape (batch, L K), by enumeration."""
    posterior = enumerated(model, batch).log_posterior.exp()
    return torch.einsum("nb,nd->bd", posterior, all_codes(model.space).double())


@pytest.mark.parametrize(
    ("prior", "context_dim"), [(prior, 2 if prior in ("unigram", "chain") else 0) for prior in PRIORS]
)
def test_weighted_draws_have_the_marginals_of_the_posterior(prior: str, context_dim: int) -> None:
    model, guide, x, context = small_codes(prior=prior, rows=4, context_dim=context_dim)
    batch = _masked(x, context)
    with evaluation_mode(model, guide):
        runs = []
        for seed in range(40):
            found = posterior_codes(model, guide, batch, 200, exact=False, generator=_generator(seed))
            runs.append(found.z.double().mean(0))
        exact, given_all = (_marginals(model, of) for of in (batch, Batch(x, context=context)))
        assert found.ess is not None and bool((found.ess > 50).all()) and found.weighted >= 5000
    frequencies = torch.stack(runs)
    scores = (frequencies.mean(0) - exact) / (frequencies.std(0) / math.sqrt(40)).clamp(min=1e-4)
    assert float(scores.abs().max()) < 4
    assert float((given_all - exact).abs().max()) > 0.05  # the mask matters


def test_completions_make_better_proposals_than_a_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide, x, _ = small_codes(rows=30)
    sizes = {}
    for rounds in (0, 10):
        monkeypatch.setattr(posterior_of_codes, "_ROUNDS", rounds)
        found = posterior_codes(model, guide, _masked(x), 10, exact=False, generator=_generator())
        assert found.ess is not None
        sizes[rounds] = float(found.ess.median())
    assert sizes[10] > 1.1 * sizes[0]


def test_exact_draws_do_not_depend_on_what_is_hidden() -> None:
    model, guide, x, _ = small_codes(rows=70)  # more than are enumerated at once
    batch = _masked(x)
    found = posterior_codes(model, guide, batch, 3000, generator=_generator())
    other = posterior_codes(model, guide, Batch(x, mask=batch.mask), 3000, generator=_generator())
    with torch.no_grad():
        exact = _marginals(model, batch)
    assert torch.equal(found.z, other.z) and found.ess is None and found.weighted == 0
    scores = (found.z.double().mean(0) - exact) / (exact * (1 - exact) / 3000).sqrt().clamp(min=1e-3)
    assert float(scores.abs().max()) < 4.5  # of 840


def _imputed(exact: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Imputation, Tensor]:
    """2,000 draws for each row, and the exact mean."""
    if not exact:
        monkeypatch.setattr(posterior_of_codes, "_FEW_CODES", 0)
    model, guide, x, _ = small_codes(rows=12)
    with evaluation_mode(model, guide):
        batch = _masked(x)
        found = impute(model, guide, batch, draws=500, chains=4, num_samples=3, generator=_generator())
        p_x = model.likelihood(all_codes(model.space).unsqueeze(1).expand(-1, 12, -1)).mean.double()
        mean = (enumerated(model, batch).log_posterior.exp().unsqueeze(-1) * p_x).sum(0)
    return found, mean


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_missing_is_filled_in_by_its_conditional_mean(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found, mean = _imputed(exact, monkeypatch)
    assert torch.equal(found.completed[:, ~HIDDEN], found.x[:, ~HIDDEN])
    error = (found.completed - mean)[:, HIDDEN]
    assert float(error.abs().max()) < 4 * 0.5 / math.sqrt(2000 if exact else 1000)  # a probability varies by ½ at most
    assert float((found.completed - 0.5)[:, HIDDEN].abs().max()) > 0.2
    assert found.diagnostics is None and (found.ess is None) == exact
    assert found.samples.shape == (3, 12, 10) and set(found.samples.unique().tolist()) == {0.0, 1.0}
    assert found.settings["method"] == "codes" and found.settings["draws"] == 2000


def test_what_cannot_be_drawn_is_refused() -> None:
    model, guide, x, _ = small_codes(rows=3)
    with pytest.raises(ElbowroomError, match="A Markov chain, which --method is for, needs a continuous z") as caught:
        impute(model, guide, _masked(x), method="nuts")
    assert caught.value.remedy == "Leave --method out: codes are imputed without chains."
    with pytest.raises(ElbowroomError, match="0 draws in all were asked for"):
        impute(model, guide, _masked(x), draws=0)
    with pytest.raises(ElbowroomError, match="z is continuous"):
        real, of_real, data = ppca(4, 2, seed=0)
        posterior_codes(real, of_real, data, 5)
    with pytest.raises(NotFiniteError, match="of 3 of the examples"):
        posterior_codes(model, guide, Batch(torch.full_like(x, math.nan)), 5, exact=False, generator=_generator())


def test_a_larger_space_is_not_enumerated() -> None:
    model, guide, x, _ = small_codes(20, 3, prior="unigram", rows=2)
    assert model.space == CodeSpace(20, 3)
    found = posterior_codes(model, guide, _masked(x), 30, generator=_generator())
    assert found.z.shape == (30, 2, 60) and found.weighted >= 5000
    assert torch.equal(model.space.split(found.z).sum(-1), torch.ones(30, 2, 20))
