"""The score of an example is its log p(x), with the error that it states; where the error does not hold, it is said."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from code_cases import MixedGuide, small_codes
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError, NotFiniteError
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.row_estimates import BATCH
from elbowroom.evaluation.scores import Scores
from elbowroom.evaluation.scoring import score
from elbowroom.inference.enumeration import enumerated
from elbowroom.inference.importance.pareto import pareto_stderr
from elbowroom.model.code_distributions import Codes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import CrossEntropy, Gaussian, Likelihood
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian, ppca
from elbowroom.model.priors import StandardNormal

METHODS = ("iwae", "laplace-is", "ais")


def _data(x: Tensor) -> DataSet:
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    return data.to(dtype=x.dtype)


def _oracle(num_data: int, *, dim: int = 6, latent_dim: int = 2) -> tuple[LinearGaussian, DiagonalNormal, Tensor]:
    return ppca(dim, latent_dim, seed=3, num_data=num_data)


def _score(model: LatentModel, guide: Conditional, x: Tensor, **settings: Any) -> Scores:
    return score(model, guide, _data(x), split="train", **settings)


def _poor(guide: DiagonalNormal, width: float, away: float) -> DiagonalNormal:
    """The oracle's guide, too narrow and off in every second dimension: it misses most of the posterior."""
    other = copy.deepcopy(guide)
    bias = other.network.get_submodule("output").bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        mean, log_variance = bias.view(2, -1).unbind(0)
        mean[::2] += away * torch.exp(0.5 * log_variance[::2])
        log_variance[::2] += 2 * math.log(width)
    return other


# --- right, or marked ----------------------------------------------------------------------------------------------


def test_score_is_the_evidence_of_every_row_in_order() -> None:
    model, _, x = _oracle(BATCH + 7)
    found = _score(model, model.exact_guide(), x, method="iwae", k=25)
    assert torch.allclose(found.log_evidence, model.log_evidence(x).detach(), atol=1e-9)
    assert found.stderr.abs().max() < 1e-6
    assert (found.log_evidence.dtype, found.log_evidence.requires_grad) == (torch.float64, False)
    assert found.rows.tolist() == list(range(len(x)))
    assert bool(found.reliable.all())


def _methods_and_sizes() -> list[Any]:
    """Every method at one size, and every size with one method; the other pairs in the slow tests."""
    quick = {*((method, (8, 3)) for method in METHODS), ("iwae", (2, 1)), ("laplace-is", (20, 5))}
    pairs = itertools.product(METHODS, [(2, 1), (8, 3), (20, 5)])
    return [pytest.param(m, *size, marks=() if (m, size) in quick else pytest.mark.slow) for m, size in pairs]


@pytest.mark.parametrize(("method", "dim", "latent_dim"), _methods_and_sizes())
def test_errors_are_as_large_as_stated(dim: int, latent_dim: int, method: Any) -> None:
    """z-scores of 250 rows have a root mean square of 1 ± 0.045 if the standard errors are right."""
    model, guide, x = _oracle(250, dim=dim, latent_dim=latent_dim)
    more = {"temperatures": 4, "k": 32} if method == "ais" else {}
    found = _score(model, guide, x, method=method, **more)
    z = ((found.log_evidence - model.log_evidence(x)) / found.stderr)[found.reliable]
    assert found.method == method
    assert found.reliable.double().mean() > (0.4 if method == "iwae" else 0.99)
    assert z.square().mean().sqrt() < 1.1
    assert z.abs().max() < 4.5


@pytest.mark.parametrize(("width", "away"), [(0.05, 0.0), (0.2, 0.0), (0.5, 3.0)])
def test_a_guide_that_misses_the_posterior_is_marked(width: float, away: float) -> None:
    """Errors of nats with a stated error of tenths: none of these rows passes for reliable."""
    model, guide, x = _oracle(120, dim=20, latent_dim=5)
    found = _score(model, _poor(guide, width, away), x, method="iwae")
    wrong = (found.log_evidence - model.log_evidence(x)).abs() > 4 * found.stderr
    assert wrong.double().mean() > 0.3
    assert not bool(found.reliable.any())
    assert bool(_score(model, _poor(guide, width, away), x, k=300).reliable.all())  # laplace-is


