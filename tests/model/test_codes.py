"""Guides and priors over codes, in a model: bounds against enumeration, context, refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from code_cases import small_codes
from elbowroom.errors import ElbowroomError
from elbowroom.inference.kl import closed_form_kl
from elbowroom.inference.objectives import elbo, iwae
from elbowroom.model import oracles
from elbowroom.model.autoregressive import Made
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes, UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.model.priors import StandardNormal

SPACE, DIM = CodeSpace(3, 4), 6


@pytest.fixture(params=["uniform", "unigram", "made"])
def model(request: pytest.FixtureRequest) -> LatentModel:
    torch.manual_seed(0)
    prior: Conditional = UniformCodes(SPACE)
    if request.param == "unigram":
        prior = UnigramCodes(SPACE)
        prior.logits.data.normal_()
    if request.param == "made":  # its KL is known in half
        prior = Made(SPACE, width=16)
        for parameter in prior.parameters():
            parameter.data.normal_(std=0.5)
    network = MLP((SPACE.dim,), (1, DIM), hidden=(16,))
    return LatentModel(prior, Bernoulli(network, (DIM,))).double()


@pytest.fixture
def guide() -> CategoricalGuide:
    torch.manual_seed(1)
    return CategoricalGuide(MLP((DIM,), SPACE), SPACE).double()


@pytest.fixture
def x() -> Tensor:
    return torch.bernoulli(torch.full((20, DIM), 0.5, dtype=torch.float64), generator=torch.Generator().manual_seed(2))


def enumerated(model: LatentModel, guide: Conditional, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x) and the ELBO, exactly, by brute force."""
    numbers = torch.tensor(list(itertools.product(range(SPACE.codes), repeat=SPACE.slots)))
    z = SPACE.one_hot(numbers, torch.float64)[:, None].expand(-1, len(x), -1)
    log_joint, log_q = model.log_joint(x, z), guide(x).log_prob(z)
    return log_joint.logsumexp(0), (log_q.exp() * (log_joint - log_q)).sum(0)


@pytest.mark.parametrize("kl", ["auto", "monte-carlo"])
@pytest.mark.parametrize("estimator", ["score-function", "straight-through"])
def test_the_elbo_is_that_of_the_enumeration(
    model: LatentModel, guide: CategoricalGuide, x: Tensor, kl: str, estimator: str
) -> None:
    exact = enumerated(model, guide, x)[1].detach()
    values = torch.stack(
        [
            elbo(
                model, guide, x, num_samples=50, kl=kl, estimator=estimator,  # type: ignore[arg-type]
                generator=torch.Generator().manual_seed(seed),
            ).detach()
            for seed in range(40)
        ]
    )  # fmt: skip
    z = (values.mean(0) - exact) / (values.std(0) / len(values) ** 0.5)
    assert float(z.abs().max()) < 4


def test_the_importance_weighted_bound_nears_log_p(model: LatentModel, guide: CategoricalGuide, x: Tensor) -> None:
    with torch.no_grad():
        log_p, exact = enumerated(model, guide, x)
        bound = iwae(model, guide, x, num_samples=20_000, generator=torch.Generator().manual_seed(0))
    assert bool((exact < log_p).all())
    assert float((bound - log_p).abs().max()) < 0.05


def test_the_gradient_of_the_score_function_is_that_of_the_enumeration(
    model: LatentModel, guide: CategoricalGuide, x: Tensor
) -> None:
    """In all weights together, along the exact gradient."""
    weights = [*model.parameters(), *guide.parameters()]
    exact = torch.autograd.grad(enumerated(model, guide, x)[1].mean(), weights)
    length = sum(float(g.square().sum()) for g in exact)
    found = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        bound = elbo(
            model, guide, x.repeat(3, 1), num_samples=4, kl="auto", estimator="score-function", generator=generator
        ).mean()
        gradient = torch.autograd.grad(bound, weights)
        found.append(sum(float((g * e).sum()) for g, e in zip(gradient, exact, strict=True)))
    drawn = torch.tensor(found, dtype=torch.float64)
    assert abs(float(drawn.mean()) - length) / (float(drawn.std()) / len(drawn) ** 0.5) < 4


