"""The doctor's checks against models with planted faults, each found by the right check, and against healthy ones."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor import diagnose as module
from elbowroom.evaluation.doctor.diagnose import Diagnosis, default_checks, diagnose
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.inference.objectives import elbo
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import DiagonalNormal, PriorGuide
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli, CrossEntropy, Gaussian, Likelihood, Poisson
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import LinearGaussian
from elbowroom.model.priors import StandardNormal
from elbowroom.showing.diagnosis import diagnosis_text

OWN = ("sound", "likelihood_fits", "finished", "latents_in_use", "generalises", "samples_and_means")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data_of(x: Tensor, support: str, **settings: Any) -> DataSet:
    given = {"validation": 0.0, "test": 0.4, **settings}
    data = load_data(x, support=support, **given)
    assert isinstance(data, DataSet)
    return data.to(dtype=torch.float32)


def trained(
    likelihood: Likelihood, data: DataSet, *, steps: int = 300, beta: float = 1.0, hidden: int = 64, lr: float = 1e-2
) -> DoctorInput:
    """A small encoder and decoder, some Adam steps on the training split, and the history that a run would keep."""
    torch.manual_seed(0)
    latent_dim = likelihood.network.in_shape[0]  # type: ignore[union-attr]
    guide: Conditional = DiagonalNormal(MLP(likelihood.event_shape, (2, latent_dim), hidden=(hidden,)), latent_dim)
    model = LatentModel(StandardNormal(latent_dim), likelihood)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=lr, fused=True)
    size, generator, history = data.size("train"), seeded(), []
    batch = next(iter(data.batches("train", size)))
    report = max(1, steps // 16)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / (steps + 1))
        rows = torch.randint(size, (min(size, 100),), generator=generator)
        optimizer.zero_grad()
        value = elbo(model, guide, batch.rows(rows), beta=beta, generator=generator).mean()
        (-value).backward()
        optimizer.step()
        if step % report == 0:
            history.append({"step": step, "split": "train", "elbo": float(value.detach())})
    return DoctorInput(model.eval(), guide.eval(), data, history, points=600)


def _blobs(num_data: int = 1500, dim: int = 12, noise: float = 0.3) -> Tensor:
    """Points near a curved sheet."""
    generator = seeded(5)
    z = torch.randn(num_data, 2, generator=generator)
    weight = torch.randn(2, dim, generator=generator)
    return torch.tanh(z @ weight) + noise * torch.randn(num_data, dim, generator=generator)


def _bits(num_data: int = 1500, dim: int = 24) -> Tensor:
    generator = seeded(6)
    z = torch.randn(num_data, 2, generator=generator)
    return torch.bernoulli(torch.sigmoid(2 * z @ torch.randn(2, dim, generator=generator)), generator=generator)


def _counts(num_data: int = 1500, dim: int = 12, spread: float = 0.0) -> Tensor:
    generator = seeded(7)
    z = torch.randn(num_data, 2, generator=generator)
    rate = torch.exp(0.8 + 0.3 * z @ torch.randn(2, dim, generator=generator))
    if spread:  # a gamma's worth of variation that no z explains
        rate = rate * torch._standard_gamma(torch.full_like(rate, 1 / spread), generator=generator) * spread
    return torch.poisson(rate, generator=generator)


def _decoder(dim: int, latent_dim: int = 2, parameters: int = 1) -> MLP:
    torch.manual_seed(1)
    return MLP((latent_dim,), (parameters, dim), hidden=(64,))


# --- planted faults ----------------------------------------------------------------------------------------------


def collapsed() -> DoctorInput:
    return trained(Bernoulli(_decoder(24), (24,)), data_of(_bits(), "binary"), steps=100, beta=30.0)


def deaf() -> DoctorInput:
    """A decoder that has no weights for z; the encoder speaks all the same."""
    inputs = copy.deepcopy(bernoulli())
    first = inputs.model.likelihood.network.hidden_layers[0]  # type: ignore[union-attr]
    with torch.no_grad():
        first.weight.zero_()
    return inputs


def mostly_dead() -> DoctorInput:
    likelihood = Gaussian(_decoder(12, latent_dim=10), (12,))
    return trained(likelihood, data_of(_blobs(), "reals"), steps=600)


def grey() -> DoctorInput:
    data = data_of(torch.rand(800, 24, generator=seeded()), "unit-interval")
    return trained(CrossEntropy(_decoder(24), (24,)), data, steps=100)


def at_bound() -> DoctorInput:
    """Elements that are constant, so that σ shrinks for ever."""
    inputs = copy.deepcopy(gaussian())
    with torch.no_grad():
        inputs.model.likelihood.raw_scale.fill_(-20.0)  # type: ignore[union-attr]
    return inputs


def wrong_scale() -> DoctorInput:
    """The tutorial's squared error: σ² = ½ whatever the data."""
    return trained(Gaussian(_decoder(12), (12,), scale=2.0), data_of(_blobs(), "reals"), steps=100)


