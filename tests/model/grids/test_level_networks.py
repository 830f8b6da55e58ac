"""Networks of levels: their grids, where slots are read, and what a level's features see."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeGrid
from elbowroom.model.grids.level_networks import LevelDecoder, LevelRecognition, level_grids


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_level_has_half_the_rows_and_columns_of_the_one_below() -> None:
    assert level_grids(CodeGrid(8, 4, 2), 3) == ((2, 1, 2), (4, 2, 2), (8, 4, 2))
    assert level_grids(CodeGrid(7, 7), 1) == ((7, 7, 1),)


@pytest.mark.parametrize(("bottom", "levels", "halved"), [((7, 8), 2, "once"), ((4, 6), 3, "2 times")])
def test_a_grid_that_cannot_be_halved_is_refused(bottom: tuple[int, int], levels: int, halved: str) -> None:
    with pytest.raises(ElbowroomError, match=f"{bottom[0]} × {bottom[1]} places cannot be halved {halved}") as caught:
        level_grids(CodeGrid(*bottom), levels)
    assert "--model.encoder.patch" in caught.value.remedy


def test_slots_are_read_at_their_places_and_those_above_reach_further() -> None:
    """Without blocks of its own, a slot of the bottom reaches two patches; one on top also the patches around it."""
    grids = (CodeGrid(4, 4), CodeGrid(8, 8))
    decoder = LevelDecoder(grids, (80 * 3,), (1, 16, 16), channels=5, blocks=0, patch=2).double()
    v = normal(1, 80, 3)
    start = decoder(v.flatten(1))

    def reached(slot: int) -> torch.Tensor:
        other = v.clone()
        other[:, slot] += 1.0
        return ((decoder(other.flatten(1)) - start)[0, 0].abs() > 1e-9).reshape(8, 2, 8, 2).any(3).any(1)  # by patch

    bottom, top = reached(16 + 2 * 8 + 3), reached(1 * 4 + 1)
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    assert torch.equal(bottom, ((rows - 2).abs() <= 2) & ((columns - 3).abs() <= 2))
    assert top[2:4, 2:4].all() and top.sum() > bottom.sum()


def test_a_level_below_reads_the_values_at_its_place() -> None:
    grids = (CodeGrid(2, 2, 2), CodeGrid(4, 4, 2))
    network = LevelRecognition(grids, 6, out=5, read=3).double()
    with torch.no_grad():
        network.blocks[0].mixed.weight.zero_()  # type: ignore[union-attr, operator]  # no reach beyond the place
    top, bottom = network.features(normal(1, 6, 4, 4), None)
    assert top.shape == (1, 6, 2, 2) and bottom.shape == (1, 6, 4, 4)
    v = normal(1, 8, 3)
    before = network.output(1, bottom, [v])
    assert network.output(0, top, []).shape == (1, 8, 5) and before.shape == (1, 32, 5)
    v[:, 2:4] += 1.0  # both slots in row 0 and column 1 of the top
    changed = (network.output(1, bottom, [v]) - before).abs().amax(-1).reshape(4, 4, 2) > 1e-9
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, 2:] = True
    assert torch.equal(changed, expected.unsqueeze(-1).expand(4, 4, 2))


def test_three_levels_read_all_above() -> None:
    grids = level_grids(CodeGrid(4, 4), 3)
    network = LevelRecognition(grids, 6, out=5, read=3).double()
    features = network.features(normal(1, 6, 4, 4), None)
    values = [normal(1, 1, 3), normal(1, 4, 3, seed=1)]
    before = network.output(2, features[2], values)
    for level in (0, 1):
        other = [value + 1.0 if number == level else value for number, value in enumerate(values)]
        assert (network.output(2, features[2], other) - before).abs().amax(-1).min() > 1e-6
    decoder = LevelDecoder(grids, (21 * 3,), (2, 8, 8), channels=5, patch=2, context_dim=2).double()
    out = [decoder(normal(1, 63), context) for context in (torch.zeros(1, 2).double(), torch.ones(1, 2).double())]
    assert out[0].shape == (1, 2, 8, 8) and not torch.allclose(*out)
