"""A latent class model of a file, from the recipe through training, evaluation and resuming."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.exact_guide import ExactGuide
from elbowroom.running.config import configure, read_recipe
from elbowroom.running.runs import Run, load
from elbowroom.running.train import train
from elbowroom.showing.report.run import report_of_run
from small_runs import Silent, grey, tiny

pl = pytest.importorskip("polars")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two kinds of animals."""
    generator = torch.Generator().manual_seed(0)
    big = torch.rand(150, generator=generator) < 0.4
    mass = torch.where(big, 30.0, 4.0) + torch.randn(150, generator=generator)
    tail = torch.where(torch.rand(150, generator=generator) < torch.where(big, 0.9, 0.1), 1, 0)
    place = tmp_path_factory.mktemp("animals") / "animals.csv"
    lines = [f"{m:.3f},{['short', 'long'][t]}" for m, t in zip(mass.tolist(), tail.tolist(), strict=True)]
    lines[7] = lines[7].split(",")[0] + ","
    place.write_text("\n".join(["mass,tail", *lines]) + "\n")
    return place


def trained(file: Path, out: Path, said: list[str] | None = None, **keys: Any) -> Run:
    settings: dict[str, Any] = {
        "data": {"missing": "mask"}, "train": {"epochs": 4}, "em": {"starts": 1}, "runtime": {"device": "cpu"}
    }  # fmt: skip
    for section, values in keys.pop("settings", {}).items():
        settings[section] = {**settings.get(section, {}), **values}
    announce = (said if said is not None else []).append
    return train(str(file), config="latent-class", out=out, observers=[Silent()], announce=announce, **settings, **keys)


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    said: list[str] = []
    found = trained(file, tmp_path_factory.mktemp("run") / "a", said)
    assert any("log p(x) of the validation rows: 2 " in remark for remark in said)
    return found


def test_a_run_has_a_number_of_classes_and_its_posterior_for_a_guide(run: Run) -> None:
    classes = run.config.model.codes
    assert isinstance(classes, int) and run.model.space == (1, classes)
    assert isinstance(load(run.folder.path).guide, ExactGuide)
    rows = [row["with_prior"] for row in run.history if row["split"] == "train"]
    assert len(rows) == 4 and rows[-1] >= rows[0] - 1e-5
    encoded = run.encode(split="train")
    assert encoded.codes is not None and encoded.codes.shape == (len(run.dataset().splits["train"]), 1)


def test_its_log_p_is_exact_and_stands_beside_baselines(run: Run) -> None:
    found = {result.name: result for result in run.evaluate()}
    assert found["log p(x)"].bound == "exact"
    assert found["elbow room"].value == pytest.approx(0, abs=1e-5)
    assert found["gain over independent columns"].value > 0.5
    said = repr(report_of_run(run))
    assert "On the same rows the model is ahead of independent columns by" in said
    assert "expectation maximisation" in said
    elsewhere = run.evaluate(data=run.read(run.config.data.name, missing="mask"))
    assert {result.method for result in elsewhere} == {"enumerate"}  # other data have no training rows


def test_a_run_that_goes_on_is_one_that_never_stopped(run: Run, file: Path, tmp_path: Path) -> None:
    """The recipe's number of classes, to be found, is the one that was found."""
    shutil.copytree(run.folder.path, tmp_path / "parted")
    again = trained(file, tmp_path / "parted", resume=True, settings={"train": {"epochs": 7}})
    length = {"train": {"epochs": 7}, "model": {"codes": run.config.model.codes}}
    whole = trained(file, tmp_path / "whole", settings=length)
    assert again.step == whole.step
    for name, value in whole.pair.state_dict().items():
        assert torch.equal(again.pair.state_dict()[name], value)


def test_a_number_of_classes_is_taken_as_it_is(file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = trained(file, tmp_path / "three", said, settings={"model": {"codes": 3}})
    assert found.model.space.codes == 3 and not any("validation rows" in remark for remark in said)


def test_without_validation_rows_a_number_is_asked_for(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="but there are none") as caught:
        trained(file, tmp_path / "none", settings={"data": {"validation": 0}})
    assert "--model.codes" in caught.value.remedy
    assert not (tmp_path / "none").exists()


def test_another_learner_finds_no_number_of_classes(out: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"model\.codes is auto") as caught:
        tiny(grey(), out, model={"prior": "unigram", "codes": "auto"}, objective={"estimator": "reinmax"})
    assert "--train.learner em" in caught.value.remedy
    assert not out.exists()


def test_hidden_layers_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match="without hidden layers"):
        trained(file, tmp_path / "deep", settings={"model": {"codes": 2, "decoder": {"hidden": [3]}}})


def test_the_recipe_is_a_latent_class_model() -> None:
    config = configure(read_recipe("latent-class"))
    assert (config.model.slots, config.model.codes, config.train.learner) == (1, "auto", "em")


def test_a_mixture_of_other_data_trains(tmp_path: Path) -> None:
    model = {"prior": "unigram", "slots": 1, "codes": 3, "decoder": {"hidden": []}}
    found = train(
        (grey() > 0.5).float(), out=tmp_path / "bits", observers=[Silent()], announce=lambda remark: None,
        model=model, train={"learner": "em", "epochs": 3}, em={"starts": 1}, runtime={"device": "cpu"},
    )  # fmt: skip
    assert found.model.likelihood.name == "bernoulli"
    assert found.evaluate()[0].bound == "exact"
