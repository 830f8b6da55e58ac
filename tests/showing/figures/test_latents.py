"""The latent space: quantiles against the normal distribution function, components against a known rotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.style import CLASS_COLOURS


@pytest.mark.parametrize("r", [1, 2, 7, 20])
def test_the_grid_lies_at_the_middles_of_equal_shares(r: int) -> None:
    grid = plots.manifold_grid(r).double()
    shares = 0.5 * (1 + torch.erf(grid / math.sqrt(2)))
    middles = (torch.arange(r).double() + 0.5) / r
    assert grid.shape == (r, r, 2)
    torch.testing.assert_close(shares[:, :, 0], middles.expand(r, r), atol=1e-6, rtol=0)  # rises to the right
    torch.testing.assert_close(shares[:, :, 1], middles.flip(0)[:, None].expand(r, r), atol=1e-6, rtol=0)  # and up


def test_a_grid_has_points() -> None:
    with pytest.raises(ElbowroomError, match="r is 0"):
        plots.manifold_grid(0)


def test_the_manifold_is_in_the_order_of_the_grid() -> None:
    share = 0.5 * (1 + torch.erf(plots.manifold_grid(4) / math.sqrt(2)))
    means = (0.9 * share[..., 0] + 0.1 * share[..., 1])[..., None, None].expand(4, 4, 6, 6)
    figure = plots.manifold_figure(means)
    pixels = np.asarray(figure.axes[0].images[0].get_array())[..., 0].astype(int)
    assert (np.diff(pixels[0]) >= 0).all()
    assert (np.diff(pixels[:, 0]) <= 0).all()
    assert pixels[0, -1] > pixels[0, 0] > pixels[-1, 0]
    assert figure.axes[0].get_xlabel().startswith("z[0]")
    assert [text.get_text()[:4] for text in figure.axes[0].texts] == ["z[1]"]


@pytest.mark.parametrize("shape", [(3, 4, 6, 6), (16, 6, 6), (4, 4, 30)], ids=str)
def test_the_manifold_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError):
        plots.manifold_figure(torch.zeros(shape))


def test_a_traversal_has_a_row_per_latent_and_a_column_per_value() -> None:
    means = torch.zeros(2, 3, 6, 6)
    means[1, 2] = 1
    figure = plots.traversal_figure(means, [5, 0], [-1.5, 0, 1.5])
    assert [text.get_text() for text in figure.axes[0].texts] == ["z[5]", "z[0]", "−1.5", "0", "1.5"]
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    assert (pixels[-5:, -5:] == 255).all()
    assert (pixels[:5, -5:] == 0).all()
    assert (pixels[-5:, :5] == 0).all()


@pytest.mark.parametrize(("dims", "values"), [([1], [0, 1, 2]), ([1, 2], [0, 1])])
def test_a_traversal_refuses(dims: list[int], values: list[float]) -> None:
    with pytest.raises(ElbowroomError, match="coordinates at"):
        plots.traversal_figure(torch.zeros(2, 3, 6, 6), dims, values)


def test_two_latents_are_shown_as_they_are() -> None:
    z = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    axes = plots.latent_scatter(z).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), z, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[0]", "z[1]")


def test_one_latent_is_shown_along_one_axis() -> None:
    z = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    axes = plots.latent_scatter(z).axes[0]
    np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets())[:, 0], z[:, 0], rtol=1e-6)
    assert not axes.yaxis.get_visible()


def test_of_many_latents_the_principal_components_are_shown() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = torch.randn(500, 2, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    inside -= inside.mean(0)
    inside[:, 1] -= inside[:, 0] * (inside[:, 0] @ inside[:, 1]) / inside[:, 0].square().sum()  # exactly uncorrelated
    basis = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64)).Q
    axes = plots.latent_scatter(inside @ basis.T + 5).axes[0]
    shown = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.abs(shown), inside.abs().numpy(), atol=1e-9)
    share = float(inside[:, 0].square().sum() / inside.square().sum())
    assert axes.get_xlabel() == f"first principal component of z, {100 * share:.0f}%"
    assert axes.get_ylabel() == f"second principal component of z, {100 - 100 * share:.0f}%"


def test_the_sign_of_a_component_does_not_depend_on_chance() -> None:
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    one, other = (np.asarray(plots.latent_scatter(x).axes[0].collections[0].get_offsets()) for x in (z, z.flip(0)))
    np.testing.assert_allclose(one, other[::-1], atol=1e-5)


def test_each_class_has_its_colour_and_its_place_in_the_legend() -> None:
    labels = torch.arange(30) % 3
    figure = plots.latent_scatter(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), labels=labels)
    colours = np.asarray(figure.axes[0].collections[0].get_facecolors())[:, :3]
    expected = np.array([to_rgba(CLASS_COLOURS[k])[:3] for k in labels])
    np.testing.assert_allclose(colours, expected)
    entries = figure.legends[0]
    assert [text.get_text() for text in entries.get_texts()] == ["0", "1", "2"]
    assert [handle.get_color() for handle in entries.legend_handles] == list(CLASS_COLOURS[:3])


def test_many_names_end_in_other_and_many_numbers_in_a_bar() -> None:
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    names = np.array([f"${k:02d}" for k in np.arange(200) % 15], dtype="U10")
    names[100:] = "frequent$"
    figure = plots.latent_scatter(z, labels=names)
    figure.canvas.draw()
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(shown) == 10
    assert shown[-1] == "other"
    assert "frequent$" in shown
    colours = np.asarray(figure.axes[0].collections[0].get_facecolors())[:, :3]
    frequent = np.array(to_rgba(CLASS_COLOURS[shown.index("frequent$")])[:3])
    assert (np.abs(colours[100:] - frequent) < 1e-9).all()
    assert len(plots.latent_scatter(z, labels=z[:, 0]).axes) == 2


def test_a_latent_that_is_not_finite_is_left_out_with_its_label() -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    z[1, 0] = float("nan")
    dots = plots.latent_scatter(z, labels=[0, 1, 0, 0, 0]).axes[0].collections[0]
    np.testing.assert_allclose(dots.get_offsets(), z[[0, 2, 3, 4]], rtol=1e-6)
    assert len(np.unique(np.asarray(dots.get_facecolors()), axis=0)) == 1  # those left are all of class 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 5), (2, 5)], ids=str)
def test_few_data_can_be_drawn(shape: tuple[int, int]) -> None:
    plots.latent_scatter(torch.ones(shape)).canvas.draw()


@pytest.mark.parametrize(
    ("means", "labels", "message"),
    [
        (torch.zeros(4), None, "rows"),
        (torch.zeros(4, 2), [1, 2], "2 labels, but 4 latents"),
        (torch.full((4, 2), float("nan")), None, "no latent is finite"),
        (torch.zeros(0, 2), None, "empty"),
    ],
)
def test_the_scatter_refuses(means: torch.Tensor, labels: list[int] | None, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        plots.latent_scatter(means, labels=labels)
