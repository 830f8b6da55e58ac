"""What networks from elsewhere return: read where it is said what it is, refused where it is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Independent, Normal

from elbowroom.adopting.output_conventions import ENCODER_OUTPUTS, TO_LOG_VARIANCE, only_output, two_outputs
from elbowroom.errors import ElbowroomError

MEAN, SPREAD = torch.zeros(3, 2), torch.full((3, 2), 0.5)


class Unknown(NamedTuple):
    first: Tensor
    second: Tensor


class Draws(NamedTuple):
    z: Tensor
    mu: Tensor
    logvar: Tensor


@pytest.mark.parametrize("output", ENCODER_OUTPUTS)
def test_every_convention_says_the_same_of_one_scale(output: str) -> None:
    scale = torch.tensor([0.1, 1.0, 3.0])
    second = {"mean-logvar": 2 * scale.log(), "mean-variance": scale**2, "mean-scale": scale,
              "mean-logscale": scale.log()}[output]  # fmt: skip
    torch.testing.assert_close(TO_LOG_VARIANCE[output](second), 2 * scale.log())


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_tuple_that_is_no_pair_is_not_guessed_at(kind: Any, number: int) -> None:
    found = kind([MEAN] * number)
    with pytest.raises(ElbowroomError, match=f"a {kind.__name__} of {number}") as refusal:
        two_outputs(found, "encoder", "mean-logvar")
    assert "encoder=lambda x: net(x)[1:3]" in str(refusal.value)


def test_a_named_tuple_of_three_is_read_by_its_names() -> None:
    assert two_outputs(Draws(torch.ones(3, 2), MEAN, SPREAD), "encoder", "mean-logvar") == (MEAN, SPREAD)
    assert two_outputs(Unknown(MEAN, SPREAD), "encoder", "mean-scale") == (MEAN, SPREAD)


@pytest.mark.parametrize(
    ("names", "states"),
    [
        (("mu", "logvar"), "mean-logvar"),
        (("mu", "log_var"), "mean-logvar"),
        (("mean", "log_variance"), "mean-logvar"),
        (("embedding", "log_covariance"), "mean-logvar"),
        (("z_mean", "z_log_var"), "mean-logvar"),
        (("mu", "log_sigma"), "mean-logscale"),
        (("loc", "scale"), "mean-scale"),
        (("mean", "variance"), "mean-variance"),
    ],
    ids=lambda value: value if isinstance(value, str) else "/".join(value),
)
@pytest.mark.parametrize("record", [dict, lambda pairs: SimpleNamespace(**dict(pairs))], ids=["mapping", "record"])
def test_names_are_held_against_what_was_said(names: tuple[str, str], states: str, record: Any) -> None:
    found = record(zip(names, (MEAN, SPREAD), strict=True))
    assert two_outputs(found, "encoder", states) == (MEAN, SPREAD)
    assert two_outputs(found, "encoder") == (MEAN, SPREAD)
    for other in set(ENCODER_OUTPUTS) - {states}:
        with pytest.raises(
            ElbowroomError, match=f"is '{other}'.*'{names[0]}' and '{names[1]}', which means '{states}'"
        ):
            two_outputs(found, "encoder", other)


@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: Independent(q, 1)], ids=["plain", "independent"])
def test_a_normal_distribution_states_a_scale(wrap: Any) -> None:
    q = wrap(Normal(MEAN, SPREAD))
    mean, scale = two_outputs(q, "encoder", "mean-scale")
    assert torch.equal(mean, MEAN) and torch.equal(scale, SPREAD)
    with pytest.raises(ElbowroomError, match="Normal distribution, with loc and scale, which means 'mean-scale'"):
        two_outputs(q, "encoder", "mean-logvar")
    with pytest.raises(ElbowroomError, match="returned a Gamma"):
        two_outputs(Gamma(SPREAD, SPREAD), "encoder", "mean-scale")


def test_one_output_is_a_tensor_or_a_reconstruction() -> None:
    assert only_output(MEAN) is MEAN
    assert only_output({"reconstruction": MEAN}) is MEAN
    with pytest.raises(ElbowroomError, match="one tensor is needed"):
        only_output((MEAN, SPREAD))