def test_a_guide_narrower_than_a_digit_is_marked() -> None:
    """All its draws are one point: equal weights, an effective size of k, and no error at all."""
    model, guide, x = ppca(6, 2, seed=3, num_data=20, dtype=torch.float32)
    found = _score(model, _poor(guide, 1e-12, 0.0), x, method="iwae", k=100)
    assert not bool(found.reliable.any())


def test_draws_too_few_for_a_tail_are_not_reliable() -> None:
    model, guide, x = _oracle(10)
    assert not bool(_score(model, guide, x, k=20).reliable.any())


class _Tempered(Conditional):
    """A guide over codes whose logits are multiplied."""

    latent_support = "codes"

    def __init__(self, guide: Conditional, by: float) -> None:
        super().__init__()
        self.guide, self.by = guide, by

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Codes:
        q = self.guide(given, context)
        assert isinstance(q, Codes)
        return Codes(self.by * q.logits)


def _code_scores(guide_by: float, k: int) -> tuple[Scores, Tensor]:
    """Scores of a model with 64 codes, and their errors."""
    model, _, x, _ = small_codes(rows=200)
    data = load_data(x, support="binary", validation=0.0, test=0.0)
    found = score(model, _Tempered(MixedGuide(model), guide_by), data, split="train", k=k)
    return found, found.log_evidence - enumerated(model, x[found.rows]).log_evidence.detach()


@pytest.mark.parametrize("k", [100, 1000])
def test_few_codes_whose_weights_tie_are_reliable_where_the_guide_covers_them(k: int) -> None:
    """The tail of their weights has no shape, which says nothing against them."""
    found, error = _code_scores(1.0, k)
    assert float(found.pareto_k.isnan().double().mean()) > 0.3
    assert float(found.reliable.double().mean()) > 0.8
    z = (error / found.stderr)[found.reliable]
    assert float(z.square().mean().sqrt()) < 1.1 + 4 / math.sqrt(2 * len(z))


@pytest.mark.parametrize("k", [100, 1000])
def test_a_guide_over_codes_that_is_too_sharp_is_marked(k: int) -> None:
    """It draws the same few codes again and again: many effective draws, no tail, and errors of tenths of nats."""
    found, error = _code_scores(8.0, k)
    wrong = error.abs() > torch.maximum(4 * found.stderr, torch.tensor(0.05))
    assert float(wrong.double().mean()) > 0.3
    assert float(found.ess[wrong].median()) > 50
    assert float(found.reliable[wrong].double().mean()) < 0.05  # some are missed by more than one slot


# --- which method --------------------------------------------------------------------------------------------------


class _WithoutCurvature(Gaussian):
    fisher_information = Likelihood.fisher_information


def test_auto_takes_laplace_where_the_likelihood_allows_it() -> None:
    model, guide, x = _oracle(10)
    assert _score(model, guide, x).method == "laplace-is"
    assert _score(model, PriorGuide(model.prior), x).method == "laplace-is"
    network = model.likelihood.network
    assert isinstance(network, nn.Module)
    plain = LatentModel(model.prior, _WithoutCurvature(network, (6,), scale=0.7)).double()
    assert _score(plain, guide, x).method == "iwae"
    with pytest.raises(ElbowroomError, match="needs a Fisher information"):
        _score(plain, guide, x, method="laplace-is")
    assert _score(plain, guide, x, method="ais", temperatures=4).method == "ais"


@pytest.mark.parametrize("method", METHODS)
def test_evaluate_keeps_the_same_numbers(method: Any) -> None:
    model, guide, x = _oracle(150)
    more = {"temperatures": 2} if method == "ais" else {"k": 60}
    kept: dict[str, dict[str, Tensor]] = {}
    results = evaluate(
        model, guide, _data(x), methods=[method], split="train", points=90, keep=kept.__setitem__, seed=4, **more
    )
    found = _score(model, guide, x, method=method, seed=4, points=90, **more)
    values = kept[method]
    assert torch.equal(values["row"].long(), found.rows)
    assert torch.equal(values["iwae" if method == "iwae" else "log_evidence"], found.log_evidence)
    assert torch.equal(values["stderr"], found.stderr)
    assert results[0].value == found.log_evidence.mean().item()
    if method != "ais":  # whose chains share a schedule and a generator
        every = _score(model, guide, x, method=method, seed=4, **more)
        assert torch.equal(every.log_evidence[found.rows], found.log_evidence)


