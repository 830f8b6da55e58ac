"""Noise of rows that have a generator each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Gamma, Independent, MixtureSameFamily, MultivariateNormal, Normal

from elbowroom.errors import ElbowroomError
from elbowroom.model.draws import draw
from elbowroom.model.noise import CannotPrepareError, PerRow, category, normal, uniform


def _rows(*seeds: int) -> PerRow:
    return PerRow([torch.Generator().manual_seed(seed) for seed in seeds])


def test_a_row_draws_what_its_generator_draws_alone() -> None:
    like, one = torch.zeros((), dtype=torch.float64), torch.Generator()
    for kind in (normal, uniform):
        together = kind((7, 3, 2), like, _rows(5, 6, 7))
        assert (together.shape, together.dtype) == ((7, 3, 2), torch.float64)
        assert torch.equal(together[:, 1], kind((7, 2), like, one.manual_seed(6)))
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
    drawn = category(logits, (50, 3), _rows(5, 6, 7))
    assert torch.equal(drawn[:, 1], category(logits[1], (50,), one.manual_seed(6)))
    of_all = category(logits[0], (3,), _rows(5, 6, 7))  # one law, a draw for each row
    assert of_all[1] == category(logits[0], (), one.manual_seed(6))


def test_draws_of_distributions_belong_to_rows() -> None:
    loc = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    tril = torch.eye(2).expand(3, 2, 2, 2)

    def several(places: list[int]) -> Tensor:
        weights = Categorical(logits=loc[places, :, 0])
        mixture = MixtureSameFamily(weights, MultivariateNormal(loc[places], scale_tril=tril[places]))
        plain = Independent(Normal(loc[places, 0], 1.0), 1)
        return torch.stack([draw(q, (9,), generator=_rows(*places)) for q in (mixture, plain)])

    assert torch.equal(several([0, 1, 2])[:, :, 1:], several([1, 2]))


def test_noise_without_an_axis_for_rows_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="no axis for 3 rows"):
        normal((3, 2, 5), torch.zeros(()), _rows(1, 2, 3))
    with pytest.raises(CannotPrepareError):
        draw(Gamma(torch.ones(3), 1.0), generator=_rows(1, 2, 3))
