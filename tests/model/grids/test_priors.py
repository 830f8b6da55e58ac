"""The prior of a PixelCNN over codes learns what slots at a distance in rows and columns have to do with each other."""

from __future__ import annotations

import math

import torch

from elbowroom.model.code_distributions import CodeGrid, CodeSpace
from elbowroom.model.grids.priors import MaskedConvolutions


def test_it_learns_that_every_row_repeats_the_first(generator: torch.Generator) -> None:
    """Three rows of four fair coins, all the same: the entropy is 4 log 2, that of independent slots 12 log 2."""
    space = CodeSpace(12, 2)
    prior = MaskedConvolutions(space, grid=CodeGrid(3, 4), width=16, layers=1)
    optimizer = torch.optim.Adam(prior.parameters(), 0.02)
    for _ in range(60):
        z = space.one_hot(torch.randint(2, (64, 1, 4), generator=generator).expand(-1, 3, -1).flatten(1))
        loss = -prior(None).log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = space.numbers(prior(None).sample((100,), generator)).reshape(100, 3, 4)
    assert loss.item() < 4 * math.log(2) + 0.5
    assert (drawn == drawn[:, :1]).float().mean() > 0.95
