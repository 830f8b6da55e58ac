"""Conventions against numbers: every confusion of two is named, and a right one with a poor guide is not condemned."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbowroom.adopting.adopt import Adopted, adopt
from elbowroom.adopting.output_conventions import ENCODER_OUTPUTS
from elbowroom.errors import ElbowroomError

DIM, LATENT, NOISE = 30, 10, 0.3

#: σ to the second output
SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean-logvar": lambda scale: 2 * scale.log(),
    "mean-variance": torch.square,
    "mean-scale": lambda scale: scale,
    "mean-logscale": torch.log,
}


@functools.cache
def linear() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, data, and the posterior of a linear Gaussian model as (x to mean), scale."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(LATENT, DIM, generator=generator)
    x = torch.randn(300, LATENT, generator=generator) @ weight + NOISE * torch.randn(300, DIM, generator=generator)
    precision = weight @ weight.T / NOISE**2 + torch.eye(LATENT)
    return weight, x, weight.T / NOISE**2 @ torch.linalg.inv(precision), precision.diagonal().rsqrt()


def adopted(truth: str, said: str, *, width: float = 1.0, shift: float = 0.0, **changes: Any) -> Adopted:
    """The exact model, and its best diagonal guide with the scale multiplied and the mean moved by so many scales."""
    weight, x, to_mean, scale = linear()

    def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ to_mean + shift * scale, SPREADS[truth](width * scale).expand(len(x), -1)

    given = {"encoder": encoder, "decoder": lambda z: z @ weight, "encoder_output": said, "decoder_output": "mean",
             "likelihood": "gaussian", "scale": NOISE, "data": x}  # fmt: skip
    return adopt(**(given | changes))


@pytest.mark.parametrize("truth", ENCODER_OUTPUTS)
def test_the_truth_passes(truth: str) -> None:
    adopted(truth, truth)


@pytest.mark.parametrize(("truth", "said"), list(itertools.permutations(ENCODER_OUTPUTS, 2)))
def test_every_confusion_is_named(truth: str, said: str) -> None:
    with pytest.raises(ElbowroomError) as refusal:
        adopted(truth, said)
    if "log" in truth and "log" not in said:
        assert "negative or zero" in str(refusal.value)
    else:
        assert f"read as '{truth}' the same numbers raise the bound" in str(refusal.value)


@pytest.mark.parametrize("truth", ENCODER_OUTPUTS)
@pytest.mark.parametrize(
    ("width", "shift"), [(0.1, 0.0), (0.5, 0.0), (2.0, 0.0), (5.0, 0.0), (1.0, 2.0), (0.3, 1.0)], ids=str
)
def test_a_right_convention_of_a_poor_guide_passes_or_is_told_both_reasons(
    truth: str, width: float, shift: float
) -> None:
    try:
        adopted(truth, truth, width=width, shift=shift)
    except ElbowroomError as refusal:
        blamed = "the guide is over-confident" if width < 1 else "the guide is too wide"
        assert "Either give encoder_output=" in str(refusal) and blamed in str(refusal)
        assert f"if '{truth}' is right, pass check=False" in str(refusal)
    adopted(truth, truth, width=width, shift=shift, check=False)


def test_an_over_confident_guide_is_told_so() -> None:
    with pytest.raises(ElbowroomError, match="read as 'mean-variance'") as refusal:
        adopted("mean-scale", "mean-scale", width=0.1)
    assert "Either give encoder_output='mean-variance', or the guide is over-confident" in str(refusal.value)


class Spoiled(nn.Module):
    """Returns NaN or infinity for some rows."""

    def __init__(self, inner: Callable[[Tensor], Any], value: float) -> None:
        super().__init__()
        self.inner, self.value = inner, value

    def forward(self, x: Tensor) -> Any:
        found = self.inner(x)
        first = found[0] if isinstance(found, tuple) else found
        first = torch.where((x[:, :1] > 0), self.value, first)
        return (first, found[1]) if isinstance(found, tuple) else first


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_numbers_that_are_not_finite_are_named_first(value: float) -> None:
    weight, _, to_mean, scale = linear()
    encoder = Spoiled(lambda x: (x @ to_mean, scale.expand(len(x), -1)), value)
    with pytest.raises(ElbowroomError, match=r"The encoder returns NaN or infinity for \d+ of 200 examples"):
        adopted("mean-scale", "mean-scale", encoder=encoder)
    with pytest.raises(ElbowroomError, match=r"The decoder returns NaN or infinity for \d+ of 200 examples"):
        adopted("mean-scale", "mean-scale", decoder=Spoiled(lambda z: z @ weight, value))


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_nan_is_not_diagnosed_as_a_convention(output: str) -> None:
    weight, x, _, _ = linear()
    decoder = Spoiled(lambda z: torch.sigmoid(z @ weight), float("nan"))
    with pytest.raises(ElbowroomError, match="The decoder returns NaN"):
        adopted("mean-scale", "mean-scale", decoder=decoder, data=(x > 0).float(), likelihood="bernoulli", scale=None,
                decoder_output=output)  # fmt: skip


@pytest.mark.parametrize("log_variance", [-300.0, 300.0])
def test_a_spread_beyond_what_a_guide_can_have_is_refused(log_variance: float) -> None:
    to_mean = linear()[2]

    def encoder(x: Tensor) -> tuple[Tensor, Tensor]:
        return x @ to_mean, torch.full((len(x), LATENT), log_variance)

    with pytest.raises(ElbowroomError, match=r"log-variance reaches ±80 for 200 of 200|raise the bound by"):
        adopted("mean-logvar", "mean-logvar", encoder=encoder)


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1), (-1, DIM)], ids=str)
def test_a_loss_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    def loss(x: Tensor) -> Tensor:
        each = x if DIM in shape else x.sum(1)
        return each.reshape(shape)

    with pytest.raises(ElbowroomError, match=r"The loss has shape .* for 200 examples") as refusal:
        adopted("mean-scale", "mean-scale", loss=loss)
    assert "(200,)" in str(refusal.value)


def test_a_loss_for_each_or_for_all_is_compared() -> None:
    for loss in (lambda x: torch.zeros(len(x)), lambda x: torch.zeros(()), lambda x: 0.0):
        assert "differs from −ELBO" in str(adopted("mean-scale", "mean-scale", loss=loss).remark)
    with pytest.raises(ElbowroomError, match="The loss fails on a tensor of shape"):
        adopted("mean-scale", "mean-scale", loss=lambda x: x @ x)
