"""The best normal q of each datum: exact where the posterior is normal, as good as a slow search where it is not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian import optimal_gaussian as module
from elbowroom.inference.gaussian.optimal_gaussian import optimal_gaussian
from elbowroom.model import likelihoods, oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal

LATENT = 3


class Fixed(Conditional):
    """The same q for every datum."""

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__()
        self.loc, self.scale_tril = loc, scale_tril

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        loc = self.loc.expand(len(given), -1)
        if self.scale_tril.dim() == 1:
            return Independent(Normal(loc, self.scale_tril.expand_as(loc)), 1)
        return MultivariateNormal(loc, scale_tril=self.scale_tril.expand(len(given), -1, -1))


class Answer(Conditional):
    """What was found for these very data."""

    def __init__(self, q: Distribution) -> None:
        super().__init__()
        self.q = q

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        return self.q


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def curved(name: str, *, prior: Conditional | None = None, full: bool = False, **options: object) -> SimpleNamespace:
    """A model with posteriors that are far from normal, data with context and mask, and an untrained guide."""
    torch.manual_seed(3)
    cls = likelihoods.LIKELIHOODS[name]
    shape = cls.parameter_shape((16,), **{k: v for k, v in options.items() if k != "scale"})
    network = MLP((LATENT,), shape, hidden=(8,), activation="tanh", context_dim=2)
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    model = LatentModel(prior or StandardNormal(LATENT), cls(network, (16,), **options)).double().eval()
    kind = FullNormal if full else DiagonalNormal
    transform = InputTransform(cls.support, (16,)) if name.startswith("disc") else None
    guide = kind(MLP((16,), kind.parameter_shape(LATENT), hidden=(8,), context_dim=2), LATENT, transform).double()
    context = torch.randn(8, 2, generator=seeded(1)).double()
    z = torch.randn(8, LATENT, generator=seeded(4)).double()
    x = draw(model.likelihood(z, context), generator=seeded(2)).detach().double()
    mask = torch.rand(8, 16, generator=seeded(5)) < 0.8
    return SimpleNamespace(model=model, guide=guide, batch=Batch(x, context=context, mask=mask))


@torch.no_grad()
def elbo_by_draws(case: SimpleNamespace, q: Distribution, draws: int = 8_000, seed: int = 9) -> tuple[Tensor, Tensor]:
    """From independent draws, none of this package's tricks; and its standard error."""
    batch = case.batch
    z = draw(q, (draws,), generator=seeded(seed))
    log_w = case.model.log_joint(batch.x, z, context=batch.context, mask=batch.mask) - q.log_prob(z)
    return log_w.mean(0), log_w.std(0) / math.sqrt(draws)


# --- exact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 7])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("guided", [True, False])
def test_the_full_family_finds_the_exact_posterior(latent_dim, masked, guided):
    model, guide, x = oracles.ppca(dim=9, latent_dim=latent_dim, seed=1, num_data=6)
    mask = torch.rand(6, 9, generator=seeded()) < 0.6 if masked else None
    batch = Batch(x, mask=mask)
    found = optimal_gaussian(model, guide if guided else None, batch, family="full", tolerance=1e-9, generator=seeded())
    exact = model.posterior(x, mask)
    torch.testing.assert_close(found.q.mean, exact.mean.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.q.covariance_matrix, exact.covariance_matrix.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.elbo, model.log_evidence(x, mask).detach(), atol=1e-6, rtol=0)
    assert found.converged.all()
    assert found.stderr.max() < 1e-6
    assert found.initial_elbo.isnan().all() == (not guided)


