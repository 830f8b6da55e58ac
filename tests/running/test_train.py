"""From what a user names or holds in the hand to a finished run, and all that can be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from elbowroom.errors import ElbowroomError
from elbowroom.running.config import configure
from elbowroom.running.folder import RunFolder
from elbowroom.running.observers import Silent
from elbowroom.running.runs import load
from elbowroom.running.train import resolve, train
from small_runs import TINY, Quits, everything, grey, reals, tiny

FEW = {"steps": 3, "batch_size": 10}


class Stream(IterableDataset[Tensor]):
    """The rows of a tensor, one by one."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x)


# --- what is named -----------------------------------------------------------------------------------------------


def _resolved(source: Any, **settings: Any) -> tuple[str, Any]:
    request = resolve(source, settings.pop("keys", {}), **settings)
    return request.name, configure(*request.layers)


def test_a_name_that_is_both_is_the_recipes() -> None:
    name, config = _resolved("digits")
    assert (name, config.data.name, config.data.binarization) == ("digits", "digits", "dynamic")


def test_a_built_in_data_set_without_a_recipe_is_itself() -> None:
    name, config = _resolved("fashion-mnist")
    assert (name, config.data.name, config.model) == ("fashion-mnist", "fashion-mnist", configure().model)


def test_a_path_is_named_after_its_file(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", reals().numpy())
    name, config = _resolved(tmp_path / "mine.npy")
    assert (name, config.data.name) == ("mine", str(tmp_path / "mine.npy"))


def test_a_recipe_file_lies_under_the_config_and_that_under_the_flags(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[model]\nlatent_dim = 3\n[train]\nseed = 4\n[optimizer]\nlr = 0.5")
    (tmp_path / "over.toml").write_text("[model]\nlatent_dim = 5\n[train]\nseed = 6")
    keys = {"train": {"seed": 7}}
    name, config = _resolved(tmp_path / "mine.toml", config=tmp_path / "over.toml", keys=keys)
    assert (name, config.model.latent_dim, config.train.seed, config.optimizer.lr) == ("mine", 5, 7, 0.5)


@pytest.mark.parametrize(("given", "near"), [("digist", "digits"), ("fashon-mnist", "fashion-mnist")])
def test_what_is_nothing_is_told_what_is_near(given: str, near: str) -> None:
    with pytest.raises(ElbowroomError, match="neither a recipe nor a built-in data set nor a file") as caught:
        resolve(given, {})
    assert f"'{near}'" in caught.value.remedy


# --- what is held in the hand ------------------------------------------------------------------------------------


def _frame(x: Tensor) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame({f"c{i}": column.tolist() for i, column in enumerate(x.T)})


@pytest.mark.parametrize(
    "hold",
    [lambda x: x, lambda x: x.numpy(), _frame, lambda x: TensorDataset(x)],
    ids=["tensor", "array", "frame", "Dataset"],
)
def test_data_from_python_are_the_same_however_they_are_held(hold: Any, tmp_path: Path) -> None:
    x = reals()
    tiny(x, tmp_path / "tensor", train=FEW)
    run = tiny(hold(x), tmp_path / "held", train=FEW)
    expected, found = everything(tmp_path / "tensor"), everything(tmp_path / "held")
    assert [row["elbo"] for row in found["metrics"]] == pytest.approx([row["elbo"] for row in expected["metrics"]])
    assert run.content["data"]["from_python"] is True


def test_a_file_is_the_same_as_its_array(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", reals().numpy())
    tiny(reals(), tmp_path / "tensor", train=FEW)
    run = tiny(tmp_path / "mine.npy", tmp_path / "file", train=FEW)
    assert everything(tmp_path / "file")["metrics"] == everything(tmp_path / "tensor")["metrics"]
    assert "from_python" not in run.content["data"]
    assert load(tmp_path / "file").data.size("test") == 8


@pytest.mark.parametrize("hold", [Stream, lambda x: DataLoader(Stream(x), batch_size=7)], ids=["stream", "loader"])
def test_a_stream_is_trained_on_for_so_many_steps(hold: Any, tmp_path: Path) -> None:
    x = reals()
    run = tiny(hold(x), tmp_path / "run", train={"steps": 13, "batch_size": 10, "report_every": 5})
    assert [row["step"] for row in run.history] == [5, 10, 13]
    assert {row["split"] for row in run.history} == {"train"}
    with pytest.raises(ElbowroomError, match="needed in steps"):
        tiny(hold(x), tmp_path / "epochs")
    assert not (tmp_path / "epochs").exists()


def test_a_config_lies_under_data_from_python_too(tmp_path: Path) -> None:
    (tmp_path / "over.toml").write_text("[optimizer]\nlr = 0.5")
    run = tiny(reals(), tmp_path / "run", config=tmp_path / "over.toml", train=FEW)
    assert run.config.optimizer.lr == 0.5


def test_labels_are_a_context_for_all_three(tmp_path: Path) -> None:
    labels = torch.arange(53) % 3
    run = tiny(reals(), tmp_path, labels=labels, data={"context": "labels", "validation": 8, "test": 8}, train=FEW)
    assert run.facts.context_dim == 3
    assert run.sample(6).x.shape == (6, 6)


# --- refused before a file is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": {"name": "iwae", "beta": 2.0}}, "iwae objective"),
        ({"train": {"patience": 3}, "data": {"validation": 0, "test": 8}}, "no validation data"),
        ({"runtime": {"device": "cuda:99"}}, "cuda:99"),
        ({"model": {"likelihood": "bernoulli"}}, "Bernoulli|bernoulli"),
        ({"model": {"latent_dim": -2}}, "latent_dim"),
    ],
)
def test_what_cannot_work_leaves_nothing_behind(settings: dict[str, Any], message: str, out: Path) -> None:
    with pytest.raises(ElbowroomError, match=message):
        tiny(reals(), out, **settings)
    assert not out.exists()


def test_an_overwritten_run_survives_a_request_that_cannot_work(out: Path) -> None:
    tiny(reals(), out, train=FEW)
    before = everything(out)
    with pytest.raises(ElbowroomError, match="iwae objective"):
        tiny(reals(), out, overwrite=True, objective={"name": "iwae", "beta": 2.0})
    assert everything(out) == before


def test_a_request_that_fails_at_its_first_step_may_be_made_again(out: Path) -> None:
    with pytest.raises(ElbowroomError):
        tiny(reals(), out, objective={"estimator": "dreg"}, train=FEW)
    assert tiny(reals(), out, train=FEW).step == 3


def test_a_run_is_not_written_over_unless_asked(out: Path) -> None:
    tiny(reals(), out, train=FEW)
    with pytest.raises(ElbowroomError, match="exists already"):
        tiny(reals(), out, train=FEW)
    tiny(reals(), out, overwrite=True, train=FEW | {"seed": 5})
    assert load(out, data=reals()).config.train.seed == 5


# --- going on ----------------------------------------------------------------------------------------------------


def test_going_on_needs_no_flags_again(out: Path) -> None:
    tiny(reals(), out, train=FEW | {"ema": 0.5, "seed": 3})
    run = train(reals(), out=out, resume=True, observers=[Silent()], announce=lambda remark: None)
    assert (run.config.train.seed, run.config.train.ema, run.step) == (3, 0.5, 3)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"model": {"latent_dim": 3}}, r"model\.latent_dim = 2"),
        ({"optimizer": {"lr": 0.5}}, r"optimizer\.lr"),
        ({"train": {"seed": 1}}, r"train\.seed"),
    ],
)
def test_what_would_make_it_another_run_cannot_change(changed: dict[str, Any], key: str, out: Path) -> None:
    tiny(reals(), out, train=FEW)
    with pytest.raises(ElbowroomError, match=f"{key}.* cannot change"):
        train(reals(), out=out, resume=True, observers=[Silent()], **changed)


