"""Which weights are kept as the best: the latest that validation cannot tell from its peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.numerics import mean_and_stderr
from elbowroom.running.best import is_worse, robust_stderr
from elbowroom.running.checkpoints import Checkpoints
from elbowroom.running.engine import TrainingPlan, TrainingProgress
from elbowroom.running.runs import load
from small_runs import everything, reals, tiny


def _values(mean: float, *, spread: float = 1.0, seed: int = 0, common: Tensor | None = None) -> Tensor:
    """100 values whose differences from the common part have exactly this mean and standard error ``spread`` / 10."""
    noise = torch.randn(100, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    return (torch.zeros(100) if common is None else common) + mean + spread * noise


@pytest.mark.parametrize(("loss", "worse"), [(0.0, False), (0.09, False), (0.11, True), (5.0, True), (-0.3, False)])
def test_one_paired_standard_error_tells_reports_apart(loss: float, worse: bool) -> None:
    """Examples differ by hundreds of nats, which says nothing about the difference of two reports."""
    peak = 300 * torch.randn(100, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert is_worse(_values(-loss, common=peak), peak) is worse


def test_a_single_example_has_no_error_and_the_same_values_are_not_worse() -> None:
    one = torch.tensor([-3.0])
    assert is_worse(one - 1e-3, one) and not is_worse(one, one)
    assert not is_worse(reals(), reals())


def _by_the_usual_error(values: Tensor, peak: Tensor) -> bool:
    """The rule with the usual standard error, which outliers raise."""
    difference, stderr = mean_and_stderr(values - peak)
    return difference < -stderr


@pytest.mark.parametrize("size", [-300.0, -1e4, -1e9])
def test_one_example_that_explodes_makes_weights_worse(size: float) -> None:
    """It lowers the mean by as much as it raises the usual standard error, behind which it would hide."""
    peak = 300 * torch.randn(100, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    later = _values(0.05, spread=0.1, common=peak)
    later[17] = peak[17] + size
    assert not _by_the_usual_error(later, peak)
    assert is_worse(later, peak)


def test_examples_that_explode_in_both_directions_hide_no_loss_of_the_others() -> None:
    peak = torch.zeros(100, dtype=torch.float64)
    later = _values(-0.5, spread=0.1)
    later[3], later[71] = -1e4, 1e4
    assert not _by_the_usual_error(later, peak) and is_worse(later, peak)
    later = _values(0.5, spread=0.1)
    later[3], later[71] = -1e4, 1e4
    assert not is_worse(later, peak)


def test_healthy_reports_are_told_apart_as_by_the_usual_error() -> None:
    """Of 2,000 pairs whose differences are normal, at least 99% get the same answer; below 20 examples all do."""
    generator = torch.Generator().manual_seed(3)
    for size, least in ((200, 0.99), (19, 1.0)):
        peak = torch.zeros(size, dtype=torch.float64)
        equal = 0
        for trial in range(2000):
            shift = -2 * (trial % 20) / 20 / size**0.5
            later = shift + torch.randn(size, generator=generator, dtype=torch.float64)
            equal += is_worse(later, peak) == _by_the_usual_error(later, peak)
        assert equal / 2000 >= least


def test_the_robust_error_is_the_usual_one_of_a_trimmed_mean() -> None:
    """Its square is the variance of the 5% trimmed mean over many samples, of normal numbers and of heavy tails."""
    generator = torch.Generator().manual_seed(4)
    for degrees in (1000, 3):
        normal, scales = (torch.randn(rows, 2000, 100, generator=generator, dtype=torch.float64)
                          for rows in (1, degrees if degrees < 10 else 1))  # fmt: skip
        values = normal[0] / scales.square().mean(0).sqrt() if degrees < 10 else normal[0]
        trimmed = values.sort(1).values[:, 5:-5].mean(1)
        squares = torch.tensor([robust_stderr(sample) ** 2 for sample in values], dtype=torch.float64)
        deviations = (trimmed - trimmed.mean()).square()
        _, noise = mean_and_stderr(deviations - squares)
        assert abs(float(deviations.mean() - squares.mean())) < 4 * noise


def _note(progress: TrainingProgress, step: int, mean: float, **more: Any) -> bool:
    return progress.note(step, _values(mean, seed=step, **more))


def test_the_later_of_two_that_look_alike_is_kept() -> None:
    progress = TrainingProgress()
    assert [_note(progress, step, mean) for step, mean in enumerate((-9.0, -5.0, -5.03, -5.6, -5.01))] == [
        True, True, True, False, True,
    ]  # fmt: skip
    assert progress.best_step == 4
    assert progress.best_value == pytest.approx(-5.0)


def test_small_losses_do_not_add_up() -> None:
    """Each report is as good as the one before, but not as the peak."""
    progress = TrainingProgress()
    for step in range(40):
        _note(progress, step, -5 - 0.02 * step)
    assert progress.best_value == pytest.approx(-5)
    assert 0 < progress.best_step < 20


def test_a_plateau_still_counts_as_one_for_early_stopping() -> None:
    plan = TrainingPlan(total_steps=None, steps_per_epoch=None, batch_size=1, seed=0, report_every=1, patience=3,
                        checkpoint_seconds=0)  # fmt: skip
    progress = TrainingProgress()
    for step, (mean, stalled) in enumerate([(-5.0, False), (-5.01, False), (-5.02, False), (-5.01, True)]):
        _note(progress, step, mean)
        assert plan.has_stalled(progress) is stalled
    assert (progress.best_step, progress.reports_since_best) == (3, 3)
    _note(progress, 4, -4.999)
    assert progress.reports_since_best == 0


def test_noise_does_not_keep_an_early_report() -> None:
    """A bound that rises by 0.002 a report, measured with noise of 0.02: the highest value comes early, by chance."""
    truth = [-5 + 0.002 * step for step in range(60)]
    lost = {"latest like the peak": 0.0, "peak": 0.0}
    for trial in range(50):
        generator = torch.Generator().manual_seed(trial)
        progress, highest = TrainingProgress(), (-9.0, 0)
        for step, mean in enumerate(truth):
            values = mean + 0.2 * torch.randn(100, generator=generator, dtype=torch.float64)
            progress.note(step, values)
            highest = max(highest, (float(values.mean()), step))
        lost["latest like the peak"] += (truth[-1] - truth[progress.best_step]) / 50
        lost["peak"] += (truth[-1] - truth[highest[1]]) / 50
    assert lost["latest like the peak"] < 0.7 * lost["peak"]


FEW: dict[str, Any] = {"train": {"steps": 8, "report_every": 2, "batch_size": 10, "checkpoint_seconds": 0.0}}


# --- in a run ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_peak(tmp_path: Path) -> None:
    run = tiny(reals(), tmp_path / "run", **FEW)
    found = Checkpoints(tmp_path / "run" / "checkpoints").find("latest")
    rows = [row["elbo"] for row in run.history if row["split"] == "validation"]
    assert float(found.training()["validation.peak"].double().mean()) == pytest.approx(max(rows))
    assert "peak" not in found.state["books"]


def test_a_checkpoint_of_version_0_1_0_which_holds_none_goes_on(tmp_path: Path) -> None:
    """To the same numbers; until the next peak, only a higher value counts as better, as in that version."""
    longer = {"train": FEW["train"] | {"steps": 16}}
    tiny(reals(), tmp_path / "straight", **longer)
    old = tiny(reals(), tmp_path / "old", **FEW)
    store = Checkpoints(tmp_path / "old" / "checkpoints")
    latest = store.find("latest")
    tensors = {name: value for name, value in latest.training().items() if name != "validation.peak"}
    latest.load_weights(old.pair)
    state = {name: value for name, value in latest.state.items() if name != "sha256"}
    store.save(8, old.pair, state, training=tensors, pointers=["best", "latest"])
    tiny(reals(), tmp_path / "old", resume=True, **longer)
    assert everything(tmp_path / "old")["metrics"] == everything(tmp_path / "straight")["metrics"]

    progress = TrainingProgress(best_value=-5.0, best_step=3)
    assert not _note(progress, 9, -5.001)
    assert _note(progress, 10, -4.999) and _note(progress, 11, -5.001)


def test_only_the_choice_of_the_best_depends_on_this(tmp_path: Path) -> None:
    """Validation falls at a learning rate like this one, and the best is not the last."""
    steep: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.3}, "train": {"steps": 6, "report_every": 3}}
    tiny(reals(), tmp_path / "run", **steep)
    best, latest = (load(tmp_path / "run", data=reals(), checkpoint=which) for which in ("best", "latest"))
    assert latest.step == 6 > best.step
    values = {run.step: run.evaluate("elbo", split="validation")[0].value for run in (best, latest)}
    assert values[best.step] > values[6]
    assert everything(tmp_path / "run")["best state"] == best.step
