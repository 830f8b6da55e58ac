r"""Convergence diagnostics of Markov chains: R-hat, effective sample sizes, E-BFMI, for many targets at once.

Draws have shape (draws, replicas, *). Replicas are the chains of one target; every index of the trailing axes is a
series of its own, and all series are worked on together. Each chain is cut into two halves, so that a chain that
drifts disagrees with itself; a middle draw is left out if their number is odd. Of M half-chains of n draws,

.. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{B}{W}}, \qquad
          \mathrm{ESS} = \frac{M n}{\hat\tau}, \qquad \hat\tau = -1 + 2 \sum_{k} \hat P_k

with B the variance of the half-chains' means, W the mean of their variances, and P_k the estimated autocorrelation at
the lags 2k and 2k + 1 together, which for a reversible chain is positive and decreases: the sum stops where it is
not, and is made to decrease before (Geyer). To serve distributions without moments too, values are replaced by
normal scores of their ranks ("bulk"), by those of their distance from the median ("folded", for chains that agree in
location but not in scale), or by whether they lie below a quantile ("tail").

Everything is computed in float64 and agrees with ArviZ. Two cases are defined by convention. Where every draw of every
chain is the same number, R-hat is NaN and the effective sample size is the number of draws, although such chains are
useless (``summary.measure`` counts them as stuck). Where each chain stays at a different point, R-hat is infinite.
Draws that are not finite are refused.

Reference:
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization: an improved
    R-hat, Bayesian Analysis 16(2), arXiv:1903.08008. Geyer (1992), Practical Markov chain Monte Carlo.
    Betancourt (2016), Diagnosing suboptimal cotangent disintegrations, arXiv:1604.00695.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.numerics import chunks

__all__ = ["Convergence", "diagnose", "ebfmi", "ess_bulk", "ess_mean", "ess_tail", "rhat"]

CHUNK_ELEMENTS = 2**18
"""Draws that are worked on at a time. Some twelve float64 copies of them are alive at once: 25 MB."""
MIN_DRAWS = 4
TAILS = (0.05, 0.95)


class Convergence(NamedTuple):
    """What :func:`diagnose` finds; every tensor is float64 and has the draws' trailing shape.

    Attributes:
        rhat: rank-normalised split R-hat, see :func:`rhat`.
        ess_bulk: see :func:`ess_bulk`.
        ess_tail: see :func:`ess_tail`.
    """

    rhat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor


def diagnose(draws: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Convergence:
    """R-hat, bulk and tail effective sample sizes together, at little more than the cost of one.

    Args:
        draws: shape (draws, replicas, *).
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or draws that are not finite.
    Example:
        >>> draws = torch.randn(200, 4, 10, 3, generator=torch.Generator().manual_seed(0))
        >>> diagnose(draws).rhat.shape, bool((diagnose(draws).rhat < 1.05).all())
        (torch.Size([10, 3]), True)
    """
    return Convergence(*_over_series(draws, (_rhat, _ess_bulk, _ess_tail), chunk_elements))


def rhat(draws: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    r"""Rank-normalised split R-hat: about 1 if chains agree in location and scale, with themselves and each other.

    .. math:: \hat R = \max(\hat R_\text{bulk}, \hat R_\text{folded})

    A single replica is compared with itself, half against half.

    Args:
        draws: shape (draws, replicas, *).
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (*). NaN where all draws are equal, infinite where each half-chain is constant but not all are.
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or draws that are not finite.
    Reference:
        Vehtari et al. (2021), sections 3 and 4, arXiv:1903.08008.
    Example:
        >>> mixed = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> apart = mixed + torch.arange(4)
        >>> bool(rhat(mixed) < 1.05), bool(rhat(apart) > 1.3)
        (True, True)
    """
    return _over_series(draws, (_rhat,), chunk_elements)[0]


def ess_bulk(draws: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Effective sample size of the bulk: how many independent draws would locate the centre as well.

    It exceeds the number of draws where they are antithetic, by a factor of log10(number) at most.

    Args:
        draws: shape (draws, replicas, *).
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (*).
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or draws that are not finite.
    Reference:
        Vehtari et al. (2021), section 4.1, arXiv:1903.08008.
    Example:
        >>> draws = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> slow = draws.repeat_interleave(5, dim=0)
        >>> bool(ess_bulk(slow) < 0.3 * slow.numel())
        True
    """
    return _over_series(draws, (_ess_bulk,), chunk_elements)[0]


