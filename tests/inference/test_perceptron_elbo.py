"""The gradient that is written out is autograd's of the one ELBO, for the same draws."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from elbowroom.data.batch import Batch
from elbowroom.data.support import Support
from elbowroom.inference.objectives import elbo_terms
from elbowroom.inference.perceptron_elbo import PerceptronElbo
from elbowroom.model.guides import DiagonalNormal, FullNormal, InputTransform
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy, Gaussian
from elbowroom.model.networks import ACTIVATIONS, MLP
from elbowroom.model.priors import MixtureOfGaussians, StandardNormal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair_of(
    *,
    kind=Bernoulli,
    activation="relu",
    hidden=(9, 7),
    prior=None,
    guide=DiagonalNormal,
    dtype=torch.float64,
    **settings,
):
    torch.manual_seed(0)
    encoder = MLP((4, 6), guide.parameter_shape(3), hidden=hidden, activation=activation, **settings)
    decoder = MLP((3,), kind.parameter_shape((4, 6)), hidden=hidden[::-1], activation=activation)
    model = LatentModel(prior or StandardNormal(3), kind(decoder, (4, 6))).to(dtype)
    transform = InputTransform(kind.support, (4, 6))
    return model, guide(encoder, 3, transform).to(dtype)


def data(dtype=torch.float64, rows=50):
    return Batch(torch.rand(rows, 4, 6, generator=seeded(1), dtype=dtype).round())


def autograds(model, guide, batch, **settings):
    """Terms and gradients of minus the mean."""
    model, guide = copy.deepcopy(model), copy.deepcopy(guide)
    terms = elbo_terms(model, guide, batch, **settings)
    (-terms.value.mean()).backward()
    return terms, [p.grad for m in (guide, model) for p in m.parameters()]


def written_out(model, guide, batch, **settings):
    assert PerceptronElbo.fits(model, guide)
    terms = PerceptronElbo(model, guide).ascend(batch, **settings)
    return terms, [p.grad for m in (guide, model) for p in m.parameters()]


@pytest.mark.parametrize("kind", [Bernoulli, CrossEntropy])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_samples", "beta"), [(1, 1.0), (4, 0.3)])
def test_values_and_gradients_are_autograds(kind, activation, num_samples, beta):
    model, guide = pair_of(kind=kind, activation=activation)
    settings = {"num_samples": num_samples, "beta": beta}
    wanted, wanted_slopes = autograds(model, guide, data(), **settings, generator=seeded())
    found, slopes = written_out(model, guide, data(), **settings, generator=seeded())
    torch.testing.assert_close(found.value, wanted.value)
    torch.testing.assert_close(found.parts, wanted.parts)
    torch.testing.assert_close(slopes, wanted_slopes)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 6, 7)])
def test_any_depth(hidden):
    model, guide = pair_of(hidden=hidden)
    _, wanted = autograds(model, guide, data(), generator=seeded())
    _, found = written_out(model, guide, data(), num_samples=1, generator=seeded())
    torch.testing.assert_close(found, wanted)


def test_memory_that_is_used_again_holds_nothing_of_the_batch_before():
    model, guide = pair_of()
    elbo = PerceptronElbo(model, guide)
    for rows in (50, 20, 50, 64):
        _, wanted = autograds(model, guide, data(rows=rows), generator=seeded(rows))
        elbo.ascend(data(rows=rows), num_samples=1, generator=seeded(rows))
        torch.testing.assert_close([p.grad for m in (guide, model) for p in m.parameters()], wanted)
    with torch.no_grad():  # and sees weights that have changed
        model.likelihood.network.output.weight.mul_(2)
    _, wanted = autograds(model, guide, data(), generator=seeded())
    elbo.ascend(data(), num_samples=1, generator=seeded())
    torch.testing.assert_close([p.grad for m in (guide, model) for p in m.parameters()], wanted)


def test_half_precision_is_the_networks_own():
    model, guide = pair_of(dtype=torch.float32, hidden=(64, 64))
    for network in (guide.network, model.likelihood.network):
        network.autocast = torch.bfloat16
    wanted, wanted_slopes = autograds(model, guide, data(torch.float32), generator=seeded())
    found, slopes = written_out(model, guide, data(torch.float32), num_samples=1, generator=seeded())
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-2, atol=1e-2)
    assert {slope.dtype for slope in slopes} == {torch.float32}
    for one, other in zip(slopes, wanted_slopes, strict=True):
        assert torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.99


class Wider(Bernoulli):
    """A likelihood of the user's own."""


@pytest.mark.parametrize(
    "settings",
    [
        {"prior": MixtureOfGaussians(3, 5)},
        {"guide": FullNormal},
        {"kind": Gaussian},
        {"kind": Wider},
        {"batch_norm": True},
    ],
    ids=["mixture", "full", "gaussian", "own", "batch norm"],
)
def test_other_pairs_do_not_fit(settings):
    assert PerceptronElbo.fits(*pair_of())
    assert not PerceptronElbo.fits(*pair_of(**settings))


def test_a_model_of_the_users_own_does_not_fit():
    class Own(LatentModel):
        def log_likelihood(self, x, z, *, context=None, mask=None):
            return 2 * super().log_likelihood(x, z, context=context, mask=mask)

    model, guide = pair_of()
    assert not PerceptronElbo.fits(Own(model.prior, model.likelihood), guide)


def test_layers_that_are_shared_do_not_fit():
    model, guide = pair_of(hidden=(9, 9))
    assert PerceptronElbo.fits(model, guide)
    model.likelihood.network.hidden_layers[2] = guide.network.hidden_layers[2]
    assert not PerceptronElbo.fits(model, guide)


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_weights_with_hooks_do_not_fit(hook):
    model, guide = pair_of()
    getattr(guide.network.output.weight, hook)(lambda *_: None)
    assert not PerceptronElbo.fits(model, guide)


def test_hooks_frozen_weights_and_other_views_of_x_do_not_fit():
    model, guide = pair_of()
    handle = guide.network.register_forward_hook(lambda *_: None)
    assert not PerceptronElbo.fits(model, guide)
    handle.remove()
    assert PerceptronElbo.fits(model, guide)
    guide.network.output.bias.requires_grad_(False)
    assert not PerceptronElbo.fits(model, guide)
    model, guide = pair_of()
    guide.transform = InputTransform(Support.BYTES, (4, 6)).double()
    assert not PerceptronElbo.fits(model, guide)
    model, guide = pair_of()
    model.likelihood.network.fuse = False
    assert not PerceptronElbo.fits(model, guide)
    guide.network = nn.Flatten()
    assert not PerceptronElbo.fits(model, guide)
