"""Importance sampling from Laplace approximations: exact where they are, and right where one of them would not do."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal, StudentT

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.inference.gaussian.laplace import Laplace, laplace
from elbowroom.inference.importance import laplace_proposal as module
from elbowroom.inference.importance.estimate import importance_estimate_from
from elbowroom.inference.importance.laplace_proposal import default_widening, laplace_evidence, laplace_proposal
from elbowroom.inference.objectives import elbo
from elbowroom.model import likelihoods, oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, Gaussian
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import quadrature_log_evidence
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior
from likelihood_options import NEEDED, shaping

LIKELIHOODS = {
    **{
        name: (kind, NEEDED.get(name, {}))
        for name, kind in likelihoods.LIKELIHOODS.items()
        if kind.normalized and kind.fisher_information is not likelihoods.Likelihood.fisher_information
    },
    "gaussian": (likelihoods.Gaussian, {"scale": 0.3}),
    "gaussian-per-element": (likelihoods.Gaussian, {"scale": "per-element"}),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 2}),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def problem(
    name: str, *, prior: Conditional | None = None, latent: int = 2, num_data: int = 12, missing: bool = True
) -> SimpleNamespace:
    """A model with curved posteriors, a context, and data from it with some elements missing."""
    torch.manual_seed(3)
    cls, options = LIKELIHOODS[name]
    shape = cls.parameter_shape((8,), **shaping(options))
    network = MLP((latent,), shape, hidden=(8,), activation="tanh", context_dim=2)
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    model = LatentModel(prior or StandardNormal(latent), cls(network, (8,), **options)).double().eval()
    context = normal(num_data, 2, seed=1)
    x = draw(model.likelihood(normal(num_data, latent, seed=4), context), generator=seeded(2)).detach()
    observed = torch.rand(num_data, 8, generator=seeded(5)) < 0.8 if missing else None
    return SimpleNamespace(model=model, batch=Batch(x, context=context, mask=observed))


def quadrature(case: SimpleNamespace, limit: int = 8) -> Tensor:
    batch = case.batch
    of = {"context": batch.context, "mask": batch.mask}
    return quadrature_log_evidence(case.model, batch.x, **of, points=15 * limit + 1, limit=limit)


class Folded(nn.Module):
    """z -> its absolute values, or its squares: both signs of every element explain x equally well."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return (z.abs() if self.kind == "abs" else z.square()).unsqueeze(-2)


def folded(kind: str, latent: int, *, scale: float = 0.15) -> SimpleNamespace:
    model = LatentModel(StandardNormal(latent), Gaussian(Folded(kind), (latent,), scale=scale)).double()
    return SimpleNamespace(model=model, batch=Batch(0.8 + 0.7 * torch.rand(40, latent, generator=seeded()).double()))


class At(Conditional):
    """A guide that says the same of every datum: its mean, and its standard deviation."""

    def __init__(self, mean: list[float], stddev: float = 1.0) -> None:
        super().__init__()
        self.mean, self.stddev = torch.tensor(mean, dtype=torch.float64), stddev

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        mean = self.mean.expand(len(given), -1)
        return Independent(Normal(mean, torch.full_like(mean, self.stddev), validate_args=False), 1)


# --- exact -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("latent", [1, 3, 20, 100])
def test_one_draw_is_exact_for_a_linear_gaussian_model(latent: int, masked: bool, starts: int) -> None:
    model, guide, x = oracles.ppca(dim=latent + 4, latent_dim=latent, seed=1, num_data=6)
    mask = torch.rand(x.shape, generator=seeded()) < 0.7 if masked else None
    batch = Batch(x, mask=mask)
    proposal = laplace_proposal(model, guide, batch, starts=starts, widening=1.0, defence=0.0, tolerance=1e-12)
    found = importance_estimate_from(model, proposal.q, batch, num_samples=1, generator=seeded())
    torch.testing.assert_close(found.log_evidence, model.log_evidence(x, mask).detach(), rtol=0, atol=1e-6)
    assert (proposal.num_modes == 1).all()  # however many climbs met there
    assert proposal.converged.all()


