"""Checks of codes on a model whose posterior is known: every x shows its codes through noise, slot by slot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.codes import code_prior, codes_in_use, deterministic_bound, sharpness
from elbowroom.evaluation.doctor.diagnose import CHECKS, default_checks, diagnose
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.latents import latents_in_use
from elbowroom.model import oracles
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.codes import UnigramCodes
from elbowroom.model.conditional import Conditional
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import LatentModel
from elbowroom.model.likelihoods import Bernoulli

SPACE = CodeSpace(6, 4)
LOGIT = 1.0  # of an element that belongs to the code; its negative of the others


class Shown(nn.Module):
    """z -> logits ±LOGIT of as many elements as z has."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return (LOGIT * (2 * z - 1)).unsqueeze(-2)


class Exact(Conditional):
    """q(z | x) = p(z | x), or what ``change`` makes of its logits."""

    latent_support = "codes"

    def __init__(self, prior: UnigramCodes, scale: float = 1.0, masked: int = 0) -> None:
        super().__init__()
        self.logits, self.scale, self.masked = prior.logits.detach().clone(), scale, masked

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        assert given is not None
        logits = self.scale * (self.logits.log_softmax(-1) + 2 * LOGIT * SPACE.split(given))
        if self.masked:  # codes that are never taken
            logits[..., : self.masked] = -30.0
        return Codes(logits)


def _prior(spread: float = 0.7) -> UnigramCodes:
    prior = UnigramCodes(SPACE)
    prior.logits.data = spread * torch.randn(*SPACE, generator=torch.Generator().manual_seed(1))
    return prior


def _inputs(
    *,
    scale: float = 1.0,
    masked: int = 0,
    other: UnigramCodes | None = None,
    rows: int = 4000,
    test: float = 0.5,
) -> DoctorInput:
    """Data of an exact model; the model that is examined has another prior, where one is given."""
    prior = _prior()
    truth = LatentModel(prior, Bernoulli(Shown(), (SPACE.dim,)))
    x = truth.sample(rows, generator=torch.Generator().manual_seed(0)).x
    model = truth if other is None else LatentModel(other, truth.likelihood)
    data = load_data(x, support="binary", test=test, validation=0.0)
    return DoctorInput(model, Exact(prior, scale, masked), data, points=1000)


def _finding(found: list[Finding]) -> Finding:
    (only,) = found
    return only


def test_the_exact_guide_and_prior_give_notes_alone() -> None:
    inputs = _inputs()
    found = diagnose(inputs, checks=["sound", "latents_in_use", "codes_in_use", "code_prior", "sharpness"])
    assert found.healthy, found.findings
    assert not found.not_examined
    titles = {finding.check: finding.title for finding in found.findings}
    assert titles["codes_in_use"] == "No code is dead."
    assert titles["code_prior"] == "The prior is about as good as frequencies of single codes."
    assert "neither too sharp nor too soft" in titles["sharpness"]
    assert titles["latents_in_use"] == "All 6 slots are in use."


@pytest.mark.parametrize(("scale", "word", "best"), [(4.0, "too sharp", 4), (0.25, "too soft", 0.25)])
def test_a_guide_of_another_temperature_is_found(scale: float, word: str, best: float) -> None:
    """Its logits are those of the posterior times a factor, which is then the best temperature."""
    finding = _finding(sharpness(_inputs(scale=scale)))
    assert finding.severity == "warning"
    assert f"{word}: at {best:g} times its temperature" in finding.title
    inputs = _inputs(scale=scale)
    batch = inputs.batch("test", 500)
    assert inputs.guide is not None
    q = guide_distribution(inputs.guide, batch)
    posterior = guide_distribution(Exact(_prior()), batch)
    assert isinstance(q, Codes)
    assert isinstance(posterior, Codes)
    gain = next(
        number for number in finding.evidence if number.name == f"rise of the ELBO at {best:g} times the temperature"
    )
    exact = (q.probs * (q.logits - posterior.logits)).sum((-1, -2)).mean()  # KL(q ‖ p(z | x))
    assert gain.stderr is not None
    assert abs(gain.value - float(exact)) < 4 * gain.stderr


def test_codes_that_no_example_has_are_dead() -> None:
    none, some, most = (_finding(codes_in_use(_inputs(masked=masked))) for masked in (0, 1, 2))
    assert none.title == "No code is dead."
    assert (some.severity, some.title) == ("note", "6 of 24 codes are dead: no example has them.")
    assert (most.severity, most.title) == ("warning", "12 of 24 codes are dead: no example has them.")
    used, fewest = (number.value for number in most.evidence[:2])
    assert used <= 12  # one that is alive can be the most likely one of no example
    assert fewest <= 2


class Memorised(Conditional):
    """p(z) = the average of q(z | x) over some rows: what a prior without any restriction learns of them."""

    latent_support = "codes"

    def __init__(self, q: Codes) -> None:
        super().__init__()
        self.of_rows, self.space = Codes(q.logits.detach()), SPACE

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        return Averaged(self.of_rows)


class Averaged(Distribution):
    """Only a density, which is all that the check asks for."""

    def __init__(self, of_rows: Codes) -> None:
        super().__init__(event_shape=torch.Size((SPACE.dim,)), validate_args=False)
        self.of_rows = of_rows

    def log_prob(self, value: Tensor) -> Tensor:
        every = self.of_rows.log_prob(value.unsqueeze(-2))
        return every.logsumexp(-1) - math.log(every.shape[-1])


