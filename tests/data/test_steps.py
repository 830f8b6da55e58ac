"""Grey values in equal steps are counts of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from elbowroom.data.binarization import Binarization
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.map_style import MapStyle
from elbowroom.data.steps import find_steps
from elbowroom.data.storage import InMemory
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError


def in_steps(steps: int, rows: int = 40) -> Tensor:
    whole = torch.randint(0, steps + 1, (rows, 6), generator=torch.Generator().manual_seed(0))
    whole[0, :2] = torch.tensor([1, steps])
    return whole / steps


def loaded(x: Tensor, **settings: object) -> DataSet:
    data = load_data(x, test=0.1, **settings)
    assert isinstance(data, DataSet)
    return data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("steps", [1, 3, 16, 255])
def test_the_least_number_of_steps_is_found(steps, dtype):
    assert find_steps(InMemory(in_steps(steps).to(dtype))) == steps


def test_values_between_the_steps_have_none():
    x = in_steps(16)
    assert find_steps(InMemory(torch.rand(40, 6, generator=torch.Generator().manual_seed(1)))) is None
    assert find_steps(InMemory(x), known=32) == 32
    assert find_steps(InMemory(x), known=12) is None
    x[3, 2] = 0.51234
    assert find_steps(InMemory(x)) is None


def test_a_hole_is_no_value():
    x = in_steps(16)
    x[3, 2] = torch.nan
    assert find_steps(InMemory(x)) == 16


def test_they_are_delivered_as_counts_and_moments_are_theirs():
    x = in_steps(16)
    data = loaded(x)
    assert data.support is Support.UNIT_INTERVAL
    counted = data.viewed_as(Support.COUNTS)
    assert (counted.support, counted.highest, counted.view.steps) == (Support.COUNTS, 16, 16)
    batch = counted.take("train", torch.arange(5))
    assert torch.equal(batch.x, 16 * x[batch.index])
    torch.testing.assert_close(counted.moments()[0], 16 * data.moments()[0], rtol=1e-6, atol=1e-6)
    assert data.take("train", torch.arange(5)).x.max() <= 1  # the data themselves are what they were


def test_grey_values_without_steps_are_refused_as_before():
    grey = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ElbowroomError, match=r"\(100% strictly between\), but the likelihood needs counts"):
        loaded(grey).viewed_as(Support.COUNTS)


def test_values_between_known_steps_are_refused():
    with pytest.raises(ElbowroomError, match="multiples of 1/12, as those of the training data"):
        loaded(in_steps(16)).viewed_as(Support.COUNTS, steps=12)


def test_bits_of_grey_values_are_counts_up_to_one():
    data = loaded(in_steps(16), binarization="threshold").viewed_as(Support.COUNTS)
    assert data.binarization is Binarization.THRESHOLD
    assert (data.highest, data.view.counts_steps) == (1, False)
    assert set(data.take("train", torch.arange(20)).x.unique().tolist()) == {0.0, 1.0}


def test_bytes_are_counts_as_they_are():
    x = torch.randint(0, 256, (40, 3, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = loaded(x).viewed_as(Support.COUNTS)
    assert data.highest == int(x.max())
    batch = data.take("train", torch.arange(5))
    assert torch.equal(batch.x, x[batch.index].float())


def test_rows_that_are_fetched_later_are_compared_with_the_largest_count():
    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 20_001

        def __getitem__(self, row: int) -> Tensor:
            return torch.tensor([3.0, 9.0 if row == 10_001 else 1.0])

    data = load_data(Rows(), test=0, validation=0, support="counts")
    assert isinstance(data, DataSet) and isinstance(data.storage, MapStyle)
    data = replace(data, view=replace(data.view, highest=3))
    data.take("train", torch.tensor([5]))
    with pytest.raises(ElbowroomError, match=r"holds 9, but the likelihood takes 0\.\.3"):
        data.take("train", (data.splits["train"] == 10_001).nonzero()[0])
