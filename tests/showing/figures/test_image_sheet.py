"""What is painted: one scale for all pictures, and every pixel of a picture as large as every other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.image_sheet import Panel, draw_sheet, to_rgb
from elbowroom.showing.figures.style import COLUMN, PAGE

VERMILION = (213, 94, 0)


def render(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def painted(figure: Figure, panel: int = 0) -> np.ndarray:
    """The pixels inside a panel's axes."""
    pixels = render(figure)
    box = figure.axes[panel].get_window_extent()
    x0, x1, y0, y1 = (round(edge) for edge in (box.x0, box.x1, box.y0, box.y1))
    return pixels[len(pixels) - y1 : len(pixels) - y0, x0:x1]


@pytest.mark.parametrize(
    ("value", "byte"), [(0.0, 0), (0.25, 64), (0.5, 128), (1.0, 255), (-3.0, 0), (7.5, 255)], ids=str
)
def test_grey_is_fixed(value: float, byte: int) -> None:
    figure = plots.image_grid(torch.full((1, 6, 6), value))
    assert (painted(figure) == byte).all()


def test_two_pictures_of_different_ranges_are_not_rescaled() -> None:
    faint, strong = torch.zeros(6, 6), torch.zeros(6, 6)
    faint[:, 3:], strong[:, 3:] = 0.1, 1.0
    pixels = painted(plots.image_grid(torch.stack([faint, strong]), columns=2))
    greys = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist() if len(set(colour)) == 1}
    assert greys == {(0, 0, 0), (26, 26, 26), (255, 255, 255)}
    middle = pixels.shape[1] // 2
    assert (26 in pixels[0, : middle - 10], 255 in pixels[0, : middle - 10]) == (True, False)
    assert (26 in pixels[0, middle + 10 :], 255 in pixels[0, middle + 10 :]) == (False, True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_bytes_keep_their_value(dtype: torch.dtype) -> None:
    images = torch.tensor([[[0, 128], [200, 255]]]).to(dtype)
    assert to_rgb(images, value_range=(0, 255))[0, :, :, 0].tolist() == [[0, 128], [200, 255]]


def test_bytes_on_the_unit_scale_are_an_error_that_names_the_range() -> None:
    with pytest.raises(ElbowroomError, match=r"integers up to 255.*\n.*value_range=\(0, 255\)"):
        to_rgb(torch.tensor([[[0, 128], [200, 255]]], dtype=torch.uint8))


def test_a_range_upside_down_is_an_error() -> None:
    with pytest.raises(ElbowroomError, match="black must lie below white"):
        to_rgb(torch.zeros(1, 2, 2), value_range=(1, 0))


@pytest.mark.parametrize("shape", [(5,), (5, 30), (5, 2, 8, 8), (5, 1, 30)], ids=str)
def test_what_is_no_picture_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match="pictures are"):
        to_rgb(torch.zeros(shape))


def test_what_is_not_a_number_is_not_black() -> None:
    images = torch.zeros(1, 3, 4, 4)
    images[0, 1, 2, 3] = float("nan")
    rgb = to_rgb(images)[0]
    assert tuple(rgb[2, 3]) == VERMILION
    assert rgb.sum() == sum(VERMILION)


def test_channels_are_red_green_blue() -> None:
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = images[0, 1, 0, 1] = images[0, 2, 1, 0] = 1
    assert to_rgb(images)[0].tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 0, 0]]]


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (3, 6, 5)], ids=str)
def test_every_pixel_of_a_picture_is_the_same_whole_number_of_pixels(shape: tuple[int, ...]) -> None:
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    pixels = painted(plots.image_grid(images, columns=3))
    expected = to_rgb(images)
    height, width = 6, 5
    scale = pixels.shape[1] // (3 * width)
    gap = (pixels.shape[1] - 3 * width * scale) // 2
    assert pixels.shape[0] == 2 * height * scale + gap
    for index in range(6):
        row, column = divmod(index, 3)
        top, left = row * (height * scale + gap), column * (width * scale + gap)
        tile = pixels[top : top + height * scale, left : left + width * scale]
        assert (tile == expected[index].repeat(scale, 0).repeat(scale, 1)).all()


def test_the_seam_between_pictures_is_no_grey() -> None:
    pixels = painted(plots.image_grid(torch.ones(4, 5, 5), columns=2)).reshape(-1, 3)
    seam = pixels[(pixels != 255).any(1)]
    assert len(seam)
    assert (seam.max(1) != seam.min(1)).all()


def test_the_empty_end_of_a_grid_is_paper() -> None:
    pixels = painted(plots.image_grid(torch.zeros(3, 5, 5), columns=2))
    assert (pixels[-5:, -5:] == 255).all()
    assert (pixels[:5, -5:] == 0).all()


@pytest.mark.parametrize(("count", "side"), [(1, 28), (9, 28), (100, 28), (10, 8), (4, 300), (30, 64)])
def test_sheets_are_no_wider_than_the_page(count: int, side: int) -> None:
    figure = plots.image_grid(torch.zeros(count, side, side))
    assert figure.get_figwidth() <= (COLUMN if count <= 64 else PAGE) + 1e-6
    pixels = painted(figure)
    assert pixels.shape[1] >= side  # nothing is thrown away


@pytest.mark.parametrize("panels", [1, 2])
def test_titles_and_notes_lie_inside_the_figure(panels: int) -> None:
    panel = Panel(to_rgb(torch.zeros(2, 8, 8)), 1, title="samples  x ~ p(x | z)", row_labels=["a row", "another\nrow"])
    figure = draw_sheet([panel] * panels, note="a note that is longer than these two small pictures are wide, by far")
    render(figure)
    box = figure.bbox
    texts = {text.get_text(): text for text in figure.findobj(Text) if text.get_text() and text.get_visible()}
    assert any(said.startswith("samples") for said in texts) and {"a row", "another\nrow"} <= set(texts)
    for text in texts.values():
        extent = text.get_window_extent()
        assert box.x0 <= extent.x0, text
        assert extent.x1 <= box.x1 + 1, text
        assert box.y0 <= extent.y0 + 1, text
        assert extent.y1 <= box.y1 + 1, text
