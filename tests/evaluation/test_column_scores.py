"""Scores of columns: of each row by itself, in the units of log p, and surprises that no unit changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.column_scores import ColumnScores, column_scores, why_no_columns
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import UniformCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.exact_guide import ExactGuide
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from mixture_cases import spread_out
from table_cases import COLUMNS, seeded

NAMES = ("real", "positive-atom", "count", "binary", "category", "proportion")


def model_of(names: tuple[str, ...] = NAMES, **changes: Any) -> LatentModel:
    """A table of such columns with one latent; ``changes`` are of every column that has a unit."""
    columns = [replace(COLUMNS[name], **changes) for name in names]
    network = MLP((1,), Table.parameter_shape((len(columns),), columns=columns), hidden=())
    model = LatentModel(StandardNormal(1), Table(network, columns)).double().eval()
    spread_out(model)
    return model


class Rows:
    """Rows of a table, NaN where nothing was observed, as evaluation takes them."""

    labels = None

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def size(self, split: str) -> int:
        return len(self.x)

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]:
        for part in self.x[:points].split(batch_size):
            yield Batch(part, mask=~part.isnan())

    def protocol(self) -> dict[str, Any]:
        return {}


def scored(model: LatentModel, x: Tensor, guide: Conditional | None = None, **settings: Any) -> ColumnScores:
    guide = PriorGuide(model.prior) if guide is None else guide
    return column_scores(model, guide, Rows(x), split="train", **{"k": 100, **settings})


def test_the_numbers_of_a_row_do_not_depend_on_the_other_rows() -> None:
    model = model_of()
    x = model.sample(9, generator=seeded()).x
    x[3, 2] = torch.nan
    every, some = scored(model, x), scored(model, x[2:5])
    assert every.rows.tolist() == list(range(9))
    for name in ("log_p", "stderr", "surprise"):
        a, b = getattr(every, name)[2:5], getattr(some, name)
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert every.log_p.isnan().nonzero().tolist() == [[3, 2]]
    assert not every.reliable[3, 2]


def test_another_unit_moves_log_p_of_densities_and_no_surprise() -> None:
    """Kilometres in place of metres: a thousand times the density, as surprising."""
    model = model_of(("real", "positive-atom", "count"))
    x = model.sample(8, generator=seeded()).x
    first = scored(model, x)
    real, positive = COLUMNS["real"], COLUMNS["positive-atom"]
    columns = [
        replace(real, shift=real.shift / 1000, unit=real.unit / 1000),
        replace(positive, shift=positive.shift - torch.tensor(1000.0).double().log().item()),
        COLUMNS["count"],
    ]
    likelihood = Table(model.likelihood.network, columns).double()
    likelihood.load_state_dict(model.likelihood.state_dict())
    other = LatentModel(model.prior, likelihood).eval()
    scale = torch.tensor([1000.0, 1000.0, 1.0]).double()
    second = scored(other, x / scale)
    moved = torch.where(x[:, :2] == 0, 0.0, scale[:2].log())
    # the draws differ, as the rows' values do
    torch.testing.assert_close(second.log_p[:, :2] - first.log_p[:, :2], moved, atol=0.3, rtol=0)
    torch.testing.assert_close(second.surprise, first.surprise, atol=0.3, rtol=0)


def test_surprises_are_about_zero_on_average_and_the_odd_column_is_named() -> None:
    model = model_of()
    x = model.sample(150, generator=seeded(8)).x
    x[0, 0] += 12 * COLUMNS["real"].unit
    found = scored(model, x)
    mean, error = found.surprise[1:].mean(0), found.surprise[1:].std(0) * (1 / 150 + 1 / 64) ** 0.5
    assert bool((mean.abs() < 4 * error).all())
    assert int(found.least_likely[0]) == 0
    assert found.surprise[0, 0] > 8


def test_a_row_of_which_nothing_is_known_has_no_column() -> None:
    model = model_of()
    x = model.sample(3, generator=seeded()).x
    x[1] = torch.nan
    assert int(scored(model, x).least_likely[1]) == -1


def test_columns_of_a_latent_class_model_are_exact() -> None:
    columns = [COLUMNS[name] for name in NAMES]
    space = CodeSpace(1, 3)
    network = MLP((3,), Table.parameter_shape((len(columns),), columns=columns), hidden=())
    model = LatentModel(UniformCodes(space), Table(network, columns)).double().eval()
    spread_out(model)
    x = model.sample(5, generator=seeded()).x
    found = scored(model, x, ExactGuide(model))
    assert bool(found.reliable.all() and (found.stderr == 0).all())
    z = torch.eye(3, dtype=torch.float64).unsqueeze(1).expand(-1, 5, -1)
    mask = (torch.arange(len(NAMES)) != 2).expand(5, -1)
    expected = model.log_joint(x, z).logsumexp(0) - model.log_joint(x, z, mask=mask).logsumexp(0)
    torch.testing.assert_close(found.log_p[:, 2], expected.detach())


@pytest.mark.parametrize(
    ("likelihood", "said"),
    [
        (CrossEntropy(MLP((1,), (1, 4)), (4,)), "integrate"),
        (Bernoulli(MLP((1,), (1, 2, 2)), (2, 2)), r"the shape \(2, 2\), and no columns"),
    ],
)
def test_models_without_columns_are_refused(likelihood: Any, said: str) -> None:
    model = LatentModel(StandardNormal(1), likelihood)
    with pytest.raises(ElbowroomError, match=said):
        column_scores(model, PriorGuide(model.prior), Rows(torch.zeros(4, 4)), split="train")


def test_many_codes_are_refused_and_draws_are_counted() -> None:
    space = CodeSpace(5, 8)
    model = LatentModel(UniformCodes(space), Bernoulli(MLP((space.dim,), (1, 4)), (4,)))
    assert "too many to sum over" in str(why_no_columns(model))
    linear = LinearGaussian(torch.ones(4, 1), torch.zeros(4), 1.0)
    assert why_no_columns(linear) is None
    with pytest.raises(ElbowroomError, match="at least one draw"):
        scored(linear, torch.zeros(4, 4), k=0)
