"""Thresholds that several methods and checks share, each with its reason or source."""

from __future__ import annotations

__all__ = [
    "ACTIVE_VARIANCE",
    "CERTAIN_Z",
    "COLUMN_NATS",
    "COLUMN_P",
    "LEAST_CHAINS",
    "LEAST_ESS",
    "LOW_ESS_SHARE",
    "MAIN_SHARE",
    "MISSED_SHARE",
    "NOTABLE_NATS",
    "RESOLVED_NATS",
    "TAIL_LIMITS",
]

CERTAIN_Z = 4.0
"""z-score from which a difference counts as certain. Chance exceeds it in 1 of 16,000 comparisons (two-sided), so that
the dozen comparisons of the doctor hardly ever give a false alarm."""

COLUMN_P = 1e-3
"""How often chance may name any column of a table, over all its columns and the tests of each. One may look at dozens
of runs of one table, and should hardly ever see a false alarm."""

COLUMN_NATS = 0.02
"""Nats per row and column from which a wrong density is worth a warning: in trials on six tables, models of one kind
differ by a tenth of a nat over all columns of a row, of which there were five to thirty."""

ACTIVE_VARIANCE = 0.01
"""Variance over the data of a latent's posterior mean above which the latent counts as active (for a learned prior in
units of the prior's own variance): Burda, Grosse &
Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.2, arXiv:1509.00519."""

LOW_ESS_SHARE = 0.1
"""Effective sample size, as a share of the draws, below which an importance-weighted estimate is called loose."""

NOTABLE_NATS = 1.0
"""Nats per example from which a loss is worth a warning: published models of one kind differ by about as much."""

MAIN_SHARE = 0.5
"""Share of an effect from which a cause is called its main cause."""

MISSED_SHARE = 0.01
"""Share of p(x) that draws of a guide over codes may be expected to miss (:func:`elbowroom.inference.importance.codes.\
missed_share`), for a row's score to be reliable. On digits, 4 slots of 8 codes and 1,000 draws, against enumeration:
of a trained guide 99.5% of the rows pass, with z-scores of a root mean square of 1.00; of the same guide at a half, a
quarter and a tenth of its temperature 20%, 0.3% and none, where Pareto k̂ passed rows that were up to 3 nats too low."""

LEAST_ESS = 20.0
"""Effective draws from which the standard error of a logarithm of an average holds: with 20 of 1,000 it is 0.22 nat."""

LEAST_CHAINS = 8.0
"""The same for annealing chains, of which there are fewer; their weights have lighter tails."""

RESOLVED_NATS = 0.1
"""Nats that the floating-point type of a model has to resolve in log p(x): in float32, up to 200,000 nats."""

TAIL_LIMITS = {"iwae": 0.2, "laplace-is": 1.0}
"""What Pareto k̂ with twice its standard error must not exceed, for a row's score to be reliable.

Weights with k < 1 have a mean. For the weights of Laplace proposals, which are bounded by their defensive component,
that is enough: of 1,000 draws k̂ may be 0.66, which is the usual limit (Vehtari et al. 2024, arXiv:1507.02646), and a
lower one would select rows that miss their largest weights by chance. A guide that is too narrow by a factor of w has
k = 1 − w², and nothing bounds its weights. Of its rows those pass that have missed the largest by chance, so that the
limit is lower: on linear-Gaussian data of 2, 8 and 20 dimensions, rows of poor encoders that pass at 0.5 have z-scores
of a root mean square of 1.02, 1.16 and 1.22, at 0.2 of 1.03, 1.01 and 1.01."""
