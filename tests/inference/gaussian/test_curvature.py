"""The Gauss–Newton precision: exact where the model is linear and Gaussian, sound everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.inference.gaussian import curvature
from elbowroom.inference.gaussian.curvature import gauss_newton, network_jacobian, prior_precision, regularized_cholesky
from elbowroom.model import likelihoods, oracles
from elbowroom.model.conditional import Conditional
from elbowroom.model.flows import FlowPrior, MafPrior, NsfPrior
from elbowroom.model.guides import DiagonalNormal, FullNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import ACTIVATIONS, MLP, ConvDecoder, ResidualMLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal, VampPrior
from likelihood_options import NEEDED, shaping

LATENT = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Own(nn.Module):
    """A user's network: it says nothing of its shapes, and its elements are not a chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(LATENT, 8)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.linear(z)
        return (h.sin() * h.cumsum(-1)).unflatten(-1, (2, 4))


class SubclassedMLP(MLP):
    """Computes something else than its layers say."""

    def compute(self, given: Tensor, context: Tensor | None) -> Tensor:
        return super().compute(given, context).square()


NETWORKS = {
    "affine": lambda: MLP((LATENT,), (2, 4), hidden=()),
    **{f"mlp-{name}": lambda name=name: MLP((LATENT,), (1, 5), hidden=(7,), activation=name) for name in ACTIVATIONS},
    "mlp-deep": lambda: MLP((LATENT,), (2, 2, 2), hidden=(7, 6, 5), activation="tanh"),
    "mlp-batch-norm": lambda: MLP((LATENT,), (1, 5), hidden=(7, 6), batch_norm=True),
    "mlp-context": lambda: MLP((LATENT,), (1, 5), hidden=(7,), activation="gelu", context_dim=2),
    "mlp-subclassed": lambda: SubclassedMLP((LATENT,), (1, 5), hidden=(7,)),
    "residual": lambda: ResidualMLP((LATENT,), (1, 5), width=6, activation="silu"),
    "residual-batch-norm-context": lambda: ResidualMLP((LATENT,), (1, 5), width=6, batch_norm=True, context_dim=2),
    "convolutional": lambda: ConvDecoder((LATENT,), (1, 5, 7), channels=(3, 2), activation="elu"),
    "convolutional-batch-norm": lambda: ConvDecoder((LATENT,), (2, 2, 4, 5), channels=(3,), batch_norm=True),
    "own": Own,
}


def build(name: str) -> nn.Module:
    """In float64 and evaluation mode, with statistics of batch normalisation that are not those of N(0, 1)."""
    torch.manual_seed(5)
    network = NETWORKS[name]().double().eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for i, tensor in enumerate((module.running_mean, module.running_var, module.weight, module.bias)):
                tensor.data.copy_(torch.linspace(0.3, 1.4, len(tensor)) + i)
    return network


def jacobian_by_autograd(network: nn.Module, z: Tensor, context: Tensor | None) -> Tensor:
    """Reverse mode, one datum at a time."""
    rows = []
    for i in range(len(z)):
        given = None if context is None else context[i : i + 1]
        rows.append(torch.autograd.functional.jacobian(lambda one, c=given: network(one, c)[0], z[i : i + 1]))
    return torch.stack(rows).squeeze(-2).movedim(-1, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_jacobian_is_that_of_autograd(name):
    network, z = build(name), normal(4, LATENT)
    context = normal(4, 2, seed=1) if "context" in name else None
    output, jacobian = network_jacobian(network, z, context)
    assert not output.requires_grad and not jacobian.requires_grad
    torch.testing.assert_close(output, network(z, context).detach())
    torch.testing.assert_close(jacobian, jacobian_by_autograd(network, z, context))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("mlp") or name == "affine"])
