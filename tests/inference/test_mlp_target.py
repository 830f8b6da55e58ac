"""The path by hand is autograd's function: its value, its gradient, whatever the perceptron; and bfloat16 is near."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.mlp_target import PerceptronPosterior
from elbowroom.inference.target import posterior_target
from elbowroom.model import oracles
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import (
    Bernoulli,
    CrossEntropy,
    Gaussian,
    Likelihood,
)
from elbowroom.model.networks import ACTIVATIONS, MLP
from elbowroom.model.priors import StandardNormal

LATENT, DATA, REPLICAS = 3, 7, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def likelihood_of(name: str, network: nn.Module, event: tuple[int, ...]) -> Likelihood:
    units = {"shift": normal(*event, seed=8), "unit": normal(*event, seed=9).exp()}
    makers: dict[str, Any] = {
        "bernoulli": lambda: Bernoulli(network, event),
        "cross-entropy": lambda: CrossEntropy(network, event),
        "gaussian": lambda: Gaussian(network, event, scale=0.6),
        "gaussian-learned": lambda: Gaussian(network, event),
        "gaussian-units": lambda: Gaussian(network, event, scale=0.6, **units),
        "gaussian-learned-units": lambda: Gaussian(network, event, **units),
    }
    return makers[name]()


NAMES = ("bernoulli", "cross-entropy", "gaussian", "gaussian-learned", "gaussian-units", "gaussian-learned-units")


def case(
    name: str = "bernoulli",
    *,
    event: tuple[int, ...] = (5,),
    hidden: tuple[int, ...] = (6,),
    activation: str = "tanh",
    batch_norm: bool = False,
    context: bool = False,
    mask: bool = False,
    dtype: torch.dtype = torch.float64,
    sharpness: float = 2.0,
) -> SimpleNamespace:
    """A model that fits, data for it, and points."""
    torch.manual_seed(4)
    network = MLP(
        (LATENT,),
        (1, *event),
        hidden=hidden,
        activation=activation,
        batch_norm=batch_norm,
        context_dim=2 if context else 0,
    )
    model = LatentModel(StandardNormal(LATENT), likelihood_of(name, network, event)).to(torch.float64)
    for parameter in network.parameters():
        parameter.data.mul_(sharpness)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):  # as after training, and nothing at its initial value
            module.running_mean.copy_(normal(len(module.running_mean), seed=5))
            module.running_var.copy_(normal(len(module.running_var), seed=6).exp())
            module.weight.data.copy_(1 + 0.3 * normal(len(module.weight), seed=7))
            module.bias.data.copy_(normal(len(module.bias), seed=10))
    if getattr(model.likelihood, "raw_scale", None) is not None:
        model.likelihood.raw_scale.data.fill_(-0.4)
    x = 2 * normal(DATA, *event, seed=1)
    if name == "bernoulli":
        x = (x > 0).double()
    if name == "cross-entropy":
        x = x.sigmoid()
    batch = Batch(
        x,
        context=normal(DATA, 2, seed=2) if context else None,
        mask=normal(DATA, *event, seed=3) > -0.3 if mask else None,
    )
    batch = batch.to(dtype=dtype)
    return SimpleNamespace(model=model.to(dtype).eval(), batch=batch, z=1.5 * normal(REPLICAS, DATA, LATENT).to(dtype))


def by_autograd(of: SimpleNamespace) -> tuple[Tensor, Tensor]:
    leaf = of.z.clone().requires_grad_()
    value = of.model.log_joint(of.batch.x, leaf, context=of.batch.context, mask=of.batch.mask)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def assert_is_autograds(of: SimpleNamespace) -> None:
    assert PerceptronPosterior.fits(of.model)
    target = PerceptronPosterior(of.model, of.batch)
    value, gradient = by_autograd(of)
    torch.testing.assert_close(target.log_density(of.z), value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(target.gradient(of.z), gradient, rtol=1e-10, atol=1e-10)
    assert float(gradient.abs().max()) > 0.1
    together = target.evaluate(of.z)
    assert torch.equal(together[0], target.log_density(of.z))
    assert torch.equal(together[1], target.gradient(of.z))
    assert not together[0].requires_grad and not together[1].requires_grad


# --- one formula, two ways


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4), (4, 6, 5)], ids=lambda hidden: f"{len(hidden)} hidden")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_depths(activation: str, hidden: tuple[int, ...]) -> None:
    assert_is_autograds(case(activation=activation, hidden=hidden))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("context", [False, True], ids=["", "context"])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("hidden", [(), (6, 4)], ids=["affine", "hidden"])
def test_likelihoods(name: str, context: bool, mask: bool, hidden: tuple[int, ...]) -> None:
    assert_is_autograds(case(name, context=context, mask=mask, hidden=hidden))


@pytest.mark.parametrize("name", NAMES)
def test_image_shaped_events(name: str) -> None:
    assert_is_autograds(case(name, event=(2, 3, 4), mask=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("context", [False, True], ids=["", "context"])
def test_batch_normalisation(activation: str, context: bool) -> None:
    assert_is_autograds(case(hidden=(6, 4), activation=activation, batch_norm=True, context=context))


def test_certain_pixels() -> None:
    """Logits of hundreds, with x on the wrong side: no infinity, and no digit lost."""
    of = case(activation="relu", sharpness=12.0)
    logits = of.model.likelihood(of.z).logits
    assert float(logits.detach().abs().max()) > 100
    assert_is_autograds(of)


def test_integers_are_data_too() -> None:
    of = case()
    target = PerceptronPosterior(of.model, Batch(of.batch.x.to(torch.uint8)))
    assert torch.equal(target.log_density(of.z), PerceptronPosterior(of.model, of.batch).log_density(of.z))


def test_the_weights_are_shared() -> None:
    of = case()
    target = PerceptronPosterior(of.model, of.batch)
    before = target.log_density(of.z)
    of.model.likelihood.network.output.weight.data.mul_(2)
    assert not torch.equal(target.log_density(of.z), before)
    torch.testing.assert_close(target.log_density(of.z), by_autograd(of)[0])


# --- selection and chunks


FULL: dict[str, Any] = {"name": "gaussian-units", "context": True, "mask": True}


@pytest.mark.parametrize("half", [False, True])
def test_selection_is_indexing(half: bool) -> None:
    of, index = case(**FULL), torch.tensor([6, 0, 0, 3, 6])
    target = PerceptronPosterior(of.model, of.batch, half=half)
    chosen = target.select(index)
    z = of.z[:, index]
    torch.testing.assert_close(chosen.log_density(z), target.log_density(of.z)[:, index])
    close = {"rtol": 0.02, "atol": 0.02} if half else {}
    torch.testing.assert_close(chosen.gradient(z), target.gradient(of.z)[:, index], **close)
    again = chosen.select(torch.tensor([3, 1]))
    torch.testing.assert_close(again.log_density(z[:, [3, 1]]), target.log_density(of.z)[:, [3, 0]])
    torch.testing.assert_close(target.log_density(of.z), by_autograd(of)[0])  # the target itself is as it was


@pytest.mark.parametrize("chunk_elements", [1, 25, 60, 10**6])
def test_chunks_change_nothing(chunk_elements: int) -> None:
    of = case(**FULL)
    whole, parts = (PerceptronPosterior(of.model, of.batch, chunk_elements=size) for size in (2**20, chunk_elements))
    torch.testing.assert_close(parts.log_density(of.z), whole.log_density(of.z), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(parts.gradient(of.z), whole.gradient(of.z), rtol=1e-13, atol=1e-13)
    for part, all_of_it in zip(parts.evaluate(of.z), whole.evaluate(of.z), strict=True):
        torch.testing.assert_close(part, all_of_it, rtol=1e-13, atol=1e-13)


def test_chunks_bound_what_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    of, sizes = case(hidden=(20,)), []
    inner = PerceptronPosterior._forward

    def spy(self: PerceptronPosterior, z: Tensor, rows: slice, **options: Any) -> list[Tensor]:
        steps = inner(self, z, rows, **options)
        sizes.append(max(step.numel() for step in steps))
        return steps

    monkeypatch.setattr(PerceptronPosterior, "_forward", spy)
    PerceptronPosterior(of.model, of.batch, chunk_elements=100).gradient(of.z)
    assert len(sizes) == 4  # 2 of 7 data at a time
    assert max(sizes) <= 100


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("hidden", [(), (6, 4)], ids=["affine", "hidden"])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_returned_stays_as_it_was(name: str, hidden: tuple[int, ...], half: bool) -> None:
    """Whatever memory is used again, it is not what a caller holds; nor are the data or z written to."""
    of = case(name, hidden=hidden, context=True, mask=True)
    x, z = of.batch.x.clone(), of.z.clone()
    target = PerceptronPosterior(of.model, of.batch, half=half, chunk_elements=100)
    part = target.select(torch.tensor([4, 4, 1]))
    held = [target.log_density(of.z), target.gradient(of.z), *target.evaluate(of.z)]
    copies = [tensor.clone() for tensor in held]
    for other in (part, target, part):
        points = normal(3, len(other._x), LATENT, seed=11)
        other.evaluate(points)
        other.gradient(points)
        other.log_density(points)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(held, copies, strict=True))
    assert torch.equal(of.batch.x, x)
    assert torch.equal(of.z, z)
    for tensor, again in zip(held, [target.log_density(z), target.gradient(z), *target.evaluate(z)], strict=True):
        assert torch.equal(tensor, again)


@pytest.mark.parametrize("data", [DATA - 1, DATA + 1, 1])
def test_points_for_other_data_are_refused(data: int) -> None:
    of = case()
    target = PerceptronPosterior(of.model, of.batch)
    for use in (target.log_density, target.gradient, target.evaluate):
        with pytest.raises(ElbowroomError, match=f"{data} examples") as error:
            use(torch.zeros(REPLICAS, data, LATENT, dtype=torch.float64))
        assert error.value.remedy


# --- bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("hidden", [(), (16,), (16, 12)], ids=lambda hidden: f"{len(hidden)} hidden")
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_near(name: str, hidden: tuple[int, ...], dtype: torch.dtype) -> None:
    of = case(name, event=(40,), hidden=hidden, context=True, mask=True, dtype=dtype, sharpness=1.0)
    target, exact = (PerceptronPosterior(of.model, of.batch, half=half) for half in (True, False))
    gradient, expected = target.gradient(of.z), exact.gradient(of.z)
    error = (gradient - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 0 < float(error) < 0.03
    assert gradient.dtype == dtype
    # the log density is in full precision
    assert torch.equal(target.log_density(of.z), exact.log_density(of.z))


def test_half_precision_keeps_residuals_of_data_far_from_zero() -> None:
    """x = 1000 ± 1 has no digits left in bfloat16; x − shift has."""
    of = case("gaussian-units", sharpness=1.0)
    of.model.likelihood.shift.add_(1000)
    of.batch = Batch(of.batch.x + 1000)
    target, exact = (PerceptronPosterior(of.model, of.batch, half=half) for half in (True, False))
    gradient, expected = target.gradient(of.z), exact.gradient(of.z)
    assert float((gradient - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("name", ["bernoulli", "gaussian-units"])
def test_half_precision_is_a_function_of_z(name: str) -> None:
    """The same z gives the same gradient: twice, at the ends of a trajectory and inside, and whoever stands beside."""
    of = case(name, event=(40,), hidden=(16, 12), dtype=torch.float32)
    target = PerceptronPosterior(of.model, of.batch, half=True)
    gradient = target.gradient(of.z)
    assert torch.equal(target.gradient(of.z), gradient)
    assert torch.equal(target.evaluate(of.z)[1], gradient)
    assert torch.equal(target.evaluate(of.z)[0], target.log_density(of.z))
    other = of.z.clone()
    other[:, 1:] = 5 * torch.randn(other[:, 1:].shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(target.gradient(other)[:, 0], gradient[:, 0], rtol=0.02, atol=0.02)


# --- what fits takes this path


@pytest.mark.parametrize("name", NAMES)
def test_what_fits_takes_the_path_by_hand(name: str) -> None:
    of = case(name)
    assert isinstance(posterior_target(of.model, of.batch), PerceptronPosterior)
    assert isinstance(posterior_target(of.model, of.batch, precision="bf16"), PerceptronPosterior)


def test_the_oracle_fits() -> None:
    """log p(x, z) − log p(x) is the exact posterior's log density."""
    model, _, x = oracles.ppca(dim=6, latent_dim=3, seed=0, num_data=DATA)
    z = normal(REPLICAS, DATA, LATENT)
    target = posterior_target(model, x)
    assert isinstance(target, PerceptronPosterior)
    torch.testing.assert_close(
        target.log_density(z), (model.log_evidence(x) + model.posterior(x).log_prob(z)).detach(), rtol=1e-10, atol=1e-10
    )
    assert math.isfinite(float(target.gradient(z).sum()))
