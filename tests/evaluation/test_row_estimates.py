"""What is estimated of a row is the same to the bit, whichever rows are asked for with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hierarchy_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.evaluation import row_estimates
from elbowroom.evaluation.row_estimates import (
    best_q_estimate,
    elbo_estimate,
    guide_curve,
    guide_estimate,
    laplace_estimate,
    repetition_variance,
)
from elbowroom.model.conditional import Conditional
from elbowroom.model.flows import IafGuide, NsfPrior
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform, PriorGuide
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Bernoulli, Categorical, Gaussian
from elbowroom.model.networks import MLP, ConvDecoder, ConvEncoder, ResidualMLP
from elbowroom.model.oracles import ppca
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior

N = 22
Case = tuple[LatentModel, Conditional, Batch]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _reals(width: int, **more: Any) -> Batch:
    return Batch(torch.randn(N, width, generator=_generator()), torch.arange(N), **more)


def _perceptrons(activation: str, width: int, dim: int) -> Case:
    guide = DiagonalNormal(MLP((dim,), (2, 3), hidden=(width,), activation=activation), 3)
    likelihood = Gaussian(MLP((3,), (1, dim), hidden=(width,), activation=activation), (dim,))
    return LatentModel(StandardNormal(3), likelihood), guide, _reals(dim)


def _few_slots() -> Case:
    """Widths that are multiples of a vector, so that there may be as few as eight slots."""
    guide = DiagonalNormal(MLP((64,), (2, 16), hidden=(32,)), 16)
    likelihood = Gaussian(MLP((16,), (1, 64), hidden=(32,)), (64,))
    return LatentModel(StandardNormal(16), likelihood), guide, _reals(64)


def _bits() -> Case:
    guide = FullNormal(MLP((13,), FullNormal.parameter_shape(2), hidden=(9,), activation="elu"), 2)
    x = (torch.rand(N, 13, generator=_generator()) < 0.4).float()
    likelihood = Bernoulli(MLP((2,), (1, 13), hidden=(9,), activation="gelu"), (13,))
    return LatentModel(MixtureOfGaussians(2, 3, generator=_generator()), likelihood), guide, Batch(x, torch.arange(N))


def _categories() -> Case:
    transform = InputTransform(Support.CATEGORIES, (5,), num_categories=3)
    guide = DiagonalNormal(MLP(transform.out_shape, (2, 2), hidden=(7,)), 2, transform)
    likelihood = Categorical(
        ResidualMLP((2,), Categorical.parameter_shape((5,), num_categories=3), width=6), (5,), num_categories=3
    )
    x = torch.randint(0, 3, (N, 5), generator=_generator())
    return LatentModel(StandardNormal(2), likelihood), guide, Batch(x, torch.arange(N))


def _vamp_with_holes() -> Case:
    guide = DiagonalNormal(MLP((6,), (2, 2), hidden=(5,), activation="silu"), 2)
    prior = VampPrior(guide, torch.randn(4, 6, generator=_generator()), Support.REALS)
    mask = torch.rand(N, 6, generator=_generator(1)) < 0.7
    likelihood = Gaussian(MLP((2,), (1, 6), hidden=(5,), activation="silu"), (6,))
    return LatentModel(prior, likelihood), guide, _reals(6, mask=mask)


def _conditional() -> Case:
    guide = DiagonalNormal(MLP((6,), (2, 2), hidden=(5,), context_dim=2), 2)
    likelihood = Gaussian(MLP((2,), (1, 6), hidden=(5,), context_dim=2), (6,))
    context = torch.randn(N, 2, generator=_generator(2))
    return LatentModel(MixtureOfGaussians(2, 3, context_dim=2), likelihood), guide, _reals(6, context=context)


def _pictures() -> Case:
    guide = DiagonalNormal(ConvEncoder((1, 8, 8), (2, 2), channels=(4,)), 2)
    likelihood = Bernoulli(ConvDecoder((2,), (1, 1, 8, 8), channels=(4,)), (1, 8, 8))
    x = (torch.rand(N, 1, 8, 8, generator=_generator()) < 0.4).float()
    return LatentModel(StandardNormal(2), likelihood), guide, Batch(x, torch.arange(N))


class _Square(nn.Module):
    """z -> (z², z)."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.cat([z.square(), z], -1).unsqueeze(-2)


