"""A trained model: weights from a run's folder, its own data, and other data that are read for it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from elbowroom.data.columns.coding import decode
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import Naming
from elbowroom.data.stream import StreamSet
from elbowroom.data.support import Support
from elbowroom.data.value_checks import NotFiniteDataError
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, Pair
from elbowroom.progress import Announce
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair
from elbowroom.running.config import Config, configure
from elbowroom.running.contexts import in_context, naming_of
from elbowroom.running.folder import RunFolder
from elbowroom.running.own_data import MissingDataError, check_fits, check_same_kinds, read_own_data
from elbowroom.running.reading import TrainedOn, read_like_training
from elbowroom.running.runtime import dtype_of, pick_device, torch_settings
from elbowroom.running.units import like_training, prepared, standardised_context

__all__ = ["TrainedModel"]


class TrainedModel:
    """Model and guide of a run, loaded from its folder, and the data that belong to them.

    Attributes:
        folder: the run folder.
        config: the configuration.
        facts: facts about the data that the model depends on.
        pair: model and guide, in evaluation mode.
        checkpoint: "best" or "latest", the one that was asked for.
        step: step of the checkpoint, the number of updates before it.
    """

    @torch_settings()
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
        self._announce = announce
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
        """The value in place of a missing element, as delivered: for real numbers the training mean, NaN in tables with
        columns of several kinds, else 0.
        """
        if self.facts.support is Support.TABLE:
            return torch.tensor(torch.nan, device=self.device)
        return dict(self.model.likelihood.elementwise.named_buffers()).get("shift", torch.zeros((), device=self.device))

    def table(self, x: Tensor) -> Any:
        """Values of x as a table in the kinds of the training data: names of levels, dates, whole numbers.

        Args:
            x: such as samples, shape (n, columns).
        Returns:
            A polars data frame with the columns of x.
        Raises:
            ElbowroomError: the run was not trained on a table with named columns.
        Example:
            >>> run.table(run.sample(100).x).write_csv("synthetic.csv")      # doctest: +SKIP
        """
        names = self.naming.columns
        if names is None or x.shape[1:] != (len(names),):
            raise ElbowroomError(
                "These values are no rows of a table, or its columns have no names.",
                "Train on a table with a header to have one.",
            )
        kinds = self.facts.columns or [Column(name, ColumnKind.REAL) for name in names]
        return decode(x.double().cpu().numpy(), kinds)

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

    def result_name(self, name: str) -> str:
        """The name of a file of results: NAME, or NAME-latest where these are the latest weights and others the best.

        Args:
            name: of the file, such as ``doctor.json``.
        """
        path = Path(name)
        return path.with_stem(f"{path.stem}-latest").name if self.is_beside_best else name

    @cached_property
    def naming(self) -> Naming:
        """The names in the data that the run was trained on: of columns, covariates and their classes."""
        return naming_of(self.config, self.facts, self.content["data"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the labels 0, 1, …, where they have names."""
        names = self.content["data"].get("classes")
        return None if names is None else tuple(names)

    @cached_property
    @torch_settings()
    def data(self) -> DataSet | StreamSet:
        """The data that the run was trained on.

        Raises:
            ElbowroomError: they are nowhere, or have changed since.
        """
        data = read_own_data(self.config, self.content, self.folder)
        return prepared(data, self.config, self.device, self.facts)

    def dataset(self, *, command: str | None = None) -> DataSet:
        """The data, as a data set with splits.

        Args:
            command: that needs them, where it takes other data too; the message for data that are gone names it.
        Raises:
            ElbowroomError: the data are a stream, or are nowhere.
        """
        try:
            data = self.data
        except MissingDataError as error:
            raise error if command is None else error.beside(command, self.folder.path) from None
        if not isinstance(data, DataSet):
            raise ElbowroomError(
                "A stream has no test set.", "Give data of known length: an array, a file or a Dataset."
            )
        return data

    def _as_delivered(self, context: Tensor) -> Tensor:
        """Covariates in the user's units as the model gets them."""
        return standardised_context(context, self.facts).to(device=self.device, dtype=dtype_of(self.config.runtime))

    def _require_guide(self, what: str) -> None:
        if not self.has_guide and self.model.latent_support == "codes":
            raise ElbowroomError(
                f"{what} needs a guide q(z | x), but {self.folder.path} was trained without one "
                f"({self.config.train.learner}).",
                "Train with one: --train.learner aevb --model.guide categorical.",
            )
        if not self.has_guide:
            raise ElbowroomError(
                f"{what} needs a guide q(z | x), but {self.folder.path} was trained without one "
                f"({self.config.train.learner}).",
                "Draw from p(z | x) itself: `elbowroom encode RUN --posterior hmc` or run.posterior(); and evaluate "
                "with --methods laplace-is.",
            )

    def asked(
        self,
        source: Any,
        split: str | None,
        context: Any,
        labels: Any,
        missing: Literal["error", "mask"] | None = None,
        *,
        command: str,
    ) -> tuple[DataSet, str]:
        """The run's own data and the split, or all rows of ``source`` in their order, which are the split "all".

        Args:
            source: other data, or None.
            split: of the run's own data, by default "test".
            context: covariates of the source, as in `read`.
            labels: class labels of the source, as in `read`.
            missing: what NaN means, as in `read`.
            command: that needs the data, for messages; the sampler where it draws from posteriors.
        Raises:
            ElbowroomError: a split beside a source, or a context without one; the data are a stream, or are nowhere.
        """
        if source is not None and split is not None:
            raise ElbowroomError(
                f"--split {split} was given together with other data, but only the run's own data have splits.",
                "Leave one of the two out.",
            )
        if source is not None:
            try:
                return self._whole(source, context, labels, missing), "all"
            except NotFiniteDataError as error:
                raise ElbowroomError(error.problem, self._how_to_complete(source, missing, command)) from None
        if context is not None or labels is not None:
            raise ElbowroomError(
                "A context was given without data, but the run's own data have theirs.",
                "Leave it out, or give the data that it belongs to, too.",
            )
        return self.dataset(command=command), split or "test"

    def _how_to_complete(self, source: Any, missing: str | None, command: str) -> str:
        """What to do about values that are NaN or infinite, for a command."""
        if self.config.model.masked_layers:
            return (
                "Correct them or take those rows out: each pixel is modelled given those before it, so none can miss."
            )
        if (missing or self.config.data.missing) == "mask":
            return "Correct them, take those rows out, or write NaN in their place: here it means 'not observed'."
        file = shlex.quote(str(source)) if isinstance(source, str | Path) else "FILE"
        fill = f"`elbowroom impute {shlex.quote(str(self.folder.path))} {file}` fills in NaN"
        keyword = "data=" * (command in ("doctor", "evaluate", "reconstruct"))
        return (
            f"Correct them or take those rows out; or, where NaN means 'not observed', {fill}, and in Python "
            f"run.{command}({keyword}run.read(data, missing='mask')) leaves it out."
        )

    def _whole(
        self, source: Any, context: Any = None, labels: Any = None, missing: Literal["error", "mask"] | None = None
    ) -> DataSet:
        """All rows of ``source`` as one split, in their order."""
        if isinstance(source, DataSet):
            data = self.read(in_context(source, self.naming, context, labels))
        else:
            data = self.read(source, context=context, labels=labels, missing=missing)
        return replace(data, splits={"all": torch.arange(len(data))})

    def _held_out(self, source: Any) -> DataSet:
        """All rows of ``source`` as a test set, beside which there are no others; without one the run's own data."""
        data, _ = self.asked(source, None, None, None, command="doctor")
        if source is None:
            return data
        none = torch.arange(0)
        return replace(data, splits={"train": none, "validation": none, "test": data.splits["all"]})

    @torch_settings()
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
            source: a path, an array, a data frame, a ``Dataset``. Columns are matched by their names, where both these
                data and those of training have names, and otherwise by position. Or a data set that was loaded before.
            context: covariates, for data that do not hold them; in any form that `sample` takes.
            labels: class labels, for data that do not hold them: one for each row, or one for all.
            missing: what NaN means, a mistake ("error") or a missing element ("mask"); by default as in training.
        Raises:
            ElbowroomError: data that cannot be read, lack a column or have another shape or support.
        """
        if isinstance(source, DataSet):
            check_fits(source, self.facts, self.naming)
            check_same_kinds(source, self.facts)
            data = source.to(device=self.device, dtype=dtype_of(self.config.runtime))
            return like_training(data, self.facts, self.filler)
        trained = TrainedOn(
            self.config, self.facts, self.naming, self.model.likelihood, self.filler, self.device, self._announce
        )
        return read_like_training(trained, source, context=context, labels=labels, missing=missing)