@pytest.mark.parametrize("latent", [1, 2, 20, 100])
def test_the_widening_leaves_the_effective_draws_that_it_says(latent: int) -> None:
    """E[w]² / E[w²] of a normal posterior, in closed form; and what k draws show of it."""
    tau2 = default_widening(latent)
    share = (math.sqrt(2 * tau2 - 1) / tau2) ** latent
    assert share > 1 / 7
    model, _, x = oracles.ppca(dim=latent + 2, latent_dim=latent, seed=1, num_data=4)
    q = laplace_proposal(model, None, x, starts=1, defence=0.0).q
    found = importance_estimate_from(model, q, x, num_samples=4000, generator=seeded())
    assert (found.ess / 4000).mean().item() == pytest.approx(share, rel=0.2)
    # and the variance that the weights then have is the stated one: the proposal is as wide as its density says
    z = (found.log_evidence - model.log_evidence(x).detach()) / found.stderr
    assert z.abs().max() < 4


def test_the_average_weight_is_the_evidence_and_the_stderr_is_calibrated() -> None:
    model, _, x = oracles.ppca(dim=5, latent_dim=3, seed=1, num_data=3)
    many = x.repeat(300, 1)
    truth = model.log_evidence(many).detach()
    found = laplace_evidence(model, None, many, k=50, generator=seeded())
    relative = (found.log_evidence - truth).exp() - 1  # unbiased, unlike its logarithm
    assert abs(relative.mean() / relative.std() * math.sqrt(len(many))) < 4
    scores = (relative / found.stderr).square()
    assert abs((scores.mean() - 1) / scores.std() * math.sqrt(len(many))) < 4


@pytest.mark.parametrize("k", [1, 2, 3, 64])
def test_the_number_of_draws_does_not_bias(k: int) -> None:
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=1, num_data=2)
    many = x.repeat(2000 // k + 1, 1)
    found = laplace_evidence(model, None, many, k=k, starts=1, generator=seeded())
    relative = (found.log_evidence - model.log_evidence(many).detach()).exp() - 1
    assert abs(relative.mean() / relative.std() * math.sqrt(len(many))) < 4
    assert found.stderr.isnan().all() if k == 1 else found.stderr.isfinite().all()


# --- against quadrature ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood(name: str) -> None:
    case = problem(name)
    truth = quadrature(case, 6)
    found = laplace_evidence(case.model, None, case.batch, k=4000, generator=seeded())
    scores = (found.log_evidence - truth) / found.stderr
    assert scores.abs().max() < 4.5
    assert abs(scores.mean().item()) * math.sqrt(len(scores)) < 4
    assert (found.stderr < 0.15).all()


@pytest.mark.parametrize("kind", ["mixture", "mixture-with-context", "vamp", "student", "flow"])
def test_priors_that_are_not_normal(kind: str) -> None:
    prior = not_normal(kind)
    case = problem("bernoulli", prior=prior)
    truth = quadrature(case)
    found = laplace_evidence(case.model, None, case.batch, k=8000, starts=15, generator=seeded())
    # under a prior with heavier tails than q's the weights have no variance, and a standard error can only be guessed
    slack = 0.03 if kind == "student" else 0.0
    assert ((found.log_evidence - truth).abs() < 4.5 * found.stderr + slack).all()
    assert (found.stderr < 0.1).all()


@pytest.mark.parametrize("kind", ["mixture", "mixture-with-context"])
def test_the_defence_finds_what_a_single_climb_has_missed(kind: str) -> None:
    """Modes of a mixture prior's own: without the defence most of the posterior is out of reach, and unseen."""
    case = problem("bernoulli", prior=not_normal(kind))
    truth = quadrature(case)
    errors = {}
    for defence in (0.0, 0.1):
        q = laplace_proposal(case.model, None, case.batch, starts=1, defence=defence).q
        found = importance_estimate_from(case.model, q, case.batch, num_samples=2000, generator=seeded())
        errors[defence] = (found.log_evidence - truth, found.stderr)
    assert errors[0.0][0].mean() < -0.5
    assert abs(errors[0.1][0].mean()) < 0.1
    assert (errors[0.1][0].abs() < 5 * errors[0.1][1]).all()


class Unusual(Conditional):
    """Priors of distributions that the package does not know."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        zeros = torch.zeros(2, dtype=torch.float64)
        if self.kind == "student":
            return Independent(StudentT(6.0, zeros, 0.8), 1)
        transforms = [torch.distributions.transforms.AffineTransform(0.5, 1.2)]
        return torch.distributions.TransformedDistribution(Independent(Normal(zeros, zeros + 1), 1), transforms)


def not_normal(kind: str) -> Conditional:
    if kind.startswith("mixture"):
        context_dim = 2 if kind.endswith("context") else 0
        prior = MixtureOfGaussians(2, components=4, context_dim=context_dim, generator=seeded())
        with torch.no_grad():
            prior.means.mul_(1.5)
            prior.log_scales.fill_(-0.7)
        return prior
    if kind == "vamp":
        torch.manual_seed(5)
        return VampPrior(DiagonalNormal(MLP((8,), (2, 2), hidden=()), 2), torch.rand(5, 8), Support.UNIT_INTERVAL)
    return Unusual(kind)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("kind", ["abs", "square"])
def test_both_sides_of_a_symmetric_posterior_are_found(kind: str, latent: int) -> None:
    """The prior's mean is a saddle, and one mode holds a half or a fourth of the posterior."""
    case = folded(kind, latent)
    truth = quadrature_log_evidence(case.model, case.batch.x, points=1001 if latent == 1 else 201)
    side = At([1.0] * latent)
    alone = laplace_proposal(case.model, side, case.batch, starts=1, defence=0.0)
    one = importance_estimate_from(case.model, alone.q, case.batch, num_samples=400, generator=seeded())
    short = truth - one.log_evidence
    torch.testing.assert_close(short, torch.full_like(short, latent * math.log(2)), rtol=0, atol=0.3)
    assert (one.ess > 100).all()  # and nothing in the weights tells of it
    defended = laplace_evidence(case.model, side, case.batch, k=4000, starts=1, generator=seeded())
    assert (defended.ess < 1000).all()  # but those of a few other draws do
    assert ((truth - defended.log_evidence).abs() < 5 * defended.stderr).all()
    found = laplace_evidence(case.model, side, case.batch, k=400, starts=5 if latent == 1 else 40, generator=seeded())
    assert (found.num_modes >= 2**latent).all()
    scores = (found.log_evidence - truth) / found.stderr
    assert scores.abs().max() < 4.5
    assert abs(scores.mean().item()) * math.sqrt(len(scores)) < 4


def test_three_starts_see_both_signs_by_reflection() -> None:
    """Two independent draws of the prior would be on one side for half of the data."""
    case = folded("square", 1)
    found = laplace_proposal(case.model, None, case.batch, starts=3, defence=0.0, generator=seeded())
    modes = found.q.component_distribution.loc[..., 0]
    assert ((modes > 0.5).any(1) & (modes < -0.5).any(1)).all()


def two_modes() -> LatentModel:
    """Of different height and width, far apart: the prior's components, under a likelihood that is flat."""
    prior = MixtureOfGaussians(2, components=2)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.9, 0.1]).log())
        prior.means.copy_(torch.tensor([[-6.0, 0.0], [6.0, 0.0]]))
        prior.log_scales.copy_(torch.tensor([[0.0, 0.2], [-1.0, -0.5]]))
    flat = MLP((2,), (1, 3), hidden=())
    nn.init.zeros_(flat.output.weight)
    return LatentModel(prior, Bernoulli(flat, (3,))).double()


