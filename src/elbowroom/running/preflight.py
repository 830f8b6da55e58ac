"""Checks before a comparison trains: each recipe by itself, and whether all can be compared.

Each recipe is built as it will be, evaluated on two examples, and trained for one step on two examples, in memory. So
only errors that need real training are left. And log p(x) of two models can be compared only for the same x: the same
examples, with the same binarisation and the same covariates, and both as densities or both as probabilities.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.dataset import DataSet
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.model.latent import evaluation_mode
from elbowroom.running.build import build_data, facts_of
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair, initialise
from elbowroom.running.comparison import ComparedRecipe
from elbowroom.running.config import Config
from elbowroom.running.runtime import (
    autocast_dtype,
    autocast_networks,
    make_generator,
    pick_device,
    use_threads,
)
from elbowroom.running.units import prepared

__all__ = ["NO_LIMIT", "CheckedRecipe", "check_comparable", "check_recipe"]

#: Settings by which a budget replaces a recipe's own length.
NO_LIMIT: dict[str, Any] = {"train": {"steps": None, "seconds": None, "decoder_gradients": None, "patience": None}}

_CONTINUOUS = {Support.UNIT_INTERVAL, Support.REALS}
_NEVER = 10**9  # steps between reports that never come


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A recipe that passed the checks.

    Attributes:
        entrant: its record in the comparison.
        sizes: number of examples to evaluate, by split.
        facts: name -> value of everything about the data that must be equal for log p(x) to be comparable.
        protocol: the data protocol, and digests of the examples, for the record.
        data: the loaded data, for other recipes on the same data.
    """

    entrant: ComparedRecipe
    sizes: dict[str, int]
    facts: dict[str, Any]
    protocol: dict[str, Any]
    data: tuple[Config, DataSet] = field(repr=False)


def check_recipe(
    name: str,
    settings: Config,
    splits: Sequence[str],
    *,
    points: int,
    data: Sequence[tuple[Config, DataSet]] = (),
) -> CheckedRecipe:
    """Builds a recipe and tries it on two examples.

    Args:
        name: of the recipe, with which every message begins.
        settings: its configuration, without a limit.
        splits: which splits it will be evaluated on.
        points: number of examples of each split.
        data: data that other recipes have loaded.
    Raises:
        ElbowroomError: anything that is wrong with the recipe.
    """
    try:
        return _checked(name, settings, splits, points, data)
    except ElbowroomError as error:
        flags = re.search(r"--[a-z]+\.", error.remedy)
        where = " A comparison takes such keys from the recipe's file, or from --config FILE." if flags else ""
        raise ElbowroomError(f"{name}: {error.problem}", error.remedy + where) from error


def _checked(
    name: str, settings: Config, splits: Sequence[str], points: int, others: Sequence[tuple[Config, DataSet]]
) -> CheckedRecipe:
    if settings.model.has_codes:  # first of all, since no other setting of theirs would help
        raise ElbowroomError(
            "A comparison estimates log p(x) by Laplace approximations, without a guide, which needs a continuous z, "
            f"but the latents of this recipe are codes ({settings.model.latents}).",
            "Train each recipe by `elbowroom train`, and evaluate the runs with --methods ais,bdmc, or iwae: "
            "evaluation/iwae-test.csv has log p(x) of every example.",
        )
    if settings.optimizer.schedule != "constant":
        raise ElbowroomError(
            f"A comparison trains in parts, but a {settings.optimizer.schedule} schedule needs one fixed length.",
            'Set schedule = "constant" under [optimizer], for all recipes with --config FILE.',
        )
    data = _data(settings, others)
    protocol, facts, sizes = _points_measured(data, splits, points)
    _try(settings, data, splits[0])
    if settings.train.report_every is None and data.size("validation"):
        # validation is not used here, and without a guide it takes longer than an epoch
        train = settings.train.model_copy(update={"report_every": _NEVER})
        settings = settings.model_copy(update={"train": train})
    entrant = ComparedRecipe(
        recipe=name,
        learner=settings.train.learner,
        latent_dim=settings.model.latent_dim,
        train_size=data.size("train"),
        config=settings.model_dump(mode="json"),
    )
    return CheckedRecipe(entrant, sizes, facts, protocol, (settings, data))


