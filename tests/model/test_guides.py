"""Guides: the log-variance convention, draws against parameters, and what the encoder sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import GUIDES, DiagonalNormal, FullNormal, Guide, InputTransform, PriorGuide, check_guide
from elbowroom.model.networks import MLP, ConvEncoder
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal


def build(name: str, *, latent_dim: int = 3, context_dim: int = 0, dtype: torch.dtype = torch.float64) -> Guide:
    torch.manual_seed(0)
    guide = GUIDES[name]
    network = MLP((4,), guide.parameter_shape(latent_dim), hidden=(5,), activation="tanh", context_dim=context_dim)
    return guide(network, latent_dim).to(dtype)


def constant(name: str, output: torch.Tensor, latent_dim: int) -> Guide:
    """A guide whose network returns ``output`` whatever x is."""
    network = MLP((4,), GUIDES[name].parameter_shape(latent_dim), hidden=())
    network.output.weight.data.zero_()
    network.set_output_bias(output)
    return GUIDES[name](network, latent_dim)


def test_diagonal_takes_mean_and_log_variance():
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25])
    q = constant("diagonal", torch.stack([mean, variance.log()]), 2)(torch.randn(6, 4))
    assert q.batch_shape == (6,)
    assert q.event_shape == (2,)
    torch.testing.assert_close(q.mean[0], mean)
    torch.testing.assert_close(q.variance[0], variance)
    torch.testing.assert_close(q.base_dist.scale[0], torch.tensor([2.0, 0.5]))


def test_full_takes_mean_and_triangle():
    # rows (0,0), (1,0), (1,1): the diagonal as log-variances
    output = torch.tensor([1.0, -2.0, math.log(4.0), 0.3, math.log(0.25)])
    q = constant("full", output, 2)(torch.randn(6, 4))
    tril = torch.tensor([[2.0, 0.0], [0.3, 0.5]])
    torch.testing.assert_close(q.mean[0], torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(q.covariance_matrix[0], tril @ tril.T)


@pytest.mark.parametrize("name", GUIDES)
def test_shapes_dtype_and_gradient(name):
    for dtype in (torch.float32, torch.float64):
        guide = build(name, dtype=dtype)
        q = guide(torch.randn(2, 6, 4, dtype=dtype))  # leading axes too
        z = draw(q, (5,), generator=torch.Generator().manual_seed(0))
        assert z.shape == (5, 2, 6, 3)
        assert z.dtype == dtype
        assert q.log_prob(z).shape == (5, 2, 6)
        z.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in guide.network.output.parameters())


@pytest.mark.parametrize("name", GUIDES)
def test_draws_have_the_moments_of_the_parameters(name):
    q = build(name)(torch.randn(2, 4, dtype=torch.float64))
    n = 20_000
    z = draw(q, (n,), generator=torch.Generator().manual_seed(1)).detach()
    mean, variance = q.mean.detach(), q.variance.detach()
    assert (((z.mean(0) - mean) / (variance / n).sqrt()).abs() < 4).all()
    squares = (z - mean).square()
    assert (((squares.mean(0) - variance) / (squares.std(0) / math.sqrt(n))).abs() < 4).all()


@pytest.mark.parametrize("name", GUIDES)
def test_closed_form_kl_is_the_average_of_the_log_ratio(name):
    q = build(name)(torch.randn(2, 4, dtype=torch.float64))
    p = StandardNormal(3).double()(None)
    n = 20_000
    z = draw(q, (n,), generator=torch.Generator().manual_seed(2)).detach()
    log_ratio = (q.log_prob(z) - p.log_prob(z)).detach()
    full_p = p if name == "diagonal" else MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    exact = kl_divergence(q, full_p).detach()
    assert (((log_ratio.mean(0) - exact) / (log_ratio.std(0) / math.sqrt(n))).abs() < 4).all()


@pytest.mark.parametrize("name", GUIDES)
def test_context_reaches_the_output(name):
    guide = build(name, context_dim=2)
    x, context = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    assert not torch.allclose(guide(x, context).mean, guide(x, context + 1).mean)


@pytest.mark.parametrize("name", GUIDES)
def test_lower_precision_stays_inside_the_network(name):
    guide = build(name, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = guide(torch.randn(6, 4))
    assert q.mean.dtype == torch.float32


@pytest.mark.parametrize(
    ("support", "options", "x", "seen"),
    [
        (Support.BINARY, {}, [[0, 1]], [[0.0, 1.0]]),
        (Support.UNIT_INTERVAL, {}, [[0.25, 1.0]], [[0.25, 1.0]]),
        (Support.BYTES, {}, [[0, 51]], [[0.0, 0.2]]),
        (Support.COUNTS, {}, [[0, 3]], [[0.0, math.log(4)]]),
        (Support.CATEGORIES, {"num_categories": 3}, [[2, 0]], [[[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]]]),
        (
            Support.REALS,
            {"shift": torch.tensor([1.0, 2.0]), "scale": torch.tensor([2.0, 4.0])},
            [[3.0, 0.0]],
            [[1.0, -0.5]],
        ),
    ],
)
def test_what_the_encoder_sees(support, options, x, seen):
    transform = InputTransform(support, (2,), **options).double()
    expected = torch.tensor(seen, dtype=torch.float64)
    out = transform(torch.tensor(x))
    assert out.shape[1:] == transform.out_shape
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(transform(torch.tensor([x, x]).double()), expected.expand(2, *expected.shape))


def test_one_hot_images_suit_a_convolution():
    transform = InputTransform(Support.CATEGORIES, (8, 6), num_categories=4)
    guide = DiagonalNormal(ConvEncoder(transform.out_shape, (2, 3), channels=(2,)), 3, transform)
    assert guide(torch.randint(4, (5, 8, 6))).event_shape == (3,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: DiagonalNormal(MLP((4,), (3,)), 3), r"\(3,\).*\(2, 3\)"),
        (lambda: FullNormal(MLP((4,), (2, 3)), 3), r"\(2, 3\).*\(9,\)"),
        (lambda: InputTransform(Support.CATEGORIES, (2,)), "num_categories"),
        (lambda: InputTransform(Support.REALS, (2,), scale=torch.tensor([1.0, 0.0])), "not positive"),
        (lambda: build("diagonal")(None), "without x"),
    ],
)
def test_refusals(wrong, message):
    with pytest.raises(ElbowroomError, match=message):
        wrong()


# --- scales that are not positive are refused


class Mine(Conditional):
    """A guide of the user's."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        raise NotImplementedError


