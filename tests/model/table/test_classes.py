"""σ per element, and the M steps of the families: each raises the objective of EM, and those in closed form reach its
top."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.draws import draw, mean
from elbowroom.model.table.likelihood import Table
from table_cases import COLUMNS, Output, laid_out, output_for, seeded, table, values_and_weights

NUMBERS = [case for case, column in COLUMNS.items() if column.cells or column.kind not in (
    ColumnKind.PROPORTION, ColumnKind.COUNT, ColumnKind.BINARY, ColumnKind.ORDINAL, ColumnKind.CATEGORY)]  # fmt: skip
PRIOR = ClassPrior(rows=2.5, of_mean=0.3, of_scale=2.0, scale=0.5)  # all other than 1, which hides mistakes


def wide(columns: list[Column], output: Tensor, **options: Any) -> Table:
    return Table(Output(output), columns, scale="per-element", **options).double()


def own(case: str, *lead: int, seed: int = 3) -> Tensor:
    shape = Table.parameter_shape((1,), columns=[COLUMNS[case]], scale="per-element")
    return torch.randn((*lead, *shape), generator=seeded(seed), dtype=torch.float64)


# --- σ per element ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tails", ["wide", "none"])
@pytest.mark.parametrize("case", NUMBERS)
def test_with_a_scale_of_its_own_a_column_sums_to_one_and_its_information_is_that_of_the_score(
    case: str, tails: str
) -> None:
    output = own(case, 1)
    likelihood = wide([COLUMNS[case]], output, tails=tails)
    x, weight = values_and_weights(COLUMNS[case], float(output[0, 0, 0]))
    keep = laid_out(likelihood).log_prob(x).squeeze(1) > -600
    x, weight = x[keep], weight[keep]
    copies = output.repeat(len(x), 1, 1).requires_grad_()
    log_p = laid_out(wide([COLUMNS[case]], copies, tails=tails)).log_prob(x)
    (score,) = torch.autograd.grad(log_p.sum(), copies)
    p = (weight * log_p.detach().exp()).unsqueeze(-1)
    assert float(p.sum()) == pytest.approx(1, abs=2e-6)
    found = likelihood.fisher_information(output)[0, :, :, 0]
    torch.testing.assert_close(found, (p * score * score.mT).sum(0), rtol=2e-5, atol=1e-7)
    if case not in ("positive", "positive-grid", "positive-atom"):  # whose mean is beyond any grid
        torch.testing.assert_close(mean(laid_out(likelihood))[0, 0], (p[:, :, 0] * x).sum(), rtol=1e-5, atol=1e-6)


def test_draws_have_the_scale_that_the_network_gives() -> None:
    column = COLUMNS["real"]
    output = torch.tensor([[[0.0], [-1.0]], [[0.0], [2.0]]], dtype=torch.float64)
    likelihood = wide([column], output, tails="none")
    scale = likelihood.parts()[0].family.spread.scale_at(output[:, 1])  # type: ignore[union-attr,operator]
    x = (draw(laid_out(likelihood), (20_000,), generator=seeded())[..., 0] - column.shift) / column.unit
    torch.testing.assert_close(x.std(0), scale[:, 0].detach(), rtol=0.03, atol=0)


# --- M steps ---------------------------------------------------------------------------------------------------------


def scene(case: str, scale: str, tails: str) -> tuple[Table, Tensor, Tensor, Tensor, Tensor]:
    """A table of one column, output of two classes, values with holes, weights, and a centre."""
    column = COLUMNS[case]
    x = draw(laid_out(table([column], output_for([column], 2, scale=2.0))), (40,), generator=seeded()).flatten(0, 1)
    x[::7] = torch.nan
    likelihood = Table(Output(torch.zeros(1)), [column], scale=scale, tails=tails).double()  # type: ignore[arg-type]
    shape = Table.parameter_shape((1,), columns=[column], scale=scale)  # type: ignore[arg-type]
    likelihood.network.out_shape = shape  # type: ignore[assignment]
    centre = torch.zeros(shape, dtype=torch.float64)
    for places, family in likelihood.parts():
        centre[: family.num_rows, places] = family.start(x[:, places])
    weights = torch.rand(2, len(x), generator=seeded(1), dtype=torch.float64)
    output = centre + torch.randn(2, *shape, generator=seeded(2), dtype=torch.float64)
    return likelihood, output, x, weights / weights.sum(0), centre


def objective(likelihood: Table, output: Tensor, x: Tensor, weights: Tensor, centre: Tensor) -> Tensor:
    log_p = likelihood.distribution(*output.unsqueeze(1).unbind(-2)).log_prob(x).sum(-1)
    return (weights * log_p).sum() + likelihood.log_class_prior(output, PRIOR, centre)


@pytest.mark.parametrize(("scale", "tails"), [("per-element", "wide"), ("per-element", "none"), ("learned", "wide")])
@pytest.mark.parametrize("case", COLUMNS)
def test_an_m_step_never_lowers_what_it_maximises(case: str, scale: str, tails: str) -> None:
    likelihood, output, x, weights, centre = scene(case, scale, tails)
    values = [float(objective(likelihood, output, x, weights, centre).detach())]
    for _ in range(4):
        output = likelihood.maximise(output, x, weights, PRIOR, centre)
        values.append(float(objective(likelihood, output, x, weights, centre).detach()))
    assert all(after > before - 1e-9 * len(x) for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 0.1


@pytest.mark.parametrize(
    "case", ["real", "real-atom", "positive-grid", "binary", "category-long", "cells", "cells-atom"]
)
@pytest.mark.parametrize("tails", ["wide", "none"])
def test_an_m_step_stays_where_the_gradient_is_zero(case: str, tails: str) -> None:
    """The priors are the ones that are written down: one mistaken count, and the step would leave their mode."""
    likelihood, output, x, weights, centre = scene(case, "per-element", tails)
    leaf = output.requires_grad_()
    spread = getattr(getattr(likelihood.families[0], "rest", likelihood.families[0]), "spread", None)
    shares = [] if spread is None or spread.raw_share is None else [spread.raw_share]
    method = torch.optim.LBFGS([leaf, *shares], max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-13,
                               history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Tensor:
        method.zero_grad()
        loss = -objective(likelihood, leaf, x, weights, centre)
        loss.backward()
        return loss

    method.step(closure)  # type: ignore[arg-type]
    top, share = leaf.detach().clone(), [raw.detach().clone() for raw in shares]
    found = likelihood.maximise(top, x, weights, PRIOR, centre)
    log_p = [likelihood.distribution(*each.unsqueeze(1).unbind(-2)).log_prob(x) for each in (found, top)]
    torch.testing.assert_close(log_p[0], log_p[1], rtol=0, atol=2e-5)  # logits of a softmax have a common shift
    for before, after in zip(share, shares, strict=True):
        torch.testing.assert_close(after.detach(), before, rtol=0, atol=2e-5)


def test_classes_without_rows_stay_at_the_centre() -> None:
    for case in ("real", "cells", "binary", "category", "real-atom"):
        likelihood, output, x, _, centre = scene(case, "per-element", "wide")
        found = likelihood.maximise(output, x, torch.stack([torch.ones(len(x)), torch.zeros(len(x))]), PRIOR, centre)
        family = likelihood.parts()[0].family
        assert found.isfinite().all()
        at = laid_out_rows(likelihood, torch.stack([found[1], centre]))
        if case in ("binary", "category"):
            torch.testing.assert_close(at[0], at[1])
        else:  # a class's deviation is expected to be a part of the column's
            torch.testing.assert_close(found[1, 0], centre[0])
            spread = getattr(family, "rest", family).spread
            ratio = spread.scale_at(found[1, 1]) / spread.scale_at(centre[1])
            assert float(ratio.detach()) == pytest.approx(PRIOR.scale, rel=1e-6)


def laid_out_rows(likelihood: Table, output: Tensor) -> Tensor:
    return mean(likelihood.distribution(*output.unbind(-2)))


def test_shares_with_weights_are_those_of_repeated_rows() -> None:
    """Whole weights say how often a row is there."""
    case = "category"
    likelihood, output, x, _, centre = scene(case, "per-element", "wide")
    often = torch.arange(len(x)) % 3
    weighted = likelihood.maximise(output[:1], x, often.double().unsqueeze(0), PRIOR, centre)
    repeated = x.repeat_interleave(often, 0)
    again = likelihood.maximise(output[:1], repeated, torch.ones(1, len(repeated)).double(), PRIOR, centre)
    torch.testing.assert_close(weighted, again)
    start = likelihood.parts()[0].family.start(repeated)
    flat = likelihood.maximise(output[:1], x, often.double().unsqueeze(0), PRIOR, None)[0]
    torch.testing.assert_close(flat[: len(start)], start)


def test_moments_with_weights_are_those_of_a_normal_column() -> None:
    likelihood, output, x, weights, centre = scene("real", "per-element", "none")
    seen = ~x[:, 0].isnan()
    y = (x[seen, 0] - COLUMNS["real"].shift) / COLUMNS["real"].unit
    found = likelihood.maximise(output, x, weights, PRIOR, centre)
    spread = likelihood.families[0].spread
    variance = spread.scale_at(centre[1]).square()
    for k in range(2):
        w = weights[k, seen]
        mu = ((w * y).sum() + PRIOR.of_mean * centre[0]) / (w.sum() + PRIOR.of_mean)
        squares = (w * (y - mu).square()).sum() + PRIOR.of_mean * (mu - centre[0]).square()
        expected = (squares + PRIOR.of_scale * PRIOR.scale**2 * variance) / (w.sum() + PRIOR.of_scale)
        torch.testing.assert_close(found[k, 0], mu)
        torch.testing.assert_close(spread.scale_at(found[k, 1]).square(), expected, check_dtype=False)
