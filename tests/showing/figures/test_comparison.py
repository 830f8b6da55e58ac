"""The picture of a comparison: every recipe's numbers, a range that shows the end, and no name that breaks it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots

Row = dict[str, Any]


def course(
    recipe: str, end: float, *, start: float = 0.0, moments: int = 8, split: str = "test", slow: int = 1
) -> list[Row]:
    """A recipe that begins ``start`` nats below its end and halves the distance at each moment."""
    return [
        {"recipe": recipe, "split": split, "seconds": 2.0**m, "decoder_gradients": 1000 * slow * 2**m,
         "value": end - start / 2**m, "stderr": 0.5}
        for m in range(moments)
    ]  # fmt: skip


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) > 1]


def triangles(axes: Axes) -> dict[str, float]:
    """Colour and abscissa of what marks a recipe below the floor."""
    return {str(line.get_color()): float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "v"
            and len(line.get_xdata()) == 1}  # fmt: skip


def test_each_panel_has_each_recipe_against_its_own_work() -> None:
    rows = course("aevb", -100, start=4) + course("mcem", -101, start=4, slow=10)
    figure = plots.comparison_figure(rows, title="digits")
    for axes, key in zip(figure.axes, ("seconds", "decoder_gradients"), strict=True):
        assert axes.get_xscale() == "log"
        for line, name in zip(lines(axes), ("aevb", "mcem"), strict=True):
            own = [row for row in rows if row["recipe"] == name]
            np.testing.assert_array_equal(line.get_xdata(), [row[key] for row in own])
            np.testing.assert_array_equal(line.get_ydata(), [row["value"] for row in own])
        bars = axes.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose([s[:, 1] for s in bars], [[r["value"] - 0.5, r["value"] + 0.5] for r in rows[:8]])
    assert figure.get_suptitle() == "digits"


def test_the_legend_is_in_the_order_of_the_last_values() -> None:
    figure = plots.comparison_figure(course("b", -101.234, start=1) + course("a", -105, start=1) + course("c", -99))
    assert legend(figure) == ["c  −99.00", "b  −101.24", "a  −105.01"]
    shown = {line.get_color() for line in lines(figure.axes[0])}
    assert len(shown) == 3


def test_the_end_sets_the_range_and_what_lies_below_is_marked() -> None:
    rows = course("good", -100, start=400) + course("fair", -104, start=400) + course("naive", -480, start=20)
    for axes in plots.comparison_figure(rows).axes:
        low, high = axes.get_ylim()
        assert -200 < low < -108 and -100 < high < -90
        marked = triangles(axes)
        assert len(marked) == 3
        last_below = {row["recipe"]: row["seconds"] for row in rows if row["value"] < low}
        if axes.get_xlabel().startswith("wall"):
            assert sorted(marked.values()) == sorted(last_below.values())
        assert [text.get_text() for text in axes.texts] == ["▼ lower, down to −504.00"]


def test_what_costs_little_is_shown_whole() -> None:
    for axes in plots.comparison_figure(course("a", -100, start=3) + course("b", -103, start=1)).axes:
        assert axes.get_ylim()[0] < -104.5
        assert not triangles(axes) and not axes.texts


def test_triangles_of_one_place_stand_on_each_other() -> None:
    rows = [row for k in range(4) for row in course(f"r{k}", -100 - k, start=900)]
    axes = plots.comparison_figure(rows).axes[0]
    heights = [
        float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "v" and len(line.get_xdata()) == 1
    ]
    assert len(set(heights)) == 4


def test_other_splits_are_dashed_in_the_same_colour() -> None:
    rows = course("a", -100, start=3) + course("a", -98, start=3, split="train")
    figure = plots.comparison_figure(rows)
    test, train = lines(figure.axes[0])
    assert (test.get_linestyle(), train.get_linestyle()) == ("-", "--")
    assert test.get_color() == train.get_color()
    assert legend(figure) == ["a  −100.02", "test", "train"]


def test_a_failure_ends_with_a_cross_and_stands_last() -> None:
    rows = course("broken", -90, start=3, moments=3) + course("a", -100, start=3)
    figure = plots.comparison_figure(rows, failed=["broken", "stillborn"])
    assert legend(figure) == ["a  −100.02", "broken  failed", "stillborn  failed"]
    for axes in figure.axes:
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in crosses] == [
            (4 if axes is figure.axes[0] else 4000, -90.75)
        ]


@pytest.mark.parametrize("number", [1, 2, 5, 10, 23])
def test_recipes_differ_in_colour_or_marker_and_the_legend_fits(number: int) -> None:
    rows = [row for k in range(number) for row in course(f"a-long-name-of-a-recipe-{k}", -100 - k, start=5)]
    figure = plots.comparison_figure(rows)
    figure.canvas.draw()
    styles = {(line.get_color(), line.get_marker()) for line in lines(figure.axes[0])}
    assert len(styles) == number
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    lowest = min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert box.y1 <= lowest + 1  # below the panels, on no data


HOSTILE = ["_hidden", "$x^{2$", "<b>&amp;", "two\nlines", "[red]", "a" * 300, "ünï—λ", " ", "%s{}", "\\frac"]


def test_names_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [row for k, name in enumerate(HOSTILE) for row in course(name, -100 - k, start=5)]
    figure = plots.comparison_figure(rows, title="$\\frac{$", path=tmp_path / "f.png")
    shown = legend(figure)
    assert [text.split("  ")[0] for text in shown[:5]] == ["_hidden", "$x^{2$", "<b>&amp;", "two lines", "[red]"]
    assert "…" in shown[5] and shown[5].endswith("−105.04")
    assert figure.legends[0].get_window_extent().x1 <= figure.bbox.width
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(value: float) -> None:
    rows = course("a", -100, start=3)
    axes = plots.comparison_figure([*rows, rows[-1] | {"value": value, "seconds": 500.0}]).axes[0]
    assert float(lines(axes)[0].get_xdata()[-1]) == 128
    with pytest.raises(ElbowroomError, match="no measurement with a finite value"):
        plots.comparison_figure([rows[0] | {"value": value}])


def test_one_moment_without_an_error_and_without_time_is_enough() -> None:
    row = {"recipe": "a", "split": "test", "seconds": 0.0, "decoder_gradients": 0, "value": -1.0, "stderr": None}
    figure = plots.comparison_figure([row])
    figure.canvas.draw()
    assert legend(figure) == ["a  −1.00"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (1, "1"), (2000, "2000"), (1e4, "10⁴"), (5e4, "5·10⁴"), (1e9, "10⁹"), (2e-5, "2·10⁻⁵")],
)
def test_powers_are_written_as_by_hand(value: float, text: str) -> None:
    axis = plots.comparison_figure(course("a", -100, start=3)).axes[0].xaxis
    assert axis.get_major_formatter()(value) == text
