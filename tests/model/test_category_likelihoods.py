"""Cut points of ordinal likelihoods; the laws of all likelihoods are in test_likelihoods."""

from __future__ import annotations

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.category_likelihoods import Ordinal
from elbowroom.model.networks import MLP


def ordinal(event_shape: tuple[int, ...] = (3,), **options) -> Ordinal:
    return Ordinal(MLP((2,), (1, *event_shape)), event_shape, **{"levels": 5, **options})


def test_levels_start_equally_probable():
    likelihood = ordinal()
    likelihood.network.output.weight.data.zero_()
    likelihood.network.output.bias.data.zero_()
    p = likelihood(torch.zeros(1, 2)).log_prob(torch.arange(5.0)[:, None]).exp()
    torch.testing.assert_close(p, torch.full((5, 3), 0.2))


@pytest.mark.parametrize(
    ("event_shape", "cut_points", "shape"),
    [((3,), "auto", (3,)), ((4, 3), "auto", ()), ((3,), "shared", ()), ((4, 3), "per-element", (4, 3))],
)
def test_pictures_share_cut_points_unless_told_otherwise(event_shape, cut_points, shape):
    likelihood = ordinal(event_shape, cut_points=cut_points)
    assert likelihood.first_cut.shape == shape
    assert likelihood.log_gaps.shape == (3, *shape)


def test_cut_points_stay_in_order_whatever_is_learned():
    likelihood = ordinal()
    with torch.no_grad():
        likelihood.log_gaps.copy_(torch.tensor([[-1e3], [0.0], [1e3]]).expand(3, 3))
    cuts = likelihood(torch.zeros(1, 2)).cut_points
    assert (cuts.diff(dim=0) > 0).all() and cuts.isfinite().all()


@pytest.mark.parametrize("levels", [1, 1001])
def test_another_number_of_levels_is_refused(levels):
    with pytest.raises(ElbowroomError, match=r"levels, but takes 2 to 1,000"):
        ordinal(levels=levels)


def test_an_unknown_kind_of_cut_points_is_refused():
    with pytest.raises(ElbowroomError, match="'free'"):
        ordinal(cut_points="free")
