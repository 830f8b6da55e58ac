"""The methods codes and enumerate are held against sums over all codes, and the use of codes against simulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import level_cases
from code_cases import MixedGuide, small_codes
from elbowroom.data.batch import Batch
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.row_estimates import code_estimate, guide_estimate
from elbowroom.evaluation.scoring import score
from elbowroom.inference.enumeration import enumerated, enumerated_elbo
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import CategoricalGuide, UniformCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import PriorGuide
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.likelihoods import Categorical, CrossEntropy
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca

CODE_METHODS = ("codes", "enumerate")


def _data(x: Tensor, support: str = "binary") -> DataSet:
    data = load_data(x, support=support, validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    return data


def _measure(model: LatentModel, guide: Conditional, data: Any, *methods: str, **settings: Any) -> dict[str, Result]:
    results = evaluate(model, guide, data, methods=methods, split="train", **settings)
    return {f"{result.method}: {result.name}": result for result in results}


# --- results --------------------------------------------------------------------------------------------------


def test_results_are_the_means_of_the_rows_and_the_room_is_paired() -> None:
    model, _, x, _ = small_codes(rows=60)
    guide, data = MixedGuide(model), _data(x)
    found = _measure(model, guide, data, "codes", "enumerate", "iwae", k=50)
    with evaluation_mode(model, guide):
        exact, elbo = enumerated(model, x).log_evidence, enumerated_elbo(model, guide, x)
        rows = code_estimate(model, guide, Batch(x), k=50, seed=0)
    bounds = {"deterministic bound": "deterministic", "distinct bound": "distinct", "iwae": "log_evidence",
              "elbo": "elbo", "codes rate": "rate", "codes distortion": "distortion"}  # fmt: skip
    for name, column in bounds.items():
        assert found[f"codes: {name}"].value == pytest.approx(float(rows[column].mean()))
    assert found["codes: deterministic bound"].value < found["codes: distinct bound"].value
    assert found["codes: distinct bound"].value < found["enumerate: log p(x)"].value
    assert found["codes: iwae"].value == found["iwae: iwae"].value  # the same draws, to the bit
    room, gap = found["codes: room of the deterministic bound"], rows["log_evidence"] - rows["deterministic"]
    assert room.value == pytest.approx(float(gap.mean()))
    assert room.stderr == pytest.approx(float(gap.std()) / math.sqrt(len(x)), rel=0.05)
    assert room.stderr < found["codes: iwae"].stderr  # unpaired it would be larger than either
    assert found["enumerate: log p(x)"].value == pytest.approx(float(exact.mean()), abs=1e-5)
    assert found["enumerate: elbow room"].value == pytest.approx(float((exact - elbo).mean()), abs=1e-5)
    assert (found["enumerate: log p(x)"].bound, found["enumerate: elbow room"].bound) == ("exact", "exact")
    assert found["enumerate: log p(x)"].found == {"codes": 64}
    assert found["codes: deterministic bound"].asked == {"seed": 0}  # which has no draws
    assert found["codes: iwae"].asked == {"k": 50, "seed": 0}


def test_bytes_have_bits_per_dimension() -> None:
    torch.manual_seed(0)
    space = CodeSpace(2, 3)
    network = MLP((space.dim,), Categorical.parameter_shape((4,), num_categories=3), hidden=(8,))
    model = LatentModel(UniformCodes(space), Categorical(network, (4,), num_categories=3))
    guide = CategoricalGuide(MLP((4,), space), space)
    x = torch.randint(0, 3, (30, 4), generator=torch.Generator().manual_seed(0))
    found = _measure(model, guide, _data(x, "categories"), *CODE_METHODS, k=20)
    for name in ("codes: iwae", "codes: deterministic bound", "codes: distinct bound", "enumerate: log p(x)"):
        nats, bits = found[name], found[f"{name}, bits per dimension"]
        assert bits.value == pytest.approx(-nats.value / 4 / math.log(2))
        assert (nats.bound, bits.bound) in (("lower", "upper"), ("exact", "exact"))


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["unigram", "chain"])
def test_a_row_has_the_same_bits_whichever_others_come_with_it(prior: str) -> None:
    model, guide, x, context = small_codes(3, 5, prior=prior, context_dim=2, rows=12)
    batch = Batch(x, torch.arange(12), context=context)
    with evaluation_mode(model, guide):
        whole = code_estimate(model, guide, batch, k=25, seed=3)
        other = guide_estimate(model, guide, batch, k=25, seed=3)
        for rows in ([5], [11, 2, 7], list(range(9, 1, -1))):
            some = code_estimate(model, guide, batch.rows(torch.tensor(rows)), k=25, seed=3)
            for column, values in some.items():
                torch.testing.assert_close(values, whole[column][rows], rtol=0, atol=0, equal_nan=True)
    for column in other:  # of the method iwae
        if column in whole:
            torch.testing.assert_close(other[column], whole[column], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("guide", level_cases.GUIDES)
def test_a_row_of_levels_has_the_same_bits_whichever_others_come_with_it(guide: str) -> None:
    case = level_cases.case(guide, prior="pixelcnn", rows=9)
    model, q, batch = case.model.float(), case.guide.float(), Batch(case.x.float(), torch.arange(9))
    with evaluation_mode(model, q):
        whole = code_estimate(model, q, batch, k=12, seed=3)
        missed = guide_estimate(model, q, batch, k=12, seed=3, missed=True)
        torch.testing.assert_close(missed["log_evidence"], whole["log_evidence"], rtol=0, atol=0)
        assert (missed["missed"] >= 0).all()
        for rows in ([5], [8, 2, 7]):
            some = code_estimate(model, q, batch.rows(torch.tensor(rows)), k=12, seed=3)
            for column, values in some.items():
                torch.testing.assert_close(values, whole[column][rows], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", CODE_METHODS)
def test_a_row_of_the_data_has_the_same_bits_alone(method: str) -> None:
    model, guide, x, _ = small_codes(rows=30)
    kept: list[dict[str, Tensor]] = []
    for rows in (x, x[[7, 21, 3]]):
        evaluate(model, guide, _data(rows), methods=[method], split="train", k=10,
                 keep=lambda name, values: kept.append(values))  # fmt: skip
    whole, some = kept
    assert {"row", "elbo"} < set(whole)
    order = whole["row"].argsort(), some["row"].argsort()
    for name in set(whole) - {"row"}:
        torch.testing.assert_close(
            whole[name][order[0]][[7, 21, 3]], some[name][order[1]], rtol=0, atol=0, equal_nan=True
        )


def test_equal_rows_do_not_make_the_mean_more_certain_than_one_of_them() -> None:
    model, _, x, _ = small_codes(rows=1)
    guide = MixedGuide(model)
    found = _measure(model, guide, _data(x.expand(40, -1)), "codes", k=30)
    alone = code_estimate(model, guide, Batch(x), k=30, seed=0)
    for name, error in (("iwae", "stderr"), ("codes distortion", "distortion_stderr"), ("elbo", "elbo_stderr")):
        assert found[f"codes: {name}"].stderr == pytest.approx(math.sqrt(39 / 40) * float(alone[error]))


@pytest.mark.parametrize("method", CODE_METHODS)
def test_an_interrupted_evaluation_goes_on_with_the_same_result(method: str) -> None:
    model, guide, x, _ = small_codes(rows=20)
    stored: dict[str, dict[str, Tensor]] = {}

    class Cache:
        def read(self, name: str) -> dict[str, Tensor] | None:
            return stored.get(name)

        def write(self, name: str, part: Any) -> None:
            stored[name] = dict(part)

    first = evaluate(model, guide, _data(x), methods=[method], split="train", k=10, parts=Cache())
    assert stored
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)  # what is stored is not computed again
    assert evaluate(model, guide, _data(x), methods=[method], split="train", k=10, parts=Cache()) == first


# --- the use of codes --------------------------------------------------------------------------------------------


def _simulated(generator: torch.Generator, rows: int) -> tuple[CodeSpace, Tensor, float]:
    """Codes of slots that depend on each other, of a law whose perplexities are known."""
    space = CodeSpace(3, 6)
    law = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    first = torch.multinomial(law, rows, replacement=True, generator=generator)
    numbers = torch.stack([first, (first + 1) % 6, first // 2], 1)
    pairs = law.reshape(3, 2).sum(1)
    entropy = torch.stack([-(p * p.log()).sum() for p in (law, law, pairs)])
    return space, numbers, float(entropy.exp().mean())


def test_perplexity_has_no_bias_and_the_error_that_it_says() -> None:
    generator, found, batches = torch.Generator().manual_seed(0), [], []
    for _ in range(400):
        space, numbers, truth = _simulated(generator, 120)
        found.append(code_usage(space, numbers))
        batches.append(sum(code_usage(space, part).plug_in for part in numbers.split(20)) / 6)
    values = torch.tensor([one.perplexity for one in found], dtype=torch.float64)
    errors = torch.tensor([one.stderr for one in found], dtype=torch.float64)
    z = (values - truth) / errors
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / math.sqrt(len(found))
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / len(found)) + 0.1
    # what is observed, without the jackknife, is too low; and that of batches of twenty far more
    plug_in, of_batches = torch.tensor([one.plug_in for one in found]), torch.tensor(batches)
    low = [(truth - float(each.mean())) * math.sqrt(len(found)) / float(each.std()) for each in (plug_in, of_batches)]
    assert low[1] > 3 * low[0] > 12


def test_the_entropy_is_too_low_by_what_miller_says() -> None:
    generator, space, rows = torch.Generator().manual_seed(1), CodeSpace(2, 8), 400
    entropies = []
    for _ in range(300):
        numbers = torch.randint(8, (rows, 2), generator=generator)
        entropies.append(math.log(code_usage(space, numbers).plug_in))  # the two slots are nearly alike
    low = math.log(8) - sum(entropies) / len(entropies)
    assert low == pytest.approx(7 / (2 * rows), rel=0.1)


def test_the_jackknife_leaves_out_each_example_in_turn() -> None:
    _, numbers, _ = _simulated(torch.Generator().manual_seed(2), 25)
    space = CodeSpace(3, 6)
    without = torch.tensor(
        [code_usage(space, torch.cat([numbers[:i], numbers[i + 1 :]])).plug_in for i in range(25)], dtype=torch.float64
    )
    found = code_usage(space, numbers)
    assert found.perplexity == pytest.approx(25 * found.plug_in - 24 * float(without.mean()))
    assert found.stderr == pytest.approx(math.sqrt(24 / 25 * float((without - without.mean()).square().sum())))


def test_extreme_uses() -> None:
    space = CodeSpace(2, 4)
    one = code_usage(space, torch.zeros(9, 2, dtype=torch.int64))
    assert (one.used, one.fewest, one.perplexity, one.stderr) == (2, 1, pytest.approx(1.0), pytest.approx(0.0))
    even = code_usage(space, torch.arange(4).repeat(50).unsqueeze(1).expand(-1, 2))
    assert (even.used, even.fewest, even.plug_in) == (8, 4, pytest.approx(4.0))
    single = code_usage(space, torch.tensor([[3, 1]]))
    assert (single.used, single.perplexity) == (2, pytest.approx(1.0)) and math.isnan(single.stderr)


def test_the_use_is_that_of_all_examples_together_and_not_of_batches() -> None:
    """More rows than are read at once, and in an order that makes each batch poor in codes."""
    torch.manual_seed(0)
    space = CodeSpace(2, 4)
    numbers = torch.arange(4).repeat_interleave(75).unsqueeze(1).expand(-1, 2)

    class FromFirstBits(Conditional):
        latent_support = "codes"

        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Codes:
            assert given is not None
            return Codes(20 * space.split(given[:, : space.dim]))

    x = torch.cat([space.one_hot(numbers), torch.zeros(300, 2)], 1)
    network = MLP((space.dim,), (1, 10), hidden=(4,))
    model, *_ = small_codes(2, 4)
    model.likelihood.network = network
    found = _measure(model, FromFirstBits(), _data(x), "codes", k=2, points=300)
    used, perplexity = found["codes: codes used"], found["codes: perplexity"]
    assert (used.value, used.unit, used.found["of"], used.found["fewest"]) == (8, "units", 8, 4)
    assert (perplexity.unit, perplexity.found["of"]) == ("codes", 4)
    assert perplexity.value == pytest.approx(code_usage(space, numbers).perplexity)
    assert perplexity.stderr == pytest.approx(code_usage(space, numbers).stderr)
    assert found["codes: perplexity of draws"].value == pytest.approx(perplexity.value, abs=0.05)


def test_the_standard_error_of_one_example_is_unknown() -> None:
    model, guide, x, _ = small_codes(rows=3)
    found = _measure(model, guide, _data(x), *CODE_METHODS, k=1, points=1)
    assert all(result.stderr is None for result in found.values())
    assert all(result.model_dump_json() for result in found.values())


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CODE_METHODS)
def test_a_continuous_z_is_refused(method: str) -> None:
    model, guide, x = ppca(10, 2, seed=0)
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    with pytest.raises(ElbowroomError, match=f"^{method} measures models with discrete latents, but the z of this model"
                                             " is continuous") as caught:  # fmt: skip
        _measure(model, guide, data, method)
    assert "--methods elbo,iwae,ais" in caught.value.remedy


@pytest.mark.parametrize("method", ["laplace-is", "room", "active-units"])
def test_codes_are_refused_by_what_needs_real_numbers(method: str) -> None:
    model, guide, x, _ = small_codes(rows=4)
    with pytest.raises(ElbowroomError, match=rf"^{method} needs a continuous z.*\(3 slots × 4 codes\)") as caught:
        _measure(model, guide, _data(x), method)
    assert "--methods codes" in caught.value.remedy


def test_codes_are_scored_by_draws_of_the_guide() -> None:
    model, guide, x, _ = small_codes(rows=12)
    found = score(model, guide, _data(x), split="train", method="iwae", k=300)
    rows = code_estimate(model, guide, Batch(x[found.rows]), k=300, seed=0)
    assert torch.equal(found.log_evidence, rows["log_evidence"])
    with pytest.raises(ElbowroomError, match="laplace-is needs a continuous z") as caught:
        score(model, guide, _data(x), split="train", method="laplace-is")
    assert caught.value.remedy == "Score by iwae or by ais."


def test_too_many_codes_are_refused_before_anything_is_computed() -> None:
    space = CodeSpace(16, 16)

    class Never(nn.Module):
        out_shape = (1, 10)

        def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
            raise AssertionError("decoded")

    model, guide, x, _ = small_codes(rows=4)
    model.prior, model.likelihood.network = UniformCodes(space), Never()
    with pytest.raises(ElbowroomError, match=r"^enumerate goes through every code, .* 16\^16 ≈ 1\.8e\+19 of them"):
        _measure(model, guide, _data(x), "enumerate")


def test_without_a_guide_codes_has_nothing_to_measure_and_enumerate_needs_none() -> None:
    model, _, x, _ = small_codes(prior="unigram", rows=8)
    with pytest.raises(ElbowroomError, match="codes measures a guide's codes, but this model has no guide"):
        _measure(model, PriorGuide(model.prior), _data(x), "codes")
    found = _measure(model, PriorGuide(model.prior), _data(x), "enumerate")
    assert list(found) == ["enumerate: log p(x)"]


@pytest.mark.parametrize("method", CODE_METHODS)
def test_without_a_likelihood_there_is_no_log_evidence(method: str) -> None:
    model, guide, x, _ = small_codes(rows=4)
    model.likelihood = CrossEntropy(model.likelihood.network, (10,))
    with pytest.raises(ElbowroomError, match=f"^{method} estimates log p"):
        _measure(model, guide, _data(x, "unit-interval"), method)
