"""What the evaluation methods share: model, data and settings of one evaluation, and how results are made."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.evaluation.results import Bound, Result, sign_remark
from elbowroom.evaluation.settings import Settings
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel
from elbowroom.numerics import mean_and_stderr
from elbowroom.progress import Progress

__all__ = [
    "EvaluationCache",
    "EvaluationData",
    "Keep",
    "PerBatch",
    "Study",
    "observed",
    "require_normalized",
    "split_rows",
    "stream",
]

_IN_BITS = {Support.BYTES, Support.COUNTS, Support.CATEGORIES}

Keep = Callable[[str, dict[str, Tensor]], None]
"""(method, values of every example by name, each of shape (n,))"""
PerBatch = Callable[[Batch, torch.Generator], dict[str, Tensor]]
"""(batch, generator) to values of every example by name, each of shape (batch, …)."""


class EvaluationData(Protocol):
    """The interface of a data set that evaluation needs; :class:`elbowroom.data.dataset.DataSet` is one."""

    @property
    def labels(self) -> Tensor | None: ...

    def size(self, split: str) -> int: ...

    def batches(self, split: str, batch_size: int, *, points: int | None = None) -> Iterator[Batch]: ...

    def protocol(self) -> dict[str, Any]: ...


def stream(device: torch.device, seed: int, *path: int) -> torch.Generator:
    """The random stream of an evaluation, or of the part of it that ``path`` numbers."""
    for number in path:
        seed = (seed * 0x5851F42D4C957F2D + number + 1) % 2**63
    # data may themselves be drawn with this seed: the draws of z must not repeat the same numbers
    return torch.Generator(device).manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)


class EvaluationCache(Protocol):
    """A cache for the finished parts of a long evaluation, which its owner keeps until the results are safe."""

    def read(self, name: str) -> dict[str, Tensor] | None: ...

    def write(self, name: str, part: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True, slots=True)
class Study:
    """One evaluation: the model, the data and the settings that its methods share, and how they make results."""

    model: LatentModel
    guide: Conditional
    data: EvaluationData
    split: str
    settings: Settings
    announce: Progress
    keep: Keep = lambda method, values: None
    parts: EvaluationCache | None = None
    memory: dict[str, Any] = field(default_factory=dict)  #: what one method computed and another can use

    def over_data(
        self,
        method: str,
        per_batch: PerBatch,
        *,
        batch_size: int,
        points: int | None,
        resumable: bool = False,
        simulated: bool = False,
        finite: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """Values of every example by name, concatenated over the split, so that every example has the same weight.

        A ``resumable`` method has its own random stream for each batch, so that it does not matter which batches were
        finished before an interruption. Values of ``simulated`` data belong to no row of the data set.
        Those named by ``finite`` must be numbers: their mean over the other examples alone would be too good.

        Raises:
            NotFiniteError: some are not; names the rows.
        """
        total = self.data.size(self.split) if points is None else min(points, self.data.size(self.split))
        values: dict[str, list[Tensor]] = {}
        generator, done = None, 0
        for number, batch in enumerate(self.data.batches(self.split, batch_size, points=points)):
            if generator is None or resumable:  # on the data's device
                path = [zlib.crc32(method.encode()), number] if resumable else []
                generator = stream(batch.x.device, self.settings.seed, *path)
            part = self.part(f"{method}-{number}", partial(per_batch, batch, generator), resumable=resumable)
            if batch.index is not None and not simulated:
                part = {"row": batch.index, **part}
            for name, value in part.items():
                values.setdefault(name, []).append(value.double().cpu())
            done += len(batch)
            self.announce(method, done, total)
        joined = {name: torch.cat(several) for name, several in values.items()}
        kept_as = f"{method}-simulated" if simulated else method
        self.keep(kept_as, {name: value for name, value in joined.items() if value.dim() == 1})
        self._require_finite(method, joined, finite)
        return joined

    def _require_finite(self, method: str, values: dict[str, Tensor], names: Sequence[str]) -> None:
        bad = (
            ~torch.stack([values[name].isfinite().reshape(len(values[name]), -1).all(1) for name in names]).all(0)
            if names
            else None
        )
        if bad is None or not bool(bad.any()):
            return
        rows = values["row"][bad].long().tolist() if "row" in values else bad.nonzero().squeeze(1).tolist()
        some = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8:,} more" if len(rows) > 8 else "")
        raise NotFiniteError(
            f"{method} is not finite for {len(rows):,} of {len(bad):,} examples (row{'s' * (len(rows) > 1)} {some}), "
            "so there is no mean to report.",
            "They may lie far from the training data: leave these rows out, or look at them alone. `elbowroom score`, "
            "run.score() in Python, gives the values of all other rows and marks these.",
        )

    def part(self, name: str, make: Callable[[], dict[str, Tensor]], *, resumable: bool = True) -> dict[str, Tensor]:
        """A part from the cache, or else computed now and cached."""
        if self.parts is None or not resumable:
            return make()
        known = self.parts.read(name)
        if known is None:
            known = make()
            self.parts.write(name, {key: value.cpu() for key, value in known.items()})
        return known

    def average(
        self,
        method: str,
        name: str,
        values: Tensor,
        *,
        bound: Bound | None,
        asked: Mapping[str, Any],
        found: Mapping[str, Any] | None = None,
        repeated: float = 0.0,
    ) -> Result:
        """A result: the mean over examples, with the standard error of that mean.

        Args:
            method: name of the method.
            name: name of the result.
            values: of every example, nats, shape (n,).
            bound: whether the mean is a lower or an upper bound, or exact; not said of one whose sign is not sure, see
                :func:`~elbowroom.evaluation.results.sign_remark`.
            asked: the settings that it depends on; the seed is added.
            found: what else to report.
            repeated: what equal examples with the same draws add to the variance of the mean, see
                :func:`~elbowroom.evaluation.row_estimates.repetition_variance`.
        """
        value, stderr = mean_and_stderr(values)
        stderr = math.hypot(stderr, math.sqrt(repeated))
        return Result(
            name=name,
            method=method,
            value=value,
            stderr=stderr if math.isfinite(stderr) else None,  # unknown for a single example
            unit="nats",
            points=len(values),
            split=self.split,
            bound=None if sign_remark(name, value, stderr) else bound,
            asked={**asked, "seed": self.settings.seed},
            found=dict(found or {}),
            protocol=self.data.protocol(),
        )

    def count(
        self,
        method: str,
        name: str,
        number: float,
        *,
        of: int,
        points: int,
        stderr: float = math.nan,
        unit: str = "units",
        asked: Mapping[str, Any] | None = None,
        **found: Any,
    ) -> Result:
        """A result that counts units, or that is a number of codes; NaN for a standard error that is not known."""
        return Result(
            name=name,
            method=method,
            value=number,
            stderr=stderr if math.isfinite(stderr) else None,
            unit=unit,
            points=points,
            split=self.split,
            bound=None,
            asked={**(asked or {}), "seed": self.settings.seed},
            found={"of": of, **found},
            protocol=self.data.protocol(),
        )

    def with_bits(self, result: Result, values: Tensor, observed: Tensor, *, repeated: float = 0.0) -> list[Result]:
        r"""The result, and the same in bits per dimension where the data are bytes, counts or categories.

        .. math:: b = -\frac{\sum_n v_n}{\log 2 \, \sum_n d_n}, \qquad
            \mathrm{stderr} = \frac{1}{\bar{d}} \, \mathrm{stderr}\Big(\frac{v_n}{\log 2} + b \, d_n\Big)

        with :math:`v_n` the bound of example n and :math:`d_n` the number of its observed elements. Bounds of binary
        data are usually given in nats, so they have no bits per dimension. ``repeated`` is that of :meth:`average`.
        """
        if self.model.likelihood.support not in _IN_BITS:
            return [result]
        value_in_bits, dimensions = values / math.log(2), float(observed.mean())
        bits_per_dim = -float(value_in_bits.mean()) / dimensions
        stderr = mean_and_stderr(value_in_bits + bits_per_dim * observed)[1]
        stderr = math.hypot(stderr, math.sqrt(repeated) / math.log(2)) / dimensions
        bits = {
            "name": f"{result.name}, bits per dimension",
            "value": bits_per_dim,
            "stderr": stderr if math.isfinite(stderr) else None,
            "unit": "bits/dim",
            "bound": "exact" if result.bound == "exact" else "upper",
        }
        return [result, result.model_copy(update=bits)]


def split_rows(data: EvaluationData, split: str, most: int | None = None) -> Batch | None:
    """Rows of a split as one batch, all of them or so many, chosen by the data's seed; None where there are none."""
    if split not in getattr(data, "splits", {split}):
        return None
    size = data.size(split) if most is None else min(most, data.size(split))
    return next(iter(data.batches(split, size, points=size))) if size else None


def observed(batch: Batch) -> Tensor:
    """Number of observed elements of each example, shape (batch,)."""
    if batch.mask is None:
        return torch.full((len(batch),), batch.x[0].numel())
    return batch.mask.flatten(1).sum(1)


def require_normalized(model: LatentModel, method: str) -> None:
    """Refuses a likelihood that is not normalised.

    Raises:
        ElbowroomError: the likelihood is not normalised.
    """
    if not model.likelihood.normalized:
        raise ElbowroomError(
            f"{method} estimates log p(x), but {model.likelihood.name} does not integrate to one, so log p(x) does "
            "not exist.",
            "Train with --data.binarization dynamic, or with --model.likelihood continuous-bernoulli; "
            "--methods elbo,active-units works without log p(x).",
        )
