"""Captions of pictures: their measures, their words, and contexts that are left out in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.captions import Captioner, measured, slant, stroke_width
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.naming import Naming
from elbowroom.errors import ElbowroomError


def bars(widths: list[float], degrees: list[float], side: int = 60) -> np.ndarray[Any, Any]:
    """Bars of these widths that lean by these angles, with smooth edges: shape (n, side, side)."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    pictures = []
    for width, angle in zip(widths, degrees, strict=True):
        lean = np.tan(np.radians(angle))
        across = np.abs(columns + rows * lean) * np.cos(np.radians(angle))  # distance from the axis
        along = np.abs(rows) - side / 2 + 6
        pictures.append(np.clip(width / 2 - across + 0.5, 0, 1) * np.clip(0.5 - along, 0, 1))
    return np.stack(pictures)


@pytest.mark.parametrize("width", [2.0, 4.0, 7.0])
def test_the_width_is_that_of_a_bar(width: float) -> None:
    length = 60 - 12 + 1
    exact = 2 * width * length / (2 * length + 2 * width)  # area, and the length of all four edges
    assert stroke_width(bars([width], [0.0]))[0] == pytest.approx(exact, rel=0.05)


def test_neither_measure_depends_on_the_unit_of_the_grey_values() -> None:
    pictures = bars([2.0, 5.0], [10.0, -20.0])
    for measure in (stroke_width, slant):
        np.testing.assert_allclose(measure(255 * pictures), measure(pictures))
        assert measure(np.zeros((1, 8, 8)))[0] == 0


@pytest.mark.parametrize("degrees", [-30.0, -8.0, 0.0, 15.0])
def test_the_slant_is_that_of_a_bar_and_positive_to_the_right(degrees: float) -> None:
    pictures = bars([3.0], [degrees])
    assert slant(pictures)[0] == pytest.approx(degrees, abs=1.0)
    if degrees > 0:  # the upper half lies to the right
        assert pictures[0, :20].sum(0).argmax() > pictures[0, 40:].sum(0).argmax()


def some(rows: int = 90, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Bars as bytes, of two classes, of which the second is twice as wide and leans more."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    pictures = bars(list(rng.uniform(2, 4, rows) * (1 + labels)), list(rng.uniform(-9, 9, rows) + 12 * labels), 24)
    return torch.from_numpy((255 * pictures).astype(np.uint8)), torch.from_numpy(labels)


def test_words_are_thirds_of_each_class() -> None:
    x, labels = some()
    data = load_data(x, labels=labels.numpy(), context="captions", test=0)
    assert isinstance(data, DataSet)
    assert data.levels == {
        "class": ("zero", "one"),
        "width": ("thin", "medium", "bold"),
        "slant": ("left", "upright", "right"),
    }
    assert data.context is not None
    of_class, width, lean = (part.argmax(1) for part in data.context.split(data.word_widths, 1))
    assert torch.equal(of_class, labels)
    for words, measure in ((width, stroke_width), (lean, slant)):
        for at in range(2):
            mine = words[labels == at]
            assert mine.bincount().tolist() == [15, 15, 15]
            values = torch.from_numpy(measure(x[labels == at].double().numpy()))
            assert values[mine == 0].max() < values[mine == 1].min() < values[mine == 2].min()


def test_thirds_are_those_of_the_training_rows_and_hold_for_other_pictures() -> None:
    x, labels = some()
    data = load_data(x, labels=labels.numpy(), context="captions", test=30)
    assert isinstance(data, DataSet) and data.captions is not None
    train = data.splits["train"].numpy()
    again = Captioner.fit(("zero", "one"), measured(x.double().numpy()[train]), labels.numpy()[train])
    assert Captioner.of_record(data.captions) == again
    few, of_few = some(6, seed=1)
    other = load_data(
        few, labels=of_few.numpy(), context="captions", test=0, like=Naming(captions=data.names()["captions"])
    )
    assert isinstance(other, DataSet) and other.context is not None
    expected = again.words(measured(few.double().numpy()), of_few.numpy())
    found = [part.argmax(1).numpy() for part in other.context.split(other.word_widths, 1)]
    np.testing.assert_array_equal(np.stack(found, 1), expected)


def test_captions_are_written_out_without_what_is_not_said() -> None:
    captioner = Captioner(("zero", "one"), {})
    said = torch.tensor([[0.0, 1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    assert captioner.sentences(said) == ["bold one leaning left", "medium zero upright", "zero"]


# --- contexts that are left out ------------------------------------------------------------------------------------


def batches(data: DataSet, seed: int = 0, start: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = [batch.context for batch in data.training_batches(500, seed=0, epoch=0, generator=generator, start=start)]
    return torch.cat([context for context in found if context is not None])


def test_words_are_left_out_in_training_alone_and_as_often_as_asked() -> None:
    share = 0.3
    x, labels = some(6000)
    data = load_data(x[:, ::3, ::3], labels=labels.numpy(), context="captions", context_drop=share, test=0.1)
    assert isinstance(data, DataSet)
    said = torch.stack([part.sum(1) for part in batches(data).split(data.word_widths, 1)], 1)
    assert set(said.unique().tolist()) == {0.0, 1.0}
    n = len(said)
    for found, expected in (
        (said[:, 1].mean(), (1 - share) ** 2),  # a word: neither it nor the whole is left out
        (said.prod(1).mean(), (1 - share) ** 4),
        ((said.sum(1) == 0).float().mean(), share + (1 - share) * share**3),
    ):
        assert abs(float(found) - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert torch.equal(batches(data), batches(data))  # the generator decides
    assert not torch.equal(batches(data), batches(data, seed=1))
    for split in ("train", "test"):
        whole = next(iter(data.batches(split, 400))).context
        assert whole is not None and (whole.sum(1) == 3).all()


def test_nothing_is_drawn_where_nothing_is_left_out() -> None:
    x, labels = some()
    data = load_data(x, labels=labels.numpy(), context="labels", test=0)
    assert isinstance(data, DataSet)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    next(iter(data.training_batches(10, seed=0, epoch=0, generator=generator)))
    assert torch.equal(generator.get_state(), before)


GREY, LABELS = some()


@pytest.mark.parametrize(
    ("source", "asked", "message"),
    [
        (GREY, {"context": "captions"}, "no labels"),
        (GREY[:, 0], {"context": "captions", "labels": LABELS.numpy()}, "whole grey pictures"),
        (GREY[:, None].expand(-1, 3, -1, -1), {"context": "captions", "labels": LABELS.numpy()}, "whole grey pictures"),
        (GREY, {"context_drop": 0.1}, "only a context of classes"),
        (GREY, {"context": np.ones((90, 2)), "context_drop": 0.1}, "only a context of classes"),
        (GREY, {"context": "labels", "labels": LABELS.numpy(), "context_drop": 1.0}, "below 1"),
        (GREY, {"context": "captions", "labels": 2 * LABELS.numpy()}, "No training row is of the class 'one'"),
    ],
)
def test_refusals(source: torch.Tensor, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        load_data(source, test=0, **asked)