def _two_modes() -> Case:
    """Where z itself was not observed its sign is open, and the posterior has two modes."""
    model = LatentModel(StandardNormal(1), Gaussian(_Square(), (2,), scale=0.05))
    mask = torch.ones(N, 2, dtype=torch.bool)
    mask[::3, 1] = False
    return model, PriorGuide(model.prior), Batch(torch.ones(N, 2), torch.arange(N), mask=mask)


def _flows() -> Case:
    guide = IafGuide(MLP((6,), IafGuide.parameter_shape(3), hidden=(8,)), 3, width=16)
    likelihood = Gaussian(MLP((3,), (1, 6), hidden=(8,)), (6,))
    return LatentModel(NsfPrior(3, width=16), likelihood), guide, _reals(6)


def _hierarchy(kind: str) -> Case:
    case = cases.nonlinear(kind, prior="mixture", num_data=N, double=False)
    return case.model, case.guide, Batch(case.x, torch.arange(N))


def _without_guide() -> Case:
    model, _, batch = _perceptrons("relu", 8, 5)
    return model, PriorGuide(model.prior), batch


CASES: dict[str, Callable[[], Case]] = {
    "softplus, odd widths": lambda: _perceptrons("softplus", 7, 5),
    "silu, wide": lambda: _perceptrons("silu", 48, 30),
    "few slots": _few_slots,
    "tanh": lambda: _perceptrons("tanh", 16, 8),
    "bits, mixture, full guide": _bits,
    "categories": _categories,
    "vamp, holes": _vamp_with_holes,
    "context": _conditional,
    "convolutions": _pictures,
    "flows": _flows,
    "no guide": _without_guide,
    "two modes": _two_modes,
    **{f"hierarchy, {kind}": functools.partial(_hierarchy, kind) for kind in cases.KINDS},
}
ESTIMATES: dict[str, Callable[[Case], dict[str, Tensor]]] = {
    "elbo": lambda case: elbo_estimate(*case, num_samples=1, seed=3),
    "elbo, many draws": lambda case: elbo_estimate(*case, num_samples=700, seed=3),  # 512 at once, then the rest
    "iwae": lambda case: guide_estimate(*case, k=25, seed=3),
    "iwae, many draws": lambda case: guide_estimate(*case, k=1000, seed=3),
    "laplace-is": lambda case: laplace_estimate(*case, k=21, starts=3, seed=3),
    "room": lambda case: best_q_estimate(*case, seed=3),
    "k-curve": lambda case: guide_curve(*case, ks=(1, 5, 25), seed=3),
}


QUICK = {*((made, name) for made in CASES for name in ("elbo", "iwae"))} | {
    ("silu, wide", "k-curve"),
    *(("few slots", name) for name in ("elbo, many draws", "iwae, many draws", "laplace-is", "room", "k-curve")),
    ("softplus, odd widths", "room"),
    ("bits, mixture, full guide", "room"),
    *((made, "laplace-is") for made in ("softplus, odd widths", "bits, mixture, full guide", "two modes")),
}


@pytest.mark.parametrize(
    ("made", "name"),
    [
        pytest.param(made, name, marks=[] if (made, name) in QUICK else pytest.mark.slow)
        for made in CASES
        for name in ESTIMATES
        if not (made.startswith("hierarchy") and name == "room")  # the best normal is of another family
    ],
)
def test_a_row_has_the_same_bits_whichever_others_come_with_it(made: str, name: str) -> None:
    torch.manual_seed(0)
    model, guide, batch = CASES[made]()
    estimate = ESTIMATES[name]
    with evaluation_mode(model, guide):
        whole = estimate((model, guide, batch))
        for rows in ([5], [21, 2, 14], list(range(14, 3, -1))):
            some = estimate((model, guide, batch.rows(torch.tensor(rows))))
            for column, values in some.items():
                torch.testing.assert_close(values, whole[column][rows], rtol=0, atol=0, equal_nan=True)
    assert len(next(iter(whole.values()))) == N