def test_modes_are_weighed_by_the_root_of_their_laplace_evidence() -> None:
    model, x = two_modes(), torch.zeros(1, 3).double()
    found = laplace_proposal(model, None, x, starts=41, defence=0.0, tolerance=1e-9, refinements=0, generator=seeded())
    assert found.num_modes.tolist() == [2]
    left = found.q.component_distribution.loc[0, :, 0] < 0
    share = found.q.mixture_distribution.probs[0]
    assert left.sum() == 1
    assert share[left].item() == pytest.approx(math.sqrt(0.9) / (math.sqrt(0.9) + math.sqrt(0.1)), rel=1e-5)


@pytest.mark.parametrize("side", [-1, 1])
def test_it_is_the_largest_mode_that_has_converged_or_not(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    def arrived(*args: object, **options: object) -> Laplace:
        climb = laplace(*args, **options)
        return climb._replace(converged=climb.mode[:, 0] * side > 0)

    monkeypatch.setattr(module, "laplace", arrived)
    # one climb to the right, and one to the left, where nine tenths are
    found = laplace_proposal(two_modes(), At([6.0, 0.0]), torch.zeros(1, 3).double(), starts=2, generator=seeded())
    assert found.num_modes.item() == 2
    assert found.converged.item() is (side < 0)


def test_the_defence_has_its_share_and_the_moments_of_the_prior() -> None:
    model = two_modes()
    q = laplace_proposal(model, None, torch.zeros(3, 3).double(), defence=0.3, generator=seeded()).q
    prior, last = model.prior(None), q.component_distribution
    torch.testing.assert_close(last.loc[:, -1], prior.mean.expand(3, 2))
    torch.testing.assert_close(last.covariance_matrix[:, -1], torch.diag(prior.variance).expand(3, 2, 2))
    torch.testing.assert_close(q.mixture_distribution.probs[:, -1], torch.full((3,), 0.3).double())


def test_bounds_are_ordered_for_a_model_that_was_trained() -> None:
    """ELBO ≤ laplace-is ≤ log p(x) on average, and the room between the last two is small."""
    torch.manual_seed(0)
    truth = problem("bernoulli", missing=False, num_data=200)
    x = truth.batch.x.float()
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 8), hidden=(16,), activation="tanh"), (8,)))
    guide = DiagonalNormal(MLP((8,), (2, 2), hidden=(16,), activation="tanh"), 2)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=0.05)
    generator = seeded()
    for _ in range(60):
        optimizer.zero_grad()
        (-elbo(model, guide, x, generator=generator).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        low = elbo(model, guide, x, num_samples=1000, generator=generator).double()
    found = laplace_evidence(model, guide, x, k=1000, generator=generator)
    exact = quadrature_log_evidence(model, x, points=101)
    middle, top = found.log_evidence, exact
    assert (middle - low).mean() > 4 * (middle - low).std() / math.sqrt(len(x))
    assert (top - low).mean() > 0
    noise = found.stderr.square().sum().sqrt() / len(x)
    assert abs((top - middle).mean()) < 4 * noise
    without = laplace_evidence(model, None, x, k=1000, generator=generator)
    assert abs((without.log_evidence - middle).mean()) < 6 * noise


# --- how it is found ---------------------------------------------------------------------------------------------


def test_modes_that_meet_are_one_and_the_highest_counts() -> None:
    case = problem("bernoulli")
    proposal = laplace_proposal(
        case.model, None, case.batch, starts=6, defence=0.0, tolerance=1e-9, refinements=0, generator=seeded()
    )
    one = laplace_proposal(case.model, None, case.batch, starts=1, defence=0.0, tolerance=1e-9, refinements=0)
    alone = proposal.num_modes == 1
    assert alone.sum() >= 5
    weights = proposal.q.mixture_distribution.probs if isinstance(proposal.q, MixtureSameFamily) else None
    assert weights is not None
    torch.testing.assert_close((weights > 0).sum(1), proposal.num_modes)
    # where all met, the proposal is the one that a single climb makes
    first = proposal.q.component_distribution.loc[:, 0]
    torch.testing.assert_close(first[alone], one.q.mean[alone], rtol=0, atol=1e-3)
    components = proposal.q.component_distribution
    for datum in range(len(case.batch)):  # and none that are kept are one summit
        kept = components.loc[datum][weights[datum] > 0]
        precision = components.precision_matrix[datum] * default_widening(2)
        for i in range(1, len(kept)):
            for j in range(i):
                away = kept[i] - kept[j]
                assert max(away @ precision[i] @ away, away @ precision[j] @ away) > 1


def test_of_climbs_that_met_the_highest_counts() -> None:
    """They stop up to a nat below the summit, so that they can be told apart."""
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=1, num_data=40)
    q = laplace_proposal(model, None, x, starts=3, defence=0.0, tolerance=0.4, refinements=0, generator=seeded()).q
    z = torch.randn(40, 2, generator=seeded(), dtype=torch.float64)
    ends = torch.stack([laplace(model, start, x, tolerance=0.4).log_joint for start in (0 * z, z, -z)])
    assert (ends.max(0).values - ends.min(0).values > 0.01).any()  # or the test is of nothing
    highest = torch.stack([model.log_joint(x, at) for at in q.component_distribution.loc.unbind(1)]).amax(0)
    torch.testing.assert_close(highest, ends.max(0).values)


