"""A run: the trained model and guide, their data, and everything that can be done with them.

Example:
    >>> import elbowroom as er
    >>> run = er.load("runs/digits")                                # doctest: +SKIP
    >>> run.evaluate("elbo", "iwae", k=1000)                        # doctest: +SKIP
    >>> run.sample(25).mean.shape                                   # doctest: +SKIP
    torch.Size([25, 8, 8])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.diagnose import Diagnosis, diagnose
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.evaluate import evaluate, score
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.settings import Settings
from elbowroom.inference.posterior.sample import Posterior, posterior
from elbowroom.memory import peak_memory
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw, mean
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, Pair, Sample, evaluation_mode
from elbowroom.progress import Announce, Progress, silent
from elbowroom.running.build import DataFacts, build_pair
from elbowroom.running.changes import adding_results
from elbowroom.running.config import Config, configure
from elbowroom.running.contexts import class_contexts, sample_context
from elbowroom.running.diagnosis import Checkup, write_checkup
from elbowroom.running.evaluation_cache import FileCache
from elbowroom.running.folder import RunFolder
from elbowroom.running.outputs import Encoded, Reconstruction, Scores
from elbowroom.running.own_data import read_own_data
from elbowroom.running.reading import TrainedOn, read_like_training
from elbowroom.running.runtime import dtype_of, make_generator, pick_device

__all__ = ["Encoded", "Reconstruction", "Run", "Scores", "as_run", "load"]


class Run:
    """A trained run, loaded from its folder.

    Attributes:
        folder: the run folder.
        config: the configuration.
        facts: facts about the data that the model depends on.
        pair: model and guide, in evaluation mode.
        checkpoint: "best" or "latest", the one that was asked for.
        step: step of the checkpoint, the number of updates before it.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        checkpoint: str = "best",
        data: DataSet | StreamSet | None = None,
        device: str | None = None,
        announce: Announce = print,
    ) -> None:
        content = folder.read_config()
        self.folder = folder
        self.config: Config = configure(content["config"], source=str(folder.path / "config.json"))
        self.facts = DataFacts.model_validate(content["facts"])
        self.content = content
        self.checkpoint, self._announce = checkpoint, announce
        found = folder.checkpoints.find(checkpoint, announce=announce)
        self.device = pick_device(device or self.config.runtime.device)
        self.pair: Pair = build_pair(self.config, self.facts, seed=0)
        found.load_weights(self.pair)
        self.pair.to(self.device).eval()
        self.step = int(found.state["step"])
        if data is not None:
            self.data = data

    @property
    def model(self) -> LatentModel:
        """p(x, z)."""
        return self.pair.model

    @property
    def guide(self) -> Conditional:
        """q(z | x)."""
        return self.pair.guide

    @property
    def has_guide(self) -> bool:
        """Whether a guide q(z | x) was trained; without one the prior takes its place."""
        return not isinstance(self.guide, PriorGuide)

    @property
    def filler(self) -> Tensor:
        """The value in place of a missing element: for real numbers the mean over the training data, else 0."""
        return dict(self.model.likelihood.named_buffers()).get("shift", torch.zeros((), device=self.device))

    @property
    def history(self) -> list[dict[str, Any]]:
        """The reports made while training, metrics.jsonl."""
        return self.folder.metrics()

    @property
    def normalized(self) -> bool:
        """Whether p(x | z) integrates to one, so that log p(x) exists."""
        return self.model.likelihood.normalized

    @property
    def is_beside_best(self) -> bool:
        """Whether these are the latest weights and others the best, so that what is said of them must say so."""
        return self.checkpoint == "latest" and self.folder.checkpoints.steps().get("best", self.step) != self.step

    @cached_property
    def data(self) -> DataSet | StreamSet:
        """The data that the run was trained on.

        Raises:
            ElbowroomError: they are nowhere, or have changed since.
        """
        data = read_own_data(self.config, self.content, self.folder)
        return data.to(device=self.device, dtype=dtype_of(self.config.runtime))

    def dataset(self) -> DataSet:
        """The data, as a data set with splits.

        Raises:
            ElbowroomError: the data are a stream.
        """
        if not isinstance(self.data, DataSet):
            raise ElbowroomError(
                "A stream has no test set.", "Give data of known length: an array, a file or a Dataset."
            )
        return self.data

    # --- evaluation ---

    def evaluate(
        self,
        *methods: str,
        data: Any = None,
        split: str = "test",
        announce: Progress = silent,
        **settings: Any,
    ) -> list[Result]:
        """Evaluates the model, adds the results to evaluation.json, and writes the values of every example as CSV.

        The file also has ``step``, of the checkpoint, and ``peak_memory``, the most bytes that the process has used.
        Without names: elbo, iwae and active-units, as far as guide and likelihood allow. With ``data`` (a path, an
        array, what `read` returns) all of these are evaluated instead of a split of the run's own; a run on a stream
        needs that. For the method room, the training data are evaluated too, or the test data if the split is train;
        each result names its split. The other arguments are those of
        :func:`elbowroom.evaluation.evaluate.evaluate`, and the settings (``points``, ``seed``, ``k``, …) those of
        :class:`elbowroom.evaluation.settings.Settings`.
        """
        every: tuple[str, ...] = ("elbo", "iwae", "active-units") if self.normalized else ("elbo", "active-units")
        if not self.has_guide:
            every = ("laplace-is",) if self.normalized else ("elbo",)
        if data is None:
            measured = self.dataset()
        else:
            measured, split = self._whole(data), "all"
        wanted = [(split, methods or every)]
        beside = "test" if split == "train" else "train"
        if "room" in methods and len(measured.splits.get(beside, ())):  # other data have one split only
            wanted.append((beside, ("room",)))
        return [result for part, names in wanted for result in self._measure(measured, part, names, announce, settings)]

    def _measure(
        self, data: DataSet, split: str, methods: Sequence[str], announce: Progress, settings: dict[str, Any]
    ) -> list[Result]:
        """Evaluates one split, and writes the results."""
        values: dict[str, dict[str, Tensor]] = {}
        identity = {"step": self.step, "protocol": data.protocol(), "split": split}
        identity |= Settings.of(settings).model_dump()
        parts = FileCache(self.folder.path / "evaluation" / "unfinished", identity)
        results = evaluate(
            self.model,
            self.guide,
            data,
            methods=methods,
            split=split,
            announce=announce,
            keep=values.__setitem__,
            parts=parts,
            **settings,
        )
        with adding_results(self.folder, self.content, self._announce):
            about = {"step": self.step, "peak_memory": peak_memory(self.device)}
            self.folder.add_evaluations({**result.model_dump(), **about} for result in results)
            whose = "-latest" if self.is_beside_best else ""
            for method, columns in values.items():
                self.folder.write_values(f"{method}-{split}{whose}", columns)
        parts.forget()
        return results

    def score(self, source: Any = None, *, split: str = "test", k: int = 1000, seed: int = 0) -> Scores:
        """log p(x) of every example of ``source`` (a path, an array, what `read` returns), or of a split of the run.

        Raises:
            ElbowroomError: a likelihood that is not normalised; a run without a guide.
        """
        self._require_guide("Scoring")
        return Scores(*score(self.model, self.guide, self._batches(source, split, 100), k=k, seed=seed))

    def doctor_input(self, *, data: Any = None, points: int = 1000, seed: int = 0) -> DoctorInput:
        """The input of the doctor: model and guide, the run's own data, and the history of its training.

        Args:
            data: other data (a path, an array, what `read` returns), all of which count as held out.
            points: number of examples that a check looks at.
            seed: of all draws.
        Raises:
            ElbowroomError: the run's data are a stream, or are no longer there.
        """
        guide, settings = self.guide if self.has_guide else None, self.config.model_dump(mode="json")
        examined = self.dataset() if data is None else self._held_out(data)
        return DoctorInput(self.model, guide, examined, self.history, settings, points=points, seed=seed)

    def doctor(
        self,
        *,
        data: Any = None,
        checks: Sequence[str] | None = None,
        points: int = 1000,
        seed: int = 0,
        announce: Progress = silent,
    ) -> Diagnosis:
        """Checks the model for faults, and writes the findings to doctor.json, with the step of the checkpoint.

        Args:
            data: other data than the run's own: a path, an array, what `read` returns. Checks that need training
                examples are then left out, each with a sentence.
            checks: names from ``elbowroom.evaluation.doctor.diagnose.CHECKS``; by default all of them.
            points: number of examples that a check looks at.
            seed: of all draws.
            announce: called before every check.
        Raises:
            ElbowroomError: an unknown check; data that are a stream, or are no longer there; fewer than two examples.
        """
        given = self.doctor_input(data=data, points=points, seed=seed)
        found = diagnose(given, checks=checks, announce=announce)
        with adding_results(self.folder, self.content, self._announce):
            examined = None if data is None else given.data.name
            write_checkup(self.folder, Checkup(found, self.step, points, seed, examined))
        return found

    # --- samples, encodings, reconstructions ---

    def sample(self, num_samples: int = 25, *, context: Tensor | None = None, seed: int = 0) -> Sample:
        """Draws of z and x, and the mean of p(x | z).

        Args:
            num_samples: n.
            context: covariates, shape (n, context_dim); with labels, by default equal numbers of each class.
            seed: of the draws.
        Raises:
            ElbowroomError: n below one, or a conditional model and no context.
        """
        if num_samples < 1:
            raise ElbowroomError(
                f"{num_samples} samples were asked for, but at least one is needed.", "Give 1 or more."
            )
        context = sample_context(self.config, self.facts, num_samples, context)
        if context is not None:
            context = context.to(device=self.device, dtype=dtype_of(self.config.runtime))
        with evaluation_mode(self.pair):
            generator = make_generator(self.device, seed)
            sample = self.model.sample(num_samples, context=context, generator=generator)
        return Sample(*(tensor.cpu() for tensor in sample))

    def class_contexts(self, num_samples: int) -> Tensor:
        """One-hot labels 0, …, C−1 in blocks of nearly equal size, shape (n, C).

        Raises:
            ElbowroomError: the context is not a label.
        """
        return class_contexts(self.config, self.facts, num_samples)

    def reconstruct(self, num: int = 10, *, data: Any = None, split: str = "test", seed: int = 0) -> Reconstruction:
        """Some examples with their reconstructions, each decoded from one draw of q(z | x).

        Args:
            num: how many: a random choice of the split, or the first ones of ``data``.
            data: other data than the run's own: a path, an array, what `read` returns.
            split: which split, if no data are given.
            seed: of the draws.
        Raises:
            ElbowroomError: the run has no guide.
        """
        self._require_guide("Reconstruction")
        points = num if data is None else None
        batch = next(iter(self._batches(data, split, num, points)))
        generator = make_generator(self.device, seed)
        with evaluation_mode(self.pair):
            z = draw(self.guide(batch.x, batch.context), (), generator=generator)
            p_x = self.model.likelihood(z, batch.context)
            drawn = draw(p_x, (), generator=generator)
            return Reconstruction(batch.x.cpu(), mean(p_x).cpu(), drawn.cpu())

    def encode(self, source: Any = None, *, split: str = "test", points: int | None = None) -> Encoded:
        """Means and standard deviations of q(z | x), for ``source`` or a split of the run's own data.

        Args:
            source: a path, an array, what `read` returns; by default a split of the run's own data.
            split: which split, if no source is given.
            points: number of examples, chosen by the data's seed; by default all of them.
        Raises:
            ElbowroomError: the run has no guide.
        """
        self._require_guide("Encoding")
        means, deviations, rows = [], [], []
        with evaluation_mode(self.pair):
            for batch in self._batches(source, split, 1000, points):
                q = self.guide(batch.x, batch.context)
                means.append(q.mean.cpu())
                deviations.append(q.stddev.cpu())
                rows.append(batch.index)
        labels = self.dataset().labels if source is None else None
        if labels is not None:
            labels = labels.cpu()[torch.cat([index.cpu() for index in rows if index is not None])]
        return Encoded(torch.cat(means), torch.cat(deviations), labels)

    def posterior(
        self,
        source: Any = None,
        *,
        split: str = "test",
        points: int | None = None,
        context: Any = None,
        labels: Any = None,
        seed: int = 0,
        announce: Progress | None = None,
        **settings: Any,
    ) -> Posterior:
        """Draws from the posterior p(z | x) of each example by Markov chains; `encode` gives the guide's approximation.

        Args:
            source: a path, an array, what `read` returns; by default a split of the run's own data. NaN is a missing
                element, and the posterior is that given the others.
            split: which split, if no source is given.
            points: number of examples of the split, chosen by the data's seed; by default all of them.
            context: covariates of a source from Python, shape (n, context_dim).
            labels: class labels of a source from Python, shape (n,).
            seed: of the chains.
            announce: called at every transition.
            **settings: method, draws, chains, warmup, metric, … of
                :func:`elbowroom.inference.posterior.sample.posterior`.
        Raises:
            ElbowroomError: as there.
        """
        if source is not None and not isinstance(source, DataSet):
            source = self.read(source, context=context, labels=labels, missing="mask")
        data, name = (self.dataset(), split) if source is None else (self._whole(source), "all")
        batch = next(iter(data.batches(name, max(1, data.size(name)), points=points)))
        with evaluation_mode(self.pair):
            generator = make_generator(self.device, seed)
            return posterior(self.model, self.guide, batch, generator=generator, announce=announce, **settings)

    @torch.no_grad()
    def decode(self, z: Tensor, *, context: Tensor | None = None) -> Tensor:
        """The mean of p(x | z): z of shape (\\*, latent) gives (\\*, \\*event)."""
        with evaluation_mode(self.pair):
            z = z.to(device=self.device, dtype=dtype_of(self.config.runtime))
            return mean(self.model.likelihood(z, context)).cpu()

    def _require_guide(self, what: str) -> None:
        if not self.has_guide:
            raise ElbowroomError(
                f"{what} needs a guide q(z | x), but {self.folder.path} was trained without one "
                f"({self.config.train.learner}).",
                "Draw from p(z | x) itself: `elbowroom encode RUN --posterior hmc` or run.posterior(); and evaluate "
                "with --methods laplace-is.",
            )

    def _batches(self, source: Any, split: str, batch_size: int, points: int | None = None) -> Iterator[Batch]:
        """Batches of a split of the run's own data, or of all data of ``source``, in order."""
        if source is None:
            return self.dataset().batches(split, batch_size, points=points)
        return self._whole(source).batches("all", batch_size, points=points)

    def _whole(self, source: Any) -> DataSet:
        """All rows of ``source`` as one split, in their order."""
        data = source if isinstance(source, DataSet) else self.read(source)
        return replace(data, splits={"all": torch.arange(len(data))})

    def _held_out(self, source: Any) -> DataSet:
        """All rows of ``source`` as a test set, beside which there are no others."""
        whole, none = self._whole(source), torch.arange(0)
        return replace(whole, splits={"train": none, "validation": none, "test": whole.splits["all"]})

    def read(
        self,
        source: Any,
        *,
        context: Any = None,
        labels: Any = None,
        missing: Literal["error", "mask"] | None = None,
    ) -> DataSet:
        """Reads other data and prepares them for this model in the same way as its own data.

        Args:
            source: a path, an array, a data frame, a ``Dataset``.
            context: covariates of data from Python, shape (n, context_dim).
            labels: class labels of data from Python, shape (n,).
            missing: what NaN means, a mistake ("error") or a missing element ("mask"); by default as in training.
        Raises:
            ElbowroomError: data that cannot be read, or have another shape or support.
        """
        trained = TrainedOn(
            self.config, self.facts, self.content["data"], self.model.likelihood, self.filler, self.device
        )
        return read_like_training(trained, source, context=context, labels=labels, missing=missing)

    def __repr__(self) -> str:
        model, data = self.config.model, self.content["data"].get("dataset", "data")
        return f"Run({str(self.folder.path)!r}: {data}, {model.latent_dim} latents, step {self.step:,})"


