"""The training loop: gives batches to a learner, writes reports and checkpoints. For any learner and any data.

A checkpoint contains everything that the next step depends on: weights, optimiser, generator, and the
`TrainingProgress`. The order of the data is a function of (seed, epoch, position). So a run that is resumed after a
kill ends with the same numbers as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.learners.learner import Learner, StepInfo, TrainingState
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.best import is_worse
from elbowroom.running.checkpoints import Checkpoint
from elbowroom.running.folder import RunFolder
from elbowroom.running.observers import Observer

__all__ = ["TrainingPlan", "TrainingProgress", "deferred_interrupts", "fit", "restore"]

_PEAK = "validation.peak"  # name of a tensor in a checkpoint
_STUCK = 10  # updates that were all left out are no accident


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Length of the training, batches, and how often to report and save."""

    total_steps: int | None  #: None where the run is limited by time or work
    steps_per_epoch: int | None  #: None for a stream
    batch_size: int
    seed: int
    report_every: int  #: steps
    patience: int | None  #: reports
    checkpoint_seconds: float
    seconds: float | None = None  #: limit of wall time, over all sessions
    decoder_gradients: int | None = None  #: limit of decoder evaluations with their gradient

    def is_spent(self, step: int, progress: TrainingProgress, seconds: float) -> bool:
        """Whether the limit of steps, time or work is reached."""
        return (
            (self.total_steps is not None and step >= self.total_steps)
            or (self.seconds is not None and seconds >= self.seconds)
            or (self.decoder_gradients is not None and progress.decoder_gradients >= self.decoder_gradients)
        )

    def has_stalled(self, progress: TrainingProgress) -> bool:
        """Whether validation has not improved for too many reports (early stopping)."""
        return self.patience is not None and progress.reports_since_best >= self.patience

    def is_over(self, step: int, progress: TrainingProgress, seconds: float) -> bool:
        """Whether nothing is left to do: the limit is reached, or validation has stalled."""
        return self.is_spent(step, progress, seconds) or self.has_stalled(progress)


@dataclass(slots=True)
class TrainingProgress:
    """Counters of a run, which are saved beside the weights."""

    sums: dict[str, float] = field(default_factory=dict)  #: sums of the terms over the examples since the last report
    count: int = 0  #: examples since the last report
    counts: dict[str, int] = field(default_factory=dict)  #: of those, the ones that have the term: stages differ
    best_value: float | None = None  #: the peak, the highest validation mean; None before the first report
    best_step: int = 0  #: of the weights that are kept as the best: see `running.best`
    reports_since_best: int = 0  #: since the peak
    seconds: float = 0.0  #: wall time of earlier sessions, validation and checkpoints not counted
    visits: int = 0  #: training examples processed, each as often as it was seen
    decoder_gradients: int = 0  #: evaluations of the decoder with its gradient
    peak: Tensor | None = None  #: validation values of every example at the peak; None in runs of version 0.1.0

    def __post_init__(self) -> None:
        if self.sums and not self.counts:  # of a version in which every term was of all examples
            self.counts = dict.fromkeys(self.sums, self.count)

    def add(self, info: StepInfo, size: int) -> None:
        self.visits += size
        self.decoder_gradients += info.decoder_gradients
        for name, value in info.terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * size
            self.counts[name] = self.counts.get(name, 0) + size
        self.count += size

    def note(self, step: int, values: Tensor) -> bool:
        """Notes a validation report; whether its weights are to be kept as the best.

        Args:
            step: of the weights.
            values: of the objective, one for each validation example.
        """
        value, _ = mean_and_stderr(values)
        self.reports_since_best += 1
        if self.best_value is None or value > self.best_value:
            self.best_value, self.peak, self.reports_since_best = value, values, 0
        elif self.peak is None or is_worse(values, self.peak):
            return False
        self.best_step = step
        return True

    def numbers(self) -> dict[str, Any]:
        """Everything but the tensors."""
        return {name: value for name, value in asdict(self).items() if name != "peak"}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by name."""
        return {} if self.peak is None else {_PEAK: self.peak}

    def take_means(self) -> dict[str, float]:
        """Means of the terms since the last report; the sums start again at 0."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts, self.count = {}, {}, 0
        return means