def test_the_kl_between_independent_slots_is_that_of_the_enumeration(guide: CategoricalGuide, x: Tensor) -> None:
    prior = UnigramCodes(SPACE).double()
    prior.logits.data.normal_(generator=torch.Generator().manual_seed(4))
    q, p = guide(x), prior(None)
    z = SPACE.one_hot(torch.cartesian_prod(*[torch.arange(SPACE.codes)] * SPACE.slots), torch.float64)[:, None]
    log_q = q.log_prob(z)
    by_hand = (log_q.exp() * (log_q - p.log_prob(z))).sum(0)
    closed = closed_form_kl(q, p)
    assert closed is not None and torch.allclose(closed.kl, by_hand)
    free = closed_form_kl(q, p, free_bits=100.0)  # more than any slot has
    assert free is not None and torch.allclose(free.penalty, torch.full((len(x),), 300.0, dtype=torch.float64))


def test_a_context_moves_the_unigram_prior() -> None:
    prior = UnigramCodes(SPACE, context_dim=2)
    assert prior.shift is not None
    prior.shift.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    context = torch.eye(2)
    p = prior(None, context)
    assert p.batch_shape == (2,)
    z = SPACE.one_hot(torch.tensor([1, 2, 3]))
    log_p = p.log_prob(z.expand(5, 2, -1))
    assert log_p.shape == (5, 2) and not torch.equal(log_p[0, 0], log_p[0, 1])
    with pytest.raises(ElbowroomError, match="needs a context of length 2"):
        prior(None, None)


def test_samples_of_the_model_are_codes(model: LatentModel) -> None:
    drawn = model.sample(5, generator=torch.Generator().manual_seed(0))
    assert drawn.x.shape == (5, DIM)
    assert bool((SPACE.split(drawn.z).sum(-1) == 1).all())


def test_models_say_what_their_latents_are(model: LatentModel) -> None:
    assert (model.latent_support, model.space) == ("codes", SPACE)
    assert PriorGuide(model.prior).latent_support == "codes"
    with pytest.raises(ElbowroomError, match=r"HMC needs a continuous z, .* codes \(3 slots × 4 codes\)"):
        model.require_real("HMC", "Use the importance-weighted bound.")
    continuous = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, DIM)), (DIM,)))
    continuous.require_real("HMC", "")
    with pytest.raises(ElbowroomError, match="its z is continuous"):
        _ = continuous.space


def test_a_pathwise_gradient_through_codes_is_refused(model: LatentModel, guide: CategoricalGuide, x: Tensor) -> None:
    with pytest.raises(ElbowroomError, match="not reparameterised") as caught:
        elbo(model, guide, x, kl="auto")
    assert "reinmax" in caught.value.remedy
    real, normal, rows = oracles.ppca(dim=4, latent_dim=2, seed=0)
    with pytest.raises(ElbowroomError, match="is for draws of codes"):
        elbo(real, normal, rows, estimator="straight-through")


def test_free_bits_need_independent_slots_and_the_remedy_names_priors_over_codes() -> None:
    chain, q, rows, _ = small_codes(rows=3)
    with pytest.raises(ElbowroomError, match=r"free_bits=0\.1 needs a KL that factorises") as caught:
        elbo(chain, q, rows, free_bits=0.1, estimator="reinmax")
    assert "unigram" in caught.value.remedy and "normal" not in caught.value.remedy
    independent, q, rows, _ = small_codes(rows=3, prior="unigram")
    assert elbo(independent, q, rows, free_bits=0.1, estimator="reinmax").shape == (3,)


def test_a_network_of_another_shape_is_refused() -> None:
    with pytest.raises(ElbowroomError, match=r"returns shape \(4, 3\), but should return \(3, 4\)"):
        CategoricalGuide(MLP((DIM,), (4, 3)), SPACE)
