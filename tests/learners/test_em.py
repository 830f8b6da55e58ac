"""EM of a mixture: it never goes down, finds planted classes, starts where it says, and is refused elsewhere."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.errors import ElbowroomError
from elbowroom.inference.enumeration import enumerated
from elbowroom.learners.em import Em, centre, check_mixture, class_outputs, e_step, log_prior, m_step, set_class_outputs
from elbowroom.learners.em_classes import best_classes, independent_columns, latent_classes, try_classes
from elbowroom.learners.em_start import climb_until_flat, fit_centre, start_classes
from elbowroom.model.class_prior import ClassPrior
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.draws import draw
from elbowroom.model.exact_guide import ExactGuide
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from table_cases import COLUMNS, laid_out, output_for, seeded, table

PRIOR = ClassPrior()
SOME = [COLUMNS[name] for name in ("real", "positive-atom", "cells", "count", "binary", "ordinal", "category")]
BITS = [Column(name, ColumnKind.BINARY, levels=("no", "yes")) for name in "abcdefgh"]


def mixture(columns: list[Column], classes: int, **options: Any) -> LatentModel:
    torch.manual_seed(0)
    shape = Table.parameter_shape((len(columns),), columns=columns, scale="per-element")
    likelihood = Table(MLP((classes,), shape, hidden=()), columns, scale="per-element", **options)
    return LatentModel(UnigramCodes(CodeSpace(1, classes)), likelihood).double()


def mixed_rows(number: int = 60) -> Batch:
    x = draw(laid_out(table(SOME, output_for(SOME, 3, scale=2.0))), (number // 3,), generator=seeded()).flatten(0, 1)
    x[torch.rand(x.shape, generator=seeded(1)) < 0.15] = torch.nan
    return Batch(x, torch.arange(len(x)), mask=~x.isnan())


def planted(number: int = 600) -> tuple[Batch, Tensor, Tensor]:
    """Bits of three classes: the rows, the classes' shares and their probabilities."""
    shares, p = torch.tensor([0.5, 0.3, 0.2]).double(), torch.full((3, 8), 0.1).double()
    p[0, :3], p[1, 3:6], p[2, 5:] = 0.9, 0.9, 0.9
    own = torch.multinomial(shares, number, replacement=True, generator=seeded(3))
    x = torch.bernoulli(p[own], generator=seeded(4))
    return Batch(x, torch.arange(number)), shares, p


@pytest.fixture(scope="module")
def started() -> tuple[LatentModel, Batch]:
    model, batch = mixture(SOME, 3), mixed_rows()
    start_classes(model, batch, PRIOR, starts=1, generator=seeded())
    return model, batch


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_step_never_lowers_the_objective(started: tuple[LatentModel, Batch]) -> None:
    model, batch = copy.deepcopy(started[0]), started[1]
    learner = Em(prior=PRIOR)
    state, values = learner.init(Pair(model, ExactGuide(model))), []
    for _ in range(5):
        expected = enumerated(model, batch).log_evidence.mean()
        with_prior = expected + log_prior(model, PRIOR) / len(batch)
        measured = learner.measure(state.pair, batch, generator=seeded())["log p(x)"]
        state, info = learner.step(state, batch, generator=seeded())
        assert info.terms["log p(x)"] == pytest.approx(float(expected.detach()))
        assert info.terms["log p(x)"] == pytest.approx(float(measured.detach().mean()))
        assert info.terms["with_prior"] == pytest.approx(float(with_prior.detach()))
        values.append(info.terms["with_prior"])
    assert all(after > before - 1e-10 for before, after in itertools.pairwise(values))
    assert state.step == 5 and state.tensors() == {}