LOC, SOUND = torch.zeros(5, 4), torch.linspace(0.1, 2.0, 20).reshape(5, 4)


def _mixture(scale: Tensor) -> Distribution:
    normal = Independent(Normal(LOC, scale, validate_args=False), 1, validate_args=False)
    return MixtureSameFamily(Categorical(torch.ones(5)), normal, validate_args=False)


KINDS = {
    "normal": lambda s: Normal(LOC, s, validate_args=False),
    "independent": lambda s: Independent(Normal(LOC, s, validate_args=False), 1, validate_args=False),
    "twice independent": lambda s: Independent(
        Independent(Normal(LOC, s, validate_args=False), 1, validate_args=False), 1, validate_args=False
    ),
    "laplace": lambda s: Laplace(LOC, s, validate_args=False),
    "transformed": lambda s: LogNormal(LOC, s, validate_args=False),
    "mixture": _mixture,
    "full": lambda s: MultivariateNormal(LOC, scale_tril=torch.diag_embed(s) - torch.ones(4, 4).tril(-1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_guide_passes(kind: str) -> None:
    check_guide(KINDS[kind](SOUND), Mine())


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_negative_element_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", False)
    scale = SOUND.clone()
    scale[3, 2] = -0.25
    with pytest.raises(ElbowroomError, match=r"guide Mine is negative for 5% of its elements \(down to -0\.25\)") as e:
        check_guide(KINDS[kind](scale), Mine())
    assert "torch.exp(0.5 * v)" in e.value.remedy


def test_zero_is_said_to_be_zero() -> None:
    scale = SOUND.clone()
    scale[0] = 0.0
    with pytest.raises(ElbowroomError, match="zero for 20% of its elements"):
        check_guide(KINDS["normal"](scale), Mine())


def test_a_share_that_is_small_is_not_called_none() -> None:
    scale = torch.ones(1000)
    scale[7] = -1.0
    with pytest.raises(ElbowroomError, match="negative for less than 1% of"):
        check_guide(Normal(torch.zeros(1000), scale, validate_args=False), Mine())


def test_nan_is_another_fault_and_does_not_hide_this_one() -> None:
    scale = SOUND.clone()
    scale[0, 0] = math.nan
    check_guide(KINDS["normal"](scale), Mine())
    scale[1, 1] = -2.0
    with pytest.raises(ElbowroomError, match="down to -2"):
        check_guide(KINDS["normal"](scale), Mine())


def test_a_distribution_without_a_scale_passes() -> None:
    check_guide(Categorical(torch.ones(5, 3)), Mine())


@pytest.mark.parametrize("kind", [DiagonalNormal, FullNormal])
def test_the_packages_guides_are_not_looked_at_and_their_heirs_are(kind: type[Guide]) -> None:
    class Heir(kind):  # type: ignore[misc, valid-type]
        pass

    network, bad = MLP((3,), kind.parameter_shape(4)), KINDS["independent"](-SOUND)
    check_guide(bad, kind(network, 4))
    with pytest.raises(ElbowroomError, match="guide Heir is negative for 100%"):
        check_guide(bad, Heir(network, 4))


def test_a_prior_in_the_guides_place_passes() -> None:
    guide = PriorGuide(MixtureOfGaussians(4, 3))
    check_guide(guide(torch.zeros(5, 2)), guide)


# --- bounds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.parametrize("log_variance", [-1e30, -1e6, -81.0, 81.0, 1e6, 1e30])
def test_a_log_variance_beyond_all_bounds_leaves_a_density(name: str, log_variance: float) -> None:
    size = 2 if name == "diagonal" else 1
    output = torch.full(GUIDES[name].parameter_shape(size), 0.5)
    diagonal = output[1] if name == "diagonal" else output[1:]
    diagonal.fill_(log_variance)
    q = constant(name, output, size)(torch.randn(6, 4))
    z = draw(q, (10,), generator=torch.Generator().manual_seed(0))
    assert bool(z.isfinite().all() & q.log_prob(z).isfinite().all() & z.square().sum(-1).isfinite().all())
    torch.testing.assert_close(q.stddev.log(), torch.full_like(q.stddev, math.copysign(40.0, log_variance)))


@pytest.mark.parametrize("name", GUIDES)
def test_within_the_bounds_nothing_is_changed_to_the_bit(name: str) -> None:
    guide = build(name, dtype=torch.float32)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    output = guide.network(x)
    q = guide(x)
    if name == "diagonal":
        assert torch.equal(q.stddev, torch.exp(0.5 * output[:, 1]))
    else:
        rows, columns = torch.tril_indices(3, 3)
        entries = torch.where(rows == columns, torch.exp(0.5 * output[:, 3:]), output[:, 3:])
        assert torch.equal(q.scale_tril[:, rows, columns], entries)


@pytest.mark.parametrize("name", GUIDES)
def test_beyond_the_bounds_the_gradient_leads_back(name: str) -> None:
    """The entropy of a guide that is much too narrow rises with its log-variance."""
    output = torch.full(GUIDES[name].parameter_shape(1), -500.0)
    guide = constant(name, output, 1)
    entropy = guide(torch.zeros(1, 4)).entropy().sum()
    (gradient,) = torch.autograd.grad(entropy, guide.network.output.bias)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.5]))
