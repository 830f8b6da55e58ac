"""Figures of measurements: every value with its error, the room with its side, no number under a wrong name."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.style import NOT_A_LIKELIHOOD

ELBO: dict[str, Any] = {
    "name": "elbo",
    "value": -93.18,
    "stderr": 0.27,
    "unit": "nats",
    "bound": "lower",
    "points": 1000,
}
IWAE: dict[str, Any] = ELBO | {"name": "iwae", "value": -87.02, "stderr": 0.26, "asked": {"k": 5000}}
ROOM: dict[str, Any] = ELBO | {"name": "elbow room", "value": 6.16, "stderr": 0.09}


def names(figure: Figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def room(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if "room" in text.get_text()]


def test_each_value_has_its_error_bar_and_its_number() -> None:
    axes = plots.evaluation_figure([ELBO, IWAE]).axes[0]
    for row, (container, result) in enumerate(zip(axes.containers, (ELBO, IWAE), strict=True)):
        point, _, bars = container.lines
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (result["value"], row)
        ends = bars[0].get_segments()[0][:, 0]
        np.testing.assert_allclose(ends, [result["value"] - result["stderr"], result["value"] + result["stderr"]])
    assert {"−93.18 ± 0.27", "−87.02 ± 0.26"} <= {text.get_text() for text in axes.texts}
    assert axes.get_xlabel().startswith("nats per example")


def test_what_is_no_value_of_log_p_in_nats_is_left_out() -> None:
    others = [
        ELBO | {"name": "kl", "bound": None},
        ELBO | {"name": "active units", "unit": "units", "bound": None},
        ELBO | {"name": "elbo, bits per dimension", "unit": "bits/dim", "bound": "upper"},
        ELBO | {"name": "ais", "value": float("nan")},
    ]
    assert names(plots.evaluation_figure([ELBO, *others, IWAE, ROOM])) == ["ELBO", "IWAE, k = 5000"]


def test_the_room_carries_its_own_paired_error_and_its_side() -> None:
    assert room(plots.evaluation_figure([ELBO, IWAE, ROOM])) == ["elbow room ≥ 6.16 ± 0.09"]
    assert room(plots.evaluation_figure([ELBO, IWAE])) == ["elbow room ≥ 6.16"]
    assert room(plots.evaluation_figure([ELBO, IWAE | {"bound": "exact"}])) == ["elbow room 6.16"]
    assert room(plots.evaluation_figure([ELBO, IWAE | {"bound": "estimate"}])) == ["elbow room ≈ 6.16"]


def test_the_room_is_as_long_as_its_label_says() -> None:
    """Of several, the one that was divided; its examples are named where the ELBO has others."""
    divided = ROOM | {"value": 5.25, "stderr": 0.13, "points": 200, "method": "room"}
    figure = plots.evaluation_figure([ELBO, IWAE, ROOM | {"method": "iwae"}, divided])
    assert room(figure) == ["elbow room ≥ 5.25 ± 0.13, 200 examples"]
    (span,) = figure.axes[0].patches
    assert span.get_xy()[0] == pytest.approx(-93.18)  # type: ignore[attr-defined]
    assert span.get_width() == pytest.approx(5.25)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [-0.02, 0.0, 0.05])
def test_a_room_that_may_be_nothing_is_not_drawn_as_a_bound(value: float) -> None:
    noise = ROOM | {"value": value, "stderr": 0.03, "bound": None}
    figure = plots.evaluation_figure([ELBO, IWAE | {"value": -93.2}, noise])
    assert room(figure) == [f"elbow room ≥ 0 (measured {value:.2f} ± 0.03)".replace("-", "−")]
    assert not figure.axes[0].patches


def test_values_of_one_name_are_told_apart_by_their_method() -> None:
    mine, other = ELBO | {"method": "elbo"}, ELBO | {"method": "room", "value": -93.2}
    assert names(plots.evaluation_figure([mine, other, IWAE])) == ["ELBO, by elbo", "ELBO, by room", "IWAE, k = 5000"]


def test_the_room_between_different_data_is_no_bound() -> None:
    figure = plots.evaluation_figure([ELBO | {"points": 10000}, IWAE])
    assert room(figure) == ["elbow room ≈ 6.16"]
    assert names(figure) == ["ELBO, 10,000 examples", "IWAE, k = 5000, 1,000 examples"]


@pytest.mark.parametrize(
    "results", [[ELBO], [IWAE], [ELBO, IWAE | {"value": -95.0}], [ELBO, IWAE | {"bound": "upper"}]]
)
def test_there_is_not_always_a_room(results: list[dict[str, Any]]) -> None:
    assert room(plots.evaluation_figure(results)) == []


def test_each_side_has_its_mark_which_the_legend_explains() -> None:
    figure = plots.evaluation_figure([ELBO, IWAE | {"bound": "upper"}])
    assert [container.lines[0].get_marker() for container in figure.axes[0].containers] == [">", "<"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lower bound", "upper bound"]


@pytest.mark.parametrize("name", ["ELBO", "importance weights, k = 1,000 draws"])
def test_the_numbers_at_the_axis_do_not_meet(name: str) -> None:
    rows = [{"name": f"{name} {n}", "value": -18.31 + n / 2, "stderr": 0.29, "bound": "lower"} for n in range(4)]
    figure = plots.evaluation_figure(rows)
    figure.canvas.draw()
    shown = [tick.label1 for tick in figure.axes[0].xaxis.get_major_ticks() if tick.label1.get_text()]
    low, high = figure.axes[0].get_xlim()
    boxes = [label.get_window_extent() for label in shown if low <= label.get_position()[0] <= high]
    assert len(boxes) >= 2
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_a_missing_error_is_no_error_of_zero() -> None:
    axes = plots.evaluation_figure([ELBO | {"stderr": None}]).axes[0]
    assert not axes.containers[0].has_xerr
    assert "−93.18" in [text.get_text() for text in axes.texts]


def test_numbers_of_numpy_are_numbers() -> None:
    assert names(plots.evaluation_figure([ELBO | {"value": np.float32(-93.0), "stderr": np.float64(0.1)}])) == ["ELBO"]


def test_the_title_says_that_cross_entropy_is_no_likelihood() -> None:
    assert plots.evaluation_figure([ELBO], normalized=False, title="x").get_suptitle().replace("\n", " ") == (
        f"x · {NOT_A_LIKELIHOOD}"
    )


@pytest.mark.parametrize("results", [[], [ROOM], [ELBO | {"bound": None}], [ELBO | {"value": None}]])
def test_no_bound_is_an_error(results: list[dict[str, Any]]) -> None:
    with pytest.raises(ElbowroomError, match="no finite result"):
        plots.evaluation_figure(results)


def gradient(estimator: str, variance: float, *, wrt: str = "guide", bias_z: float = 0.0) -> dict[str, Any]:
    return {"estimator": estimator, "wrt": wrt, "variance": variance, "bias": 0.0, "bias_z": bias_z}


def test_variances_stand_on_a_logarithmic_axis_in_their_rows() -> None:
    rows = [gradient("pathwise", 2.0), gradient("pathwise", 8.0, wrt="model"), gradient("score-function", 900.0)]
    figure = plots.gradient_figure(rows)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert names(figure) == ["pathwise", "score-function"]
    assert [line.get_xdata()[0] for line in axes.lines] == [2.0, 8.0, 900.0]
    assert [round(float(line.get_ydata()[0])) for line in axes.lines] == [0, 0, 1]
    assert axes.lines[0].get_color() == axes.lines[2].get_color() != axes.lines[1].get_color()
    low, high = axes.get_xlim()
    assert low < 2 < 900 < high


def test_only_biased_estimators_are_hollow() -> None:
    figure = plots.gradient_figure([gradient("pathwise", 2.0, bias_z=1.0), gradient("naive", 1.0, bias_z=-30.0)])
    filled = [line.get_markerfacecolor() == line.get_color() for line in figure.axes[0].lines]
    assert filled == [True, False]
    assert "biased" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("other", [[], [gradient("pathwise", 3.0)]])
def test_a_variance_of_zero_is_an_arrow_at_the_edge(other: list[dict[str, Any]]) -> None:
    figure = plots.gradient_figure([gradient("stl", 0.0), *other])
    figure.canvas.draw()
    line = figure.axes[0].lines[0]
    assert line.get_marker() == "<"
    assert line.get_xdata()[0] == figure.axes[0].get_xlim()[0]


@pytest.mark.parametrize("rows", [[], [gradient("pathwise", float("nan"))], [gradient("pathwise", -1.0)]])
def test_no_variance_is_an_error(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ElbowroomError, match="no estimator"):
        plots.gradient_figure(rows)