def fit(
    learner: Learner,
    state: TrainingState,
    data: DataSet | StreamSet,
    plan: TrainingPlan,
    *,
    generator: torch.Generator,
    folder: RunFolder,
    progress: TrainingProgress,
    observers: Sequence[Observer] = (),
) -> TrainingState:
    """Trains from the step of ``state`` to the end of the plan.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
        ElbowroomError: a term or a gradient is not finite, the disk is full, a stream is empty.
    """
    recorder = _Recorder(learner, data, plan, folder, progress, observers, generator, on_disk=state.step)
    try:
        for observer in observers:
            observer.start(state.step, plan.total_steps)
        with deferred_interrupts() as interrupted:
            batches = _endless_batches(data, plan, generator, state.step)
            spent = plan.is_spent(state.step, progress, recorder.seconds())
            while not (spent or plan.has_stalled(progress)):
                batch = next(batches)
                state, info = learner.step(state, batch, generator=generator)
                progress.add(info, len(batch))
                spent = plan.is_spent(state.step, progress, recorder.seconds())
                reports = spent or state.step % plan.report_every == 0
                if reports:
                    recorder.report(state, info)
                if reports or plan.checkpoint_seconds:  # with 0 seconds at every report, but not at every step
                    recorder.save(state, only_if_due=True)
                for observer in observers:
                    observer.step()
                if interrupted():
                    recorder.save(state)
                    raise KeyboardInterrupt
            recorder.save(state)
    finally:
        for observer in observers:
            observer.stop()
    return state


def _endless_batches(
    data: DataSet | StreamSet, plan: TrainingPlan, generator: torch.Generator, step: int
) -> Iterator[Batch]:
    """Batches from ``step`` on, epoch after epoch.

    A stream can only be read from its beginning: batches that were used before are read again and skipped.
    """
    epoch, start = divmod(step, plan.steps_per_epoch) if plan.steps_per_epoch else (0, 0)
    passed = 0 if plan.steps_per_epoch else step
    restored = generator.get_state()
    while True:
        empty = True
        for batch in data.training_batches(
            plan.batch_size, seed=plan.seed, epoch=epoch, start=start, generator=generator
        ):
            empty = False
            if passed:
                passed -= 1
                generator.set_state(restored)  # a skipped batch must not use up random numbers
                continue
            yield batch
        if empty:
            raise ElbowroomError("The stream of data gave no batch.", "Give a stream that can be read more than once.")
        epoch, start = epoch + 1, 0


@contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C (or SIGTERM) only sets a flag, so that a step can end; a second interrupts.

    Yields:
        A function that returns whether the flag is set. Outside the main thread signals cannot be caught: always False.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in signals}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python


