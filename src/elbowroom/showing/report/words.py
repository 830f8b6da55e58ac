"""Names and numbers as text in a report: as on the terminal, with a true minus sign."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from elbowroom.evaluation.results import Result
from elbowroom.running.model_config import NetworkConfig
from elbowroom.running.runs import Run

# a figure is written the same way on the terminal and in a report
from elbowroom.showing import terminal
from elbowroom.showing.diagnosis import evidence_number, verdict
from elbowroom.showing.figures.style import number
from elbowroom.showing.terminal import START_NAMES, annealing_effort, bits, differences, plain, result_name

__all__ = [
    "START_NAMES",
    "annealing_effort",
    "annealing_remark",
    "bits",
    "checkpoint_flags",
    "command",
    "differences",
    "duration",
    "epochs_in_words",
    "estimate",
    "evidence",
    "network",
    "plain",
    "result_name",
    "run_command",
    "split_data",
    "tails_remark",
    "true_minus",
    "value",
    "verdict",
]


def split_data(split: str) -> str:
    """A split in words: "training data", "test data"."""
    return "training data" if split == "train" else f"{split} data"


def estimate(amount: float, stderr: float | None, spec: str = ".2f") -> str:
    """A figure with its standard error.

    Example:
        >>> estimate(-91.346, 0.236), estimate(5.25, None), estimate(math.nan, None)
        ('−91.35 ± 0.24', '5.25', 'not finite')
    """
    if not math.isfinite(amount):
        return "not finite"
    return number(amount, spec) + ("" if stderr is None or not math.isfinite(stderr) else f" ± {number(stderr, spec)}")


def value(result: Result) -> tuple[str, str, str]:
    """Value, standard error and unit of a result, as in the table on the terminal.

    Example:
        >>> units = Result(name="active units", method="active-units", value=19.0, stderr=None, unit="units", points=9,
        ...                split="test", bound=None, asked={}, found={"of": 20}, protocol={})
        >>> value(units)
        ('19', '', 'of 20')
    """
    unit = terminal.unit_in_words(result)
    if result.unit == "units":
        return estimate(result.value, None, ".0f"), "", unit
    error = "" if result.stderr is None else estimate(result.stderr, None, ".3f")
    return estimate(result.value, None, ".3f"), error, unit


def evidence(found: Any) -> str:
    """The number behind a finding, with its error and unit."""
    return true_minus(evidence_number(found)) if math.isfinite(found.value) else f"not finite {found.unit}".rstrip()


def true_minus(text: str) -> str:
    """A number's text with a true minus."""
    return f"−{text[1:]}" if text.startswith("-") else text


def duration(seconds: float) -> str:
    """Wall time in seconds, minutes or hours.

    Example:
        >>> duration(3.42), duration(175.1), duration(5400), duration(200_000)
        ('3.4 s', '175 s', '90 min', '55.6 h')
    """
    if seconds < 600:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def network(settings: NetworkConfig) -> str:
    """A network in a few words.

    Example:
        >>> network(NetworkConfig()), network(NetworkConfig(hidden=()))
        ('MLP, hidden layers 400, relu', 'linear')
        >>> network(NetworkConfig(kind="pyramid", activation="silu"))
        'pyramid, 32-64 channels, 2 residual blocks each, silu, group normalisation'
        >>> network(NetworkConfig(hidden=(64,), linear=True))
        'MLP, hidden layers 64, relu, beside a linear part'
        >>> network(NetworkConfig(kind="grid", width=24, patch=2))
        'residual convolutions on a grid of patches of 2 × 2 pixels, 24 channels, 2 blocks'
    """
    normed = ", batch normalisation" if settings.batch_norm else ""
    beside = ", beside a linear part" if settings.linear else ""
    if settings.kind == "mlp":
        if not settings.hidden:
            return "linear"
        linear = " (linear)" if settings.activation == "identity" else ""
        widths = "-".join(map(str, settings.hidden))
        return f"MLP, hidden layers {widths}, {settings.activation}{linear}{normed}{beside}"
    if settings.kind == "residual":
        width = f"{settings.blocks} blocks of width {settings.width}"
        return f"residual MLP, {width}, {settings.activation}{normed}{beside}"
    if settings.kind == "pyramid":
        levels = f"{'-'.join(map(str, settings.channels))} channels, {settings.blocks} residual blocks each"
        kind = "no" if settings.norm == "none" else settings.norm
        return f"pyramid, {levels}, {settings.activation}, {kind} normalisation"
    if settings.kind == "grid":
        patch = f"patches of {settings.patch} × {settings.patch} pixels"
        blocks = "1 block" if settings.blocks == 1 else f"{settings.blocks} blocks"
        return f"residual convolutions on a grid of {patch}, {settings.width} channels, {blocks}"
    return f"convolutional, {'-'.join(map(str, settings.channels))} channels, {settings.activation}{normed}{beside}"


def command(verb: str, place: Path | str, *flags: str) -> str:
    """A shell command; names with blanks are quoted.

    Example:
        >>> command("evaluate", "runs/my run", "--points", "100")
        "elbowroom evaluate 'runs/my run' --points 100"
    """
    return shlex.join(["elbowroom", verb, str(place), *flags])


def checkpoint_flags(run: Run) -> tuple[str, ...]:
    """The flags by which a command takes the weights that this run is loaded with."""
    return ("--checkpoint", "latest") if run.is_beside_best else ()


def run_command(verb: str, run: Run, *flags: str) -> str:
    """A shell command about a run, with the weights that it is loaded with."""
    return command(verb, run.folder.path, *flags, *checkpoint_flags(run))


def annealing_remark(results: list[Result]) -> str:
    """Number of temperatures and chains of annealing, and why it stopped there; empty where there was none."""
    return _joined(terminal.annealing_lines(results))


def tails_remark(results: list[Result]) -> str:
    """A warning for importance weights with too heavy tails (Pareto k̂); empty where there are none."""
    return _joined(terminal.tails_lines(results)) if results else ""


def _joined(lines: list[str]) -> str:
    """Lines for a terminal as one paragraph."""
    text = " ".join(line.strip() for line in lines if line.strip())
    return text[:1].upper() + text[1:]


def epochs_in_words(epochs: float) -> str:
    """As "1 epoch" or "2.5 epochs".

    Example:
        >>> epochs_in_words(1.0), epochs_in_words(1200.0)
        ('1 epoch', '1,200 epochs')
    """
    return f"{epochs:,g} epoch{'' if epochs == 1 else 's'}"