def test_a_config_file_counts_as_asked_when_going_on(out: Path, tmp_path: Path) -> None:
    tiny(reals(), out, train=FEW)
    (tmp_path / "over.toml").write_text("[model]\nlatent_dim = 9")
    with pytest.raises(ElbowroomError, match=r"model\.latent_dim = 2.* to 9"):
        train(reals(), out=out, resume=True, config=tmp_path / "over.toml", observers=[Silent()])


def test_a_schedule_was_laid_out_for_its_length(out: Path) -> None:
    tiny(reals(), out, train=FEW, optimizer={"schedule": "cosine"})
    with pytest.raises(ElbowroomError, match="cosine schedule"):
        train(reals(), out=out, resume=True, train__steps=9, observers=[Silent()])


def test_other_data_are_refused(out: Path, tmp_path: Path) -> None:
    tiny(reals(), out, train=FEW)
    with pytest.raises(ElbowroomError, match="have changed"):
        tiny(reals(seed=1), out, resume=True, train=FEW)
    with pytest.raises(ElbowroomError, match="data given in Python"):
        train(out=out, resume=True)
    with pytest.raises(ElbowroomError, match="0 covariates, but the data have 2"):
        tiny(reals(), out, resume=True, train=FEW, context=torch.zeros(53, 2))

    np.save(tmp_path / "mine.npy", reals().numpy())
    tiny(tmp_path / "mine.npy", tmp_path / "file", train=FEW)
    with pytest.raises(ElbowroomError, match=r"trained on .*mine\.npy.* go on with digits"):
        train("digits", out=tmp_path / "file", resume=True)
    np.save(tmp_path / "mine.npy", reals(seed=1).numpy())
    with pytest.raises(ElbowroomError, match="have changed"):
        train(out=tmp_path / "file", resume=True)


def test_without_a_run_there_is_nothing_to_go_on_with(out: Path) -> None:
    with pytest.raises(ElbowroomError, match="no run at"):
        tiny(reals(), out, resume=True)