@dataclass(slots=True)
class _Recorder:
    """Writes reports and checkpoints, and keeps the time."""

    learner: Learner
    data: DataSet | StreamSet
    plan: TrainingPlan
    folder: RunFolder
    progress: TrainingProgress
    observers: Sequence[Observer]
    generator: torch.Generator
    started: float = field(default_factory=lambda: time.perf_counter())  # looked up anew: tests set the clock
    saved: float = field(default_factory=lambda: time.perf_counter())
    best: Pair | None = None  #: the best weights, while they are not yet on disk
    on_disk: int = 0  #: step of the latest checkpoint

    def seconds(self) -> float:
        return self.progress.seconds + time.perf_counter() - self.started

    def report(self, state: TrainingState, info: StepInfo) -> None:
        """Writes a row for the training data since the last report, and one for the validation data, if any."""
        epoch = state.step / self.plan.steps_per_epoch if self.plan.steps_per_epoch else 0
        head = {"step": state.step, "epoch": round(epoch, 4), "seconds": round(self.seconds(), 3)}
        tail: dict[str, float] = {"lr": info.lr}
        tail |= {name: value for name in ("beta", "grad_norm") if (value := getattr(info, name)) is not None}
        tail |= {"visits": self.progress.visits, "decoder_gradients": self.progress.decoder_gradients}
        examples, means = self.progress.count, self.progress.take_means()
        if means.get("skipped") == 1 and examples >= _STUCK * self.plan.batch_size:
            raise _stuck(state.step, info)
        rows: list[dict[str, Any]] = [head | {"split": "train"} | means | tail]
        if isinstance(self.data, DataSet) and self.data.size("validation"):
            began = time.perf_counter()
            terms, values = self._validate(state, self.data)
            self.started += time.perf_counter() - began  # validation does not count as training time
            rows.append(head | {"split": "validation"} | terms)
            if self.progress.note(state.step, values):
                self.best = copy.deepcopy(state.learned)
        self.folder.append_metrics(rows)
        for observer in self.observers:
            observer.report(rows)

    @torch.no_grad()
    def _validate(self, state: TrainingState, data: DataSet) -> tuple[dict[str, float], Tensor]:
        """The mean of every term, and the objective of every validation example."""
        pair, parts = state.learned, dict[str, list[Tensor]]()
        generator = torch.Generator(self.generator.device).manual_seed(self.plan.seed)  # the same draws at every report
        with evaluation_mode(pair):
            for batch in data.batches("validation", 1000):
                for name, value in self.learner.measure(pair, batch, generator=generator).items():
                    parts.setdefault(name, []).append(value)
        values = {name: torch.cat(several) for name, several in parts.items()}
        summaries = {name: mean_and_stderr(of_all) for name, of_all in values.items()}
        means = {name: mean for name, (mean, _) in summaries.items()}
        bad = [name for name, mean in means.items() if not math.isfinite(mean)]
        if bad:
            shown = ", ".join(f"{name} = {means[name]:.4g}" for name in bad)
            raise ElbowroomError(
                f"At step {state.step} the objective is not finite on the validation data, although it is on the "
                f"training data: {shown}. The weights have become too large, probably because the learning rate is "
                "too large.",
                "Lower --optimizer.lr, or set --optimizer.clip-norm 10; the last good checkpoint is kept.",
            )
        stderr = summaries[self.learner.name][1]  # unknown for one example, and JSON has no NaN
        known = {"stderr": stderr} if math.isfinite(stderr) else {}
        return means | known, values[self.learner.name].cpu()

    def save(self, state: TrainingState, *, only_if_due: bool = False) -> None:
        """Writes the best and the latest weights, and everything that is needed to resume from the latest."""
        early = only_if_due and time.perf_counter() - self.saved < self.plan.checkpoint_seconds
        if early or state.step == self.on_disk:
            return
        began = time.perf_counter()
        progress = self.progress.numbers() | {"seconds": self.seconds()}
        numbers = {"step": state.step, "books": progress}
        pointers = ["latest"]
        if self.best is not None and self.progress.best_step == state.step:
            pointers = ["best", "latest"]
        elif self.best is not None:
            best = {"step": self.progress.best_step}
            self.folder.checkpoints.save(self.progress.best_step, self.best, best, pointers=["best"])
        self.folder.checkpoints.save(
            state.step,
            state.learned,
            numbers,
            training={"generator": self.generator.get_state(), **self.progress.tensors(), **state.tensors()},
            pointers=pointers,
        )
        self.best = None
        self.on_disk, self.saved = state.step, time.perf_counter()
        self.started += self.saved - began


def _stuck(step: int, info: StepInfo) -> ElbowroomError:
    """Gradients that are left out one and all."""
    norm = info.grad_norm or 0.0
    return ElbowroomError(
        f"At step {step}, all steps since the last report left the weights as they were, because the norm of every "
        f"gradient was above optimizer.skip_norm (at the last step it was {norm:.3g}).",
        f"Give a number well above the usual norm, such as --optimizer.skip-norm {10 * norm:.2g}, or leave it out.",
    )


def restore(
    checkpoint: Checkpoint, state: TrainingState, generator: torch.Generator
) -> tuple[TrainingState, TrainingProgress]:
    """Restores state, generator and progress from a checkpoint."""
    checkpoint.load_weights(state.learned)
    tensors = checkpoint.training()
    generator.set_state(tensors.pop("generator"))
    peak = tensors.pop(_PEAK, None)
    state.load(tensors)
    state.step = int(checkpoint.state["step"])
    return state, TrainingProgress(**checkpoint.state["books"], peak=peak)
