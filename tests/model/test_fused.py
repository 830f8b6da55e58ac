"""Perceptrons and Bernoulli densities with written-out derivatives are what autograd would make of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from elbowroom.model.fused import BACKWARD, bernoulli_log_prob, bernoulli_log_prob_, bernoulli_total
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy
from elbowroom.model.networks import ACTIVATIONS, MLP
from elbowroom.model.priors import StandardNormal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair_of(**settings):
    """The same network twice: as it trains, and by autograd alone."""
    torch.manual_seed(0)
    fused = MLP((2, 3), (2, 4), hidden=(7, 5), **settings).double()
    plain = copy.deepcopy(fused)
    plain.fuse = False
    return fused, plain


def gradients(network, given, context=None):
    network.zero_grad()
    leaf = given.clone().requires_grad_()
    out = network(leaf, context)
    (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()).sum().backward()
    return out, [leaf.grad, *(weight.grad for weight in network.parameters())]


def is_one_node(out):
    return "_Perceptron" in type(out.grad_fn.next_functions[0][0]).__name__  # the function of a view is in front of it


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("context_dim", [0, 3])
def test_a_perceptron_and_its_gradients_are_autograds(activation, context_dim):
    fused, plain = pair_of(activation=activation, context_dim=context_dim)
    given = torch.randn(6, 5, 2, 3, generator=seeded(), dtype=torch.float64)
    context = torch.randn(5, context_dim, generator=seeded(1), dtype=torch.float64) if context_dim else None
    (out, found), (wanted_out, wanted) = gradients(fused, given, context), gradients(plain, given, context)
    assert is_one_node(out)
    assert not is_one_node(wanted_out)
    torch.testing.assert_close(out, wanted_out)
    torch.testing.assert_close(found, wanted)


def test_every_activation_has_a_derivative():
    assert {type(make()) for make in ACTIVATIONS.values()} == set(BACKWARD)


def test_data_that_ask_for_no_gradient_get_none_and_the_weights_theirs():
    fused, plain = pair_of()
    given = torch.randn(5, 2, 3, generator=seeded(), dtype=torch.float64)
    for network in (fused, plain):
        network(given).square().sum().backward()
    torch.testing.assert_close([p.grad for p in fused.parameters()], [p.grad for p in plain.parameters()])


def test_half_precision_stays_near_and_leaves_weights_and_output_in_theirs():
    torch.manual_seed(0)
    fused = MLP((30,), (20,), hidden=(40,))
    plain = copy.deepcopy(fused)
    fused.autocast, plain.fuse = torch.bfloat16, False
    given = torch.randn(64, 30, generator=seeded())
    (out, found), (wanted_out, wanted) = gradients(fused, given), gradients(plain, given)
    assert out.dtype == torch.float32
    assert {gradient.dtype for gradient in found} == {torch.float32}
    assert 1e-4 < float((out - wanted_out).detach().abs().max()) < 0.03
    for half, full in zip(found, wanted, strict=True):
        cosine = torch.cosine_similarity(half.flatten(), full.flatten(), 0)
        assert 0.99 < float(cosine) < 1 - 1e-9  # a unit of ReLU may change its mind


def test_second_derivatives_are_autograds():
    fused, plain = pair_of(activation="tanh")
    given = torch.randn(2, 3, generator=seeded(), dtype=torch.float64)
    hessians = [
        torch.autograd.functional.hessian(lambda x, n=network: n(x.unsqueeze(0)).exp().sum(), given)
        for network in (fused, plain)
    ]
    assert float(hessians[1].abs().max()) > 1e-3
    torch.testing.assert_close(*hessians)


def test_a_network_applied_twice_has_the_right_second_derivatives():
    torch.manual_seed(0)
    fused = MLP((3,), (3,), hidden=(5,), activation="tanh").double()
    plain = copy.deepcopy(fused)
    plain.fuse = False
    given = torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    slopes = []
    for network in (fused, plain):
        weights = list(network.parameters())
        first = torch.autograd.grad(network(network(given)).exp().sum(), weights, create_graph=True)
        slopes.append([*first, *torch.autograd.grad(sum(slope.square().sum() for slope in first), weights)])
    torch.testing.assert_close(*slopes)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # torch's own, in the forward mode of its linear layers
def test_many_gradients_at_once_and_forward_mode():
    fused, plain = pair_of()
    given = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64)
    jacobians = [torch.autograd.functional.jacobian(network, given, vectorize=True) for network in (fused, plain)]
    torch.testing.assert_close(*jacobians)
    logits, x = torch.randn(4, 5, generator=seeded(), dtype=torch.float64), torch.ones(4, 5, dtype=torch.float64)
    rows = torch.autograd.functional.jacobian(lambda o: bernoulli_log_prob(o, x), logits, vectorize=True)
    torch.testing.assert_close(rows.sum(1), x - logits.sigmoid())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(given, torch.ones_like(given))
        tangents = [torch.autograd.forward_ad.unpack_dual(network(dual)).tangent for network in (fused, plain)]
    torch.testing.assert_close(*tangents)


def test_functional_transforms_take_the_plain_road():
    fused, plain = pair_of(activation="tanh")
    given = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64)
    jacobians = [torch.func.vmap(torch.func.jacrev(network))(given) for network in (fused, plain)]
    torch.testing.assert_close(*jacobians)


@pytest.mark.parametrize("which", ["hidden_layers.0", "hidden_layers", "output"])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_is_not_passed_by(which, kind):
    fused, _ = pair_of()
    seen = []
    getattr(fused.get_submodule(which), f"register_{kind}")(lambda *_: seen.append(kind))
    fused(torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert seen == [kind]


def test_a_subclass_with_a_function_of_its_own_is_asked():
    class Shifted(MLP):
        def compute(self, given, context):
            return super().compute(given, context) + 100

    network = Shifted((3,), (2,), hidden=(4,))
    given = torch.randn(5, 3)
    torch.testing.assert_close(network.train()(given), network.eval()(given))


def test_inputs_of_another_precision_fail_in_training_as_they_do_in_evaluation():
    network = MLP((3,), (2,), hidden=(4,))
    for given in (torch.ones(5, 3, dtype=torch.int64), torch.ones(5, 3, dtype=torch.float64)):
        for mode in (True, False):
            with pytest.raises(RuntimeError, match="dtype"):
                network.train(mode)(given)


def test_a_layer_without_bias_goes_by_autograd():
    network = MLP((3,), (2,), hidden=(4,))
    network.hidden_layers[0] = nn.Linear(3, 4, bias=False)
    assert network(torch.ones(5, 3)).shape == (5, 2)


def test_batch_normalisation_goes_by_autograd():
    fused, plain = pair_of(batch_norm=True)
    given = torch.randn(5, 2, 3, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(fused(given), plain(given))
    assert not fused.fusible


def test_evaluation_goes_by_autograd():
    fused, _ = pair_of()
    assert not is_one_node(fused.eval()(torch.randn(5, 2, 3, dtype=torch.float64)))


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_the_log_probability_and_its_gradient_are_torchs(scale):
    logits = (scale * torch.randn(3, 5, 7, generator=seeded(), dtype=torch.float64)).requires_grad_()
    x = torch.rand(5, 7, generator=seeded(1), dtype=torch.float64)
    weights = torch.randn(3, 5, generator=seeded(2), dtype=torch.float64)
    wanted = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand(3, 5, 7), reduction="none").sum(-1)
    found = bernoulli_log_prob(logits, x)
    torch.testing.assert_close(found, wanted)
    slopes = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in (found, wanted)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("elements", [1, 2, 3, 33, 63, 784, 1001])
def test_the_sum_by_products_is_the_sum_of_logarithms(elements, dtype):
    logits = torch.randn(4, elements, generator=seeded(), dtype=dtype) * 3
    logits[0] = 0.0  # the smallest factors
    x = torch.rand(4, elements, generator=seeded(1), dtype=dtype)
    elementwise = bernoulli_log_prob_(logits, x, torch.empty_like(logits)).double().sum(-1)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    torch.testing.assert_close(
        bernoulli_total(logits, x, torch.empty_like(logits)).double(), elementwise, rtol=tolerance, atol=tolerance
    )


def test_the_log_probability_can_be_differentiated_twice():
    logits = torch.randn(4, generator=seeded(), dtype=torch.float64)
    x = torch.tensor([[0.0, 1.0, 0.3, 1.0]], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda one: bernoulli_log_prob(one.unsqueeze(0), x).sum(), logits)
    p = logits.sigmoid()
    torch.testing.assert_close(hessian, -torch.diag(p * (1 - p)))


@pytest.mark.parametrize("kind", [Bernoulli, CrossEntropy])
def test_a_model_uses_it_and_broadcasts_as_before(kind):
    likelihood = kind(MLP((2,), (1, 2, 3), hidden=(4,)), (2, 3)).double()
    model = LatentModel(StandardNormal(2), likelihood)
    z = torch.randn(6, 5, 2, generator=seeded(), dtype=torch.float64)
    x = torch.rand(5, 2, 3, generator=seeded(1), dtype=torch.float64).round()
    wanted = likelihood(z).log_prob(x).flatten(2).sum(-1)
    found = model.log_likelihood(x, z)
    assert "BernoulliLogProb" in type(found.grad_fn).__name__
    torch.testing.assert_close(found, wanted)
    one = z[:, :1]  # one z for all data
    torch.testing.assert_close(model.log_likelihood(x, one), likelihood(one).log_prob(x).flatten(2).sum(-1))
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_likelihood(x, leaf).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda given: model.log_likelihood(x, given).sum())(z), slope)
