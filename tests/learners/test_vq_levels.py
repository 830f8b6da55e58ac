"""Vector quantisation with levels of codes: every stage, both codebooks, and a run that goes on bit for bit."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

import level_cases as cases
from elbowroom.data.batch import Batch
from elbowroom.learners.learner import TrainingState
from elbowroom.learners.update import Update
from elbowroom.learners.vq import Vq, VqState
from elbowroom.learners.vq_objectives import choose_temperature, prior_terms, reconstruction_terms
from elbowroom.model.grids.level_guides import LevelNearestCodeGuide
from elbowroom.model.latent import Pair
from elbowroom.model.quantizer import EmbeddedCodes

STEPS, PRIOR_FROM, JOINT_FROM, LAST_FROM = 12, 4, 7, 10


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(seed: int = 0, rows: int = 24) -> Batch:
    """Two kinds of pictures."""
    kind = torch.randint(2, (rows, 1, 1), generator=seeded(seed)).double()
    p = (0.9 * kind + 0.1 * (1 - kind)).expand(rows, *cases.SHAPE).contiguous()
    return Batch(torch.bernoulli(p, generator=seeded(seed)))


def make_learner(lr: float = 1e-2, **settings: Any) -> Vq:
    update = Update(optimizer=functools.partial(torch.optim.Adam, lr=lr), total_steps=STEPS)
    stages = {"prior_from": PRIOR_FROM, "joint_from": JOINT_FROM, "last_from": LAST_FROM}
    return Vq(update=update, **(stages | settings))


def run(learner: Vq, state: TrainingState, steps: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
    return [learner.step(state, batch_of(state.step % 5), generator=generator)[1].terms for _ in range(steps)]


def weights(pair: Pair) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in pair.named_parameters()}


def guide_of(pair: Pair) -> LevelNearestCodeGuide:
    assert isinstance(pair.guide, LevelNearestCodeGuide)
    return pair.guide


def test_every_stage_moves_its_own_weights_of_both_levels() -> None:
    pair, learner, generator = cases.make_pair(), make_learner(), seeded()
    state = learner.init(pair)
    prior = {name for name in weights(pair) if name.startswith("model.prior")}
    moved = []
    for steps in (PRIOR_FROM, JOINT_FROM - PRIOR_FROM, STEPS - JOINT_FROM):
        if state.step == PRIOR_FROM:  # its first step chooses the temperature
            run(learner, state, 1, generator)
            steps -= 1
        before = weights(pair)
        terms = run(learner, state, steps, generator)
        moved.append({name for name, weight in weights(pair).items() if not torch.equal(weight, before[name])})
        for each in terms:
            assert set(each) == {"elbo", "reconstruction", "kl", "kl_1", "kl_2"}
    assert moved == [set(weights(pair)) - prior, prior, set(weights(pair))]


def test_both_codebooks_start_at_the_centres_of_the_first_batch() -> None:
    """Those below from vectors that are given the codes on top."""
    pair = cases.make_pair()
    learner = make_learner(lr=0.0, decay=0.0, restart_below=0.0)
    state, batch = learner.init(pair), batch_of()
    learner.step(state, batch, generator=seeded())
    guide = guide_of(pair)
    found = guide.quantized(batch.x)
    for level, (book, vectors) in enumerate(zip(guide.codebook.parts, found.vectors, strict=True)):
        chosen = book.space.split(found.z.split_with_sizes([3, 12], -1)[level]).flatten(0, 1)  # all places together
        for code in range(cases.CODES):
            mine = vectors.flatten(0, 1)[chosen[:, code] == 1]
            if len(mine):
                torch.testing.assert_close(mine.mean(0), book.vectors[0, code], rtol=1e-3, atol=1e-5)
        distances = book.squared_distances(vectors).amin(-1).mean()
        torch.testing.assert_close(guide.log_temperature[level].exp()[0], distances, rtol=1e-3, atol=1e-9)


def test_a_state_that_is_saved_goes_on_bit_for_bit() -> None:
    learner = make_learner()
    for stop in (3, PRIOR_FROM + 1, LAST_FROM):
        pair, generator = cases.make_pair(), seeded()
        state = learner.init(pair)
        run(learner, state, stop, generator)
        kept, noise = state.tensors(), generator.get_state()
        other = copy.deepcopy(pair)
        again = learner.init(other)
        with torch.no_grad():
            for weight in other.parameters():
                weight.zero_()
        again.load(kept)
        other.load_state_dict(pair.state_dict())
        again.step = state.step
        assert isinstance(again, VqState) and len(again.levels) == 2
        assert {"codebook.0.counts", "codebook.1.distances"} < set(kept)
        resumed = seeded()
        resumed.set_state(noise)
        first, second = run(learner, state, 3, generator), run(learner, again, 3, resumed)
        assert [float(each["elbo"]) for each in first] == [float(each["elbo"]) for each in second]
        for name, weight in weights(pair).items():
            assert torch.equal(weight, weights(other)[name]), name


def test_the_objective_of_reconstruction_is_that_of_both_levels() -> None:
    """Its value by hand, and the commitment of each level to its own codes."""
    case = cases.case("nearest-code")
    guide, network = guide_of(case.pair), case.model.likelihood.network
    assert isinstance(network, EmbeddedCodes)
    batch, z = Batch(case.x), guide.nearest(case.x)
    value, parts = reconstruction_terms(case.pair, batch, z, commitment=0.5)
    vectors = torch.cat(guide.quantized(case.x).vectors, 1)
    distances = (vectors - guide.codebook.embed(z).view_as(vectors)).square().sum((1, 2))
    torch.testing.assert_close(value, case.model.log_likelihood(case.x, z) - 0.5 * distances)
    torch.testing.assert_close(parts["kl"], -case.model.log_prior(z).detach())
    torch.testing.assert_close(parts["kl_1"] + parts["kl_2"], parts["kl"])


def test_the_prior_learns_from_draws_and_no_gradient_goes_to_the_guide() -> None:
    case = cases.case("nearest-code")
    value, parts = prior_terms(case.pair, Batch(case.x), num_samples=2, generator=seeded())
    torch.testing.assert_close(value.detach(), -parts["kl"])
    value.sum().backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in case.guide.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in case.model.prior.parameters())
    log_prior, _ = prior_terms(case.pair, Batch(case.x), num_samples=2, generator=seeded())
    z = case.guide(case.x).sample((2,), seeded())
    by_hand = case.model.log_prior(z).mean(0)
    wanted, found = (
        torch.autograd.grad(each.sum(), list(case.model.prior.parameters()), allow_unused=True)
        for each in (by_hand, log_prior)
    )
    for one, other in zip(wanted, found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_temperature_is_one_for_each_level_in_its_own_unit() -> None:
    case = cases.case("nearest-code")
    before = guide_of(case.pair).log_temperature.detach().clone()
    unit = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found, _ = choose_temperature(case.pair, Batch(case.x), unit, generator=seeded())
    torch.testing.assert_close(found[1] - found[0], torch.tensor([4.0]).double().log())
    assert torch.equal(guide_of(case.pair).log_temperature, before)
