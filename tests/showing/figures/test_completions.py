"""Completed pictures: what was seen is black and white, what was made up is not, and nothing hidden is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots

N, SIDE, M = 3, 6, 5
SEEN = torch.arange(SIDE).unsqueeze(1).expand(N, SIDE, SIDE) < 3  # the upper half
HIDDEN = (88, 106, 132)  # a blue that no grey pixel has
FILLED = (255, 191, 105)  # an orange in white's place


def tiles(figure: Figure, panel: str, columns: int, rows: int = N) -> np.ndarray:
    """The pictures of a panel pixel by pixel, shape (rows, columns, SIDE, SIDE, 3)."""
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left").startswith(panel))
    paper = np.asarray(axes.images[0].get_array())
    gap = 3  # 0.015 inches
    scale = (paper.shape[1] - (columns - 1) * gap) // (columns * SIDE)
    step = scale * SIDE + gap
    return np.stack([
        np.stack([paper[r * step : r * step + SIDE * scale : scale, c * step : c * step + SIDE * scale : scale]
                  for c in range(columns)])
        for r in range(rows)
    ])  # fmt: skip


def figure(x: torch.Tensor, **settings: Any) -> Figure:
    given: dict[str, Any] = {"mask": SEEN, "mean": x, "samples": x.expand(M, *x.shape), "truth": x, **settings}
    return plots.completions_figure(x, given.pop("mask"), given.pop("mean"), given.pop("samples"), **given)


def test_the_hidden_part_is_neither_black_nor_white_nor_grey_and_hides_the_values() -> None:
    white = figure(torch.ones(N, SIDE, SIDE))
    seen = tiles(white, "seen", 1)[:, 0]
    assert (seen[:, :3] == 255).all()
    assert (seen[:, 3:] == HIDDEN).all()
    filler = torch.ones(N, SIDE, SIDE).masked_fill(~SEEN, torch.nan)
    assert (tiles(figure(filler, mean=torch.ones(N, SIDE, SIDE), samples=torch.ones(M, N, SIDE, SIDE)), "seen", 1)
            == seen[:, None]).all()  # fmt: skip


@pytest.mark.parametrize("panel", ["E[x", "samples"])
def test_what_was_made_up_has_a_colour_of_its_own(panel: str) -> None:
    half = figure(torch.full((N, SIDE, SIDE), 1.0))
    drawn = tiles(half, panel, M if panel == "samples" else 1)
    assert (drawn[:, :, :3] == 255).all()
    assert (drawn[:, :, 3:] == FILLED).all()
    assert (tiles(half, "truth", 1) == 255).all()
    dark = tiles(figure(torch.zeros(N, SIDE, SIDE)), panel, M if panel == "samples" else 1)
    assert (dark == 0).all()  # and black stays black


def test_every_sample_stands_in_the_row_of_its_datum() -> None:
    samples = torch.arange(M * N).reshape(M, N, 1, 1).expand(M, N, SIDE, SIDE) / (M * N)
    drawn = tiles(figure(torch.zeros(N, SIDE, SIDE), samples=samples), "samples", M)
    expected = np.floor(samples.numpy() * 255 + 0.5)[:, :, 0, 0].T
    assert (drawn[:, :, 0, 0, 0] == expected).all()


def test_mean_and_truth_are_under_their_own_names() -> None:
    zero = torch.zeros(N, SIDE, SIDE)
    drawn = figure(zero, mean=zero + 0.25, truth=zero + 0.5)
    assert [axes.get_title(loc="left").split()[0] for axes in drawn.axes] == ["seen", "E[x", "samples", "truth"]
    assert tiles(drawn, "E[x", 1)[0, 0, 0, 0].tolist() == [64] * 3
    assert tiles(drawn, "truth", 1)[0, 0, 0, 0].tolist() == [128] * 3
    assert len(figure(zero, truth=None).axes) == 3


def test_colours_are_kept() -> None:
    red = torch.zeros(N, 3, SIDE, SIDE)
    red[:, 0] = 1
    mask = SEEN.unsqueeze(1).expand(N, 3, SIDE, SIDE).clone()
    mask[:, 1:] = True  # a pixel that misses one channel is not seen
    drawn = figure(red, mask=mask)
    assert (tiles(drawn, "E[x", 1) == (255, 0, 0)).all()
    assert (tiles(drawn, "seen", 1)[:, :, 3:] == HIDDEN).all()


def test_one_channel_is_grey() -> None:
    drawn = figure(torch.ones(N, 1, SIDE, SIDE), mask=SEEN.unsqueeze(1))
    assert (tiles(drawn, "E[x", 1)[:, :, 3:] == FILLED).all()


def test_the_file_is_written(tmp_path: Path) -> None:
    figure(torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), path=tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mask", (N, SIDE)), ("mean", (2, SIDE, SIDE)), ("samples", (M, 2, SIDE, SIDE)), ("truth", (N, 5, SIDE))],
)
def test_what_does_not_match_is_an_error(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match=name):
        figure(torch.zeros(N, SIDE, SIDE), **{name: torch.ones(shape)})


def test_what_is_no_picture_is_an_error() -> None:
    x = torch.zeros(N, 4)
    with pytest.raises(ElbowroomError, match="pictures are"):
        plots.completions_figure(x, x > 1, x, x.expand(2, N, 4))


def test_what_is_not_known_of_the_truth_is_not_shown_as_true() -> None:
    truth = torch.ones(N, SIDE, SIDE)
    truth[:, 4:] = torch.nan  # missing before anything was hidden
    drawn = tiles(figure(torch.ones(N, SIDE, SIDE), truth=truth), "truth", 1)[:, 0]
    assert (drawn[:, :4] == 255).all()
    assert (drawn[:, 4:] == HIDDEN).all()
