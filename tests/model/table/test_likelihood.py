"""A table is the product of its columns' own densities, each of which sums to one, in its column's units."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import quadrature_log_evidence
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.continuous import NormalColumns
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform
from table_cases import COLUMNS, Output, laid_out, output_for, seeded, single, table, values_and_weights

ALL = list(COLUMNS.values())
DENSITIES = [case for case, column in COLUMNS.items() if not column.is_probability]
#: (what the network returns, what is learned beside it): locations far out, narrow and wide, rare and certain
EXTREMES = [(0.0, 0.0), (-4.0, 1.0), (2.0, -3.0), (3.0, 5.0), (-1.0, -30.0)]


def reach(likelihood: Table) -> float:
    """How far the density of a table of one column goes along its axis, by its σ or, of a proportion, its logit's."""
    (family,) = likelihood.families
    family = getattr(family, "rest", family)
    if not hasattr(family, "log_precision"):
        return float(12 * 3 * family.spread.scale.detach()) if hasattr(family, "spread") else 1.0
    a, b = family._concentrations([likelihood.network.output[..., 0, :]])
    return float(40 * (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt().detach())


def whole(likelihood: Table, center: float) -> tuple[Tensor, Tensor]:
    (column,) = likelihood.columns
    return values_and_weights(column, center, min(reach(likelihood), 700.0))


@pytest.mark.parametrize(("location", "learned"), EXTREMES)
@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_sums_to_one(case: str, location: float, learned: float) -> None:
    if case.startswith("proportion"):  # beyond 1 − 1e-16 there is no number to evaluate the density at
        learned = max(learned, 2.0)
    output = location + output_for([COLUMNS[case]], scale=0.1).unsqueeze(0)
    likelihood = table([COLUMNS[case]], output, learned=learned)
    x, weight = whole(likelihood, float(output[0, 0, 0]))
    p = laid_out(likelihood).log_prob(x).exp().detach()
    torch.testing.assert_close((weight * p).sum(), torch.ones(()).double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("tails", ["wide", "none"])
def test_the_tables_log_p_is_the_sum_of_models_of_one_column(tails: str) -> None:
    """Columns of a family share tensors, padded to the longest; started at their own rows, none takes another's."""
    output = output_for(ALL, 7)
    likelihood = table(ALL, output, tails=tails)
    x = draw(laid_out(likelihood), (30,), generator=seeded()).flatten(0, 1)
    likelihood.init_from_rows(x)
    found, information = laid_out(likelihood).log_prob(x[:7]), likelihood.fisher_information(output)
    for place, column in enumerate(ALL):
        count = Table.parameter_shape((1,), columns=[column])[0]
        alone = table([column], output[:, :count, place : place + 1], tails=tails)
        alone.init_from_rows(x[:, place : place + 1])
        expected = laid_out(alone).log_prob(x[:7, place : place + 1])
        torch.testing.assert_close(found[:, place : place + 1], expected, rtol=1e-9, atol=1e-9)
        own = alone.fisher_information(alone.network.output)[..., 0]
        torch.testing.assert_close(information[:, :count, :count, place], own, rtol=1e-9, atol=1e-9)
        wanted = mean(laid_out(alone))
        torch.testing.assert_close(mean(laid_out(likelihood))[:, place : place + 1], wanted, rtol=1e-9, atol=1e-9)


def test_the_order_of_columns_means_nothing() -> None:
    output = output_for(ALL, 4)
    likelihood = table(ALL, output)
    x = draw(laid_out(likelihood), (), generator=seeded())
    order = torch.randperm(len(ALL), generator=seeded(1))
    other = table([ALL[place] for place in order], output[..., order])
    for it, rows in ((likelihood, x), (other, x[:, order])):
        it.init_from_rows(rows)
    torch.testing.assert_close(laid_out(other).log_prob(x[:, order]), laid_out(likelihood).log_prob(x)[:, order])
    found, moved = (it.fisher_information(it.network.output) for it in (likelihood, other))
    torch.testing.assert_close(moved, found[..., order])
    torch.testing.assert_close(mean(laid_out(other)), mean(laid_out(likelihood))[:, order])


def thousandfold(column: Column) -> Column:
    """The same column in units a thousandth as large."""
    if column.kind is ColumnKind.POSITIVE:
        shift, unit = column.shift + math.log(1000), column.unit
    else:
        shift, unit = 1000 * column.shift, 1000 * column.unit
    cells = tuple(1000 * cell for cell in column.cells)
    atom = None if column.atom is None else 1000 * column.atom
    return replace(column, shift=shift, unit=unit, step=1000 * column.step, cells=cells, atom=atom)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, column in COLUMNS.items()
        if column.kind in (ColumnKind.REAL, ColumnKind.POSITIVE, ColumnKind.DATE)
    ],
)
def test_a_column_in_other_units(case: str) -> None:
    """A density loses log 1000 nats where its unit is a thousandth as large; a probability stays what it is."""
    column, output = COLUMNS[case], output_for([COLUMNS[case]], 50)
    likelihood, other = table([column], output), table([thousandfold(column)], output)
    x = draw(laid_out(likelihood), (), generator=seeded())
    log_p, moved = laid_out(likelihood).log_prob(x), laid_out(other).log_prob(1000 * x)
    fixed = torch.full_like(x, bool(column.cells), dtype=torch.bool) | (x == column.atom)
    torch.testing.assert_close(moved, torch.where(fixed, log_p, log_p - math.log(1000)), rtol=1e-6, atol=1e-6)
    assert column.atom is None or 0 < int((x == column.atom).sum()) < 50
    before, after = likelihood.totals(log_p, x), other.totals(moved, 1000 * x)
    torch.testing.assert_close(after.probabilities, before.probabilities)
    nats = torch.where(fixed, 0.0, math.log(1000)).sum(-1).double()
    torch.testing.assert_close(after.densities, before.densities - nats, rtol=1e-6, atol=1e-6)


