"""Elements given others: against the conditional normal distribution, quadrature, enumeration, and imputation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.inference.enumeration import all_codes
from elbowroom.inference.posterior import codes
from elbowroom.inference.posterior.given import GivenDraws, sample_given
from elbowroom.inference.posterior.imputation import impute
from elbowroom.model import oracles
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes, UnigramCodes
from elbowroom.model.composite_networks import ByComponent
from elbowroom.model.draws import observed_log_density
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.mixtures import Mixture
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal
from elbowroom.model.table.likelihood import Table
from table_cases import COLUMNS

DRAWS = 4000
MIXED = [COLUMNS[name] for name in ("category", "binary", "real", "count")]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(model: LatentModel, guide: Any, batch: Batch, seed: int = 0, num: int = DRAWS) -> GivenDraws:
    with torch.no_grad():
        return sample_given(model, guide, batch, num, generator=seeded(seed))


def spread(found: GivenDraws) -> float:
    """By what the variance of an average is larger than that of independent draws, at most."""
    return 1 + (0.0 if found.ess is None else len(found.z) / float(found.ess.min()))


def check_shares(x: Tensor, value: float, exact: Tensor, variance: float) -> None:
    """How often the elements have a value, against probabilities, by z-scores."""
    stderr = (exact * (1 - exact) * variance / len(x)).sqrt()
    assert (((x == value).double().mean(0) - exact) / stderr).abs().max() < 4


# --- normal ------------------------------------------------------------------------------------------------------


def test_rows_of_a_linear_gaussian_model_have_the_conditional_distribution() -> None:
    model, guide, x = oracles.ppca(dim=6, latent_dim=2, seed=1, num_data=3)
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]]).bool()
    found = drawn(model, guide, Batch(x, mask=mask))
    weight, bias = model.weight.detach(), model.bias.detach()
    joint = weight @ weight.T + model.noise_scale**2 * torch.eye(6, dtype=weight.dtype)
    assert found.ess is not None and found.log_evidence is not None and found.stderr is not None
    assert (found.ess > 5 * DRAWS).all()
    for row, seen in enumerate(mask):
        gain = joint[~seen][:, seen] @ torch.linalg.inv(joint[seen][:, seen])
        centred = found.x[:, row, ~seen] - (bias[~seen] + gain @ (x[row] - bias)[seen])
        exact = joint[~seen][:, ~seen] - gain @ joint[seen][:, ~seen]
        stderr = (exact.diagonal() * spread(found) / DRAWS).sqrt()
        assert (centred.mean(0) / stderr).abs().max() < 4
        products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
        z = (products.mean(0) - exact) / (products.std(0) * math.sqrt(spread(found) / DRAWS))
        assert z.abs().max() < 4
        # the means have no noise of their own
        means = found.mean[:, row, ~seen]
        noise = exact - model.noise_scale**2 * torch.eye(len(exact), dtype=exact.dtype)
        assert (means.var(0) / noise.diagonal() - 1).abs().max() < 4 * math.sqrt(2 * spread(found) / DRAWS)
    assert torch.equal(found.x[:, mask], x[mask].expand(DRAWS, -1))
    z = (found.log_evidence - model.log_evidence(x, mask).detach()) / found.stderr
    assert z.abs().max() < 4


def test_no_guide_is_needed() -> None:
    model, guide, x = oracles.ppca(dim=5, latent_dim=1, seed=1, num_data=1)
    batch = Batch(x, mask=torch.tensor([[True, True, False, False, False]]))
    one, two = drawn(model, guide, batch), drawn(model, PriorGuide(model.prior), batch, seed=1)
    stderr = (one.x.var(0) * (spread(one) + spread(two)) / DRAWS).sqrt()
    assert ((one.x.mean(0) - two.x.mean(0)) / stderr)[~batch.mask].abs().max() < 4


# --- a mixture of components ---------------------------------------------------------------------------------------


def mixture(components: int = 3) -> LatentModel:
    """Columns of four kinds, one latent, and components that differ a lot."""
    torch.manual_seed(2)
    shape = Table.parameter_shape((4,), columns=MIXED)
    network = ByComponent(MLP((1 + components,), shape, hidden=(8,)), components)
    likelihood = Mixture(network, Table(torch.nn.Identity(), MIXED, components=components))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
        likelihood.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return LatentModel(StandardNormal(1), likelihood).double().eval()


@torch.no_grad()
def conditional_by_quadrature(model: LatentModel, row: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """P of all combinations of levels of the first columns given the others, and log p of the latter."""
    grid = torch.linspace(-7, 7, 701, dtype=torch.float64).reshape(-1, 1)
    log_weights = model.prior(None).log_prob(grid) + math.log(14 / 700)
    p_x = model.likelihood(grid)
    cells = torch.cartesian_prod(*(torch.arange(float(count), dtype=torch.float64) for count in levels))
    full = row.repeat(len(cells), 1)
    full[:, : len(levels)] = cells
    log_joint = [(observed_log_density(p_x, each, event_dim=1) + log_weights).logsumexp(0) for each in full]
    seen = torch.arange(4) >= len(levels)
    log_evidence = (observed_log_density(p_x, row, seen, event_dim=1) + log_weights).logsumexp(0)
    return (torch.stack(log_joint) - log_evidence).exp(), log_evidence


def test_given_columns_tell_components_apart_and_others_vary_together() -> None:
    model = mixture()
    row = torch.tensor([0.0, 0.0, 108.0, 2.0]).double()
    mask = torch.tensor([[False, False, True, True]])
    exact, log_evidence = conditional_by_quadrature(model, row, (3, 2))
    torch.testing.assert_close(exact.sum(), torch.ones(()).double())
    found = drawn(model, PriorGuide(model.prior), Batch(torch.where(mask, row, torch.nan), mask=mask))
    joint = found.x[:, 0, 0] * 2 + found.x[:, 0, 1]
    shares = torch.stack([(joint == cell).double() for cell in range(6)], 1)
    stderr = (exact * (1 - exact) * spread(found) / DRAWS).sqrt()
    assert ((shares.mean(0) - exact) / stderr).abs().max() < 4
    assert found.log_evidence is not None and found.stderr is not None
    assert abs(float(found.log_evidence - log_evidence)) < 4 * float(found.stderr)
    assert (exact > 0.02).sum() >= 3  # several are possible


# --- codes -------------------------------------------------------------------------------------------------------


def latent_classes(classes: int = 4, columns: int = 3) -> LatentModel:
    space = CodeSpace(1, classes)
    torch.manual_seed(4)
    likelihood = Bernoulli(MLP((space.dim,), (1, columns), hidden=()), (columns,))
    prior = UnigramCodes(space)
    with torch.no_grad():
        for parameter in [*likelihood.parameters(), *prior.parameters()]:
            parameter.copy_(2 * torch.randn(parameter.shape))
    return LatentModel(prior, likelihood).double().eval()


def test_a_latent_class_model_is_exact() -> None:
    model = latent_classes()
    batch = Batch(torch.tensor([[1.0, 0.0, 0.0]]).double(), mask=torch.tensor([[True, True, False]]))
    with torch.no_grad():
        z = all_codes(model.space, dtype=torch.float64).unsqueeze(1)
        log_joint = model.log_joint(batch.x, z, mask=batch.mask).squeeze(1)
        posterior = log_joint.softmax(0)
        exact = posterior @ model.likelihood(z).probs.squeeze(1)[:, 2]
    found = drawn(model, None, batch)
    check_shares(found.x[:, 0, 2:], 1.0, exact.reshape(1), 1.0)
    shares = found.z.squeeze(1).double().mean(0)
    assert ((shares - posterior).abs() < 4 * (posterior * (1 - posterior) / DRAWS).sqrt() + 1e-9).all()
    assert found.ess is None and found.weighted == 0 and found.pareto_k is None
    assert found.log_evidence is not None and found.stderr is not None
    torch.testing.assert_close(found.log_evidence, log_joint.logsumexp(0, keepdim=True))
    assert float(found.stderr) == 0


def test_more_codes_than_can_be_summed_are_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    space = CodeSpace(2, 3)
    model = LatentModel(UniformCodes(space), Bernoulli(MLP((space.dim,), (1, 4), hidden=(6,)), (4,))).double()
    guide = CategoricalGuide(MLP((4,), (2, 3), hidden=()), space).double()
    batch = Batch(torch.ones(1, 4).double(), mask=torch.tensor([[True, True, False, False]]))
    exact = drawn(model, guide, batch)
    monkeypatch.setattr(codes, "_FEW_CODES", 1)
    found = drawn(model, guide, batch, seed=1)
    assert found.log_evidence is None and found.ess is not None and found.weighted > DRAWS
    share = exact.x[:, 0, 2:].double().mean(0)
    check_shares(found.x[:, 0, 2:], 1.0, share, spread(found) + 1)


# --- imputation, seeds, and what cannot be -----------------------------------------------------------------------


def curved() -> tuple[LatentModel, Any]:
    torch.manual_seed(5)
    network = MLP((2,), (1, 6), hidden=(8,))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5)
    return LatentModel(StandardNormal(2), Bernoulli(network, (6,))).double().eval(), oracles.ppca(
        dim=6, latent_dim=2, seed=0
    )[1]


def test_it_agrees_with_imputation() -> None:
    model, guide = curved()
    batch = Batch(torch.tensor([[1.0, 0.0, 1.0, 0, 0, 0]]).double(), mask=torch.arange(6).unsqueeze(0) < 3)
    found = drawn(model, guide, batch)
    filled = impute(model, guide, batch, draws=100, chains=6, warmup=40, method="hmc", generator=seeded(1))
    assert filled.mean is not None and filled.diagnostics is not None
    ess = float(filled.diagnostics.ess_bulk.min())
    share = found.x[:, 0, 3:].double().mean(0)
    stderr = (share * (1 - share) * (spread(found) / DRAWS + 1 / ess)).sqrt()
    assert ((share - filled.mean[0, 3:]) / stderr).abs().max() < 4
    assert ((found.mean[:, 0, 3:].mean(0) - filled.mean[0, 3:]) / stderr).abs().max() < 4


def test_a_seed_repeats_everything() -> None:
    model, guide = curved()
    batch = Batch(torch.ones(1, 6).double(), mask=torch.arange(6).unsqueeze(0) < 2)
    one, two, other = (drawn(model, guide, batch, seed=seed, num=50) for seed in (0, 0, 1))
    assert torch.equal(one.x, two.x) and torch.equal(one.z, two.z)
    assert not torch.equal(one.x, other.x)


def test_chunks_change_no_law() -> None:
    model, guide = curved()
    batch = Batch(torch.ones(1, 6).double(), mask=torch.arange(6).unsqueeze(0) < 2)
    with torch.no_grad():
        small = sample_given(model, guide, batch, 300, draws=600, chunk_elements=500, generator=seeded())
    assert small.weighted == 600 and small.x.shape == (300, 1, 6)
    large = drawn(model, guide, batch)
    stderr = (large.mean.var(0) * (1 + 300 / float(small.ess.min())) / 300).sqrt()
    assert ((small.mean.mean(0) - large.mean.mean(0)) / stderr)[~batch.mask].abs().max() < 4


def test_what_cannot_be() -> None:
    model, guide = curved()
    batch = Batch(torch.ones(1, 6).double(), mask=torch.arange(6).unsqueeze(0) < 2)
    with pytest.raises(ElbowroomError, match="needs at least 1"):
        drawn(model, guide, batch, num=0)
    with pytest.raises(ElbowroomError, match="as many weighted draws at least"):
        sample_given(model, guide, batch, 50, draws=20)
    loss = LatentModel(StandardNormal(2), CrossEntropy(MLP((2,), (1, 6), hidden=()), (6,))).double()
    with pytest.raises(ElbowroomError, match="does not integrate to one"):
        drawn(loss, guide, batch)
    with pytest.raises(NotFiniteError):
        drawn(latent_classes(), None, Batch(torch.full((1, 3), math.nan).double(), mask=torch.ones(1, 3).bool()))
