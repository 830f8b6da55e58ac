"""A run: the trained model and guide, their data, and everything that can be done with them.

Example:
    >>> import elbowroom as er
    >>> run = er.load("runs/digits")                                # doctest: +SKIP
    >>> run.evaluate("elbo", "iwae", k=1000)                        # doctest: +SKIP
    >>> run.sample(25).mean.shape                                   # doctest: +SKIP
    torch.Size([25, 8, 8])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.errors import ElbowroomError, check_count
from elbowroom.evaluation.column_scores import ColumnScores, column_scores
from elbowroom.evaluation.doctor.diagnose import Diagnosis, diagnose
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.evaluate import default_methods, evaluate
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.scoring import ScoreMethod, score
from elbowroom.evaluation.settings import Settings
from elbowroom.inference.posterior.sample import Posterior, posterior
from elbowroom.memory import peak_memory
from elbowroom.model.latent import evaluation_mode
from elbowroom.progress import Announce, Progress, silent
from elbowroom.running.changes import adding_results
from elbowroom.running.diagnosis import FILE, Checkup, write_checkup
from elbowroom.running.evaluation_cache import FileCache
from elbowroom.running.folder import RunFolder
from elbowroom.running.outputs import Encoded, Reconstruction, Scores, encoded, reconstructed
from elbowroom.running.own_data import read_own_data
from elbowroom.running.runtime import make_generator, torch_settings
from elbowroom.running.sampled_model import SampledModel
from elbowroom.running.units import prepared, restored

__all__ = ["Encoded", "Reconstruction", "Run", "Scores", "as_run", "load"]


class Run(SampledModel):
    """A trained run: what can be done with its model, and with its data."""

    # --- evaluation ---

    @torch_settings()
    def evaluate(
        self,
        *methods: str,
        data: Any = None,
        split: str | None = None,
        context: Any = None,
        labels: Any = None,
        announce: Progress = silent,
        **settings: Any,
    ) -> list[Result]:
        """Evaluates the model, adds the results to evaluation.json, and writes the values of every example as CSV.

        The file also has ``step``, of the checkpoint, and ``peak_memory``, the most bytes that the process has used.
        Without names: elbo, iwae and active-units, as far as model and guide allow; elbo and codes for discrete
        latents; and baselines for the own data of a run on a table. With ``data`` (a path, an array, what `read`
        returns) all of these are evaluated instead of a split of the run's own (by default its test set), with
        ``context`` or ``labels`` as in `read`; a run on a stream needs that. For the method room, the training data are
        evaluated too, or the test data if the split is train; each result names its split. The other arguments are
        those of :func:`elbowroom.evaluation.evaluate.evaluate`, and the settings (``points``, ``seed``, ``k``, …) those
        of :class:`elbowroom.evaluation.settings.Settings`.
        """
        for name in methods:
            if not isinstance(name, str):
                raise ElbowroomError(
                    f"A method is named by text, but a {type(name).__name__} was given.",
                    'Give data by the keyword: run.evaluate("elbo", data=…).',
                )
        measured, name = self.asked(data, split, context, labels, command="evaluate")
        usual = default_methods(self.model, has_guide=self.has_guide)
        if not len(measured.splits.get("train", ())):  # other data, which have no rows to fit baselines on
            usual = tuple(method for method in usual if method != "baselines")
        wanted = [(name, methods or usual)]
        beside = "test" if name == "train" else "train"
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
            for method, columns in values.items():
                rows = data.row_columns(columns["row"].long(), columns) if "row" in columns else {}
                self.folder.write_values(self.result_name(f"{method}-{split}"), columns, rows)
        parts.forget()
        return results

    @torch_settings()
    def score(
        self,
        source: Any = None,
        *,
        split: str | None = None,
        context: Any = None,
        labels: Any = None,
        points: int | None = None,
        method: ScoreMethod = "auto",
        k: int | None = None,
        tolerance: float | None = None,
        seed: int = 0,
        announce: Progress = silent,
        **settings: Any,
    ) -> Scores:
        """log p(x) of every example, with its standard error, and whether both can be trusted.

        Args:
            source: a path, an array, what `read` returns; by default a split of the run's own data.
            split: which split of them, by default "test"; a source has none.
            context: covariates of the source, as in `read`.
            labels: class labels of the source, as in `read`.
            points: number of examples, chosen by the data's seed; by default all of them.
            method: "auto", "iwae", "laplace-is" or "ais", as in :func:`elbowroom.evaluation.scoring.score`.
            k: draws per example, by default 1,000; for "ais" a number of chains.
            tolerance: nats; examples whose standard error is larger, or that are not reliable, get up to 64 times as
                many draws.
            seed: of the draws.
            announce: called with "score", the examples done and the examples in all.
            **settings: for "laplace-is" and "ais", as in :func:`elbowroom.evaluation.scoring.score`.
        Raises:
            ElbowroomError: a likelihood that is not normalised; "iwae" of a run without a guide; and as there.
        """
        if method == "iwae":
            self._require_guide("Scoring by iwae")
        data, name = self.asked(source, split, context, labels, command="score")
        return score(
            self.model, self.guide, data, split=name, points=points, method=method, k=k, tolerance=tolerance, seed=seed,
            announce=announce, **settings,
        )  # fmt: skip

    @torch_settings()
    def score_columns(
        self,
        source: Any = None,
        *,
        split: str | None = None,
        context: Any = None,
        labels: Any = None,
        points: int | None = None,
        k: int | None = None,
        seed: int = 0,
        announce: Progress = silent,
    ) -> ColumnScores:
        """Which columns make a row of a table unlikely: log p of each value given all others of its row.

        Args:
            source, split, context, labels, points, announce: as of `score`.
            k: draws per example, by default 1,000, to which a tenth comes for every column.
            seed: of the draws.
        Raises:
            ElbowroomError: as of :func:`elbowroom.evaluation.column_scores.column_scores`.
        Example:
            >>> found = run.score_columns("new.csv")                    # doctest: +SKIP
            >>> [run.naming.columns[place] for place in found.least_likely]    # doctest: +SKIP
        """
        data, name = self.asked(source, split, context, labels, command="score")
        return column_scores(self.model, self.guide, data, split=name, points=points, k=k, seed=seed, announce=announce)

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
        examined = self._held_out(data)
        return DoctorInput(self.model, guide, examined, self.history, settings, points=points, seed=seed)

    @torch_settings()
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

        Those on the latest weights, where others are the best, are written to doctor-latest.json.

        Args:
            data: other data than the run's own: a path, an array, what `read` returns. Checks that need training
                examples are then left out, each with a sentence.
            checks: names from ``elbowroom.evaluation.doctor.diagnose.CHECKS``; by default those that
                concern such a model.
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
            write_checkup(self.folder, Checkup(found, self.step, points, seed, examined), self.result_name(FILE))
        return found

    # --- reconstructions, encodings ---

    @torch_settings()
    def reconstruct(
        self,
        num: int = 10,
        *,
        data: Any = None,
        split: str | None = None,
        context: Any = None,
        labels: Any = None,
        seed: int = 0,
    ) -> Reconstruction:
        """Some examples with their reconstructions, each decoded from one draw of q(z | x).

        Args:
            num: how many: a random choice of the split, or the first ones of ``data``.
            data: other data than the run's own: a path, an array, what `read` returns.
            split: which split of the run's own, by default "test"; other data have none.
            context: covariates of the data, as in `read`.
            labels: class labels of the data, as in `read`.
            seed: of the draws.
        Raises:
            ElbowroomError: the run has no guide.
        """
        self._require_guide("Reconstruction")
        check_count("num", num, "Give data by the keyword: run.reconstruct(data=…).")
        rows, name = self.asked(data, split, context, labels, command="reconstruct")
        batch = next(iter(rows.batches(name, num, points=num if data is None else None)))
        found = reconstructed(self.pair, batch, make_generator(self.device, seed))
        x, means, samples = (restored(part, self.facts) for part in found)
        return Reconstruction(x, means, samples, found.mask)

    @torch_settings()
    def encode(
        self,
        source: Any = None,
        *,
        split: str | None = None,
        points: int | None = None,
        context: Any = None,
        labels: Any = None,
    ) -> Encoded:
        """Means and standard deviations of q(z | x), for ``source`` or a split of the run's own data; of codes also the
        number of the most likely one of each slot.

        Args:
            source: a path, an array, what `read` returns; by default a split of the run's own data.
            split: which split of them, by default "test"; a source has none.
            points: number of examples, chosen by the data's seed; by default all of them.
            context: covariates of a source from Python, as in `read`.
            labels: class labels of a source from Python, as in `read`.
        Raises:
            ElbowroomError: the run has no guide.
        """
        self._require_guide("Encoding")
        return encoded(self.pair, *self.asked(source, split, context, labels, command="encode"), points)

    @torch_settings()
    def posterior(
        self,
        source: Any = None,
        *,
        split: str | None = None,
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
            split: which split of them, by default "test"; a source has none.
            points: number of examples of the split, chosen by the data's seed; by default all of them.
            context: covariates of a source from Python, as in `read`.
            labels: class labels of a source from Python, as in `read`.
            seed: of the chains.
            announce: called at every transition.
            **settings: method, draws, chains, warmup, metric, … of
                :func:`elbowroom.inference.posterior.sample.posterior`.
        Raises:
            ElbowroomError: as there.
        """
        data, name = self.asked(
            source, split, context, labels, missing="mask", command=str(settings.get("method", "nuts"))
        )
        batch = next(iter(data.batches(name, max(1, data.size(name)), points=points)))
        with evaluation_mode(self.pair):
            generator = make_generator(self.device, seed)
            return posterior(self.model, self.guide, batch, generator=generator, announce=announce, **settings)

    def __repr__(self) -> str:
        model, data = self.config.model, self.content["data"].get("dataset", "data")
        return f"Run({str(self.folder.path)!r}: {data}, {model.latents}, step {self.step:,})"


@torch_settings()
def load(
    path: str | Path,
    *,
    checkpoint: str = "best",
    data: Any = None,
    context: Any = None,
    labels: Any = None,
    id: Any = None,  # noqa: A002  # the keyword of `train`
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
        context: covariates of these data, where `train` was given any, in the same form or any other.
        labels: class labels of these data, where `train` was given any.
        id: what identifies each row, where `train` was given that.
        device: device of the model; by default that of the run.
        announce: called with remarks: a damaged checkpoint was skipped, results wait for others to be written.
    Raises:
        ElbowroomError: no run there, no good checkpoint, or data that are not those of the run.
    """
    run = Run(RunFolder.open(path), checkpoint=checkpoint, device=device, announce=announce)
    if data is not None:
        beside = {"context": context, "labels": labels, "id": id}
        arrays = {name: value for name, value in beside.items() if value is not None}
        given = read_own_data(run.config, run.content, run.folder, data, **arrays)
        run.data = prepared(given, run.config, run.device, run.facts)
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