def load(
    path: str | Path,
    *,
    checkpoint: str = "best",
    data: Any = None,
    context: Any = None,
    labels: Any = None,
    device: str | None = None,
    announce: Announce = print,
) -> Run:
    """Loads a run from its folder.

    Args:
        path: the run folder.
        checkpoint: "best" (the latest that validation cannot tell from its peak, and the latest of all if there was no
            validation) or "latest".
        data: the data of the training, in any form that holds the same numbers: where they came from Python and the
            run does not keep them, or the path of a file that has moved.
        context: covariates of these data, shape (n, context_dim).
        labels: class labels of these data, shape (n,).
        device: device of the model; by default that of the run.
        announce: called with remarks: a damaged checkpoint was skipped, results wait for others to be written.
    Raises:
        ElbowroomError: no run there, no good checkpoint, or data that are not those of the run.
    """
    run = Run(RunFolder.open(path), checkpoint=checkpoint, device=device, announce=announce)
    if data is not None:
        arrays = {name: value for name, value in (("context", context), ("labels", labels)) if value is not None}
        given = read_own_data(run.config, run.content, run.folder, data, **arrays)
        run.data = given.to(device=run.device, dtype=dtype_of(run.config.runtime))
    return run


def as_run(
    run: Run | str | Path, *, checkpoint: str | None = None, device: str | None = None, announce: Announce = print
) -> Run:
    """A run as it is, or that in a folder.

    Args:
        run: a run, or the folder of one.
        checkpoint: "best" or "latest", for a folder; "best" unless given.
        device: of the model, for a folder; by default that of the run.
        announce: called with remarks.
    Raises:
        ElbowroomError: another checkpoint than that of the run that was given.
    """
    if not isinstance(run, Run):
        return load(run, checkpoint=checkpoint or "best", device=device, announce=announce)
    if checkpoint not in (None, run.checkpoint):
        raise ElbowroomError(
            f"checkpoint is {checkpoint!r}, but the run is loaded with its {run.checkpoint} one (step {run.step:,}).",
            f"Load the others: er.load({str(run.folder.path)!r}, checkpoint={checkpoint!r}).",
        )
    return run
