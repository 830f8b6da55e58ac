"""A model of a table, built from the facts about its columns, starts at its training rows and trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo
from elbowroom.model.draws import draw, mean
from elbowroom.model.table.likelihood import Table
from elbowroom.model.table.transform import TableTransform
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair, initialise
from elbowroom.running.config import configure
from table_cases import COLUMNS, laid_out, output_for, seeded, table

ALL = tuple(COLUMNS.values())
MODEL: dict[str, Any] = {"latent_dim": 2, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}}


def facts(**changes: Any) -> DataFacts:
    known = {"event_shape": (len(ALL),), "support": Support.TABLE, "native_support": Support.TABLE, "columns": ALL}
    return DataFacts(**known | changes)


def rows() -> Tensor:
    x = draw(laid_out(table(ALL, output_for(ALL, 1))), (300,), generator=seeded())[:, 0].float()
    x[torch.rand(x.shape, generator=seeded(1)) < 0.2] = torch.nan
    return x


def test_a_table_starts_at_its_rows_and_trains() -> None:
    config, x = configure({"model": MODEL}), rows()
    pair = build_pair(config, facts(), seed=0)
    assert isinstance(pair.model.likelihood, Table) and isinstance(pair.guide.transform, TableTransform)
    before = elbo(pair.model, pair.guide, Batch(x, mask=~x.isnan()), generator=seeded()).detach().mean()
    data = SimpleNamespace(example=lambda number, generator: Batch(x[:number], mask=~x[:number].isnan()))
    initialise(pair, config, data)  # type: ignore[arg-type]
    binary = [column.name for column in ALL].index("binary")
    pair.model.likelihood.network.output.weight.data.zero_()
    started = mean(pair.model.likelihood(torch.zeros(1, 2)))[0, binary]
    assert float(started.detach()) == pytest.approx(float(x[:, binary].nanmean()), abs=0.01)
    bound = elbo(pair.model, pair.guide, Batch(x, mask=~x.isnan()), generator=seeded())
    assert float(bound.detach().mean()) > float(before)
    bound.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters())


def test_facts_about_columns_come_back_from_json() -> None:
    assert DataFacts.model_validate_json(facts().model_dump_json()).columns == ALL


def test_tails_are_a_setting() -> None:
    pair = build_pair(configure({"model": MODEL | {"tails": "none"}}), facts(), seed=0)
    assert not [name for name, _ in pair.named_parameters() if "raw_share" in name]


def test_a_table_without_columns_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="kinds of the columns"):
        build_pair(configure({"model": MODEL}), facts(columns=None), seed=0)
