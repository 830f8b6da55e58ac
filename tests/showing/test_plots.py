"""Across all figures: nothing under another's name, and what does not fit together is said to be the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.style import finish, new_figure
from elbowroom.showing.figures.tabular import kolmogorov_smirnov

pytestmark = pytest.mark.drawn

T = np.zeros((5, 3))


@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_a_file_is_no_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ElbowroomError, match=r"cannot be written to .*figure\.png"):
        finish(new_figure(1.0, 1.0), tmp_path / folder / "figure.png")


def test_a_failure_that_is_nobodys_fault_keeps_the_old_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"the old one")

    def half_written(_: object, where: Path, **__: object) -> None:
        Path(where).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_written)
    with pytest.raises(KeyboardInterrupt):
        finish(new_figure(1.0, 1.0), path)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.reconstruction_scatter(T, T[:, :2]), "5 rows of 3 features and means 5 of 2"),
        (lambda: plots.reconstruction_scatter(T[:, :2], T), "5 rows of 2 features and means 5 of 3"),
        (lambda: plots.reconstruction_scatter(T, T[:4]), "5 rows of 3 features and means 4 of 3"),
        (lambda: plots.reconstruction_scatter(T, T[:1]), "5 rows of 3 features and means 1 of 3"),
        (lambda: plots.reconstruction_scatter(T[:0], T), "x is empty"),
        (lambda: plots.reconstruction_scatter(T, T, names=["a"]), "1 names, but 3 features"),
        (lambda: plots.marginals_figure(T, T[:0]), "samples is empty"),
        (lambda: plots.class_rows_figure(torch.zeros(2, 3, 8, 8), torch.zeros(3, 2, 8, 8), "ab"), "have shapes"),
        (lambda: plots.traversal_figure(torch.zeros(2, 3, 30), [0, 1], [1, 2, 3]), "need"),
        (lambda: kolmogorov_smirnov([], [1.0]), "empty"),
        (lambda: kolmogorov_smirnov([1.0], torch.zeros(0)), "empty"),
    ],
)
def test_what_does_not_match_is_an_error(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        draw()


def test_samples_and_means_of_classes_are_each_under_their_own_name() -> None:
    samples, means = torch.zeros(2, 3, 6, 6), torch.ones(2, 3, 6, 6)
    axes = plots.class_rows_figure(samples, means, "ab").axes
    corners = {a.get_title(loc="left"): np.unique(np.asarray(a.images[0].get_array())[:4, :4]).tolist() for a in axes}
    assert corners == {"samples  x ~ p(x | z, c)": [0], "means  E[x | z, c]": [255]}


def test_the_labels_of_latents_that_are_left_out_go_with_them() -> None:
    z = torch.arange(12.0).reshape(6, 2)
    z[2, 0], z[4, 1] = torch.nan, torch.inf
    dots = plots.latent_scatter(z, labels=[0, 0, 1, 0, 1, 1]).axes[0].collections[0]
    colours = np.asarray(dots.get_facecolors())
    assert (colours == colours[0]).all(1).tolist() == [True, True, True, False]


def test_an_unused_latent_plays_no_part() -> None:
    """The guide leaves it at the prior: its means stand still, here in the first place."""
    z = np.random.default_rng(0).normal(size=(100, 2)) * [3.0, 1.0]
    shown = np.asarray(plots.latent_scatter(np.insert(z, 0, 7.0, axis=1)).axes[0].collections[0].get_offsets())
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(shown), np.abs(u * s), atol=1e-9)


@pytest.mark.parametrize(("bound", "high"), [("lower", -87.5), ("estimate", -86.0), ("exact", -85.0), ("upper", -87.5)])
def test_the_room_reaches_from_the_elbo_to_the_best_value(bound: str, high: float) -> None:
    value = {"lower": -89.0, "upper": -80.0}.get(bound, high)
    rows = [
        {"name": "elbo", "value": -93.0, "stderr": 0.1, "bound": "lower"},
        {"name": "iwae", "value": -87.5, "stderr": 0.1, "bound": "lower"},
        {"name": "other", "value": value, "stderr": 0.1, "bound": bound},
    ]
    figure = plots.evaluation_figure(rows)
    figure.canvas.draw()
    axes = figure.axes[0]
    shaded = axes.patches[0].get_window_extent().transformed(axes.transData.inverted())
    np.testing.assert_allclose([shaded.x0, shaded.x1], [-93.0, high])
