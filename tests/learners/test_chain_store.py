"""What is left for a datum is found by that datum, and by no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import elbowroom.memory
from elbowroom.errors import ElbowroomError
from elbowroom.learners.chain_store import BatchChains, ChainStore
from elbowroom.samplers.metric import Metric

DATA, CHAINS, DIM = 7, 3, 2
LIKE = torch.zeros(DIM, dtype=torch.float64)


def _chains(folder: Path | None = None, *, dense: bool = False) -> ChainStore:
    return ChainStore(torch.arange(DATA), CHAINS, LIKE, dense=dense, folder=folder)


def _found(index: Tensor, *, dense: bool, seed: int = 0) -> BatchChains:
    """Numbers of which no two are alike."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = len(index)
    factor = some(n, DIM, DIM).triu() if dense else some(n, DIM)
    visits = torch.arange(n) + 10 * seed
    return BatchChains(some(CHAINS, n, DIM), Metric(some(n, DIM), factor, upper=dense), some(n), visits)


def _same(a: BatchChains, b: BatchChains) -> bool:
    parts = [(a.z, b.z), (a.metric.center, b.metric.center), (a.metric.factor, b.metric.factor)]
    parts += [(a.log_step, b.log_step), (a.visits, b.visits)]
    return all(torch.equal(x, y) for x, y in parts) and a.metric.upper == b.metric.upper


@pytest.mark.parametrize("dense", [False, True], ids=["diagonal", "dense"])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_what_is_left_is_found_in_any_order(dense: bool, on_disk: bool, tmp_path: Path) -> None:
    chains = _chains(tmp_path / "chains" if on_disk else None, dense=dense)
    here, there = torch.tensor([5, 0, 3]), torch.tensor([6, 1])
    first, second = _found(here, dense=dense), _found(there, dense=dense, seed=1)
    chains.write(here, first)
    chains.write(there, second)  # other data do not disturb
    assert _same(chains.read(here), first)
    assert _same(chains.read(there), second)
    order = torch.tensor([2, 0])  # 3, then 5
    turned = BatchChains(first.z[:, order], first.metric.select(order), first.log_step[order], first.visits[order])
    assert _same(chains.read(here[order]), turned)
    assert chains.read(torch.tensor([2, 4])).visits.tolist() == [0, 0]


def test_what_is_found_is_a_copy() -> None:
    chains, index = _chains(), torch.arange(DATA)
    left = _found(index, dense=False)
    chains.write(index, left)
    before, again = chains.read(index), chains.read(index)
    for found in (left, again):
        for tensor in (found.z, found.metric.center, found.metric.factor, found.log_step, found.visits):
            tensor.add_(1)
    assert _same(chains.read(index), before)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_everything_written_down_comes_back(on_disk: bool, tmp_path: Path) -> None:
    index = torch.arange(DATA)
    before = _chains(tmp_path / "a" if on_disk else None, dense=True)
    before.write(index, _found(index, dense=True))
    written = {name: tensor.clone() for name, tensor in before.tensors().items()}
    after = _chains(tmp_path / "b" if on_disk else None, dense=True)
    after.load(written)
    assert _same(after.read(index), before.read(index))
    after.write(index[:1], _found(index[:1], dense=True, seed=2))  # a store of its own
    assert _same(before.read(index), _found(index, dense=True))


def test_files_of_a_run_before_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    index = torch.arange(DATA)
    _chains(tmp_path).write(index, _found(index, dense=False, seed=1))
    assert _chains(tmp_path).read(index).visits.tolist() == [0] * DATA


def test_chains_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed = 8 * DATA * (CHAINS * DIM + DIM + DIM + 1 + 1)
    monkeypatch.setattr(elbowroom.memory, "available_memory", lambda: needed)
    _chains()
    monkeypatch.setattr(elbowroom.memory, "available_memory", lambda: needed - 1)
    with pytest.raises(ElbowroomError, match=r"3 chains in 2 dimensions for each of 7 examples.* memory") as caught:
        _chains()
    assert "--mcem.storage disk" in caught.value.remedy
    _chains(tmp_path)  # the disk is another matter


def test_only_the_named_positions_have_chains_and_others_are_refused() -> None:
    chains = ChainStore(torch.tensor([3, 8, 9]), CHAINS, LIKE, dense=False)
    assert chains.tensors()["z"].shape[0] == 3
    index = torch.tensor([9, 3])
    found = chains.read(index)
    marked = found._replace(log_step=torch.tensor([0.9, 0.3]), visits=found.visits + 1)
    chains.write(index, marked)
    assert chains.read(torch.tensor([3, 8, 9])).log_step.tolist() == pytest.approx([0.3, 0.0, 0.9])
    for stranger in (0, 4, 10):
        with pytest.raises(ElbowroomError, match="not in the training set"):
            chains.read(torch.tensor([3, stranger]))


def test_data_without_positions_are_refused() -> None:
    chains = _chains()
    with pytest.raises(ElbowroomError, match="position in the data set") as caught:
        chains.read(None)
    assert "--mcem.start prior" in caught.value.remedy
    with pytest.raises(ElbowroomError, match="position in the data set"):
        chains.write(None, _found(torch.arange(2), dense=False))
