"""Splits are disjoint, complete, and functions of the seed."""

from __future__ import annotations

import itertools

import pytest
import torch

from elbowroom.data.splits import SPLITS, epoch_order, make_splits
from elbowroom.errors import ElbowroomError

SHARES = (0, 1, 3, 8, 0.0, 1e-300, 0.004, 0.1, 0.25, 1 / 3, 0.4)  # of rows, or the number of them


@pytest.mark.parametrize("n", [20, 21, 57, 199, 200])
def test_splits_partition_the_rows(n: int) -> None:
    for validation, test in itertools.product(SHARES, repeat=2):
        seed = n % 3 * 2**40
        splits = make_splits(n, validation=validation, test=test, seed=seed)
        assert list(splits) == list(SPLITS)
        assert torch.cat(list(splits.values())).sort().values.tolist() == list(range(n))
        assert all(torch.equal(rows, rows.sort().values) for rows in splits.values())
        for split, share in (("validation", validation), ("test", test)):
            wanted = share if share >= 1 or share == 0 else max(1, round(share * n))
            assert len(splits[split]) == wanted


def test_official_test_rows_stay() -> None:
    official = torch.arange(30, 40)
    splits = make_splits(40, validation=5, test=0.5, seed=0, test_rows=official)
    assert torch.equal(splits["test"], official)
    assert len(splits["validation"]) == 5
    assert not set(splits["validation"].tolist()) & set(official.tolist())
    assert len(splits["train"]) == 25


def test_seed_decides() -> None:
    def drawn(seed: int) -> list[int]:
        return make_splits(100, validation=0.2, test=0.2, seed=seed)["test"].tolist()

    assert drawn(0) == drawn(0) != drawn(1)


def test_epoch_order_is_a_permutation_and_a_function_of_seed_and_epoch() -> None:
    assert epoch_order(50, 0, 0).sort().values.tolist() == list(range(50))
    torch.rand(3)  # the global generator has no say
    assert torch.equal(epoch_order(50, 3, 7), epoch_order(50, 3, 7))
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), float("inf"), True])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_share(split: str, share: float) -> None:
    shares = {"validation": 0.0, "test": 0.0, split: share}
    with pytest.raises(ElbowroomError, match=rf"--data\.{split} is"):
        make_splits(10, seed=0, **shares)


@pytest.mark.parametrize(("validation", "test"), [(0, 10), (10, 0), (5, 5), (0, 11), (0.9, 0.9)])
def test_nothing_left_to_train_on(validation: float, test: float) -> None:
    with pytest.raises(ElbowroomError, match="at least one must be left to train on"):
        make_splits(10, validation=validation, test=test, seed=0)
