"""Codebooks, the guide of the nearest codes and its temperature, fixed grids, the decoder that reads vectors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.draws import draw
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP, ConvDecoder
from elbowroom.model.quantizer import (
    Codebook,
    CodebookKind,
    EmbeddedCodes,
    NearestCodeGuide,
    grid_levels,
    squared_distances,
)

SPACE, DIM, X = CodeSpace(3, 4), 2, 6
KINDS: tuple[CodebookKind, ...] = ("ema", "gradient", "fsq")


def everything() -> Tensor:
    numbers = torch.tensor(list(itertools.product(range(SPACE.codes), repeat=SPACE.slots)))
    return SPACE.one_hot(numbers, torch.float64)


def guide_and_model(
    kind: CodebookKind = "ema", *, temperature: float = 1.0, context_dim: int = 0
) -> tuple[NearestCodeGuide, LatentModel]:
    torch.manual_seed(0)
    codebook = Codebook(SPACE, DIM, kind=kind)
    network = MLP((X,), (SPACE.slots, DIM), hidden=(8,), context_dim=context_dim)
    guide = NearestCodeGuide(network, codebook)
    guide.log_temperature.data.fill_(math.log(temperature))
    decoder = EmbeddedCodes(codebook, MLP((SPACE.slots * DIM,), (1, X), hidden=(8,), context_dim=context_dim))
    prior = UnigramCodes(SPACE)
    prior.logits.data.normal_()
    return guide.double(), LatentModel(prior, Bernoulli(decoder, (X,))).double()


def data(rows: int = 10) -> Tensor:
    half = torch.full((rows, X), 0.5, dtype=torch.float64)
    return torch.bernoulli(half, generator=torch.Generator().manual_seed(1))


# --- the codebook ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_distances_choices_and_vectors_are_those_of_a_loop(kind: CodebookKind) -> None:
    torch.manual_seed(0)
    codebook = Codebook(SPACE, DIM, kind=kind).double()
    e = torch.randn(5, 7, SPACE.slots, DIM, dtype=torch.float64)
    difference = e.unsqueeze(-2) - codebook.vectors
    assert torch.allclose(codebook.squared_distances(e), difference.square().sum(-1))
    numbers = SPACE.numbers(codebook.nearest(e))
    assert torch.equal(numbers, difference.norm(dim=-1).argmin(-1))
    looked_up = torch.stack([codebook.vectors[slot, numbers[..., slot]] for slot in range(SPACE.slots)], -2)
    assert torch.equal(codebook.embed(codebook.nearest(e)), looked_up.flatten(-2))


@pytest.mark.parametrize("kind", KINDS)
def test_slots_at_the_places_of_a_grid_share_their_vectors(kind: CodebookKind) -> None:
    """Two slots at each of three places: the codebook of two slots, one place at a time."""
    torch.manual_seed(0)
    space, single = CodeSpace(6, 4), CodeSpace(2, 4)
    shared, one = Codebook(space, DIM, kind=kind, places=3).double(), Codebook(single, DIM, kind=kind).double()
    with torch.no_grad():
        one.vectors.copy_(shared.vectors)
    e = torch.randn(5, 6, DIM, dtype=torch.float64)
    by_place = e.reshape(5, 3, 2, DIM)
    assert shared.vectors.shape == (2, 4, DIM)
    torch.testing.assert_close(shared.squared_distances(e), one.squared_distances(by_place).reshape(5, 6, 4))
    z = shared.nearest(e)
    assert torch.equal(z, one.nearest(by_place).flatten(1))
    torch.testing.assert_close(shared.embed(z), one.embed(z.reshape(5, 3, 8)).flatten(1))
    guide = NearestCodeGuide(MLP((X,), (6, DIM), hidden=(8,)).double(), shared).double()
    with torch.no_grad():
        guide.log_temperature.copy_(torch.tensor([[0.0], [1.0]]))
    q = guide(data())
    assert isinstance(q, Codes)
    distances = shared.squared_distances(guide.vectors(data()))
    for slot in range(6):
        expected = (-distances[:, slot] / math.exp(slot % 2)).log_softmax(-1)
        torch.testing.assert_close(q.logits[:, slot], expected)


def test_places_that_do_not_divide_the_slots_are_refused() -> None:
    with pytest.raises(ElbowroomError, match="6 slots at 4 places"):
        Codebook(CodeSpace(6, 4), DIM, places=4)


def test_vectors_of_relaxed_codes_are_mixed_linearly() -> None:
    codebook = Codebook(SPACE, DIM).double()
    a, b = everything()[[3, 40]]
    mixed = codebook.embed(0.3 * a + 0.7 * b)
    assert torch.allclose(mixed, 0.3 * codebook.embed(a) + 0.7 * codebook.embed(b))


def test_the_vectors_start_from_the_generator_with_a_length_of_about_one() -> None:
    made = [Codebook(CodeSpace(8, 64), 16, generator=torch.Generator().manual_seed(seed)).vectors for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    lengths = made[0].detach().square().sum(-1)  # χ² with 16 degrees of freedom, divided by 16
    assert abs(float(lengths.mean()) - 1) / math.sqrt(2 / 16 / lengths.numel()) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_fixed_grid_has_no_weights(kind: CodebookKind) -> None:
    codebook = Codebook(SPACE, DIM, kind=kind)
    assert len(list(codebook.parameters())) == (kind != "fsq")
    assert set(codebook.state_dict()) == (set() if kind == "fsq" else {"vectors"})  # it is made anew, and not stored


# --- fixed grids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "axes", "levels"),
    [
        (16, 1, (16,)),
        (16, 2, (4, 4)),
        (16, 4, (2, 2, 2, 2)),
        (240, 3, (5, 6, 8)),
        (1000, 4, (5, 5, 5, 8)),
        (7, 1, (7,)),
    ],
)
def test_the_levels_are_as_equal_as_they_can_be(codes: int, axes: int, levels: tuple[int, ...]) -> None:
    assert grid_levels(codes, axes) == levels


@pytest.mark.parametrize(("codes", "axes", "remedy"), [(16, 16, "1 to 4"), (7, 2, "--model.code-dim 1,")])
def test_codes_that_are_no_grid_are_refused(codes: int, axes: int, remedy: str) -> None:
    with pytest.raises(ElbowroomError, match=f"{axes} dimensions was asked for") as caught:
        Codebook(CodeSpace(2, codes), axes, kind="fsq")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("codes", [4, 5, 12])
def test_every_point_of_a_grid_is_reached_and_nothing_else(codes: int) -> None:
    """Outputs over the whole range, far beyond it too: all K codes appear, and every cell is as wide as another."""
    axes = 1 if codes == 5 else 2
    codebook = Codebook(CodeSpace(2, codes), axes, kind="fsq").double()
    assert codebook.vectors.abs().max() == 1
    assert len(codebook.vectors[0].unique(dim=0)) == codes
    line = torch.cat([torch.linspace(-8, 8, 2001), torch.tensor([-1e6, 1e6])]).double()
    grid = torch.cartesian_prod(*[line[::7]] * axes).reshape(-1, 1, axes).repeat(1, 2, 1)
    numbers = codebook.space.numbers(codebook.nearest(codebook.bounded(grid)))
    assert set(numbers.flatten().tolist()) == set(range(codes))
    # an output that is uniform after the tanh falls into each cell of an axis equally often
    u = (torch.arange(60_000, dtype=torch.float64) + 0.5) / 30_000 - 1
    one_axis = torch.atanh(u).reshape(-1, 1, 1).repeat(1, 2, axes)
    values = codebook.embed(codebook.nearest(codebook.bounded(one_axis)))[:, -1]
    _, counts = values.unique(return_counts=True)
    assert counts.tolist() == [60_000 // codebook.levels[-1]] * codebook.levels[-1]


def test_codebooks_that_are_learned_bound_nothing() -> None:
    output = torch.tensor([[[1e3, -1e3]] * 3])
    assert torch.equal(Codebook(SPACE, DIM).bounded(output), output)


# --- the guide and its temperature -------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_all_codes_sum_to_one(kind: CodebookKind, temperature: float) -> None:
    guide, _ = guide_and_model(kind, temperature=temperature)
    total = guide(data()).log_prob(everything()[:, None]).exp().sum(0)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def test_each_slot_has_the_density_of_its_distances_and_its_own_temperature() -> None:
    guide, _ = guide_and_model()
    guide.log_temperature.data.copy_(torch.tensor([[-1.0], [0.0], [2.0]]))
    q = guide(data())
    assert isinstance(q, Codes)
    e, c = guide.vectors(data()), guide.codebook.vectors
    for slot, log_t in enumerate((-1.0, 0.0, 2.0)):
        kernel = (-(e[:, slot, None] - c[slot]).square().sum(-1) / math.exp(log_t)).exp()
        assert torch.allclose(q.probs[:, slot], kernel / kernel.sum(-1, keepdim=True))


def _exact(model: LatentModel, q: Distribution, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x), log p(x, z) and log q(z | x) of all codes."""
    z = everything()[:, None].expand(-1, len(x), -1)
    log_joint, log_q = model.log_joint(x, z), q.log_prob(z)
    return log_joint.logsumexp(0), log_joint, log_q


