"""From what the user asked for to a finished run: find the configuration, build the objects, start the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from elbowroom import __version__
from elbowroom.data.dataset import DataSet
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.learners.execution import eager
from elbowroom.learners.learner import Learner, TrainingState
from elbowroom.memory import peak_memory
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.progress import Announce
from elbowroom.running.build import DataFacts, build_data, build_pair, facts_of, initialise
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.compiling import choose_execution
from elbowroom.running.config import Config, configure, merge, nested, read_recipe, recipe_names
from elbowroom.running.engine import TrainingPlan, TrainingProgress, fit, restore
from elbowroom.running.folder import RunFolder
from elbowroom.running.observers import Observer, TensorBoard, Terminal
from elbowroom.running.own_data import check_same_data, with_recorded_splits
from elbowroom.running.runs import Run
from elbowroom.running.runtime import (
    autocast_dtype,
    autocast_networks,
    dtype_of,
    make_generator,
    pick_device,
    use_threads,
)

__all__ = ["resolve", "train"]

# What may differ when a run goes on: how long, how often, on which machine. The rest would make it another run.
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


class Request(NamedTuple):
    """What to train: a name for the run, and layers of nested configuration keys."""

    name: str
    layers: list[Mapping[str, Any]]


def resolve(source: str | Path, overrides: Mapping[str, Any], *, config: str | Path | None = None) -> Request:
    """What a recipe's name, a recipe file, a built-in data set's name or a path of data stands for.

    A name that is both a recipe's and a data set's (mnist, digits) is the recipe's.

    Raises:
        ElbowroomError: it is none of these; names the nearest that is.
    """
    layers: list[Mapping[str, Any]] = [] if config is None else [read_recipe(config)]
    text = str(source)
    if text.endswith(".toml") or text in recipe_names():
        return Request(Path(text).stem, [read_recipe(text), *layers, overrides])
    if text in BUILT_IN or Path(text).exists():
        name = text if text in BUILT_IN else Path(text).resolve().stem
        return Request(name, [*layers, {"data": {"name": text}}, overrides])
    see = "`elbowroom recipes list` and `elbowroom data list` name all."
    remedy = did_you_mean(text, {*recipe_names(), *BUILT_IN}, see=see)
    raise ElbowroomError(f"'{text}' is no recipe, no built-in data set and no file.", remedy)


def train(
    source: Any = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    config: str | Path | None = None,
    context: Any = None,
    labels: Any = None,
    observers: Sequence[Observer] | None = None,
    announce: Announce = print,
    **overrides: Any,
) -> Run:
    """Trains a model and returns the run.

    Args:
        source: a recipe's name or file, a built-in data set, a path; or data: an array, a tensor, a data frame, a
            torch ``Dataset``, ``IterableDataset`` or ``DataLoader``. Unless given: with ``resume`` the run's own,
            otherwise "digits".
        out: the run folder; ``runs/NAME`` unless given.
        resume: go on with the run in ``out`` (with its own configuration) from its latest checkpoint.
        overwrite: replace the run in ``out``.
        config: a recipe, by name or file, whose keys are laid over.
        context: covariates of data from Python, shape (n, context_dim).
        labels: class labels of data from Python, shape (n,).
        observers: who is told how it goes; the terminal unless given.
        announce: where remarks go.
        overrides: any key of :class:`~elbowroom.running.config.Config`, as ``model={"latent_dim": 2}`` or
            ``model__latent_dim=2``.
    Returns:
        The run, with its best weights (by validation; the latest where there is no validation set).
    Raises:
        ElbowroomError: anything that the user can put right.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written; ``resume`` goes on.
    """
    keys = nested(overrides)
    from_python = not isinstance(source, str | Path | None)
    if from_python:
        request = Request("data", [*([] if config is None else [read_recipe(config)]), keys])
    else:
        request = resolve("digits" if source is None else source, keys, config=config)
    path = Path(out) if out is not None else Path("runs") / request.name
    settings = _found_from_anywhere(configure(*request.layers, source=request.name))
    folder = RunFolder(path)
    if resume:
        asked = keys if config is None else merge(read_recipe(config), keys)
        settings = _recorded(
            RunFolder.open(path), asked, named=None if source is None else settings.data.name, from_python=from_python
        )
    use_threads(settings.runtime.threads)
    device = pick_device(settings.runtime.device)
    arrays = {name: value for name, value in (("context", context), ("labels", labels)) if value is not None}
    data = build_data(settings, source if from_python else None, **arrays)
    data = data.to(device=device, dtype=dtype_of(settings.runtime))
    facts = facts_of(data, settings.train.batch_size)
    pair = build_pair(settings, facts, seed=settings.train.seed)
    hint = data.hint if isinstance(data, StreamSet) else ""
    plan = _plan(settings, facts, has_validation=bool(data.size("validation")), hint=hint)
    if observers is None:
        observers = [Terminal(normalized=pair.model.likelihood.normalized)]
    if settings.train.tensorboard:
        observers = [*observers, TensorBoard(path / "tensorboard")]
    before: dict[str, Any] = {}
    if resume:
        before = folder.read_config()
        check_same_data(before, data, folder)
        data = with_recorded_splits(data, folder)
    positions = data.splits["train"] if isinstance(data, DataSet) else None
    length = RunLength(plan.total_steps, plan.steps_per_epoch, positions, path / "chains")
    build_learner(settings, length)  # says what is wrong with the settings before anything is computed
    if not (resume and folder.checkpoints.exist(resumable=True)):
        initialise(pair, settings, data)
    pair = pair.to(device)
    autocast_networks(pair, autocast_dtype(settings.runtime))
    _rehearse(build_learner(settings, length), pair, data)
    execution = choose_execution(settings, plan, pair, data, decided=before.get("compiled"), announce=announce)
    learner = build_learner(settings, length, execution)
    state = learner.init(pair)

    # all that can be wrong with what was asked for is known by now: from here on there are files
    if not resume:
        folder = RunFolder.create(path, overwrite=overwrite)
    with folder.lock():
        if not resume and isinstance(data, DataSet):
            folder.write_splits(data.splits)
        content = _content(settings, facts, data, from_python=from_python) | {"compiled": execution is not eager}
        # a session that fails leaves what the last one stated
        folder.write_config(content | {key: before[key] for key in ("peak_memory",) if key in before})
        progress, generator = TrainingProgress(), make_generator(device, settings.train.seed)
        if resume:
            state, progress = _where_it_stopped(folder, state, progress, generator, announce)
        folder.rewind_metrics(state.step)
        fit(learner, state, data, plan, generator=generator, folder=folder, progress=progress, observers=observers)
        folder.write_config(content | {"peak_memory": peak_memory(device)})  # bytes, known at the end
    return Run(folder, data=data, announce=announce)


def _found_from_anywhere(settings: Config) -> Config:
    """The configuration with the path of the data made absolute, so that the run can be used from other folders."""
    if settings.data.name in BUILT_IN or not Path(settings.data.name).exists():
        return settings
    data = settings.data.model_copy(update={"name": str(Path(settings.data.name).absolute())})
    return settings.model_copy(update={"data": data})


def _rehearse(learner: Learner, pair: Pair, data: DataSet | StreamSet) -> None:
    """Measures two data: an objective and a model that do not go together say so before there are files."""
    if isinstance(data, DataSet):  # a stream could not be read again
        batch = data.take("train", torch.arange(min(2, data.size("train"))))
        with evaluation_mode(pair):
            learner.measure(pair, batch, generator=make_generator(batch.x.device, 0))


def _where_it_stopped(
    folder: RunFolder,
    state: TrainingState,
    progress: TrainingProgress,
    generator: torch.Generator,
    announce: Announce,
) -> tuple[TrainingState, TrainingProgress]:
    """Learner, books and generator as the latest good checkpoint has them; as they are where there is none yet."""
    folder.checkpoints.settle()
    if not folder.checkpoints.exist(resumable=True):
        announce(f"{folder.path} has no checkpoint yet: starting from step 0")
        return state, progress
    checkpoint = folder.checkpoints.find("latest", resumable=True, announce=announce)
    state, progress = restore(checkpoint, state, generator)
    folder.checkpoints.point("best", progress.best_step)  # a kill, or a fall back, can have left the pointers elsewhere
    folder.checkpoints.point("latest", state.step)
    announce(f"going on with {folder.path} from step {state.step:,}")
    return state, progress


def _plan(settings: Config, facts: DataFacts, *, has_validation: bool, hint: str) -> TrainingPlan:
    if settings.train.patience is not None and not has_validation:
        raise ElbowroomError(
            f"train.patience is {settings.train.patience}, but there are no validation data to get better on.",
            "Keep some apart with --data.validation 0.1, or leave train.patience out.",
        )
    steps, per_epoch = settings.train.steps, facts.steps_per_epoch
    given = [key for key in ("steps", "seconds", "decoder_gradients") if getattr(settings.train, key) is not None]
    if len(given) > 1:
        raise ElbowroomError(
            f"The length of the run was given more than once: {', '.join(f'train.{key}' for key in given)}.",
            "Give one of them.",
        )
    if not given:
        if per_epoch is None:
            raise ElbowroomError(
                "A stream of data has no epochs, so its length must be said in steps.", f"Give --train.steps. {hint}"
            )
        steps = math.ceil(settings.train.epochs * per_epoch)
    return TrainingPlan(
        total_steps=steps,
        steps_per_epoch=per_epoch,
        batch_size=settings.train.batch_size,
        seed=settings.train.seed,
        report_every=settings.train.report_every or per_epoch or 100,
        patience=settings.train.patience,
        checkpoint_seconds=settings.train.checkpoint_seconds,
        seconds=settings.train.seconds,
        decoder_gradients=settings.train.decoder_gradients,
    )


def _content(settings: Config, facts: DataFacts, data: DataSet | StreamSet, *, from_python: bool) -> dict[str, Any]:
    """config.json: all that is needed to repeat the run."""
    return {
        "elbowroom": __version__,
        "torch": torch.__version__,
        "config": settings.model_dump(mode="json"),
        "facts": facts.model_dump(mode="json"),
        "data": data.protocol() | ({"from_python": True} if from_python else {}),
    }


def _recorded(folder: RunFolder, keys: Mapping[str, Any], *, named: str | None, from_python: bool) -> Config:
    """A run's own configuration, with what may change changed.

    Args:
        folder: of the run.
        keys: what is asked for now, nested.
        named: the data that were named, if any were.
        from_python: whether data were given in Python.
    Raises:
        ElbowroomError: something that would make it another run.
    """
    content = folder.read_config()
    recorded = configure(content["config"], source=str(folder.path / "config.json"))
    own, needs_python = recorded.data.name, bool(content["data"].get("from_python"))
    if needs_python and not from_python:
        raise ElbowroomError(
            f"The run {folder.path} was trained on data given in Python, which it does not keep.",
            "Give them again: er.train(data, out=…, resume=True).",
        )
    if named is not None and not from_python and Path(named).absolute() != Path(own).absolute():
        raise ElbowroomError(
            f"The run {folder.path} was trained on {own}, and --resume cannot go on with {named}.",
            "Name the run's own data, or train a new run with --out.",
        )
    base = recorded.model_dump()
    lengths = ("epochs", "steps", "seconds", "decoder_gradients")
    if any(
        key in keys.get("train", {}) for key in lengths
    ):  # a new length takes the place of the old, of whatever kind
        base["train"] |= dict.fromkeys(lengths[1:])
    asked = configure(base, keys, source=str(folder.path))
    old, new = _flat(recorded.model_dump()), _flat(asked.model_dump())
    differ = [key for key in old if old[key] != new[key] and key not in _MAY_CHANGE]
    if differ:
        key = differ[0]
        raise ElbowroomError(
            f"The run {folder.path} has {key} = {old[key]!r}, and --resume cannot change it to {new[key]!r}.",
            "Leave that flag out, or train a new run with --out.",
        )
    longer = any(old[f"train.{key}"] != new[f"train.{key}"] for key in lengths)
    if longer and recorded.optimizer.schedule != "constant":
        raise ElbowroomError(
            f"The run's {recorded.optimizer.schedule} schedule was laid out for its own length, so --resume cannot "
            "change the length.",
            "Leave --train.epochs and --train.steps out, or train a new run.",
        )
    return asked


def _flat(keys: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in keys.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out
