"""The oracle itself: evidence by importance sampling and by quadrature, posterior by Bayes' rule."""

from __future__ import annotations

import pytest
import torch

import hierarchy_cases as cases
from elbowroom.model.oracles import quadrature_log_evidence


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (1, 2, 1)], ids=str)
def test_bayes_rule_holds_everywhere(sizes: tuple[int, ...]) -> None:
    case = cases.linear(sizes)
    u = torch.randn(5, 3, sum(sizes), generator=cases.seeded(), dtype=torch.float64)
    log_w = case.model.log_joint(case.x, u) - case.model.posterior(case.x).log_prob(u)
    torch.testing.assert_close(log_w, case.model.log_evidence(case.x).expand_as(log_w))


def test_evidence_is_that_of_quadrature() -> None:
    case = cases.linear((1, 1))
    torch.testing.assert_close(quadrature_log_evidence(case.model, case.x), case.model.log_evidence(case.x))


def test_evidence_of_observed_elements() -> None:
    case = cases.linear((1, 1))
    mask = torch.tensor([[True, False, True, True]] * 3)
    known = quadrature_log_evidence(case.model, case.x, mask=mask)
    torch.testing.assert_close(case.model.log_evidence(case.x, mask), known)


@pytest.mark.parametrize("name", cases.GUIDES)
def test_guide_of_wider_groups_is_near_the_posterior(name: str) -> None:
    """Within a group the latents depend on each other given x; means are exact, and the bound is a nat or two lower."""
    case = cases.linear((2, 3))
    q = case.guides[name](case.x)
    torch.testing.assert_close(q.mean, case.model.posterior(case.x).mean)
    u = q.sample((2_000,), cases.seeded())
    lost = case.model.log_evidence(case.x) - (case.model.log_joint(case.x, u) - q.log_prob(u)).mean(0)
    assert ((lost > 0.1) & (lost < 4)).all()