def test_totals_are_apart_by_what_a_column_is() -> None:
    likelihood = table(ALL, output_for(ALL, 5))
    x = draw(laid_out(likelihood), (), generator=seeded())
    log_p = laid_out(likelihood).log_prob(x)
    totals = likelihood.totals(log_p, x)
    is_atom = x == torch.tensor([math.nan if column.atom is None else column.atom for column in ALL])
    is_probability = torch.tensor([column.is_probability for column in ALL]) | is_atom
    torch.testing.assert_close(totals.probabilities, (log_p * is_probability).sum(-1))
    torch.testing.assert_close(totals.densities, (log_p * ~is_probability).sum(-1))
    assert (totals.probabilities <= 0).all()


def test_draws_follow_the_density() -> None:
    """−log p, and a bounded function of x, of draws against sums over all values; and E[x] is mean()."""
    n = 20_000
    output = output_for(ALL, 1, seed=5)
    likelihood = table(ALL, output, learned=None)
    drawn = draw(laid_out(likelihood), (n,), generator=seeded(2))[:, 0]
    surprise = -laid_out(likelihood).log_prob(drawn.unsqueeze(1))[:, 0].detach()
    worst = 0.0
    for place, column in enumerate(ALL):
        count = Table.parameter_shape((1,), columns=[column])[0]
        alone = table([column], output[:, :count, place : place + 1])
        x, weight = whole(alone, float(output[0, 0, place]))
        log_p = laid_out(alone).log_prob(x).detach()
        expect = lambda f: (weight * torch.where(log_p.isneginf(), 0.0, log_p.exp() * f)).sum()  # noqa: B023, E731
        exact_mean = expect(x)
        torch.testing.assert_close(mean(laid_out(alone)).squeeze().detach(), exact_mean, rtol=1e-6, atol=1e-6)
        spread = column.unit if column.kind is not ColumnKind.POSITIVE else math.exp(column.shift)
        for exact, values in (
            (expect(-log_p.nan_to_num(neginf=0.0)), surprise[:, place]),
            (expect(torch.atan((x - exact_mean) / spread)), torch.atan((drawn[:, place] - exact_mean) / spread)),
        ):
            z = (values.mean() - exact) / (values.std() / math.sqrt(n))
            assert z.abs() < 4, (column.name, float(z))
            worst = max(worst, float(z.abs()))
    assert worst > 0.5  # the comparison sees something


@pytest.mark.parametrize("tails", ["wide", "none"])
@pytest.mark.parametrize("case", COLUMNS)
def test_the_fisher_information_is_the_expected_outer_product_of_the_score(case: str, tails: str) -> None:
    output = output_for([COLUMNS[case]], 2, seed=7)
    likelihood = single(case, output, tails=tails)
    found = likelihood.fisher_information(output)
    for row in range(2):
        leaf = output[row : row + 1].clone().requires_grad_()
        here = single(case, leaf, tails=tails)
        x, weight = whole(here, float(leaf[0, 0, 0].detach()))
        keep = laid_out(here).log_prob(x).detach().squeeze(1) > -700  # the rest is nothing, and its score huge
        x, weight = x[keep], weight[keep]
        copies = output[row : row + 1].repeat(len(x), 1, 1).requires_grad_()
        log_p = laid_out(single(case, copies, tails=tails)).log_prob(x)
        (score,) = torch.autograd.grad(log_p.sum(), copies)
        p = (weight * log_p.detach().exp()).unsqueeze(-1)
        expected = (p * score * score.mT).sum(0)
        torch.testing.assert_close(found[row, :, :, 0], expected, rtol=2e-5, atol=1e-8)


