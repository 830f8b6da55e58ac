"""Before a comparison trains anything: everything that can be wrong with a recipe, and with all of them together.

Each recipe is built as it will be, is measured on two data and takes one step on two, in memory. What is then left to
go wrong is what only training can tell. And log p(x) of two models can be compared only if it is of the same x: the
same points, with the same bits, given the same covariates, as densities or as probabilities both.
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
from elbowroom.evaluation.study import evaluation_mode
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.running.build import build_data, build_pair, facts_of, initialise
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.comparison import ComparedRecipe
from elbowroom.running.config import Config
from elbowroom.running.runtime import (
    autocast_dtype,
    autocast_networks,
    dtype_of,
    make_generator,
    pick_device,
    use_threads,
)

__all__ = ["NO_LIMIT", "CheckedRecipe", "check_comparable", "check_recipe"]

#: What a budget puts in the place of a recipe's own length.
NO_LIMIT: dict[str, Any] = {"train": {"steps": None, "seconds": None, "decoder_gradients": None, "patience": None}}

_CONTINUOUS = {Support.UNIT_INTERVAL, Support.REALS}
_NEVER = 10**9  # steps between reports


@dataclass(frozen=True, slots=True)
class CheckedRecipe:
    """A recipe that works.

    Attributes:
        entrant: what is to be recorded of it.
        sizes: points to be measured, by split.
        facts: by what its log p(x) can be told from that of other points: name, in words, and value.
        yardstick: what a result must state about its data, and the digests of the points.
        data: for the next recipe, if it is on the same.
    """

    entrant: ComparedRecipe
    sizes: dict[str, int]
    facts: dict[str, Any]
    yardstick: dict[str, Any]
    data: tuple[Config, DataSet] = field(repr=False)


def check_recipe(
    name: str,
    settings: Config,
    splits: Sequence[str],
    *,
    points: int,
    data: Sequence[tuple[Config, DataSet]] = (),
) -> CheckedRecipe:
    """Builds a recipe and tries it on two data.

    Args:
        name: of the recipe, which every message begins with.
        settings: its configuration, without a limit.
        splits: where it is to be measured.
        points: on how many data.
        data: what other recipes have loaded.
    Raises:
        ElbowroomError: whatever is wrong with it.
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
    if settings.optimizer.schedule != "constant":
        raise ElbowroomError(
            f"A comparison stops and goes on, but a {settings.optimizer.schedule} schedule is laid out for one length.",
            'Set schedule = "constant" under [optimizer], for all recipes with --config FILE.',
        )
    data = _data(settings, others)
    yardstick, facts, sizes = _points_measured(data, splits, points)
    _try(settings, data, splits[0])
    if settings.train.report_every is None and data.size("validation"):
        # nothing is made of the validation data's figures, which take a learner without a guide longer than an epoch
        train = settings.train.model_copy(update={"report_every": _NEVER})
        settings = settings.model_copy(update={"train": train})
    entrant = ComparedRecipe(
        recipe=name,
        learner=settings.train.learner,
        latent_dim=settings.model.latent_dim,
        train_size=data.size("train"),
        config=settings.model_dump(mode="json"),
    )
    return CheckedRecipe(entrant, sizes, facts, yardstick, (settings, data))


def _data(settings: Config, others: Sequence[tuple[Config, DataSet]]) -> DataSet:
    for other, loaded in others:
        if (other.data, other.model.likelihood) == (settings.data, settings.model.likelihood):
            return loaded
    data = build_data(settings)
    if not isinstance(data, DataSet):
        raise ElbowroomError(
            "A stream has no test set to be measured on.", "Compare on data of known length: an array, or a file."
        )
    return data


def _try(settings: Config, data: DataSet, split: str) -> None:
    """One measurement, and one step."""
    use_threads(settings.runtime.threads)
    device = pick_device(settings.runtime.device)
    data = data.to(device=device, dtype=dtype_of(settings.runtime))
    facts = facts_of(data, settings.train.batch_size)
    pair = build_pair(settings, facts, seed=settings.train.seed)
    if not pair.model.likelihood.normalized:
        raise ElbowroomError(
            f"A comparison is by log p(x), but {pair.model.likelihood.name} of grey pixels does not integrate to one, "
            "so there is none.",
            'Set binarization under [data], or likelihood = "continuous-bernoulli" under [model].',
        )
    initialise(pair, settings, data)
    pair = pair.to(device)
    autocast_networks(pair, autocast_dtype(settings.runtime))
    generator = make_generator(device, settings.train.seed)
    with tempfile.TemporaryDirectory() as scratch:
        batch = next(iter(data.training_batches(2, seed=0, epoch=0, generator=generator)))
        assert batch.index is not None  # a data set's batches have positions
        some = batch.index.sort().values  # chains of two data; all of them would be written twice
        learner = build_learner(settings, RunLength(None, facts.steps_per_epoch, some, Path(scratch) / "chains"))
        state = learner.init(pair)
        with evaluation_mode(state.learned):
            points = data.take(split, torch.arange(min(2, data.size(split))))
            laplace_evidence(state.learned.model, None, points, k=2, starts=1, generator=generator)
        learner.step(state, batch, generator=generator)


# --- one yardstick -----------------------------------------------------------------------------------------------


def _points_measured(
    data: DataSet, splits: Sequence[str], points: int
) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """What the measurement of these data is known by: for the record, for the comparison with others, and how many."""
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
    """Refuses recipes whose log p(x) are not of the same points.

    Raises:
        ElbowroomError: two differ; names what in.
    """
    (first, one), *others = checked.items()
    for name, other in others:
        for what, value in one.facts.items():
            if other.facts[what] != value:
                raise ElbowroomError(
                    f"{first} and {name} differ in their {what} ({_short(value)} and {_short(other.facts[what])}), so "
                    "their log p(x) are not of the same points.",
                    "Give all recipes the same [data], for instance with --config FILE"
                    + (", or measure without --splits train." if what == "train points" and len(splits) > 1 else "."),
                )


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 20 else text