def test_the_closed_form_is_that_of_forward_mode(name, monkeypatch):
    network, z = build(name), normal(4, LATENT)
    context = normal(4, 2, seed=1) if "context" in name else None
    closed = network_jacobian(network, z, context)
    monkeypatch.setattr(curvature, "MLP", ())  # nothing is an MLP: the general way
    for found, expected in zip(closed, network_jacobian(network, z, context), strict=True):
        torch.testing.assert_close(found, expected)


def test_an_mlp_needs_no_forward_mode_through_the_network(monkeypatch):
    monkeypatch.setattr(torch.func, "vmap", None)
    network_jacobian(build("mlp-context"), normal(4, LATENT), normal(4, 2))


@pytest.mark.parametrize("z_shape", [(4, 5), (4, 2)], ids=str)
def test_the_network_itself_refuses_what_does_not_fit(z_shape):
    with pytest.raises(ElbowroomError, match=r"inputs of shape \(\*, 3\)"):
        network_jacobian(build("mlp-relu"), normal(*z_shape))
    with pytest.raises(ElbowroomError, match="needs a context of length 2"):
        network_jacobian(build("mlp-context"), normal(4, LATENT))


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_posterior_precision_of_a_linear_gaussian_model(masked):
    model, _, x = oracles.ppca(dim=7, latent_dim=LATENT, seed=2, num_data=6)
    mask = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    precision = gauss_newton(model, Batch(x, mask=mask), normal(6, LATENT))
    torch.testing.assert_close(precision, model.posterior(x, mask).precision_matrix)
    if masked:
        assert not torch.allclose(precision, gauss_newton(model, x, normal(6, LATENT)))


def hessian(model: LatentModel, batch: Batch, z: Tensor) -> Tensor:
    def log_joint(one: Tensor, i: int) -> Tensor:
        part = [None if t is None else t[i : i + 1] for t in (batch.context, batch.mask)]
        return model.log_joint(batch.x[i : i + 1], one[None], context=part[0], mask=part[1]).sum()

    return torch.stack(
        [torch.autograd.functional.hessian(lambda one, i=i: log_joint(one, i), z[i]) for i in range(len(z))]
    )


#: name -> class, options: those whose log-density has minus the Fisher information for its Hessian, in the output
CANONICAL = {
    "bernoulli": (likelihoods.Bernoulli, {}),
    "cross-entropy": (likelihoods.CrossEntropy, {}),
    "continuous-bernoulli": (likelihoods.ContinuousBernoulli, {}),
    "gaussian": (likelihoods.Gaussian, {"unit": torch.tensor([3.0, 0.5, 1.0, 2.0])}),
    "categorical": (likelihoods.Categorical, {"num_categories": 5}),
    "poisson": (likelihoods.Poisson, {}),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CANONICAL)