def test_more_rows_than_a_block_holds_are_all_there_in_order() -> None:
    model, guide, x = ppca(4, 2, seed=1, num_data=2 * row_estimates.BATCH + 9)
    found = guide_estimate(model, guide, Batch(x), k=300, seed=0)
    z = (found["log_evidence"] - model.log_evidence(x)) / found["stderr"]
    assert len(z) == len(x)
    assert z.square().mean().sqrt() < 1.2


def test_equal_rows_have_equal_draws_and_others_do_not() -> None:
    model, guide, x = ppca(4, 2, seed=1, num_data=6)
    x[3] = x[0]
    value = guide_estimate(model, guide, Batch(x), k=50, seed=0)["log_evidence"]
    assert value[3] == value[0]
    other_seed = guide_estimate(model, guide, Batch(x), k=50, seed=1)["log_evidence"]
    assert not bool((value == other_seed).any())
    # the same values under another mask are another row
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, 2] = False
    plain, masked = (
        row_estimates._noise_seeds(batch, "iwae", 0, apart=False) for batch in (Batch(x), Batch(x, mask=mask))
    )
    assert [one == other for one, other in zip(plain, masked, strict=True)] == mask.all(1).tolist()


def test_a_single_draw_of_equal_rows_is_not_the_same() -> None:
    """Its error is unknown, so that a mean could not count the noise that equal rows share."""
    model, guide, x = ppca(4, 2, seed=1, num_data=1)
    copies = Batch(x.expand(200, -1), torch.arange(200))
    values = guide_estimate(model, guide, copies, k=1, seed=0)["log_evidence"]
    assert len(values.unique()) == 200
    assert len(laplace_estimate(model, guide, copies, k=1, starts=1, seed=0)["log_evidence"].unique()) > 100


def test_repetition_adds_the_noise_that_equal_rows_share() -> None:
    values, stderr = torch.tensor([1.0, 2.0, 2.0, 2.0]), torch.tensor([9.0, 0.5, 0.5, 0.5])
    # var of (v + 3 w) / 4 is (81 + 9 · 0.25) / 16, of which (81 + 3 · 0.25) / 16 is counted row by row
    assert repetition_variance(values, stderr) == pytest.approx(6 * 0.25 / 16)
    assert repetition_variance(torch.arange(3.0), torch.full((3,), math.nan)) == 0.0


def test_rows_that_are_not_finite_leave_the_others_as_they_are() -> None:
    torch.manual_seed(0)
    model, guide, batch = _perceptrons("softplus", 7, 5)
    spoilt = batch.x.clone()
    spoilt[[4, 20]] = 3e38
    with evaluation_mode(model, guide):
        whole = laplace_estimate(model, guide, batch, k=30, starts=2, seed=0)["log_evidence"]
        found = laplace_estimate(model, guide, Batch(spoilt), k=30, starts=2, seed=0)["log_evidence"]
    assert found.isnan().nonzero().flatten().tolist() == [4, 20]
    assert torch.equal(found[found.isfinite()], whole[found.isfinite()])


@pytest.mark.parametrize("estimate", [guide_estimate, laplace_estimate])
def test_a_whole_row_does_not_know_whether_others_have_holes(estimate: Callable[..., dict[str, Tensor]]) -> None:
    model, guide, batch = _perceptrons("tanh", 4, 6)
    mask = torch.ones(N, 6, dtype=torch.bool)
    mask[3, 2] = False
    more = {"starts": 1} if estimate is laplace_estimate else {}
    with evaluation_mode(model, guide):
        plain = estimate(model, guide, batch, k=20, seed=0, **more)["log_evidence"]
        beside = estimate(model, guide, Batch(batch.x, batch.index, mask=mask), k=20, seed=0, **more)["log_evidence"]
    assert (plain == beside).tolist() == mask.all(1).tolist()