def test_the_proposal_is_that_of_the_present_weights() -> None:
    """Nothing is kept from one call to the next."""
    model, _, x = oracles.ppca(dim=5, latent_dim=2, seed=1, num_data=4)
    laplace_evidence(model, None, x, k=5, generator=seeded())
    with torch.no_grad():
        model.weight.mul_(3.0)
        model.bias.add_(2.0)
    proposal = laplace_proposal(model, None, x, widening=1.0, defence=0.0, tolerance=1e-9, generator=seeded())
    torch.testing.assert_close(proposal.q.mean, model.posterior(x).mean.detach())
    found = laplace_evidence(model, None, x, k=500, generator=seeded())
    assert (((found.log_evidence - model.log_evidence(x).detach()) / found.stderr).abs() < 4).all()


def test_a_wider_proposal_is_wider_in_its_density_and_in_its_draws() -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=1, num_data=1)
    exact = model.posterior(x)
    proposal = laplace_proposal(model, None, x, widening=2.25, defence=0.0, tolerance=1e-12).q
    reference = MultivariateNormal(exact.mean, 2.25 * exact.covariance_matrix)
    z = draw(proposal, (20_000,), generator=seeded())
    torch.testing.assert_close(proposal.log_prob(z), reference.log_prob(z))
    scatter = torch.cov(z[:, 0].T) @ torch.linalg.inv(exact.covariance_matrix[0])
    torch.testing.assert_close(scatter, 2.25 * torch.eye(2).double(), rtol=0, atol=4 * 2.25 * math.sqrt(2 / 20_000))


