"""Figures leave no trace, appear whole or not at all, and take text as it is."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import elbowroom
from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.style import CLASS_COLOURS, DPI, as_array, finish, is_image, new_figure, text_width, wrap


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((28, 28), True),
        ((5, 7), True),
        ((1, 8, 8), True),
        ((3, 8, 8), True),
        ((30,), False),
        ((), False),
        ((1, 30), False),
        ((30, 1), False),
        ((4, 8, 8), False),
        ((8, 8, 3), False),
        ((1, 1, 8, 8), False),
    ],
    ids=str,
)
def test_pictures_are_told_from_tables(shape: tuple[int, ...], image: bool) -> None:
    assert is_image(shape) is image


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool]
)
def test_any_tensor_becomes_an_array_of_its_values(dtype: torch.dtype) -> None:
    array = as_array(torch.tensor([0, 1]).to(dtype), "values")
    assert array.tolist() == [0, 1]


def test_a_tensor_on_the_graph_is_taken_off() -> None:
    assert as_array(torch.ones(2, requires_grad=True) * 2, "values").tolist() == [2, 2]


def test_nothing_cannot_be_shown() -> None:
    with pytest.raises(ElbowroomError, match=r"images is empty \(shape \(0, 8, 8\)\)"):
        as_array(torch.zeros(0, 8, 8), "images")


def test_a_file_has_the_size_of_its_figure(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "figure.png"
    finish(new_figure(2.0, 1.0), path)
    with Image.open(path) as written:
        assert written.size == (2 * DPI, DPI)
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    images = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0))
    for name in ("a.png", "b.png"):
        plots.image_grid(images, path=tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"the old one")

    def half_written(_: Figure, where: Path, **__: object) -> None:
        Path(where).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(ElbowroomError, match="No space left on device"):
        finish(new_figure(1, 1), path)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_the_file_is_written_under_another_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "figure.png", list[bool]()
    write = Figure.savefig

    def watched(figure: Figure, where: Path, **options: object) -> None:
        write(figure, where, **options)
        seen.append(path.exists())

    monkeypatch.setattr(Figure, "savefig", watched)
    finish(new_figure(1, 1), path)
    assert seen == [False]
    assert path.exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="cannot be written"):
        finish(new_figure(1, 1), tmp_path)
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(".*.tmp"))


def test_drawing_needs_no_pyplot_and_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does to import it, which is done anew, with a pyplot that cannot be imported."""
    monkeypatch.setattr(elbowroom, "showing", elbowroom.showing)  # put back afterwards, as the modules are
    for name in [name for name in sys.modules if name.startswith("elbowroom.showing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with mpl.rc_context():
        mpl.rcdefaults()  # what the import before this one may have changed
        before = repr(list(dict.items(mpl.rcParams)))  # to ask the mapping itself for the backend would choose one
        anew = importlib.import_module("elbowroom.showing.plots")
        assert anew is not plots
        anew.image_grid(torch.zeros(4, 5, 5))
        anew.latent_scatter(torch.arange(8.0).reshape(4, 2))
        assert repr(list(dict.items(mpl.rcParams))) == before


def test_a_users_settings_do_not_leak_in() -> None:
    images = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0))

    def pixels() -> np.ndarray:
        figure = plots.image_grid(images)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba()).copy()

    plain = pixels()
    with mpl.rc_context({"image.interpolation": "bilinear", "axes.facecolor": "red", "figure.facecolor": "red"}):
        assert (pixels() == plain).all()


def test_lines_are_wrapped_to_fit_and_lose_no_word() -> None:
    text = "cross-entropy: the decoder's output, not a likelihood"
    wrapped = wrap(text, 7, 1.5)
    assert wrapped.split() == text.split()
    assert "\n" in wrapped
    assert text_width(wrapped, 7) <= 1.5
    assert wrap(text, 7, 10) == text


def test_classes_have_ten_different_colours() -> None:
    assert len(set(CLASS_COLOURS)) == 10