def test_a_wider_proposal_mends_a_narrow_guide_and_rows_stay_apart() -> None:
    model, guide, x = _oracle(60)
    narrow, wider = _poor(guide, 0.4, 0.0), {"proposal_width": 3.0, "prior_share": 0.1}
    before = _score(model, narrow, x, method="iwae", k=1000)
    found = _score(model, narrow, x, method="iwae", k=1000, **wider)
    assert found.reliable.all() and not before.reliable.all()
    error = (found.log_evidence - model.log_evidence(x)[found.rows]).detach()
    assert (error.abs() < 5 * found.stderr).all() and float((error / found.stderr).square().mean()) < 2
    part = _score(model, narrow, x, method="iwae", k=1000, points=20, **wider)
    assert torch.equal(found.log_evidence[part.rows], part.log_evidence)
    kept: dict[str, dict[str, Tensor]] = {}
    results = evaluate(model, narrow, _data(x), methods=["iwae"], split="train", keep=kept.__setitem__, k=1000, **wider)
    assert torch.equal(kept["iwae"]["iwae"], found.log_evidence)
    assert results[0].asked == {"k": 1000, "seed": 0, **wider}


# --- a tolerance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["iwae", "laplace-is"])
def test_a_tolerance_spends_draws_where_they_are_needed(method: Any) -> None:
    model, guide, x = _oracle(100, dim=8, latent_dim=3)
    start = _score(model, guide, x, method=method, k=400)
    aim = float(start.stderr.median())
    found = _score(model, guide, x, method=method, k=400, tolerance=aim)
    enough = start.reliable & (start.stderr <= aim)
    assert 0.1 < enough.double().mean() < 0.9
    assert torch.equal(found.log_evidence[enough], start.log_evidence[enough])
    assert set(found.draws.tolist()) <= {400, 1600, 6400, 25_600}
    assert bool((found.draws[~enough] > 400).all())
    assert bool((found.stderr <= aim)[found.reliable].all())
    assert found.reliable.double().mean() > 0.99
    row = int((found.draws == 1600).nonzero()[0])
    assert found.log_evidence[row] == _score(model, guide, x, method=method, k=1600).log_evidence[row]


def test_what_no_draws_help_stays_marked_and_annealing_helps() -> None:
    model, guide, x = _oracle(8, dim=20, latent_dim=5)
    poor = _poor(guide, 0.05, 3.0)
    found = _score(model, poor, x, method="iwae", k=25, tolerance=0.1)
    assert found.draws.max() == 1600
    assert not bool(found.reliable.all())
    annealed = _score(model, poor, x, method="ais", start="guide", temperatures=4, k=16, tolerance=0.2)
    assert annealed.reliable.sum() > found.reliable.sum()


# --- what is not finite --------------------------------------------------------------------------------------------


def _far(size: float) -> tuple[LatentModel, DiagonalNormal, Tensor]:
    """A model of perceptrons in float32, and data of which rows 3 and 8 are far away."""
    torch.manual_seed(0)
    model = LatentModel(StandardNormal(2), Gaussian(MLP((2,), (1, 4), hidden=(8,)), (4,), scale=0.1))
    guide = DiagonalNormal(MLP((4,), (2, 2), hidden=(8,)), 2)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    x[3], x[8] = size, -size
    return model, guide, x


