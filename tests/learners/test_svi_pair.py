"""Model and guide as Pyro's: the same densities, the same bounds, and at home with Pyro's own tools."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace

pyro = pytest.importorskip("pyro")

from pyro import poutine  # noqa: E402
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO  # noqa: E402

from elbowroom.data.batch import Batch  # noqa: E402
from elbowroom.errors import ElbowroomError  # noqa: E402
from elbowroom.learners.svi import ELBOS, to_pyro  # noqa: E402
from elbowroom.model.conditional import Conditional  # noqa: E402
from elbowroom.model.likelihoods import LIKELIHOODS  # noqa: E402
from elbowroom.model.networks import MLP  # noqa: E402
from elbowroom.model.oracles import ppca  # noqa: E402
from pyro_estimators import EVENT, LATENT, NATIVE, ROWS, MakePair, weights_of  # noqa: E402


@pytest.fixture(autouse=True)
def _own_store() -> Iterator[None]:
    """No test sees another's weights in Pyro's global store."""
    with pyro.get_param_store().scope():
        yield


def _z(ours: list[float], theirs: list[float]) -> float:
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
    return float((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt())


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize("guide", ["diagonal", "full"])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_traces_hold_the_models_densities(make_pair: MakePair, prior: str, guide: str, context_dim: int) -> None:
    pair, batch = make_pair(guide=guide, prior=prior, context_dim=context_dim)
    mask = torch.rand(batch.x.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    model, program = to_pyro(pair.model, pair.guide)
    of_guide = poutine.trace(program).get_trace(batch.x, batch.context, mask)
    of_model = poutine.trace(poutine.replay(model, of_guide)).get_trace(batch.x, batch.context, mask)
    of_guide.compute_log_prob()
    of_model.compute_log_prob()
    z = of_guide.nodes["z"]["value"]
    assert z.shape == (ROWS, LATENT)
    expected = {
        "z": pair.model.log_prior(z, batch.context).expand(ROWS),
        "x": pair.model.log_likelihood(batch.x, z, context=batch.context, mask=mask),
    }
    for site, density in expected.items():
        assert torch.allclose(of_model.nodes[site]["log_prob"], density, rtol=1e-12)
    assert torch.allclose(of_guide.nodes["z"]["log_prob"], pair.guide(batch.x, batch.context).log_prob(z), rtol=1e-12)
    everything = pair.model.log_likelihood(batch.x, z, context=batch.context)
    assert not torch.allclose(expected["x"], everything)


def test_a_batch_is_its_parts(make_pair: MakePair) -> None:
    pair, batch = make_pair(prior="mixture", context_dim=2)
    mask = torch.arange(batch.x.numel()).view_as(batch.x) % 3 > 0
    pyro_pair = to_pyro(pair.model, pair.guide)
    losses = []
    for given in [(batch.x, batch.context, mask), (Batch(batch.x, None, batch.context, mask),), (batch, None, mask)]:
        torch.manual_seed(1)
        losses.append(Trace_ELBO().loss(*pyro_pair, *given))
    assert losses[0] == losses[1] == losses[2]
    torch.manual_seed(1)
    assert Trace_ELBO().loss(*pyro_pair, batch) != losses[0]


@pytest.mark.parametrize(
    ("kind", "likelihood"), [(list(ELBOS)[k % len(ELBOS)], likelihood) for k, likelihood in enumerate(LIKELIHOODS)]
)
def test_the_bounds_agree_on_average(make_pair: MakePair, kind: str, likelihood: str) -> None:
    """Over many draws, from unrelated seeds, each side with the standard error of its own draws."""
    pair, batch = make_pair(likelihood)
    particles, times = 8, 30
    theirs = ELBOS[kind](num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    model, guide = to_pyro(pair.model, pair.guide)
    torch.manual_seed(11)
    pyros = [-theirs.loss(model, guide, batch) for _ in range(times)]
    generator, native = torch.Generator().manual_seed(12), NATIVE[kind](particles)
    with torch.no_grad():
        ours = [float(native(pair.model, pair.guide, batch, generator=generator).value.sum()) for _ in range(times)]
    assert abs(_z(ours, pyros)) < 4


@pytest.mark.parametrize("kind", ELBOS)
def test_the_bounds_are_those_of_the_exact_evidence(kind: str) -> None:
    """With the exact posterior for a guide every importance weight is p(x), so that two of the bounds are exact."""
    model, _, x = ppca(dim=5, latent_dim=2, seed=1)
    pair = to_pyro(model, model.exact_guide())
    estimator = ELBOS[kind](num_particles=100, vectorize_particles=True, max_plate_nesting=1)
    evidence = model.log_evidence(x).sum().item()
    if kind == "trace-mean-field":
        losses = [-estimator.loss(*pair, x) for _ in range(40)]
        spread = torch.tensor(losses).std() / math.sqrt(len(losses))
        assert abs(sum(losses) / len(losses) - evidence) < 4 * spread
    else:
        assert -estimator.loss(*pair, x) == pytest.approx(evidence, rel=1e-9)


def test_pyros_svi_trains_the_weights_themselves(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    model, guide = to_pyro(pair.model, pair.guide, name="mine")
    before = weights_of(pair)
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(batch.x)
    for old, new in zip(before, pair.parameters(), strict=True):
        assert not torch.equal(old, new)
    named = {f"mine.model$$${key}" for key, _ in pair.model.named_parameters()}
    named |= {f"mine.guide$$${key}" for key, _ in pair.guide.named_parameters()}
    assert set(pyro.get_param_store().keys()) == named


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_predictive_draws_data(make_pair: MakePair, likelihood: str) -> None:
    pair, batch = make_pair(likelihood)
    model, guide = to_pyro(pair.model, pair.guide)
    torch.manual_seed(0)
    for parallel in (False, True):
        posterior = Predictive(guide, num_samples=5, parallel=parallel)(batch.x)
        assert posterior["z"].shape == (5, ROWS, LATENT)
        draws = Predictive(poutine.uncondition(model), posterior, return_sites=["x"], parallel=parallel)(batch.x)
        assert draws["x"].shape == (5, ROWS, *EVENT)
    from_prior = Predictive(poutine.uncondition(model), num_samples=150, parallel=True)(batch.x)
    x, z = from_prior["x"], from_prior["z"]
    expected = pair.model.likelihood(z)
    if likelihood != "categorical":
        error = (x - expected.mean).detach().sum((1, 2, 3))
        assert abs(float(error.mean() / (error.std() / math.sqrt(len(error))))) < 4
    inside = pair.model.likelihood(z[:1]).log_prob(x[:1])
    assert bool(inside.isfinite().all())


@pytest.mark.parametrize(
    ("kind", "prior"),
    [(Trace_ELBO, "mixture"), (TraceMeanField_ELBO, "normal"), (RenyiELBO, "mixture")],
)
def test_particles_side_by_side_and_one_by_one_are_one_bound(make_pair: MakePair, kind: Any, prior: str) -> None:
    pair, batch = make_pair(prior=prior)
    given = to_pyro(pair.model, pair.guide)
    torch.manual_seed(7)
    apart, together = kind(num_particles=4), kind(num_particles=4, vectorize_particles=True)
    one_by_one = [apart.loss(*given, batch) for _ in range(40)]
    side_by_side = [together.loss(*given, batch) for _ in range(40)]
    assert abs(_z(one_by_one, side_by_side)) < 4


class _Heavy(Conditional):
    """A guide that Pyro has no name for here."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP(EVENT, (2, LATENT), hidden=())

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        loc, raw = self.network(given).unbind(-2)
        return Independent(Laplace(loc, raw.exp(), validate_args=False), 1, validate_args=False)


