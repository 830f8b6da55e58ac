"""A run's own data: where they are, whether they are unchanged, and whether other data have the same shape."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from elbowroom.data.columns.column import Column
from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import Naming, described, listed
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.inference.posterior.sample import Method
from elbowroom.running.build import DataFacts, load_configured, suited
from elbowroom.running.config import Config
from elbowroom.running.contexts import naming_of
from elbowroom.running.folder import RunFolder
from elbowroom.running.kept_data import as_material, keeps_data, read_kept
from elbowroom.running.same_rows import as_recorded

__all__ = [
    "MissingDataError",
    "check_fits",
    "check_same_data",
    "check_same_kinds",
    "find_own_data",
    "path_from",
    "read_own_data",
    "with_recorded_splits",
]


# command -> what it does with other data than the run's own
_OTHERS = {
    "doctor": "examines",
    "encode": "encodes",
    "evaluate": "measures",
    "impute": "fills in",
    "reconstruct": "reconstructs",
    "score": "scores",
}


class MissingDataError(ElbowroomError):
    """A run's own training data are nowhere to be found."""

    def beside(self, command: str, run: Path) -> MissingDataError:
        """The same error, whose remedy also says how a command takes other data.

        Args:
            command: that was asked for, such as ``score``; for draws of posteriors the sampler, ``nuts`` or ``hmc``.
            run: the run's folder.
        Example:
            >>> error = MissingDataError("The data are gone.", "Put them back.")
            >>> error.beside("nuts", Path("runs/mine")).remedy
            'Put them back. `elbowroom encode runs/mine FILE --posterior nuts` encodes others.'
        """
        place = shlex.quote(str(run))
        if command in get_args(Method):
            other = f"`elbowroom encode {place} FILE --posterior {command}` encodes others."
        else:
            other = f"`elbowroom {command} {place} FILE` {_OTHERS[command]} others."
        return MissingDataError(self.problem, f"{self.remedy} {other}")


def read_own_data(
    config: Config,
    content: dict[str, Any],
    folder: RunFolder,
    source: Any = None,
    *,
    again: str | None = None,
    **arrays: Any,
) -> DataSet | StreamSet:
    """The data that a run was trained on, with the splits of that time.

    Args:
        config: of the run.
        content: of its config.json.
        folder: of the run.
        source: the data, if they are given again, in whatever form; by default they are looked for.
        again: how to give the data again, for the message.
        arrays: ``context``, ``labels`` and ``id`` of data from Python, and ``announce``.
    Raises:
        MissingDataError: they are nowhere.
        ElbowroomError: they are not those of the training.
    """
    source = find_own_data(config, content, folder, again=again) if source is None else source
    facts = DataFacts.model_validate(content["facts"])
    arrays |= {"form": facts.row_form, "like": naming_of(config, facts, content["data"])}
    data = load_configured(config.data, source, **arrays)
    if isinstance(data, DataSet):
        rows = as_recorded(data.storage, content["data"])
        if rows is not data.storage:
            same = replace(as_material(data), storage=rows)
            data = load_configured(config.data, same, form=arrays["form"], like=arrays["like"])
    data = suited(config, data)
    check_same_data(content, data, folder)
    return with_recorded_splits(data, folder)


def find_own_data(config: Config, content: dict[str, Any], folder: RunFolder, *, again: str | None = None) -> Any:
    """Where the data of a run are: in its folder, or a path, or a built-in name.

    Raises:
        MissingDataError: they are nowhere; says where they were looked for.
    """
    if keeps_data(folder.path):
        return read_kept(folder.path)
    name = config.data.name
    given = again or f"er.load({str(folder.path)!r}, data=…)"
    if content["data"].get("from_python"):
        raise MissingDataError(
            f"The run's own training data are missing: {folder.path} was trained on data given in Python, which it "
            "does not keep.",
            f"Give them again: {given}.",
        )
    if name in BUILT_IN:
        return name
    places = _places(name, content, folder)
    found = next((place for place in places if place.exists()), None)
    if found is None:
        looked = " or ".join(str(place) for place in places)
        raise MissingDataError(
            f"The run's own training data are missing: {folder.path} was trained on {Path(name).name}, and it is not "
            f"at {looked}.",
            f"Put it back, or into {folder.path}; in Python, say where it lies: {given}.",
        )
    return found


