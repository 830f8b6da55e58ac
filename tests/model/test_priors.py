"""Priors: densities that integrate to one, draws that follow them, mixtures that really mix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.model.guides import GUIDES, DiagonalNormal
from elbowroom.model.networks import MLP
from elbowroom.model.priors import PRIORS, MixtureOfGaussians, StandardNormal, VampPrior

CASES = ["normal", "mixture", "vamp-diagonal", "vamp-full", "maf", "nsf", "coupling"]
CONTEXTUAL = ["mixture", "vamp-diagonal", "vamp-full", "vamp-iaf", "maf", "nsf", "coupling"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(case: str, latent_dim: int, context_dim: int = 0) -> Conditional:
    torch.manual_seed(2)
    if case == "normal":
        return StandardNormal(latent_dim).double()
    if case == "mixture":
        prior = MixtureOfGaussians(latent_dim, 3, context_dim=context_dim, generator=seeded(1)).double()
        prior.logits.data = torch.tensor([0.0, 1.0, -1.0]).double()
        prior.log_scales.data -= 0.5
        return prior
    if case in FLOW_PRIORS:
        flow = FLOW_PRIORS[case](latent_dim, transforms=2, width=6, context_dim=context_dim).double()
        return curved(flow.bijection, flow)
    kinds = {**GUIDES, **FLOW_GUIDES}
    guide = kinds[case.removeprefix("vamp-")]
    network = MLP((4,), guide.parameter_shape(latent_dim), hidden=(5,), activation="tanh", context_dim=context_dim)
    u = torch.rand(3, 4, generator=seeded(3))
    return VampPrior(guide(network, latent_dim), u, Support.UNIT_INTERVAL, context_dim=context_dim).double()


def curved(bijection: nn.Module, module: Conditional) -> Conditional:
    """With transforms far from the identity, where they start."""
    for number, weight in enumerate(bijection.parameters()):
        weight.data = 0.4 * torch.randn(weight.shape, generator=seeded(number), dtype=weight.dtype)
    return module


def grid(latent_dim: int) -> tuple[Tensor, float]:
    axis = torch.linspace(-10, 10, 201).double()
    return torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim), 0.1**latent_dim


def test_every_registered_prior_is_tested():
    assert {case.split("-")[0] for case in CASES} == {*PRIORS, *FLOW_PRIORS}


@pytest.mark.parametrize("latent_dim", [1, 2])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_density_integrates_to_one_and_draws_follow_it(case, latent_dim):
    p = build(case, latent_dim)(None)
    assert p.batch_shape == ()
    assert p.event_shape == (latent_dim,)
    z, cell = grid(latent_dim)
    density = p.log_prob(z).exp() * cell
    assert density.sum().item() == pytest.approx(1, abs=2e-3 if "nsf" in case else 1e-6)  # splines have kinks
    n = 20_000
    draws = draw(p, (n,), generator=seeded()).detach()
    for f in (lambda v: -p.log_prob(v), lambda v: v.sum(-1), lambda v: v.square().sum(-1), lambda v: v.prod(-1)):
        values, exact = f(draws).detach(), (density * f(z)).sum().item()
        assert abs((values.mean().item() - exact) / (values.std().item() / math.sqrt(n))) < 4


@pytest.mark.parametrize("case", CONTEXTUAL)
def test_context_gives_every_datum_its_own_prior(case):
    prior = build(case, 2, context_dim=3)
    context = torch.randn(5, 3, generator=seeded()).double()
    p = prior(None, context)
    assert p.batch_shape == (5,)
    z = torch.randn(7, 5, 2, generator=seeded()).double()
    together = p.log_prob(z)
    for datum in range(5):
        alone = prior(None, context[datum : datum + 1]).log_prob(z[:, datum : datum + 1])
        torch.testing.assert_close(together[:, datum : datum + 1], alone)
    assert not torch.allclose(together, prior(None, context + 1).log_prob(z))
    assert draw(p, (4,), generator=seeded()).shape == (4, 5, 2)


@pytest.mark.parametrize("case", CONTEXTUAL)
def test_a_missing_context_is_refused(case):
    prior = build(case, 2, context_dim=3)
    for context in (None, torch.zeros(5, 2).double()):
        with pytest.raises(ElbowroomError, match="length 3"):
            prior(None, context)


@pytest.mark.parametrize("case", ["mixture", "vamp-diagonal", "maf", "nsf", "coupling"])
def test_every_parameter_learns(case):
    prior = build(case, 2)
    prior(None).log_prob(torch.randn(5, 2).double()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())


def test_standard_normal_has_a_closed_form_kl_and_moves():
    prior = StandardNormal(2).to(torch.float64)
    assert prior(None).mean.dtype == torch.float64
    assert not prior.state_dict()
    q = Independent(Normal(torch.tensor([1.0, 0.0]).double(), torch.tensor([2.0, 1.0]).double()), 1)
    expected = 0.5 * (4 + 1 - 1) - math.log(2)  # ½ Σ (σ² + μ² − 1 − log σ²)
    assert kl_divergence(q, prior(None)).item() == pytest.approx(expected)


def test_vamp_density_is_the_average_of_the_guide():
    prior = build("vamp-diagonal", 2)
    q = prior.guide(prior.pseudo_inputs)
    z = torch.randn(6, 2).double()
    expected = torch.stack([q.log_prob(item).exp().mean() for item in z]).log()
    torch.testing.assert_close(prior(None).log_prob(z), expected)


def test_vamp_draws_come_from_every_pseudo_input():
    """Not from the first n of them: 5 components far apart, each with a fifth of the draws."""
    network = MLP((1,), (2, 1), hidden=())
    with torch.no_grad():
        network.output.weight.copy_(torch.tensor([[1.0], [0.0]]))
        network.output.bias.copy_(torch.tensor([0.0, math.log(0.01)]))
    u = torch.tensor([[0.0], [10.0], [20.0], [30.0], [40.0]])
    prior = VampPrior(DiagonalNormal(network, 1), u, Support.REALS)
    for n in (3, 5_000):
        z = draw(prior(None), (n,), generator=seeded(1))
        assert ((z / 10 - (z / 10).round()).abs() < 0.1).all()
        if n > 5:
            shares = torch.stack([((z / 10).round() == k).double().mean() for k in range(5)])
            assert ((shares - 0.2).abs() / math.sqrt(0.2 * 0.8 / n) < 4).all()
        else:  # an average draw, not always the first components
            later = torch.cat([draw(prior(None), (n,), generator=seeded(s)) for s in range(20)])
            assert (later > 25).any()


@pytest.mark.parametrize(
    ("support", "start"),
    [
        (Support.BINARY, [0.0, 1.0, 1.0]),
        (Support.UNIT_INTERVAL, [0.02, 0.5, 0.98]),
        (Support.BYTES, [3.0, 100.0, 250.0]),
        (Support.COUNTS, [0.5, 3.0, 200.0]),
        (Support.REALS, [-5.0, 0.0, 7.0]),
    ],
)
def test_pseudo_inputs_start_at_the_data_and_stay_in_range(support, start):
    u = torch.tensor([start])
    prior = VampPrior(DiagonalNormal(MLP((3,), (2, 1)), 1), u, support)
    torch.testing.assert_close(prior.pseudo_inputs.detach(), u, rtol=1e-4, atol=0.011)
    low, high = {
        Support.BINARY: (0, 1),
        Support.UNIT_INTERVAL: (0, 1),
        Support.BYTES: (0, 255),
        Support.COUNTS: (0, math.inf),
        Support.REALS: (-math.inf, math.inf),
    }[support]
    for push in (-1000.0, 1000.0):
        prior.raw.data.fill_(push)
        assert ((prior.pseudo_inputs >= low) & (prior.pseudo_inputs <= high)).all()


def test_pseudo_inputs_may_start_as_integers():
    prior = VampPrior(DiagonalNormal(MLP((2,), (2, 1)), 1), torch.tensor([[0, 255]], dtype=torch.uint8), Support.BYTES)
    torch.testing.assert_close(prior.pseudo_inputs.detach(), torch.tensor([[2.55, 252.45]]))


def test_vamp_shares_the_guide():
    guide = DiagonalNormal(MLP((3,), (2, 1)), 1)
    prior = VampPrior(guide, torch.rand(4, 3), Support.UNIT_INTERVAL)
    assert prior.guide is guide
    assert prior.raw.shape == (4, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MixtureOfGaussians(2, 0), "0 components"),
        (lambda: VampPrior(DiagonalNormal(MLP((3,), (2, 1)), 1), torch.zeros(0, 3), Support.REALS), "0 components"),
        (lambda: VampPrior(DiagonalNormal(MLP((3,), (2, 1)), 1), torch.zeros(2, 3), Support.CATEGORIES), "mixture"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ElbowroomError, match=message):
        wrong()


def test_mixture_starts_from_the_generator():
    a, b = (MixtureOfGaussians(2, 4, generator=seeded(0)).means for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, MixtureOfGaussians(2, 4, generator=seeded(1)).means)


def test_a_context_shifts_logits_means_and_log_scales_by_a_linear_map() -> None:
    prior = MixtureOfGaussians(2, 3, context_dim=4, generator=torch.Generator().manual_seed(0)).double()
    context = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = prior(None, context)
    assert prior.shift is not None
    shift = (context @ prior.shift.weight.T).view(5, 3, 5)  # a logit, two means, two log scales for each component
    logits = (prior.logits + shift[..., 0]).log_softmax(-1)
    torch.testing.assert_close(found.mixture_distribution.logits, logits)
    torch.testing.assert_close(found.component_distribution.base_dist.loc, prior.means + shift[..., 1:3])
    log_scales = prior.log_scales + shift[..., 3:]
    torch.testing.assert_close(found.component_distribution.base_dist.scale, log_scales.exp())
