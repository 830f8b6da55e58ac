"""A data set in words and in a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.showing.figures import dataset as showing


def load(values: Any, **settings: Any) -> DataSet:
    data = load_data(values, **settings)
    assert isinstance(data, DataSet)
    return data


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the figures were given."""
    seen: dict[str, Any] = {}

    def watch(name: str) -> None:
        real = getattr(showing, name)

        def spy(*values: Any, **settings: Any) -> Figure:
            seen.update(settings, figure=name, values=values)
            figure: Figure = real(*values, **settings)
            return figure

        monkeypatch.setattr(showing, name, spy)

    watch("image_grid")
    watch("marginals_figure")
    return seen


def test_a_table_of_several_kinds_has_a_line_for_each_column(drawn: dict[str, Any]) -> None:
    rows = {"who": [f"p{at}" for at in range(30)], "city": ["Oslo", "Bergen", None] * 10, "grade": [1, 2, 3] * 10,
            "when": ["2021-03-04", "2021-03-09"] * 15, "rain": [0.0, 0.5, 0.0, 1.25, 2.5, 0.0] * 5,
            "size": [round(at * 1.37 - 9, 2) for at in range(30)]}  # fmt: skip
    data = load(pl.DataFrame(rows), test=0)
    words = showing.describe(data)
    assert [(one["column"], one["kind"], one["distinct"], one["missing"], one["range"], one["density"])
            for one in words["columns"]] == [
        ("city", "binary", 2, 10, "Bergen, Oslo", "probability of 2 levels"),
        ("grade", "category", 3, 0, "1, 2, 3", "probability of 3 levels"),
        ("when", "date", 2, 0, "2021-03-04 to 2021-03-09", "probability of 2 cells"),
        ("rain", "positive", 4, 0, "0 to 2.5", "probability of 3 cells, 0 apart (50%)"),
        ("size", "real", 30, 0, "-9 to 30.73", "density, in steps of 0.01"),
        ("who", "identifier", None, None, "", "set aside: identifies rows, carried into results"),
    ]  # fmt: skip
    assert words["log_p"] == (
        "log p(x) of a row adds 4 log probabilities and 1 log density (size), which is in that column's unit"
    )
    axes = {one.get_xlabel(): one for one in showing.picture(data).axes}
    assert [label.get_text() for label in axes["city"].get_xticklabels()] == ["Bergen", "Oslo"]
    assert all(label.get_text().startswith("2021-03-0") for label in axes["when"].get_xticklabels())


def test_words_state_shape_support_and_splits() -> None:
    data = load(torch.rand(40, 4, 5, generator=torch.Generator().manual_seed(0)), validation=7, test=0.25,
                labels=torch.arange(40) % 3, binarization="static", seed=5)  # fmt: skip
    words = showing.describe(data)
    assert words["shape"] == [4, 5]
    assert words["support"] == "binary (0 or 1)"
    assert words["binarization"] == "static"
    assert words["splits"] == {"train": 23, "validation": 7, "test": 10}
    assert words["labels"] == 3
    assert words["context"] == "none"
    assert words["source"] is None
    assert words["licence"] == "unknown"
    assert words["sha256"] == data.protocol()["sha256"]


def test_words_without_labels_and_with_context() -> None:
    words = showing.describe(load(rng().normal(size=(20, 3)), context=rng().normal(size=(20, 2))))
    assert (words["labels"], words["context"]) == ("none", 2)


def test_the_picture_shows_the_first_nine_training_data(drawn: dict[str, Any]) -> None:
    x = rng().integers(0, 256, (30, 6, 7), dtype=np.uint8)
    data = load(x, labels=np.arange(30))
    assert isinstance(showing.picture(data), Figure)
    first = data.splits["train"][:9]
    assert (drawn["values"][0].numpy() == x[first.numpy()]).all()
    assert drawn["titles"] == first.tolist()
    assert drawn["value_range"] == (0.0, 255.0)


@pytest.mark.parametrize(
    ("scale", "shift", "expected"), [(1.0, 0.0, (0.0, 1.0)), (4.0, -2.0, None)], ids=["unit-interval", "reals"]
)
def test_black_and_white_are_the_ends_of_the_values(
    scale: float, shift: float, expected: tuple[float, float] | None, drawn: dict[str, Any]
) -> None:
    data = load((rng().random((30, 5, 5)) * 0.9 * scale + shift).astype(np.float32))
    showing.picture(data)
    shown = drawn["values"][0]
    assert drawn["value_range"] == (expected or (float(shown.min()), float(shown.max())))
    assert drawn["titles"] is None


def test_tables_are_drawn_as_histograms(drawn: dict[str, Any]) -> None:
    showing.picture(load(rng().normal(size=(50, 3))))
    assert drawn["figure"] == "marginals_figure"
    assert len(drawn["values"][0]) == 45  # the training rows


def test_fewer_than_nine_data(drawn: dict[str, Any]) -> None:
    showing.picture(load(rng().random((4, 5, 5)), test=1))
    assert len(drawn["values"][0]) == 3


def test_values_that_are_all_alike_are_black() -> None:
    assert showing.value_range(Support.REALS, torch.full((2, 3), 4.0)) == (4.0, 5.0)
    assert showing.value_range(Support.BYTES, torch.full((2, 3), 4)) == (0.0, 255.0)


def test_missing_values_are_not_drawn_as_data(drawn: dict[str, Any]) -> None:
    """In their place a batch holds fillers: the mean of the column."""
    table = rng().normal(size=(50, 3)) + 5
    table[::2, 1] = np.nan
    figure = showing.picture(load(table, missing="mask"))
    (shown,) = drawn["values"]  # data alone: there is no model yet
    assert shown.isnan().any(0).tolist() == [False, True, False]
    assert any("missing" in axes.get_title(loc="left") for axes in figure.axes)
    assert not figure.legends


def test_missing_pixels_are_blue_in_a_picture(drawn: dict[str, Any]) -> None:
    pictures = rng().random((20, 5, 5)) + 3
    pictures[:, 0, 0] = np.nan
    figure = showing.picture(load(pictures, missing="mask"))
    assert not drawn["mask"][:, 0, 0].any() and drawn["mask"][:, 1:].all()
    low, high = drawn["value_range"]
    assert 3 <= low < high <= 4  # the fillers are no part of it
    assert [text.get_text() for text in figure.texts] == ["Blue: not observed."]


def test_the_scale_of_nothing_is_a_scale() -> None:
    assert showing.value_range(Support.REALS, torch.full((2, 3), torch.nan)) == (0.0, 1.0)
