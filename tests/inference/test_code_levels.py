"""Levels of codes in bounds and gradients, against sums over all codes.

Where noise is forced such that every z is drawn once, an expectation is a sum, and laws hold to rounding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import level_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.inference.code_gradients import CODE_ESTIMATORS, draw_codes
from elbowroom.inference.enumeration import enumerated, enumerated_elbo
from elbowroom.inference.importance.codes import code_bounds
from elbowroom.inference.kl import group_kl, has_group_kl
from elbowroom.inference.objectives import elbo_terms, iwae
from elbowroom.inference.posterior.codes import posterior_codes
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.draws import draw
from elbowroom.model.noise import Prepared
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import mean_and_stderr
from exact_cases import flat_gradient, parameters_of
from exact_codes import all_codes

FOR_CODES = ["score-function", *CODE_ESTIMATORS]
guides = pytest.mark.parametrize("guide", cases.GUIDES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def forced(z: Tensor, top: int, *, differentiated: bool) -> Prepared:
    """The noise under which these are drawn, of two levels, shape (n, L K)."""
    u = torch.where(z > 0, torch.full_like(z, 1 - 1e-15), torch.full_like(z, 1e-300))[None]
    return Prepared([u[..., :top], u[..., top:][None] if differentiated else u[..., top:]])


def over_all_draws(case: Any, estimator: str, kl: str, temperature: float = 1.0) -> Tensor:
    """E of the objective over draws of one x: its value is the exact one, its gradient the estimator's expectation."""
    z, x = cases.everything(), case.x[:1].expand(243, -1, -1)
    noise = forced(z, cases.LEVELS[0].dim, differentiated=estimator != "score-function")
    found = elbo_terms(case.model, case.guide, x, kl=kl, estimator=estimator, temperature=temperature, generator=noise)  # type: ignore[arg-type]
    probability = case.guide(x[:1]).log_prob(z[:, None])[:, 0].exp().detach()
    return (probability * found.value).sum()


@pytest.mark.parametrize("kl", ["auto", "monte-carlo"])
@pytest.mark.parametrize("estimator", FOR_CODES)
def test_the_expected_objective_is_the_exact_elbo_under_every_estimator(estimator: str, kl: str) -> None:
    case = cases.case()
    found, exact = over_all_draws(case, estimator, kl, 0.7), cases.exact_elbo(case.pair, case.x[:1]).sum()
    torch.testing.assert_close(found, exact)
    model = parameters_of(case.model)  # whose gradient has no bias whatever the estimator is
    torch.testing.assert_close(flat_gradient(found, model), flat_gradient(exact, model))


@guides
@pytest.mark.parametrize("prior", ["unigram", "transformer"])
@pytest.mark.parametrize("kl", ["auto", "monte-carlo"])
def test_the_score_function_has_the_exact_gradient_through_both_levels(guide: str, prior: str, kl: str) -> None:
    case = cases.case(guide, prior=prior)
    parameters = parameters_of(case.guide)
    found = flat_gradient(over_all_draws(case, "score-function", kl), parameters)
    exact = flat_gradient(cases.exact_elbo(case.pair, case.x[:1]).sum(), parameters)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("estimator", CODE_ESTIMATORS)
def test_biased_estimators_reach_the_encoder_of_both_levels(estimator: str) -> None:
    """Without what the bottom reads of the top, and with it: the direction is about right."""
    case = cases.case()
    for level in (0, 1):
        weights = [case.guide.recognition.outputs[level].bias]
        found = flat_gradient(over_all_draws(case, estimator, "auto"), weights)
        exact = flat_gradient(cases.exact_elbo(case.pair, case.x[:1]).sum(), weights)
        if estimator in ("straight-through", "reinmax"):  # forced noise is not that of the others
            assert torch.cosine_similarity(found, exact, 0) > 0.8
        assert found.abs().max() > 1e-3


