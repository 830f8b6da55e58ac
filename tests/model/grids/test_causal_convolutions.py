"""Masked convolutions over codes: the receptive field; the laws of all such priors are in test_autoregressive."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.grids.causal_convolutions import GridConvolutions


@pytest.mark.parametrize("layers", [1, 2])
def test_a_place_sees_nothing_outside_the_first_half_of_its_field(layers: int) -> None:
    grid = CodeGrid(9, 13)
    space = CodeSpace(grid.slots, 2)
    network = GridConvolutions(space, grid, width=4, layers=layers).double()
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(0))
    z = torch.full((1, space.dim), 0.5, dtype=torch.float64, requires_grad=True)
    row, column, reach = 8, 6, network.receptive_field // 2
    network(z)[0, row * 13 + column].sum().backward()
    assert z.grad is not None
    sees = z.grad.reshape(9, 13, 2).abs().sum(-1) > 0
    rows, columns = torch.arange(9)[:, None], torch.arange(13)
    before = (rows < row) | ((rows == row) & (columns < column))
    near = (row - rows <= reach) & ((columns - column).abs() <= reach)
    field = before & near
    assert not (sees & ~field).any()
    assert sees[row - reach].any() and sees[row, column - reach]  # as far as it says
    if layers == 1:
        assert torch.equal(sees, field)
    else:  # the blind spot of a PixelCNN, a wedge to the right
        rightmost = torch.where(sees, columns, -1).amax(1)
        assert rightmost[row - 1] < rightmost[row - 3] == column + reach


def test_several_slots_at_a_place_are_refused() -> None:
    with pytest.raises(ElbowroomError, match="2 slots at each place, but take one"):
        GridConvolutions(CodeSpace(8, 3), CodeGrid(2, 2, 2))
