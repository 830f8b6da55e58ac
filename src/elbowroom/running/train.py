"""Training, from a request to a finished run: find the configuration, build the objects, start the loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from elbowroom import __version__
from elbowroom.data.dataset import DataSet
from elbowroom.data.sources import BUILT_IN
from elbowroom.data.storage import Material
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import Learner, TrainingState
from elbowroom.memory import in_words, peak_memory
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.names import Exist
from elbowroom.phrasing import phrased
from elbowroom.progress import Announce
from elbowroom.running.build import DataFacts, build_data, facts_of, pick_likelihood
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair, initialise
from elbowroom.running.chain_record import chain_record
from elbowroom.running.changes import recorded_settings
from elbowroom.running.compiling import choose_execution
from elbowroom.running.config import Config, configure, merge, nested, read_recipe, recipe_names
from elbowroom.running.contexts import named_columns
from elbowroom.running.engine import TrainingPlan, TrainingProgress, fit, restore
from elbowroom.running.folder import RunFolder
from elbowroom.running.kept_data import as_material, keep, keeps_data
from elbowroom.running.largest_values import assumed
from elbowroom.running.mixtures_by_validation import with_number_of_classes
from elbowroom.running.observers import Observer, TensorBoard, Terminal
from elbowroom.running.own_data import path_from, read_own_data
from elbowroom.running.place import choose_place
from elbowroom.running.runs import Run
from elbowroom.running.runtime import (
    autocast_dtype,
    autocast_networks,
    make_generator,
    pick_device,
    torch_settings,
    use_threads,
    warn_of_emulation,
)
from elbowroom.running.units import prepared
from elbowroom.running.without_effect import without_effect

__all__ = ["resolve", "train"]


class Request(NamedTuple):
    """A request for training: the name of the run, and layers of nested configuration keys."""

    name: str
    layers: list[Mapping[str, Any]]


def resolve(source: str | Path, overrides: Mapping[str, Any], *, config: str | Path | None = None) -> Request:
    """The request for a recipe, a recipe file, a built-in data set or a data file, given by name or path.

    A name of both a recipe and a data set (mnist, digits) means the recipe.

    Raises:
        ElbowroomError: it is none of these; names the nearest one.
    """
    layers: list[Mapping[str, Any]] = [] if config is None else [read_recipe(config)]
    text = str(source)
    if text in recipe_names() and "name" not in read_recipe(text).get("data", {}):
        raise ElbowroomError(
            f"The recipe {text} has settings for data of your own, but none were given.",
            f"Name them first: `elbowroom train customers.csv --config {text}`.",
        )
    if text.endswith(".toml") or text in recipe_names():
        return Request(Path(text).stem, [read_recipe(text), *layers, overrides])
    if text in BUILT_IN or Path(text).exists():
        name = text if text in BUILT_IN else Path(text).resolve().stem
        return Request(name, [*layers, {"data": {"name": text}}, overrides])
    see = "`elbowroom recipes list` and `elbowroom data list` name all."
    remedy = did_you_mean(text, {*recipe_names(), *BUILT_IN}, see=see)
    raise ElbowroomError(f"'{text}' is neither a recipe nor a built-in data set nor a file.", remedy)


@torch_settings()
def train(
    source: Any = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    exist: Exist | None = None,
    keep_data: bool = False,
    config: str | Path | None = None,
    context: Any = None,
    labels: Any = None,
    id: Any = None,  # noqa: A002  # the word of tables and of the configuration
    observers: Sequence[Observer] | None = None,
    announce: Announce = print,
    **overrides: Any,
) -> Run:
    """Trains a model and returns the run.

    Args:
        source: a recipe's name or file, a built-in data set, a path of data; or data: an array, a tensor, a data frame,
            a torch ``Dataset``, ``IterableDataset`` or ``DataLoader``. By default "digits", or with ``resume`` the data
            of the run.
        out: the run folder; by default ``runs/NAME``, and for data from Python the first of ``runs/data``,
            ``runs/data-2``, … that is free.
        resume: go on with the run in ``out`` (with its own configuration) from its latest checkpoint. Data from Python
            are given again, in any form that holds the same numbers, unless the run keeps them.
        overwrite: replace the run in ``out``.
        exist: what to do where ``out`` holds a run, so that the same call can be made again: "error" (the default),
            refuse; "overwrite", replace it; "resume", go on with it, or start where there is none; "new", take the next
            free name, such as ``runs/digits-2``. A finished run that is resumed is returned as it is.
        keep_data: write data from Python into the run folder, so that the run can be used without giving them again.
        config: a recipe, by name or file, whose keys override those of the source.
        context: covariates: columns of the table by name, ``"labels"``, or values: text or numbers, one for each row;
            an array of shape (n, context_dim); a dict or a data frame with a column for each covariate.
        labels: class labels, numbers or text, shape (n,), or the column of the table that holds them.
        id: what identifies each row, shape (n,), or the column of the table that does; results carry it.
        observers: objects that report the training; by default the terminal.
        announce: called with remarks.
        overrides: any key of :class:`~elbowroom.running.config.Config`, as ``model={"latent_dim": 2}`` or
            ``model__latent_dim=2``.
    Returns:
        The run, with its best weights (by validation; the latest where there is no validation set).
    Raises:
        ElbowroomError: anything that the user can correct: a run that exists, wishes that contradict each other, data
            that are not those of the run, settings that do not fit together.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written; ``resume`` goes on.
    """
    keys = nested(overrides)
    beside = {"context": context, "labels": labels, "id": id}
    from_python = not isinstance(source, str | Path | None)
    name = _request(source, keys, config).name
    if keep_data and not from_python:
        raise ElbowroomError(
            f"keep_data is for data from Python, but {source or name} is found again by its name.",
            "Leave keep_data out, or give the data themselves as an array.",
        )
    folder, resume, overwrite = choose_place(
        name, out, exist=exist, resume=resume, overwrite=overwrite, from_python=from_python, announce=announce
    )
    settings, recorded = _settings(source, keys, config, beside, folder, resume=resume)
    for remark in [] if resume else without_effect(settings, keys):
        announce(phrased(remark))
    from_python = bool(recorded["data"].get("from_python")) if resume else from_python

    # everything is built and tried in memory first, so that errors in the request come before there are files
    use_threads(settings.runtime.threads)
    device = pick_device(settings.runtime.device)
    own = source if from_python or not isinstance(source, str | Path) else None
    arrays = {name: given for name, given in beside.items() if given is not None}
    data = _read_data(settings, own, folder, recorded, **arrays, announce=announce)
    settings, data, kept = _prepared_data(settings, data, device, recorded, keep_data=keep_data, announce=announce)
    settings = with_number_of_classes(settings, data, announce=announce)
    facts = facts_of(data, settings.train.batch_size)
    if not resume:
        likelihood = pick_likelihood(settings.model, facts.support)
        found = {"highest": facts.highest, "grey_steps": facts.grey_steps}
        for remark in assumed(settings.model, likelihood, data.name, **found):
            announce(phrased(remark))
    if facts.columns is not None and not resume and config is None and not {"model", "objective"} & set(keys):
        announce(phrased("there are settings for tables, most often better than these: --config table"))
    pair = build_pair(settings, facts, seed=settings.train.seed)
    plan = _plan(settings, facts, data)
    observers = _observers(settings, pair, folder, observers)
    fresh = not (resume and folder.checkpoints.exist(resumable=True))
    learner, execution = _learner(settings, plan, pair, data, folder, fresh, recorded.get("compiled"), announce)
    state = learner.init(pair)

    if not resume:
        folder = RunFolder.create(folder.path, overwrite=overwrite)
    with folder.lock():
        if not resume and isinstance(data, DataSet):
            folder.write_splits(data.splits)
        content = _content(settings, facts, data, folder, recorded, from_python=from_python)
        content |= {"compiled": execution is not eager}
        # if this session fails, what the last one wrote about its memory stays
        folder.write_config(content | {key: recorded[key] for key in ("peak_memory",) if key in recorded})
        if kept is not None and not keeps_data(folder.path):
            announce(f"keeping the data in {folder.path}: {in_words(keep(folder.path, kept))}")
        progress, generator = TrainingProgress(), make_generator(device, settings.train.seed)
        if resume:
            state, progress = _restore_latest(folder, state, progress, generator, announce)
        folder.rewind_metrics(state.step)
        if resume and plan.is_over(state.step, progress, progress.seconds):
            announce(_finished(folder, settings, plan, state, progress))
        else:
            if state.step:
                announce(f"going on with {folder.path} from step {state.step:,}")
            fit(learner, state, data, plan, generator=generator, folder=folder, progress=progress, observers=observers)
            folder.write_config(content | {"peak_memory": peak_memory(device)})  # bytes, known at the end
            chains = chain_record(folder.metrics())
            if chains is not None and (warning := chains.warning()) is not None:
                announce(warning)
    return Run(folder, data=data, announce=announce)


# --- what is asked for -------------------------------------------------------------------------------------------


def _request(source: Any, keys: Mapping[str, Any], config: str | Path | None) -> Request:
    """The name of the run and its layers of configuration, for data from Python too."""
    if isinstance(source, str | Path | None):
        return resolve("digits" if source is None else source, keys, config=config)
    return Request("data", [*([] if config is None else [read_recipe(config)]), keys])


def _settings(
    source: Any,
    keys: Mapping[str, Any],
    config: str | Path | None,
    beside: Mapping[str, Any],
    folder: RunFolder,
    *,
    resume: bool,
) -> tuple[Config, dict[str, Any]]:
    """The run's settings, and the content of config.json of the run that goes on, which is empty for a new one.

    Args:
        source: as it was given.
        keys: what is asked for, nested.
        config: a recipe below these keys.
        beside: ``context``, ``labels`` and ``id`` as they were given.
        folder: of the run.
        resume: whether the run in it goes on.
    """
    asked = keys if resume else merge(keys, {"data": named_columns(source, **beside)})
    request = _request(source, asked, config)
    settings = _with_absolute_path(configure(*request.layers, source=request.name))
    if not resume:
        return settings, {}
    recorded = RunFolder.open(folder.path).read_config()
    return recorded_settings(folder, recorded, settings, source, keys, config), recorded


def _with_absolute_path(settings: Config) -> Config:
    """The configuration with an absolute path of the data, so that the run can be used from other folders."""
    if settings.data.name in BUILT_IN or not Path(settings.data.name).exists():
        return settings
    data = settings.data.model_copy(update={"name": str(Path(settings.data.name).absolute())})
    return settings.model_copy(update={"data": data})


# --- building ----------------------------------------------------------------------------------------------------


def _read_data(
    settings: Config, source: Any, folder: RunFolder, recorded: dict[str, Any], **arrays: Any
) -> DataSet | StreamSet:
    """The data of a new run, or of the one that goes on.

    Args:
        settings: of the run.
        source: data from Python; None for those that the settings name.
        folder: of the run.
        recorded: config.json of the run that goes on; empty for a new one.
        arrays: ``context``, ``labels`` and ``id`` from Python, and ``announce``.
    """
    if not recorded:
        return build_data(settings, source, **arrays)
    again = f"er.train(data, out={str(folder.path)!r}, resume=True)"
    return read_own_data(settings, recorded, folder, source, again=again, **arrays)


def _prepared_data(
    settings: Config,
    data: DataSet | StreamSet,
    device: torch.device,
    recorded: Mapping[str, Any],
    *,
    keep_data: bool,
    announce: Announce,
) -> tuple[Config, DataSet | StreamSet, Material | None]:
    """The data in the units of the run, the settings with what the data decide, and what the folder will keep."""
    if data.masked and settings.data.missing == "error":  # by a mask of the data; NaN is one in what is read later
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"missing": "mask"})})
    kept = as_material(data) if keep_data else None
    if kept is not None and isinstance(data, DataSet) and kept.storage is not data.storage and not recorded:
        data = build_data(settings, kept)  # a `Dataset` is fetched once, and trained on as it will be read again
    facts = DataFacts.model_validate(recorded["facts"]) if recorded else None
    return settings, prepared(data, settings, device, facts, announce=announce), kept


def _observers(settings: Config, pair: Pair, folder: RunFolder, given: Sequence[Observer] | None) -> Sequence[Observer]:
    """Those that were given, or the terminal; and TensorBoard, if asked for."""
    observers = [Terminal(normalized=pair.model.likelihood.normalized)] if given is None else given
    return [*observers, TensorBoard(folder.path / "tensorboard")] if settings.train.tensorboard else observers


def _learner(
    settings: Config,
    plan: TrainingPlan,
    pair: Pair,
    data: DataSet | StreamSet,
    folder: RunFolder,
    fresh: bool,
    compiled: bool | None,
    announce: Announce,
) -> tuple[Learner, Execution]:
    """The learner and how it computes its objective, both tried on model and data.

    Args:
        settings: of the run.
        plan: how long to train.
        pair: model and guide; moved to the device, and started from the data where that is asked for.
        data: what to learn from.
        folder: of the run.
        fresh: whether no checkpoint will fill the weights.
        compiled: what an earlier session of the run decided; None for a new run.
        announce: called with remarks.
    """
    positions = data.splits["train"] if isinstance(data, DataSet) else None
    length = RunLength(plan.total_steps, plan.steps_per_epoch, positions, folder.path / "chains")
    eager_learner = build_learner(settings, length)  # refuses wrong settings before anything is computed
    if fresh:
        initialise(pair, settings, data)
    pair.to(pick_device(settings.runtime.device))
    autocast_networks(pair, autocast_dtype(settings.runtime))
    warn_of_emulation(settings.runtime, announce)
    _try_measuring(eager_learner, pair, data)
    execution = choose_execution(settings, plan, pair, data, decided=compiled, announce=announce)
    return build_learner(settings, length, execution), execution


def _try_measuring(learner: Learner, pair: Pair, data: DataSet | StreamSet) -> None:
    """Measures two examples, so that an objective and a model that do not fit together are refused early."""
    if isinstance(data, DataSet):  # a stream could not be read again
        batch = data.take("train", torch.arange(min(2, data.size("train"))))
        with evaluation_mode(pair):
            learner.measure(pair, batch, generator=make_generator(batch.x.device, 0))


def _plan(settings: Config, facts: DataFacts, data: DataSet | StreamSet) -> TrainingPlan:
    """How long to train and how often to report; refuses lengths that contradict each other."""
    if settings.train.patience is not None and not data.size("validation"):
        raise ElbowroomError(
            f"train.patience is {settings.train.patience}, but there are no validation data to watch.",
            "Hold some out with --data.validation 0.1, or leave train.patience out.",
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
            hint = data.hint if isinstance(data, StreamSet) else ""
            raise ElbowroomError(
                "A stream of data has no epochs, so the length of its run is needed in steps.",
                f"Give --train.steps. {hint}",
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


# --- files -------------------------------------------------------------------------------------------------------


def _restore_latest(
    folder: RunFolder,
    state: TrainingState,
    progress: TrainingProgress,
    generator: torch.Generator,
    announce: Announce,
) -> tuple[TrainingState, TrainingProgress]:
    """State, progress and generator from the latest good checkpoint; unchanged where there is none yet."""
    folder.checkpoints.settle()
    if not folder.checkpoints.exist(resumable=True):
        announce(f"{folder.path} has no checkpoint yet: starting from step 0")
        return state, progress
    checkpoint = folder.checkpoints.find("latest", resumable=True, announce=announce)
    state, progress = restore(checkpoint, state, generator)
    folder.checkpoints.point("best", progress.best_step)  # a kill or a damaged checkpoint can leave them elsewhere
    folder.checkpoints.point("latest", state.step)
    return state, progress


def _finished(
    folder: RunFolder, settings: Config, plan: TrainingPlan, state: TrainingState, progress: TrainingProgress
) -> str:
    """That a run which was to go on is at its end, why, and what makes it longer."""
    if plan.has_stalled(progress):
        why, flag = f"validation has not improved for {progress.reports_since_best} reports", "--train.patience"
    else:
        limits = {
            "--train.steps": settings.train.steps,
            "--train.seconds": settings.train.seconds,
            "--train.decoder-gradients": settings.train.decoder_gradients,
        }
        given = (flag for flag, limit in limits.items() if limit is not None)
        why, flag = "that is its whole length", next(given, "--train.epochs")
    return phrased(
        f"{folder.path} is finished, at step {state.step:,} ({why}): nothing was done; a larger {flag} makes it longer"
    )


def _content(
    settings: Config,
    facts: DataFacts,
    data: DataSet | StreamSet,
    folder: RunFolder,
    recorded: Mapping[str, Any],
    *,
    from_python: bool,
) -> dict[str, Any]:
    """The content of config.json: everything that is needed to repeat the run, and the names in its data."""
    names: dict[str, Any] = data.names() if isinstance(data, DataSet) else {}
    if isinstance(data, DataSet):  # whom to name where pictures of them are shown
        names |= {what: said for what, said in (("source", data.source), ("licence", data.licence)) if said}
    whence = {"from_python": True} if from_python else path_from(folder.path, settings.data.name)
    before = {key: given for key, given in recorded.get("data", {}).items() if key == "path_from_run"}
    return {
        "elbowroom": __version__,
        "torch": torch.__version__,
        "config": settings.model_dump(mode="json"),
        "facts": facts.model_dump(mode="json"),
        "data": data.protocol() | names | before | whence,
    }
