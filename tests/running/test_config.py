"""One definition for keyword, flag and recipe; every fault is named, with the nearest key that exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from elbowroom.errors import ElbowroomError
from elbowroom.running.config import Config, configure, merge, nested, read_recipe, recipe_names, recipe_text


def test_what_is_given_later_wins() -> None:
    config = configure({"model": {"latent_dim": 5, "prior": "vamp"}}, {"model": {"latent_dim": 7}})
    assert (config.model.latent_dim, config.model.prior) == (7, "vamp")
    assert config.train == Config().train


def test_layers_are_left_as_they_are() -> None:
    base = {"model": {"latent_dim": 5}}
    assert merge(base, {"model": {"latent_dim": 6}}) == {"model": {"latent_dim": 6}}
    assert base == {"model": {"latent_dim": 5}}


@pytest.mark.parametrize(
    "given",
    [
        {"model__encoder__hidden": [3, 4]},
        {"model.encoder.hidden": [3, 4]},
        {"model": {"encoder": {"hidden": [3, 4]}}},
        {"model": {"encoder.hidden": [3, 4]}},
        {"model": {"encoder__hidden": [3, 4]}},
    ],
    ids=repr,
)
def test_keys_may_be_written_in_several_ways(given: dict[str, Any]) -> None:
    assert nested(given) == {"model": {"encoder": {"hidden": [3, 4]}}}
    assert configure(nested(given)).model.encoder.hidden == (3, 4)


@pytest.mark.parametrize(
    "given", ["200,100", ["200", "100"], ["200,100"], "[200, 100]", ["[200", "100]"], [200, 100], (200, 100)], ids=repr
)
def test_widths_may_come_from_a_command_line(given: Any) -> None:
    assert configure({"model": {"encoder": {"hidden": given}}}).model.encoder.hidden == (200, 100)


@pytest.mark.parametrize(
    ("keys", "problem", "remedy"),
    [
        ({"model": {"latent_dims": 3}}, r"no key 'model\.latent_dims'", "'latent_dim'"),
        ({"modle": {"latent_dim": 3}}, "no section 'modle'", "'model'"),
        ({"model": {"latent_dim": 0}}, r"model\.latent_dim is 0, but should be greater than 0", "--help"),
        ({"model": {"latent_dim": "many"}}, r"model\.latent_dim is 'many'", "--help"),
        ({"model": {"prior": "vamb"}}, r"model\.prior is 'vamb'", "'vamp'"),
        ({"optimizer": {"lr": -1.0}}, r"optimizer\.lr is -1\.0", "--help"),
        ({"train": 3}, "train is 3, but it is a section", r"\[train\]"),
        ({"train": {"ema": 1.0}}, r"train\.ema is 1\.0", "--help"),
    ],
)
def test_a_fault_names_the_key_what_was_given_and_the_remedy(keys: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError, match=problem) as caught:
        configure(keys, source="my.toml")
    assert caught.value.problem.startswith("my.toml: ")
    import re

    assert re.search(remedy, caught.value.remedy)


def test_all_faults_come_in_one_message() -> None:
    with pytest.raises(ElbowroomError) as caught:
        configure({"model": {"latent_dim": -1, "sale": 3}, "train": {"epochs": 0}})
    for key in ("model.latent_dim", "model.sale", "train.epochs"):
        assert key in caught.value.problem


def test_a_configuration_comes_back_from_json() -> None:
    config = configure({"data": {"context": "labels"}, "model": {"encoder": {"hidden": [1, 2]}, "scale": 0.5}})
    assert configure(config.model_dump(mode="json")) == config


def test_every_key_is_described() -> None:
    def sections(kind: Any) -> list[Any]:
        inner = [field.annotation for field in kind.model_fields.values() if hasattr(field.annotation, "model_fields")]
        return [kind, *(section for part in inner for section in sections(part))]

    for section in sections(Config):
        for name, field in section.model_fields.items():
            assert field.description or hasattr(field.annotation, "model_fields"), f"{section.__name__}.{name}"


# --- recipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration_and_says_what_it_is_for(name: str) -> None:
    config = configure(read_recipe(name), source=name)
    assert configure(config.model_dump(mode="json")) == config
    assert recipe_text(name).startswith("# ")


def test_a_recipe_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="no recipe 'mnits'") as caught:
        read_recipe("mnits")
    assert "'mnist'" in caught.value.remedy
    with pytest.raises(ElbowroomError, match="no recipe file"):
        read_recipe(tmp_path / "mine.toml")


@pytest.mark.parametrize("content", [b"[model\nlatent_dim = 3", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ElbowroomError, match="is not a TOML file"):
        read_recipe(tmp_path / "mine.toml")


# --- recipes that extend others ----------------------------------------------------------------------------------


def test_a_recipe_is_laid_over_the_one_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('extends = "digits"\n[model]\nlatent_dim = 5\nencoder = { hidden = [7] }\n')
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "base.toml"\n[model]\nencoder = { activation = "tanh" }\n')
    keys = read_recipe(mine)
    digits = read_recipe("digits")
    assert keys["data"] == digits["data"]
    assert keys["model"]["latent_dim"] == 5
    assert keys["model"]["encoder"] == digits["model"].get("encoder", {}) | {"hidden": [7], "activation": "tanh"}
    assert "extends" not in keys
    assert configure(keys).model.latent_dim == 5


def test_recipes_that_extend_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ElbowroomError, match="in a circle"):
        read_recipe(tmp_path / "a.toml")


def test_a_circle_is_seen_whatever_the_road(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.toml").write_text('extends = "sub/../a.toml"\n')
    with pytest.raises(ElbowroomError, match="in a circle"):
        read_recipe(tmp_path / "a.toml")


def test_what_extends_has_to_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("extends = 3\n")
    with pytest.raises(ElbowroomError, match="extends is 3, but should be the name"):
        read_recipe(tmp_path / "a.toml")


def test_a_recipe_that_extends_what_is_not_there_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "digitz"\n')
    with pytest.raises(ElbowroomError, match="no recipe 'digitz'"):
        read_recipe(tmp_path / "a.toml")
    (tmp_path / "b.toml").write_text('extends = "nowhere.toml"\n')
    with pytest.raises(ElbowroomError, match=r"nowhere\.toml"):
        read_recipe(tmp_path / "b.toml")


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("aevb-fig")])
def test_the_papers_recipes_hold_one_setting_but_for_what_their_name_says(name: str) -> None:
    match = re.fullmatch(r"aevb-fig([23])-(?:nz(\d+)|n(\d+))(?:-(.+))?", name)
    assert match is not None
    figure, latents, size, variant = match.groups()
    config = configure(read_recipe(name))
    assert config.model.latent_dim == int(latents or 3)
    assert config.data.train == (int(size) if size else None)
    width = 500 if figure == "2" else 100
    assert config.model.encoder.hidden == config.model.decoder.hidden == (width,)
    assert config.model.encoder.activation == config.model.decoder.activation == "tanh"
    learner = (variant or "aevb").removesuffix("-modern").replace("modern", "aevb")
    assert config.train.learner == learner
    modern = "modern" in (variant or "")
    assert config.optimizer.name == ("adam" if modern else "adagrad")
    num_data = int(size or 60_000)
    assert config.optimizer.weight_decay == pytest.approx(0.0 if modern else 1 / num_data, rel=0.01)
    assert (config.data.binarization, config.train.batch_size, config.optimizer.schedule) == ("static", 100, "constant")
