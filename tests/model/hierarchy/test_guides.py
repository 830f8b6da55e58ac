"""Guides of hierarchies: at the posterior the weights are constant; context, precision and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import hierarchy_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.model.draws import draw
from elbowroom.model.hierarchy.guides import BottomUpGuide
from elbowroom.model.networks import MLP
from elbowroom.model.noise import Prepared


@pytest.mark.parametrize("name", cases.GUIDES)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 1, 1), (1, 1, 1, 1)], ids=str)
def test_exact_guide_has_constant_weights(name: str, sizes: tuple[int, ...]) -> None:
    case = cases.linear(sizes)
    q = case.guides[name](case.x)
    u = draw(q, (20,), generator=cases.seeded())
    log_w = case.model.log_joint(case.x, u) - q.log_prob(u)
    torch.testing.assert_close(log_w, case.model.log_evidence(case.x).expand_as(log_w), rtol=0, atol=1e-10)
    torch.testing.assert_close(q.log_prob(u), case.model.posterior(case.x).log_prob(u), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_density_is_that_of_the_draws(kind: str) -> None:
    """log q(u) = log N(ε) − log |det ∂u/∂ε|, by automatic differentiation of the draw itself."""
    case = cases.nonlinear(kind, num_data=1)
    sizes = cases.sizes_drawn(case.guide, case.x)
    noise = torch.randn(sum(sizes), generator=cases.seeded(), dtype=torch.float64)

    def drawn(noise: Tensor) -> Tensor:
        u: Tensor = case.guide(case.x).rsample((), Prepared(noise[None].split_with_sizes(sizes, -1)))
        return u[0]

    jacobian = torch.autograd.functional.jacobian(drawn, noise)
    log_density = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(case.guide(case.x).log_prob(drawn(noise)[None])[0], log_density)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_context_is_used(kind: str) -> None:
    case = cases.nonlinear(kind, context_dim=2)
    apart = case.guide(case.x, case.context).mean - case.guide(case.x, case.context + 1).mean
    assert apart.abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("kind", cases.KINDS)
def test_an_example_does_not_depend_on_the_others(kind: str) -> None:
    case = cases.nonlinear(kind, context_dim=2)
    u = draw(case.guide(case.x, case.context), (3,), generator=cases.seeded())
    alone = case.guide(case.x[2:3], case.context[2:3]).log_prob(u[:, 2:3])
    torch.testing.assert_close(alone, case.guide(case.x, case.context).log_prob(u)[:, 2:3])


def test_without_x_there_is_no_guide() -> None:
    case = cases.nonlinear("top-down")
    with pytest.raises(ElbowroomError, match="without x"):
        case.guide(None)


def test_no_way_up_a_grid() -> None:
    case = cases.nonlinear("grid")
    with pytest.raises(ElbowroomError, match="its groups are on a grid"):
        BottomUpGuide(MLP((8, 8), (2, 8)), case.ladder)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_lower_precision_while_training_only(kind: str) -> None:
    case = cases.nonlinear(kind, double=False)
    exact = case.guide(case.x).rsample((), cases.seeded())
    case.ladder.autocast = case.guide.network.autocast = torch.bfloat16
    lowered = case.guide(case.x).rsample((), cases.seeded())
    assert lowered.dtype == torch.float32
    assert 0 < (lowered - exact).abs().max() < 0.2
    with torch.no_grad():
        assert torch.equal(case.guide(case.x).rsample((), cases.seeded()), exact)
