"""Training curves: the right numbers against the right axis, and a range that the first epochs do not ruin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.style import NOT_A_LIKELIHOOD


def run(epochs: int, *, iwae: bool = False, terms: bool = True, start: float = 100.0) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        for split, worse in (("train", 0.0), ("validation", 1.0)):
            elbo = -100 - worse - start / epoch**2
            row = {"step": 10 * epoch, "epoch": epoch, "split": split, "elbo": elbo, "lr": 1e-3, "beta": 1.0}
            row |= {"reconstruction": elbo + 25, "kl": 25.0} if terms else {}
            row |= {"iwae": elbo + 5} if iwae else {}
            rows.append(row)
    return rows


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def test_the_bound_and_its_terms_are_drawn_against_epochs() -> None:
    rows = run(8)
    figure = plots.training_curves(rows, title="runs/x")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ELBO", "reconstruction", "KL"]
    assert {axes.get_ylabel() for axes in figure.axes} == {"nats per example"}
    for title, key in (("ELBO", "elbo"), ("reconstruction", "reconstruction"), ("KL", "kl")):
        for line, split in zip(panel(figure, title).lines, ("train", "validation"), strict=True):
            np.testing.assert_array_equal(line.get_xdata(), range(1, 9))
            np.testing.assert_allclose(line.get_ydata(), [row[key] for row in rows if row["split"] == split])
    assert figure.axes[0].get_xlabel() == "epoch"
    assert figure.get_suptitle() == "runs/x"
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["train  −101.56", "validation  −102.56"]


def test_the_iwae_bound_is_dashed_beside_the_elbo() -> None:
    rows = run(6, iwae=True, terms=False)
    axes = plots.training_curves(rows).axes
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), [r["iwae"] for r in rows if r["split"] == "train"])
    assert len(axes) == 1
    assert [(line.get_label().split("  ")[0], line.get_linestyle()) for line in axes[0].lines] == [
        ("train", "-"),
        ("train, IWAE", "--"),
        ("validation", "-"),
        ("validation, IWAE", "--"),
    ]


def test_cross_entropy_is_not_called_a_likelihood() -> None:
    assert NOT_A_LIKELIHOOD in plots.training_curves(run(3), normalized=False).get_suptitle()
    assert NOT_A_LIKELIHOOD not in plots.training_curves(run(3), title="x").get_suptitle()


def test_the_first_epochs_do_not_ruin_the_range_and_are_not_hushed_up() -> None:
    axes = panel(plots.training_curves(run(30, start=5000.0)), "ELBO")
    low, high = axes.get_ylim()
    assert -400 < low < -101
    assert -100 - 5000 / 30**2 < high < -90  # the last report is inside
    assert "↓ −5101.00 at epoch 1" in [text.get_text().strip() for text in axes.texts]


def test_a_high_start_is_cut_as_well() -> None:
    rows = [
        {"step": k, "epoch": k, "split": "train", "elbo": -100.0, "reconstruction": -90, "kl": 10 + 9000 / k**4}
        for k in range(1, 30)
    ]
    axes = panel(plots.training_curves(rows), "KL")
    assert axes.get_ylim()[1] < 100
    assert "↑ 9010.00 at epoch 1" in [text.get_text().strip() for text in axes.texts]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_few_epochs_are_shown_whole(epochs: int) -> None:
    figure = plots.training_curves(run(epochs))
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        values = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
        assert low < values.min() <= values.max() < high
        assert not axes.texts


def test_one_row_of_one_split_is_enough() -> None:
    figure = plots.training_curves([{"step": 5, "epoch": 1, "split": "train", "elbo": -1.0}])
    figure.canvas.draw()
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1"]
    assert figure.axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    "epochs", [[1, 1, 2, 2], [0, 0, 0, 0], [None, None, None, None]], ids=["several an epoch", "a stream", "none"]
)
def test_without_an_epoch_for_each_report_the_axis_counts_steps(epochs: list[int | None]) -> None:
    rows = [{"step": 10 * k, "epoch": epoch, "split": "train", "elbo": -1.0 * k} for k, epoch in enumerate(epochs)]
    axes = plots.training_curves(rows).axes[0]
    assert axes.get_xlabel() == "step"
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [0, 10, 20, 30])


def test_a_single_report_of_a_stream_counts_steps() -> None:
    assert (
        plots.training_curves([{"step": 7, "epoch": 0, "split": "train", "elbo": -1.0}]).axes[0].get_xlabel() == "step"
    )


def test_a_step_reported_again_after_a_resume_counts_once() -> None:
    rows = run(4, terms=False)
    again = [row | {"elbo": -7.0} for row in rows[4:6]]
    axes = plots.training_curves([*rows, *again]).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-200, -125, -7, -106.25])
    assert axes.get_xlabel() == "epoch"


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), None])
def test_a_report_that_is_not_finite_is_said_to_be(bad: float | None) -> None:
    rows = run(6, terms=False)
    rows[2]["elbo"] = bad
    figure = plots.training_curves(rows)
    figure.canvas.draw()
    assert "1 report not finite" in [text.get_text() for text in figure.axes[0].texts]
    assert np.isfinite(figure.axes[0].get_ylim()).all()


@pytest.mark.parametrize("rows", [[], [{"step": 1, "split": "test", "elbo": -1.0}], [{"step": 1, "split": "train"}]])
def test_no_bound_is_an_error(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ElbowroomError, match="no row with a bound"):
        plots.training_curves(rows)


def _row(split: str, step: int, **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": step, "seconds": float(step), "split": split, **values}


def test_a_learner_without_an_elbo_shows_what_it_has_and_what_tells_of_it() -> None:
    rows = [_row("train", step, log_joint=-50.0 - step, acceptance=0.8) for step in range(1, 6)]
    rows += [_row("validation", step, **{"laplace-is": -40.0}) for step in range(1, 6)]
    figure = plots.training_curves(rows)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "log p(x) by Laplace and log p(x, z)",
        "acceptance",
    ]
    styles = {line.get_label().split("  ")[0]: line.get_linestyle() for line in figure.axes[0].lines}
    assert styles == {"train, log p(x, z)": "--", "validation": "-"}


def test_the_elbo_of_the_prior_does_not_spoil_the_naive_learners_axis() -> None:
    rows = [_row("train", step, naive=-100.0, elbo=-9000.0, ess=1.5) for step in range(1, 6)]
    figure = plots.training_curves(rows)
    assert len(figure.axes[0].lines) == 1
    assert figure.axes[0].get_ylim()[0] > -200
    assert figure.axes[1].get_ylabel() == "draws"
