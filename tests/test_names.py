"""Every name in the table of names is offered by the configuration and has an implementation, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from elbowroom.cli.evaluate import evaluate
from elbowroom.evaluation.evaluate import METHODS
from elbowroom.inference.objectives import OBJECTIVES
from elbowroom.inference.weights import ESTIMATORS
from elbowroom.model.autoregressive import PRIORS_OVER_CODES
from elbowroom.model.flows import FLOW_GUIDES, FLOW_PRIORS
from elbowroom.model.grids.priors import GRID_PRIORS
from elbowroom.model.guides import GUIDES
from elbowroom.model.hierarchy.guides import HIERARCHICAL_GUIDES
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.model.priors import PRIORS
from elbowroom.model.quantizer import GUIDES_OVER_CODES
from elbowroom.model.table.likelihood import TABLE_LIKELIHOODS
from elbowroom.names import NAMES
from elbowroom.running.build_learner import _LEARNERS
from elbowroom.running.config import Config

REGISTRIES = {
    "likelihoods": {*LIKELIHOODS, *TABLE_LIKELIHOODS},
    "priors": {*PRIORS, *FLOW_PRIORS, *PRIORS_OVER_CODES, *GRID_PRIORS},
    "guides": {*GUIDES, *FLOW_GUIDES, *HIERARCHICAL_GUIDES, *GUIDES_OVER_CODES, "exact", "none"},
    "learners": set(_LEARNERS),
    "objectives": set(OBJECTIVES),
    "estimators": set(ESTIMATORS),
    "methods": set(METHODS),
}
#: kind -> section and key of the configuration
CHOICES = {
    "likelihoods": ("model", "likelihood"),
    "priors": ("model", "prior"),
    "guides": ("model", "guide"),
    "learners": ("train", "learner"),
    "objectives": ("objective", "name"),
    "estimators": ("objective", "estimator"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_is_registered_once_and_has_its_implementation(kind: str) -> None:
    assert len(NAMES[kind]) == len(set(NAMES[kind]))
    assert set(NAMES[kind]) == REGISTRIES[kind]


@pytest.mark.parametrize("kind", CHOICES)
def test_the_configuration_offers_the_names_and_no_others(kind: str) -> None:
    section, key = CHOICES[kind]
    offered = get_args(type(getattr(Config(), section)).model_fields[key].annotation)
    assert tuple(name for name in offered if name != "auto") == NAMES[kind]


def test_the_command_line_names_every_method() -> None:
    said = set((evaluate.__doc__ or "").replace(",", " ").replace(".", " ").split())
    assert set(NAMES["methods"]) <= said


def test_the_names_load_nothing_but_the_standard_library() -> None:
    program = "import sys, elbowroom.names; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "elbowroom" in loaded
    assert not {"torch", "numpy", "pydantic"} & set(loaded)
