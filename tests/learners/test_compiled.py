"""Compiled and eager steps agree to floating-point precision, from the same noise; what cannot be compiled says so."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import elbowroom.learners.compiled as module
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.inference.objectives import elbo_terms, iwae_terms
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.compiled import Compiled
from elbowroom.learners.execution import eager
from elbowroom.learners.learner import TrainingState
from elbowroom.learners.mcem import m_step_terms
from elbowroom.learners.update import Update
from elbowroom.learners.wakesleep import WakeSleep
from elbowroom.model.conditional import Conditional
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.model.guides import GUIDES
from elbowroom.model.latent import Pair, evaluation_mode
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.networks import MLP
from elbowroom.model.noise import normal
from elbowroom.model.priors import PRIORS

MakePair = Callable[..., tuple[Pair, Batch]]
ROWS = 6

pytestmark = [
    pytest.mark.usefixtures("traced"),
    pytest.mark.filterwarnings("ignore"),  # the compiler warns of its own doings
]


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _silence(remark: str) -> None:
    raise AssertionError(f"nothing was to be said, but: {remark}")


def _found(
    execution: Any, objective: Any, pair: Pair, batch: Batch, *tensors: Tensor, **settings: Any
) -> tuple[Tensor, dict[str, Tensor], list[Tensor | None]]:
    for weight in pair.parameters():  # of a step before, and not to be added to
        weight.grad = torch.full_like(weight, 100.0)
    value, parts = execution(objective, pair, batch, *tensors, **settings)
    return value, parts, [weight.grad for weight in pair.parameters()]


def _terms(pair: Pair, batch: Batch, *tensors: Tensor, bound: Any, **settings: Any) -> Any:
    return bound(pair.model, pair.guide, batch, **settings)


def _of_a_few_operations(
    pair: Pair, batch: Batch, *, generator: Any, num_samples: int = 1, bound: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """For what holds of every graph: with a weight and draws, in an order, and traced ten times as fast as a bound."""
    first, second = (normal((num_samples, len(batch)), batch.x, generator).mean(0) for _ in range(2))
    value = next(pair.parameters()).square().sum() * (first - 3 * second)
    return value, {"value": (value if bound is None else bound(value)).detach()}


def _agree(pair: Pair, batch: Batch, objective: Any, *tensors: Tensor, **settings: Any) -> None:
    compiled = Compiled(len(batch), required=True, announce=_silence)
    drawn = [_generator() if "generator" in settings else None for _ in range(2)]
    runs = []
    for execution, generator in zip((eager, compiled), drawn, strict=True):
        given = settings | ({} if generator is None else {"generator": generator})
        runs.append(_found(execution, objective, copy.deepcopy(pair), batch, *tensors, **given))
    assert compiled.graphs == 1
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-9, atol=1e-11)  # in float64
    if drawn[0] is not None and drawn[1] is not None:  # and the next step draws the same numbers
        assert torch.equal(drawn[0].get_state(), drawn[1].get_state())


@contextmanager
def _without_vectors() -> Iterator[None]:
    """The compiler is not tried for each set of vector instructions first, which takes it ten seconds."""
    from torch._inductor import config

    with config.patch({"cpp.vec_isa_ok": False, "cpp_cache_precompile_headers": False}):
        yield


# --- the same numbers --------------------------------------------------------------------------------------------

PATHWISE: dict[str, tuple[Any, dict[str, Any]]] = {
    "elbo": (elbo_terms, {"kl": "auto", "estimator": "pathwise", "num_samples": 2, "beta": 0.5}),
    "elbo, free bits": (elbo_terms, {"kl": "analytic", "free_bits": 0.3}),
    "elbo, monte-carlo": (elbo_terms, {"kl": "monte-carlo"}),
    "elbo, stl": (elbo_terms, {"kl": "monte-carlo", "estimator": "stl"}),
    "elbo, score function": (elbo_terms, {"kl": "auto", "estimator": "score-function", "num_samples": 3}),
    "iwae": (iwae_terms, {"estimator": "pathwise", "num_samples": 3}),
    "iwae, stl": (iwae_terms, {"estimator": "stl", "num_samples": 3}),
    "iwae, dreg": (iwae_terms, {"estimator": "dreg", "num_samples": 3}),
    "iwae, score function": (iwae_terms, {"estimator": "score-function", "num_samples": 3}),
}


def _combinations(*, all_of_them: bool) -> list[Any]:
    """Likelihood, guide, prior, estimator; or every likelihood with one estimator, and every estimator with one."""
    found = []
    for likelihood, guide, prior, name in itertools.product(LIKELIHOODS, GUIDES, PRIORS, PATHWISE):
        impossible = (prior, likelihood) == ("vamp", "categorical") or (
            "free bits" in name and (guide, prior) != ("diagonal", "normal")
        )
        if not impossible and (all_of_them or name == "iwae" or likelihood == "bernoulli"):
            found.append(pytest.param(likelihood, guide, prior, name, id=f"{likelihood}:{guide}:{prior}:{name}"))
    return found


def _agrees(likelihood: str, guide: str, prior: str, name: str, make_pair: MakePair) -> None:
    pair, batch = make_pair(likelihood, guide, prior)
    bound, settings = PATHWISE[name]
    if bound is elbo_terms and "monte-carlo" not in settings.values() and "free bits" not in name:
        settings = settings | {"kl": "auto"}
    _agree(pair, batch, _terms, bound=bound, generator=True, **settings)


def _one_of_each() -> list[Any]:
    """The k-th of every kind together, or what is possible of them, until each estimator was traced once.

    Priors other than the normal, which take the longest, come once each, at the end. The likelihoods that are left
    over are those of the next test.
    """
    normal_first = ["normal"] * (len(PATHWISE) - len(PRIORS)) + sorted(PRIORS, key="normal".__ne__)
    kinds = [list(LIKELIHOODS), list(GUIDES), normal_first, list(PATHWISE)]
    possible = {parameter.id: parameter for parameter in _combinations(all_of_them=True)}
    found = []
    for k in range(len(PATHWISE)):
        likelihood, guide, prior, name = (kind[k % len(kind)] for kind in kinds)
        wanted = (f"{likelihood}:{guide}:{prior}:{name}", f"{likelihood}:diagonal:normal:{name}")
        found.append(next(possible[each] for each in wanted if each in possible))
    return found


def _left_over() -> list[str]:
    return list(LIKELIHOODS)[len(PATHWISE) :]


@pytest.mark.parametrize(("likelihood", "guide", "prior", "name"), _one_of_each())
def test_every_likelihood_guide_prior_and_estimator(
    likelihood: str, guide: str, prior: str, name: str, make_pair: MakePair
) -> None:
    _agrees(likelihood, guide, prior, name, make_pair)


def test_the_other_likelihoods_in_one_graph(make_pair: MakePair) -> None:
    """log p(x | z) where the guide puts z: what of a bound depends on the likelihood. Each would be a second alone."""

    def at_the_guides_means(pairs: Any, batch: Batch, *xs: Tensor, generator: Any) -> Any:
        parts = {}
        for pair, x, name in zip(pairs, xs, _left_over(), strict=True):
            parts[name] = pair.model.log_likelihood(x, pair.guide(x).mean)
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}

    made = [make_pair(likelihood) for likelihood in _left_over()]
    pairs = nn.ModuleList(pair for pair, _ in made)
    _agree(cast(Pair, pairs), made[0][1], at_the_guides_means, *(batch.x for _, batch in made), generator=True)


@pytest.mark.parametrize(
    ("prior", "guide", "name"),
    [
        ("maf", "diagonal", "elbo"),
        ("coupling", "iaf", "elbo, stl"),
        pytest.param("nsf", "nsf", "iwae, dreg", marks=pytest.mark.slow),  # a spline takes the compiler seconds
    ],
)
def test_flows(prior: str, guide: str, name: str, make_pair: MakePair) -> None:
    pair, batch = make_pair("bernoulli")
    small = {"transforms": 1, "width": 4}
    pair.model.prior = FLOW_PRIORS[prior](2, **small).double()
    if guide in FLOW_GUIDES:
        network = MLP((3, 2), FLOW_GUIDES[guide].parameter_shape(2), hidden=(4,))
        pair.guide = FLOW_GUIDES[guide](network, 2, **small).double()
    bound, settings = PATHWISE[name]
    _agree(pair, batch, _terms, bound=bound, generator=True, **settings)


def test_each_of_them_is_among_these() -> None:
    kinds = [set(values) for values in zip(*(parameter.values for parameter in _one_of_each()), strict=True)]
    kinds[0].update(_left_over())
    assert kinds == [set(LIKELIHOODS), set(GUIDES), set(PRIORS), set(PATHWISE)]


@pytest.mark.lowered
@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "guide", "prior", "name"), _combinations(all_of_them=True))
def test_every_combination_traced(likelihood: str, guide: str, prior: str, name: str, make_pair: MakePair) -> None:
    _agrees(likelihood, guide, prior, name, make_pair)


@pytest.mark.slow
@pytest.mark.cpp
@pytest.mark.parametrize(("likelihood", "guide", "prior", "name"), _combinations(all_of_them=False))
def test_every_combination_in_cpp(likelihood: str, guide: str, prior: str, name: str, make_pair: MakePair) -> None:
    _agrees(likelihood, guide, prior, name, make_pair)


@pytest.mark.lowered
def test_covariates_and_masks_with_the_gradient_that_bends_the_graph_most(make_pair: MakePair) -> None:
    """DReG has hooks on gradients."""
    pair, batch = make_pair("bernoulli", "diagonal", "mixture", context_dim=2)
    mask = torch.rand(batch.x.shape, generator=_generator()) < 0.5
    bound, settings = PATHWISE["iwae, dreg"]
    _agree(pair, Batch(batch.x, None, batch.context, mask), _terms, bound=bound, generator=True, **settings)


@pytest.mark.parametrize("how", ["traced", pytest.param("lowered", marks=[pytest.mark.lowered, pytest.mark.slow])])
def test_the_m_step(how: str, make_pair: MakePair) -> None:
    pair, batch = make_pair()
    z = torch.randn(3, len(batch), 2, generator=_generator(), dtype=torch.float64)
    _agree(pair, batch, m_step_terms, z, learns_guide=True)


def _learner(execution: Any, kind: str) -> Any:
    update = Update(optimizer=functools.partial(torch.optim.Adam, lr=1e-2, fused=True), total_steps=10)
    if kind == "wake-sleep":
        return WakeSleep(update=update, num_samples=2, execution=execution)
    changing: dict[str, Any] = {"beta": 0.7, "warmup_steps": 3, "temperature": 1.0, "last_temperature": 0.1}
    return Aevb(name="elbo", objective=elbo_terms, update=update, execution=execution, **changing)


def _steps(learner: Any, pair: Pair, batches: list[Batch]) -> tuple[TrainingState, list[Any]]:
    state, infos, generator = learner.init(pair), [], _generator()
    for batch in batches:
        state, info = learner.step(state, batch, generator=generator)
        infos.append(info)
        with evaluation_mode(state.learned):
            learner.measure(state.learned, batch, generator=_generator(7))
    return state, infos


@pytest.mark.parametrize(
    "kind", ["aevb", "wake-sleep", pytest.param("aevb", marks=[pytest.mark.cpp, pytest.mark.slow], id="aevb in C++")]
)
def test_several_steps_are_those_of_an_eager_run_and_need_one_function(kind: str, make_pair: MakePair) -> None:
    """The weight of the KL grows, the last batch of an epoch is smaller, validation comes between."""
    pair, batch = make_pair()
    batches = [batch, batch.rows(slice(0, 4)), batch, batch, batch.rows(slice(0, 2)), batch]
    compiled = Compiled(ROWS, required=True, announce=_silence)
    twin = copy.deepcopy(pair)
    plain, wanted = _steps(_learner(eager, kind), pair, batches)
    state, found = _steps(_learner(compiled, kind), twin, batches)
    assert compiled.graphs == 1
    for one, other in zip(found, wanted, strict=True):
        assert one.terms == pytest.approx(other.terms, rel=1e-9)
        assert one.beta == other.beta
    torch.testing.assert_close(state.pair.state_dict(), plain.pair.state_dict(), rtol=1e-7, atol=1e-9)


@pytest.mark.cpp
def test_what_is_compiled_agrees(make_pair: MakePair) -> None:
    """From the objective to C++ and back, by a graph that is small: larger ones are traced above, in C++ if slow."""
    with _without_vectors():
        _agree(*make_pair(), _of_a_few_operations, generator=True, num_samples=2)


@pytest.mark.lowered
def test_trying_leaves_batch_statistics_and_gradients_alone() -> None:
    from elbowroom.model.guides import DiagonalNormal
    from elbowroom.model.latent import LatentModel
    from elbowroom.model.likelihoods import Bernoulli
    from elbowroom.model.networks import MLP
    from elbowroom.model.priors import StandardNormal

    torch.manual_seed(0)
    guide = DiagonalNormal(MLP((5,), (2, 2), hidden=(4,), batch_norm=True), 2)
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 5), hidden=(4,), batch_norm=True), (5,)))
    pair = Pair(model, guide).double()
    x = torch.rand(ROWS, 5, generator=_generator(), dtype=torch.float64).round()
    twin, compiled = copy.deepcopy(pair), Compiled(ROWS, required=True, announce=_silence)
    wanted, found = (
        _found(execution, _terms, each, Batch(x), bound=elbo_terms, generator=_generator())
        for execution, each in ((eager, pair), (compiled, twin))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)
    assert compiled.graphs == 1
    torch.testing.assert_close(dict(twin.named_buffers()), dict(pair.named_buffers()))
    assert int(pair.guide.network.hidden_layers[1].num_batches_tracked) == 1  # type: ignore[union-attr,index,operator,arg-type]


def test_another_number_of_threads_is_compiled_for_and_no_reason_to_stop(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    compiled = Compiled(ROWS, required=True, announce=_silence)
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (before, before + 1):
            torch.set_num_threads(threads)
            runs.append(_found(compiled, _of_a_few_operations, pair, batch, generator=_generator()))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-9, atol=1e-11)
    assert compiled.graphs == 2


def test_a_bound_made_anew_is_the_same_one(make_pair: MakePair) -> None:
    """Each learner makes its own partial function, and two of these are never equal."""
    pair, batch = make_pair()
    compiled = Compiled(ROWS, required=True, announce=_silence)
    for factor in (2.0, 2.0, 3.0):
        bound = functools.partial(torch.mul, other=factor)
        found, wanted = (
            _found(each, _of_a_few_operations, pair, batch, bound=bound, generator=_generator())
            for each in (compiled, eager)
        )
        torch.testing.assert_close(found, wanted)
    assert compiled.graphs == 2


@pytest.mark.lowered
def test_a_gradient_lies_in_memory_as_its_weight_does(make_pair: MakePair) -> None:
    def transposed(pair: Pair, batch: Batch, *, generator: Any) -> Any:
        weight = pair.guide.network.output.weight  # type: ignore[union-attr]
        return (weight.t() * torch.arange(len(weight))).sum() * torch.ones(len(batch)), {}

    pair, batch = make_pair()
    compiled = Compiled(ROWS, required=True, announce=_silence)
    (_, _, wanted), (_, _, found) = (_found(each, transposed, pair, batch) for each in (eager, compiled))
    torch.testing.assert_close(found, wanted)
    for weight in pair.parameters():
        assert weight.grad is None or weight.grad.stride() == weight.stride()


def test_what_fails_later_goes_on_with_the_same_draws(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, batch = make_pair()
    said: list[str] = []
    compiled = Compiled(ROWS, announce=said.append)
    _found(compiled, _of_a_few_operations, pair, batch, generator=_generator())

    def fails(*given: Any) -> Any:
        raise torch._dynamo.exc.InternalTorchDynamoError("out of order")

    (function,) = compiled._functions.values()
    monkeypatch.setattr(function, "_compiled", fails)
    found = _found(compiled, _of_a_few_operations, pair, batch, generator=_generator(5))
    torch.testing.assert_close(found, _found(eager, _of_a_few_operations, pair, batch, generator=_generator(5)))
    assert len(said) == 1


# --- what cannot be compiled -------------------------------------------------------------------------------------


class Branching(Conditional):
    """A guide of the user's own whose code looks at numbers."""

    def __init__(self, guide: Conditional) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Any:
        assert given is not None
        return self.guide(given if float(given.sum()) > -1e9 else -given, context)