def _data(settings: Config, others: Sequence[tuple[Config, DataSet]]) -> DataSet:
    for other, loaded in others:
        if other.data == settings.data and all(
            getattr(other.model, key) == getattr(settings.model, key) for key in ("likelihood", "trials", "levels")
        ):
            return loaded
    data = build_data(settings)
    if not isinstance(data, DataSet):
        raise ElbowroomError(
            "A stream has no test set to evaluate on.", "Compare on data of known length: an array or a file."
        )
    return data


def _try(settings: Config, data: DataSet, split: str) -> None:
    """Makes one measurement and one step."""
    use_threads(settings.runtime.threads)
    device = pick_device(settings.runtime.device)
    ready = prepared(data, settings, device)
    assert isinstance(ready, DataSet)
    data = ready
    facts = facts_of(data, settings.train.batch_size)
    pair = build_pair(settings, facts, seed=settings.train.seed)
    if not pair.model.likelihood.normalized:
        raise ElbowroomError(
            f"A comparison uses log p(x), but {pair.model.likelihood.name} on grey pixels does not integrate to one, "
            "so log p(x) does not exist.",
            'Set binarization under [data], or likelihood = "continuous-bernoulli" under [model].',
        )
    initialise(pair, settings, data)
    pair = pair.to(device)
    autocast_networks(pair, autocast_dtype(settings.runtime))
    generator = make_generator(device, settings.train.seed)
    with tempfile.TemporaryDirectory() as scratch:
        batch = next(iter(data.training_batches(2, seed=0, epoch=0, generator=generator)))
        assert batch.index is not None  # batches of a data set have positions
        some = batch.index.sort().values  # chains of two examples only, since those of all would be written twice
        learner = build_learner(settings, RunLength(None, facts.steps_per_epoch, some, Path(scratch) / "chains"))
        state = learner.init(pair)
        with evaluation_mode(state.learned):
            points = data.take(split, torch.arange(min(2, data.size(split))))
            laplace_evidence(state.learned.model, None, points, k=2, starts=1, generator=generator)
        learner.step(state, batch, generator=generator)


# --- are they comparable? ----------------------------------------------------------------------------------------


def _points_measured(
    data: DataSet, splits: Sequence[str], points: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """The data to be evaluated: their protocol for the record, the facts to compare with other recipes, and sizes."""
    protocol = data.protocol()
    facts = {
        "data": protocol.get("sha256") or protocol.get("sha256_of_rows"),
        "data.binarization": protocol["binarization"],
        "data.seed": protocol["seed"],
        "data.context": protocol.get("sha256_context"),
        "kind of values": "densities" if data.support in _CONTINUOUS else "probabilities",
    }
    digests, sizes = {}, {}
    for split in splits:
        batches = list(data.to(dtype=torch.float32).batches(split, 1000, points=points))
        sizes[split] = sum(len(batch) for batch in batches)
        parts = itertools.chain.from_iterable((b.index, b.x, b.mask, b.context) for b in batches)
        digests[split] = facts[f"{split} points"] = _digest(part for part in parts if part is not None)
    known = {key: value for key, value in protocol.items() if key not in ("levels", "sha256_labels")}
    return {"protocol": known, "sha256_of_points": digests}, facts, sizes


def _digest(tensors: Any) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().numpy().tobytes()


def check_comparable(checked: Mapping[str, CheckedRecipe], splits: Sequence[str]) -> None:
    """Refuses recipes whose log p(x) are not of the same examples.

    Raises:
        ElbowroomError: two recipes differ; names in what.
    """
    (first, one), *others = checked.items()
    for name, other in others:
        for what, value in one.facts.items():
            if other.facts[what] != value:
                raise ElbowroomError(
                    f"{first} and {name} differ in their {what} ({_short(value)} and {_short(other.facts[what])}), so "
                    "their log p(x) are not of the same examples.",
                    "Give all recipes the same [data], for instance with --config FILE"
                    + (", or evaluate without --splits train." if what == "train points" and len(splits) > 1 else "."),
                )


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 20 else text
