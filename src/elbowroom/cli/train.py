"""``elbowroom train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from elbowroom.cli.speech import remark, say, wrote
from elbowroom.errors import ElbowroomError
from elbowroom.memory import in_words
from elbowroom.names import Exist
from elbowroom.running.config import (
    DataConfig,
    EmConfig,
    McemConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RuntimeConfig,
    SviConfig,
    TrainConfig,
    VqConfig,
)
from elbowroom.running.model_config import ModelConfig
from elbowroom.sections import Section

__all__ = ["train"]


def _section(title: str, place: int, kind: type[Section]) -> Any:
    """The flags of one section of the configuration, under a heading of their own."""
    return Parameter(group=Group(title, help=(kind.__doc__ or "").split("\n")[0], sort_key=place))


def train(
    source: str | None = None,
    *,
    config: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    exist: Exist | None = None,
    quiet: bool = False,
    data: Annotated[DataConfig, _section("Data", 1, DataConfig)] = DataConfig(),  # noqa: B008
    model: Annotated[ModelConfig, _section("Model", 2, ModelConfig)] = ModelConfig(),  # noqa: B008
    objective: Annotated[ObjectiveConfig, _section("Objective", 3, ObjectiveConfig)] = ObjectiveConfig(),  # noqa: B008
    optimizer: Annotated[OptimizerConfig, _section("Optimizer", 4, OptimizerConfig)] = OptimizerConfig(),  # noqa: B008
    train: Annotated[TrainConfig, _section("Training", 5, TrainConfig)] = TrainConfig(),  # noqa: B008
    mcem: Annotated[McemConfig, _section("Monte Carlo EM", 6, McemConfig)] = McemConfig(),  # noqa: B008
    svi: Annotated[SviConfig, _section("Pyro", 7, SviConfig)] = SviConfig(),  # noqa: B008
    vq: Annotated[VqConfig, _section("Vector quantisation", 8, VqConfig)] = VqConfig(),  # noqa: B008
    em: Annotated[EmConfig, _section("Mixtures", 9, EmConfig)] = EmConfig(),  # noqa: B008
    runtime: Annotated[RuntimeConfig, _section("Machine", 10, RuntimeConfig)] = RuntimeConfig(),  # noqa: B008
) -> None:
    """Train a model.

    Parameters
    ----------
    source
        A recipe (`elbowroom recipes list`), a recipe file (.toml), a built-in data set (`elbowroom data list`), or a
        path to your own data: .npy, .npz, .csv, .tsv, .txt, .parquet, a folder of images.
    config
        A recipe file whose keys override those of SOURCE.
    out
        The run folder (default: runs/NAME).
    resume
        Continue the run from its latest checkpoint; with --out, SOURCE need not be named again.
    overwrite
        Replace the run in the folder.
    exist
        What to do where the folder holds a run: error (the default), overwrite, resume (or start, where there is none),
        or new, which takes the next free name.
    quiet
        Print nothing until the end.
    """
    from elbowroom.running import train as training
    from elbowroom.running.observers import Silent
    from elbowroom.showing import gallery

    if source is None and config is None and not (resume and out is not None):
        raise ElbowroomError(
            "Nothing was named to train on.", "Give a recipe or a path to data; `elbowroom train digits` is a start."
        )
    sections = {
        "data": data,
        "model": model,
        "objective": objective,
        "optimizer": optimizer,
        "train": train,
        "mcem": mcem,
        "svi": svi,
        "vq": vq,
        "em": em,
        "runtime": runtime,
    }
    dumped = {name: section.model_dump(exclude_unset=True) for name, section in sections.items()}
    keys: dict[str, Any] = {name: given for name, given in dumped.items() if given}
    run = training.train(
        source if source is not None or resume else config,
        config=config if source is not None or resume else None,
        out=out,
        resume=resume,
        overwrite=overwrite,
        exist=exist,
        observers=[Silent()] if quiet else None,
        announce=remark,
        **keys,
    )
    last = run.history[-1]["step"]
    best = "" if run.step == last else f"; best: step {run.step:,}, after which validation is worse by more than chance"
    say(f"trained {run.folder.path}: {last:,} steps, {run.config.model.latents}{best}")
    if run.content["peak_memory"] is not None:
        say(f"peak memory {in_words(run.content['peak_memory'])}")
    wrote(gallery.save(run, "curves", gallery.curves(run)))
    say(f"next: elbowroom evaluate {run.folder.path}")
