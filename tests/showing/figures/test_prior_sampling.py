"""The figure of the cost of one nat: every cost where it was measured, and what was not reached in no line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.prior_sampling import prior_sampling_figure


def cost(method: str, information: float, dim: int, evaluations: float, *, reached: bool = True) -> dict[str, Any]:
    return {
        "method": method,
        "information": information,
        "latent_dim": dim,
        "evaluations": evaluations,
        "log_stderr": 0.2 if reached else math.nan,
        "reached": reached,
    }


COSTS = [
    cost("prior", 1.0, 6, 400.0),
    cost("prior", 1.0, 2, 8.0),
    cost("prior", 1.0, 20, 1e5, reached=False),
    cost("ais", 1.0, 2, 12.0),
    cost("ais", 1.0, 20, 250.0),
    cost("prior", 0.25, 2, 1.0),
]
ESS = [
    {"information": i, "latent_dim": d, "draws": 4096, "ess": 4000 / d, "stderr": 3.0}
    for i in (1.0, 0.25)
    for d in (2, 6)
]
RATES = [{"method": "prior", "information": 1.0, "law": "exponential", "rate": 0.98, "stderr": 0.02}]


def test_one_panel_for_each_amount_of_information_on_one_scale() -> None:
    figure = prior_sampling_figure(COSTS, ESS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "0.25 nats per dimension",
        "1 nat per dimension",
        "effective of 4,096 prior draws",
    ]
    assert all(axes.get_yscale() == "log" for axes in figure.axes)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert len(prior_sampling_figure(COSTS).axes) == 2


def test_costs_stand_where_they_were_measured_with_their_errors() -> None:
    axes = prior_sampling_figure(COSTS).axes[1]
    prior = next(container for container in axes.containers if container.get_label() == "prior")
    line, _, (bars,) = prior.lines
    assert line.get_xydata().tolist() == [[2.0, 8.0], [6.0, 400.0]]  # in the order of d; not to what was not reached
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, [[value / math.exp(0.2), value * math.exp(0.2)] for value in (8.0, 400.0)])


def test_what_was_not_reached_is_an_open_triangle_at_what_was_spent() -> None:
    figure = prior_sampling_figure(COSTS)
    (missed,) = [line for line in figure.axes[1].lines if line.get_label() == "prior, not reached"]
    assert missed.get_xydata().tolist() == [[20.0, 1e5]]
    assert (missed.get_marker(), missed.get_markerfacecolor(), missed.get_linestyle()) == ("^", "white", "None")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["draws of the prior", "gradients of AIS", "exp(mutual information)", "1 nat not reached"]
    everything = [row for row in COSTS if row["reached"]]
    assert "not reached" not in str([t.get_text() for t in prior_sampling_figure(everything).legends[0].get_texts()])


@pytest.mark.parametrize("panel", [0, 1])
def test_theory_is_exp_of_the_mutual_information(panel: int) -> None:
    axes = prior_sampling_figure(COSTS, ESS).axes[panel]
    (x0, y0), (x1, y1) = axes.lines[0].get_xydata()
    assert (x0, y0) == (0, 1)
    assert math.log(y1) == pytest.approx((0.25, 1.0)[panel] * x1)


def test_rates_are_written_into_their_own_panel() -> None:
    axes = prior_sampling_figure(COSTS, ESS, RATES).axes
    assert [text.get_text() for text in axes[1].texts] == ["exp((0.980 ± 0.020) d)"]
    assert not axes[0].texts
    power = {**RATES[0], "method": "ais", "law": "power"}
    assert prior_sampling_figure(COSTS, (), [power]).axes[1].texts[0].get_text() == "d to the power 0.980 ± 0.020"


def test_the_text_lies_above_all_costs() -> None:
    figure = prior_sampling_figure(COSTS, (), RATES * 3)
    figure.canvas.draw()
    axes = figure.axes[1]
    lowest = min(text.get_window_extent().y0 for text in axes.texts)
    highest = max(
        axes.transData.transform(line.get_xydata())[:, 1].max() for line in axes.lines if len(line.get_xydata())
    )
    assert lowest > highest


def test_effective_sizes_with_their_errors() -> None:
    axes = prior_sampling_figure(COSTS, ESS).axes[2]
    for container in axes.containers:
        line, _, (bars,) = container.lines
        assert line.get_xydata().tolist() == [[2.0, 2000.0], [6.0, 4000 / 6]]
        np.testing.assert_allclose(np.array(bars.get_segments())[0, :, 1], [1997.0, 2003.0])
    assert len({container.lines[0].get_linestyle() for container in axes.containers}) == 2


def test_it_is_written(tmp_path: Path) -> None:
    prior_sampling_figure(COSTS, ESS, RATES, title="the cost of one nat", path=tmp_path / "a" / "cost.png")
    assert (tmp_path / "a" / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("costs", "message"), [([], "no costs"), ([cost("nuts", 1.0, 2, 3.0)], "'nuts'")])
def test_nothing_to_draw(costs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        prior_sampling_figure(costs)