@pytest.mark.parametrize("name", ["gaussian", "bernoulli", "student-t", "poisson"])
def test_other_likelihoods_climb_as_well(name: str) -> None:
    x = torch.bernoulli(torch.full((40, 4), 0.4), generator=seeded()).double()
    x = x if name in ("bernoulli", "poisson") else x + 0.3 * torch.randn(40, 4, generator=seeded(1)).double()
    batch = Batch(x, mask=torch.rand(40, 4, generator=seeded(2)) > 0.1)
    kind = LIKELIHOODS[name]
    torch.manual_seed(0)
    likelihood = kind(MLP((2,), kind.parameter_shape((4,)), hidden=()), (4,))
    model = LatentModel(UnigramCodes(CodeSpace(1, 2)), likelihood).double()
    start_classes(model, batch, PRIOR, starts=1, generator=seeded())
    values = []
    for _ in range(4):
        found = e_step(model, batch, PRIOR)
        values.append(found.objective)
        m_step(model, batch, found.weights, PRIOR)
    assert all(after > before - 1e-10 for before, after in itertools.pairwise(values))
    hidden = Batch(torch.where(batch.mask, batch.x, 1.0), mask=batch.mask)  # type: ignore[arg-type]
    other = copy.deepcopy(model)
    for it, rows in ((model, batch), (other, hidden)):
        m_step(it, rows, found.weights, PRIOR)
    torch.testing.assert_close(class_outputs(other), class_outputs(model), rtol=0, atol=1e-8)


