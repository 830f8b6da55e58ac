"""Markov chain Monte Carlo (MCMC) for thousands of small targets at once. Nothing here depends on models.

The four steps are a target, a warm-up, draws, and diagnostics.

Example:
    >>> import torch
    >>> from elbowroom import samplers
    >>> centers = torch.arange(100.0).reshape(100, 1)  # a hundred targets, one for each example
    >>> target = samplers.Density(lambda z, center: -0.5 * (z - center).square().sum(-1), centers)
    >>> start, generator = torch.zeros(4, 100, 2), torch.Generator().manual_seed(0)  # 4 chains of each, in 2 dimensions
    >>> kernel, metric = samplers.NUTS(), samplers.Metric.identity(start)
    >>> warm = samplers.warm_up(kernel, target, start, metric=metric, num_steps=60, generator=generator)
    >>> chains = samplers.sample(kernel, target, warm.state, warm.tuning, draws=100, generator=generator)
    >>> chains.z.shape  # (draws, replicas, data, dim)
    torch.Size([100, 4, 100, 2])
    >>> bool(samplers.rhat(chains.z).median() < 1.01)
    True
"""

from elbowroom.samplers.adaptation import learn_dense, learn_diagonal, warm_up
from elbowroom.samplers.diagnostics import ebfmi, ess_bulk, ess_mean, ess_tail, rhat
from elbowroom.samplers.hmc import HMC, RandomWalk, mala
from elbowroom.samplers.kernel import Info, Kernel, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.sampling import Chains, sample
from elbowroom.samplers.summary import Summary, summarize
from elbowroom.samplers.target import Density, Target

__all__ = [
    "HMC",
    "NUTS",
    "Chains",
    "Density",
    "Info",
    "Kernel",
    "Metric",
    "RandomWalk",
    "State",
    "Summary",
    "Target",
    "Tuning",
    "ebfmi",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "init",
    "learn_dense",
    "learn_diagonal",
    "mala",
    "rhat",
    "sample",
    "summarize",
    "warm_up",
]