def overdispersed() -> DoctorInput:
    return trained(Poisson(_decoder(12), (12,)), data_of(_counts(spread=0.4), "counts"), steps=300)


def five_steps() -> DoctorInput:
    return trained(Bernoulli(_decoder(24), (24,)), data_of(_bits(), "binary"), steps=5)


def still_rising() -> DoctorInput:
    history = [{"step": 100 * t, "split": "validation", "elbo": -100 + 0.5 * t} for t in range(1, 41)]
    return replace(bernoulli(), history=history)


def fell() -> DoctorInput:
    history = [{"step": 100 * t, "split": "validation", "elbo": -100.0 - 5 * (t > 35)} for t in range(1, 41)]
    return replace(bernoulli(), history=history)


def overfitted() -> DoctorInput:
    data = data_of(_bits(360, 60), "binary", test=300)
    return trained(Bernoulli(_decoder(60, latent_dim=8), (60,)), data, steps=250, hidden=256)


def not_a_number() -> DoctorInput:
    inputs = trained(Bernoulli(_decoder(24), (24,)), data_of(_bits(), "binary"), steps=5)
    with torch.no_grad():
        next(inputs.model.likelihood.parameters())[0, 0] = math.nan
    return inputs


def exploding() -> DoctorInput:
    """Three rows of a model's data, of both splits, are far from all others."""
    inputs = gaussian()
    x = _blobs()
    x[:30] = 100.0
    return replace(inputs, data=replace(data_of(x, "reals"), splits=inputs.data.splits))


def spiked() -> DoctorInput:
    inputs = bernoulli()
    history = [{**row, "grad_norm": 1.0 if i != 9 else 1e6} for i, row in enumerate(inputs.history)]
    return replace(inputs, history=history)


