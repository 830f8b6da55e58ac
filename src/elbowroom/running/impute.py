"""Imputation: missing values of a run's data, or of the user's own, filled in by its model, ``er.impute``.

Missing values are NaN in the data, marked by a mask, or hidden on purpose. For those that were hidden the truth is
known. So it is measured how often the intervals contain it, and how far the imputed values are from it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from elbowroom.data.batch import Batch
from elbowroom.data.binarization import Binarization
from elbowroom.data.channels import has_colours_last
from elbowroom.data.columns.coding import decode
from elbowroom.data.columns.column import Column
from elbowroom.data.dataset import DataSet
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.inference.posterior.imputation import Imputation
from elbowroom.inference.posterior.imputation import impute as impute_batch
from elbowroom.model.conditional import Likelihood
from elbowroom.model.latent import evaluation_mode
from elbowroom.model.likelihoods import ColourLogisticMixture
from elbowroom.progress import Progress
from elbowroom.running.runs import Run, as_run
from elbowroom.running.runtime import make_generator, torch_settings
from elbowroom.running.units import restored

__all__ = ["SIDES", "Imputed", "Recovery", "impute"]

#: side -> the axis that is cut in half (height or width), and whether its first half is hidden
SIDES: dict[str, tuple[int, bool]] = {
    "top": (-2, True),
    "bottom": (-2, False),
    "left": (-1, True),
    "right": (-1, False),
}


class Recovery(NamedTuple):
    """How well values that were hidden on purpose were recovered.

    Attributes:
        num_values: number of hidden values.
        coverage: share of them that lies in its interval; None for categories.
        measure: "log-loss" (nats per value; binary), "accuracy" (categories) or "rmse"; the last of real numbers in
            units of each element's standard deviation.
        value: the measure for the imputation.
        baseline: the same measure for filling in the mean of each element; for categories the accuracy that the model
            expects, the mean probability of its choices.
        names: of a table with numbers and names, what `Recovery` says of the names; the rest is about the numbers.
    """

    num_values: int
    coverage: float | None
    measure: str
    value: float
    baseline: float
    names: Recovery | None = None


@dataclass(frozen=True, slots=True)
class Imputed(Imputation):
    """The result of :func:`elbowroom.inference.posterior.imputation.impute`, with the rows and the truth.

    Attributes:
        rows: positions in the data (the file), int64, of a split too.
        ids: the identifiers of these rows, under their column's name, where there are any.
        truth: the data before values were hidden; None if none were.
        hidden: True where an element was hidden on purpose.
        recovery: how well the hidden values were recovered; None if none were hidden.
        as_stored: whether values are in the units of the source; bytes shown as grey values are not.
        support: of the values.
        columns: of a table with columns of several kinds; else None.
    """

    rows: Tensor
    ids: dict[str, list[str]]
    truth: Tensor | None
    hidden: Tensor | None
    recovery: Recovery | None
    as_stored: bool
    support: Support
    columns: tuple[Column, ...] | None = None

    @property
    def table(self) -> Any:
        """``completed`` as a polars data frame in the kinds of the training data.

        Raises:
            ElbowroomError: the data are no table with columns of several kinds.
        """
        if self.columns is None:
            raise ElbowroomError("These data are no table with columns of several kinds.", "Use `completed`.")
        return decode(self.completed.double().numpy(), self.columns)

    @property
    def num_missing(self) -> int:
        """Number of values that were filled in."""
        return int((~self.mask).sum())

    @property
    def rounded(self) -> Tensor:
        """``completed`` as values that x can take: 0 or 1 of binary data, whole numbers of counts and bytes."""
        match self.support:
            case Support.BINARY:
                return (self.completed > 0.5).to(self.completed)
            case Support.BYTES | Support.COUNTS:
                return self.completed.round()
            case _:
                return self.completed

    @property
    def certainty(self) -> Tensor | None:
        """The probability of each of the ``rounded`` values, of binary data and categories; None for quantities."""
        if self.columns is not None:
            return None
        if self.support is not Support.BINARY:
            return self.probability
        return torch.where(self.rounded == 1, self.completed, 1 - self.completed)


@torch_settings()
def impute(
    run: Run | str | Path,
    source: Any = None,
    *,
    mask: Any = None,
    hide: str | float | None = None,
    split: str | None = None,
    num: int | None = None,
    context: Any = None,
    labels: Any = None,
    seed: int = 0,
    checkpoint: str | None = None,
    announce: Progress | None = None,
    **settings: Any,
) -> Imputed:
    """Fills in missing values, by draws of the latents given the observed values.

    Args:
        run: a run, or the folder of one.
        source: the data, NaN where missing: a path, an array, a data frame; a split of the run's own unless given.
        mask: further missing values: an array, a .npy file, or a .npz file with an array named mask; 1 or True where an
            element was observed, of the shape of all the data or of one example.
        hide: what to hide on purpose: "top", "bottom", "left" or "right", half of a picture; or a number, the
            probability with which each element is hidden, or each pixel where its channels depend on each other.
        split: which split of the run's own, by default "test"; a source has none.
        num: number of examples, by default all: the first ones of a source, a random choice of a split.
        context: covariates of a source from Python, as in `Run.read`.
        labels: class labels of a source from Python, as in `Run.read`.
        seed: of the chains, and of random hiding.
        checkpoint: which weights of the run in a folder: "best" (the default) or "latest".
        announce: called at every transition.
        **settings: method, draws, chains, warmup, interval, num_samples, … of
            :func:`elbowroom.inference.posterior.imputation.impute`.
    Raises:
        ElbowroomError: nothing is missing; a mask of another shape or with other values; an unknown side or a rate
            out of range; a file that cannot be read; any error of the sampler.
    Example:
        >>> import elbowroom as er
        >>> found = er.impute("runs/digits", hide="bottom", num=10)     # doctest: +SKIP
        >>> found.samples.shape, found.recovery.coverage                # doctest: +SKIP
        (torch.Size([5, 10, 8, 8]), 0.98)
    """
    run = as_run(run, checkpoint=checkpoint)
    if num is not None and num < 1:
        raise ElbowroomError(f"{num} examples were asked for, but at least one is needed.", "Give 1 or more.")
    hides = None if hide is None else _parse_hide(hide, run.facts.event_shape, run.model.likelihood)
    data, name = run.asked(source, split, context, labels, missing="mask", command="impute")
    known = None if mask is None else _read_mask(mask, data.size(name), run.facts.event_shape)
    rows = _rows(data, name, num, chosen=source is None)
    batch = data.take(name, rows)
    given_mask = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask
    observed = given_mask
    if known is not None:
        observed = observed & (known if known.dim() == batch.x.dim() - 1 else known[rows]).to(observed.device)
    if hides is not None:
        observed = observed & ~hides(len(batch), torch.Generator().manual_seed(seed)).to(observed.device)
    if bool(observed.all()):
        raise ElbowroomError(
            f"None of the {len(batch):,} examples has a missing value, so there is nothing to fill in.",
            "Mark missing values by NaN or an empty cell, give them with --mask, or hide some with --hide bottom (top, "
            "left, right, or a rate such as 0.3).",
        )
    # hidden values must not reach the guide, which gets the same filler as for NaN
    filler = run.filler.to(batch.x)
    seen = Batch(torch.where(observed, batch.x, filler), batch.index, batch.context, observed)
    columns = run.facts.columns
    names = None if columns is None else torch.tensor([column.kind.has_levels for column in columns])
    with evaluation_mode(run.pair):
        found = impute_batch(
            run.model, run.guide, seen, names=names, generator=make_generator(run.device, seed), announce=announce,
            **settings,
        )  # fmt: skip
    truth, hidden = batch.x.cpu(), (given_mask & ~observed).cpu()
    some = bool(hidden.any())
    support = run.model.likelihood.support
    parts = {field.name: getattr(found, field.name) for field in fields(found)}
    for part in ("x", "completed", "samples", "mean", "lower", "upper"):
        parts[part] = None if parts[part] is None else restored(parts[part], run.facts)
    places = data.splits[name].cpu()[rows]
    return Imputed(
        **parts,
        rows=places,
        ids={column: ids for column, ids in data.row_columns(places).items() if column != "row"},
        truth=restored(truth, run.facts) if some else None,
        hidden=hidden if some else None,
        recovery=_recovery(found, truth, hidden, support, data, name) if some else None,
        as_stored=data.view.scale == 1 and not data.view.counts_steps and data.binarization is Binarization.NONE,
        support=support,
        columns=columns,
    )


def _rows(data: DataSet, name: str, num: int | None, *, chosen: bool) -> Tensor:
    """Positions within a split: all, the first, or the same choice as ``DataSet.batches`` makes."""
    size = data.size(name)
    if not chosen or num is None or num >= size:
        if size == 0:
            next(iter(data.batches(name, 1)))  # raises the error for an empty split
        return torch.arange(size if num is None else min(num, size))
    index = cast(Tensor, next(iter(data.batches(name, num, points=num))).index)
    return torch.searchsorted(data.splits[name], index.cpu())


Hides = Callable[[int, torch.Generator], Tensor]
"""(number of examples, generator) -> True where to hide"""


def _parse_hide(hide: str | float, event_shape: tuple[int, ...], likelihood: Likelihood) -> Hides:
    """A function that chooses which elements of n examples to hide, or pixels if channels depend on each other."""
    try:
        rate = float(hide)
    except ValueError:
        word = str(hide)
        if word not in SIDES:
            remedy = did_you_mean(word, SIDES)
            raise ElbowroomError(
                f"--hide is '{word}', but should be a side or a rate.", f"{remedy} Or give a rate, such as 0.3."
            ) from None
        if len(event_shape) < 2 or min(event_shape[-2:]) < 2:
            raise ElbowroomError(
                f"Data of shape {event_shape} are not pictures, and have no {word}.",
                "Hide a random share of the values: --hide 0.3.",
            ) from None
        axis, first = SIDES[word]
        half = torch.zeros(event_shape, dtype=torch.bool)
        side = half.shape[axis]
        half.narrow(axis, 0 if first else side // 2, side // 2 if first else side - side // 2).fill_(True)
        return lambda n, generator: half.expand(n, *event_shape)
    if not 0 < rate < 1:
        raise ElbowroomError(f"--hide is {hide}, but a rate lies between 0 and 1.", "Give for instance --hide 0.3.")
    chosen = (1, *event_shape[1:]) if isinstance(likelihood, ColourLogisticMixture) else event_shape
    return lambda n, generator: (torch.rand(n, *chosen, generator=generator) < rate).expand(n, *event_shape)


def _read_mask(mask: Any, size: int, event_shape: tuple[int, ...]) -> Tensor:
    """A mask from an array or a file, bool, of shape (size, \\*event) or (\\*event)."""
    values = _mask_file(Path(mask)) if isinstance(mask, (str, Path)) else mask
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    wanted = (size, *event_shape)
    if array.shape not in (wanted, event_shape) and has_colours_last(array.shape[-3:], event_shape):
        array = np.moveaxis(array, -1, -3)  # as those of the data were
    if array.shape not in (wanted, event_shape):
        raise ElbowroomError(
            f"The mask has shape {array.shape}, but should have that of all the data, {wanted}, or of one example, "
            f"{event_shape}.",
            "Give one entry for each element, 1 where it was observed and 0 where it is missing.",
        )
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ElbowroomError(
            f"The mask has other values than 0 and 1 (its type is {array.dtype}).",
            "Give 1 (or True) where an element was observed and 0 (or False) where it is missing.",
        )
    return torch.from_numpy(array.astype(bool))


def _mask_file(path: Path) -> Any:
    if not path.is_file():
        raise ElbowroomError(
            f"There is no mask file {path}.",
            "Check the path. A mask is a .npy file, or a .npz file with an array 'mask'.",
        )
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return loaded["mask"]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as fault:
        raise ElbowroomError(
            f"{path} is neither a NumPy array nor an archive with an array named mask.",
            "Write it with numpy.save(path, mask), 1 where an element was observed.",
        ) from fault


def _recovery(found: Imputation, truth: Tensor, hidden: Tensor, support: Support, data: DataSet, name: str) -> Recovery:
    """The hidden values compared with the imputed ones."""
    if support is Support.TABLE:
        return _recovery_of_table(found, truth, hidden, data, name)
    true, guess = truth[hidden].double(), found.completed[hidden].double()
    if support is Support.CATEGORIES:
        expected = cast(Tensor, found.probability)[hidden].mean(dtype=torch.float64)
        return Recovery(len(true), None, "accuracy", float((true == guess).double().mean()), float(expected))
    lower, upper = cast(Tensor, found.lower)[hidden], cast(Tensor, found.upper)[hidden]
    coverage = float(((true >= lower) & (true <= upper)).double().mean())
    rows = data if name != "all" else replace(data, splits={"train": data.splits["all"]})
    average, deviation = (moment.expand_as(truth)[hidden] for moment in rows.moments())
    if support is Support.BINARY:
        n = rows.size("train")
        average = (n * average + 0.5) / (n + 1)  # smoothed, since a pixel that was never white can still become white
        losses = [float(binary_cross_entropy(p.clamp(0, 1), true)) for p in (guess, average)]
        return Recovery(len(true), coverage, "log-loss", losses[0], losses[1])
    unit = torch.where(deviation > 0, deviation, 1.0) if support is Support.REALS else torch.ones(())
    errors = [float(((p - true) / unit).square().mean().sqrt()) for p in (guess, average)]
    return Recovery(len(true), coverage, "rmse", errors[0], errors[1])


def _recovery_of_table(found: Imputation, truth: Tensor, hidden: Tensor, data: DataSet, name: str) -> Recovery:
    """Of numbers their error in units of each column's deviation; of names, how many are right."""
    assert data.kinds is not None, "only such a table has this support"
    named = torch.tensor([column.kind.has_levels for column in data.kinds]).expand_as(hidden)
    of_names, of_numbers = hidden & named, hidden & ~named
    names = None
    if bool(of_names.any()):
        right = (truth[of_names] == found.completed[of_names]).double().mean()
        expected = cast(Tensor, found.probability)[of_names].mean(dtype=torch.float64)
        names = Recovery(int(of_names.sum()), None, "accuracy", float(right), float(expected))
    if not bool(of_numbers.any()):
        assert names is not None, "something was hidden"
        return names
    true, guess = truth[of_numbers].double(), found.completed[of_numbers].double()
    lower, upper = cast(Tensor, found.lower)[of_numbers], cast(Tensor, found.upper)[of_numbers]
    coverage = float(((true >= lower) & (true <= upper)).double().mean())
    rows = data if name != "all" else replace(data, splits={"train": data.splits["all"]})
    average, deviation = (moment.expand_as(truth)[of_numbers] for moment in rows.moments())
    unit = torch.where(deviation > 0, deviation, 1.0)
    errors = [float(((p - true) / unit).square().mean().sqrt()) for p in (guess, average)]
    return Recovery(len(true), coverage, "rmse", errors[0], errors[1], names)