def test_parameters_that_a_column_does_not_need_tell_nothing() -> None:
    output = output_for(ALL, 2)
    likelihood = table(ALL, output)
    assert likelihood.num_parameters == 5
    found = likelihood.fisher_information(output)
    x = draw(laid_out(likelihood), (), generator=seeded())
    changed = output.clone()
    for place, column in enumerate(ALL):
        count = Table.parameter_shape((1,), columns=[column])[0]
        assert (found[:, count:, :, place] == 0).all() and (found[:, :, count:, place] == 0).all()
        assert (found[:, :count, :count, place].diagonal(dim1=-2, dim2=-1) > 0).all()
        changed[:, count:, place] = 1e6
    torch.testing.assert_close(laid_out(table(ALL, changed)).log_prob(x), laid_out(likelihood).log_prob(x))


def test_missing_elements_cost_nothing_and_have_finite_gradients() -> None:
    output = output_for(ALL, 6).requires_grad_()
    likelihood = table(ALL, output)
    x = draw(laid_out(likelihood), (), generator=seeded())
    missing = torch.rand(x.shape, generator=seeded(1)) < 0.5
    log_p = laid_out(likelihood).log_prob(torch.where(missing, torch.nan, x))
    torch.testing.assert_close(log_p, torch.where(missing, 0.0, laid_out(likelihood).log_prob(x)))
    log_p.sum().backward()
    assert output.grad is not None
    assert output.grad.isfinite().all() and (output.grad.movedim(1, -1)[missing] == 0).all()
    assert (output.grad.abs().sum(1)[~missing] > 0).all()
    model = LatentModel(StandardNormal(1).double(), likelihood)
    total = model.log_likelihood(torch.where(missing, torch.nan, x), torch.zeros(6, 1).double(), mask=~missing)
    torch.testing.assert_close(total, log_p.sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("learned", [-100.0, 100.0])
@pytest.mark.parametrize("location", [-100.0, 100.0])
def test_log_p_gradient_and_information_are_finite_at_extreme_parameters(
    location: float, learned: float, dtype: torch.dtype
) -> None:
    output = torch.full(Table.parameter_shape((len(ALL),), columns=ALL), location, dtype=dtype).unsqueeze(0)
    output.requires_grad_()
    likelihood = table(ALL, output, learned=learned)
    rows = torch.stack([laid_out(table(ALL, output_for(ALL, 1, seed=s))).sample((), seeded(s))[0] for s in range(8)])
    for x in rows.to(dtype):
        log_p = laid_out(likelihood).log_prob(x.unsqueeze(0))
        assert log_p.isfinite().all(), [c.name for c, ok in zip(ALL, log_p[0].isfinite(), strict=True) if not ok]
        gradients = torch.autograd.grad(log_p.sum(), [output, *likelihood.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)
    found = likelihood.fisher_information(output.detach())
    assert found.dtype == dtype and found.isfinite().all()
    matrices = found[0].movedim(-1, 0)
    largest = matrices.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    assert (torch.linalg.eigvalsh(matrices) >= -20 * torch.finfo(dtype).eps * largest).all()


def test_every_parameter_learns() -> None:
    likelihood = table(ALL, output_for(ALL, 40))
    x = draw(laid_out(likelihood), (), generator=seeded())
    laid_out(likelihood).log_prob(x).sum().backward()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).all(), name


def test_what_is_impossible_has_no_probability() -> None:
    wrong = {
        "positive": -1.0, "positive-grid": 0.0, "proportion": 1.0, "count": 1.5, "count-atom": -1.0, "binary": 2.0,
        "ordinal-short": 2.0, "ordinal": 0.5, "category": 3.0, "category-long": -1.0,
    }  # fmt: skip
    columns = [COLUMNS[case] for case in wrong]
    output = output_for(columns, 1).requires_grad_()
    log_p = laid_out(table(columns, output)).log_prob(torch.tensor([list(wrong.values())]).double())
    assert log_p.isneginf().all()
    possible = laid_out(table(columns, output)).log_prob(torch.full((1, len(columns)), torch.nan)).sum()
    torch.where(log_p.isneginf(), 0.0, log_p).sum().add(possible).backward()
    assert output.grad is not None and output.grad.isfinite().all()


@pytest.mark.parametrize("case", ["cells", "cells-positive", "cells-atom", "cells-two"])
def test_heaped_values_have_a_bound(case: str) -> None:
    """As σ vanishes on one of them, a density would grow without bound; the probability of its cell stops at 1."""
    column = COLUMNS[case]
    values = [value for value in column.cells if value != column.atom]
    on_axis = [math.log(value) if column.kind is ColumnKind.POSITIVE else value for value in values]
    for value, place in zip(values, on_axis, strict=True):
        output = torch.zeros(Table.parameter_shape((1,), columns=[column])).double().unsqueeze(0)
        output[0, 0, 0] = (place - column.shift) / column.unit
        output[0, 1:] = -50.0
        found = [
            float(
                laid_out(table([column], output, learned=learned)).log_prob(torch.tensor([[value]]).double()).detach()
            )
            for learned in (0.0, -3.0, -40.0)
        ]
        assert found == sorted(found) and found[-1] <= 0


def test_the_one_cell_beside_an_atom_has_all_the_rest() -> None:
    column = Column("a", ColumnKind.REAL, cells=(0.0, 1.0), atom=0.0)
    output = output_for([column], 3)
    likelihood = table([column], output)
    log_p = laid_out(likelihood).log_prob(torch.tensor([[[0.0]], [[1.0]]]).double()).squeeze(-1)
    torch.testing.assert_close(log_p, torch.stack([output[:, 1, 0], -output[:, 1, 0]]).sigmoid().log())
    assert (likelihood.fisher_information(output)[:, 0] == 0).all()


@pytest.mark.parametrize("case", ["real-grid", "date", "positive-grid"])
def test_sigma_stays_above_half_a_step(case: str) -> None:
    column = COLUMNS[case]
    center = math.exp(column.shift) if column.kind is ColumnKind.POSITIVE else column.shift
    likelihood = table([column], torch.zeros(1, 1, 1).double(), learned=-40.0, tails="none")
    log_p = laid_out(likelihood).log_prob(torch.tensor([[center]]).double())
    bound = -math.log(column.step / 2 * math.sqrt(2 * math.pi))
    assert float(log_p.detach()) == pytest.approx(bound, abs=1e-5)


def test_it_starts_at_the_training_rows() -> None:
    """At z = 0 means, level frequencies and shares of atoms are those of the rows; spreads are near theirs."""
    n = 4000
    source = table(ALL, output_for(ALL, 1, seed=11, scale=0.5))
    x = draw(laid_out(source), (n,), generator=seeded())[:, 0]
    x[::3, :4] = torch.nan
    network = MLP((2,), Table.parameter_shape((len(ALL),), columns=ALL), hidden=(5,))
    network.output.weight.data.zero_()
    likelihood = Table(network, ALL).double()
    likelihood.init_from_rows(x)
    distribution = likelihood(torch.randn(1, 2).double())
    levels = distribution.level_probabilities[0].detach()
    for place, column in enumerate(ALL):
        own = x[:, place][~x[:, place].isnan()]
        if column.kind.has_levels:
            shares = torch.bincount(own.long(), minlength=5)[:5].double() / n
            torch.testing.assert_close(levels[place], shares, rtol=0, atol=1e-3)
            continue
        assert (levels[place] == 0).all()
        if column.atom is not None and column.kind is not ColumnKind.COUNT:
            log_p = distribution.log_prob(torch.full((1, len(ALL)), column.atom).double())[0, place]
            assert float(log_p.detach().exp()) == pytest.approx(float((own == column.atom).double().mean()), abs=1e-3)
        if not column.cells and column.kind not in (ColumnKind.POSITIVE, ColumnKind.COUNT):
            wanted = float(own.mean())
            assert float(mean(distribution)[0, place].detach()) == pytest.approx(wanted, abs=0.02 * column.unit)
    scales = {
        ALL[place].name: scale * ALL[place].unit
        for places, family in likelihood.parts()
        if isinstance(family, NormalColumns)
        for place, scale in zip(places.tolist(), family.spread.scale.tolist(), strict=True)
    }
    for case in ("real", "real-grid", "date"):
        own = x[:, [column.name for column in ALL].index(case)]
        assert scales[case] == pytest.approx(float((own - own.nanmean()).square().nanmean().sqrt()), rel=1e-6)
    before = laid_out(table(ALL, output_for(ALL, 1, seed=12))).log_prob(x).sum(-1).mean()
    assert float(distribution.log_prob(x).sum(-1).mean().detach()) > float(before.detach())


def test_columns_without_a_value_start_somewhere() -> None:
    likelihood = table(ALL, output_for(ALL, 1))
    likelihood.init_from_rows(torch.full((3, len(ALL)), torch.nan).double())
    assert all(parameter.isfinite().all() for parameter in likelihood.parameters())


def test_typical_values_are_means_and_the_most_probable_levels() -> None:
    likelihood = table(ALL, output_for(ALL, 9))
    distribution = laid_out(likelihood)
    levels = torch.tensor([column.kind.has_levels for column in ALL])
    torch.testing.assert_close(distribution.typical[:, ~levels], distribution.mean[:, ~levels])
    expected = distribution.level_probabilities.argmax(-1)[:, levels].double()
    torch.testing.assert_close(distribution.typical[:, levels], expected)
    torch.testing.assert_close(distribution.level_probabilities.sum(-1), levels.double().expand(9, -1))


def small_model() -> LatentModel:
    torch.manual_seed(4)
    shape = Table.parameter_shape((len(ALL),), columns=ALL)
    network = MLP((1,), shape, hidden=(6,), activation="tanh")
    return LatentModel(StandardNormal(1), Table(network, ALL)).double().eval()


def test_every_estimator_works_on_a_table() -> None:
    """log p(x) by importance sampling agrees with quadrature, and Laplace's mode and curvature are the posterior's."""
    model = small_model()
    x = model.sample(12, generator=seeded(1)).x
    mask = torch.rand(x.shape, generator=seeded(2)) < 0.8
    batch = Batch(torch.where(mask, x, torch.nan), mask=mask)
    exact = quadrature_log_evidence(model, batch.x, mask=mask, points=801)
    found = laplace(model, torch.zeros(12, 1).double(), batch, steps=50)
    assert found.converged.all() and (gauss_newton(model, batch, found.mode) > 0).all()
    grid = torch.linspace(-8, 8, 801).double().reshape(-1, 1, 1).expand(-1, 12, 1)
    assert (found.log_joint >= model.log_joint(batch.x, grid, mask=mask).amax(0) - 0.05).double().mean() > 0.8
    network = MLP(TableTransform(ALL).out_shape, DiagonalNormal.parameter_shape(1), hidden=(4,))
    guide = DiagonalNormal(network, 1, TableTransform(ALL)).double()
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.tensor([0.0, 0.5]))  # wider than the prior
    estimate = importance_estimate(model, guide, batch, num_samples=20_000, generator=seeded(3))
    z = (estimate.log_evidence - exact) / estimate.stderr
    assert (z.abs() < 4).all() and (estimate.stderr < 0.1).all()