class LogVarianceAsScale(Conditional):
    """The tutorial's Pyro guide: a log-variance where a scale is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(24, 4)

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        loc, log_variance = self.network(given).chunk(2, -1)
        return Independent(Normal(loc, log_variance, validate_args=False), 1, validate_args=False)


def negative_scale() -> DoctorInput:
    torch.manual_seed(0)
    return replace(bernoulli(), guide=LogVarianceAsScale())


FAULTS: dict[str, tuple[Callable[[], DoctorInput], str, str, str]] = {
    # name -> (input, check, least severity, word of the title)
    "collapsed": (collapsed, "latents_in_use", "severe", "collapsed"),
    "deaf decoder": (deaf, "latents_in_use", "severe", "ignores z"),
    "dead units": (mostly_dead, "latents_in_use", "warning", "of 10 latents"),
    "cross-entropy on grey": (grey, "likelihood_fits", "severe", "not a log-likelihood"),
    "σ at its bound": (at_bound, "likelihood_fits", "severe", "bound"),
    "σ of a squared error": (wrong_scale, "likelihood_fits", "severe", "too large"),
    "counts that vary more": (overdispersed, "likelihood_fits", "warning", "times as large"),
    "five steps": (five_steps, "finished", "warning", "5 updates"),
    "still rising": (still_rising, "finished", "warning", "still rising"),
    "fell at the end": (fell, "finished", "warning", "fell"),
    "decoder overfitted": (overfitted, "generalises", "warning", "decoder"),
    "NaN among weights": (not_a_number, "sound", "severe", "NaN"),
    "rows that explode": (exploding, "sound", "warning", "explodes"),
    "a gradient exploded": (spiked, "sound", "warning", "Gradients"),
    "log-variance as scale": (negative_scale, "sound", "severe", "negative"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    make, check, severity, word = FAULTS[name]
    found = [finding for finding in diagnose(make(), checks=[check]).findings if word in finding.title]
    assert len(found) >= 1, name
    assert found[0].check == check
    assert found[0].severity in ("severe", severity)
    assert found[0].remedy and found[0].explanation
    assert all(math.isfinite(evidence.value) for evidence in found[0].evidence if "largest norm" not in evidence.name)


# --- healthy models ----------------------------------------------------------------------------------------------


def linear_gaussian() -> DoctorInput:
    generator = seeded(3)
    model = LinearGaussian(torch.randn(8, 2, generator=generator), torch.randn(8, generator=generator), scale=0.5)
    x = model.sample(1500, generator=generator).x
    return DoctorInput(model, model.exact_guide(), data_of(x, "reals"), points=600)


@functools.cache
def bernoulli() -> DoctorInput:
    return trained(Bernoulli(_decoder(24), (24,)), data_of(_bits(), "binary"), steps=400)


@functools.cache
def gaussian() -> DoctorInput:
    return trained(Gaussian(_decoder(12), (12,)), data_of(_blobs(), "reals"), steps=500)


def poisson() -> DoctorInput:
    return trained(Poisson(_decoder(12), (12,)), data_of(_counts(), "counts"), steps=500)


@pytest.mark.parametrize("make", [linear_gaussian, bernoulli, gaussian, poisson], ids=lambda make: make.__name__)
def test_a_healthy_model_has_neither_warning_nor_worse(make: Callable[[], DoctorInput]) -> None:
    found = diagnose(make())
    assert [(finding.check, finding.title) for finding in found.findings if finding.severity != "note"] == []
    assert found.healthy
    assert {"latents_in_use", "samples_and_means", "holes"} <= {finding.check for finding in found.findings}
    assert not found.not_examined


# --- the report --------------------------------------------------------------------------------------------------


def _finding(check: str, severity: Any) -> Finding:
    return Finding(check, severity, f"{check} is {severity}.", (), "Because.", "Do something.")


def test_the_gravest_comes_first_and_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    order = ["note", "warning", "severe", "warning"]
    checks = {f"c{i}": lambda inputs, i=i, s=s: [_finding(f"c{i}", s)] for i, s in enumerate(order)}
    monkeypatch.setattr(module, "CHECKS", checks)
    told: list[tuple[str, int, int]] = []
    found = diagnose(linear_gaussian(), announce=lambda *what: told.append(what))
    assert [finding.check for finding in found.findings] == ["c2", "c1", "c3", "c0"]
    assert not found.healthy
    assert told[0] == ("c0", 0, 4) and told[-1] == ("", 4, 4)


def test_what_does_not_apply_says_why_and_a_bug_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(inputs: DoctorInput) -> list[Finding]:
        raise ElbowroomError("There are too few data.", "Give more.")

    def breaks(inputs: DoctorInput) -> list[Finding]:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "CHECKS", {"refuses": refuses})
    assert diagnose(linear_gaussian()).not_examined == {"refuses": "There are too few data."}
    monkeypatch.setattr(module, "CHECKS", {"breaks": breaks})
    with pytest.raises(ZeroDivisionError):
        diagnose(linear_gaussian())


def test_without_sound_numbers_nothing_else_is_examined() -> None:
    inputs = not_a_number()
    found = diagnose(inputs)
    assert [finding.check for finding in found.findings] == ["sound"]
    assert set(found.not_examined) == set(default_checks(inputs.model)) - {"sound"}


@pytest.mark.parametrize("guide", [None, "prior"])
def test_a_model_without_a_guide_is_examined_as_far_as_it_goes(guide: str | None) -> None:
    inputs = linear_gaussian()
    own = None if guide is None else PriorGuide(inputs.model.prior)
    found = diagnose(replace(inputs, guide=own))
    assert found.healthy
    assert "samples_and_means" in {finding.check for finding in found.findings}


def test_masks_are_respected() -> None:
    """A σ that fits what was observed is not blamed for the fillers, which are far away."""
    inputs = gaussian()
    x = _blobs()
    x[:, :4] = math.nan
    assert diagnose(replace(inputs, data=replace(data_of(x, "reals", missing="mask"), splits=inputs.data.splits)),
                    checks=["likelihood_fits"]).findings == ()  # fmt: skip


def test_two_diagnoses_are_the_same() -> None:
    inputs = linear_gaussian()
    first, second = (diagnose(replace(inputs), checks=list(OWN)) for _ in range(2))
    assert first.findings == second.findings


def test_one_datum_is_not_enough() -> None:
    with pytest.raises(ElbowroomError, match="points is 1"):
        diagnose(replace(linear_gaussian(), points=1))


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="Did you mean 'holes'"):
        diagnose(linear_gaussian(), checks=["hole"])


def test_the_text_has_everything_and_is_narrow() -> None:
    found = diagnose(five_steps(), checks=list(OWN))
    text = diagnosis_text("runs/x", replace(found, not_examined={"holes": "Too few."}))
    assert text.startswith("runs/x: 1 warning.") or " and " in text.splitlines()[0]
    for finding in found.findings:
        assert finding.title[:40] in text
        for evidence in finding.evidence:
            assert evidence.name in text
        assert (f"Do: {finding.remedy[:20]}" in text) == (finding.severity != "note")
    assert "holes: Too few." in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_healthy_models_are_told_so() -> None:
    found = Diagnosis((_finding("a", "note"),), {}, {"a": 0.5})
    assert "found nothing wrong" in diagnosis_text("x", found)


# --- numbers that do not vary ------------------------------------------------------------------------------------


def small(x: Tensor, **settings: Any) -> DoctorInput:
    """An untrained model of a few weights, and data for every check."""
    dim = x.shape[1]
    torch.manual_seed(0)
    likelihood = Gaussian(MLP((2,), (1, dim), hidden=(4,)), (dim,))
    guide = DiagonalNormal(MLP((dim,), (2, 2), hidden=(4,)), 2)
    history = [{"step": 300, "split": "train", "elbo": -1.0, "grad_norm": 0.0, "lr": 0.0}] * 9
    data = data_of(x, "reals", **settings)
    return DoctorInput(
        LatentModel(StandardNormal(2), likelihood).eval(), guide.eval(), data, history, points=60, seed=1
    )


@torch.no_grad()
def still(part: str, scale: float = 0.0) -> DoctorInput:
    """Encoder or decoder give the same for everything."""
    inputs = small(_blobs(300, 3))
    network = inputs.model.likelihood if part == "decoder" else inputs.guide
    assert network is not None
    for weight in network.parameters():
        weight.zero_()
    if part == "encoder":
        list(network.parameters())[-1][2:] = scale
    return inputs


def same_rows() -> DoctorInput:
    return small(_blobs(1, 3).expand(300, 3).clone())


def exact_rows() -> DoctorInput:
    """Data that the decoder meets to the last digit."""
    inputs = still("decoder")
    return replace(inputs, data=replace(data_of(torch.zeros(300, 3), "reals"), splits=inputs.data.splits))


def two_points() -> DoctorInput:
    return small((torch.arange(300) % 2).float()[:, None].expand(300, 3) * 2.0 - 0.5)


def unseen_rows() -> DoctorInput:
    x = _blobs(300, 3)
    x[::2] = math.nan
    return small(x, missing="mask")


DEGENERATE: dict[str, Callable[[], DoctorInput]] = {
    "a still encoder": lambda: still("encoder"),
    "a still encoder, as narrow as it can be": lambda: still("encoder", -40.0),
    "a still decoder": lambda: still("decoder"),
    "rows that are all the same": same_rows,
    "residuals of zero": exact_rows,
    "two points": two_points,
    "rows of which nothing was observed": unseen_rows,
    "large numbers": lambda: small(1e12 * _blobs(300, 3)),
    "small numbers": lambda: small(1e-12 * _blobs(300, 3)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_no_division_by_a_spread_of_zero(name: str) -> None:
    """Each check finds something, or nothing, or says why it does not apply; none fails."""
    inputs = DEGENERATE[name]()
    found = diagnose(inputs)
    assert set(found.seconds) | set(found.not_examined) == set(default_checks(inputs.model))
    assert diagnosis_text("a model", found)
    if name == "residuals of zero":
        assert "The residuals are zero" in found.findings[0].title