@pytest.mark.parametrize("latent_dim", [2, 7])
def test_the_diagonal_family_finds_its_optimum(latent_dim):
    r"""Mean exact, precisions diag M, and :math:`\log p - L[q*] = (\sum_j \log M_{jj} - \log |M|) / 2`."""
    model, guide, x = oracles.ppca(dim=9, latent_dim=latent_dim, seed=1, num_data=6)
    found = optimal_gaussian(model, guide, x, family="diagonal", tolerance=1e-9, generator=seeded())
    exact = model.posterior(x)
    M = exact.precision_matrix.detach()[0]
    torch.testing.assert_close(found.q.mean, exact.mean.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.q.variance, (1 / M.diagonal()).expand(6, -1), atol=1e-5, rtol=0)
    gap = 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    assert gap > 5e-4
    torch.testing.assert_close(model.log_evidence(x).detach() - found.elbo, gap.expand(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_one_step_is_enough_for_a_normal_posterior(family):
    model, guide, x = oracles.ppca(dim=9, latent_dim=3, seed=1, num_data=6)
    found = optimal_gaussian(model, guide, x, family=family, steps=1, starts=0, tolerance=1e-9, generator=seeded())
    exact = model.posterior(x)
    precision = exact.precision_matrix.detach()
    variance = exact.variance.detach() if family == "full" else 1 / precision.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(found.q.mean, exact.mean.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.q.variance, variance, atol=1e-6, rtol=0)
    assert found.converged.all()


def test_the_guides_own_bound_and_the_amortisation_gap_are_exact():
    model, guide, x = oracles.ppca(dim=9, latent_dim=4, seed=1, num_data=6)
    found = optimal_gaussian(model, guide, x, family="guide", tolerance=1e-9, generator=seeded())
    q, exact = guide(x), model.posterior(x)
    with torch.no_grad():
        bound = model.log_evidence(x) - kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.variance)), exact)
        M = exact.precision_matrix[0]
        best = model.log_evidence(x) - 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    torch.testing.assert_close(found.initial_elbo, bound, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.elbo - found.initial_elbo, best - bound, atol=1e-5, rtol=0)


def test_a_full_guide_outside_the_diagonal_family_is_better_than_it():
    model, _, x = oracles.ppca(dim=9, latent_dim=4, seed=1, num_data=6)
    found = optimal_gaussian(model, model.exact_guide(), x, family="diagonal", tolerance=1e-9, generator=seeded())
    M = model.posterior(x).precision_matrix.detach()[0]
    gap = 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    torch.testing.assert_close(found.initial_elbo - found.elbo, gap.expand(6), atol=1e-5, rtol=0)
    assert isinstance(found.q, Independent)


# --- curved ---------------------------------------------------------------------------------------------------------

CASES = [
    ("bernoulli", {}),
    ("gaussian", {"scale": 0.2}),
    ("poisson", {}),
    ("categorical", {"num_categories": 4}),
    ("discretized-logistic-mixture", {"components": 2}),
]