def test_it_is_minus_the_hessian_of_an_affine_model_in_the_canonical_parameter(name, masked):
    cls, options = CANONICAL[name]
    shape = cls.parameter_shape((4,), **{k: v for k, v in options.items() if k == "num_categories"})
    model = LatentModel(
        StandardNormal(LATENT), cls(MLP((LATENT,), shape, hidden=(), context_dim=2), (4,), **options)
    ).double()
    x = torch.tensor([[0.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).double()
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool() if masked else None
    batch, z = Batch(x, context=normal(3, 2, seed=4), mask=mask), normal(3, LATENT)
    precision = gauss_newton(model, batch, z)
    torch.testing.assert_close(precision, -hessian(model, batch, z))
    if masked:
        torch.testing.assert_close(precision[1], torch.eye(LATENT).double())  # nothing observed: the prior


#: name -> class, options; every registered likelihood with a Fisher information, with the options that it needs
LIKELIHOODS = {
    **{
        name: (kind, NEEDED.get(name, {}))
        for name, kind in likelihoods.LIKELIHOODS.items()
        if kind.fisher_information is not likelihoods.Likelihood.fisher_information
    },
    **CANONICAL,
    "gaussian-per-element": (likelihoods.Gaussian, {"scale": "per-element", "mean_activation": "sigmoid"}),
    "discretized-logistic-mixture": (likelihoods.DiscretizedLogisticMixture, {"components": 2}),
}


def nonlinear(name: str, event_shape: tuple[int, ...] = (4,), prior: Conditional | None = None) -> LatentModel:
    torch.manual_seed(2)
    cls, options = LIKELIHOODS[name]
    shape = cls.parameter_shape(event_shape, **shaping(options))
    network = MLP((LATENT,), shape, hidden=(6,), activation="tanh")
    return LatentModel(prior or StandardNormal(LATENT), cls(network, event_shape, **options)).double()


@pytest.mark.parametrize("event_shape", [(4,), (3, 4)], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_it_is_the_expected_outer_product_contracted_elementwise(name, event_shape):
    """Against loops: Λ + Σ_d J_dᵀ F_d J_d over observed elements, J by reverse mode."""
    model, z = nonlinear(name, event_shape), normal(3, LATENT)
    mask = torch.rand(3, *event_shape, generator=torch.Generator().manual_seed(1)) < 0.6
    network = model.likelihood.network
    jacobian = jacobian_by_autograd(network, z, None).flatten(3)  # (n, D, P, E)
    information = model.likelihood.fisher_information(network(z)).detach().flatten(3)
    expected = torch.eye(LATENT, dtype=torch.float64).repeat(3, 1, 1)
    for i in range(3):
        for e in mask[i].flatten().nonzero():
            J = jacobian[i, :, :, e].squeeze(-1)
            expected[i] += J @ information[i, :, :, e].squeeze(-1) @ J.T
    found = gauss_newton(model, Batch(torch.zeros(3, *event_shape).double(), mask=mask), z)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("far", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_it_is_symmetric_and_positive_definite(name, dtype, far):
    model, z = nonlinear(name).to(dtype), (far * normal(20, LATENT)).to(dtype)
    found = gauss_newton(model, torch.zeros(20, 4, dtype=dtype), z)
    assert found.dtype == dtype
    assert not found.requires_grad
    torch.testing.assert_close(found, found.mT, rtol=0, atol=0)
    slack = 20 * torch.finfo(dtype).eps * found.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    assert (torch.linalg.eigvalsh(found - torch.eye(LATENT, dtype=dtype)) >= -slack).all()


@pytest.mark.parametrize("chunk_elements", [1, 60, 2**24])
def test_chunks_change_nothing(chunk_elements, monkeypatch):
    seen = []
    model = LatentModel(
        MixtureOfGaussians(LATENT, 2, context_dim=2), likelihoods.Bernoulli(build("mlp-context"), (5,))
    ).double()
    batch = Batch(torch.zeros(7, 5), context=normal(7, 2), mask=torch.rand(7, 5) < 0.5)
    z = normal(7, LATENT)
    whole = gauss_newton(model, batch, z)
    monkeypatch.setattr(
        curvature, "network_jacobian", lambda *given: seen.append(len(given[1])) or network_jacobian(*given)
    )
    torch.testing.assert_close(gauss_newton(model, batch, z, chunk_elements=chunk_elements), whole)
    assert seen == {1: [1] * 7, 60: [2, 2, 2, 1], 2**24: [7]}[chunk_elements]  # 3 tangents, at most 7 wide


def test_a_compiled_network_is_differentiated_all_the_same():
    model = nonlinear("bernoulli")
    expected = gauss_newton(model, torch.zeros(5, 4), normal(5, LATENT))
    model.likelihood.network.compile(backend="eager")
    torch.testing.assert_close(gauss_newton(model, torch.zeros(5, 4), normal(5, LATENT)), expected)


def kept(weights: Tensor, means: Tensor, covariances: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Σ r_k Λ_k and the covariance of the g_k under r, at one z, by loops over the components."""
    log_r = torch.stack(
        [w.log() + MultivariateNormal(m, c).log_prob(z) for w, m, c in zip(weights, means, covariances, strict=True)]
    )
    r, precisions = log_r.softmax(0), torch.linalg.inv(covariances)
    g = torch.stack([-P @ (z - m) for P, m in zip(precisions, means, strict=True)])
    mean = (r[:, None] * g).sum(0)
    return (r[:, None, None] * precisions).sum(0), torch.einsum("k,ki,kj->ij", r, g, g) - torch.outer(mean, mean)


def mixture(kind: str, *, per_datum: int = 0) -> tuple[Distribution, Tensor, Tensor, Tensor]:
    lead = (per_datum,) if per_datum else ()
    logits, means = normal(*lead, 4, seed=1), 2 * normal(*lead, 4, LATENT, seed=2)
    if kind == "full":
        root = normal(*lead, 4, LATENT, LATENT, seed=3)
        covariances = root @ root.mT + 0.3 * torch.eye(LATENT)
        components: Distribution = MultivariateNormal(means, covariances)
    else:
        scales = normal(*lead, 4, LATENT, seed=3).exp()
        covariances = torch.diag_embed(scales.square())
        components = Independent(Normal(means, scales), 1)
    return MixtureSameFamily(Categorical(logits=logits), components), logits.softmax(-1), means, covariances


@pytest.mark.parametrize("per_datum", [False, True])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_mixtures_curvature_is_its_hessian_less_a_covariance(kind, per_datum):
    z = 2 * normal(6, LATENT, seed=7)
    distribution, *parts = mixture(kind, per_datum=6 if per_datum else 0)
    found = prior_precision(distribution, z)
    assert (torch.linalg.eigvalsh(found) > 0).all()
    for i in range(6):
        means, spread = kept(*((part[i] for part in parts) if per_datum else parts), z[i])
        torch.testing.assert_close(found[i], means)
        one = mixture(kind)[0] if not per_datum else None
        if one is not None:  # the derivation itself: kept − covariance is minus the Hessian
            minus = -torch.autograd.functional.hessian(one.log_prob, z[i])
            torch.testing.assert_close(means - spread, minus)


def test_a_mixture_is_not_indefinite_between_its_modes():
    distribution = MixtureSameFamily(
        Categorical(logits=torch.zeros(2)), Independent(Normal(torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1)), 1)
    )
    middle = torch.zeros(1, 1)
    assert torch.autograd.functional.hessian(distribution.log_prob, middle[0]).item() > 0
    assert prior_precision(distribution, middle).item() == pytest.approx(1.0)


def priors() -> dict[str, Conditional]:
    torch.manual_seed(4)
    full = FullNormal(MLP((5,), FullNormal.parameter_shape(LATENT)), LATENT)
    diagonal = DiagonalNormal(MLP((5,), (2, LATENT), context_dim=2), LATENT)
    mixture, mixture_context = MixtureOfGaussians(LATENT, 3), MixtureOfGaussians(LATENT, 3, context_dim=2)
    for prior in (mixture, mixture_context):
        prior.log_scales.data.copy_(normal(3, LATENT))
    return {
        "mixture": mixture,
        "mixture-context": mixture_context,
        "vamp-full": VampPrior(full, torch.rand(4, 5), Support.UNIT_INTERVAL),
        "vamp-context": VampPrior(diagonal, torch.rand(4, 5), Support.UNIT_INTERVAL, context_dim=2),
        "maf": _curved(MafPrior(LATENT, width=8)),
        "nsf-context": _curved(NsfPrior(LATENT, width=8, context_dim=2)),
    }


def _curved(prior: FlowPrior) -> FlowPrior:
    """With transforms far from the identity, where they start."""
    for part in prior.bijection.parts:
        part.hyper[-1].weight.data.mul_(100)
    return prior


@pytest.mark.parametrize("name", ["mixture", "mixture-context", "vamp-full", "vamp-context", "maf", "nsf-context"])
def test_every_prior_joins_with_and_without_context(name):
    model = nonlinear("bernoulli", prior=priors()[name])
    batch, z = Batch(torch.zeros(5, 4).double(), context=normal(5, 2)), normal(5, LATENT)
    found = gauss_newton(model, batch, z)
    assert found.shape == (5, LATENT, LATENT)
    of_likelihood = gauss_newton(nonlinear("bernoulli"), batch, z) - torch.eye(LATENT)
    of_prior = found - of_likelihood
    assert (torch.linalg.eigvalsh(of_prior) > 0).all()
    assert of_prior.std(0).max() > 1e-3  # the prior's curvature depends on z


def test_normal_priors_have_their_precision():
    root = normal(LATENT, LATENT)
    covariance = root @ root.T + torch.eye(LATENT)
    z = normal(4, LATENT)
    full = prior_precision(MultivariateNormal(torch.zeros(LATENT).double(), covariance), z)
    torch.testing.assert_close(full, torch.linalg.inv(covariance).expand(4, LATENT, LATENT))
    scale = normal(4, LATENT, seed=2).exp()
    diagonal = prior_precision(Independent(Normal(z, scale), 1), z)
    torch.testing.assert_close(diagonal, torch.diag_embed(scale**-2))


@pytest.mark.parametrize("fallback", ["student", "banana"])
def test_other_priors_have_the_absolute_eigenvalues_of_their_hessian(fallback):
    if fallback == "student":
        distribution: Distribution = Independent(StudentT(3.0, torch.zeros(LATENT).double()), 1)
    else:
        distribution = _Banana()
    z = 2 * normal(8, LATENT) + torch.tensor([5.0, 0, 0])  # into the tails
    found = prior_precision(distribution, z, floor=1e-9)
    minus = -torch.stack([torch.autograd.functional.hessian(distribution.log_prob, one) for one in z])
    assert (torch.linalg.eigvalsh(minus) < 0).any()  # indefinite somewhere, or the test is of nothing
    torch.testing.assert_close(found @ found, minus @ minus)  # the same eigenvectors, the same absolute eigenvalues
    assert (torch.linalg.eigvalsh(found) > 0).all()


class _Banana(Distribution):
    """A normal distribution, bent."""

    def __init__(self) -> None:
        super().__init__((), torch.Size([LATENT]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        bent = torch.cat([value[..., :1] - value[..., 1:2].square(), value[..., 1:]], -1)
        return -0.5 * bent.square().sum(-1)


def test_a_prior_without_curvature_gets_the_floor():
    found = prior_precision(Independent(Laplace(torch.zeros(2), torch.ones(2)), 1), torch.ones(3, 2), floor=0.25)
    torch.testing.assert_close(found, 0.25 * torch.eye(2).expand(3, 2, 2))


def test_a_prior_whose_curvature_is_not_finite_is_refused():
    steep = Independent(StudentT(3.0, torch.zeros(2), validate_args=False), 1)
    with pytest.raises(ElbowroomError, match="no finite second derivative at z for 1 of 3 examples"):
        prior_precision(steep, torch.tensor([[0.0, 0], [math.nan, 0], [1, 1]]))


def test_a_sound_matrix_is_factored_as_it_is():
    root = normal(5, LATENT, LATENT)
    sound = root @ root.mT + torch.eye(LATENT)
    precision, factor = regularized_cholesky(sound)
    assert precision is sound
    torch.testing.assert_close(factor, torch.linalg.cholesky(sound))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_rounding_is_put_right_relative_to_the_diagonal(unit):
    a = torch.tensor([1.0, 2.0, 3.0])
    nearly = torch.outer(a, a) - 1e-6 * torch.eye(3)  # its least eigenvalue is -1e-6
    scale = torch.tensor([1.0, unit, 1.0])
    matrices = torch.stack([torch.eye(3), nearly]) * scale * scale[:, None]
    precision, factor = regularized_cholesky(matrices)
    torch.testing.assert_close(factor @ factor.mT, precision)
    assert torch.equal(precision[0], matrices[0])
    added = (precision - matrices)[1]
    relative = added.diagonal() / matrices[1].diagonal()
    assert ((relative > 1e-7) & (relative < 1e-4)).all()
    assert torch.equal(added - torch.diag(added.diagonal()), torch.zeros(3, 3))


def test_what_single_precision_factors_double_precision_factors_too():
    """By rounding, some of these are indefinite, and float32's Cholesky does not see it in all of them."""
    roots = 2e3 * normal(2000, 8, 3).float()
    single = roots @ roots.mT + torch.eye(8)  # of rank 3 beside the precision of the prior
    seen = torch.linalg.cholesky_ex(single)[1] != 0
    assert (torch.linalg.cholesky_ex(single.double())[1][~seen] != 0).any()
    precision, factor = regularized_cholesky(single)
    _, failed = torch.linalg.cholesky_ex(precision.double())
    assert not failed.any()
    torch.testing.assert_close(factor @ factor.mT, precision, rtol=1e-5, atol=10.0)  # of 1e7


@pytest.mark.parametrize(
    "bad", [torch.tensor([[1.0, 0], [0, -1]]), torch.tensor([[1.0, 0], [0, math.nan]]), torch.eye(2) * math.inf]
)
def test_what_rounding_does_not_explain_is_refused(bad):
    with pytest.raises(ElbowroomError, match="1 of 2 examples"):
        regularized_cholesky(torch.stack([torch.eye(2), bad]))


@pytest.mark.parametrize("z_shape", [(5,), (4, LATENT), (2, 5, LATENT), (5, LATENT + 1)], ids=str)
def test_z_of_another_shape_is_refused(z_shape):
    with pytest.raises(ElbowroomError, match=r"of shape \(5, 3\)"):
        gauss_newton(nonlinear("bernoulli"), torch.zeros(5, 4), normal(*z_shape))


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ElbowroomError, match="chunk_elements is 0"):
        gauss_newton(nonlinear("bernoulli"), torch.zeros(5, 4), normal(5, LATENT), chunk_elements=0)


@pytest.mark.parametrize("module", [nn.BatchNorm1d(5), nn.Dropout()], ids=["batch-norm", "dropout"])
def test_a_density_that_rests_on_other_data_or_chance_is_refused(module):
    network = nn.Sequential(MLP((LATENT,), (5,)), module, nn.Unflatten(-1, (1, 5)))
    network.forward = lambda z, context=None: nn.Sequential.forward(network, z)  # type: ignore[method-assign]
    model = LatentModel(StandardNormal(LATENT), likelihoods.Bernoulli(network, (5,))).double()
    with pytest.raises(ElbowroomError, match=r"training mode(.|\n)*eval\(\)"):
        gauss_newton(model, torch.zeros(6, 5), normal(6, LATENT))
    assert gauss_newton(model.eval(), torch.zeros(6, 5), normal(6, LATENT)).isfinite().all()


def test_the_data_reach_the_curvature_through_the_mask_alone():
    model, z = nonlinear("bernoulli"), normal(5, LATENT)
    zeros, ones = (gauss_newton(model, torch.full((5, 4), value).double(), z) for value in (0.0, 1.0))
    assert torch.equal(zeros, ones)


def test_no_data_have_no_curvature():
    found = gauss_newton(nonlinear("bernoulli"), torch.zeros(0, 4), normal(0, LATENT))
    assert found.shape == (0, LATENT, LATENT)


def test_a_dirichlet_is_no_prior_over_all_reals_but_serves():
    found = prior_precision(Dirichlet(torch.tensor([2.0, 3.0, 4.0]).double()), torch.tensor([[0.2, 0.3, 0.5]]).double())
    torch.testing.assert_close(found, torch.diag(torch.tensor([1 / 0.04, 2 / 0.09, 3 / 0.25]).double())[None])
