"""Importance sampling against exact evidence, and its accumulator against one sum over everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MixtureSameFamily, MultivariateNormal, Normal

import exact_cases as exact
from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.estimate import WeightSums, importance_estimate, importance_estimate_from
from elbowroom.inference.mlp_target import PerceptronLikelihood
from elbowroom.model.autoregressive import CausalTransformer, Made
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal
from elbowroom.numerics import chunks, effective_sample_size, log_mean_exp
from largest_tensor import Largest


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def record_draws(model: Any) -> list[tuple[int, ...]]:
    """The shapes of z that reach the likelihood from now on."""
    shapes: list[tuple[int, ...]] = []
    model.likelihood.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_exact_guide_gives_the_evidence_without_error() -> None:
    case = exact.linear_gaussian(4, 2)
    posterior = exact.affine_posterior(case.model, 4)
    found = importance_estimate(case.model, posterior, case.x, num_samples=10, generator=seeded())
    torch.testing.assert_close(found.log_evidence, case.model.log_evidence(case.x).detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.ess, torch.full((3,), 10.0, dtype=torch.float64))
    assert (found.stderr < 1e-6).all()


def test_average_weight_is_the_evidence_and_the_stderr_is_calibrated() -> None:
    case = exact.linear_gaussian(4, 2)
    many = case.x.repeat(400, 1)
    truth = case.model.log_evidence(many).detach()
    found = importance_estimate(case.model, case.guide, many, num_samples=400, generator=seeded())
    relative = (found.log_evidence - truth).exp() - 1  # unbiased, unlike its logarithm
    assert abs(relative.mean() / relative.std() * math.sqrt(len(many))) < 4
    scores = relative / found.stderr  # delta method: the relative error of the mean weight
    excess = (scores.square().sum() - len(many)) / scores.square().std() / math.sqrt(len(many))
    assert abs(excess) < 4
    assert found.stderr.min() > 1e-3


def test_masked_evidence() -> None:
    case = exact.linear_gaussian(4, 2)
    mask = torch.tensor([[True, True, False, True], [False, True, True, False], [True] * 4])
    batch = Batch(torch.where(mask, case.x, 0.0), mask=mask)
    found = importance_estimate(case.model, case.guide, batch, num_samples=20000, generator=seeded())
    truth = case.model.log_evidence(batch.x, mask).detach()
    assert ((found.log_evidence - truth).abs() < 4 * found.stderr).all()


@pytest.mark.parametrize("num_samples", [1, 7, 8, 64, 65])
@pytest.mark.parametrize("chunk_elements", [1, 24, 90, 2**22])
def test_exactly_k_draws_in_bounded_chunks(num_samples: int, chunk_elements: int) -> None:
    case = exact.linear_gaussian(4, 2)
    shapes = record_draws(case.model)
    importance_estimate(
        case.model, case.guide, case.x, num_samples=num_samples, chunk_elements=chunk_elements, generator=seeded()
    )
    assert sum(shape[0] for shape in shapes) == num_samples
    assert all(shape[1:] == (3, 2) for shape in shapes)
    assert all(shape[0] == 1 or shape[0] * 3 * 4 <= chunk_elements for shape in shapes)
    assert len(shapes) == math.ceil(num_samples / max(1, chunk_elements // 12))  # no smaller than they need be


def test_number_of_draws_does_not_bias() -> None:
    """Weights that do not vary give the same answer however many there are and however they are cut."""
    case = exact.linear_gaussian(4, 2)
    posterior = exact.affine_posterior(case.model, 4)
    truth = case.model.log_evidence(case.x).detach()
    for num_samples in (1, 2, 5, 13):
        for chunk_elements in (1, 48, 2**20):
            found = importance_estimate(
                case.model,
                posterior,
                case.x,
                num_samples=num_samples,
                chunk_elements=chunk_elements,
                generator=seeded(),
            )
            torch.testing.assert_close(found.log_evidence, truth, rtol=0, atol=1e-9)


def wild_log_weights() -> Tensor:
    log_w = 5 * torch.randn(50, 6, dtype=torch.float64, generator=seeded())
    log_w[:, 1] -= 90000.0
    log_w[:, 2] += 90000.0
    log_w[:30, 3] = -math.inf
    log_w[:, 4] = torch.linspace(-2000, 2000, 50)
    return log_w


@pytest.mark.parametrize("size", [1, 7, 25, 49, 50, 99])
@pytest.mark.parametrize("order", ["forward", "backward"])
def test_sums_do_not_depend_on_the_chunks(size: int, order: str) -> None:
    log_w = wild_log_weights() if order == "forward" else wild_log_weights().flip(0)
    sums = WeightSums.empty(6)
    for chunk in chunks(50, size):
        sums = sums.add(log_w[chunk])
    found = sums.estimate()
    assert sums.draws == 50
    torch.testing.assert_close(found.log_evidence, log_mean_exp(log_w))
    torch.testing.assert_close(found.ess, effective_sample_size(log_w))
    w = (log_w - log_w.amax(0)).exp()
    torch.testing.assert_close(found.stderr, (w.var(0) / 50).sqrt() / w.mean(0))


def test_sums_keep_what_float32_would_lose() -> None:
    ones = torch.zeros(4096, 1)
    sums = WeightSums.empty(1).add(torch.full((1, 1), 17.0))
    for _ in range(8):
        sums = sums.add(ones)
    truth = math.log((math.exp(17.0) + 8 * 4096) / (8 * 4096 + 1))
    assert sums.estimate().log_evidence.dtype == torch.float64
    assert abs(sums.estimate().log_evidence.item() - truth) < 1e-12


def test_one_draw_has_no_stderr_and_no_weight_has_no_evidence() -> None:
    single = WeightSums.empty(2).add(torch.tensor([[-3.0, 4.0]])).estimate()
    assert single.log_evidence.tolist() == [-3.0, 4.0]
    assert single.stderr.isnan().all()
    assert single.ess.tolist() == [1.0, 1.0]
    assert WeightSums.empty(1).add(torch.full((5, 1), -math.inf)).estimate().log_evidence.item() == -math.inf


def test_no_gradient_and_no_global_randomness() -> None:
    case = exact.linear_gaussian(4, 2)
    before = torch.get_rng_state()
    found, again, other = (
        importance_estimate(case.model, case.guide, case.x, num_samples=50, generator=seeded(s)) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.log_evidence, again.log_evidence)
    assert not torch.equal(found.log_evidence, other.log_evidence)
    assert not any(part.requires_grad for part in found)
    assert all(part.shape == (3,) and part.dtype == torch.float64 for part in found)


def test_guide_and_prior_run_once_for_all_chunks() -> None:
    case = exact.linear_gaussian(4, 2)
    calls: list[str] = []
    for name, module in (("guide", case.guide), ("prior", case.model.prior)):
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    importance_estimate(case.model, case.guide, case.x, num_samples=9, chunk_elements=1, generator=seeded())
    assert sorted(calls) == ["guide", "prior"]


def test_a_guide_and_what_it_says_are_the_same_proposal() -> None:
    case = exact.linear_gaussian(4, 2)
    by_guide = importance_estimate(case.model, case.guide, case.x, num_samples=50, generator=seeded())
    by_proposal = importance_estimate_from(case.model, case.guide(case.x), case.x, num_samples=50, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(by_guide, by_proposal, strict=True))


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (1, 2), (2,)])
def test_a_proposal_for_each_datum(shape: tuple[int, ...]) -> None:
    """Three data with two latents: broadcasting would let one proposal, or one draw, stand for all of them."""
    case = exact.linear_gaussian(4, 2)
    q = Independent(Normal(torch.zeros(shape).double(), 1.0), 1)
    with pytest.raises(ElbowroomError, match=r"need one proposal each"):
        importance_estimate_from(case.model, q, case.x, num_samples=5, generator=seeded())


@pytest.mark.parametrize("call", [{"num_samples": 0}, {"num_samples": 5, "chunk_elements": 0}])
def test_refusals(call: dict[str, int]) -> None:
    case = exact.linear_gaussian(4, 2)
    with pytest.raises(ElbowroomError):
        importance_estimate(case.model, case.guide, case.x, generator=seeded(), **call)


def _wide(kind: str) -> tuple[LatentModel, Conditional]:
    torch.manual_seed(0)
    shape, latent = (4, 4), 10 if kind == "mixture prior" else 3
    prior: Conditional = StandardNormal(latent)
    likelihood: Likelihood = Bernoulli(MLP((latent,), (1, *shape), hidden=(5,)), shape)
    guide: Conditional = DiagonalNormal(MLP(shape, (2, latent), hidden=()), latent)
    if kind == "mixture prior":
        prior = MixtureOfGaussians(latent, 200)
    elif kind == "categorical":
        network = MLP((latent,), Categorical.parameter_shape(shape, num_categories=40), hidden=(5,))
        likelihood = Categorical(network, shape, num_categories=40)
        transform = InputTransform(Support.CATEGORIES, shape, num_categories=40)
        guide = DiagonalNormal(MLP(transform.out_shape, (2, latent), hidden=()), latent, transform)
    elif kind == "logistics":
        network = MLP((latent,), DiscretizedLogisticMixture.parameter_shape(shape, components=10), hidden=(5,))
        likelihood = DiscretizedLogisticMixture(network, shape, components=10)
    elif kind == "wide decoder":
        likelihood = Bernoulli(MLP((latent,), (1, *shape), hidden=(500,)), shape)
    elif kind == "convolutions":
        likelihood = Bernoulli(ConvDecoder((latent,), (1, *shape), channels=(150, 50)), shape)
    elif kind == "full guide":
        latent = 25
        prior = StandardNormal(latent)
        likelihood = Bernoulli(MLP((latent,), (1, *shape), hidden=(5,)), shape)
        guide = FullNormal(MLP(shape, FullNormal.parameter_shape(latent), hidden=()), latent)
    elif kind in ("masked prior", "transformer prior"):
        space = CodeSpace(4, 3)
        prior = Made(space, width=1000, layers=1) if kind == "masked prior" else CausalTransformer(space, width=64)
        likelihood = Bernoulli(MLP((space.dim,), (1, *shape), hidden=(5,)), shape)
        guide = CategoricalGuide(MLP(shape, space, hidden=()), space)
    return LatentModel(prior, likelihood), guide


class Eight(Conditional):
    """A mixture of eight of what a guide says."""

    def __init__(self, guide: Conditional) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> MixtureSameFamily:
        q = self.guide(given, context)
        components = MultivariateNormal(
            q.loc.unsqueeze(1).repeat(1, 8, 1), scale_tril=q.scale_tril.unsqueeze(1).repeat(1, 8, 1, 1)
        )
        weights = torch.distributions.Categorical(logits=torch.zeros(len(q.loc), 8))
        return MixtureSameFamily(weights, components)


@pytest.mark.parametrize(
    "kind",
    [
        "mixture prior",
        "categorical",
        "logistics",
        "wide decoder",
        "convolutions",
        "full guide",
        "mixture of full normals",
        "masked prior",
        "transformer prior",
    ],
)
def test_memory_is_bounded_whatever_the_model_is_made_of(kind: str) -> None:
    model, guide = _wide("full guide" if kind == "mixture of full normals" else kind)
    if kind == "mixture of full normals":
        guide = Eight(guide)
    x = torch.randint(0, 2, (2, 4, 4), generator=seeded()).float()
    with Largest() as largest:
        importance_estimate(model, guide, x, num_samples=150, chunk_elements=20_000, generator=seeded())
    assert 5_000 < largest.elements <= 20_000  # bounded, and not by a chunk that is needlessly small


# --- perceptrons take the samplers' road


class Another(LatentModel):
    """A model with a likelihood of its own, whatever its parts say."""

    def log_likelihood(self, x: Tensor, z: Tensor, **options: Any) -> Tensor:
        return 0.5 * super().log_likelihood(x, z, **options)


def perceptrons(kind: str) -> tuple[LatentModel, Conditional, Batch]:
    """A model, a guide and data; the widths are those of packed products."""
    torch.manual_seed(0)
    event, latent, hidden = (10, 14), 3, (130, 120)
    prior: Conditional = MixtureOfGaussians(latent, 4) if kind == "mixture prior" else StandardNormal(latent)
    context_dim = 2 if kind == "context" else 0
    network = MLP((latent,), (1, *event), hidden=hidden, context_dim=context_dim, batch_norm=kind.startswith("norm"))
    likelihood: Likelihood = Gaussian(network, event) if kind == "gaussian" else Bernoulli(network, event)
    guide = DiagonalNormal(MLP(event, (2, latent), hidden=(), context_dim=context_dim), latent)
    model = (Another if kind == "another model" else LatentModel)(prior, likelihood).eval()
    if kind.startswith("norm"):
        for part in network.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.copy_(torch.randn(part.num_features))
                part.running_var.copy_(torch.rand(part.num_features) + 0.5)
        network.train(kind == "norm in training")
    if kind == "double":
        model, guide = model.double(), guide.double()
    x = torch.randint(0, 2, (5, *event), generator=seeded()).to(next(model.parameters()).dtype)
    context = torch.randn(5, 2, generator=seeded()) if context_dim else None
    mask = torch.rand(5, *event, generator=seeded(1)) < 0.7 if kind == "mask" else None
    return model, guide.eval(), Batch(x, context=context, mask=mask)


QUICK = ["bernoulli", "gaussian", "mixture prior", "context", "mask", "norm", "double"]


@pytest.mark.parametrize("kind", [*QUICK, "norm in training", "another model", "a hook"])
def test_a_perceptron_is_weighed_by_the_samplers_road(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same draws the weights are the same, and models of one's own and onlookers get what is theirs."""
    model, guide, batch = perceptrons(kind)
    calls: list[int] = []
    quick = PerceptronLikelihood.log_density

    def spy(self: PerceptronLikelihood, z: Tensor) -> Tensor:
        calls.append(len(z))
        return quick(self, z)

    monkeypatch.setattr(PerceptronLikelihood, "log_density", spy)
    if kind == "a hook":
        shapes = record_draws(model)
    settings: dict[str, Any] = {"num_samples": 50, "chunk_elements": 5 * 140 * 7}
    found = importance_estimate(model, guide, batch, **settings, generator=seeded())
    assert calls == ([7] * 7 + [1] if kind in QUICK else [])
    if kind == "a hook":
        assert sum(shape[0] for shape in shapes) == 50
    monkeypatch.setattr(PerceptronLikelihood, "fits", staticmethod(lambda likelihood: False))
    plain = importance_estimate(model, guide, batch, **settings, generator=seeded())
    if kind != "norm in training":  # which has moved on
        torch.testing.assert_close(found.log_evidence, plain.log_evidence, rtol=2e-6, atol=2e-5)
        torch.testing.assert_close(found.ess, plain.ess, rtol=2e-3, atol=0)


def test_layers_of_ones_own_are_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            return 2 * super().forward(given)

    model, guide, batch = perceptrons("bernoulli")
    network = model.likelihood.network
    found = importance_estimate(model, guide, batch, num_samples=20, generator=seeded())
    doubled = Doubled(120, 140)
    doubled.load_state_dict(network.output.state_dict())
    network.output = doubled
    other = importance_estimate(model, guide, batch, num_samples=20, generator=seeded())
    assert (found.log_evidence - other.log_evidence).abs().min() > 1e-3
