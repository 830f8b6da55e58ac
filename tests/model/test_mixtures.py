"""Mixtures of likelihoods: densities by enumeration, holes, draws, curvature, special cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing.ais import ais
from elbowroom.inference.gaussian.curvature import gauss_newton
from elbowroom.inference.gaussian.laplace import laplace
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.inference.posterior.imputation import impute
from elbowroom.inference.target import default_metric
from elbowroom.model import oracles
from elbowroom.model.composite_networks import ByComponent
from elbowroom.model.draws import completions, draw, mean
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Categorical, Gaussian
from elbowroom.model.mixtures import Mixture
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from mixture_cases import every_row, mixture, mixture_model, seeded, some_z, spread_out
from table_cases import COLUMNS


def of_components(likelihood: Mixture, z: Tensor, x: Tensor) -> Tensor:
    """log p(x_j | z, c), shape (K, *, *event)."""
    out = []
    for c in range(likelihood.components):
        unit = torch.eye(likelihood.components, dtype=z.dtype)[c].expand(*z.shape[:-1], -1)
        theta = likelihood.network.network(torch.cat([z, unit], -1))
        out.append(likelihood.base.distribution(*likelihood.base.split(theta)).log_prob(x))
    return torch.stack(out)


def by_hand(likelihood: Mixture, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """log Σ_c π_c Π_j p(x_j | z, c), one component after the other."""
    each = of_components(likelihood, z, x)
    if mask is not None:
        each = torch.where(mask, each, 0.0)
    totals = each.flatten(each.dim() - len(likelihood.event_shape)).sum(-1)
    weights = likelihood.logits.log_softmax(0).reshape(-1, *[1] * (totals.dim() - 1))
    return (weights + totals).logsumexp(0)


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_it_is_the_weighted_sum_of_its_components(shape):
    model = mixture_model(shape=shape, components=3)
    x, z = every_row(4).reshape(-1, *shape), some_z(5, 16, 1)
    expected = by_hand(model.likelihood, z, x)
    torch.testing.assert_close(model.log_likelihood(x, z), expected)
    elementwise = model.likelihood(z).log_prob(x)
    assert elementwise.shape == (5, 16, *shape)
    torch.testing.assert_close(elementwise.flatten(2).sum(-1), expected)
    torch.testing.assert_close(by_hand(model.likelihood, z[:, :1], x).logsumexp(1), torch.zeros(5).double())


def test_densities_follow_the_chain_rule():
    likelihood, x = mixture(), every_row(4)
    z = some_z(1, 1)
    p = by_hand(likelihood, z.expand(16, 1), x).exp()
    found = likelihood(z).log_prob(x)
    for j in range(4):
        for row in range(16):
            same = (x[:, :j] == x[row, :j]).all(1)
            with_own = same & (x[:, j] == x[row, j])
            torch.testing.assert_close(found[row, j].exp(), p[with_own].sum() / p[same].sum())


def test_a_mask_sums_out():
    model, x = mixture_model(), every_row(4)
    z = some_z(16, 1)
    for number in range(16):
        mask = torch.tensor([bool(number & 1 << j) for j in range(4)])
        found = model.log_likelihood(x[number, None], z[number, None], mask=mask[None])
        same = (x[:, mask] == x[number, mask]).all(1)
        expected = by_hand(model.likelihood, z[number].expand(16, 1), x)[same].logsumexp(0, keepdim=True)
        torch.testing.assert_close(found, expected)


CASES = ["real", "positive-atom", "cells", "proportion", "count", "count-atom", "binary", "ordinal", "category"]


def a_table(*cases: str, components: int = 3, context_dim: int = 0) -> Mixture:
    columns = [COLUMNS[case] for case in cases]
    out = Table.parameter_shape((len(columns),), columns=columns)
    network = ByComponent(MLP((2 + components,), out, hidden=(5,), context_dim=context_dim), components)
    likelihood = Mixture(network, Table(nn.Identity(), columns, components=components)).double()
    spread_out(likelihood, 0.5)
    return likelihood


def test_tables_of_all_families_have_scales_of_each_component():
    likelihood = a_table(*CASES)
    z = some_z(6, 2)
    x = draw(likelihood(z), generator=seeded(2))
    x[2, 3:6], x[4] = torch.nan, torch.nan
    found = likelihood(z).log_prob(x)
    assert found[4].abs().max() < 1e-14 and found[2, 3:6].abs().max() < 1e-14
    by_component = []
    for c in range(3):
        single = Table(nn.Identity(), [COLUMNS[case] for case in CASES]).double()
        shapes = {name: own.shape for name, own in single.state_dict().items()}
        of_all = likelihood.base.state_dict().items()
        single.load_state_dict({name: own if own.shape == shapes[name] else own[c] for name, own in of_all})
        theta = likelihood.network(z).unflatten(1, (3, -1))[:, c]
        by_component.append(single.distribution(*single.split(theta)).log_prob(x).sum(-1))
    expected = (likelihood.log_weights[:, None] + torch.stack(by_component)).logsumexp(0)
    torch.testing.assert_close(found.sum(-1), expected)
    assert likelihood.base.families[0].spread.scale.shape == (3, 1)


def test_a_value_that_no_component_can_explain_is_impossible_without_nan():
    likelihood = a_table("positive", "real", "binary")
    z = some_z(2, 2)
    x = torch.tensor([[-1.0, 3.0, 1.0], [2.0, 3.0, 1.0]]).double()
    model = LatentModel(StandardNormal(2), likelihood).double()
    total = model.log_likelihood(x, z)
    assert total[0] == -math.inf and total[1].isfinite()
    elementwise = likelihood(z).log_prob(x)
    assert not elementwise.isnan().any()
    torch.testing.assert_close(elementwise.sum(-1), total)
    assert all(
        g.isfinite().all()
        for g in torch.autograd.grad(total[1], likelihood.parameters(), allow_unused=True)
        if g is not None
    )


def test_draws_have_the_probabilities_of_the_mixture():
    likelihood = mixture(components=2)
    z = some_z(1, 1)
    x = draw(likelihood(z), (40_000,), generator=seeded(3))
    assert x.shape == (40_000, 1, 4)
    number = (x.squeeze(1) @ (2.0 ** torch.arange(3, -1, -1)).double()).long()
    found = torch.bincount(number, minlength=16).double() / len(number)
    expected = by_hand(likelihood, z.expand(16, 1), every_row(4)).exp()
    scores = (found - expected) / (expected * (1 - expected) / len(number)).sqrt()
    assert scores.abs().max() < 4
    # draws whose components were chosen for each element would have these
    independent = likelihood(z).mean
    apart = torch.where(every_row(4) == 1, independent, 1 - independent).prod(1)
    assert ((apart - expected).abs() > 0.01).any()


def test_the_mean_is_that_of_the_mixture():
    likelihood, x, z = mixture(), every_row(4), some_z(3, 1)
    p = by_hand(likelihood, z.unsqueeze(1).expand(3, 16, 1), x).exp()
    torch.testing.assert_close(mean(likelihood(z)), p @ x)


def test_categories_have_the_probabilities_of_the_mixture():
    likelihood = mixture(Categorical, (2,), shaping={"num_categories": 3})
    p_x = likelihood(some_z(1, 1))
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    joint = p_x.log_prob(every).sum(-1).exp().reshape(3, 3)
    torch.testing.assert_close(joint.sum(), torch.ones(()).double())
    torch.testing.assert_close(p_x.probs[0], torch.stack([joint.sum(1), joint.sum(0)]))


def test_completions_are_conditional_on_what_was_observed():
    likelihood, x, z = mixture(), every_row(4), some_z(1, 1)
    mask = torch.tensor([True, False, True, False])
    p = by_hand(likelihood, z.expand(16, 1), x).exp()
    found = completions(likelihood(z), x[5, None], mask[None])
    same = (x[:, mask] == x[5, mask]).all(1)
    expected = (p[same, None] * x[same]).sum(0) / p[same].sum()
    torch.testing.assert_close(mean(found)[0, ~mask], expected[~mask])
    assert (mean(found) - mean(likelihood(z)))[0, ~mask].abs().min() > 0.01


def test_imputation_uses_what_was_observed():
    # the network ignores z, so that p(x_m | x_o) is known
    model = mixture_model(components=2)
    with torch.no_grad():
        for layer in (
            model.likelihood.network.network.linear,
            model.likelihood.network.network.network.hidden_layers[0],
        ):
            layer.weight[:, 0] = 0
    x = every_row(4)[[3, 12]]
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    found = impute(
        model, PriorGuide(model.prior), Batch(x, mask=mask), draws=10, warmup=2, chains=2, generator=seeded(1)
    )
    p_x = model.likelihood(torch.zeros(2, 1).double())
    expected = mean(completions(p_x, x, mask))
    torch.testing.assert_close(found.mean[~mask].double(), expected[~mask].detach())


def of_elements(information: Tensor) -> Tensor:
    """(K, K, D), a matrix for each element, as one matrix, shape (K D, K D)."""
    size = information.shape[0] * information.shape[-1]
    return torch.diag_embed(information).movedim(-2, 1).reshape(size, size)


def test_the_information_of_x_and_its_component_bounds_that_of_x():
    likelihood, x = mixture(), every_row(4)
    theta = likelihood.network(some_z(1, 1)).detach()  # (1, K, 4)
    leaf = theta.expand(16, -1, -1).clone().requires_grad_()
    log_p = likelihood._mixture(leaf).total_log_prob(x, None)
    (score,) = torch.autograd.grad(log_p.sum(), leaf)
    p, score = log_p.detach().exp(), score.flatten(1)
    of_x = torch.einsum("n,ni,nj->ij", p, score, score)
    bound = likelihood.fisher_information(theta)[0]
    gap = of_elements(bound) - of_x
    assert torch.linalg.eigvalsh(gap).min() > -1e-12
    assert gap.diagonal().max() > 1e-3
    at_x = likelihood.information_at(theta.expand(16, -1, -1), x)
    torch.testing.assert_close((p[:, None, None, None] * at_x).sum(0), bound)


def test_what_the_curvature_leaves_out_is_a_covariance_of_scores():
    likelihood, z = mixture(), some_z(1, 1)
    x, mask = every_row(4)[5], torch.tensor([True, True, False, True])
    theta = likelihood.network(z).detach()[0]  # logits, whose −∇² log p_c is F_c exactly

    def log_p(theta: Tensor) -> Tensor:
        return likelihood._mixture(theta).total_log_prob(x, mask)

    hessian = torch.autograd.functional.hessian(log_p, theta).reshape(12, 12)
    found = likelihood.information_at(theta, x, mask)
    scores = ((x - theta.sigmoid()) * mask).unsqueeze(1) * torch.eye(3).double().unsqueeze(-1)  # (K, K, 4)
    r = completions(likelihood(z), x[None], mask[None]).log_weights[0].exp().detach()
    scores = scores.flatten(1)
    centre = r @ scores
    covariance = torch.einsum("c,ci,cj->ij", r, scores, scores) - centre[:, None] * centre
    torch.testing.assert_close(of_elements(found * mask) + hessian, covariance)


def test_the_metric_is_that_of_the_components_that_x_may_be_of():
    model = mixture_model(latent_dim=2, context_dim=1)
    x, z, context = every_row(4)[[3, 9]], some_z(2, 2), some_z(2, 1, seed=9)
    found = gauss_newton(model, Batch(x, context=context), z)
    for n in range(2):
        network = lambda one, n=n: model.likelihood.network(one[None], context[n, None])[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(network, z[n])  # (K, 4, latent)
        information = model.likelihood.information_at(network(z[n])[None], x[n, None])[0]
        expected = torch.eye(2).double() + torch.einsum("aej,abe,bek->jk", jacobian, information, jacobian)
        torch.testing.assert_close(found[n], expected)
    assert default_metric(model.likelihood) == "gauss-newton"


def test_mixtures_of_factor_analysers_are_a_special_case():
    model = mixture_model(kind=Gaussian, shape=(3,), components=2, hidden=(), scale=0.7)
    network = model.likelihood.network.network
    with torch.no_grad():
        network.network.output.weight.zero_()
        network.network.output.bias.zero_()
    w, b = network.linear.weight.detach(), network.linear.bias.detach()
    covariance = w[:, :1] @ w[:, :1].T + 0.49 * torch.eye(3).double()
    x = some_z(4, 3)
    parts = torch.stack([MultivariateNormal(b + w[:, 1 + c], covariance).log_prob(x) for c in range(2)])
    expected = (model.likelihood.log_weights[:, None] + parts).logsumexp(0)
    torch.testing.assert_close(oracles.quadrature_log_evidence(model, x), expected.detach())
    # one of them is missing
    mask = torch.tensor([True, False, True]).expand(4, 3)
    parts = torch.stack(
        [
            MultivariateNormal((b + w[:, 1 + c])[mask[0]], covariance[mask[0]][:, mask[0]]).log_prob(x[:, mask[0]])
            for c in range(2)
        ]
    )
    expected = (model.likelihood.log_weights[:, None] + parts).logsumexp(0)
    torch.testing.assert_close(oracles.quadrature_log_evidence(model, x, mask=mask), expected.detach())


def test_methods_of_inference_go_through():
    model = mixture_model(shape=(6,), hidden=())
    x = model.sample(6, generator=seeded(2)).x
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2:, 1] = False
    batch = Batch(x, mask=mask)
    exact = oracles.quadrature_log_evidence(model, x, mask=mask)
    by_laplace = laplace_evidence(model, None, batch, k=400, generator=seeded(3))
    assert ((by_laplace.log_evidence - exact).abs() < 4 * by_laplace.stderr).all()
    annealed = ais(model, batch, temperatures=4, chains=40, start="prior", generator=seeded(4))
    assert ((annealed.log_evidence - exact).abs() < 4 * annealed.stderr).all()
    modes = laplace(model, torch.zeros(6, 1).double(), batch, tolerance=1e-9)
    z = modes.mode.requires_grad_()
    (slope,) = torch.autograd.grad(model.log_joint(x, z, mask=mask).sum(), z)
    assert (slope.square() / modes.precision.squeeze(-1)).max() < 1e-6


def test_the_start_is_the_mean_of_the_data_in_every_component():
    likelihood = mixture()
    with torch.no_grad():
        likelihood.network.network.linear.weight.zero_()
    likelihood.network.network.start_linear()
    means = torch.tensor([0.1, 0.4, 0.5, 0.9]).double()
    likelihood.init_output_bias(means)
    torch.testing.assert_close(mean(likelihood(some_z(2, 1))), means.expand(2, 4))


def test_what_cannot_be_mixed_is_refused():
    class Own(Bernoulli):
        def forward(self, given, context=None):
            raise AssertionError

    network = ByComponent(MLP((3,), (1, 4)), 2)
    with pytest.raises(ElbowroomError, match="Own"):
        Mixture(network, Own(nn.Identity(), (4,)))
    with pytest.raises(ElbowroomError, match=r"returns shape \(2, 4\), but should return \(2, 5\)"):
        Mixture(network, Bernoulli(nn.Identity(), (5,)))
