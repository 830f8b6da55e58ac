"""The room as a figure and a table: every number where it belongs."""

from __future__ import annotations

from typing import Any

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.showing.figures.room import room_figure, room_note, room_rows


def results(elbo: float = -93.0, amortisation: float = 2.0, approximation: float | None = 3.0) -> list[dict[str, Any]]:
    rows = {"elbo": elbo, "elbo of q*": elbo + amortisation, "amortisation gap": amortisation}
    if approximation is not None:
        rows |= {
            "log p(x)": elbo + amortisation + approximation,
            "approximation gap": approximation,
            "elbow room": amortisation + approximation,
        }
    remark = "" if approximation is not None else " (cross-entropy: not a log-likelihood)"
    return [{"name": f"{name}{remark}", "value": value, "stderr": 0.3} for name, value in rows.items()]


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_bars_reach_from_the_elbo_to_log_p():
    figure = room_figure({"train": results(), "test": results(-95.0, 4.0, 1.5)}, title="runs/x")
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in figure.axes[0].patches]
    assert bars == [(-93, -91), (-91, -88), (-95, -91), (-91, -89.5)]
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    low, high = figure.axes[0].get_ylim()
    assert low < -95 and high > -88
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["train", "test"]
    assert "2.00 ± 0.30" in texts(figure)
    assert "log p(x) ≥ −89.50" in texts(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["approximation gap", "amortisation gap"]


def test_errors_are_drawn_at_the_top_of_each_segment():
    figure = room_figure({"test": results()})
    segments = [line.get_segments()[0][:, 1] for line in figure.axes[0].collections]
    assert [pytest.approx(list(segment)) for segment in segments] == [[-91.3, -90.7], [-88.3, -87.7]]
    unknown = [{**row, "stderr": None} for row in results()]
    assert not room_figure({"test": unknown}).axes[0].collections


def test_without_log_p_the_figure_says_so():
    figure = room_figure({"train": results(approximation=None), "test": results(approximation=None)})
    assert figure.get_suptitle() == "cross-entropy: not a log-likelihood"
    assert "ELBO of q* −91.00" in texts(figure)
    assert len(figure.axes[0].patches) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["amortisation gap"]


def test_the_table_has_both_splits_and_their_difference():
    table = room_rows({"train": results(), "test": results(-95.0, 4.0, 1.5)})
    assert [row["nats per example"] for row in table] == [
        "ELBO", "ELBO of q*", "log p(x) ≥", "amortisation gap", "approximation gap", "elbow room ≥",
    ]  # fmt: skip
    assert table[3] == {
        "nats per example": "amortisation gap",
        "train": "2.00 ± 0.30",
        "test": "4.00 ± 0.30",
        "test − train": "2.00 ± 0.42",
    }
    assert "test − train" not in room_rows({"test": results()})[0]
    assert [row["nats per example"] for row in room_rows({"test": results(approximation=None)})] == [
        "ELBO", "ELBO of q*", "amortisation gap",
    ]  # fmt: skip


def test_results_of_other_methods_are_left_alone():
    other = {"name": "elbo", "value": -1.0, "stderr": 0.1, "method": "elbo"}
    mine = [{**row, "method": "room"} for row in results()]
    assert room_rows({"test": [*mine, other]})[0]["test"] == "−93.00 ± 0.30"


@pytest.mark.parametrize("splits", [{}, {"test": []}, {"test": [{"name": "elbo", "value": -1.0, "stderr": None}]}])
def test_nothing_to_draw_is_named(splits):
    with pytest.raises(ElbowroomError, match="--methods room"):
        room_figure(splits)


def test_a_png_is_written(tmp_path):
    room_figure({"test": results()}, path=tmp_path / "room.png")
    assert (tmp_path / "room.png").stat().st_size > 5000


def test_what_cannot_be_told_from_zero_is_written_as_zero():
    """A negative room is no lower bound, and has no bar."""
    rows = [{**row, "stderr": 0.03} for row in results(amortisation=2.0, approximation=-0.02)]
    table = room_rows({"test": rows})
    cells = {row["nats per example"]: row["test"] for row in table}
    assert cells["approximation gap"] == "0 (measured −0.02 ± 0.03)"
    assert cells["elbow room ≥"] == "1.98 ± 0.03"
    assert "two standard errors" in room_note(table)
    figure = room_figure({"test": rows})
    assert len(figure.axes[0].patches) == 1
    assert {"≈ 0", "log p(x) ≥ −91.02"} <= set(texts(figure))
    sure = room_rows({"test": results()})
    assert room_note(sure) == "" and not any("measured" in cell for row in sure for cell in row.values())


def test_an_estimate_that_is_too_low_is_called_that():
    rows = [{**row, "stderr": 0.03} for row in results(amortisation=1.0, approximation=-3.0)]
    cells = {row["nats per example"]: row["test"] for row in room_rows({"test": rows})}
    assert cells["elbow room ≥"] == "−2.00 ± 0.03 (below 0: the estimate is too low)"


@pytest.mark.parametrize("gap", [-0.02, 0.0])
def test_a_figure_of_nothing_but_noise_has_its_axis_the_right_way_up(gap):
    rows = [{**row, "stderr": 0.03} for row in results(amortisation=gap, approximation=gap)]
    figure = room_figure({"train": rows, "test": rows})
    low, high = figure.axes[0].get_ylim()
    assert low < -93 + 2 * gap - 0.03 and high > -93 + 0.03
    assert not figure.axes[0].patches


@pytest.mark.parametrize("gaps", [(0.0009, -0.015), (0.001, 0.001), (0.01, 2.0), (2.0, 3.0)])
def test_labels_do_not_lie_on_each_other(gaps):
    rows = [{**row, "stderr": 0.001} for row in results(amortisation=gaps[0], approximation=gaps[1])]
    figure = room_figure({"train": [{**row, "value": row["value"] + 0.2} for row in rows], "test": rows})
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 8
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:at])
