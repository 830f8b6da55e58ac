r"""Which columns make a row of a table unlikely: log p of each value given all others of its row.

.. math:: \log p(x_d | x_{-d}) = \log p(x) - \log p(x_{-d})

in the units of log p(x): of a probability, or of a density in the unit of its column. Numbers of two columns do not
compare as they are, since another unit moves one of them, and since a column of ten equally likely levels has −2.3
in every row. So columns are compared by how far a value is below what is usual in its column,

.. math:: s_d = \mathbb{E}_{x' \sim p} [\log p(x'_d | x'_{-d})] - \log p(x_d | x_{-d})

with the mean over rows that the model draws (it is minus the conditional entropy), and densities on the column's own
axis, that of the logarithm for positive numbers. s is in nats, about 0 on average, and has no unit.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.row_estimates import BATCH, element_estimate
from elbowroom.evaluation.scores import judged
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import EvaluationData, require_normalized
from elbowroom.evaluation.thresholds import TAIL_LIMITS
from elbowroom.inference.annealing.initial import default_start
from elbowroom.inference.importance.left_out import draws_in_all
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.table.atoms import equals
from elbowroom.model.table.likelihood import Table
from elbowroom.progress import Progress, silent

__all__ = ["ColumnScores", "column_scores", "require_columns", "why_no_columns"]

_DRAWS = 1000  # of a row, to which a tenth comes for every column
_SIMULATED = 64  # rows of the model; the mean of a column has an error of about a tenth of a nat
_MOST_CODES = 4096  # that are summed over


class ColumnScores(NamedTuple):
    """log p of each value of each row given the other values of the row.

    Attributes:
        log_p: ``log p(x_d | x_-d)``, nats, in the unit of the column where it is of a density, float64, shape (n, D).
            NaN where nothing was observed, and in rows whose log p(x) is not finite.
        stderr: its standard error, shape (n, D).
        reliable: whether both can be trusted, as of :class:`~elbowroom.evaluation.scores.Scores`, bool, shape (n, D).
        surprise: how far log p is below its mean in that column, nats, shape (n, D).
        usual: that mean, over rows of the model, on the column's standardised axis, shape (D,).
        rows: positions in the data set or the file, int64, shape (n,).
    """

    log_p: Tensor
    stderr: Tensor
    reliable: Tensor
    surprise: Tensor
    usual: Tensor
    rows: Tensor

    @property
    def least_likely(self) -> Tensor:
        """The column of the largest surprise in each row, int64, shape (n,); −1 where there is none."""
        known = self.surprise.nan_to_num(nan=-math.inf)
        return torch.where(known.isneginf().all(1), -1, known.argmax(1))


def why_no_columns(model: LatentModel) -> str | None:
    """Why columns of a model have no scores, as a sentence; None where they have."""
    if len(model.likelihood.event_shape) != 1:
        return f"The examples have the shape {model.likelihood.event_shape}, and no columns."
    if model.likelihood.sees_other_elements:
        return "Its columns are modelled one after the other, each given those before it."
    if model.latent_support == "codes":
        size = model.space.size
        return f"Its z has {size:.3g} codes, too many to sum over." if size > _MOST_CODES else None
    if default_start(model, None) != "laplace":
        return f"{type(model.likelihood).__name__} does not define a Fisher information."
    return None


def require_columns(model: LatentModel) -> None:
    """Refuse a model whose columns have no scores.

    Raises:
        ElbowroomError: says why.
    """
    if (why := why_no_columns(model)) is not None:
        raise ElbowroomError(f"Columns of this model have no scores. {why}", "Leave it out: --columns no.")


def column_scores(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    split: str = "test",
    points: int | None = None,
    k: int | None = None,
    seed: int = 0,
    announce: Progress = silent,
) -> ColumnScores:
    """log p of each value given the others of its row, and how surprising that is.

    The numbers of a row do not depend on the other rows, to the bit; but the surprise of a model with covariates does,
    by the covariates of the first rows, for which rows are drawn.

    Args:
        model: p(x, z), of vectors whose elements are independent given z, or a mixture of such.
        guide: q(z | x), for starts.
        data: the data set, with values in the support of the likelihood.
        split: of the data set.
        points: number of examples of the split, chosen by the data's seed; by default all of them.
        k: draws per example, by default 1,000, to which a tenth comes for every column. Codes are summed over.
        seed: of the draws.
        announce: called with a name, the examples done and the examples in all.
    Raises:
        ElbowroomError: a likelihood that is not normalised; a model whose elements are no columns, or whose posteriors
            have no Laplace approximation; ``k`` below 1.
    Example:
        >>> from elbowroom.data.loading import load_data
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=4, latent_dim=1, seed=0, dtype=torch.float32)
        >>> x[3, 2] += 9
        >>> found = column_scores(model, guide, load_data(x, support="reals", test=0), split="train", k=200)
        >>> int(found.least_likely[found.rows == 3]), bool(found.surprise.max() == found.surprise[found.rows == 3, 2])
        (2, True)
    """
    require_normalized(model, "score")
    require_columns(model)
    if k is not None and not (isinstance(k, Real) and k >= 1):
        raise ElbowroomError(f"k is {k!r}, but an average needs at least one draw per example.", "Give --k 1 or more.")
    settings = Settings.of({"seed": seed, "k": k or _DRAWS})
    with evaluation_mode(model, guide):
        estimate = _Estimate(model, guide, settings)
        total = data.size(split) if points is None else min(points, data.size(split))
        parts: list[dict[str, Tensor]] = []
        usual: Tensor | None = None
        done = 0
        for batch in data.batches(split, BATCH, points=points):
            if usual is None:
                usual = estimate.usual(batch)
            found = estimate.of(batch)
            found["surprise"] = usual - found.pop("on_axis")
            found["rows"] = torch.arange(done, done + len(batch)) if batch.index is None else batch.index.cpu()
            parts.append(found)
            done += len(batch)
            announce("columns", done, total)
    if usual is None:
        raise ElbowroomError(f"The split {split} is empty.", "Score another one.")
    return ColumnScores(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}, usual=usual)


class _Estimate:
    """Scores of columns for batches of one model."""

    def __init__(self, model: LatentModel, guide: Conditional, settings: Settings) -> None:
        self.model, self.guide, self.settings = model, guide, settings
        likelihood = model.likelihood.elementwise
        self.columns = likelihood.columns if isinstance(likelihood, Table) else None
        like = next(model.parameters())
        shift = dict(likelihood.named_buffers()).get("shift", like.new_zeros(()))
        self.filler = like.new_tensor(math.nan) if likelihood.support is Support.TABLE else shift

    def of(self, batch: Batch) -> dict[str, Tensor]:
        """The scores by name, and as "on_axis" log p on the columns' axes, on the CPU."""
        k = self.settings.k or _DRAWS
        found = element_estimate(
            self.model, self.guide, batch, self.filler, k=k, starts=self.settings.starts, seed=self.settings.seed
        )
        size = tuple(batch.x.shape)
        if found["log_evidence"].isfinite().any():
            whole = {"log_evidence": "log_conditional", "stderr": "stderr", "ess": "ess", "pareto_k": "pareto_k"}
            given = {name: found[of] for name, of in whole.items()}
        else:
            given = {name: torch.full(size, math.nan) for name in ("log_evidence", "stderr", "ess", "pareto_k")}
        dtype = next(self.model.parameters()).dtype
        draws = draws_in_all(k, size[1])
        columns = judged(given, draws, dtype, tail_limit=TAIL_LIMITS["laplace-is"])
        missing = batch.x.isnan() if batch.mask is None else ~batch.mask
        missing = missing.cpu() | ~found["log_evidence"].isfinite().cpu().unsqueeze(1)
        log_p = columns["log_evidence"].masked_fill(missing, math.nan)
        return {
            "log_p": log_p,
            "stderr": columns["stderr"].masked_fill(missing, math.nan),
            "reliable": columns["reliable"] & ~missing,
            "on_axis": log_p if self.columns is None else log_p + log_units(self.columns, batch.x.double().cpu()),
        }

    def usual(self, like: Batch) -> Tensor:
        """The mean of log p on the axis in each column, over rows of the model."""
        generator = torch.Generator(like.x.device).manual_seed(self.settings.seed)
        context = None
        if like.context is not None:
            context = like.context[torch.arange(_SIMULATED, device=like.x.device) % len(like)]
        x = self.model.sample(_SIMULATED, context=context, generator=generator).x
        return self.of(Batch(x.to(like.x), context=context))["on_axis"].nanmean(0)


def log_units(columns: tuple[Column, ...], x: Tensor) -> Tensor:
    r"""log of what a step of one on the column's standardised axis is in its unit at x, 0 for probabilities.

    Args:
        columns: of a table.
        x: rows, shape (n, D).
    Example:
        >>> columns = Column("a", ColumnKind.POSITIVE, unit=0.5, atom=0.0), Column("b", ColumnKind.BINARY, ("n", "y"))
        >>> log_units(columns, torch.tensor([[0.0, 1.0], [8.0, 1.0]])).exp()
        tensor([[1., 1.],
                [4., 1.]])
    """
    found = torch.zeros_like(x)
    for place, column in enumerate(columns):
        if column.is_probability:
            continue
        value = x[:, place]
        step = torch.full_like(value, column.unit)
        if column.kind is ColumnKind.POSITIVE:
            step = step * value
        elif column.kind is ColumnKind.PROPORTION:
            step = value * (1 - value)
        atom = torch.tensor(math.nan if column.atom is None else column.atom, dtype=x.dtype)
        found[:, place] = torch.where(equals(value, atom), 0.0, step.log())
    return found
