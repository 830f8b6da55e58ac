"""Bounds, divergences by group and gradients of hierarchies, against the oracle and against each other."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import exact_cases as exact
import hierarchy_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.inference.kl import factorised_kl, group_kl, has_analytic_kl, has_group_kl
from elbowroom.inference.objectives import elbo, elbo_terms, iwae, iwae_terms, log_weights
from elbowroom.model import oracles
from elbowroom.model.draws import draw
from elbowroom.model.sequential_normal import ResidualNormal, SequentialNormal
from elbowroom.numerics import log_mean_exp

SIZES = [(1, 1), (1, 2, 1)]


def z_of_mean(values: Tensor, expected: float) -> float:
    values = values.detach().flatten()
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cases.GUIDES)
@pytest.mark.parametrize("choice", [{"kl": "auto"}, {"kl": "monte-carlo"}], ids=str)
def test_elbo_averages_to_its_closed_form(name: str, choice: dict[str, Any]) -> None:
    case = cases.linear((1, 2, 1))
    guide = cases.worsened(case.guides[name])
    joint = cases.as_joint_normal(guide, case.x)
    expected = exact.closed_form_elbo(case.model, joint, case.x, 0.4)
    for datum, truth in zip(case.x, expected, strict=True):
        values = elbo(case.model, guide, datum.expand(2000, -1), beta=0.4, generator=cases.seeded(), **choice)
        assert abs(z_of_mean(values, truth.item())) < 4


@pytest.mark.parametrize("name", cases.GUIDES)
def test_bounds_are_in_order(name: str) -> None:
    case = cases.linear((1, 2, 1))
    guide = cases.worsened(case.guides[name])
    many, evidence = case.x[:1].expand(3000, -1), case.model.log_evidence(case.x[:1]).item()
    bounds = [elbo(case.model, guide, many, kl="auto", generator=cases.seeded())]
    bounds += [iwae(case.model, guide, many, num_samples=k, generator=cases.seeded(k)) for k in (4, 16)]
    for lower, higher in pairwise([*(bound.detach() for bound in bounds), torch.full((3000,), evidence)]):
        assert z_of_mean(higher - lower, 0.0) > 4
    log_w = log_weights(case.model, guide, case.x[:1], 30_000, generator=cases.seeded())
    assert abs(z_of_mean((log_w - evidence).exp(), 1.0)) < 4  # the weights are unbiased
    assert abs(log_mean_exp(log_w).item() - evidence) < 0.1


@pytest.mark.parametrize("name", cases.GUIDES)
def test_at_the_posterior_every_bound_is_the_evidence(name: str) -> None:
    case = cases.linear((1, 1, 1))
    evidence = case.model.log_evidence(case.x)
    one = elbo(case.model, case.guides[name], case.x, kl="monte-carlo", generator=cases.seeded())
    torch.testing.assert_close(one, evidence, rtol=0, atol=1e-10)
    terms = iwae_terms(case.model, case.guides[name], case.x, generator=cases.seeded())
    torch.testing.assert_close(terms.value, evidence, rtol=0, atol=1e-10)
    torch.testing.assert_close(terms.parts["ess"], torch.full_like(evidence, 5.0))


# --- the divergence of every group -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kl_of_the_groups_adds_up_to_the_exact_one(sizes: tuple[int, ...]) -> None:
    case = cases.linear(sizes)
    guide = cases.worsened(case.guides["top-down"])
    exact_kl = torch.distributions.kl_divergence(cases.as_joint_normal(guide, case.x)(case.x), _standard(sizes))
    q = guide(case.x)
    kl = group_kl(q, case.model.prior(None), draw(q, (20_000,), generator=cases.seeded()))
    assert kl.shape == (len(sizes), 20_000, 3)
    for row, truth in enumerate(exact_kl.tolist()):
        assert abs(z_of_mean(kl.sum(0)[:, row], truth)) < 4


def _standard(sizes: tuple[int, ...]) -> torch.distributions.MultivariateNormal:
    eye = torch.eye(sum(sizes), dtype=torch.float64)
    return torch.distributions.MultivariateNormal(torch.zeros_like(eye[0]), eye)


@pytest.mark.parametrize("kind", ["top-down", "grid"])
@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_kl_of_each_group_is_that_of_its_densities(kind: str, prior: str) -> None:
    """Each group against log q(z_l | z_<l) − log p(z_l) of the same draws, and less noisy in closed form."""
    case = cases.nonlinear(kind, prior=prior)
    q, p = case.guide(case.x[:1]), case.model.prior(None)
    z = draw(q, (5_000,), generator=cases.seeded())
    kl, sizes = group_kl(q, p, z), case.ladder.sizes
    assert has_group_kl(q, p) and not has_analytic_kl(q, p)
    parts = z.split_with_sizes(sizes, -1)
    log_q = [normal.log_prob(part) for normal, part in zip(q.groups(z), parts, strict=True)]
    top = p.log_prob(torch.cat([parts[0], z.new_zeros(*z.shape[:-1], sum(sizes[1:]))], -1))
    rest = sum(sizes[1:]) * 0.5 * math.log(2 * math.pi)
    log_p = [top + rest, *(-0.5 * (part.square() + math.log(2 * math.pi)).sum(-1) for part in parts[1:])]
    for group, (a, b) in enumerate(zip(log_q, log_p, strict=True)):
        difference = ((a - b) - kl[group]).detach()
        assert abs(z_of_mean(difference, 0.0)) < 4
        if group > 0 or prior == "normal":
            assert bool(kl[group].std() < (a - b).std())


def test_kl_of_a_group_of_one_normal_is_its_closed_form() -> None:
    case = cases.nonlinear("top-down")
    q, p = case.guide(case.x), case.model.prior(None)
    z = draw(q, (4,), generator=cases.seeded())
    first = q.groups(z)[0]
    standard = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2).double(), 1.0), 1)
    known = factorised_kl(first, standard)
    assert known is not None
    torch.testing.assert_close(group_kl(q, p, z)[0], known.sum(-1).expand(4, -1))


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_parts_of_the_elbo(kind: str, prior: str) -> None:
    case = cases.nonlinear(kind, prior=prior)
    value, parts = elbo_terms(case.model, case.guide, case.x, kl="auto", beta=0.3, generator=cases.seeded())
    torch.testing.assert_close(value, parts["reconstruction"] - 0.3 * parts["kl"])
    groups = [part for name, part in parts.items() if name.startswith("kl_")]
    assert len(groups) == (0 if kind == "bottom-up" else 3)
    if groups:
        torch.testing.assert_close(sum(groups), parts["kl"])
    assert value.requires_grad
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("over", ["example", "batch"])
def test_free_bits_of_groups_by_hand(over: str) -> None:
    case = cases.nonlinear("top-down")
    q = case.guide(case.x)
    z = draw(q, (2,), generator=cases.seeded())
    kl = group_kl(q, case.model.prior(None), z).mean(1)  # (groups, batch)
    free = kl.median().item()  # between the examples of a group, so that the two differ
    compared = kl if over == "example" else kl.mean(1, keepdim=True).expand_as(kl)
    penalty = torch.where(compared > free, kl, free).sum(0)
    value, parts = elbo_terms(
        case.model, case.guide, case.x, num_samples=2, kl="auto", beta=0.5, free_bits=free, free_bits_over=over,
        generator=cases.seeded(),
    )  # fmt: skip
    torch.testing.assert_close(value, parts["reconstruction"] - 0.5 * penalty)
    torch.testing.assert_close(parts["kl"], kl.sum(0))
    if over == "batch":  # as Kingma et al. (2016) state it: the maximum of λ and the mean over the batch
        assert math.isclose(penalty.mean().item(), kl.mean(1).clamp(min=free).sum().item(), rel_tol=1e-9)


def test_free_bits_stop_the_gradient_of_a_cheap_group() -> None:
    case = cases.nonlinear("top-down")
    weights = exact.parameters_of(case.guide)

    def gradient(**choice: Any) -> Tensor:
        value = elbo(case.model, case.guide, case.x, kl="auto", generator=cases.seeded(), **choice).mean()
        found: Tensor = exact.flat_gradient(value, weights)
        return found

    for over in ("example", "batch"):
        torch.testing.assert_close(gradient(free_bits=1e6, free_bits_over=over), gradient(beta=0.0))
        torch.testing.assert_close(gradient(free_bits=1e-9, free_bits_over=over), gradient())


def test_free_bits_need_groups_one_below_the_other() -> None:
    case = cases.nonlinear("bottom-up")
    with pytest.raises(ElbowroomError, match="factorises"):
        elbo(case.model, case.guide, case.x, kl="auto", free_bits=0.1, generator=cases.seeded())
    with pytest.raises(ElbowroomError, match="closed form"):
        elbo(case.model, case.guide, case.x, kl="analytic", generator=cases.seeded())


@pytest.mark.parametrize("groups", [2, 5])
def test_balance_where_no_group_carries_anything(groups: int) -> None:
    """Weights of mean 1 out of divergences that are all zero."""
    case = cases.linear((1,) * groups)
    with torch.no_grad():
        for weight in case.guides["top-down"].recognition.parameters():
            weight.zero_()  # q is the prior
    for dtype in (torch.float32, torch.float64):
        model, guide = copy.deepcopy((case.model.to(dtype), case.guides["top-down"].to(dtype)))
        value, parts = elbo_terms(
            model, guide, case.x.to(dtype), kl="auto", beta=0.5, balance=True, generator=cases.seeded()
        )
        torch.testing.assert_close(parts["kl"], torch.zeros_like(parts["kl"]))
        torch.testing.assert_close(value, parts["reconstruction"])


UNGROUPED: dict[str, tuple[str, dict[str, Any]]] = {
    "from the bottom up": ("bottom-up", {"kl": "auto"}),
    "a sampled KL": ("top-down", {"kl": "monte-carlo"}),
    "stl": ("top-down", {"kl": "auto", "estimator": "stl"}),
    "score function": ("top-down", {"kl": "auto", "estimator": "score-function"}),
}


@pytest.mark.parametrize("name", UNGROUPED)
def test_balance_is_refused_where_there_is_no_kl_by_group(name: str) -> None:
    kind, settings = UNGROUPED[name]
    case = cases.nonlinear(kind)
    with pytest.raises(ElbowroomError, match="by group"):
        elbo(case.model, case.guide, case.x, beta=0.5, balance=True, generator=cases.seeded(), **settings)


def test_free_bits_over_the_batch_are_refused_for_one_group() -> None:
    model, guide, x = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match="by group"):
        elbo(model, guide, x, free_bits=0.1, free_bits_over="batch", generator=cases.seeded())


# --- gradients -------------------------------------------------------------------------------------------------------

ELBO_CHOICES: dict[str, dict[str, Any]] = {
    "by-group": {"kl": "auto"},
    "pathwise": {"kl": "monte-carlo"},
    "stl": {"kl": "monte-carlo", "estimator": "stl"},
    "score": {"kl": "monte-carlo", "estimator": "score-function", "num_samples": 4},
}


def _unconstant(guide: Any) -> Tensor:
    """False for weights that would make a deviation depend on what is above it: there the closed form does not hold."""
    marks = copy.deepcopy(guide)
    with torch.no_grad():
        for weight in marks.parameters():
            weight.fill_(1.0)
        heads = [*marks.ladder.conditionals, *getattr(marks, "conditionals", [])]
        heads += [*marks.recognition.heads[1:]] if hasattr(marks, "recognition") else []
        for head in heads:
            head.output.weight[len(head.output.weight) // 2 :] = 0.0
    return torch.cat([weight.detach().flatten() for weight in marks.parameters()]) > 0


@pytest.mark.parametrize(
    ("name", "choice"),
    [*(("top-down", choice) for choice in ELBO_CHOICES), *(("bottom-up", choice) for choice in list(ELBO_CHOICES)[1:])],
)
def test_expected_elbo_gradient_is_the_exact_one(name: str, choice: str) -> None:
    case = cases.linear((1, 2, 1))
    guide = cases.worsened(case.guides[name])
    weights = exact.parameters_of(guide)  # the decoder's are among them
    joint = cases.as_joint_normal(guide, case.x)
    truth = exact.flat_gradient(exact.closed_form_elbo(case.model, joint, case.x, 0.7).mean(), weights)
    generator, many, known = cases.seeded(3), case.x.repeat(20, 1), _unconstant(guide)

    def estimate() -> Tensor:
        return elbo(case.model, guide, many, beta=0.7, generator=generator, **ELBO_CHOICES[choice]).mean()

    drawn = torch.stack([exact.flat_gradient(estimate(), weights)[known] for _ in range(36)])
    difference, stderr = drawn.mean(0) - truth[known], drawn.std(0) / math.sqrt(len(drawn))
    noisy = stderr > 1e-12
    assert difference[~noisy].abs().max() < 1e-9 if bool((~noisy).any()) else True
    assert (difference[noisy] / stderr[noisy]).abs().max() < 5  # 60 components in each of 7 cases; t, 35 degrees


@pytest.mark.parametrize("kind", [*cases.GUIDES, pytest.param("grid", marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimator", ["dreg", "score-function"])
def test_expected_iwae_gradient_is_the_pathwise_one(kind: str, estimator: str) -> None:
    """In all weights, the decoder's that the guide reads among them, with deviations that depend on what is above."""
    case = cases.nonlinear(kind, num_data=2)
    weights, repeats = exact.parameters_of(case.guide), 30
    many = case.x.repeat(30, *[1] * (case.x.dim() - 1))

    def drawn(estimator: str, seed: int) -> Tensor:
        generator = cases.seeded(seed)

        def once() -> Tensor:
            value = iwae(case.model, case.guide, many, num_samples=3, estimator=estimator, generator=generator)
            found: Tensor = exact.flat_gradient(value.mean(), weights)
            return found

        return torch.stack([once() for _ in range(repeats)])

    ours, others = drawn(estimator, 1), drawn("pathwise", 2)
    stderr = ((ours.var(0) + others.var(0)) / repeats).sqrt()
    assert ((ours.mean(0) - others.mean(0)) / stderr)[stderr > 1e-12].abs().max() < 5  # of hundreds; t, 58 degrees