def ess_tail(draws: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Effective sample size of the tails: the smaller of those of the 5 % and the 95 % quantile.

    Args:
        draws: shape (draws, replicas, *).
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (*).
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or draws that are not finite.
    Reference:
        Vehtari et al. (2021), section 4.3, arXiv:1903.08008.
    """
    return _over_series(draws, (_ess_tail,), chunk_elements)[0]


def ess_mean(draws: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Effective sample size of the mean, from the values themselves: it divides their variance.

    Args:
        draws: shape (draws, replicas, *), of finite variance.
        chunk_elements: how many draws to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (*).
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or draws that are not finite.
    Reference:
        Vehtari et al. (2021), section 2, arXiv:1903.08008.
    """
    return _over_series(draws, (_ess_mean,), chunk_elements)[0]


def ebfmi(energy: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    r"""Energy–Bayesian fraction of missing information of each chain; below 0.3, momenta explore energies too slowly.

    .. math:: \frac{\frac{1}{N - 1} \sum_{n=2}^N (E_n - E_{n-1})^2}{\frac{1}{N - 1} \sum_{n=1}^N (E_n - \bar E)^2}

    Args:
        energy: E, nats, shape (draws, replicas, *).
        chunk_elements: how many energies to work on at a time; it bounds the memory and changes no result.
    Returns:
        float64, shape (replicas, *); NaN for a chain whose energy never changes.
    Raises:
        ElbowroomError: fewer than two axes, fewer than 4 draws, no replica, or energies that are not finite.
    Reference:
        Betancourt (2016), section 3, arXiv:1604.00695.
    Example:
        >>> energy = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> ebfmi(energy).round(decimals=1)  # 2 for independent energies
        tensor([2.], dtype=torch.float64)
    """
    _check(energy)
    flat = energy.detach().flatten(1)
    found = [flat.new_empty(0, dtype=torch.float64)]
    for part in chunks(flat.shape[1], max(1, chunk_elements // len(flat))):
        chains = _finite(flat[:, part].double(), energy)
        found.append(chains.diff(dim=0).square().mean(0) / chains.var(0, correction=1))
    return torch.cat(found).view(energy.shape[1:])


class _SplitChains:
    """Chains of shape (series, replicas, draws) with what several diagnostics share, each worked out once."""

    def __init__(self, chains: Tensor) -> None:
        self.chains = chains

    @cached_property
    def halves(self) -> Tensor:
        """Shape (series, 2 replicas, draws // 2)."""
        half = self.chains.shape[-1] // 2
        return torch.cat([self.chains[..., :half], self.chains[..., -half:]], dim=1)

    @cached_property
    def sorted(self) -> tuple[Tensor, Tensor]:
        """The halves' values in ascending order and where they stood, shape (series, all draws)."""
        values, order = self.halves.flatten(1).sort(-1)
        return values, order

    @cached_property
    def scores(self) -> Tensor:
        """Normal scores, the halves' shape."""
        return _normal_scores(*self.sorted).view_as(self.halves)

    @cached_property
    def folded_scores(self) -> Tensor:
        """Normal scores of the distances from the median, the halves' shape."""
        values = self.sorted[0]
        middle = values.shape[-1] // 2  # an even number of draws, after the split
        median = 0.5 * (values[:, middle - 1] + values[:, middle])
        distance = (self.halves - median[:, None, None]).abs().flatten(1)
        return _normal_scores(*distance.sort(-1)).view_as(self.halves)

    def quantile(self, probability: float) -> Tensor:
        """Interpolated quantile of all draws, the middle ones included, shape (series, 1, 1)."""
        odd = self.chains.shape[-1] % 2
        values = self.chains.flatten(1).sort(-1).values if odd else self.sorted[0]
        position = (values.shape[-1] - 1) * probability
        low = math.floor(position)
        return torch.lerp(values[:, low], values[:, math.ceil(position)], position - low)[:, None, None]


def _normal_scores(values: Tensor, order: Tensor) -> Tensor:
    """Normal scores of average ranks, from sorted values and where they stood, shape (series, size).

    Blom's Φ⁻¹((rank − 3/8) / (size + 1/4)). A rank is a multiple of ½, so there are few scores to compute.
    """
    size = values.shape[-1]
    first = torch.ones_like(values, dtype=torch.bool)
    torch.ne(values[:, 1:], values[:, :-1], out=first[:, 1:])
    start = first.flatten().nonzero().squeeze(-1)  # a run of equal values never crosses from one series to the next
    length = torch.diff(start, append=start.new_tensor([values.numel()]))
    twice_rank = 2 * (start % size) + length + 1  # the average of the ranks start + 1 … start + length
    ranks = 0.5 * torch.arange(2, 2 * size + 1, dtype=torch.float64, device=values.device)
    table = torch.special.ndtri((ranks - 0.375) / (size + 0.25))
    scores = table[twice_rank - 2].repeat_interleave(length, output_size=values.numel())
    return torch.empty_like(values).scatter_(-1, order, scores.view_as(values))


def _rhat(chains: _SplitChains) -> Tensor:
    # only the folded one may be NaN alone: where all draws are equally far from the median
    return torch.fmax(_split_rhat(chains.scores), _split_rhat(chains.folded_scores))


def _ess_bulk(chains: _SplitChains) -> Tensor:
    return _ess(chains.scores)


def _ess_tail(chains: _SplitChains) -> Tensor:
    below = ((chains.halves <= chains.quantile(probability)).double() for probability in TAILS)
    return torch.minimum(*map(_ess, below))


def _ess_mean(chains: _SplitChains) -> Tensor:
    return _ess(chains.halves)


def _split_rhat(halves: Tensor) -> Tensor:
    """R-hat of half-chains as they are, of shape (series, half-chains, draws)."""
    n = halves.shape[-1]
    variance, mean = torch.var_mean(halves, -1, correction=1)
    return ((n - 1) / n + mean.var(-1, correction=1) / variance.mean(-1)).sqrt()


def _ess(halves: Tensor) -> Tensor:
    """Effective sample size of half-chains as they are, of shape (series, half-chains, draws)."""
    num_chains, n = halves.shape[1:]
    mean = halves.mean(-1, keepdim=True)
    autocovariance = _mean_autocovariance(halves - mean)
    within = autocovariance[:, :1] * n / (n - 1)
    total = autocovariance[:, :1] + mean.squeeze(-1).var(-1, keepdim=True, correction=1)
    correlation = 1 - (within - autocovariance) / total
    correlation[:, 0] = 1
    size = num_chains * n
    ess = size / _autocorrelation_time(correlation).clamp(min=1 / math.log10(size))
    constant = halves.amax((1, 2)) == halves.amin((1, 2))  # their autocorrelation is rounding error
    return torch.where(constant, size, ess)


def _mean_autocovariance(centered: Tensor) -> Tensor:
    """Autocovariances at the lags 0 … n − 1, divided by n and averaged over chains; (series, chains, n) to (series, n).

    Padded with as many zeros, a chain's end does not meet its beginning. The average is taken over power spectra, so
    that only one transform per series goes back.
    """
    n = centered.shape[-1]
    length = _fast_length(2 * n)
    spectrum = torch.view_as_real(torch.fft.rfft(centered, n=length))
    power = spectrum.square().mean(1).sum(-1)
    autocovariance: Tensor = torch.fft.irfft(power, n=length)[:, :n] / n
    return autocovariance


def _fast_length(least: int) -> int:
    """The smallest 2ᵃ 3ᵇ 5ᶜ from ``least`` on: Fourier transforms of that length are fast."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def _autocorrelation_time(correlation: Tensor) -> Tensor:
    """Geyer's initial monotone sequence, summed; autocorrelations of shape (series, n) to (series,).

    Pairs P_k count up to the first that is not positive, or the last. Of that one, its even lag counts once, as this
    lowers the variance for antithetic chains (Vehtari et al., section 3.2).
    """
    n = correlation.shape[-1]
    last = max(0, math.ceil((n - 4) / 2))
    pairs = correlation[:, : 2 * last + 1 : 2] + correlation[:, 1 : 2 * last + 2 : 2]
    ended = pairs <= 0
    ended[:, last] = True
    stop = ended.to(torch.uint8).argmax(-1, keepdim=True)  # the first
    counted = torch.arange(last + 1, device=pairs.device) < stop
    total = torch.where(counted, pairs.cummin(-1).values, 0.0).sum(-1)
    even = correlation[:, ::2].gather(-1, stop).squeeze(-1)
    remainder = torch.where(pairs.gather(-1, stop).squeeze(-1) >= 0, even, even.clamp(min=0))
    return -1 + 2 * total + remainder


def _over_series(
    draws: Tensor, functions: Sequence[Callable[[_SplitChains], Tensor]], chunk_elements: int
) -> list[Tensor]:
    """Each function of the chains, in chunks of series: draws of shape (draws, replicas, *) to results of shape (*)."""
    _check(draws)
    flat = draws.detach().flatten(2) if draws.dim() > 2 else draws.detach().unsqueeze(-1)
    results: list[list[Tensor]] = [[flat.new_empty(0, dtype=torch.float64)] for _ in functions]
    for part in chunks(flat.shape[-1], max(1, chunk_elements // (draws.shape[0] * draws.shape[1]))):
        chains = flat[..., part].permute(2, 1, 0).to(torch.float64, memory_format=torch.contiguous_format)
        shared = _SplitChains(_finite(chains, draws))
        for found, function in zip(results, functions, strict=True):
            found.append(function(shared))
    return [torch.cat(found).view(draws.shape[2:]) for found in results]


def _check(draws: Tensor) -> None:
    if draws.dim() < 2 or draws.shape[0] < MIN_DRAWS or draws.shape[1] < 1:
        raise ElbowroomError(
            f"Diagnostics were given draws of shape {tuple(draws.shape)}, but need (draws, replicas, *) with at least "
            f"{MIN_DRAWS} draws and a replica.",
            "Keep more draws, and let the first axis count them and the second the chains.",
        )


def _finite(part: Tensor, draws: Tensor) -> Tensor:
    """The values, if they are finite; an error describes the draws that they are from."""
    if bool(torch.isfinite(part).all()):
        return part
    bad = ~torch.isfinite(draws)
    first = torch.unravel_index(bad.flatten().to(torch.uint8).argmax(), bad.shape)
    raise ElbowroomError(
        f"{int(bad.sum())} of {bad.numel()} numbers of chains are NaN or infinite (the first at index "
        f"{tuple(map(int, first))} of shape {tuple(bad.shape)}).",
        "Check the step size of that chain, and its log density there.",
    )
