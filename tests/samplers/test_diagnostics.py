"""Diagnostics against ArviZ, series by series, and against faults that they exist to find."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from scipy import stats
from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.samplers import diagnostics
from elbowroom.samplers.diagnostics import diagnose, ebfmi, ess_bulk, ess_mean, ess_tail, rhat

ESS = {"bulk": ess_bulk, "tail": ess_tail, "mean": ess_mean}


def autoregression(num_draws: int, *shape: int, phi: float | Tensor, seed: int = 0) -> Tensor:
    """Stationary chains x_t = φ x_{t−1} + noise of unit variance, shape (num_draws, *shape)."""
    noise = torch.randn(num_draws, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    phi = torch.as_tensor(phi, dtype=torch.float64)
    x = noise.clone()
    for t in range(1, num_draws):
        x[t] = phi * x[t - 1] + (1 - phi.square()).sqrt() * noise[t]
    return x


def rejections(x: Tensor) -> Tensor:
    """Every draw is the one before with probability 0.4, as after rejected proposals."""
    stays = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    x = x.clone()
    for t in range(1, len(x)):
        x[t] = torch.where(stays[t], x[t - 1], x[t])
    return x


# each with several series that stop at different lags, so that none can borrow its neighbour's
CORRELATIONS = torch.tensor([0.0, 0.3, 0.9, 0.99, -0.3, -0.9])
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "heavy tails": lambda x: torch.tan(math.pi * (torch.special.ndtr(x) - 0.5)),  # Cauchy
    "skewed and far away": lambda x: 1e4 + x.exp(),
    "rejected proposals": rejections,
    "integers": lambda x: (2 * x).round(),
    "binary": lambda x: (x > 1.0).double(),
    "signs": lambda x: torch.where(x > 0, 1.0, -1.0).double(),  # all equally far from the median
}


def arviz(function: str, x: Tensor, **settings: object) -> np.ndarray:
    """ArviZ's answer for draws of shape (draws, replicas, series)."""
    with np.errstate(all="ignore"):
        columns = x.double().permute(2, 1, 0).numpy()
        return np.array([getattr(array_stats, function)(column, **settings) for column in columns])


def arviz_ess(method: str, x: Tensor) -> np.ndarray:
    return arviz("ess", x, method=method, **({"prob": (0.05, 0.95)} if method == "tail" else {}))


def close(found: Tensor, expected: np.ndarray) -> None:
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("num_draws", [4, 5, 6, 7, 9, 100, 201])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_arviz(kind: str, replicas: int, num_draws: int) -> None:
    x = KINDS[kind](autoregression(num_draws, replicas, len(CORRELATIONS), phi=CORRELATIONS))
    found = diagnose(x)
    if replicas > 1:
        expected = arviz("rhat", x)
        # where each half-chain is constant, ArviZ divides by a rounding error
        close(found.rhat, np.where(expected > 1e12, np.inf, expected))
    close(found.ess_bulk, arviz_ess("bulk", x))
    close(found.ess_tail, arviz_ess("tail", x))
    close(ess_mean(x), arviz_ess("mean", x))


@pytest.mark.parametrize("num_draws", [4, 5, 100])
def test_rhat_of_one_replica_compares_its_halves(num_draws: int) -> None:
    """ArviZ asks for two chains, so that the formula is written out here."""
    x = autoregression(num_draws, 1, len(CORRELATIONS), phi=CORRELATIONS)
    n = num_draws // 2

    def literal(column: np.ndarray) -> float:
        halves = np.stack([column[:n], column[-n:]])
        found = []
        for values in (halves, abs(halves - np.median(halves))):
            z = stats.norm.ppf((stats.rankdata(values) - 3 / 8) / (2 * n + 1 / 4)).reshape(2, n)
            between = n * (z[0].mean() - z[1].mean()) ** 2 / 2
            within = (z[0].var(ddof=1) + z[1].var(ddof=1)) / 2
            found.append(math.sqrt(((n - 1) / n * within + between / n) / within))
        return max(found)

    close(rhat(x), np.array([literal(column) for column in x[:, 0].T.numpy()]))


@pytest.mark.parametrize("num_draws", [50, 51])
def test_each_function_is_its_part_of_diagnose(num_draws: int) -> None:
    x = autoregression(num_draws, 4, len(CORRELATIONS), phi=CORRELATIONS)
    for part, function in zip(diagnose(x), (rhat, ess_bulk, ess_tail), strict=True):
        assert torch.equal(part, function(x))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300])