@pytest.mark.parametrize(
    ("name", "options", "family"),
    [
        ("bernoulli", {}, "diagonal"),
        *((*case, ("diagonal", "full")[k % 2]) for k, case in enumerate(CASES, start=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_bounds_are_honest(name, options, family):
    """With hardly any draws to climb on, so that they flatter; both bounds against independent draws."""
    case = curved(name, **options)
    found = optimal_gaussian(case.model, case.guide, case.batch, family=family, draws=1, generator=seeded())
    own = case.guide(case.batch.x, case.batch.context)
    # that of the guide's bound is at most the sum of those of the other and of the difference
    for q, value, stderr in (
        (found.q, found.elbo, found.stderr),
        (own, found.initial_elbo, found.stderr + found.gain_stderr),
    ):
        plain, error = elbo_by_draws(case, q, draws=6_000)
        noise = torch.hypot(error, stderr).square().sum().sqrt()
        assert abs((value - plain).sum()) < 4 * noise


@pytest.mark.parametrize(("name", "family"), [("bernoulli", "diagonal"), ("poisson", "full")])
def test_a_slow_search_finds_nothing_better(name, family):
    """120 Adam steps with many draws from the same starting point; both judged on the same draws."""
    case = curved(name)
    found = optimal_gaussian(case.model, case.guide, case.batch, family=family, draws=256, generator=seeded())
    slow = by_adam(case, family)
    gain = elbo_by_draws(case, slow)[0] - elbo_by_draws(case, found.q)[0]
    assert -0.05 < gain.mean() < 0.02  # and the slow search did arrive
    assert found.elbo.mean() > found.initial_elbo.mean() + 0.1  # there was something to find


def by_adam(case: SimpleNamespace, family: str) -> Distribution:
    batch = case.batch
    with torch.no_grad():
        q = case.guide(batch.x, batch.context)
    loc, log_scale = q.mean.clone().requires_grad_(), q.stddev.log().clone().requires_grad_()
    below = torch.zeros(len(loc), LATENT, LATENT).double().requires_grad_()
    optimizer = torch.optim.Adam([loc, log_scale, below], 0.08)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    generator = seeded(7)

    def now() -> Distribution:
        lower = torch.diag_embed(log_scale.exp()) + (below.tril(-1) if family == "full" else 0)
        return MultivariateNormal(loc, scale_tril=lower, validate_args=False)

    for _ in range(120):
        z = draw(now(), (64,), generator=generator)
        value = case.model.log_joint(batch.x, z, context=batch.context, mask=batch.mask).mean(0) + now().entropy()
        optimizer.zero_grad()
        (-value.sum()).backward(inputs=[loc, log_scale, below])
        optimizer.step()
        schedule.step()
    return MultivariateNormal(loc.detach(), scale_tril=now().scale_tril.detach())


def test_bounds_stay_below_log_p_under_a_mixture_prior():
    torch.manual_seed(0)
    prior = MixtureOfGaussians(2, 3, generator=seeded())
    network = MLP((2,), (1, 12), hidden=(8,), activation="tanh")
    model = LatentModel(prior, likelihoods.Bernoulli(network, (12,))).double().eval()
    x = model.sample(6, generator=seeded(1)).x
    case = SimpleNamespace(model=model, batch=Batch(x))
    found = optimal_gaussian(model, None, x, family="full", generator=seeded())
    log_p = oracles.quadrature_log_evidence(model, x)
    assert (found.elbo < log_p + 4 * found.stderr).all()
    assert (log_p - found.elbo).mean() < 0.5
    plain, error = elbo_by_draws(case, found.q)
    assert ((plain - found.elbo) / torch.hypot(error, found.stderr)).abs().max() < 4.5


def test_another_start_finds_the_larger_mode():
    """The guide sits in a side lobe of a posterior whose other lobe holds nine times as much."""
    prior = MixtureOfGaussians(1, 2).double()
    prior.means.data = torch.tensor([[-5.0], [5.0]]).double()
    prior.logits.data = torch.tensor([0.1, 0.9]).log().double()
    prior.log_scales.data.fill_(math.log(0.5))
    model, _, _ = oracles.ppca(dim=2, latent_dim=1, seed=0)
    with torch.no_grad():
        model.weight.zero_()  # x tells nothing
    model.prior = prior
    guide = Fixed(torch.tensor([-5.0]).double(), torch.tensor([0.5]).double())
    x = torch.zeros(4, 2).double()
    stuck, free = (optimal_gaussian(model, guide, x, starts=starts, generator=seeded()) for starts in (1, 3))
    torch.testing.assert_close(free.elbo - stuck.elbo, torch.full((4,), math.log(9)).double(), atol=1e-2, rtol=0)


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_what_comes_back_is_never_worse_than_the_guide(family):
    """Where the guide's q is the optimum, and a dozen draws of a rough density lead a search away from it."""
    case = curved("bernoulli", full=family == "full")
    for parameter in case.model.parameters():
        parameter.data.mul_(4)
    best = optimal_gaussian(
        case.model, case.guide, case.batch, family=family, draws=256, starts=1, generator=seeded()
    ).q
    found, alone = (
        optimal_gaussian(case.model, guide, case.batch, family=family, draws=1, starts=1, report_draws=1024,
                    generator=seeded(1))
        for guide in (Answer(best), None)
    )  # fmt: skip
    loss, loss_without = (elbo_by_draws(case, best)[0] - elbo_by_draws(case, each.q)[0] for each in (found, alone))
    assert loss.max() < 0.01
    assert loss_without.max() > 0.1


@pytest.mark.parametrize(("family", "scale", "least"), [("diagonal", 0.1, 10.0), ("full", 0.3, 5.0)])
def test_every_step_gains(family, scale, least):
    """From a bad start on a model that is far from linear: some steps are too long, and none of those is taken."""
    case = curved("gaussian", scale=scale)  # with the larger one, steps that lose a little are tried too
    found = [
        optimal_gaussian(case.model, case.guide, case.batch, family=family, steps=steps, starts=0, draws=256,
                    report_draws=256, generator=seeded())
        for steps in range(12)
    ]  # fmt: skip
    values = torch.stack([each.elbo for each in found])  # all on the same draws, other than those of the search
    assert (values.diff(dim=0) > -0.05).all()
    assert values[-1].mean() > values[0].mean() + least
    means = torch.stack([each.q.mean for each in found])
    refused = (means.diff(dim=0) == 0).all(-1)
    assert (refused[:-1] & ~refused[1:]).any()  # half of the step was taken afterwards


def test_a_search_leaves_its_start_alone():
    """It may be the guide's own q."""
    case = curved("bernoulli", full=True)
    with torch.no_grad():
        start = case.guide(case.batch.x, case.batch.context)
    loc, root = start.loc.clone(), start.scale_tril.clone()
    found = optimal_gaussian(case.model, Answer(start), case.batch, family="full", generator=seeded())
    assert not torch.equal(found.q.loc, loc)
    assert torch.equal(start.loc, loc)
    assert torch.equal(start.scale_tril, root)


def test_standard_errors_are_those_of_repetitions():
    """Of one q, the guide's, over seeds: the spread of its ELBO against what each call says of itself."""
    case = curved("bernoulli")
    with torch.no_grad():
        best = optimal_gaussian(case.model, case.guide, case.batch, generator=seeded()).q
    guide = Answer(best)
    repeated = [
        optimal_gaussian(
            case.model, guide, case.batch, steps=0, starts=0, draws=1, report_draws=60, generator=seeded(seed)
        )
        for seed in range(40)
    ]
    spread = torch.stack([found.elbo for found in repeated]).std(0)
    told = torch.stack([found.stderr for found in repeated]).square().mean(0).sqrt()
    assert 0.8 < float((spread / told).mean()) < 1.25


def test_evaluations_are_counted(monkeypatch):
    """Without curvature, every visit of the decoder is a draw."""
    monkeypatch.setattr(module, "default_metric", lambda likelihood: "dense")
    case, seen = curved("bernoulli"), 0

    def count(network: object, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        seen += given[0].shape[:-1].numel()

    case.model.likelihood.network.register_forward_hook(count)
    monkeypatch.setattr("elbowroom.inference.mlp_target.PerceptronPosterior.fits", staticmethod(lambda model: False))
    found = optimal_gaussian(case.model, case.guide, case.batch, generator=seeded())
    assert found.evaluations.sum() == seen


def test_the_decoder_is_frozen_and_randomness_is_explicit():
    case = curved("bernoulli")
    for parameter in case.model.parameters():
        parameter.grad = None
    state = torch.random.get_rng_state()
    a, b = (optimal_gaussian(case.model, case.guide, case.batch, generator=seeded()) for _ in range(2))
    assert torch.equal(a.elbo, b.elbo)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in [*case.model.parameters(), *case.guide.parameters()])
    assert not a.q.mean.requires_grad
    assert all(part.dtype == torch.float64 for part in (a.elbo, a.stderr, a.initial_elbo, a.evaluations))


def test_convergence_is_told_and_steps_count():
    case = curved("bernoulli")
    none, all_of_them = (
        optimal_gaussian(case.model, case.guide, case.batch, steps=steps, starts=0, generator=seeded())
        for steps in (0, 30)
    )
    assert not none.converged.any()
    assert all_of_them.converged.all()
    assert (all_of_them.evaluations > none.evaluations).all()


def test_data_do_not_meet_each_other():
    """A datum's q hardly depends on which others are in its batch: only the noise differs."""
    case = curved("bernoulli")
    whole = optimal_gaussian(case.model, case.guide, case.batch, draws=512, generator=seeded())
    alone = optimal_gaussian(case.model, case.guide, case.batch.rows(slice(2, 3)), draws=512, generator=seeded())
    torch.testing.assert_close(whole.elbo[2:3], alone.elbo, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"family": "banded"}, "family 'banded' is not known"),
        ({"draws": 0}, "draws is 0"),
        ({"report_draws": 0}, "report_draws is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"starts": -1}, "starts -1"),
        ({"tolerance": math.nan}, "tolerance nan"),
    ],
)
def test_mistakes_are_named(arguments, words):
    model, guide, x = oracles.ppca(dim=4, latent_dim=2, seed=0, num_data=2)
    with pytest.raises(ElbowroomError, match=words):
        optimal_gaussian(model, guide, x, **arguments)


def test_there_is_no_family_of_no_guide():
    model, _, x = oracles.ppca(dim=4, latent_dim=2, seed=0, num_data=2)
    with pytest.raises(ElbowroomError, match="there is no guide"):
        optimal_gaussian(model, None, x, family="guide")


def test_data_that_are_not_finite_are_named():
    model, guide, x = oracles.ppca(dim=4, latent_dim=2, seed=0, num_data=3)
    x[1, 0] = math.nan
    with pytest.raises(ElbowroomError, match="not finite"):
        optimal_gaussian(model, guide, x, starts=0)