@pytest.mark.parametrize("kind", ELBOS)
def test_a_guide_of_the_users_own_is_drawn_from_scored_and_differentiated(make_pair: MakePair, kind: str) -> None:
    pair, batch = make_pair()
    guide, particles, times = _Heavy().double(), 4, 50
    theirs = ELBOS[kind](num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    given, weight = to_pyro(pair.model, guide), guide.network.output.weight
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
    torch.manual_seed(3)
    pyros, pyros_slopes, ours, slopes = [], [], [], []
    for _ in range(times):
        weight.grad = None
        pyros.append(-theirs.loss_and_grads(*given, batch))
        assert weight.grad is not None
        pyros_slopes.append(-(way * weight.grad).sum().item())
    native = NATIVE["trace" if kind == "trace-mean-field" else kind](particles)  # there is no closed form
    generator = torch.Generator().manual_seed(4)
    for _ in range(times):
        value = native(pair.model, guide, batch, generator=generator).value.sum()
        ours.append(value.item())
        slopes.append((way * torch.autograd.grad(value, weight)[0]).sum().item())
    assert abs(_z(ours, pyros)) < 4
    assert abs(_z(slopes, pyros_slopes)) < 4


def test_another_model_under_the_same_name_is_refused(make_pair: MakePair) -> None:
    first, batch = make_pair()
    second, _ = make_pair(seed=1)
    Trace_ELBO().loss(*to_pyro(first.model, first.guide), batch)
    Trace_ELBO().loss(*to_pyro(first.model, first.guide), batch)  # the same weights once more are no clash
    for program in to_pyro(second.model, second.guide):
        with pytest.raises(ElbowroomError, match="weights of another model") as caught:
            program(batch)
        assert "clear_param_store" in caught.value.remedy
    Trace_ELBO().loss(*to_pyro(second.model, second.guide, name="second"), batch)


def test_a_weight_that_pyro_would_copy_is_refused(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    layer = pair.guide.network.output
    layer.weight.data = layer.weight.data.T.contiguous().T
    with pytest.raises(ElbowroomError, match="not contiguous"):
        to_pyro(pair.model, pair.guide).guide(batch)


def test_a_name_that_pyro_keeps_for_itself_is_refused(make_pair: MakePair) -> None:
    pair, _ = make_pair()
    with pytest.raises(ElbowroomError, match=r"\$\$\$"):
        to_pyro(pair.model, pair.guide, name="a$$$b")


def test_pyro_that_is_not_installed_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyro", None)
    monkeypatch.delitem(sys.modules, "elbowroom.learners.svi")
    with pytest.raises(ElbowroomError) as caught:
        importlib.import_module("elbowroom.learners.svi")
    assert "pip install 'elbowroom[pyro]'" in caught.value.remedy