def _places(name: str, content: dict[str, Any], folder: RunFolder) -> list[Path]:
    """Where a run's file can be: where it was, as far from the run's folder as it was, or in that folder."""
    beside = content["data"].get("path_from_run")
    moved = [] if beside is None else [Path(os.path.normpath(folder.path.absolute() / beside))]
    return list(dict.fromkeys([Path(name), *moved, folder.path.absolute() / Path(name).name]))


def path_from(folder: Path, data: str) -> dict[str, str]:
    """The entry of config.json that says where the data lie as seen from the run, which may move together."""
    if data in BUILT_IN or not Path(data).exists():
        return {}
    with contextlib.suppress(ValueError):  # on Windows, another drive
        return {"path_from_run": os.path.relpath(Path(data).absolute(), folder.absolute())}
    return {}


def check_same_data(content: dict[str, Any], data: DataSet | StreamSet, folder: RunFolder) -> None:
    """Refuses data that are not those that the run was trained on.

    Args:
        content: content of the run's config.json.
        data: the data that were loaded now.
        folder: of the run, for the message.
    Raises:
        ElbowroomError: the digests or the numbers of covariates differ.
    """
    had, has = content["facts"]["context_dim"], data.context_dim
    if had != has:
        raise ElbowroomError(
            f"The run {folder.path} was trained with {had} covariates, but the data have {has}.",
            "Give context= (or labels=) as when it was trained.",
        )
    before, now = content["data"], data.protocol()
    both = {key for key in before.keys() & now.keys() if key.startswith("sha256")}  # labels are optional
    for key in sorted(both | {"sha256", "sha256_of_rows"}):
        if before.get(key) != now.get(key):
            what = {"sha256_context": "context", "sha256_labels": "labels"}.get(key)
            named = "" if data.name.startswith("the ") else f" {data.name}"
            raise ElbowroomError(
                f"The {f'{what} of the data' if what else 'data'}{named} have changed since {folder.path} was "
                f"trained (SHA-256 {str(now.get(key))[:12]}…, then {str(before.get(key))[:12]}…).",
                "Restore the data, or train again under another name.",
            )


def with_recorded_splits(data: DataSet | StreamSet, folder: RunFolder) -> DataSet | StreamSet:
    """The data with the splits that the run was trained with; a stream has none."""
    return replace(data, splits=folder.read_splits()) if isinstance(data, DataSet) else data


def check_same_kinds(data: DataSet, facts: DataFacts) -> None:
    """Refuses a data set whose columns were found by themselves, so that numbers stand for other levels.

    Args:
        data: a table that was loaded before.
        facts: of the data that the model was trained on.
    Raises:
        ElbowroomError: names the first column that differs.
    """
    if facts.columns is None and data.kinds is None:
        return
    pairs = zip(facts.columns or (), data.kinds or (), strict=False)
    other = next((had.name for had, has in pairs if replace(has, **_found(had)) != had), None)
    if other is not None or facts.columns is None or data.kinds is None:
        what = "its columns" if other is None else f"the column '{other}'"
        raise ElbowroomError(
            f"{data.name} was loaded by itself, and kind or levels of {what} are not those of the training data.",
            "Give the file or the data frame itself, which is then read as the training data were.",
        )


def _found(column: Column) -> dict[str, Any]:
    """What is found from training rows, and may differ."""
    return {name: getattr(column, name) for name in ("step", "cells", "atom", "shift", "unit")}


def check_fits(data: DataSet, facts: DataFacts, naming: Naming) -> None:
    """Refuses data of another shape than the model was trained on.

    Args:
        data: the data to evaluate, score or encode.
        facts: of the data that the model was trained on.
        naming: the names in those data.
    Raises:
        ElbowroomError: another shape, or another number of covariates.
    """
    if tuple(data.event_shape) != facts.event_shape:
        columns = "" if naming.columns is None else f" ({listed(naming.columns)})"
        raise ElbowroomError(
            f"The examples in {data.name} have shape {tuple(data.event_shape)}, "
            f"but the model was trained on shape {facts.event_shape}{columns}.",
            "Give data of the same shape, one example in each row.",
        )
    if not facts.context_dim and data.context_dim:
        raise ElbowroomError(
            f"{data.name} has {data.context_dim} covariates, but the model was trained without any.",
            "Leave them out.",
        )
    if data.context_dim != facts.context_dim:
        raise ElbowroomError(
            f"{data.name} has {data.context_dim} covariates, but the model was trained with {facts.context_dim}: "
            f"{described(naming.covariates)}.",
            "Give the covariates that it was trained with, too: context=… from Python, or an array named context in an "
            ".npz file.",
        )