def test_planted_classes_are_found() -> None:
    batch, shares, p = planted()
    model = mixture(BITS, 3)
    start_classes(model, batch, PRIOR, starts=2, generator=seeded())
    climb_until_flat(model, batch, PRIOR, steps=100)
    found = class_outputs(model)[:, 0].sigmoid()
    order = torch.cdist(p, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    rows = shares.unsqueeze(1) * len(batch)
    scores = (found[order] - p) / (p * (1 - p) / rows).sqrt()
    assert float(scores.abs().max()) < 5  # classes overlap, which adds a little
    of_shares = model.prior.logits.softmax(-1)[0, order].detach() - shares  # type: ignore[union-attr,operator]
    assert float((of_shares / (shares * (1 - shares) / len(batch)).sqrt()).abs().max()) < 5


def test_shares_of_classes_have_pseudo_counts() -> None:
    batch, _, _ = planted(50)
    model, prior = mixture(BITS, 3), ClassPrior(of_shares=4.0)
    weights = torch.tensor([1.0, 0.0, 0.0]).double().unsqueeze(1).expand(3, 50)
    m_step(model, batch, weights, prior)
    expected = torch.tensor([54.0, 4.0, 4.0]).double() / 62
    torch.testing.assert_close(model.prior.logits.detach().softmax(-1)[0], expected)  # type: ignore[union-attr,operator]
    middle = centre(model)
    table_part = model.likelihood.log_class_prior(class_outputs(model), prior, middle)  # type: ignore[operator]
    found = log_prior(model, prior) - table_part
    assert float(found.detach()) == pytest.approx(float(4.0 * expected.log().sum()))


def test_a_hole_is_a_hole_by_nan_or_by_mask(started: tuple[LatentModel, Batch]) -> None:
    model, batch = started
    found = e_step(model, batch, PRIOR)
    ends = []
    for rows in (Batch(batch.x), Batch(batch.x.nan_to_num(nan=1.0), mask=batch.mask)):
        other = copy.deepcopy(model)
        m_step(other, rows, found.weights, PRIOR)
        ends.append(class_outputs(other))
    torch.testing.assert_close(*ends)


def test_what_is_not_finite_changes_nothing(started: tuple[LatentModel, Batch]) -> None:
    model, batch = copy.deepcopy(started[0]), started[1]
    learner = Em(prior=PRIOR)
    state = learner.init(Pair(model, ExactGuide(model)))
    before = copy.deepcopy(model.state_dict())
    x = batch.x.clone()
    x[3, 4] = 7.0  # no such level
    with pytest.raises(ElbowroomError, match="finite"):
        learner.step(state, Batch(x), generator=seeded())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- the start -------------------------------------------------------------------------------------------------------


def test_the_centre_is_the_best_single_class() -> None:
    batch, _, _ = planted(200)
    model = mixture(BITS, 3)
    fit_centre(model, batch)
    torch.testing.assert_close(centre(model)[0].sigmoid(), (batch.x.sum(0) + 0.5) / (len(batch) + 1))
    torch.testing.assert_close(class_outputs(model), centre(model).expand(3, *centre(model).shape))


def test_a_start_is_above_the_centre_and_more_starts_are_no_worse() -> None:
    batch, _, _ = planted(100)
    reached = []
    for starts in (1, 3):
        model = mixture(BITS, 4)
        fit_centre(model, batch)
        alone = e_step(model, batch, PRIOR).log_evidence
        start_classes(model, batch, PRIOR, starts=starts, generator=seeded())
        assert e_step(model, batch, PRIOR).log_evidence > alone
        reached.append(e_step(model, batch, PRIOR).objective)
    assert reached[1] >= reached[0] - 1e-12


# --- how many classes, and the simple models -----------------------------------------------------------------------


def test_numbers_of_classes_are_tried_until_more_are_no_better() -> None:
    batch, _, _ = planted()
    train, validation = batch.rows(slice(0, 400)), batch.rows(slice(400, None))
    made: list[int] = []

    def make(classes: int) -> LatentModel:
        made.append(classes)
        model = mixture(BITS, classes)
        start_classes(model, train, PRIOR, starts=2, generator=seeded())
        return model

    tried = try_classes(make, train, validation, PRIOR, (12, 2, 3, 4, 6, 8, 60))
    assert [each.classes for each in tried] == made == sorted(made)
    assert 60 not in made  # fewer than ten rows for each
    best = best_classes(tried)
    assert best.value == max(each.value for each in tried) and best.classes >= 3
    assert best.value == pytest.approx(float(enumerated(best.model, validation).log_evidence.detach().mean()))
    assert len(made) < 6  # two in a row were no better than three classes


def test_independent_columns_are_the_product_of_their_margins() -> None:
    batch, _, _ = planted(200)
    p = (batch.x.sum(0) + 0.5) / (len(batch) + 1)
    expected = (batch.x * p.log() + (1 - batch.x) * (-p).log1p()).sum(1)
    before = torch.get_rng_state()
    found = enumerated(independent_columns(BITS, batch), batch).log_evidence
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(found, expected)
    better = enumerated(latent_classes(BITS, batch, None), batch).log_evidence
    assert float(better.mean()) > float(found.mean()) + 1


# --- the guide, and what is refused ----------------------------------------------------------------------------------


def test_the_guide_is_the_posterior(started: tuple[LatentModel, Batch]) -> None:
    model, batch = started
    found = ExactGuide(model)(batch.x)
    torch.testing.assert_close(found.logits[:, 0].T.double(), enumerated(model, batch).log_posterior)  # type: ignore[attr-defined]
    with pytest.raises(ElbowroomError, match="single slot"):
        ExactGuide(LatentModel(UnigramCodes(CodeSpace(2, 3)), model.likelihood))


def linear(classes: int = 3, **options: Any) -> Table:
    return Table(MLP((classes,), Table.parameter_shape((8,), columns=BITS), **options), BITS)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (LatentModel(StandardNormal(3), linear(hidden=())), "a single slot"),
        (LatentModel(UnigramCodes(CodeSpace(2, 2)), linear(4, hidden=())), "a single slot"),
        (LatentModel(UnigramCodes(CodeSpace(1, 3)), linear(hidden=(4,))), "without hidden layers"),
        (LatentModel(UnigramCodes(CodeSpace(1, 3)), linear(hidden=(), context_dim=2)), "no context"),
    ],
)
def test_what_is_no_mixture_is_refused(model: LatentModel, what: str) -> None:
    with pytest.raises(ElbowroomError, match=what) as caught:
        check_mixture(model)
    assert "--config latent-class" in caught.value.remedy


def test_outputs_of_classes_come_back() -> None:
    model = mixture(SOME, 3)
    output = torch.randn_like(class_outputs(model))
    middle = centre(model).clone()
    set_class_outputs(model, output)
    torch.testing.assert_close(class_outputs(model), output)
    assert torch.equal(centre(model), middle)
