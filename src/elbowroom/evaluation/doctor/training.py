"""Checks of training: finite numbers, convergence, and overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.study import observed
from elbowroom.evaluation.thresholds import CERTAIN_Z, NOTABLE_NATS
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.conditional import Likelihood
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import evaluation_mode
from elbowroom.numerics import difference_and_stderr, mean_and_stderr

__all__ = ["finished", "generalises", "sound"]

_OUTLIER = 30.0  # median absolute deviations from the median
_SPIKE = 100.0  # times the median gradient
_LEAST_REPORTS = 8  # with fewer, the last quarter is too short for a slope
_LEAST_STEPS = 200  # updates: with fewer, hardly any model is trained
_STILL_RISING = 0.5  # nats that another quarter of the training would gain
_SCHEDULE_ENDED = 0.05  # share of the highest learning rate, below which the schedule has ended
_FALLEN = 1.0  # nats below the best report
# severe overfitting: a share of −log p(x) for discrete data; nats per element for densities, whose log p(x) depends on
# the unit of the data
_BADLY = 0.1
_DRAWS = 200  # of the importance-weighted bound on training and test data
_COMPARED = 500  # examples of each


def sound(inputs: DoctorInput) -> list[Finding]:
    """Whether the weights, the scale of the guide and the terms of every example are finite, and no example is far off.

    Args:
        inputs: a trained model and its data.
    Returns:
        Severe for numbers that are not finite and for a guide without a positive scale; a warning for examples whose
        terms are far from all others' and for exploding gradients; nothing otherwise.
    """
    modules = [part for part in (inputs.model, inputs.learned_guide) if part is not None]
    broken = [name for part in modules for name, w in part.state_dict().items() if not bool(torch.isfinite(w).all())]
    if broken:
        return [
            _severe(
                f"{len(broken)} weight tensors contain NaN or infinity.",
                (Evidence("tensors that are not finite", len(broken), None, f"the first is {broken[0]}"),),
                "Every result of such a model is NaN, or finite by chance and wrong.",
                "Train again with a lower learning rate and gradient clipping: --optimizer.lr 3e-4 "
                "--optimizer.clip-norm 10.",
            )
        ]
    findings = _gradients(inputs.history)
    guide = inputs.learned_guide
    for split in ("train", inputs.held_out()):
        if not inputs.data.size(split):
            continue
        batch, generator = inputs.batch(split), inputs.generator(f"sound {split}")
        with evaluation_mode(*modules):
            if guide is None:
                z = inputs.prior_draws(batch, generator)
                at_prior = inputs.model.log_likelihood(batch.x, z, context=batch.context, mask=batch.mask)
                found = [_not_finite("log p(x | z) at z of the prior", at_prior.cpu(), _rows(batch), split)]
                findings += [finding for finding in found if finding is not None]
                continue
            try:
                guide_distribution(guide, batch)
            except ElbowroomError as fault:
                why = "Draws of q then mean nothing, even if the loss looks normal."
                return [_severe(fault.problem, (), why, fault.remedy)]
            parts = elbo_terms(inputs.model, guide, batch, kl="auto", generator=generator).parts
            terms = {name: parts[name].double() for name in ("reconstruction", "kl")}
        found = [_terms(name, values.cpu(), _rows(batch), split) for name, values in terms.items()]
        findings += [finding for finding in found if finding is not None]
    return findings


def _severe(title: str, evidence: tuple[Evidence, ...], explanation: str, remedy: str) -> Finding:
    return Finding("sound", "severe", title, evidence, explanation, remedy)


def _rows(batch: Batch) -> Tensor:
    return torch.arange(len(batch)) if batch.index is None else batch.index.cpu()


def _not_finite(name: str, values: Tensor, rows: Tensor, split: str) -> Finding | None:
    wrong = ~values.isfinite()
    if not bool(wrong.any()):
        return None
    row = int(rows[wrong][0])
    return _severe(
        f"The term '{name}' is not finite for {int(wrong.sum())} of {len(values)} examples of the split {split}.",
        (Evidence("examples without a finite term", int(wrong.sum()), None, f"the first is row {row}"),),
        "Averages over the data are then NaN or infinite, and so are the gradients of a batch with such an example.",
        "Look at those rows; check the data for infinite values and the decoder for outputs that overflow.",
    )


def _terms(name: str, values: Tensor, rows: Tensor, split: str) -> Finding | None:
    fault = _not_finite(name, values, rows, split)
    if fault is not None:
        return fault
    median = values.median()
    spread = (values - median).abs().median().clamp(min=1e-6 * float(median.abs().clamp(min=1.0)))
    away = (values - median).abs() / spread
    far = away > _OUTLIER
    if not bool(far.any()):
        return None
    worst = int(away.argmax())
    listed = ", ".join(str(int(row)) for row in rows[far][:5])
    return Finding(
        "sound",
        "warning",
        f"The term '{name}' explodes for {int(far.sum())} of {len(values)} examples of the split {split} (rows "
        f"{listed}).",
        (
            Evidence(f"largest, row {int(rows[worst])}", float(values[worst])),
            Evidence("median", float(median)),
            Evidence("median absolute deviation", float(spread)),
        ),
        "A few examples that are unlike all others dominate averages and gradients.",
        "Look at those rows; if they are errors in the data, leave them out.",
    )


def _gradients(history: Sequence[Mapping[str, Any]]) -> list[Finding]:
    norms = torch.tensor([float(row["grad_norm"]) for row in history if row.get("grad_norm") is not None])
    if len(norms) < _LEAST_REPORTS:
        return []
    median, largest = float(norms.median()), float(norms.max())
    if bool(norms.isfinite().all()) and largest <= _SPIKE * median:
        return []
    return [
        Finding(
            "sound",
            "warning",
            "Gradients exploded during training.",
            (Evidence("largest norm", largest, None, ""), Evidence("median norm", median, None, "")),
            "A single step with such a gradient can undo an epoch.",
            "Clip them: --optimizer.clip-norm 10.",
        )
    ]


def finished(inputs: DoctorInput) -> list[Finding]:
    r"""Convergence: was the bound still rising when training ended? From the slope over the last quarter of reports.

    .. math:: \mathrm{ELBO}_t \approx a + b t, \qquad \text{gain of another quarter} = b \, \tfrac14 T

    Args:
        inputs: with the history of its training.
    Returns:
        A warning where the gain is certainly half a nat or more, where the last report is far below the best one, or
        where there were hardly any updates; nothing otherwise, and nothing without a history.
    """
    rows = [row for row in inputs.history if isinstance(row.get("elbo"), float)]
    if not rows:
        return []
    names = {row.get("split") for row in rows}
    split = "validation" if "validation" in names else "train"
    curve = [(float(row["step"]), float(row["elbo"])) for row in rows if row.get("split") == split]
    steps, bound = (torch.tensor(column, dtype=torch.float64) for column in zip(*curve, strict=True))
    if float(steps[-1]) < _LEAST_STEPS:
        return [
            _unfinished(
                f"Training ended after {int(steps[-1])} updates.",
                (Evidence("updates", float(steps[-1]), None, "steps"),),
                "Train longer: --train.epochs 50.",
            )
        ]
    if len(steps) < _LEAST_REPORTS:
        return []
    best = float(bound.nan_to_num(nan=-math.inf).max())
    if not math.isfinite(float(bound[-1])) or best - float(bound[-1]) > max(_FALLEN, 0.02 * abs(best)):
        evidence = (Evidence("best report", best), Evidence("last report", float(bound[-1])))
        lower = "Lower the learning rate (--optimizer.lr 3e-4), or let it decay (--optimizer.schedule one-cycle)."
        return [_unfinished("The bound fell at the end of training.", evidence, lower)]
    rates = [float(row["lr"]) for row in rows if row.get("lr") is not None]
    if rates and rates[-1] < _SCHEDULE_ENDED * max(
        rates
    ):  # it rises because the learning rate falls, and stops with it
        return []
    last = max(_LEAST_REPORTS // 2, len(steps) // 4)
    gain, stderr = _slope(steps[-last:], bound[-last:])
    if not (gain > _STILL_RISING and gain > CERTAIN_Z * stderr):
        return []
    title = f"The bound was still rising: {gain:.1f} nats over the last quarter of training."
    rise = (Evidence(f"rise over the last {last} reports ({split})", gain, stderr),)
    return [
        _unfinished(
            title, rise, "Train longer, for instance with twice the --train.epochs; --resume goes on with the same run."
        )
    ]


def _slope(steps: Tensor, values: Tensor) -> tuple[float, float]:
    """The rise of a fitted straight line over these steps, and its standard error."""
    away = steps - steps.mean()
    slope = (away * values).sum() / away.square().sum()
    residual = values - values.mean() - slope * away
    error = (residual.square().sum() / max(1, len(steps) - 2) / away.square().sum()).sqrt()
    length = steps[-1] - steps[0]
    return float(slope * length), float(error * length)


def _unfinished(title: str, evidence: tuple[Evidence, ...], remedy: str) -> Finding:
    explanation = "Results of a model that is still improving show how long it was trained, not what it can reach."
    return Finding("finished", "warning", title, evidence, explanation, remedy)


def generalises(inputs: DoctorInput) -> list[Finding]:
    r"""Overfitting of the decoder, and separately of the encoder: training data against held-out data.

    .. math:: \text{decoder:} \; \mathcal{L}_{200}(\text{train}) - \mathcal{L}_{200}(\text{test}), \qquad
        \text{encoder:} \; \mathrm{room}(\text{test}) - \mathrm{room}(\text{train}), \quad
        \mathrm{room} = \mathcal{L}_{200} - \mathcal{L}_1

    with the importance-weighted bound of 200 draws. The second is the part of the ELBO's loss on held-out data that
    is not a loss of log p(x).

    Args:
        inputs: a trained model and its data.
    Returns:
        A warning for each difference that is certainly a nat or more; nothing otherwise, and nothing without a guide.
        For discrete data the decoder's overfitting is severe from a tenth of log p(x). For
        continuous data log p(x) depends on the unit of x, but differences do not: there it is severe from 0.1 nats
        for each element of x.
    Raises:
        ElbowroomError: too few held-out examples; no training examples.
    """
    guide, model = inputs.learned_guide, inputs.model
    if guide is None:
        return []
    inputs.require_training()
    bounds, rooms = {}, {}
    points = min(_COMPARED, inputs.points)
    for name, split in (("train", "train"), ("test", inputs.held_out(2))):
        batch, generator = inputs.batch(split, points), inputs.generator(f"generalises {name}")
        with evaluation_mode(model, guide):
            bound = importance_estimate(model, guide, batch, num_samples=_DRAWS, generator=generator).log_evidence
            elbo = elbo_terms(model, guide, batch, num_samples=8, kl="auto", generator=generator).value
        bounds[name], rooms[name] = bound.double().cpu(), (bound.double() - elbo.double()).cpu()
    findings = []
    remark = "" if model.likelihood.normalized else f" ({model.likelihood.name}: not a log-likelihood)"
    gap, error = difference_and_stderr(bounds["train"], bounds["test"])
    if gap > NOTABLE_NATS and gap > CERTAIN_Z * error:
        batch = inputs.batch(inputs.held_out(2), points)
        severity: Severity = "severe" if _is_bad(gap, bounds["test"], batch, model.likelihood) else "warning"
        evidence = (
            Evidence(f"bound on training data{remark}", *mean_and_stderr(bounds["train"])),
            Evidence(f"bound on held-out data{remark}", *mean_and_stderr(bounds["test"])),
            Evidence("difference", gap, error),
        )
        title = f"The decoder overfits: its bound is {gap:.1f} nats better on training data than on held-out data."
        remedy = "Stop earlier (--data.validation 5000 --train.patience 5), use a smaller decoder, or get more data."
        findings.append(Finding("generalises", severity, title, evidence, _OVERFITTING, remedy))
    wider, error = difference_and_stderr(rooms["test"], rooms["train"])
    if wider > NOTABLE_NATS and wider > CERTAIN_Z * error:
        evidence = (
            Evidence("elbow room on training data", *mean_and_stderr(rooms["train"])),
            Evidence("elbow room on held-out data", *mean_and_stderr(rooms["test"])),
            Evidence("difference", wider, error),
        )
        title = f"The encoder overfits: the elbow room is {wider:.1f} nats wider on held-out data."
        other = "ais" if model.latent_support == "codes" else "laplace-is or ais, which need no encoder"
        remedy = f"Evaluate with --methods {other}; or train it on more data."
        findings.append(Finding("generalises", "warning", title, evidence, _OVERFITTING, remedy))
    return findings


def _is_bad(gap: float, bound: Tensor, batch: Batch, likelihood: Likelihood) -> bool:
    """Whether a difference in nats is large for such data."""
    if likelihood.normalized and likelihood.support in (Support.REALS, Support.UNIT_INTERVAL):
        return gap > _BADLY * float(observed(batch).double().mean())
    return gap > _BADLY * abs(float(bound.mean()))


_OVERFITTING = (
    "The bound can be lower on held-out data than on training data for two reasons, with different remedies: the "
    "decoder gives them less probability, or the encoder approximates their posterior less well."
)
