"""Figures are held against linear-Gaussian models, whose evidence, posterior and ELBO are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from code_cases import small_codes
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.evaluate import METHODS, evaluate
from elbowroom.evaluation.results import Result
from elbowroom.evaluation.scoring import score
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, InputTransform, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    NegativeBinomial,
)
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.numerics import mean_and_stderr
from evaluation_cases import LATENT, data_of, exact_elbo, measure, oracle

# --- right -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 7])
def test_the_elbo_is_the_exact_one(num_samples: int) -> None:
    """Per-datum noise is what remains after the exact value of every datum is taken out, so this z-score is sharp."""
    model, guide, x = oracle()
    found = measure(model, guide, data_of(x), "elbo", num_samples=num_samples)
    exact = exact_elbo(model, guide, x)
    noise = torch.stack([_noise_of_one_draw(model, guide, x, seed) for seed in range(20)]).std(0).square()
    stderr = math.sqrt((noise / num_samples).sum().item()) / len(x)
    assert abs(found["elbo"].value - exact.mean().item()) < 4 * stderr
    divergence = kl_divergence(guide(x), Independent(Normal(torch.zeros(LATENT).double(), 1.0), 1)).mean().item()
    assert found["kl"].value == pytest.approx(divergence)
    assert found["elbo"].value == pytest.approx(found["reconstruction"].value - found["kl"].value)


def _noise_of_one_draw(model: LinearGaussian, guide: Conditional, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return model.log_likelihood(x, guide(x).sample()).detach()


def test_bounds_are_ordered_and_the_room_is_their_difference() -> None:
    model, guide, x = oracle()
    found = measure(model, guide, data_of(x), "elbo", "iwae", k=200)
    evidence = model.log_evidence(x).mean().item()
    assert found["elbo"].value < found["iwae"].value
    # a bound, so below but for noise; over 200 draws its bias is far below the noise
    found_alone = score(model, guide, data_of(x), split="train", method="iwae", k=200)
    noise = found_alone.stderr.square().sum().sqrt().item() / len(x)
    assert abs(found["iwae"].value - evidence) < 4 * noise
    assert found["elbow room"].value == pytest.approx(found["iwae"].value - found["elbo"].value)


def test_with_the_exact_posterior_there_is_no_room() -> None:
    model, _, x = oracle()
    found = measure(model, model.exact_guide(), data_of(x), "iwae", k=3)
    assert found["iwae"].value == pytest.approx(model.log_evidence(x).mean().item(), abs=1e-9)
    assert found["iwae"].found["median_ess"] == pytest.approx(3)


@pytest.mark.parametrize("name", ["elbo", "iwae"])
def test_standard_errors_are_calibrated(name: str) -> None:
    """Over fresh data and draws — of one seed, which must not tie them — (value − truth) / stderr has variance 1."""
    model, guide, _ = oracle()
    truth_model = model.log_evidence if name == "iwae" else lambda x: exact_elbo(model, guide, x)
    with torch.no_grad():
        everything = model.sample(100_000, generator=torch.Generator().manual_seed(0)).x
        truth = truth_model(everything).mean().item()
        scores = []
        for seed in range(1, 101):
            x = model.sample(60, generator=torch.Generator().manual_seed(seed)).x
            found = measure(model, guide, data_of(x), name, seed=seed, **({"k": 100} if name == "iwae" else {}))[name]
            assert found.stderr is not None
            scores.append((found.value - truth) / found.stderr)
    z = torch.tensor(scores)
    assert abs(z.mean().item()) * math.sqrt(len(z)) < 4
    # the variance of n normal z-scores has standard error √(2 / n)
    assert abs(z.var().item() - 1) < 4 * math.sqrt(2 / len(z)) + 0.05


def test_the_standard_error_is_that_of_the_mean_over_data() -> None:
    model, _, x = oracle()
    found = measure(model, model.exact_guide(), data_of(x), "iwae", k=2)["iwae"]
    value, stderr = mean_and_stderr(model.log_evidence(x))
    assert (found.value, found.stderr) == (pytest.approx(value), pytest.approx(stderr))


def test_equal_rows_do_not_make_the_mean_more_certain_than_one_of_them() -> None:
    """They have equal draws: a row that is there sixty times has the noise of one."""
    model, guide, x = oracle(2)
    copies = x[:1].expand(60, -1)
    for method in ("iwae", "laplace-is"):
        found = measure(model, guide, data_of(copies), method, k=40)[method]
        alone = score(model, guide, data_of(x), split="train", method=method, k=40)
        assert found.value == pytest.approx(alone.log_evidence[0].item())
        assert found.stderr == pytest.approx(math.sqrt(59 / 60) * alone.stderr[0].item())


@pytest.mark.parametrize("size", [257, 400])
def test_a_smaller_last_batch_weighs_what_it_is(size: int) -> None:
    """iwae reads 256 data at a time; every datum counts once."""
    model, _, x = oracle(num_data=size)
    x[-1] += 10  # what a wrong weight would show
    found = measure(model, model.exact_guide(), data_of(x), "iwae", k=1)["iwae"]
    assert found.value == pytest.approx(model.log_evidence(x).mean().item(), rel=1e-10)
    assert found.points == size


def test_laplace_is_needs_no_guide() -> None:
    """The figure is log p(x) where the guide knows nothing of the posterior, and iwae from that guide is far below."""
    model, _, x = oracle()
    found = measure(model, PriorGuide(model.prior), data_of(x), "iwae", "laplace-is", k=100)
    evidence = model.log_evidence(x).mean().item()
    assert found["laplace-is"].value == pytest.approx(evidence, abs=0.02)
    assert found["iwae"].value < evidence - 0.1
    told = found["laplace-is"].found
    assert told["median_ess"] > 60 > 10 > found["iwae"].found["median_ess"]
    assert (told["low_ess"], told["num_modes"], told["unconverged"]) == (0.0, 1.0, 0.0)
    steps = told["evaluations"] - 100 - 4 * (1 + LATENT / 2)  # a gradient and a curvature at each of four starts
    refining = 3 * 8 + 2 * 4 * LATENT / 2
    assert 0 < steps - refining <= 4 * (2 + LATENT / 2)  # and a single Newton step from there at most
    assert "elbow room" not in found  # nothing guessed a posterior


def test_without_a_guide_there_are_no_active_units() -> None:
    model, _, x = oracle(20)
    with pytest.raises(ElbowroomError, match="has no guide") as caught:
        measure(model, PriorGuide(model.prior), data_of(x), "active-units")
    assert "laplace-is" in caught.value.remedy


def test_laplace_is_looks_at_the_guide_for_its_first_start_alone() -> None:
    model, guide, x = oracle(60)
    values = [
        measure(model, start, data_of(x), "laplace-is", k=2000)["laplace-is"].value
        for start in (guide, PriorGuide(model.prior))
    ]
    assert values[0] == pytest.approx(values[1], abs=0.01)


def test_starved_data_are_counted() -> None:
    """x = (z², z): where z itself was not observed, a tenth of the data, one climb misses a second mode."""

    class SquareAndSelf(nn.Module):
        def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.cat([z.square(), z], -1).unsqueeze(-2)

    model = LatentModel(StandardNormal(1), Gaussian(SquareAndSelf(), (2,), scale=0.05)).double()
    x = torch.ones(20, 2, dtype=torch.float64)
    x[:2, 1] = math.nan
    data = data_of(x, missing="mask")
    guide = _Chosen([1.0])
    found = measure(model, guide, data, "laplace-is", k=2000, starts=1)["laplace-is"]
    assert found.found["low_ess"] == pytest.approx(0.1)
    found = measure(model, guide, data, "laplace-is", k=2000, starts=12)["laplace-is"]
    assert found.found["low_ess"] == 0.0
    assert found.found["num_modes"] == pytest.approx(1.1)


def test_what_was_found_is_told_from_what_was_asked() -> None:
    """Results replace each other by what was asked, which a second run of another model shares."""
    asked = []
    for seed in (3, 4):
        model, guide, x = oracle(30, seed=seed)
        for method in ("iwae", "laplace-is"):
            result = measure(model, guide, data_of(x), method, k=20)[method]
            asked.append((result.method, result.asked))
            assert "median_ess" in result.found
    assert asked[:2] == asked[2:]
    assert asked[0] == ("iwae", {"k": 20, "seed": 0})
    assert asked[1] == ("laplace-is", {"k": 20, "starts": 4, "seed": 0})


# samples needs two splits and baselines a table: see their own tests
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("samples", "baselines")])
def test_what_was_asked_can_be_asked_again(method: str) -> None:
    """A result says what it depends on, completely: the same keywords give the same figure."""
    model: LatentModel
    if method in ("codes", "enumerate"):
        model, guide, x, _ = small_codes(rows=20)
        data = load_data(x, support="binary", validation=0.0, test=0.0)
    else:
        model, guide, x = oracle(20)
        data = data_of(x)
    few = {"ais": {"temperatures": 4, "chains": 3}, "bdmc": {"temperatures": 4, "chains": 3}}.get(method, {})
    given = {"points": 12, "simulated": 12, "k": 30, "starts": 2, "num_samples": 3, "seed": 5, **few}
    first = evaluate(model, guide, data, split="train", methods=[method], **given)
    assert {result.method for result in first} == {method}
    repeated: dict[str, list[Result]] = {}
    for result in first:
        told = {"points": 12, "simulated": 12, **result.asked}
        if (key := repr(told)) not in repeated:
            repeated[key] = evaluate(model, guide, data, split="train", methods=[method], **told)
        again = repeated[key]
        same = next(other for other in again if (other.name, other.asked) == (result.name, result.asked))
        assert same.value == result.value


def test_draws_are_the_methods_own_unless_given() -> None:
    model, guide, x = oracle(3)
    found = measure(model, guide, data_of(x), "iwae", "laplace-is")
    assert (found["iwae"].asked["k"], found["laplace-is"].asked["k"]) == (5000, 100)
    found = measure(model, guide, data_of(x), "iwae", "laplace-is", k=7, starts=2)
    assert (found["iwae"].asked["k"], found["laplace-is"].asked["k"]) == (7, 7)
    assert found["laplace-is"].asked["starts"] == 2


def test_the_standard_error_of_one_datum_is_unknown() -> None:
    model, guide, x = oracle(30)
    found = measure(model, guide, data_of(x), "elbo", "iwae", k=2, points=1)
    assert [found[name].stderr for name in ("elbo", "iwae", "elbow room")] == [None, None, None]
    assert found["elbo"].model_dump_json()


def test_missing_elements_are_summed_out() -> None:
    model, _, x = oracle(num_data=80)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.7
    mask[:, 0] = True
    data = data_of(torch.where(mask, x, math.nan), missing="mask")

    class Exact(Conditional):
        """The posterior given what was observed; rows are told apart by their values."""

        def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
            assert given is not None
            rows = [int((given[i, 0] == x[:, 0]).nonzero()) for i in range(len(given))]
            return model.posterior(x[rows], mask[rows])

    exact = model.log_evidence(x, mask).mean().item()
    assert measure(model, Exact(), data, "iwae", k=1)["iwae"].value == pytest.approx(exact, rel=1e-9)
    assert measure(model, Exact(), data, "laplace-is")["laplace-is"].value == pytest.approx(exact, abs=0.03)


# --- the rest of the methods -------------------------------------------------------------------------------------


class _Chosen(Conditional):
    """A guide whose mean is a chosen multiple of the first element of x."""

    def __init__(self, slopes: list[float]) -> None:
        super().__init__()
        self.slopes = torch.tensor(slopes).double()

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        mean = given[:, :1] * self.slopes
        return Independent(Normal(mean, torch.ones_like(mean)), 1)


def test_active_units_are_those_whose_mean_has_variance_above_a_hundredth() -> None:
    """x₀ has variance 1 exactly, so a slope of 0.1 ± a little is on either side of the threshold."""
    x = torch.zeros(50, 2, dtype=torch.float64)
    x[:, 0] = torch.randn(50, generator=torch.Generator().manual_seed(0))
    x[:, 0] = (x[:, 0] - x[:, 0].mean()) / x[:, 0].std()
    guide = _Chosen([0.0, 0.0999, 0.1001, -0.2, 3.0, -0.05])
    model = LinearGaussian(torch.zeros(2, 6).double(), torch.zeros(2).double(), 1.0)
    found = measure(model, guide, data_of(x), "active-units")["active units"]
    assert (found.value, found.found["of"], found.unit, found.stderr) == (3, 6, "units", None)
    with pytest.raises(ElbowroomError, match=r"there is one example[\s\S]*--methods elbo,iwae"):
        measure(model, guide, data_of(x), "active-units", points=1)


def _bytes(num_data: int) -> tuple[LatentModel, DiagonalNormal, Tensor]:
    """A model of bytes of shape (2, 3), and data."""
    torch.manual_seed(0)
    shape = (2, 3)
    likelihood = DiscretizedLogisticMixture(
        MLP((2,), DiscretizedLogisticMixture.parameter_shape(shape, components=2), hidden=()), shape, components=2
    )
    model = LatentModel(StandardNormal(2), likelihood)
    guide = DiagonalNormal(MLP(shape, (2, 2), hidden=()), 2, InputTransform(Support.BYTES, shape))
    x = torch.randint(0, 256, (num_data, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return model, guide, x


def test_bits_per_dimension_are_exact() -> None:
    model, guide, x = _bytes(40)
    data = load_data(x, validation=0, test=0.0, support="bytes")
    found = measure(model, guide, data, "elbo", "iwae", "laplace-is", k=10)
    for name in ("elbo", "iwae", "laplace-is"):
        nats, bits = found[name], found[f"{name}, bits per dimension"]
        assert bits.value == pytest.approx(-nats.value / (6 * math.log(2)))
        assert nats.stderr is not None
        assert bits.stderr == pytest.approx(nats.stderr / (6 * math.log(2)))
        assert (nats.bound, nats.unit, bits.bound, bits.unit) == ("lower", "nats", "upper", "bits/dim")


@pytest.mark.parametrize("method", ["iwae", "laplace-is"])
def test_errors_count_the_noise_that_equal_rows_share(method: str) -> None:
    model, guide, x = _bytes(1)
    data = load_data(x.expand(6, -1, -1), validation=0, test=0.0, support="bytes")
    kept: dict[str, dict[str, Tensor]] = {}
    found = measure(model, guide, data, method, k=10, keep=kept.__setitem__)
    of_one = float(kept[method]["stderr"][0]) * math.sqrt(5 / 6)  # the rest is counted by a spread, here 0
    assert found[method].stderr == pytest.approx(of_one)
    assert found[f"{method}, bits per dimension"].stderr == pytest.approx(of_one / (6 * math.log(2)))
    if method == "iwae":
        room = found["elbow room"].stderr
        assert room is not None and room >= of_one


@pytest.mark.parametrize("num_samples", [1, 4])
def test_errors_of_the_elbo_count_the_noise_that_equal_rows_share(num_samples: int) -> None:
    """They share their draws, and the noise of a bound of one draw is estimated by another."""
    model, guide, x = oracle(1)
    data, asked = data_of(x.expand(6, -1)), {"num_samples": num_samples}
    found = [measure(model, guide, data, "elbo", seed=seed, **asked) for seed in range(150)]
    for name in ("elbo", "reconstruction"):
        values = torch.tensor([each[name].value for each in found], dtype=torch.float64)
        variances = torch.tensor([each[name].stderr or 0.0 for each in found], dtype=torch.float64).square()
        ratio = float(variances.mean() * 6 / 5 / values.var())  # the rest is counted by a spread, here 0
        assert abs(ratio - 1) < 4 * math.sqrt(4 / len(found))
    assert found[0]["kl"].stderr == 0  # in closed form
    room = measure(model, guide, data, "iwae", k=2000, **asked)["elbow room"].stderr
    assert room == pytest.approx(found[0]["elbo"].stderr, rel=0.2)


def test_rows_that_differ_have_no_noise_in_common() -> None:
    model, guide, x = oracle(200)
    kept: dict[str, dict[str, Tensor]] = {}
    found = measure(model, guide, data_of(x), "elbo", keep=kept.__setitem__)
    assert found["elbo"].stderr == pytest.approx(float(kept["elbo"]["elbo"].std()) / math.sqrt(200))


def _per_row(data: DataSet, method: str, points: int | None = None) -> dict[int, dict[str, float]]:
    """Values of every row by its position."""
    model, guide, _ = oracle()
    kept: dict[str, dict[str, Tensor]] = {}
    measure(model, guide, data, method, k=30, points=points, keep=kept.__setitem__)
    columns = kept[method]
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {int(row[0]): dict(zip(columns, row, strict=True)) for row in rows}


ROW_METHODS = ["elbo", "iwae", "laplace-is", "k-curve", "room"]


@pytest.mark.parametrize("method", ROW_METHODS)
def test_a_row_has_the_same_values_among_fifty_and_among_two_hundred(method: str) -> None:
    _, _, x = oracle(200)
    data = data_of(x)
    some, every = _per_row(data, method, points=50), _per_row(data, method, points=200)
    assert len(some) == 50
    assert {row: every[row] for row in some} == some


@pytest.mark.parametrize("method", [name for name in ROW_METHODS if name != "k-curve"])  # whose first bound is one draw
def test_a_row_has_the_same_values_in_another_place(method: str) -> None:
    _, _, x = oracle(200)
    rows = [150, 3, 77]
    every, moved = _per_row(data_of(x), method, points=200), _per_row(data_of(x[rows]), method)
    assert [{**every[row], "row": at} for at, row in enumerate(rows)] == [moved[at] for at in range(3)]


def test_bits_per_dimension_count_what_was_observed() -> None:
    torch.manual_seed(0)
    model = LatentModel(StandardNormal(2), NegativeBinomial(MLP((2,), (1, 6), hidden=()), (6,)))
    guide = DiagonalNormal(MLP((6,), (2, 2), hidden=()), 2, InputTransform(Support.COUNTS, (6,)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 9, (40, 6), generator=generator).float()
    x[torch.rand(40, 6, generator=generator) < 0.3] = math.nan
    observed = x.isfinite().sum(1).double()
    assert observed.unique().numel() > 1
    data = load_data(x, validation=0, test=0.0, support="counts", missing="mask")
    found = measure(model, guide, data, "elbo", "iwae", "laplace-is", k=10)
    for name in ("elbo", "iwae", "laplace-is"):
        nats, bits = found[name], found[f"{name}, bits per dimension"]
        assert bits.value == pytest.approx(-nats.value * 40 / (observed.sum().item() * math.log(2)))
        assert bits.stderr is not None


def test_the_error_of_bits_per_dimension_is_that_of_a_ratio() -> None:
    """A bound that is the same for every element observed is known without error, however many were observed."""
    torch.manual_seed(0)
    network = MLP((2,), Categorical.parameter_shape((6,), num_categories=4), hidden=())
    model = LatentModel(StandardNormal(2), Categorical(network, (6,), num_categories=4))
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    transform = InputTransform(Support.CATEGORIES, (6,), num_categories=4)
    encoder = MLP(transform.out_shape, (2, 2), hidden=())
    for parameter in encoder.parameters():
        torch.nn.init.zeros_(parameter)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (40, 6), generator=generator).float()
    x[torch.rand(40, 6, generator=generator) < 0.3] = math.nan
    data = load_data(x, validation=0, test=0.0, support="categories", num_categories=4, missing="mask")
    bits = measure(model, DiagonalNormal(encoder, 2, transform), data, "elbo")["elbo, bits per dimension"]
    assert bits.value == pytest.approx(2.0, rel=1e-5)
    assert bits.stderr == pytest.approx(0.0, abs=1e-5)


def test_binary_data_have_no_bits_per_dimension() -> None:
    model = LatentModel(StandardNormal(2), Bernoulli(MLP((2,), (1, 6), hidden=()), (6,)))
    data = load_data(torch.eye(6), validation=0, test=0.0, support="binary")
    guide = DiagonalNormal(MLP((6,), (2, 2), hidden=()), 2)
    assert not [name for name in measure(model, guide, data, "elbo", "iwae", k=2) if "bits" in name]


def test_data_that_are_no_integers_have_no_bits_per_dimension() -> None:
    model, guide, x = oracle(20)
    assert not [name for name in measure(model, guide, data_of(x), "elbo", "iwae", k=2) if "bits" in name]


def test_a_result_carries_its_meaning() -> None:
    model, guide, x = oracle(30)
    data = data_of(x)
    found = measure(model, guide, data, "elbo", points=20, num_samples=2, seed=9)["elbo"]
    assert (found.points, found.split, found.bound, found.unit) == (20, "train", "lower", "nats")
    assert (found.method, found.asked, found.found) == ("elbo", {"num_samples": 2, "seed": 9}, {})
    assert found.protocol == data.protocol()
    assert set(found.model_dump()) == {
        "name", "method", "value", "stderr", "unit", "points", "split", "bound", "asked", "found", "protocol"
    }  # fmt: skip


def test_progress_is_announced_to_the_last_datum() -> None:
    model, guide, x = oracle(300)
    told: list[tuple[str, int, int]] = []
    evaluate(
        model, guide, data_of(x), methods=["iwae"], split="train", k=2, announce=lambda *progress: told.append(progress)
    )
    assert [event for event in told if event[0] == "iwae"] == [("iwae", done, 300) for done in (256, 300)]
