"""`score`: log p(x) of every row with its standard error, and whether both can be trusted.

By importance sampling every row has draws of its own (:mod:`elbowroom.evaluation.row_estimates`), so that its score
does not depend on the other rows, to the bit, and rows that need more draws can be given more.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, NotFiniteError, check_name
from elbowroom.evaluation.annealed_scores import annealed_scores
from elbowroom.evaluation.row_estimates import BATCH, guide_estimate, laplace_estimate
from elbowroom.evaluation.scores import FACTORS, Scores, judged, lacking
from elbowroom.evaluation.settings import Settings
from elbowroom.evaluation.study import EvaluationData, require_normalized
from elbowroom.evaluation.thresholds import TAIL_LIMITS
from elbowroom.inference.annealing.initial import default_start
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.progress import Progress, silent

__all__ = ["ScoreMethod", "score"]

ScoreMethod = Literal["auto", "iwae", "laplace-is", "ais"]

_DRAWS = 1000  # per row, unless given


def score(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    *,
    split: str = "test",
    points: int | None = None,
    method: ScoreMethod = "auto",
    k: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    announce: Progress = silent,
    **settings: Any,
) -> Scores:
    r"""log p(x) of every example, with its standard error, and whether both can be trusted.

    The numbers of an example do not depend on the other examples, to the bit, except with "ais", whose chains share
    temperatures and step sizes. They are those that :func:`~elbowroom.evaluation.evaluate.evaluate` keeps for the same
    rows, method, number of draws and seed.

    Args:
        model: p(x, z).
        guide: q(z | x).
        data: the data set, with values in the support of the likelihood.
        split: of the data set.
        points: number of examples of the split, chosen by the data's seed; by default all of them.
        method: "iwae", draws of the guide; "laplace-is", draws of Laplace approximations of each posterior; "ais",
            annealed importance sampling from there. "auto" takes laplace-is where z is continuous and the likelihood
            has a Fisher information, and else iwae.
        k: draws per example, by default 1,000; for "ais" a number of chains.
        tolerance: nats; examples whose standard error is larger, or that are not reliable, get 4, 16 and 64 times as
            many draws (for "ais", temperatures), until they are. Those that never are stay marked.
        seed: of the draws.
        announce: called with a name, the examples done and the examples in all.
        **settings: of :class:`~elbowroom.evaluation.settings.Settings`: ``proposal_width`` and ``prior_share`` for
            "iwae"; ``starts`` for "laplace-is"; ``temperatures``, ``start``, ``budget``, … for "ais".
    Raises:
        ElbowroomError: a likelihood that is not normalised; an unknown method or setting; a method that the model does
            not allow; an empty split.
        NotFiniteError: no example has a finite value.
    Example:
        >>> from elbowroom.data.loading import load_data
        >>> from elbowroom.model import oracles
        >>> model, guide, x = oracles.ppca(dim=8, latent_dim=2, seed=0, dtype=torch.float32)
        >>> found = score(model, guide, load_data(x, support="reals", test=0), split="train")
        >>> error = found.log_evidence - model.log_evidence(x)[found.rows]
        >>> found.method, bool(found.reliable.all()), bool((error.abs() < 5 * found.stderr).all())
        ('laplace-is', True, True)
    """
    require_normalized(model, "score")
    if k is not None and not (isinstance(k, Real) and k >= 1):
        raise ElbowroomError(f"k is {k!r}, but an average needs at least one draw per example.", "Give --k 1 or more.")
    if tolerance is not None and not (isinstance(tolerance, Real) and 0 < tolerance < math.inf):
        raise ElbowroomError(
            f"tolerance is {tolerance!r}, but it is the largest standard error to be reached, in nats.",
            "Give a positive number, such as 0.1.",
        )
    taken, given = _taken(model, method), {**settings, "seed": seed}
    asked = Settings.of({**given, "k": k or _DRAWS})
    if taken != "iwae" and (asked.proposal_width, asked.prior_share) != (1.0, 0.0):
        raise ElbowroomError(
            f"A wider proposal was asked for, but the method {taken} does not draw from the guide.",
            "Add --method iwae, or leave out --proposal-width and --prior-share.",
        )
    with evaluation_mode(model, guide):
        if taken == "ais":
            given |= {} if k is None else {"chains": k}
            given |= {} if tolerance is None else {"tolerance": tolerance}
            found = annealed_scores(
                model, guide, data, split=split, points=points, tolerance=tolerance, settings=given, announce=announce
            )
        else:
            found = _by_draws(model, guide, data, split, points, taken, tolerance, asked, announce)
    if not bool(found.log_evidence.isfinite().any()):
        raise NotFiniteError(
            f"log p(x) is not finite for any of the {len(found.rows):,} examples.",
            "They may lie far from the data that the model was trained on: look at them with `elbowroom data show`.",
        )
    return found


def _taken(model: LatentModel, method: str) -> str:
    """The method that is taken."""
    check_name("method", method, get_args(ScoreMethod))
    if method == "laplace-is":
        model.require_real("laplace-is", "Score by iwae or by ais.")
    curved = default_start(model, None) == "laplace"  # never so for codes
    if method == "auto":
        return "laplace-is" if curved else "iwae"
    if method == "laplace-is" and not curved:
        raise ElbowroomError(
            f"laplace-is needs a Fisher information, and {type(model.likelihood).__name__} does not define one.",
            "Score by iwae or by ais.",
        )
    return method


def _by_draws(
    model: LatentModel,
    guide: Conditional,
    data: EvaluationData,
    split: str,
    points: int | None,
    method: str,
    tolerance: float | None,
    settings: Settings,
    announce: Progress,
) -> Scores:
    """Scores by importance sampling."""
    dtype, k = next(model.parameters()).dtype, settings.k or _DRAWS

    def estimate(batch: Batch, draws: int) -> dict[str, Tensor]:
        if method == "iwae":
            found = guide_estimate(
                model, guide, batch, k=draws, seed=settings.seed, missed=True,
                width=settings.proposal_width, prior_share=settings.prior_share,
            )  # fmt: skip
        else:
            found = laplace_estimate(model, guide, batch, k=draws, starts=settings.starts, seed=settings.seed)
        return judged(found, draws, dtype, tail_limit=TAIL_LIMITS[method])

    total = data.size(split) if points is None else min(points, data.size(split))
    parts: list[dict[str, Tensor]] = []
    done = 0
    for batch in data.batches(split, BATCH, points=points):
        columns = estimate(batch, k)
        for factor in FACTORS:
            rows = lacking(columns, tolerance)
            if not len(rows):
                break
            for name, value in estimate(batch.rows(rows.to(batch.x.device)), factor * k).items():
                columns[name][rows] = value
        index = torch.arange(done, done + len(batch)) if batch.index is None else batch.index.cpu()
        parts.append({**columns, "rows": index})
        done += len(batch)
        announce("score", done, total)
    return Scores(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]}, method=method)
