r"""Scores of rows, and which of them are reliable.

An estimate by importance sampling is unbiased for p(x) whatever it draws from, but its standard error is estimated from
the same draws. Where the proposal misses a part of the posterior, both are wrong together: the score is nats too low,
and the error does not say so. So every row is called reliable or not. It is reliable where

- its value is finite, and not so large that the floating-point type no longer resolves a tenth of a nat of it;
- the tail of the weights is light enough for their average to converge, by Pareto k̂ with twice its standard error
  (:mod:`elbowroom.inference.importance.pareto`). Without the error, rows would pass that have missed their largest
  weights by chance, and these are the ones whose values are too low. Of codes, the tail of many equal weights has no
  shape, and a guide that is too sharp shows no tail at all. So for them it is counted what the draws have missed next
  to the most likely code (:func:`~elbowroom.inference.importance.codes.missed_share`), whatever k̂ is;
- enough draws are effective, since the error of a logarithm holds only where it is small;
- the draws could differ: a guide that is narrower than the last digit of its mean draws one point again and again.

The thresholds (:mod:`elbowroom.evaluation.thresholds`) are checked against linear-Gaussian models, whose evidence is
known: over the rows that are called reliable, errors divided by standard errors have a root mean square of about one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.evaluation.thresholds import LEAST_CHAINS, LEAST_ESS, MISSED_SHARE, RESOLVED_NATS
from elbowroom.inference.importance.pareto import pareto_stderr

__all__ = ["FACTORS", "Scores", "judged", "judged_chains", "lacking"]

FACTORS = (4, 16, 64)
"""Times as many draws, or temperatures, for rows that need more."""


class Scores(NamedTuple):
    """log p(x) of each example, with its standard error, and whether both can be trusted.

    Where ``reliable`` is False, the value is a lower bound in expectation that may lie far below log p(x), and the
    standard error may be too small. A value that is not finite is NaN.

    Attributes:
        log_evidence: nats, float64, shape (n,); in expectation a lower bound on log p(x).
        stderr: its standard error, nats, shape (n,).
        pareto_k: k̂ of the weights' tail, shape (n,); NaN for "ais" and for fewer than 21 draws.
        ess: effective number of draws, or of annealing chains, shape (n,).
        draws: number of draws, or of annealing chains, int64, shape (n,).
        reliable: whether value and standard error can be trusted, bool, shape (n,).
        resolved: whether the floating-point type of the model resolves the value, bool, shape (n,). It does not for an
            example so far from the training data that its log p(x) is a huge number.
        rows: positions in the data set or the file, int64, shape (n,).
        method: "iwae", "laplace-is" or "ais".
    """

    log_evidence: Tensor
    stderr: Tensor
    pareto_k: Tensor
    ess: Tensor
    draws: Tensor
    reliable: Tensor
    resolved: Tensor
    rows: Tensor
    method: str


def judged(
    found: dict[str, Tensor], draws: int, dtype: torch.dtype, *, tail_limit: float = math.inf
) -> dict[str, Tensor]:
    """The columns of :class:`Scores` that estimates by importance sampling give, on the CPU.

    Args:
        found: "log_evidence", and where they are known "stderr", "ess", "pareto_k", "differ", whether the draws do, and
            of codes "missed", the share of p(x) that the draws missed, which is judged in the place of k̂; each of shape
            (n,).
        draws: of each row.
        dtype: of the model.
        tail_limit: what k̂, with two standard errors, must not exceed.
    """
    unknown = torch.full_like(found["log_evidence"], math.nan)
    value, stderr, tail, ess = (
        found.get(name, unknown).double().cpu() for name in ("log_evidence", "stderr", "pareto_k", "ess")
    )
    finite = value.isfinite()
    resolved = finite & (4 * torch.finfo(dtype).eps * value.abs() <= RESOLVED_NATS)
    differ = found["differ"].bool().cpu() if "differ" in found else torch.ones_like(finite)
    if "missed" in found:
        covered = found["missed"].cpu() <= MISSED_SHARE
    else:
        covered = tail + 2 * pareto_stderr(tail, draws) <= tail_limit
    return {
        "log_evidence": torch.where(finite, value, math.nan),
        "stderr": torch.where(finite, stderr, math.nan),
        "pareto_k": tail,
        "ess": ess,
        "draws": torch.full(value.shape, draws),
        "reliable": resolved & differ & covered & (ess >= LEAST_ESS),
        "resolved": resolved,
    }


def judged_chains(found: dict[str, Tensor], chains: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same of estimates by annealing, whose weights are too few for a tail."""
    columns = judged({name: found[name] for name in ("log_evidence", "stderr", "ess")}, chains, dtype)
    return {**columns, "reliable": columns["resolved"] & (columns["ess"] >= LEAST_CHAINS)}


def lacking(columns: dict[str, Tensor], tolerance: float | None) -> Tensor:
    """Positions of the rows that more draws may help: not reliable, or of a standard error above the tolerance.

    Without a tolerance there are none.
    """
    if tolerance is None:
        return torch.arange(0)
    short = ~columns["reliable"] | ~(columns["stderr"] <= tolerance)
    return (short & columns["resolved"]).nonzero().squeeze(1)