def expected_gradient(estimator: str, f: Any, depends: float) -> tuple[Tensor, Tensor]:
    """Of E f(z) in the logits of two levels, of which the lower reads the upper one: of the estimator, and exact."""
    levels, space = (CodeSpace(1, 3), CodeSpace(2, 3)), CodeSpace(3, 3)
    leaf = torch.randn(9, dtype=torch.float64, generator=seeded()).requires_grad_()
    step = depends * torch.randn(3, 6, dtype=torch.float64, generator=seeded(1))
    z = all_codes(space)

    def logits(level: int, above: Tensor) -> Tensor:
        own = leaf[:3].expand(*above.shape[:-1], 3) if level == 0 else leaf[3:] + above @ step
        return own.reshape(*own.shape[:-1], *levels[level])

    q = TopDownCodes(levels, logits, (len(z),), like=leaf)
    drawn = draw_codes(q, 1, estimator, generator=forced(z, 3, differentiated=True)).z[0]
    assert torch.equal(drawn, z)
    probability = q.log_prob(z).exp()
    (found,) = torch.autograd.grad((probability.detach() * f(drawn)).sum(), leaf, retain_graph=True)
    (true,) = torch.autograd.grad((probability * f(z)).sum(), leaf)
    return found, true


@pytest.mark.parametrize(("estimator", "degree"), [("straight-through", 1), ("reinmax", 2)])
def test_what_is_exact_on_one_level_is_so_below_and_above_where_little_is_read_of_the_top(
    estimator: str, degree: int
) -> None:
    slopes = torch.randn(2, 9, dtype=torch.float64, generator=seeded(2))

    def f(z: Tensor) -> Tensor:
        return (z @ slopes[0]) * ((z @ slopes[1]) if degree == 2 else 1.0)

    torch.testing.assert_close(*expected_gradient(estimator, f, 0.0))
    found, true = expected_gradient(estimator, f, 1.5)
    torch.testing.assert_close(found[3:], true[3:])  # the lower level is always exact, given what is above
    assert (found[:3] - true[:3]).norm() > 1e-3

    def from_below(z: Tensor) -> Tensor:  # then all that the top level learns comes through the logits below
        return f(torch.cat([torch.zeros_like(z[:, :3]), z[:, 3:]], -1))

    found, true = expected_gradient(estimator, from_below, 0.01)
    assert true[:3].norm() > 1e-4
    assert (found[:3] - true[:3]).norm() < 0.03 * true[:3].norm()


# --- bounds ------------------------------------------------------------------------------------------------------


@guides
def test_bounds_are_in_their_order(guide: str) -> None:
    case = cases.case(guide, prior="pixelcnn", rows=4)
    log_p = enumerated(case.model, case.x).log_evidence.detach()
    exact = enumerated_elbo(case.model, case.guide, case.x).detach()
    torch.testing.assert_close(exact, cases.exact_elbo(case.pair, case.x).detach())
    assert ((log_p - exact) > 0.05).all()
    with torch.no_grad():
        many = case.x.repeat_interleave(400, 0)
        values = iwae(case.model, case.guide, many, num_samples=5, generator=seeded()).reshape(4, 400)
        found = code_bounds(case.model, case.guide(case.x), case.x, num_samples=300, generator=seeded())
    for row in range(4):
        mean, stderr = mean_and_stderr(values[row])
        assert exact[row] + 4 * stderr < mean < log_p[row] + 4 * stderr
    assert (found.deterministic <= found.distinct + 1e-9).all() and (found.distinct <= log_p + 1e-9).all()
    assert ((found.elbo - exact).abs() < 4.5 * found.elbo_stderr).all()