def test_a_prior_that_knows_the_training_codes_by_heart_overfits() -> None:
    honest = _inputs(scale=4.0, rows=800)
    assert honest.guide is not None
    training = honest.batch("train")
    q = guide_distribution(honest.guide, training)
    assert isinstance(q, Codes)
    learned = Memorised(q)
    model = LatentModel(learned, honest.model.likelihood)
    _, overfitted = code_prior(replace(honest, model=model))
    assert overfitted.severity == "warning"
    of_training, of_held_out, gap = overfitted.evidence
    for said, split in ((of_training, "train"), (of_held_out, "test")):
        z = guide_distribution(honest.guide, honest.batch(split)).sample((50,))
        cost = float(-learned(None).log_prob(z).mean())
        assert said.stderr is not None and abs(said.value - cost) < 4 * said.stderr
    assert gap.value == pytest.approx(of_held_out.value - of_training.value)
    assert f"cost {gap.value:.1f} nats less" in overfitted.title
    assert len(code_prior(honest)) == 1  # the true prior does not


def test_few_examples_do_not_make_codes_dead() -> None:
    with pytest.raises(ElbowroomError, match="30 examples are too few to say which of 4 codes"):
        codes_in_use(_inputs(rows=60))


def test_a_prior_that_is_worse_than_frequencies_is_found() -> None:
    """The gain of the frequencies is KL(q̄ ‖ p), exactly, with the frequencies of drawn codes for q̄."""
    worse = UnigramCodes(SPACE)
    worse.logits.data = 2 * torch.randn(*SPACE, generator=torch.Generator().manual_seed(5))
    finding = _finding(code_prior(_inputs(other=worse)))
    assert finding.severity == "warning"
    p, r = worse.logits.log_softmax(-1), _prior().logits.log_softmax(-1)
    exact = float((r.exp() * (r - p)).sum().detach())  # the aggregate posterior of the exact guide is the true prior
    gain = finding.evidence[-1]
    assert gain.stderr is not None
    assert abs(gain.value - exact) < 4 * gain.stderr + 0.02  # fitted to 2,000 examples
    assert f"would gain {gain.value:.1f} nats" in finding.title


def test_the_deterministic_bound_is_compared_with_log_p() -> None:
    inputs = replace(_inputs(), points=100)
    finding = _finding(deterministic_bound(inputs))
    batch = inputs.batch("test", 100)
    assert inputs.guide is not None
    q = guide_distribution(inputs.guide, batch)
    joint = inputs.model.log_joint(batch.x, q.mode).double().detach()
    exact = joint - q.log_prob(q.mode).double()  # log p(x), of any z where q is the posterior
    quoted, weighted, gap = finding.evidence
    assert quoted.value == pytest.approx(float(joint.mean()), abs=1e-4)
    assert weighted.value == pytest.approx(float(exact.mean()), abs=1e-4)  # the guide is exact: every weight is p(x)
    assert gap.value == pytest.approx(weighted.value - quoted.value)
    assert finding.severity == "note"
    assert f"at least {gap.value:.1f} nats above the deterministic bound" in finding.title


def test_a_guide_that_is_nearly_deterministic_has_no_room_that_weights_could_show() -> None:
    """All draws alike: the effective sample size is full, and only another temperature tells."""
    finding = _finding(sharpness(_inputs(scale=50.0)))
    assert finding.severity == "warning"
    ess = finding.evidence[-1]
    assert ess.value > 150


def test_slots_that_do_not_depend_on_x_are_not_in_use() -> None:
    inputs = _inputs(scale=0.0)
    finding = _finding(latents_in_use(inputs))
    assert finding.severity == "severe"
    assert finding.evidence[0].value == 0
    assert "free-bits" not in finding.remedy


def test_checks_by_the_values_of_the_latents() -> None:
    codes, (real, guide, x) = _inputs(rows=400), oracles.ppca(dim=8, latent_dim=2, seed=0, dtype=torch.float32)
    of_codes, of_real = default_checks(codes.model), default_checks(real)
    of_others = {"groups_in_use", "columns_fit"}  # of hierarchies, and of tables
    assert set(of_codes) | set(of_real) | of_others == set(CHECKS)
    assert {"sharpness", "code_prior"} <= set(of_codes) - set(of_real)
    assert {"amortisation", "calibration", "holes"} == set(of_real) - set(of_codes)
    found = diagnose(codes)
    assert set(found.seconds) == set(of_codes)
    asked = diagnose(codes, checks=["amortisation", "calibration", "holes"])
    assert set(asked.not_examined) == {"amortisation", "calibration", "holes"}
    assert all("latents of this model are codes (6 slots × 4 codes)" in why for why in asked.not_examined.values())
    data = load_data(x, support="reals", test=0.5)
    other = diagnose(
        DoctorInput(real, guide, data), checks=["codes_in_use", "sharpness", "code_prior", "deterministic_bound"]
    )
    assert len(other.not_examined) == 4
    assert all("continuous" in why for why in other.not_examined.values())


def test_without_a_guide_there_is_nothing_to_say_of_its_codes() -> None:
    inputs = replace(_inputs(rows=200), guide=None)
    for check in (codes_in_use, code_prior, sharpness, deterministic_bound):
        assert check(inputs) == []


def test_entropy_is_measured_against_its_largest_value() -> None:
    finding = _finding(sharpness(_inputs(scale=0.0)))
    (entropy,) = [number for number in finding.evidence if number.name.startswith("entropy of q")]
    assert entropy.name == f"entropy of q, of {6 * math.log(4):.1f} nats at most"
    assert entropy.value == pytest.approx(6 * math.log(4), rel=1e-5)