@pytest.mark.parametrize(
    ("size", "method"),
    [
        pytest.param(size, method, marks=[] if size == 3e38 or (size, method) == (1e3, "iwae") else pytest.mark.slow)
        for size in (1e3, 1e12, 3e38)
        for method in METHODS
    ],
)
def test_a_row_far_away_is_very_low_or_marked(size: float, method: Any) -> None:
    model, guide, x = _far(size)
    more = {"temperatures": 2} if method == "ais" else {"k": 50}
    found = _score(model, guide, x, method=method, **more)
    near = torch.tensor([row not in (3, 8) for row in range(12)])
    far = found.log_evidence[~near]
    assert bool((far.isnan() | (far < -1e5)).all())
    assert not bool(found.reliable[~near].any())
    assert bool(found.log_evidence[near].isfinite().all())
    if method != "ais":
        alone = _score(model, guide, x[near], method=method, **more)
        assert torch.equal(alone.log_evidence, found.log_evidence[near])


@pytest.mark.parametrize("k", [1, 50])
def test_a_mean_over_rows_that_are_not_finite_is_refused_and_they_are_named(k: int) -> None:
    model, guide, x = _far(1e30)
    for method in ("elbo", "iwae", "laplace-is", "k-curve", "ais"):
        with pytest.raises(
            NotFiniteError, match=r"2 of 12 examples \(rows 3, 8\)" if method != "ais" else "not finite"
        ):
            evaluate(model, guide, _data(x), methods=[method], split="train", k=k, starts=1, temperatures=2)
    # both remedies work
    rest = x[torch.tensor([row not in (3, 8) for row in range(12)])]
    assert math.isfinite(evaluate(model, guide, _data(rest), methods=["elbo"], split="train")[0].value)
    assert _score(model, guide, x, method="iwae").log_evidence.isfinite().sum() == 10


def test_nothing_but_rows_that_are_not_finite_is_an_error() -> None:
    model, guide, x = _far(1e30)
    with pytest.raises(NotFiniteError, match="not finite for any of the 2 examples"):
        _score(model, guide, x[[3, 8]], method="iwae")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "iwea"}, "'iwea' is not known"),
        ({"k": 0}, "k is 0"),
        ({"k": "9"}, "k is '9'"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": "0.1"}, "tolerance is '0.1'"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"points": 0}, "0 points"),
        ({"temperature": 4}, "temperature"),
        ({"proposal_width": 1.2}, r"laplace-is does not draw from the guide(.|\n)*--method iwae"),
        ({"method": "ais", "prior_share": 0.1}, "ais does not draw from the guide"),
        ({"method": "iwae", "prior_share": 1.0}, "prior_share"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    model, guide, x = _oracle(10)
    with pytest.raises(ElbowroomError, match=message):
        _score(model, guide, x, **settings)


def test_cross_entropy_has_no_score() -> None:
    torch.manual_seed(0)
    model = LatentModel(StandardNormal(2), CrossEntropy(MLP((2,), (1, 4), hidden=()), (4,)))
    with pytest.raises(ElbowroomError, match="score estimates log p"):
        _score(model, DiagonalNormal(MLP((4,), (2, 2), hidden=()), 2), torch.rand(10, 4))


# --- in full -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "latent_dim"), [(2, 1), (8, 3), (20, 5), (20, 15)])
def test_reliable_rows_are_calibrated_whatever_the_guide(dim: int, latent_dim: int) -> None:
    """Over guides from good to hopeless, rows that are called reliable have z-scores of a root mean square near 1."""
    model, guide, x = _oracle(600, dim=dim, latent_dim=latent_dim)
    exact = model.log_evidence(x)
    for width in (0.2, 0.5, 0.8, 1.0, 2.0):
        for away in (0.0, 1.0):
            found = _score(model, _poor(guide, width, away), x, method="iwae")
            z = ((found.log_evidence - exact) / found.stderr)[found.reliable]
            if len(z) > 100:
                assert z.square().mean().sqrt() < 1.1 + 4 / math.sqrt(2 * len(z)), (width, away)


def test_a_tail_is_judged_with_its_error() -> None:
    model, guide, x = _oracle(100, dim=20, latent_dim=5)
    found = _score(model, guide, x, method="iwae", k=1000)
    limit = found.pareto_k + 2 * pareto_stderr(found.pareto_k, 1000)
    assert torch.equal(found.reliable, (limit <= 0.2) & (found.ess >= 20))
    assert 0.1 < found.reliable.double().mean() < 0.9
