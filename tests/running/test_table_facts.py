"""What a run keeps of a table with columns of several kinds: enough to read other rows in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.running.build import DataFacts, facts_of, load_configured
from elbowroom.running.config import configure
from elbowroom.running.contexts import naming_of
from elbowroom.running.kept_data import as_material, keep, read_kept
from elbowroom.running.own_data import check_same_kinds
from small_runs import reals

pl = pytest.importorskip("polars")

FRAME = pl.DataFrame(
    {
        "who": [f"p{at}" for at in range(30)],
        "city": ["Oslo", "Bergen", None] * 10,
        "rain": [0.0, 0.5, 0.0, 1.25, 2.5, 0.0] * 5,
        "land": ["NO"] * 30,
        "size": [round(at * 1.37 - 9, 2) for at in range(30)],
        "when": [f"{at + 1:02d}.03.2021" for at in range(30)],
    }
)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(FRAME)


def load(frame: Any, **settings: Any) -> DataSet:
    found = load_data(frame, **{"test": 5, **settings})
    assert isinstance(found, DataSet)
    return found


def test_facts_go_to_json_and_back(data: DataSet) -> None:
    facts = facts_of(data, 10)
    again = DataFacts.model_validate_json(facts.model_dump_json())
    assert again == facts
    assert again.columns == data.kinds
    assert again.set_aside == data.aside
    assert (again.id_column, again.support) == ("who", Support.TABLE)


def test_facts_of_other_data_know_no_columns() -> None:
    facts = facts_of(load(reals()), 10)
    assert (facts.columns, facts.set_aside, facts.id_column) == (None, (), None)


def test_names_of_a_run_hold_the_columns(data: DataSet) -> None:
    config = configure({"data": {"columns": "rain:drop", "drop": ["sky"]}})
    naming = naming_of(config, facts_of(data, 10), data.names())
    assert naming.kinds == data.kinds
    assert naming.columns == ("city", "rain", "size", "when")
    assert (naming.id, naming.unused) == ("who", {"who", "land", "sky", "rain"})


def test_kept_data_know_their_columns(data: DataSet, tmp_path: Path) -> None:
    keep(tmp_path, as_material(data))
    again = load(read_kept(tmp_path))
    assert again.kinds == data.kinds
    assert again.aside == data.aside
    assert again.protocol() == data.protocol()
    assert again.ids == data.ids


def test_a_data_set_with_other_levels_is_refused(data: DataSet) -> None:
    facts = facts_of(data, 10)
    check_same_kinds(data, facts)
    check_same_kinds(load(FRAME, seed=4), facts)  # other training rows, and so other units
    fewer = FRAME.with_columns(pl.col("city").replace("Bergen", "Bodø"))
    with pytest.raises(ElbowroomError, match="kind or levels of the column 'city' are not") as error:
        check_same_kinds(load(fewer), facts)
    assert error.value.remedy.startswith("Give the file or the data frame itself")
    with pytest.raises(ElbowroomError, match="kind or levels of its columns are not"):
        check_same_kinds(load(torch.rand(9, 4)), facts)
    check_same_kinds(load(reals()), facts_of(load(reals()), 10))


@pytest.mark.parametrize(
    "given",
    ["rain:real,when:drop", ["rain:real", "when:drop"], {"rain": "real", "when": "drop"}],
    ids=["text", "list", "mapping"],
)
def test_kinds_are_configured(given: Any) -> None:
    config = configure({"data": {"columns": given, "drop": "land", "test": 0.1}})
    loaded = load_configured(config.data, FRAME)
    assert isinstance(loaded, DataSet)
    assert loaded.kinds is not None
    assert {column.name: str(column.kind) for column in loaded.kinds} == {
        "city": "binary",
        "rain": "real",
        "size": "real",
    }


def test_a_format_with_a_comma_is_one() -> None:
    frame = pl.DataFrame({"when": ["Mar 4, 2021", "Mar 5, 2021"], "x": [1.5, 2.5]})
    config = configure({"data": {"columns": {"when": "date(%b %d, %Y)"}, "test": 0, "validation": 0}})
    loaded = load_configured(config.data, frame)
    assert isinstance(loaded, DataSet)
    assert loaded.kinds is not None
    assert loaded.kinds[0].date_format == "%b %d, %Y"
