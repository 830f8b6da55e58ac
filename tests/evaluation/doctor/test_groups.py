"""Groups of a hierarchy: what each carries is known exactly, and a group that is planted asleep is found."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import level_cases
from elbowroom.data.loading import load_data
from elbowroom.evaluation.doctor.diagnose import default_checks, diagnose
from elbowroom.evaluation.doctor.groups import groups_in_use
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.model import oracles
from elbowroom.model.hierarchy.oracles import LinearHierarchy


def _inputs(name: str = "top-down", asleep: int | None = None) -> DoctorInput:
    model = LinearHierarchy((1, 1), dim=6, seed=0)
    with torch.no_grad():
        conditional, decoder = model.ladder.conditionals[0].output, model.ladder.decoder.output
        if asleep == 1:  # z_2 does not depend on z_1
            conditional.weight[0] = 0.0
        if asleep == 2:  # z_2 is z_1 with hardly any noise
            conditional.bias[1] = -5.0
        if asleep == 12:
            decoder.weight.zero_()
    x = model.sample(600, generator=torch.Generator().manual_seed(0)).x
    data = load_data(x, support="reals", validation=0.0, test=0.5).to(dtype=torch.float64)
    guide = model.top_down_guide() if name == "top-down" else model.bottom_up_guide()
    return DoctorInput(model, guide, data, points=300)


@pytest.mark.parametrize("name", ["top-down", "bottom-up"])
@pytest.mark.parametrize("asleep", [None, 1, 2])
def test_a_group_that_sleeps_is_found(name: str, asleep: int | None) -> None:
    (finding,) = groups_in_use(_inputs(name, asleep))
    assert finding.severity == ("note" if asleep is None else "warning")
    if asleep is None:
        assert finding.title == "All 2 groups of the hierarchy carry information about x."
    else:
        assert finding.title == f"Group {asleep} of 2 sleeps: it carries no information about x."
        assert "--objective.free-bits" in finding.remedy


def test_where_no_group_is_awake_the_collapse_is_found_elsewhere() -> None:
    (finding,) = groups_in_use(_inputs(asleep=12))
    assert finding.severity == "note"
    assert "latents_in_use" in finding.remedy


def test_divergences_are_the_exact_ones() -> None:
    inputs = _inputs()
    (finding,) = groups_in_use(inputs)
    found = {evidence.name: evidence for evidence in finding.evidence}
    batch = inputs.batch(inputs.held_out())
    posterior = inputs.model.posterior(batch.x)
    top = Normal(posterior.mean[:, 0], posterior.variance[:, 0].sqrt())
    exact = kl_divergence(top, Normal(0.0, 1.0)).mean().item()
    evidence = found["KL of group 1, 1 latent"]
    assert abs(evidence.value - exact) < 1e-6
    standard = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    total = kl_divergence(posterior, standard).mean().item()
    below = found["KL of group 2, 1 latent"]
    assert below.stderr is not None
    assert abs(evidence.value + below.value - total) < 4 * below.stderr


def test_only_hierarchies_are_asked_for_groups() -> None:
    assert "groups_in_use" in default_checks(_inputs().model)
    model, guide, _ = oracles.ppca(dim=6, latent_dim=2, seed=0)
    assert "groups_in_use" not in default_checks(model)
    inputs = _inputs()
    assert groups_in_use(DoctorInput(model, guide, inputs.data, points=300)) == []
    diagnosis = diagnose(inputs, checks=["sound", "groups_in_use"])
    assert "groups_in_use" in {finding.check for finding in diagnosis.findings}


@pytest.mark.parametrize("asleep", [None, 1, 2, 12])
def test_a_level_of_codes_that_sleeps_is_found(asleep: int | None) -> None:
    """Of it q(z | x) is the prior: both uniform."""
    case = level_cases.case(prior="unigram", rows=2)
    with torch.no_grad():
        case.model.prior.logits.zero_()
        for level in (0, 1):
            if str(level + 1) in str(asleep):
                for weight in case.guide.recognition.outputs[level].parameters():
                    weight.zero_()
    x = torch.bernoulli(torch.full((600, *level_cases.SHAPE), 0.5), generator=torch.Generator().manual_seed(0))
    data = load_data(x, support="binary", validation=0.0, test=0.5).to(dtype=torch.float64)
    assert "groups_in_use" in default_checks(case.model)
    (finding,) = groups_in_use(DoctorInput(case.model, case.guide, data, points=300))
    assert finding.severity == ("note" if asleep in (None, 12) else "warning")
    if asleep is None:
        assert finding.title == "All 2 levels of codes carry information about x."
        assert "KL of level 2, 4 slots" in {evidence.name for evidence in finding.evidence}
    elif asleep != 12:
        assert finding.title == f"Level {asleep} of 2 sleeps: it carries no information about x."
        assert "--model.code-levels" in finding.remedy