def _refused(pair: Pair, batch: Batch, objective: Any = _terms, **settings: Any) -> tuple[ElbowroomError, str]:
    """The error where compiling is required; and what is said where it is not, and training goes on."""
    with pytest.raises(ElbowroomError) as caught:
        _found(
            Compiled(ROWS, required=True, announce=_silence), objective, copy.deepcopy(pair), batch,
            generator=_generator(), **settings,
        )  # fmt: skip
    said: list[str] = []
    compiled, twin = Compiled(ROWS, announce=said.append), copy.deepcopy(pair)
    for seed in (1, 2):
        runs = [
            _found(execution, objective, each, batch, generator=_generator(seed), **settings)
            for execution, each in ((eager, pair), (compiled, twin))
        ]
        torch.testing.assert_close(runs[0], runs[1], rtol=0.0, atol=0.0)
    (remark,) = said  # once
    assert "Training continues without the compiler" in remark
    assert "\n" not in remark
    assert "--runtime.compile off" in caught.value.remedy
    return caught.value, remark


def test_a_torch_that_is_too_old(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_traces_gradients", lambda: False)
    with pytest.raises(ElbowroomError, match="does not compile gradients"):
        Compiled(ROWS, required=True, announce=_silence)
    said: list[str] = []
    compiled = Compiled(ROWS, announce=said.append)
    pair, batch = make_pair()
    _found(compiled, _terms, pair, batch, bound=elbo_terms, generator=_generator())
    assert compiled.graphs == 0
    assert len(said) == 1


@contextmanager
def _compiler(name: str) -> Iterator[None]:
    """Another C++ compiler than this machine's, for a while."""
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with _without_vectors(), config.patch({"cpp.cxx": (None, name)}):
        yield
    cpp_builder.cpp_compiler_search.cache_clear()


def test_a_model_that_looks_at_numbers(make_pair: MakePair) -> None:
    pair, batch = make_pair()
    error, _ = _refused(Pair(pair.model, Branching(pair.guide)), batch, bound=elbo_terms, kl="monte-carlo")
    assert "torch.compile does not understand a part of it" in error.problem


def test_draws_that_depend_on_parameters(make_pair: MakePair) -> None:
    class Gamma(Conditional):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Any:
            assert given is not None
            shape = (self.weight.exp()).expand(len(given), 2)
            return torch.distributions.Independent(torch.distributions.Gamma(shape, torch.ones_like(shape)), 1)

    pair, batch = make_pair()
    error, _ = _refused(Pair(pair.model, Gamma()), batch, bound=elbo_terms, kl="monte-carlo")
    assert "draws depend on parameters" in error.problem


@pytest.mark.cpp
def test_no_compiler(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing lies there ready
    with _compiler("no-such-compiler"):
        error, remark = _refused(*make_pair(), _of_a_few_operations)
    assert "no C++ compiler" in error.problem
    assert "CXX" in remark


@pytest.mark.cpp
def test_a_compiler_that_fails(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\necho "internal error" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with _compiler(str(broken)):
        error, _ = _refused(*make_pair(), _of_a_few_operations)
    assert "the compiler failed" in error.problem


@pytest.mark.cpp
def test_a_cache_that_cannot_be_written(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    error, _ = _refused(*make_pair(), _of_a_few_operations)
    assert "cache" in error.problem
    assert "TORCHINDUCTOR_CACHE_DIR" in error.remedy


def test_what_changes_at_every_step_is_compiled_a_few_times_and_no_more(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_GRAPHS", 3)
    pair, batch = make_pair()
    compiled = Compiled(ROWS, announce=_silence)
    for draws in range(1, 6):
        _found(compiled, _of_a_few_operations, pair, batch, num_samples=draws, generator=_generator())
    assert compiled.graphs == 3