@pytest.mark.parametrize("prior", ["unigram", "transformer"])
def test_rates_and_distortions_by_level_are_those_by_enumeration(prior: str) -> None:
    case, z = cases.case(prior=prior), cases.everything()
    q, p, n = case.guide(case.x), case.model.prior(None), len(case.x)
    each = z[:, None].expand(-1, n, -1)
    with torch.no_grad():
        found = code_bounds(case.model, q, case.x, num_samples=2000, generator=seeded(2))
        log_q = torch.stack([
            codes.log_prob(each[..., part])
            for codes, part in zip(q.conditionals(each), (slice(0, 3), slice(3, 15)), strict=True)
        ])  # fmt: skip
        log_p = p.log_probs(each).split_with_sizes([1, 4], -1)
        rates = torch.stack([(log_q.sum(0).exp() * (log_q[m] - log_p[m].sum(-1))).sum(0) for m in range(2)], -1)
        log_likelihood = case.model.log_likelihood(case.x, each)
        alone = -((log_q[0] + log_p[1].sum(-1)).exp() * log_likelihood).sum(0)  # of q on top and p below
        kl = group_kl(q, p, each)
        torch.testing.assert_close((log_q.sum(0).exp() * kl).sum(1).T, rates)
        parts = elbo_terms(case.model, case.guide, case.x, kl="auto", num_samples=50, generator=seeded()).parts
    assert has_group_kl(q, p)
    assert found.level_rates is not None and found.level_rates_stderr is not None
    assert found.level_distortions is not None and found.level_distortions_stderr is not None
    assert ((found.level_rates - rates).abs() < 4.5 * found.level_rates_stderr + 1e-9).all()
    torch.testing.assert_close(found.level_rates.sum(-1), found.rate)
    difference = (found.level_distortions[:, 0] - alone).abs()
    assert (difference < 4.5 * found.level_distortions_stderr[:, 0]).all()
    # so the levels above, alone, give another lower bound
    assert (-(alone + rates[:, 0]) < enumerated(case.model, case.x).log_evidence).all()
    torch.testing.assert_close(parts["kl_1"] + parts["kl_2"], parts["kl"])


def test_free_bits_are_those_of_levels() -> None:
    case = cases.case()
    plain, free = (
        elbo_terms(
            case.model,
            case.guide,
            case.x,
            kl="auto",
            free_bits=bits,
            estimator="reinmax",
            num_samples=3,
            generator=seeded(),
        )
        for bits in (0.0, 5.0)
    )
    spared = sum((5.0 - plain.parts[f"kl_{level}"]).clamp(min=0) for level in (1, 2))
    torch.testing.assert_close(free.value, plain.value - spared)
    assert isinstance(spared, Tensor) and spared.abs().max() > 0.01


def test_completions_are_draws_of_the_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """By importance resampling, against enumeration."""
    for name, number in {"_COMPLETIONS": 3, "_ROUNDS": 2, "_LEAST_WEIGHTED": 3000}.items():
        monkeypatch.setattr(f"elbowroom.inference.posterior.codes.{name}", number)
    case = cases.case("nearest-code", rows=2)
    batch = Batch(case.x, mask=(torch.arange(16) % 3 > 0).reshape(4, 4).expand(2, 4, 4))
    with torch.no_grad():
        found = posterior_codes(case.model, case.guide, batch, 600, exact=False, generator=seeded(5))
        exact = enumerated(case.model, batch).log_posterior.exp()
    marginals = torch.einsum("nb,nd->bd", exact, cases.everything())
    assert found.ess is not None and (found.ess > 100).all()
    stderr = (marginals * (1 - marginals) * (1 / found.ess[:, None] + 1 / 600)).sqrt()
    assert ((found.z.mean(0) - marginals).abs() < 4.5 * stderr).all()


def test_draws_are_those_of_the_distribution() -> None:
    q = cases.case().guide(cases.case().x)
    for estimator in CODE_ESTIMATORS:
        drawn, relaxed = draw_codes(q, 4, estimator, temperature=0.5, generator=seeded(3))
        assert torch.equal(drawn, draw(q, (4,), generator=seeded(3)))
        if relaxed is not None:
            assert torch.equal(cases.SPACE.numbers(relaxed), cases.SPACE.numbers(drawn))
