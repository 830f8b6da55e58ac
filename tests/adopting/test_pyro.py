"""Pyro's programs as functions: whatever mode and precision their networks are in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import elbowroom as er
from elbowroom.errors import ElbowroomError

pyro = pytest.importorskip("pyro")
dist = pyro.distributions

DIM, LATENT = 12, 3
Program = Callable[[Tensor], None]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def network() -> nn.Sequential:
    """A decoder in training mode that looks at its batch and draws."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(LATENT, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, DIM))
    for _ in range(50):
        net(1 + torch.randn(64, LATENT))
    return net


def programs(decoder: nn.Module, encoder: nn.Module, width: float = 1.0) -> tuple[Program, Program]:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), LATENT, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), width * torch.ones(LATENT, dtype=x.dtype)).to_event(1))

    return model, guide


class Pair(nn.Module):
    """As Pyro's own tutorial has it: both programs are methods of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = network(), nn.Linear(DIM, LATENT)

    def model(self, x: Tensor) -> None:
        programs(self.decoder, self.encoder)[0](x)

    def guide(self, x: Tensor) -> None:
        programs(self.decoder, self.encoder)[1](x)


@pytest.mark.parametrize("form", ["functions", "methods"])
def test_networks_in_training_mode_are_evaluated(form: str) -> None:
    pair = Pair()
    before, expected = copy.deepcopy(pair.state_dict()), copy.deepcopy(pair.decoder).eval()
    model, guide = (pair.model, pair.guide) if form == "methods" else programs(pair.decoder, pair.encoder)
    found = er.adopt_pyro(model, guide, torch.randn(200, DIM, generator=seeded()))
    z = torch.randn(4, LATENT, generator=seeded())
    torch.testing.assert_close(found.model.likelihood(z).mean, expected(z))
    found.evaluate("elbo")
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


@pytest.mark.parametrize("weights", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("data", [torch.float32, torch.float64], ids=str)
def test_the_networks_precision_is_kept(weights: torch.dtype, data: torch.dtype) -> None:
    decoder, encoder = nn.Linear(LATENT, DIM).to(weights), nn.Linear(DIM, LATENT).to(weights)
    x = torch.randn(200, DIM, generator=seeded()).to(data)
    found = er.adopt_pyro(*programs(decoder, encoder), x)
    assert found.sample(3).z.dtype == weights
    assert found.evaluate("elbo")[0].value < 0
    assert decoder.weight.dtype == weights


def test_without_networks_the_data_s_precision_is_kept() -> None:
    weight = torch.randn(LATENT, DIM, dtype=torch.float64, generator=seeded())
    model, guide = programs(lambda z: z @ weight, lambda x: x @ weight.T)  # type: ignore[arg-type]
    found = er.adopt_pyro(model, guide, torch.randn(200, DIM, dtype=torch.float64, generator=seeded()))
    assert found.sample(3).z.dtype == torch.float64


@pytest.mark.parametrize("width", [1e-3, 1.0, 30.0])
def test_no_convention_is_in_question(width: float) -> None:
    """The trace says that it is a scale, however much better the bound would be of another reading."""
    weight = torch.randn(LATENT, DIM, generator=seeded())
    model, guide = programs(lambda z: z @ weight, lambda x: x @ weight.T, width)  # type: ignore[arg-type]
    found = er.adopt_pyro(model, guide, torch.randn(200, DIM, generator=seeded()))
    assert float(found.guide(torch.zeros(1, DIM)).stddev[0, 0]) == pytest.approx(width)


def test_numbers_that_are_not_finite_are_refused() -> None:
    weight = torch.full((LATENT, DIM), 1e38)
    model, guide = programs(lambda z: z @ weight * 1e3, lambda x: x[:, :LATENT])  # type: ignore[arg-type]
    pyro_checks = pyro.settings.get("validate_distributions_pyro")
    pyro.enable_validation(False)
    try:
        with pytest.raises(ElbowroomError, match=r"NaN or infinity|fails on a tensor"):
            er.adopt_pyro(model, guide, torch.randn(200, DIM, generator=seeded()))
    finally:
        pyro.enable_validation(pyro_checks)


def test_a_program_that_fails_says_what_it_was_given() -> None:
    decoder, encoder = nn.Linear(LATENT, DIM), nn.Linear(DIM + 1, LATENT)
    with pytest.raises(ElbowroomError, match=r"The Pyro program fails on a tensor of shape \(1, 12\), float32"):
        er.adopt_pyro(*programs(decoder, encoder), torch.randn(200, DIM, generator=seeded()))