def test_a_climb_that_ends_too_early_is_told_and_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem("gaussian")
    truth = quadrature(case)
    rough = laplace_evidence(case.model, At([2.0, -2.0]), case.batch, k=4000, generator=seeded())
    assert rough.converged.all()
    monkeypatch.setattr(module, "laplace", functools.partial(laplace, steps=0))
    found = laplace_evidence(case.model, None, case.batch, k=4000, generator=seeded())
    assert found.converged.sum() <= 2  # one that starts at the summit has nowhere to climb
    assert found.ess.median() < rough.ess.median()
    relative = (found.log_evidence - truth).exp() - 1
    assert (relative / found.stderr).abs().median() < 1.5


def test_evaluations_are_counted() -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=4, seed=1, num_data=5)
    found = laplace_evidence(model, None, x, k=7, starts=3, generator=seeded())
    steps = torch.zeros(5, dtype=torch.float64)
    generator = seeded()
    z = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    for start in (torch.zeros_like(z), z, -z):
        steps += laplace(model, start, x, tolerance=0.05).iterations
    # a gradient and 4 / 2 for the curvature at each of 3 starts, and after every step, which also has a trial; then 8
    # draws to refine, three times, and the curvature at 4 of them twice; then k
    torch.testing.assert_close(found.evaluations, 3 * (1 + 2) + steps * (1 + 2 + 1) + 3 * 8 + 2 * 4 * 2 + 7)


# --- where it starts ---------------------------------------------------------------------------------------------


def test_of_the_guide_only_the_mean_matters() -> None:
    case = problem("bernoulli")
    narrow, wide = (
        laplace_evidence(case.model, At([0.5, -0.5], stddev), case.batch, k=20, generator=seeded())
        for stddev in (1e-3, 1e3)
    )
    torch.testing.assert_close(narrow, wide, rtol=0, atol=0, equal_nan=True)
    other = laplace_proposal(case.model, At([-2.0, 2.0]), case.batch, starts=1, defence=0.0, refinements=0)
    start = laplace(case.model, torch.tensor([[-2.0, 2.0]]).double().expand(12, 2), case.batch, tolerance=0.05)
    torch.testing.assert_close(other.q.mean, start.mode)


def test_no_guide_and_a_prior_in_its_place_are_the_same() -> None:
    case = problem("bernoulli", prior=not_normal("mixture"))
    none, prior = (
        laplace_evidence(case.model, guide, case.batch, k=20, generator=seeded())
        for guide in (None, PriorGuide(case.model.prior))
    )
    torch.testing.assert_close(none, prior, rtol=0, atol=0, equal_nan=True)


def test_a_guide_that_is_not_finite_does_no_harm() -> None:
    model, _, x = oracles.ppca(dim=6, latent_dim=2, seed=1, num_data=5)
    broken = laplace_evidence(model, At([math.nan, 0.0]), x, k=500, generator=seeded())
    assert (((broken.log_evidence - model.log_evidence(x).detach()) / broken.stderr).abs() < 4).all()


def test_the_same_generator_gives_the_same_and_the_global_one_is_left_alone() -> None:
    case = problem("bernoulli", prior=not_normal("mixture"))
    before = torch.get_rng_state()
    first, again, other = (
        laplace_evidence(case.model, None, case.batch, k=20, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first, again, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(first.log_evidence, other.log_evidence)
    assert not any(part.requires_grad for part in first)
    assert all(part.shape == (12,) for part in first)