@pytest.mark.parametrize("prior", ["normal", "vamp"])
@pytest.mark.parametrize("ema", [0.0, 0.6])
def test_a_run_stopped_before_its_first_checkpoint_starts_over_as_it_would_have(
    prior: str, ema: float, tmp_path: Path
) -> None:
    """Pseudo-inputs, moving average and optimiser must be those of weights that start from the data."""
    spec: dict[str, Any] = {
        "model": {"latent_dim": 2, "prior": prior} | ({"prior_components": 3} if prior == "vamp" else {}),
        "train": {"steps": 6, "batch_size": 10, "ema": ema},
    }

    def leave() -> None:
        raise KeyboardInterrupt

    tiny(grey(), tmp_path / "straight", **spec)
    with pytest.raises(KeyboardInterrupt):
        tiny(grey(), tmp_path / "stopped", observers=[Quits(2, leave)], **spec)
    told: list[str] = []
    tiny(grey(), tmp_path / "stopped", resume=True, announce=told.append, **spec)
    assert told == [f"{tmp_path / 'stopped'} has no checkpoint yet: starting from step 0"]
    assert everything(tmp_path / "stopped") == everything(tmp_path / "straight")


def test_going_on_behind_a_damaged_checkpoint_is_said(tmp_path: Path) -> None:
    spec = {"train": {"steps": 8, "batch_size": 10, "report_every": 4, "checkpoint_seconds": 0.0}}
    tiny(reals(), tmp_path / "run", **spec)
    before = everything(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-8" / "model.safetensors").write_bytes(b"rot")
    told: list[str] = []
    tiny(reals(), tmp_path / "run", resume=True, announce=told.append, **spec)
    assert "step-8 is damaged (model.safetensors has changed on disk): fell back to step-4" in told[0]
    assert told[1].endswith("from step 4")
    assert everything(tmp_path / "run") == before


# --- what is written ---------------------------------------------------------------------------------------------


def test_the_run_folder_says_all_that_is_needed_to_repeat_it(out: Path) -> None:
    run = tiny(reals(), out, train=FEW)
    content = json.loads((out / "config.json").read_text())
    assert set(content) == {"elbowroom", "torch", "config", "facts", "data", "compiled", "peak_memory"}
    assert content["compiled"] is False
    assert content["peak_memory"] > 2**20
    assert content["data"]["sha256"] == run.dataset().protocol()["sha256"]
    assert configure(content["config"]) == run.config
    assert RunFolder.open(out).summary()["step"] == 3


def test_the_same_call_gives_the_same_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(len(name) + ord(name[0]))  # the global generator has no say
        tiny(grey(), tmp_path / name, data={"binarization": "dynamic", "validation": 8, "test": 8}, train=FEW)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_tensorboard_files_are_written_where_asked(out: Path) -> None:
    pytest.importorskip("tensorboard")
    tiny(reals(), out, train=FEW | {"tensorboard": True})
    assert list((out / "tensorboard").glob("events*"))


# --- missing values ----------------------------------------------------------------------------------------------


def test_what_is_missing_is_summed_out(tmp_path: Path) -> None:
    """A column that is missing everywhere but in one row it is worth nothing in the others: elbo by elbo."""
    x = reals()
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    holes[:, 0] = False
    run = tiny(
        torch.where(holes, torch.nan, x), tmp_path / "run",
        data={"missing": "mask", "validation": 8, "test": 8}, train={"steps": 8, "batch_size": 10},
    )  # fmt: skip
    assert all(np.isfinite(row["elbo"]) for row in run.history)
    batch = next(iter(run.dataset().batches("train", 5)))
    assert batch.mask is not None
    z = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0))
    masked = run.model.log_likelihood(batch.x, z, mask=batch.mask)
    by_hand = torch.stack(
        [
            run.model.likelihood(z[:, i : i + 1]).log_prob(batch.x[i])[..., batch.mask[i]].sum(-1).squeeze(-1)
            for i in range(5)
        ],
        -1,
    )
    assert torch.allclose(masked, by_hand, rtol=1e-5)


def test_missing_values_are_a_mistake_unless_said_otherwise(out: Path) -> None:
    x = reals()
    x[3, 2] = torch.nan
    with pytest.raises(ElbowroomError, match=r"not finite|NaN|missing"):
        tiny(x, out)
    assert not out.exists()


def test_a_share_for_testing_that_has_no_effect_is_said_to_have_none(tmp_path: Path) -> None:
    """Data with a test set of their own keep it; when the run is used again, nothing is said."""
    np.savez(tmp_path / "x.npz", x_train=reals(45), x_test=reals(8, seed=1))

    def said(share: float | None, *, again: bool = False) -> list[str]:
        told: list[str] = []
        data = {"validation": 8} if share is None else {"validation": 8, "test": share}
        keys = {**TINY, "data": data, "train": {"steps": 2, "batch_size": 10}, "observers": []}
        out = tmp_path / f"run-{share}"
        run = train(tmp_path / "x.npz", out=out, resume=again, announce=told.append, **keys)
        assert run.dataset().size("test") == 8
        return [remark for remark in told if "is not used" in remark]

    assert said(None) == []
    assert said(0.2) == ["x.npz: Its own 8 test rows are the test set, so --data.test 0.2 is not used."]
    assert said(0.1) == ["x.npz: Its own 8 test rows are the test set, so --data.test 0.1 is not used."]
    assert said(0.2, again=True) == []
