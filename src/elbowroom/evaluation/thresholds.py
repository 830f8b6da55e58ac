"""Thresholds that several methods and checks share, each with its reason or source."""

from __future__ import annotations

__all__ = ["ACTIVE_VARIANCE", "CERTAIN_Z", "LOW_ESS_SHARE", "MAIN_SHARE", "NOTABLE_NATS"]

CERTAIN_Z = 4.0
"""z-score from which a difference counts as certain. Chance exceeds it in 1 of 16,000 comparisons (two-sided), so that
the dozen comparisons of the doctor hardly ever give a false alarm."""

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
