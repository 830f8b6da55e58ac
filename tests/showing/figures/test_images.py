"""Figures of pictures say what they show, and show it in the right place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots

BLACK, WHITE = torch.zeros(4, 6, 6), torch.ones(4, 6, 6)


def paper(figure: Figure, panel: int = 0) -> np.ndarray:
    """What a panel's axes were given to paint."""
    return np.asarray(figure.axes[panel].images[0].get_array())


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def texts(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_nine_pictures_are_three_by_three_with_their_titles(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    figure = plots.image_grid(torch.zeros(9, 6, 6), titles=range(9), title="the data", path=path)
    assert texts(figure) == [str(k) for k in range(9)]
    assert titles(figure) == ["the data"]
    x = sorted({text.get_position()[0] for text in figure.axes[0].texts})
    y = sorted({text.get_position()[1] for text in figure.axes[0].texts})
    assert len(x) == len(y) == 3
    assert path.stat().st_size > 0


def test_titles_stand_above_their_own_pictures() -> None:
    images = torch.zeros(4, 6, 6)
    images[2] = 1  # first of the second row
    figure = plots.image_grid(images, titles=["a", "b", "c", "d"], columns=2)
    x, y = figure.axes[0].texts[2].get_position()
    pixels = paper(figure)
    assert (pixels[int(y) + 20, int(x)] == 255).all()
    assert (pixels[int(y) + 20, pixels.shape[1] - 5] == 0).all()


def test_row_labels_stand_beside_their_own_rows() -> None:
    figure = plots.image_grid(torch.zeros(6, 6, 6), row_labels=["a", 2], columns=3)
    first, second = figure.axes[0].texts
    assert [first.get_text(), second.get_text()] == ["a", "2"]
    assert first.get_position()[0] == second.get_position()[0] < 0
    assert first.get_position()[1] < second.get_position()[1]  # y is counted from above


def test_a_dollar_sign_is_a_dollar_sign() -> None:
    plots.image_grid(torch.zeros(2, 6, 6), titles=["$a$", "$x^"], title="$", note="$_$ {").canvas.draw()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"titles": ["one"]}, "1 titles, but 4 images"),
        ({"row_labels": ["one"]}, "1 row labels, but 2 rows"),
        ({"columns": 0}, "columns is 0"),
    ],
)
def test_image_grid_refuses(given: dict[str, object], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        plots.image_grid(BLACK, **given)  # type: ignore[arg-type]


def test_samples_and_means_are_each_under_their_own_name() -> None:
    figure = plots.samples_figure(BLACK, WHITE, note="a note")
    assert titles(figure) == ["samples  x ~ p(x | z)", "means  E[x | z]"]
    assert (paper(figure, 0)[:5, :5] == 0).all()
    assert (paper(figure, 1)[:5, :5] == 255).all()
    assert figure.axes[0].get_position().x1 < figure.axes[1].get_position().x0
    assert [text.get_text() for text in figure.texts] == ["a note"]


def test_samples_and_means_must_match() -> None:
    with pytest.raises(ElbowroomError, match=r"\(4, 6, 6\) and \(3, 6, 6\)"):
        plots.samples_figure(BLACK, WHITE[:3])


def test_samples_of_a_table_name_the_figure_for_them() -> None:
    with pytest.raises(ElbowroomError, match="marginals_figure"):
        plots.samples_figure(torch.zeros(4, 30), torch.zeros(4, 30))


@pytest.mark.parametrize(
    "draw",
    [
        lambda none: plots.image_grid(none),
        lambda none: plots.samples_figure(none, none),
        lambda none: plots.reconstruction_figure(none, none),
        lambda none: plots.class_rows_figure(none[None], none[None], ["a"]),
    ],
)
def test_nothing_is_an_error(draw: object) -> None:
    with pytest.raises(ElbowroomError, match="empty"):
        draw(torch.zeros(0, 6, 6))  # type: ignore[operator]


def test_each_class_has_its_row() -> None:
    means = torch.zeros(3, 5, 6, 6)
    means[1] = 1
    figure = plots.class_rows_figure(means, means, ["a", "b", "c"])
    assert titles(figure) == ["samples  x ~ p(x | z, c)", "means  E[x | z, c]"]
    assert texts(figure) == ["a", "b", "c"]
    pixels = paper(figure)
    for text, byte in zip(figure.axes[0].texts, (0, 255, 0), strict=True):
        assert (pixels[int(text.get_position()[1]), 2] == byte).all()


@pytest.mark.parametrize(
    ("samples", "labels", "message"),
    [((3, 5, 6, 6), ["a"], "1 row labels, but 3 rows"), ((3, 6, 6), ["a"] * 3, r"\(classes, columns, \*event\)")],
)
def test_class_rows_refuse(samples: tuple[int, ...], labels: list[str], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        plots.class_rows_figure(torch.zeros(samples), torch.zeros(samples), labels)


def test_reconstructions_stand_below_their_data() -> None:
    figure = plots.reconstruction_figure(BLACK, WHITE, samples=torch.full((4, 6, 6), 0.5))
    assert [label.split(" ")[0] for label in texts(figure)] == ["data", "mean", "sample"]
    pixels = paper(figure)
    for text, byte in zip(figure.axes[0].texts, (0, 255, 128), strict=True):
        assert (pixels[int(text.get_position()[1]), 2] == byte).all()


def test_reconstructions_of_a_table_are_a_scatter() -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    figure = plots.reconstruction_figure(x, 2 * x, names=["age", "income"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["age", "income"]
    dots = np.asarray(figure.axes[1].collections[0].get_offsets())
    np.testing.assert_allclose(dots, torch.stack([x[:, 1], 2 * x[:, 1]], 1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("samples", [None, torch.zeros(2, 6, 6)])
def test_reconstructions_must_match(samples: torch.Tensor | None) -> None:
    with pytest.raises(ElbowroomError, match="shapes"):
        plots.reconstruction_figure(BLACK, WHITE[:3] if samples is None else WHITE, samples=samples)


BLUE = (88, 106, 132)


def test_missing_pixels_are_blue_and_said_to_be() -> None:
    mask = torch.ones(4, 6, 6, dtype=torch.bool)
    mask[0, :3] = False
    grid = plots.image_grid(WHITE, mask=mask, columns=2)
    pixels = paper(grid)
    assert tuple(pixels[1, 1]) == BLUE and (pixels[-1, -1] == 255).all()
    assert [text.get_text() for text in grid.texts] == ["Blue: not observed."]
    assert not plots.image_grid(WHITE, mask=torch.ones(4, 6, 6)).texts
    with pytest.raises(ElbowroomError, match="images and mask"):
        plots.image_grid(WHITE, mask=mask[:2])


def test_missing_pixels_of_data_are_blue_beside_their_reconstructions() -> None:
    """What the guide saw in their place is no observation; a mean that is not a number is an error, and vermilion."""
    x, means = WHITE.clone(), WHITE.clone()
    x[0, :3], means[0, :3] = torch.nan, torch.nan
    figure = plots.reconstruction_figure(x, means, note="a note")
    pixels = paper(figure)
    assert tuple(pixels[1, 1]) == BLUE
    below = pixels[pixels.shape[0] // 2 + 5, 1]
    assert tuple(below) == (213, 94, 0)
    assert [text.get_text() for text in figure.texts] == ["a note Blue: not observed."]
