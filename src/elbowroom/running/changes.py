"""What may change about a run, and what would make it another one: when it goes on, and when results are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elbowroom.data.sources import BUILT_IN
from elbowroom.errors import ElbowroomError
from elbowroom.progress import Announce
from elbowroom.running.config import Config, configure, merge, read_recipe
from elbowroom.running.folder import RunFolder

__all__ = ["adding_results", "is_same_run", "recorded_settings"]

# Settings that may change when a run is resumed: length, checkpoints, machine. Others would make it another run.
_MAY_CHANGE = {
    "train.epochs",
    "train.steps",
    "train.seconds",
    "train.decoder_gradients",
    "train.patience",
    "train.checkpoint_seconds",
    "runtime.device",
    "runtime.threads",
    "runtime.compile",
}


def recorded_settings(
    folder: RunFolder,
    content: Mapping[str, Any],
    settings: Config,
    source: Any,
    keys: Mapping[str, Any],
    config: str | Path | None,
) -> Config:
    """The configuration of a run that goes on, with the changes that are allowed.

    Args:
        folder: of the run.
        content: of its config.json.
        settings: what a new run of this request would have.
        source: as it was given.
        keys: what is asked for now, nested.
        config: a recipe below these keys.
    Raises:
        ElbowroomError: a change that would make it another run.
    """
    keys = keys if config is None else merge(read_recipe(config), keys)
    recorded = configure(content["config"], source=str(folder.path / "config.json"))
    base = recorded.model_dump()
    own, named = recorded.data.name, settings.data.name
    other = isinstance(source, str | Path) and not content["data"].get("from_python")
    if other and Path(named).absolute() != Path(own).absolute():
        if own in BUILT_IN or named in BUILT_IN or Path(own).exists():
            raise ElbowroomError(
                f"The run {folder.path} was trained on {own}, and --resume cannot go on with {named}.",
                "Name the run's own data, or train a new run with --out.",
            )
        base["data"]["name"] = named  # the file has moved; whether it is the same is seen from its digest
    lengths = ("epochs", "steps", "seconds", "decoder_gradients")
    if any(key in keys.get("train", {}) for key in lengths):  # a new length replaces the old one, of whatever kind
        base["train"] |= dict.fromkeys(lengths[1:])
    asked = _in_recorded_order(configure(base, keys, source=str(folder.path)), recorded)
    if asked.model.codes == "auto":  # was found when the run began
        asked = asked.model_copy(update={"model": asked.model.model_copy(update={"codes": recorded.model.codes})})
    old, new = _flat(recorded.model_dump() | {"data": base["data"]}), _flat(asked.model_dump())
    differ = [key for key in old if old[key] != new[key] and key not in _MAY_CHANGE]
    if differ:
        key = differ[0]
        raise ElbowroomError(
            f"The run {folder.path} has {key} = {old[key]!r}, and --resume cannot change it to {new[key]!r}.",
            "Leave that out, or train a new run with --out.",
        )
    longer = any(old[f"train.{key}"] != new[f"train.{key}"] for key in lengths)
    if longer and recorded.train.learner == "vq":
        raise ElbowroomError(
            "The stages of the learner vq are shares of the run's length, so --resume cannot change the length.",
            "Leave --train.epochs and --train.steps out, or train a new run.",
        )
    if longer and recorded.optimizer.schedule != "constant":
        raise ElbowroomError(
            f"The run's {recorded.optimizer.schedule} schedule depends on its length, so --resume cannot change the "
            "length.",
            "Leave --train.epochs and --train.steps out, or train a new run.",
        )
    return asked


def _in_recorded_order(asked: Config, recorded: Config) -> Config:
    """The settings with the columns of the context in the order of training, where they are the same columns."""
    names, known = asked.data.context, recorded.data.context
    if isinstance(names, tuple) and isinstance(known, tuple) and sorted(names) == sorted(known):
        return asked.model_copy(update={"data": asked.data.model_copy(update={"context": known})})
    return asked


def is_same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two contents of config.json are of one run, which may have gone on in between."""
    if any(one["data"].get(key) != other["data"].get(key) for key in ("sha256", "sha256_of_rows")):
        return False
    old, new = (_flat(content["config"]) for content in (one, other))
    return all(old.get(key) == new.get(key) for key in (old.keys() | new.keys()) - _MAY_CHANGE - {"data.name"})


@contextmanager
def adding_results(folder: RunFolder, content: Mapping[str, Any], announce: Announce = print) -> Iterator[None]:
    """A context in which results of a run are written into its folder; waits for others that write theirs.

    Args:
        folder: of the run.
        content: of config.json when the run was loaded.
        announce: called with a remark after a second of waiting.
    Raises:
        ElbowroomError: the folder holds another run by now, whose results these are not.
    """
    with folder.lock_results(announce):
        there = (folder.path / "config.json").is_file()
        if not (there and is_same_run(content, folder.read_config())):
            raise ElbowroomError(
                f"{folder.path} was replaced or deleted while its run was examined, so the results were not written.",
                "Load the run that is there now, and examine it.",
            )
        yield


def _flat(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in keys.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
