"""How large values can be: found from all rows, or given; what is larger is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from elbowroom.errors import ElbowroomError
from elbowroom.running.build import build_data
from elbowroom.running.config import configure
from elbowroom.running.runs import load
from small_runs import TINY, tiny

SETTINGS = {"binomial": "trials", "ordinal": "levels"}
OF_NINE = {"binomial": 9, "ordinal": 10}  #: setting for data up to nine


def counts(rows: int = 60) -> Tensor:
    """0..9, and the largest in one row only."""
    x = torch.randint(0, 8, (rows, 5), generator=torch.Generator().manual_seed(0))
    x[17, 3] = 9
    return x


def model(name: str, **settings: object) -> dict[str, object]:
    return {"likelihood": name, **settings}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_found_from_all_rows_and_said(name: str, out: Path) -> None:
    """From held-out ones, too: the one row with a ten is in the test set."""
    x = counts()
    (row, *_) = build_data(configure({"data": TINY["data"]}), x).splits["test"]
    x[row] = 10
    said: list[str] = []
    run = tiny(x, out, announce=said.append, model=model(name), train={"steps": 2})
    assert row in run.dataset().splits["test"]
    assert run.model.likelihood.highest == run.facts.highest == 10
    (remark,) = said
    key = SETTINGS[name]
    assert f"the largest value is 10, so the {name} likelihood has {OF_NINE[name] + 1} {key}" in remark
    assert f"--model.{key}" in remark
    assert load(out, data=x).model.likelihood.highest == 10


@pytest.mark.parametrize("name", SETTINGS)
def test_it_can_be_given_and_nothing_is_said(name: str, out: Path) -> None:
    said: list[str] = []
    run = tiny(counts(), out, announce=said.append, model=model(name, **{SETTINGS[name]: 20}), train={"steps": 2})
    assert run.model.likelihood.highest == 20 - (name == "ordinal")
    assert said == []


@pytest.mark.parametrize("name", SETTINGS)
def test_larger_values_than_were_given_are_refused(name: str) -> None:
    config = configure({"model": model(name, **{SETTINGS[name]: 6})})
    with pytest.raises(ElbowroomError) as refused:
        build_data(config, counts())
    article = "an" if name == "ordinal" else "a"
    assert (
        f"go up to 9, but {article} {name} likelihood of 6 {SETTINGS[name]} takes 0..{6 - (name == 'ordinal')}"
        in str(refused.value)
    )
    assert f"--model.{SETTINGS[name]} {OF_NINE[name]}" in refused.value.remedy


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (counts() - 3, "real numbers from -3 to 6"),
        (counts() + 0.5, "real numbers from 0.5 to 9.5"),
    ],
    ids=["negative", "fractional"],
)
def test_what_is_no_count_is_refused(name: str, x: Tensor, words: str) -> None:
    with pytest.raises(ElbowroomError, match=f"{words}, but an? {name} likelihood needs counts"):
        build_data(configure({"model": model(name)}), x)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_larger_value_later_is_refused(name: str, out: Path, tmp_path: Path) -> None:
    run = tiny(counts(), out, model=model(name), train={"steps": 2})
    more = counts()
    more[4, 2] = 11
    np.save(tmp_path / "more.npy", more.numpy())
    with pytest.raises(ElbowroomError, match=f"go up to 11, but the {name} likelihood of this model takes 0..9"):
        run.score(tmp_path / "more.npy")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(counts().float())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stream_does_not_tell_beforehand(name: str) -> None:
    with pytest.raises(ElbowroomError, match="are known before training") as refused:
        build_data(configure({"model": model(name)}), DataLoader(Stream(), batch_size=10))
    assert refused.value.remedy == f"Give --model.{SETTINGS[name]}."
    given = configure({"model": model(name, **{SETTINGS[name]: 20})})
    assert build_data(given, DataLoader(Stream(), batch_size=10)).view.highest == 20 - (name == "ordinal")


def test_grey_values_in_steps_are_counted_and_that_is_said(out: Path, tmp_path: Path) -> None:
    grey = counts(80).float() / 9
    said: list[str] = []
    run = tiny(grey, out, announce=said.append, model=model("binomial"), train={"steps": 2})
    assert run.model.likelihood.highest == run.facts.grey_steps == 9
    assert "multiples of 1/9 and are taken as counts 0..9" in said[0]
    few = (counts(20).float() / 9)[:5]  # which by themselves would be found to have fewer steps, or others
    np.save(tmp_path / "few.npy", (3 * (few * 9 / 3).floor() / 9).numpy())
    assert run.score(tmp_path / "few.npy") is not None
    np.save(tmp_path / "other.npy", (few * 0.999).numpy())
    with pytest.raises(ElbowroomError, match="multiples of 1/9"):
        run.score(tmp_path / "other.npy")
