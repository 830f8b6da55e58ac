"""Annealing over codes against enumerated evidence: weights and bounds obey the laws that hold for a continuous z."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.annealing import ais as module
from elbowroom.inference.annealing.ais import AnnealingPlan, ais, plan
from elbowroom.inference.annealing.bidirectional import Sandwich, Simulated, bidirectional, simulate
from elbowroom.inference.annealing.codes import CodesDensity, code_kernel
from elbowroom.inference.annealing.initial import default_start, rows_of, start_density
from elbowroom.inference.weights import log_weights
from elbowroom.model.code_distributions import AutoregressiveCodes, Codes, CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.conditional import Conditional, LatentSupport
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli
from elbowroom.model.networks import MLP
from elbowroom.samplers import HMC, Density, Kernel
from elbowroom.samplers.informed import InformedMoves, SingleSiteMoves

SPACE, DIM = CodeSpace(3, 4), 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Ordered(Conditional):
    """A prior whose slots depend on those before them: a linear map below the diagonal of blocks."""

    latent_support: LatentSupport = "codes"
    weight: Tensor
    bias: Tensor

    def __init__(self, space: CodeSpace, seed: int) -> None:
        super().__init__()
        self.space = space
        slots = torch.arange(space.slots).repeat_interleave(space.codes)
        below = slots.unsqueeze(1) > slots  # the logits of a slot see earlier ones alone
        self.register_buffer("weight", below * torch.randn(space.dim, space.dim, generator=seeded(seed)))
        self.register_buffer("bias", 0.5 * torch.randn(space.dim, generator=seeded(seed + 1)))

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        def logits(z: Tensor) -> Tensor:
            return self.space.split(z @ self.weight.mT + self.bias)

        return AutoregressiveCodes(self.space, logits, like=self.bias)


class WrongMarginals(Conditional):
    """The marginals of the exact posterior, softened, with an error of the same size in every slot."""

    latent_support: LatentSupport = "codes"

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.of, self.space = [model], model.space  # in a list, so that it is no part of this module
        self.error = 0.7 * torch.randn(*self.space, generator=seeded(30))

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        log_joint, z = enumerated(self.of[0], Batch(given, context=context))
        marginals = log_joint.softmax(0).float().T @ z
        return Codes(0.7 * self.space.split(marginals + 0.01).log() + self.error)


class Decoder(nn.Module):
    """Pairs of slots act together, so that the posterior's slots depend on each other and slopes are poor guesses."""

    first: Tensor
    second: Tensor

    def __init__(self, space: CodeSpace, dim: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("first", 1.0 * torch.randn(dim, space.dim, generator=seeded(seed)))
        self.register_buffer("second", 0.7 * torch.randn(dim, space.dim, space.dim, generator=seeded(seed + 1)))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        out = z @ self.first.mT + torch.einsum("...i,dij,...j->...d", z, self.second, z)
        return out.unsqueeze(-2)


class Case(NamedTuple):
    model: LatentModel
    guide: Conditional


@cache
def small() -> Case:
    model = LatentModel(Ordered(SPACE, 10), Bernoulli(Decoder(SPACE, DIM, 20), (DIM,))).eval()
    return Case(model, WrongMarginals(model))


@torch.no_grad()
def enumerated(model: LatentModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p(x, z) of all codes, float64, shape (K^L, batch), and the codes, shape (K^L, L K)."""
    space = model.space
    z = space.one_hot(torch.tensor(list(itertools.product(range(space.codes), repeat=space.slots))))
    everywhere = z.unsqueeze(1).expand(-1, len(batch), -1)
    return model.log_joint(batch.x, everywhere, context=batch.context, mask=batch.mask).double(), z


def exact_evidence(model: LatentModel, batch: Batch | Tensor) -> Tensor:
    """log p(x) by the sum over all codes, float64."""
    return enumerated(model, batch if isinstance(batch, Batch) else Batch(batch))[0].logsumexp(0)


def z_score(log_ratio: Tensor) -> float:
    """Of the mean of a ratio whose expectation is 1; draws are independent."""
    off = log_ratio.exp() - 1
    return float(off.mean() / off.std() * math.sqrt(off.numel()))


def sandwich(size: int = 1000, *, seed: int = 1, **settings: Any) -> tuple[Sandwich, Tensor, Simulated]:
    """Both bounds from the guide, and the truth."""
    model, guide = small()
    data = simulate(model, size, generator=seeded(seed))
    settings = {"guide": guide, "pilot_chains": 1, **settings}
    found = bidirectional(model, data, generator=seeded(seed + 1), **settings)
    return found, exact_evidence(model, data.batch), data


def frozen(temperatures: int) -> AnnealingPlan:
    """Steps that shrink towards the posterior, without a pilot run, which takes longer than the chains themselves."""
    return AnnealingPlan(torch.linspace(0, 1, temperatures + 1), torch.linspace(1, 0.4, temperatures - 1))


# --- the bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperatures", "chains"), [(1, 4), (2, 4), (frozen(5), 1), (frozen(5), 4)])
def test_weights_are_right_on_average_both_ways(temperatures: int | AnnealingPlan, chains: int) -> None:
    found, truth, _ = sandwich(500, temperatures=temperatures, chains=chains)
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4
    for errors in (found.lower - truth, truth - found.upper):  # bounds, and by an amount that is seen
        assert errors.mean() / errors.std() * math.sqrt(errors.numel()) < -4


@pytest.mark.parametrize(
    "kernel",
    [SingleSiteMoves(4), InformedMoves(torch.full((1, 3, 4), 0.25).log(), "sqrt"), None],
    ids=["single-site", "sqrt, uniform", "default"],
)
def test_any_moves_over_codes_will_do(kernel: Kernel | None) -> None:
    found, truth, _ = sandwich(500, temperatures=frozen(4), chains=2, kernel=kernel, seed=5)
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4
    assert found.forward.num_gradients == 2 * 4


def test_temperatures_close_the_gap() -> None:
    gaps = [sandwich(300, temperatures=temperatures, chains=2)[0].gap for temperatures in (1, frozen(6), frozen(60))]
    for loose, tight in pairwise(gaps):
        assert (loose.mean() - tight.mean()) / (loose - tight).std() * math.sqrt(300) > 4
    assert gaps[-1].mean() < 0.2


def test_a_wrong_acceptance_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves that are accepted whatever they lose."""
    from elbowroom.samplers import informed

    accept = informed._accept
    monkeypatch.setattr(informed, "_accept", lambda a, b, log_ratio, u: accept(a, b, torch.zeros_like(log_ratio), u))
    found, truth, _ = sandwich(500, temperatures=frozen(4), chains=2)
    assert max(abs(z_score(found.lower - truth)), abs(z_score(truth - found.upper))) > 6


def test_one_temperature_is_importance_sampling() -> None:
    model, guide = small()
    x = simulate(model, 20, generator=seeded(3)).batch.x
    found = ais(model, x, guide=guide, temperatures=1, chains=7, generator=seeded(5))
    with torch.no_grad():
        expected = log_weights(model, guide, x, 7, generator=seeded(5)).double()
    torch.testing.assert_close(found.log_weights, expected, rtol=0, atol=2e-5)
    assert found.num_gradients == 7 and found.pilot_gradients == 0


def test_from_the_prior_there_is_a_lower_bound() -> None:
    model, _ = small()
    x = simulate(model, 300, generator=seeded(3)).batch.x
    found = ais(model, x, temperatures=8, chains=4, pilot_chains=1, generator=seeded(5))
    errors = found.log_weights - exact_evidence(model, x)
    assert abs(z_score(errors)) < 4
    assert errors.std() > 0.3


class OneSlot(Conditional):
    """A prior of one slot: the posterior of one is categorical again, so that a start can be exact."""

    latent_support: LatentSupport = "codes"
    space = CodeSpace(1, 12)

    def forward(self, given: Tensor | None = None, context: Tensor | None = None) -> Distribution:
        return Codes(torch.linspace(-1, 1, 12).view(1, 12))


@pytest.mark.parametrize("temperatures", [1, 2, frozen(5)])
def test_from_the_exact_posterior_every_weight_is_the_evidence(temperatures: int | AnnealingPlan) -> None:
    """And each datum meets its own start, whatever the blocks."""
    model = LatentModel(OneSlot(), Bernoulli(Decoder(OneSlot.space, DIM, 3), (DIM,))).eval()
    data = simulate(model, 20, generator=seeded(1))
    truth = exact_evidence(model, data.batch)
    exact = Codes(enumerated(model, data.batch)[0].float().T.unsqueeze(1))
    found = bidirectional(model, data, start=exact, temperatures=temperatures, chains=3, block=16, generator=seeded())
    torch.testing.assert_close(found.forward.log_weights, truth.expand(3, -1), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.upper, truth, rtol=0, atol=2e-5)


def test_contexts_and_masks_are_each_examples_own() -> None:
    prior = UnigramCodes(SPACE, context_dim=2)
    with torch.no_grad():
        prior.shift.weight.copy_(torch.randn(prior.shift.weight.shape, generator=seeded(2)))  # type: ignore[union-attr]
    model = LatentModel(prior, Bernoulli(Decoder(SPACE, DIM, 20), (DIM,))).eval().requires_grad_(False)
    like = Batch(
        torch.zeros(500, DIM),
        context=torch.randn(500, 2, generator=seeded(3)),
        mask=torch.rand(500, DIM, generator=seeded(4)) < 0.6,
    )
    batch, z = simulate(model, like, generator=seeded(5))
    # a guide that saw what was not observed would know of z more than the data say, and upper bounds would be too low
    data = Simulated(Batch(torch.where(like.mask, batch.x, 0.0), context=batch.context, mask=batch.mask), z)  # type: ignore[arg-type]
    found = bidirectional(
        model,
        data,
        guide=WrongMarginals(model),
        temperatures=3,
        chains=2,
        block=300,
        pilot_chains=1,
        generator=seeded(6),
    )
    truth = exact_evidence(model, data.batch)
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4


# --- what the chains know ----------------------------------------------------------------------------------------


def test_the_lower_bound_is_that_of_the_data_alone() -> None:
    """To the last bit: nothing that goes forward knows of the exact draw."""
    found, _, data = sandwich(60, temperatures=frozen(4), chains=3)
    model, guide = small()
    alone = ais(model, data.batch, guide=guide, temperatures=frozen(4), chains=3, generator=seeded(2))
    assert found.lower.equal(alone.log_evidence)


def test_the_pilot_run_has_chains_and_random_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[Tensor, torch.Generator]] = {}

    def noting(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **given: Any) -> Any:
            seen[call.__name__] = (args[2], given["generator"])
            return call(*args, **given)

        return noted

    monkeypatch.setattr(module, "pilot", noting(module.pilot))
    monkeypatch.setattr(module, "anneal", noting(module.anneal))
    sandwich(30, temperatures=3, chains=4, pilot_chains=4)
    (first, other), (weighed, own) = seen["pilot"], seen["anneal"]
    assert first.shape == weighed.shape and not first.equal(weighed)
    assert other is not own and other.initial_seed() != own.initial_seed()


def test_a_plan_for_all_has_steps_that_shrink_towards_the_posterior() -> None:
    space = CodeSpace(4, 3)
    model = LatentModel(Ordered(space, 10), Bernoulli(Decoder(space, DIM, 20), (DIM,))).eval()
    guide = WrongMarginals(model)
    few = simulate(model, 32, generator=seeded(1)).batch
    found = plan(model, few, guide=guide, temperatures=12, schedule="linear", generator=seeded(2))
    assert found.step_sizes.shape == (11,) and bool((found.step_sizes <= 1).all())
    assert found.step_sizes[0] > 2 * found.step_sizes[-1]
    data = simulate(model, 400, generator=seeded(3))
    sides = bidirectional(model, data, guide=guide, temperatures=found, chains=2, generator=seeded(4))
    truth = exact_evidence(model, data.batch)
    assert abs(z_score(sides.lower - truth)) < 4
    assert abs(z_score(truth - sides.upper)) < 4
    assert sides.forward.pilot_gradients == 0


# --- the start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [6, None], ids=["of each", "of all"])
def test_the_density_of_the_start_is_the_one_that_autograd_finds(rows: int | None) -> None:
    shape = (*SPACE,) if rows is None else (rows, *SPACE)
    q = Codes(torch.randn(shape, generator=seeded(1)))
    z = Codes(torch.zeros(6, *SPACE)).sample((5,), seeded(2))
    written, traced = start_density(q), Density(q.log_prob)
    assert isinstance(written, CodesDensity)
    for found, expected in zip(written.evaluate(z), traced.evaluate(z), strict=True):
        torch.testing.assert_close(found, expected)
    chosen = torch.tensor([3, 0])
    torch.testing.assert_close(written.select(chosen).log_density(z[:, chosen]), written.log_density(z)[:, chosen])
    if rows is not None:
        some = rows_of(q, chosen)
        assert isinstance(some, Codes)
        torch.testing.assert_close(some.logits, q.logits[chosen])


def test_the_reference_of_the_moves_is_the_start_and_a_little_of_everything() -> None:
    model, _ = small()
    q = Codes(torch.tensor([-50.0, 0, 0, 50]).expand(2, 3, 4))
    kernel = code_kernel(model, q)
    assert isinstance(kernel, InformedMoves)
    m = kernel.log_reference.exp()
    torch.testing.assert_close(m.sum(-1), torch.ones(2, 3))
    assert 0.01 < m.min() < 0.05 and m.max() > 0.9
    of_prior = code_kernel(model, model.prior(None))
    assert isinstance(of_prior, InformedMoves)
    torch.testing.assert_close(of_prior.log_reference.exp(), torch.full((1, 3, 4), 0.25))


def test_chains_that_move_start_from_a_softer_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that do not, from the guide itself; a start of the caller's own is taken as it is."""
    model, guide = small()
    x = simulate(model, 6, generator=seeded()).batch.x
    q = guide(x)
    seen: list[Tensor] = []
    drawn: list[Tensor] = []
    draw = module._draw

    def noted(q: Distribution) -> Any:
        assert isinstance(q, Codes)
        seen.append(q.logits)
        return start_density(q)

    def draw_noted(q: Distribution, *given: Any) -> Tensor:
        assert isinstance(q, Codes)
        drawn.append(q.logits)
        return draw(q, *given)

    monkeypatch.setattr(module, "start_density", noted)
    monkeypatch.setattr(module, "_draw", draw_noted)
    settings: dict[str, Any] = {"guide": guide, "chains": 2, "pilot_chains": 1}
    for start, temperatures in (("guide", 1), ("guide", frozen(2)), (q, 2), (guide, frozen(2))):
        ais(model, x, start=start, temperatures=temperatures, generator=seeded(), **settings)
    plan(model, x, guide=guide, temperatures=2, generator=seeded())
    assert {id(logits) for logits in drawn} == {id(logits) for logits in seen}  # drawn from what they are weighed by
    entropies = [float(Codes(logits).entropy().mean()) for logits in seen]
    own = float(q.entropy().mean())
    assert entropies == pytest.approx([own, entropies[1], own, own, entropies[1]])
    assert entropies[1] > own + 0.1


def test_the_default_start_is_the_guide() -> None:
    model, guide = small()
    assert (default_start(model, guide), default_start(model, None)) == ("guide", "prior")


REAL = Independent(Normal(torch.zeros(8, SPACE.dim), 1.0), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "laplace"}, r"start from Laplace approximations needs a continuous z.*codes \(3 slots × 4 codes\)"),
        ({"start": REAL}, "start of annealing is over a Independent"),
        ({"start": Codes(torch.zeros(8, 4, 3))}, r"over 4 slots × 3 codes.*are codes \(3 slots × 4 codes\)"),
        ({"kernel": HMC(2)}, r"kernel hmc needs a continuous z"),
        ({"guide": None, "start": "guide"}, "none was given"),
        ({"target_acceptance": 1.0}, "target acceptance is 1.0"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
@pytest.mark.parametrize("temperatures", [1, 3])
def test_what_codes_cannot_have_is_refused(settings: dict[str, Any], message: str, temperatures: int) -> None:
    model, guide = small()
    x = simulate(model, 8, generator=seeded()).batch.x
    with pytest.raises(ElbowroomError, match=message):
        ais(model, x, **{"guide": guide, "temperatures": temperatures, **settings}, generator=seeded())


@pytest.mark.parametrize("way", ["by name", "by default", "itself", "in a guide's place", "as the guide"])
def test_from_the_prior_there_is_no_upper_bound(way: str) -> None:
    model, _ = small()
    data = simulate(model, 8, generator=seeded())
    ways: dict[str, dict[str, Any]] = {
        "by name": {"start": "prior"},
        "by default": {},
        "itself": {"start": model.prior},
        "in a guide's place": {"start": PriorGuide(model.prior)},
        "as the guide": {"start": "guide", "guide": PriorGuide(model.prior)},
    }
    with pytest.raises(ElbowroomError, match=r"tails too heavy for a bound(?s:.*)--start prior"):
        bidirectional(model, data, temperatures=3, generator=seeded(), **ways[way])


def test_an_mlp_decodes_codes_too() -> None:
    """The path of written-out gradients is for the prior N(0, I) alone: with codes, all of log p(x, z) moves chains."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = MLP((SPACE.dim,), (1, DIM), hidden=(16,))
    model = LatentModel(Ordered(SPACE, 10), Bernoulli(network, (DIM,))).eval().requires_grad_(False)
    data = simulate(model, 500, generator=seeded(1))
    settings: dict[str, Any] = {"guide": WrongMarginals(model), "temperatures": frozen(4), "chains": 2}
    found = bidirectional(model, data, generator=seeded(2), **settings)
    truth = exact_evidence(model, data.batch)
    assert abs(z_score(found.lower - truth)) < 4
    assert abs(z_score(truth - found.upper)) < 4