@pytest.mark.parametrize("num_draws", [4, 7, 50])
def test_chains_that_are_one_number(num_draws: int, value: float) -> None:
    x = torch.full((num_draws, 4, 1), value, dtype=torch.float64)
    assert rhat(x).isnan().all()
    assert np.isnan(arviz("rhat", x)).all()
    for method, function in ESS.items():
        close(function(x), arviz_ess(method, x))
        assert function(x).item() == 4 * (num_draws // 2 * 2)


@pytest.mark.parametrize("num_draws", [7, 50])
def test_chains_that_stand_still_apart(num_draws: int) -> None:
    x = torch.tensor([0.1, 0.3, 0.7, 1.9], dtype=torch.float64).expand(num_draws, 4).unsqueeze(-1)
    assert rhat(x).isposinf().all()
    for method, function in ESS.items():
        close(function(x), arviz_ess(method, x))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)])
@pytest.mark.parametrize("function", [rhat, *ESS.values()])
def test_any_trailing_axes(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    x = autoregression(20, 2, *shape, phi=0.5)
    found = function(x)
    assert found.shape == shape
    for index in np.ndindex(*shape):
        torch.testing.assert_close(found[index], function(x[:, :, *index]), rtol=1e-12, atol=0)


def test_layout_and_precision_of_the_draws_change_nothing() -> None:
    x = autoregression(40, 3, 5, phi=0.5).float()
    before = x.clone()
    expected = diagnose(x.double())
    assert all(map(torch.equal, diagnose(x), expected))
    assert all(map(torch.equal, diagnose(x.permute(2, 1, 0).contiguous().permute(2, 1, 0)), expected))
    assert all(map(torch.equal, diagnose(x.requires_grad_()), expected))
    assert torch.equal(x, before)
    assert not diagnose(x).rhat.requires_grad
    counts = (3 * x.detach()).round()
    assert all(map(torch.equal, diagnose(counts.long()), diagnose(counts)))


@pytest.mark.parametrize("chunk_elements", [1, 250, 300, 10**9])
def test_chunks_bound_the_work_and_change_no_result(chunk_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = autoregression(31, 3, 4, 5, phi=0.5)
    expected = diagnose(x)
    sizes: list[int] = []
    chunks = diagnostics.chunks

    def recorded(total: int, size: int) -> Iterator[slice]:
        for part in chunks(total, size):
            sizes.append(93 * len(range(total)[part]))
            yield part

    monkeypatch.setattr(diagnostics, "chunks", recorded)
    found = diagnose(x, chunk_elements=chunk_elements)
    for part, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=0)
    assert sum(sizes) == x.numel()
    assert len(sizes) == math.ceil(20 / max(1, chunk_elements // 93))
    monkeypatch.undo()
    torch.testing.assert_close(ebfmi(x, chunk_elements=chunk_elements), ebfmi(x), rtol=1e-12, atol=0)


# ------------------------------------------------------------------ what diagnostics are for


def mixed(*, num_series: int = 100) -> Tensor:
    return autoregression(200, 4, num_series, phi=0.0, seed=3)


def test_a_shifted_chain_is_found() -> None:
    x = mixed()
    x[:, 0] += 1.0
    assert (rhat(x) > 1.05).all()
    assert (rhat(mixed()) < 1.05).all()


def test_a_stuck_chain_is_found_wherever_it_is_stuck() -> None:
    x = mixed()
    x[:, 2] = torch.linspace(-2, 2, 100, dtype=torch.float64)
    assert (rhat(x) > 1.05).all()
    far = torch.linspace(-2, 2, 100).abs() > 1
    assert (ess_bulk(x)[far] < 50).all()


def test_a_chain_of_another_scale_is_found_although_locations_agree() -> None:
    x = mixed()
    x[:, 1] *= 4.0
    located = arviz("rhat", x, method="z_scale")
    assert np.mean(located > 1.05) < 0.05
    assert (rhat(x) > 1.05).all()


def test_one_chain_that_drifts_is_found() -> None:
    x = mixed()[:, :1] + torch.linspace(-1.5, 1.5, 200).double()[:, None, None]
    assert (rhat(x) > 1.05).all()


def test_a_fault_stays_with_its_series() -> None:
    x = mixed(num_series=50)
    faulty = x.clone()
    faulty[:, 0, 7] += 2.0
    others = torch.arange(50) != 7
    for before, after in zip(diagnose(x), diagnose(faulty), strict=True):
        torch.testing.assert_close(before[others], after[others], rtol=1e-12, atol=0)
    assert rhat(faulty).argmax() == 7


@pytest.mark.parametrize("phi", [0.0, 0.7, -0.5])
def test_ess_is_the_precision_of_the_mean(phi: float) -> None:
    """The mean of unit-variance chains has variance 1 / ESS: with the right ESS, scores have unit variance."""
    x = autoregression(1000, 4, 1000, phi=phi, seed=5)
    squares = x.mean((0, 1)).square() * ess_mean(x)
    assert abs((squares.mean() - 1) / squares.std() * math.sqrt(len(squares))) < 4


def test_antithetic_chains_are_worth_more_than_independent_ones() -> None:
    x = autoregression(500, 4, 50, phi=-0.5)
    assert (ess_bulk(x) > 2000).all()
    assert (ess_mean(x) > 2000).all()
    perfectly = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(250)[:, None].expand(500, 4)
    assert ess_mean(perfectly).item() == pytest.approx(2000 * math.log10(2000))


def test_chains_that_linger_in_one_tail_are_found_whichever_it_is() -> None:
    """Of each chain, all values beyond the 90 % quantile come last."""
    x = mixed(num_series=20)
    order = torch.sort((x > 1.2816).to(torch.uint8), dim=0, stable=True).indices
    lingering = x.gather(0, order)
    assert (ess_tail(x) > 400).all()
    for sign in (1, -1):
        assert (ess_tail(sign * lingering) < 100).all()


def test_ranks_make_monotone_transformations_invisible() -> None:
    x = autoregression(101, 3, 10, phi=0.6)
    torch.testing.assert_close(ess_bulk(x), ess_bulk(x.exp()), rtol=1e-12, atol=0)
    assert not torch.allclose(ess_mean(x), ess_mean(x.exp()), rtol=1e-3)


# ------------------------------------------------------------------ energies


@pytest.mark.parametrize("num_draws", [4, 5, 100])
@pytest.mark.parametrize("replicas", [1, 4])
def test_ebfmi_equals_arviz(replicas: int, num_draws: int) -> None:
    energy = 1e3 + autoregression(num_draws, replicas, len(CORRELATIONS), phi=CORRELATIONS)
    close(ebfmi(energy), arviz("bfmi", energy).T)
    close(ebfmi(energy[..., 0]), arviz("bfmi", energy)[0])


def test_ebfmi_of_autoregressive_energies() -> None:
    """E (E_n − E_{n−1})² / Var E = 2 (1 − φ)."""
    for phi in (0.0, 0.9):
        found = ebfmi(autoregression(4000, 1, 200, phi=phi)).flatten()
        assert abs((found.mean() - 2 * (1 - phi)) / found.std() * math.sqrt(len(found))) < 4


def test_ebfmi_of_an_energy_that_never_changes() -> None:
    assert ebfmi(torch.full((10, 2, 3), 0.1)).isnan().all()


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("function", [diagnose, rhat, *ESS.values(), ebfmi])
@pytest.mark.parametrize("shape", [(), (10,), (3, 4, 2), (0, 4), (10, 0, 2)])
def test_refused_shapes(function: Callable[[Tensor], object], shape: tuple[int, ...]) -> None:
    with pytest.raises(ElbowroomError, match="4 draws") as caught:
        function(torch.zeros(shape))
    assert str(shape) in caught.value.problem


@pytest.mark.parametrize("function", [diagnose, rhat, *ESS.values(), ebfmi])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("chunk_elements", [1, 10**6])
def test_refused_values(function: Callable[..., object], value: float, chunk_elements: int) -> None:
    x = torch.randn(20, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    x[10, 1, 2, 3] = value  # the middle draw of none, the last series
    x[15, 1, 2, 3] = value
    with pytest.raises(ElbowroomError, match=r"2 of 480 .* index \(10, 1, 2, 3\)"):
        function(x, chunk_elements=chunk_elements)
    odd = torch.zeros(5, 2)
    odd[2, 0] = value  # the draw that the split leaves out
    with pytest.raises(ElbowroomError, match=r"index \(2, 0\)"):
        function(odd)
