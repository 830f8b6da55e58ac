"""Grids of patches: cutting and joining are inverses; networks on the grid have the right shapes and formats."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hierarchy_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.model.hierarchy.grids import Block, Grid, GridEncoder, GridFeatures, GridLadder, flattened, started_small


@pytest.mark.parametrize(("shape", "patch"), [((8, 8), 4), ((3, 6, 8), 2), ((1, 4, 4), 1), ((28, 28), 7)])
def test_joined_is_the_inverse_of_cut(shape: tuple[int, ...], patch: int) -> None:
    grid = Grid(shape, patch)
    pictures = torch.randn(5, *shape, generator=cases.seeded())
    cut = grid.cut(pictures)
    assert cut.shape == (5, grid.channels, grid.height, grid.width)
    assert grid.channels * grid.places == pictures[0].numel()
    assert torch.equal(grid.joined(cut, shape), pictures)


def test_a_patch_is_a_place() -> None:
    """The channels of a place are the pixels of its patch, row by row."""
    pictures = torch.arange(64.0).view(1, 8, 8)
    assert torch.equal(Grid((8, 8), 4).cut(pictures)[0, :, 0, 1], pictures[0, :4, 4:].flatten())


def test_everything_on_the_grid_is_channels_last() -> None:
    grid = Grid((8, 8), 4)
    for made in (grid.cut(torch.zeros(3, 8, 8)), grid.unflattened(torch.zeros(3, 2 * grid.places))):
        assert made.is_contiguous(memory_format=torch.channels_last)


def test_a_latent_of_a_place_is_where_it_says() -> None:
    grid = Grid((4, 6), 2)
    flat = torch.arange(12.0).view(1, 12)  # place after place, with both channels of each
    maps = grid.unflattened(flat)
    assert torch.equal(maps[0, 1], torch.arange(1.0, 12.0, 2.0).view(2, 3))
    assert torch.equal(flattened(maps), flat)


@pytest.mark.parametrize(
    ("shape", "patch", "said"),
    [((9,), 3, "needs pictures"), ((8, 8), 3, "cannot be cut"), ((8, 12), 5, "patch of 1 or 2 or 4")],
)
def test_what_cannot_be_cut(shape: tuple[int, ...], patch: int, said: str) -> None:
    with pytest.raises(ElbowroomError, match=said) as error:
        Grid(shape, patch)
    assert error.value.remedy


def test_blocks_start_near_the_identity() -> None:
    torch.manual_seed(0)
    h = torch.randn(4, 6, 3, 3)
    assert 0 < (Block(6)(h) - h).std() < 0.1 * h.std()
    torch.manual_seed(1)
    plain = nn.Conv2d(2, 3, 1)
    torch.manual_seed(1)
    torch.testing.assert_close(started_small(nn.Conv2d(2, 3, 1)).weight, 0.1 * plain.weight)


def test_networks_of_pictures_with_colours() -> None:
    assert GridFeatures((3, 8, 8), channels=6)(torch.zeros(2, 4, 3, 8, 8)).shape == (2, 4, 6, 2, 2)
    encoder = GridEncoder((3, 8, 8), (2, 5), channels=6, dense=7, context_dim=2)
    assert encoder(torch.zeros(4, 3, 8, 8), torch.zeros(4, 2)).shape == (4, 2, 5)
    ladder = GridLadder(3, (2,), (10, 3, 8, 8), channels=6, dense=7, patch=2)
    assert ladder.sizes == (3, 2 * 16)
    assert ladder(torch.zeros(2, 4, 35)).shape == (2, 4, 10, 3, 8, 8)


def test_a_patch_of_the_output_is_a_patch_of_the_picture() -> None:
    """What a latent at one place changes lies around that place."""
    torch.manual_seed(0)
    ladder = GridLadder(2, (1,), (1, 20, 20), channels=4, dense=5, patch=4)
    u = torch.zeros(1, 2 + 25)
    moved = u.clone()
    moved[0, 2] = 1.0  # the place at the top left
    change = (ladder(moved) - ladder(u)).abs()[0, 0]
    assert change[:8, :8].max() > 0
    assert change[12:, :].max() == change[:, 12:].max() == 0  # block and output see two places far


def test_output_bias_is_one_value_for_every_pixel() -> None:
    ladder = GridLadder(2, (1,), (1, 8, 8), channels=4, dense=5)
    before, values = ladder(torch.zeros(1, 6)), torch.randn(1, 8, 8)
    ladder.set_output_bias(values)
    torch.testing.assert_close(ladder(torch.zeros(1, 6)), before + values)


def test_a_context_reaches_the_encoder() -> None:
    torch.manual_seed(0)
    encoder = GridEncoder((8, 8), (2, 3), channels=4, dense=5, context_dim=2)
    x = torch.rand(3, 8, 8)
    changed = encoder(x, torch.ones(3, 2)) - encoder(x, torch.zeros(3, 2))
    assert changed.abs().flatten(1).amax(1).min() > 1e-4