class Forgetful(NearestCodeGuide):
    """Planted: draws at the temperature, the density without it."""

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        drawn = super().forward(given, context)
        temperature = self.log_temperature.exp()
        assert isinstance(drawn, Codes)
        bare = Codes(drawn.logits * temperature)
        bare.sample = drawn.sample  # type: ignore[method-assign]
        return bare


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_the_elbo_is_below_log_p_and_as_enumerated_at_every_temperature(temperature: float) -> None:
    guide, model = guide_and_model(temperature=temperature)
    scores, below = _scores(guide, model)
    assert scores.abs().max() < 4
    assert below


@pytest.mark.parametrize("temperature", [0.1, 10.0])
def test_a_density_without_its_temperature_is_seen(temperature: float) -> None:
    guide, model = guide_and_model(temperature=temperature)
    guide.__class__ = Forgetful
    scores, _ = _scores(guide, model)
    assert scores.abs().max() > 10


@torch.no_grad()
def _scores(guide: NearestCodeGuide, model: LatentModel) -> tuple[Tensor, bool]:
    """z-scores of drawn ELBOs (with log q at the draws) against the law of the draws, and whether it is below log p."""
    x = data()
    log_p, log_joint, log_q = _exact(model, NearestCodeGuide.forward(guide, x), x)
    exact = (log_q.exp() * (log_joint - log_q)).sum(0)
    drawn = torch.stack(
        [
            elbo(model, guide, x, num_samples=200, kl="monte-carlo", estimator="score-function",
                 generator=torch.Generator().manual_seed(seed))
            for seed in range(30)
        ]
    )  # fmt: skip
    stderr = (drawn.std(0) / len(drawn) ** 0.5).clamp(min=1e-9)
    return (drawn.mean(0) - exact) / stderr, bool((exact <= log_p).all())