def test_the_information_of_few_cells_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    output = output_for([COLUMNS["cells"], COLUMNS["cells-two"]], 3)
    likelihood = table([COLUMNS["cells"], COLUMNS["cells-two"]], output)
    before, middle = likelihood.fisher_information(output), mean(laid_out(likelihood))
    monkeypatch.setattr("elbowroom.model.table.cells._CHUNK_ELEMENTS", 6)
    torch.testing.assert_close(likelihood.fisher_information(output), before)
    torch.testing.assert_close(mean(laid_out(likelihood)), middle)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (Column("id", ColumnKind.IDENTIFIER), "'id'.*no distribution"),
        (Column("a", ColumnKind.CATEGORY, levels=("x",)), "1 levels"),
        (Column("a", ColumnKind.BINARY, levels=("x", "y", "z")), "binary"),
        (Column("a", ColumnKind.BINARY, levels=("x", "y"), atom=1.0), "neither"),
        (Column("a", ColumnKind.REAL, cells=(0.0,), atom=0.0), "only cell"),
        (Column("a", ColumnKind.REAL, unit=0.0), "unit of column 'a' is 0"),
    ],
)
def test_refusals_of_columns(column: Column, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        Table(Output(torch.zeros(1, 1)), [column])


@pytest.mark.parametrize(("options", "message"), [({"tails": "fat"}, "'fat'"), ({"min_scale": 0.0}, "min_scale 0")])
def test_refusals_of_settings(options: dict, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        Table(Output(torch.zeros(1, 1)), [COLUMNS["real"]], **options)
    with pytest.raises(ElbowroomError, match="without columns"):
        Table(Output(torch.zeros(1, 0)), [])
