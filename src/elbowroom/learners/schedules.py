"""Learning rates over a run, as pure functions of progress: nothing to save, nothing to restore.

Each maps progress, the share of the run's steps already made, in [0, 1), to a factor of the peak learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "iwae_stages", "one_cycle"]

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """The same learning rate throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, SGDR, eq. 5, one period, arXiv:1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Up from 1/25 over the first 30% and down to 4e-6, along cosines (Smith & Topin 2019, arXiv:1708.07120).

    The shape and constants of ``torch.optim.lr_scheduler.OneCycleLR``, which also cycles the momentum; this does not.
    """
    first, start, end = 0.3, 1 / 25, 4e-6
    if progress < first:
        return start + (1 - start) * (1 - cosine(progress / first))
    return end + (1 - end) * cosine((progress - first) / (1 - first))


def iwae_stages(progress: float) -> float:
    r"""Eight stages of :math:`3^i` epochs at :math:`10^{-i/7}` times the peak, i = 0…7, 3,280 epochs in all.

    A shorter run keeps the stages' proportions (Burda et al. 2016, section 5, arXiv:1509.00519).
    """
    # stages 0..i end at (3^(i+1) − 1) / 2 of 3,280 epochs
    stage = next(i for i in range(8) if progress * 3280 < (3 ** (i + 1) - 1) / 2 or i == 7)
    return float(10 ** (-stage / 7))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "iwae-stages": iwae_stages,
}