def test_as_the_temperature_vanishes_draws_are_the_nearest_codes() -> None:
    x = data(50)
    for temperature, same in ((1e-6, True), (1.0, False)):
        guide, _ = guide_and_model(temperature=temperature)
        z = draw(guide(x), (20,), generator=torch.Generator().manual_seed(0))
        nearest = guide.nearest(x)
        assert torch.equal(guide(x).mode, nearest)
        assert torch.equal(z, nearest.expand_as(z)) is same


def test_a_deterministic_guides_gap_is_the_posterior_of_its_code() -> None:
    """log p(x) − [log p(x | z_q) + log p(z_q)] = −log p(z_q | x), by enumeration."""
    guide, model = guide_and_model(temperature=1e-9)
    x = data()
    z_q = guide.nearest(x)
    log_p, log_joint, _ = _exact(model, guide(x), x)
    posterior = log_joint - log_p
    number = (everything()[:, None] == z_q).all(-1).double().argmax(0)
    gap = log_p - model.log_joint(x, z_q)
    assert torch.allclose(gap, -posterior.gather(0, number[None]).squeeze(0))
    assert torch.allclose(elbo(model, guide, x, kl="auto", estimator="score-function"), model.log_joint(x, z_q))


def test_the_temperature_and_the_codebook_learn_from_the_elbo() -> None:
    guide, model = guide_and_model()
    elbo(model, guide, data(), num_samples=4, kl="auto", estimator="score-function",
         generator=torch.Generator().manual_seed(0)).mean().backward()  # fmt: skip
    for weight in (guide.log_temperature, guide.codebook.vectors, guide.network.output.weight):  # type: ignore[union-attr]
        assert weight.grad is not None and bool(weight.grad.abs().sum() > 0)  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_leaves_everything_as_it_was(kind: CodebookKind) -> None:
    """Nothing moves a codebook but the training method: neither forward passes in evaluation nor in training."""
    guide, model = guide_and_model(kind)
    before = {name: value.clone() for part in (guide, model) for name, value in _tensors(part).items()}
    for mode in (True, False):
        guide.train(mode), model.train(mode)
        guide.nearest(data())
        model.log_joint(data(), draw(guide(data()), generator=torch.Generator().manual_seed(0)))
    with evaluation_mode(guide, model):
        elbo(model, guide, data(), kl="auto")
    after = {name: value for part in (guide, model) for name, value in _tensors(part).items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _tensors(part: torch.nn.Module) -> dict[str, Tensor]:
    return {f"{type(part).__name__}.{name}": t for name, t in [*part.named_parameters(), *part.named_buffers()]}


def test_a_codebook_that_moves_in_its_forward_pass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: moving averages in the forward pass, as in many a VQ layer, which evaluation then runs."""

    def moving(self: Codebook, vectors: Tensor) -> Tensor:
        with torch.no_grad():
            self.vectors.mul_(0.99).add_(vectors.flatten(0, -3).mean(0).unsqueeze(-2), alpha=0.01)
        return squared_distances(vectors, self.vectors)

    monkeypatch.setattr(Codebook, "squared_distances", moving)
    with pytest.raises(AssertionError):
        test_evaluation_leaves_everything_as_it_was("ema")


def test_the_context_reaches_the_encoder() -> None:
    guide, _ = guide_and_model(context_dim=2)
    x = data()
    a, b = (guide.vectors(x, torch.full((len(x), 2), value, dtype=torch.float64)) for value in (0.0, 1.0))
    assert not torch.equal(a, b)


def test_a_network_of_another_shape_is_refused() -> None:
    with pytest.raises(ElbowroomError, match=r"returns shape \(3, 5\), but should return \(3, 2\)"):
        NearestCodeGuide(MLP((X,), (3, 5)), Codebook(SPACE, DIM))


# --- the decoder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MLP, ConvDecoder])
def test_the_decoder_reads_the_vectors_of_the_codes(make: Any) -> None:
    torch.manual_seed(0)
    codebook = Codebook(SPACE, DIM)
    inner = make((SPACE.slots * DIM,), (1, 4, 4))
    network = EmbeddedCodes(codebook, inner)
    z = everything().float().reshape(4, 16, SPACE.dim)
    assert torch.allclose(network(z), inner(codebook.embed(z)), atol=1e-6)
    network.set_output_bias(torch.full((1, 4, 4), 3.0))
    assert torch.equal(inner.output_layer.bias, torch.full_like(inner.output_layer.bias, 3.0))
    assert network.widest >= inner.widest


def test_vectors_in_the_place_of_the_codes_are_read_and_have_the_gradient() -> None:
    guide, model = guide_and_model()
    network = model.likelihood.network
    assert isinstance(network, EmbeddedCodes)
    z, x = guide.nearest(data()), data()
    other = torch.randn(len(x), SPACE.slots * DIM, dtype=torch.float64, requires_grad=True)
    plain = model.log_likelihood(x, z)
    with network.reading(other):
        read = model.log_likelihood(x, z)
    expected = network.network(other).squeeze(-2)
    assert torch.allclose(read, torch.distributions.Bernoulli(logits=expected).log_prob(x).sum(-1))
    (gradient,) = torch.autograd.grad(read.sum(), other)
    assert bool((gradient.abs().sum(-1) > 0).all())
    assert torch.equal(model.log_likelihood(x, z), plain)


def test_after_an_error_the_codes_are_read_again() -> None:
    network = guide_and_model()[1].likelihood.network
    assert isinstance(network, EmbeddedCodes)
    before = network(everything())
    with pytest.raises(RuntimeError), network.reading(torch.zeros(2, 2)):
        raise RuntimeError
    assert torch.equal(network(everything()), before)


def test_a_decoder_of_another_size_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="3 slots × 4 codes in 2 dimensions are 6 numbers"):
        EmbeddedCodes(Codebook(SPACE, DIM), MLP((12,), (1, X)))
