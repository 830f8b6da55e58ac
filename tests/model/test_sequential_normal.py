"""Distributions of groups: density against a joint normal, draws against density, rows, clones, blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

import hierarchy_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.initial import rows_of
from elbowroom.model.draws import detach, draw
from elbowroom.model.priors import MixtureOfGaussians
from elbowroom.model.sequential_normal import BlockDistribution, Choose, SequentialNormal, blocks_of


def affine_walk(choose: Choose) -> None:
    """z_1 ~ N(1, 0.5²), z_2 | z_1 ~ N(2 z_1, 0.25²), of two examples."""
    like = torch.zeros(2, 1, dtype=torch.float64)
    first = choose(like + 1.0, like + 0.5)
    choose(2 * first, (like + 0.25).expand_as(first))


def joint() -> MultivariateNormal:
    factor = torch.tensor([[0.5, 0.0], [1.0, 0.25]], dtype=torch.float64)
    return MultivariateNormal(torch.tensor([1.0, 2.0], dtype=torch.float64), scale_tril=factor)


def two_groups() -> SequentialNormal:
    return SequentialNormal(affine_walk, (1, 1), torch.zeros(2, 1, dtype=torch.float64))


def test_density_is_that_of_the_joint_normal() -> None:
    z = torch.randn(7, 2, 2, generator=cases.seeded(), dtype=torch.float64)
    torch.testing.assert_close(two_groups().log_prob(z), joint().log_prob(z))


def test_draws_have_the_moments_of_the_joint_normal() -> None:
    z = draw(two_groups(), (20_000,), generator=cases.seeded()).flatten(0, 1)
    n = len(z)
    of_mean = (z.mean(0) - joint().mean) / (z.std(0) / math.sqrt(n))
    away = z - joint().mean
    products = torch.einsum("ni,nj->nij", away, away)
    of_covariance = (products.mean(0) - joint().covariance_matrix) / (products.std(0) / math.sqrt(n))
    assert of_mean.abs().max() < 4
    assert of_covariance.abs().max() < 4


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_draw_that_was_changed_in_place_has_a_density_of_its_own(kind: str) -> None:
    case = cases.nonlinear(kind)
    q = case.guide(case.x)
    z = q.sample((2,), cases.seeded())
    with torch.no_grad():
        z += 0.5
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


@pytest.mark.parametrize("kind", cases.KINDS)
def test_rows_of_what_is_detached_are_detached(kind: str) -> None:
    case = cases.nonlinear(kind)
    q = case.guide(case.x)
    z = q.sample((2,), cases.seeded())
    for rows in (q.detached().rows(slice(2, 4)), q.rows(slice(2, 4)).detached(), q.detached().detached().rows([2, 3])):
        log_q = rows.log_prob(z[:, 2:4])
        torch.testing.assert_close(log_q, q.log_prob(z)[:, 2:4].detach())
        assert not log_q.requires_grad


def test_moments_are_those_along_the_means() -> None:
    q = two_groups()
    assert q.mean.tolist() == [[1.0, 2.0]] * 2
    assert q.stddev.tolist() == [[0.5, 0.25]] * 2
    assert q.variance.tolist() == [[0.25, 0.0625]] * 2


@pytest.mark.parametrize("kind", cases.KINDS)
def test_density_of_draws_is_that_of_their_copies(kind: str) -> None:
    case = cases.nonlinear(kind)
    q = case.guide(case.x)
    z = draw(q, (3,), generator=cases.seeded())
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))
    torch.testing.assert_close(q.log_prob(z), case.guide(case.x).log_prob(z))


@pytest.mark.parametrize("kind", cases.KINDS)
def test_density_of_draws_without_a_gradient_has_one(kind: str) -> None:
    case = cases.nonlinear(kind)
    q = case.guide(case.x)
    with torch.no_grad():
        z = draw(q, (3,), generator=cases.seeded())
    assert q.log_prob(z).requires_grad
    weights = cases.own_parameters(case.guide)
    found = torch.autograd.grad(q.log_prob(z).sum(), weights)
    known = torch.autograd.grad(case.guide(case.x).log_prob(z.clone()).sum(), weights)
    torch.testing.assert_close(found, known)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_draws_are_reproducible_and_sample_has_no_gradient(kind: str) -> None:
    case = cases.nonlinear(kind)
    first, again = (case.guide(case.x).rsample((2,), cases.seeded()) for _ in range(2))
    assert torch.equal(first, again)
    assert first.requires_grad
    drawn = case.guide(case.x).sample((2,), cases.seeded())
    assert torch.equal(drawn, first)
    assert not drawn.requires_grad


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("index", [torch.tensor([4, 1]), slice(2, 4)], ids=["positions", "slice"])
def test_rows_are_the_distributions_of_these_examples(kind: str, index: Tensor | slice) -> None:
    case = cases.nonlinear(kind, context_dim=2)
    q = case.guide(case.x, case.context)
    z = draw(q, (3,), generator=cases.seeded())
    chosen = rows_of(q, index)
    assert chosen.batch_shape == (2,)
    torch.testing.assert_close(chosen.log_prob(z[:, index]), q.log_prob(z)[:, index])


@pytest.mark.parametrize("kind", cases.KINDS)
def test_detached_weights_take_no_gradient_and_z_does(kind: str) -> None:
    case = cases.nonlinear(kind)
    q = case.guide(case.x)
    z = draw(q, (2,), generator=cases.seeded()).detach().requires_grad_()
    torch.testing.assert_close(detach(q).log_prob(z), q.log_prob(z))
    weights = list(case.guide.parameters())
    *none, by_z = torch.autograd.grad(detach(q).log_prob(z).sum(), [*weights, z], allow_unused=True)
    assert all(gradient is None for gradient in none)
    (known,) = torch.autograd.grad(q.log_prob(z).sum(), z)
    torch.testing.assert_close(by_z, known)


def test_mean_and_deviation_from_the_bottom_up_are_near_those_of_draws() -> None:
    case = cases.linear((1, 1, 1))
    q = case.guides["bottom-up"](case.x)
    torch.testing.assert_close(q.mean, case.model.posterior(case.x).mean)
    # of u_l alone, with every other z at its mean: σ_l / s_l
    scales = torch.stack([1.0 * torch.ones(()), *(c.output.bias[1].exp() for c in case.model.ladder.conditionals)])
    torch.testing.assert_close(q.stddev, q.base.stddev.flip(-1) / scales)


def test_what_is_not_known_is_said() -> None:
    with pytest.raises(ElbowroomError, match="no such walk"):
        detach(two_groups())
    with pytest.raises(ElbowroomError, match="one walk for all"):
        two_groups().rows(slice(1))


# --- blocks ----------------------------------------------------------------------------------------------------------


def blocks() -> BlockDistribution:
    torch.manual_seed(0)
    mixture = MixtureOfGaussians(2, 3)(None)
    return BlockDistribution([mixture, Independent(Normal(torch.ones(3), 2 * torch.ones(3)), 1)])


def test_blocks_are_independent() -> None:
    p, z = blocks(), torch.randn(6, 5, generator=cases.seeded())
    top, below = p.blocks
    torch.testing.assert_close(p.log_prob(z), top.log_prob(z[:, :2]) + below.log_prob(z[:, 2:]))
    drawn = draw(p, (20_000,), generator=cases.seeded())
    assert ((drawn.mean(0) - p.mean) / (drawn.std(0) / math.sqrt(len(drawn)))).abs().max() < 4
    covariance = torch.einsum("ni,nj->nij", drawn[:, :2] - p.mean[:2], drawn[:, 2:] - p.mean[2:])
    assert (covariance.mean(0) / (covariance.std(0) / math.sqrt(len(drawn)))).abs().max() < 4
    torch.testing.assert_close(drawn.var(0), p.variance, rtol=0.05, atol=0)


def test_blocks_expand() -> None:
    wide = blocks().expand((4,))
    assert wide.batch_shape == (4,)
    assert wide.log_prob(torch.zeros(7, 4, 5)).shape == (7, 4)
    torch.testing.assert_close(wide.log_prob(torch.zeros(4, 5)), blocks().log_prob(torch.zeros(4, 5)))
    assert rows_of(wide, torch.tensor([1, 3])).batch_shape == (2,)


def test_a_prior_as_blocks_for_every_group() -> None:
    cut = blocks_of(blocks(), (2, 1, 2))
    assert cut is not None
    assert [block.event_shape[0] for block in cut] == [2, 1, 2]
    z = torch.randn(6, 5, generator=cases.seeded())
    torch.testing.assert_close(
        sum(block.log_prob(part) for block, part in zip(cut, z.split([2, 1, 2], -1), strict=True)), blocks().log_prob(z)
    )
    assert blocks_of(blocks(), (1, 4)) is None
    assert blocks_of(MixtureOfGaussians(5, 3)(None), (2, 3)) is None
