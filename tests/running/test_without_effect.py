"""A setting that nothing reads is said, and one that something reads is not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

import elbowroom
from elbowroom.errors import ElbowroomError
from elbowroom.running.build import DataFacts
from elbowroom.running.build_pair import build_pair
from elbowroom.running.config import configure, read_recipe, recipe_names
from elbowroom.running.model_config import ModelConfig, NetworkConfig
from elbowroom.running.without_effect import _MODEL, _NETWORK, without_effect
from small_runs import grey, tiny

RECIPES = Path(elbowroom.__file__).parent / "running" / "recipes"

OTHER: dict[str, Any] = {
    "group_hidden": [7],
    "slots": 3,
    "slots_per_place": 1,
    "code_levels": 2,
    "codes": 5,
    "codebook": "fsq",
    "code_dim": 3,
    "scale": 0.5,
    "mean_activation": "sigmoid",
    "degrees_of_freedom": 3.0,
    "trials": 9,
    "levels": 7,
    "cut_points": "per-element",
    "tails": "none",
    "components": 2,
    "masked_width": 3,
    "masked_kernel": 3,
    "masked_features": 2,
    "prior_components": 7,
    "prior_width": 9,
    "prior_layers": 1,
    "prior_transforms": 2,
    "prior_heads": 2,
    "guide_transforms": 2,
    "guide_width": 9,
}
GRID: dict[str, Any] = {"encoder": {"kind": "grid", "patch": 4}, "decoder": {"kind": "grid", "patch": 4}}
READERS: dict[str, dict[str, Any]] = {
    "vector": {},
    "gaussian": {"likelihood": "gaussian"},
    "student-t": {"likelihood": "student-t"},
    "logit-laplace": {"likelihood": "logit-laplace"},
    "binomial": {"likelihood": "binomial"},
    "ordinal": {"likelihood": "ordinal"},
    "mixture of logistics": {"likelihood": "discretized-logistic-mixture"},
    "mixture": {"prior": "mixture"},
    "flows": {"prior": "maf", "guide": "iaf"},
    "groups": {"groups": [4]},
    "one masked convolution": {"masked_layers": 1},
    "two masked convolutions": {"masked_layers": 2},
    "codes": {"prior": "made", "guide": "categorical"},
    "codes, the guide by itself": {"prior": "made"},
    "transformer": {"prior": "transformer", "prior_width": 16, "guide": "categorical"},
    "nearest": {"prior": "uniform", "guide": "nearest-code"},
    "grid": {"prior": "transformer", "guide": "categorical", "slots_per_place": 1, "prior_width": 16, **GRID},
}
OF_DATA = ("scale", "mean_activation", "components", "tails")
SUPPORTS = {
    "gaussian": "reals",
    "student-t": "reals",
    "logit-laplace": "unit-interval",
    "binomial": "counts",
    "ordinal": "counts",
    "mixture of logistics": "bytes",
}


def _model(model: dict[str, Any], support: str) -> Any:
    """What a model is: shapes and sums of its weights, and what its parts know of themselves."""
    facts = DataFacts(event_shape=(1, 8, 8), support=support, native_support=support, highest=5)  # type: ignore[arg-type]
    try:
        pair = build_pair(configure({"model": {"latent_dim": 4, "slots": 4, "codes": 4, **model}}), facts, seed=0)
    except ElbowroomError as refused:
        return str(refused)
    weights = {name: (tuple(value.shape), float(value.double().sum())) for name, value in pair.state_dict().items()}
    known = {
        f"{name}.{key}": str(value)
        for name, part in pair.named_modules()
        for key, value in vars(part).items()
        if not key.startswith("_") and isinstance(value, int | float | str | tuple)
    }
    return weights, known


@pytest.mark.parametrize("reader", READERS)
def test_a_setting_changes_the_model_where_it_is_read_and_only_there(reader: str) -> None:
    support = SUPPORTS.get(reader, "binary")
    plain = _model(READERS[reader], support)
    for key, value in OTHER.items():
        keys = {"model": {**READERS[reader], key: value}}
        if key in READERS[reader] or (key in OF_DATA and support == "binary"):
            continue  # with the likelihood `auto` the data decide, which a sentence before they are read cannot know
        changed = _model(keys["model"], support) != plain
        assert changed is not bool(without_effect(configure(keys), keys)), key


WIDTHS: dict[str, Any] = {
    "hidden": [5],
    "channels": [2, 3],
    "width": 6,
    "blocks": 1,
    "patch": 2,
    "norm": "weight",
    "activation": "tanh",
    "batch_norm": True,
    "linear": True,
}


@pytest.mark.parametrize("slots", [0, 1])
@pytest.mark.parametrize("kind", ["mlp", "residual", "conv", "grid", "pyramid"])
def test_a_setting_of_a_network_changes_the_kinds_that_read_it_and_no_other(kind: str, slots: int) -> None:
    if slots and kind != "grid":
        return  # refused: these have no places
    model: dict[str, Any] = {"prior": "unigram", "slots_per_place": slots} if slots else {}
    networks = {"encoder": {"kind": kind, "channels": [4]}, "decoder": {"kind": kind, "channels": [4]}}
    plain = _model({**model, **networks}, "binary")
    assert not isinstance(plain, str), plain
    for key, value in WIDTHS.items():
        keys = {"model": {**model, **{part: {**settings, key: value} for part, settings in networks.items()}}}
        changed = _model(keys["model"], "binary") != plain  # or refused, which says it, too
        said = [remark for remark in without_effect(configure(keys), keys) if f".{key.replace('_', '-')} " in remark]
        refused = isinstance(_model(keys["model"], "binary"), str)
        assert len(said) == (0 if changed and not refused else 2), (key, said)


def test_every_setting_of_a_network_is_known() -> None:
    assert set(_NETWORK) | {"kind"} == set(NetworkConfig.model_fields)


def test_every_setting_of_the_model_is_known_or_always_read() -> None:
    always = {
        "context_in",
        "groups",
        "likelihood",
        "likelihood_components",
        "masked_layers",
        "prior",
        "guide",
        "encoder",
        "decoder",
        "output_bias",
        "init_std",
    }
    assert set(_MODEL) | always == set(ModelConfig.model_fields)
    assert set(OTHER) | {"latent_dim"} == set(_MODEL)


def test_each_is_said_by_its_flag() -> None:
    keys: dict[str, Any] = {
        "model": {"masked_kernel": 3, "encoder": {"kind": "conv", "patch": 2}, "decoder": {"norm": "none"}}
    }
    assert without_effect(configure(keys), keys) == [
        "--model.masked-kernel has no effect here: "
        "it is for masked convolutions after the first (--model.masked-layers)",
        "--model.encoder.patch has no effect here: it is for networks of the kind grid",
        "--model.decoder.norm has no effect here: it is for networks of the kind pyramid",
    ]


@pytest.mark.parametrize(("likelihood", "said"), [("auto", 0), ("table", 0), ("gaussian", 1)])
def test_holes_are_for_tables(likelihood: str, said: int) -> None:
    keys = {"model": {"likelihood": likelihood}, "objective": {"holes": 0.2}}
    remarks = without_effect(configure(keys), keys)
    assert remarks == ["--objective.holes has no effect here: it is for a table likelihood"] * said


@pytest.mark.parametrize("name", recipe_names())
def test_no_recipe_sets_what_nothing_reads(name: str) -> None:
    written = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))  # without what it inherits
    assert without_effect(configure(read_recipe(name)), written) == []


def test_training_says_it_in_the_words_of_the_caller(out: Path) -> None:
    remarks: list[str] = []
    tiny(grey(), out, model={"prior_heads": 2}, announce=remarks.append)
    assert any("prior-heads has no effect here" in remark for remark in remarks)


def test_a_table_reads_a_scale_by_element_and_no_number() -> None:
    for scale, read in (("per-element", True), (0.5, False)):
        keys = {"model": {"likelihood": "table", "scale": scale}}
        assert (without_effect(configure(keys), keys) == []) == read
