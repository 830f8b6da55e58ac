"""Scales that are none are refused; everything that is a distribution passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from elbowroom.errors import ElbowroomError
from elbowroom.inference.soundness import check_guide
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal, Guide, PriorGuide
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians


class Mine(Conditional):
    """A guide of the user's."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        raise NotImplementedError


LOC, SOUND = torch.zeros(5, 4), torch.linspace(0.1, 2.0, 20).reshape(5, 4)


def _mixture(scale: Tensor) -> Distribution:
    normal = Independent(Normal(LOC, scale, validate_args=False), 1, validate_args=False)
    return MixtureSameFamily(Categorical(torch.ones(5)), normal, validate_args=False)


KINDS = {
    "normal": lambda s: Normal(LOC, s, validate_args=False),
    "independent": lambda s: Independent(Normal(LOC, s, validate_args=False), 1, validate_args=False),
    "twice independent": lambda s: Independent(
        Independent(Normal(LOC, s, validate_args=False), 1, validate_args=False), 1, validate_args=False
    ),
    "laplace": lambda s: Laplace(LOC, s, validate_args=False),
    "transformed": lambda s: LogNormal(LOC, s, validate_args=False),
    "mixture": _mixture,
    "full": lambda s: MultivariateNormal(LOC, scale_tril=torch.diag_embed(s) - torch.ones(4, 4).tril(-1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_guide_passes(kind: str) -> None:
    check_guide(KINDS[kind](SOUND), Mine())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_negative_element_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", False)
    scale = SOUND.clone()
    scale[3, 2] = -0.25
    with pytest.raises(ElbowroomError, match=r"guide Mine is negative for 5% of its elements \(down to -0\.25\)") as e:
        check_guide(KINDS[kind](scale), Mine())
    assert "torch.exp(0.5 * v)" in e.value.remedy


def test_zero_is_said_to_be_zero() -> None:
    scale = SOUND.clone()
    scale[0] = 0.0
    with pytest.raises(ElbowroomError, match="zero for 20% of its elements"):
        check_guide(KINDS["normal"](scale), Mine())


def test_a_share_that_is_small_is_not_called_none() -> None:
    scale = torch.ones(1000)
    scale[7] = -1.0
    with pytest.raises(ElbowroomError, match="negative for less than 1% of"):
        check_guide(Normal(torch.zeros(1000), scale, validate_args=False), Mine())


def test_nan_is_another_fault_and_does_not_hide_this_one() -> None:
    scale = SOUND.clone()
    scale[0, 0] = math.nan
    check_guide(KINDS["normal"](scale), Mine())
    scale[1, 1] = -2.0
    with pytest.raises(ElbowroomError, match="down to -2"):
        check_guide(KINDS["normal"](scale), Mine())


def test_a_distribution_without_a_scale_passes() -> None:
    check_guide(Categorical(torch.ones(5, 3)), Mine())


@pytest.mark.parametrize("kind", [DiagonalNormal, FullNormal])
def test_the_packages_guides_are_not_looked_at_and_their_heirs_are(kind: type[Guide]) -> None:
    class Heir(kind):  # type: ignore[misc, valid-type]
        pass

    network, bad = MLP((3,), kind.parameter_shape(4)), KINDS["independent"](-SOUND)
    check_guide(bad, kind(network, 4))
    with pytest.raises(ElbowroomError, match="guide Heir is negative for 100%"):
        check_guide(bad, Heir(network, 4))


def test_a_prior_in_the_guides_place_passes() -> None:
    guide = PriorGuide(MixtureOfGaussians(4, 3))
    check_guide(guide(torch.zeros(5, 2)), guide)