@pytest.mark.parametrize("name", cases.GUIDES)
def test_stl_gradient_vanishes_at_the_posterior(name: str) -> None:
    case = cases.linear((1, 1, 1))
    guide = case.guides[name]
    weights = cases.own_parameters(guide)

    def largest(**choice: Any) -> float:
        value = elbo(case.model, guide, case.x, generator=cases.seeded(), kl="monte-carlo", **choice).mean()
        return float(exact.flat_gradient(value, weights).abs().max())

    assert largest(estimator="stl") < 1e-10
    assert largest() > 1e-2


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("estimator", ["pathwise", "stl", "dreg"])
def test_sharing_the_decoders_state_changes_no_gradient(
    kind: str, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases.nonlinear(kind)
    weights = list({id(w): w for w in [*case.model.parameters(), *case.guide.parameters()]}.values())

    def gradient() -> Tensor:
        value = iwae(case.model, case.guide, case.x, num_samples=3, estimator=estimator, generator=cases.seeded())
        found: Tensor = exact.flat_gradient(value.mean(), weights)
        return found

    shared = gradient()
    for kind_of_guide in (SequentialNormal, ResidualNormal):
        monkeypatch.setattr(kind_of_guide, "shared", lambda self, z: nullcontext())
    torch.testing.assert_close(shared, gradient())
