"""log p of an element given the others: against closed forms, sums over classes and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.left_out import (
    LeftOutEstimate,
    draws_in_all,
    left_out_estimate,
    left_out_exactly,
    left_out_proposal,
)
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.latent import LatentModel
from elbowroom.model.left_out import left_out
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, quadrature_log_evidence
from elbowroom.model.table.likelihood import Table
from mixture_cases import mixture, mixture_model, some_z, spread_out
from table_cases import COLUMNS, seeded

ROWS, DIM, LATENT, NOISE = 90, 6, 2, 0.2


def without(x: Tensor, place: int) -> Tensor:
    """The mask that leaves one element out."""
    return (torch.arange(x.shape[1]) != place).expand(x.shape)


def exact(model: LinearGaussian, x: Tensor, mask: Tensor) -> Tensor:
    """log p(x_d | x_-d) by the closed form of both; 0 where nothing was observed."""
    whole = model.log_evidence(x, mask)
    return torch.stack([whole - model.log_evidence(x, mask & without(x, d)) for d in range(x.shape[1])], 1).detach()


def scene() -> tuple[LinearGaussian, Tensor, Tensor]:
    """Rows of a linear-Gaussian model, a third with an element ten deviations of the noise off, a few with holes."""
    weight = torch.randn(DIM, LATENT, generator=seeded(1), dtype=torch.float64)
    model = LinearGaussian(weight, torch.zeros(DIM, dtype=torch.float64), NOISE)
    x = model.sample(ROWS, generator=seeded(2)).x
    x[: ROWS // 3, 0] += 10 * NOISE
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[::9, 2:4] = False
    return model, torch.where(mask, x, 0.0), mask


def estimated(model: LatentModel, q: Distribution, batch: Batch, k: int = 300) -> LeftOutEstimate:
    return left_out_estimate(model, q, batch, num_samples=k, generator=seeded(3))


def test_conditionals_of_a_linear_gaussian_model_are_exact_within_their_errors() -> None:
    model, x, mask = scene()
    batch = Batch(x, mask=mask)
    found = estimated(model, left_out_proposal(model, None, batch, torch.zeros(()), generator=seeded(4)), batch)
    z = ((found.log_conditional - exact(model, x, mask)) / found.stderr)[mask]
    assert z.square().mean().sqrt() == pytest.approx(1, abs=0.12)
    assert found.stderr[mask].max() < 0.4
    assert bool((found.log_conditional[~mask] == 0).all())
    assert bool((found.ess > 20).all())


def test_draws_for_the_posterior_of_the_whole_row_alone_are_nats_off_and_show_it() -> None:
    """The harmonic mean of p(x_d | z): why the proposal also covers the posteriors without an element."""
    model, x, mask = scene()
    found = estimated(model, model.posterior(x, mask), Batch(x, mask=mask))
    odd = slice(ROWS // 3), 0
    error = (found.log_conditional - exact(model, x, mask))[odd]
    assert error.square().mean().sqrt() > 1
    assert bool((found.pareto_k[odd] > 0.7).double().mean() > 0.8)


def table_of_classes() -> tuple[LatentModel, Tensor]:
    """A latent class model of columns of several kinds, and rows with holes."""
    columns = [COLUMNS[name] for name in ("real", "positive-atom", "count", "ordinal", "category", "cells")]
    space = CodeSpace(1, 4)
    network = MLP((space.dim,), Table.parameter_shape((len(columns),), columns=columns), hidden=())
    model = LatentModel(UnigramCodes(space), Table(network, columns)).double().eval()
    spread_out(model)
    x = model.sample(30, generator=seeded(5)).x
    x[::5, 1] = torch.nan
    return model, x


def test_conditionals_of_a_latent_class_model_are_sums_over_its_classes() -> None:
    model, x = table_of_classes()
    found = left_out_exactly(model, Batch(x))
    z = torch.eye(4, dtype=torch.float64).unsqueeze(1).expand(-1, len(x), -1)
    whole = model.log_joint(x, z).logsumexp(0)
    for place in range(x.shape[1]):
        rest = model.log_joint(x, z, mask=without(x, place) & ~x.isnan()).logsumexp(0)
        torch.testing.assert_close(found.log_conditional[:, place], whole - rest)
    assert bool((found.stderr == 0).all() & found.ess.isinf().all())


def test_conditionals_of_a_mixture_agree_with_quadrature() -> None:
    """The component is summed out of x and of x without an element, not out of one of them."""
    model = mixture_model()
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    batch = Batch(x)
    q = left_out_proposal(model, None, batch, torch.zeros(()), generator=seeded())
    found = estimated(model, q, batch, k=2000)
    whole = quadrature_log_evidence(model, x)
    for place in range(4):  # of a binary element, p(x_-d) sums over both of its values
        other = x.clone()
        other[:, place] = 1 - other[:, place]
        rest = torch.logaddexp(whole, quadrature_log_evidence(model, other))
        z = (found.log_conditional[:, place] - (whole - rest)) / found.stderr[:, place]
        assert bool((z.abs() < 4).all())


def test_what_is_left_out_of_a_mixture_given_z() -> None:
    """An element that is masked and one that is left out are the same, and what is missing changes nothing."""
    p_x = mixture()(some_z(5, 1))
    x = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(5, -1)
    mask = torch.tensor([True, True, False, True]).expand(5, -1)
    found = left_out(p_x, x, mask)
    torch.testing.assert_close(found.whole, p_x.total_log_prob(x, mask))
    for place in range(4):
        torch.testing.assert_close(found.rest[:, place], p_x.total_log_prob(x, mask & without(x, place)))


def test_an_impossible_value_leaves_the_others_finite() -> None:
    column = COLUMNS["positive"]
    network = MLP((1,), Table.parameter_shape((2,), columns=[column] * 2), hidden=())
    p_x = Table(network, [column, column]).double()(torch.zeros(1, 1, dtype=torch.float64))
    found = left_out(p_x, torch.tensor([[-1.0, 20.0]], dtype=torch.float64))
    assert found.rest[0].isfinite().tolist() == [True, False]
    assert float(found.whole[0].detach()) == -math.inf


def test_there_are_a_tenth_more_draws_for_each_element() -> None:
    assert draws_in_all(20, 7) == 34
    model, x, _ = scene()
    with pytest.raises(ElbowroomError, match="samples"):
        left_out_estimate(model, model.posterior(x), Batch(x), num_samples=0)
