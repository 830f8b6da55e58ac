"""Whether a run's objective is compiled: decided once, from what the run is to do and never from a clock.

Compiling takes some 10 seconds, a few where torch finds its work of an earlier run on disk, and saves a part of every
step. So it pays where training takes minutes. How long it will take is estimated from the number of steps and the
floating-point operations of one, which are counted. The decision is written into config.json, and a resumed run keeps
it: eager and compiled steps differ in the last digits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.learners.execution import Execution, Objective, ObjectiveValue, eager
from elbowroom.learners.learner import untouched
from elbowroom.learners.vq import Vq
from elbowroom.model.latent import Pair
from elbowroom.progress import Announce
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.config import Config
from elbowroom.running.engine import TrainingPlan
from elbowroom.running.runtime import make_generator

__all__ = ["choose_execution"]

_LONG = 60.0  # seconds of training from which compiling pays
_FEW = 60  # steps: fewer are not looked at, since each would have to take a second
_STEP = 8e-4  # seconds of a step of the smallest network: Python, the optimiser, some sixty operations
_RATE = 1.5e11  # floating-point operations per second, about those of two CPU cores


def choose_execution(
    settings: Config,
    plan: TrainingPlan,
    pair: Pair,
    data: DataSet | StreamSet,
    *,
    decided: bool | None = None,
    announce: Announce,
) -> Execution:
    """How the learner's objective is run; a compiled one has been tried before this returns.

    Args:
        settings: of the run.
        plan: how long it is.
        pair: model and guide, as training will find them.
        data: from whose training data a batch is taken.
        decided: what "auto" has come to in an earlier session of the run; None for a new run.
        announce: told why nothing is compiled, where it would have paid.
    Raises:
        ElbowroomError: ``runtime.compile`` is "on", and the objective cannot be compiled.
    """
    asked, required = settings.runtime.compile, settings.runtime.compile == "on"
    device = next(pair.parameters()).device
    why_not = _why_not(settings, device)
    if why_not is not None and required:
        raise why_not
    if why_not is not None or asked == "off":
        return eager
    wanted = required or (_is_long(settings, plan, pair, data) if decided is None else decided)
    if not wanted:
        return eager
    from elbowroom.learners.compiled import Compiled  # the compiler takes seconds to import

    example = _example(settings, data, device)
    mode = "reduce-overhead" if device.type == "cuda" else None
    execution = Compiled(len(example), required=required, announce=announce, mode=mode)
    _try_steps(settings, plan, pair, example, execution, steps=_steps_that_differ(settings, plan))
    return eager if execution.given_up else execution


def _steps_that_differ(settings: Config, plan: TrainingPlan) -> list[int]:
    """One step for every function that the run will need."""
    if settings.train.learner == "vq":
        learner = build_learner(settings, RunLength(plan.total_steps, plan.steps_per_epoch, None, Path()))
        assert isinstance(learner, Vq)
        return learner.starts
    objective = settings.objective
    has_more = (objective.last_name, objective.last_samples, objective.last_estimator) != (None, None, None)
    return [0] if plan.total_steps is None or not has_more else [0, plan.total_steps - 1]


def _why_not(settings: Config, device: torch.device) -> ElbowroomError | None:
    """What is known to be uncompilable without trying."""
    learner = settings.train.learner
    if device.type == "mps":
        return ElbowroomError("runtime.compile is on, but objectives are not compiled for mps.", "Set it to off.")
    if learner == "svi":
        return ElbowroomError(
            "runtime.compile is on, but the learner svi runs Pyro's own objectives, which torch.compile does not "
            "understand.",
            "Set it to off, or use --train.learner aevb, which maximises the same bound.",
        )
    if learner == "mcem" and settings.mcem.growth:
        return ElbowroomError(
            "runtime.compile is on, but with mcem.growth the number of draws changes from epoch to epoch, and each "
            "would be compiled anew.",
            "Set it to off, or mcem.growth to 0.",
        )
    return None


def _is_long(settings: Config, plan: TrainingPlan, pair: Pair, data: DataSet | StreamSet) -> bool:
    """Whether training takes so long that compiling pays."""
    if plan.seconds is not None:
        return plan.seconds >= _LONG
    if plan.total_steps is not None and plan.total_steps < _FEW:
        return False
    example = _example(settings, data, next(pair.parameters()).device)
    count = _Counting()
    gradients = _try_steps(settings, plan, pair, example, count)
    steps = plan.total_steps
    if steps is None:  # as many gradients of the decoder as were asked for
        assert plan.decoder_gradients is not None
        steps = plan.decoder_gradients // max(1, gradients)
    return steps * (_STEP + count.operations / _RATE) >= _LONG


class _Counting:
    """Computes objectives and gradients eagerly, and counts the floating-point operations."""

    def __init__(self) -> None:
        self.operations = 0

    def __call__(
        self,
        objective: Objective,
        pair: Pair,
        batch: Batch,
        *tensors: Tensor,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> ObjectiveValue:
        with FlopCounterMode(display=False) as counter:
            found = eager(objective, pair, batch, *tensors, generator=generator, **settings)
        self.operations += counter.get_total_flops()
        return found


def _example(settings: Config, data: DataSet | StreamSet, device: torch.device) -> Batch:
    return data.example(settings.train.batch_size, generator=make_generator(device, 0))


def _try_steps(
    settings: Config, plan: TrainingPlan, pair: Pair, batch: Batch, execution: Execution, *, steps: Sequence[int] = (0,)
) -> int:
    """These steps on a batch, which leave nothing behind; returns the decoder's gradients of the last."""
    gradients = 0
    positions = None if batch.index is None else batch.index.sort().values
    with tempfile.TemporaryDirectory() as scratch, untouched(pair):
        length = RunLength(plan.total_steps, plan.steps_per_epoch, positions, Path(scratch) / "chains")
        learner = build_learner(settings, length, execution)
        for step in steps:
            state = learner.init(pair)
            state.step = step
            gradients = learner.step(state, batch, generator=make_generator(batch.x.device, 0))[1].decoder_gradients
    return gradients
