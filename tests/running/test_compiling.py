"""Which runs are compiled follows from what they are to do; compiled runs resume bit for bit; what fails says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import elbowroom.learners.compiled as compiled_module
import elbowroom.running.compiling as compiling_module
from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.learners.compiled import Compiled
from elbowroom.learners.execution import Execution, eager
from elbowroom.running.build import facts_of
from elbowroom.running.build_pair import build_pair
from elbowroom.running.compiling import choose_execution
from elbowroom.running.config import Config, configure
from elbowroom.running.engine import TrainingPlan
from elbowroom.running.observers import Silent
from small_runs import TINY, Quits, grey, tiny

pytestmark = [
    pytest.mark.usefixtures("traced"),
    pytest.mark.filterwarnings("ignore"),  # the compiler warns of its own doings
]


# --- the decision ------------------------------------------------------------------------------------------------


def _chosen(said: list[str] | None = None, decided: bool | None = None, hidden: int = 5, **sections: Any) -> Execution:
    keys: dict[str, Any] = {section: dict(values) for section, values in TINY.items()}
    keys["model"] = {"latent_dim": 2, "encoder": {"hidden": [hidden]}, "decoder": {"hidden": [hidden]}}
    for section, values in sections.items():
        keys[section] = keys.get(section, {}) | values
    settings: Config = configure(keys)
    data = load_data(grey(), validation=8, test=8, binarization="dynamic").to(dtype=torch.float32)
    facts = facts_of(data, 10)
    train = settings.train
    plan = TrainingPlan(
        total_steps=None if train.seconds or train.decoder_gradients else train.steps,
        steps_per_epoch=4,
        batch_size=10,
        seed=0,
        report_every=4,
        patience=None,
        checkpoint_seconds=0.0,
        seconds=train.seconds,
        decoder_gradients=train.decoder_gradients,
    )
    pair = build_pair(settings, facts, seed=0)
    before = {key: value.clone() for key, value in pair.state_dict().items()}
    announce = (lambda remark: None) if said is None else said.append
    execution = choose_execution(settings, plan, pair, data, decided=decided, announce=announce)
    assert all(torch.equal(value, before[key]) for key, value in pair.state_dict().items())
    assert all(weight.grad is None for weight in pair.parameters())
    return execution


BERNOULLI = {"data": {"binarization": "dynamic"}}


@pytest.fixture
def _nothing_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the decision alone, which stays the same where `torch.compile` hands a function back as it is."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.usefixtures("_nothing_traced")
@pytest.mark.parametrize(
    ("train", "hidden", "compiled"),
    [
        ({"steps": 100}, 5, False),
        ({"steps": 1_000_000}, 5, True),
        ({"steps": 70_000}, 5, False),  # almost a minute of small steps
        ({"steps": 70_000}, 20_000, True),  # of larger ones, more than one
        ({"seconds": 20.0}, 5, False),
        ({"seconds": 600.0}, 5, True),
        ({"decoder_gradients": 10**4}, 5, False),
        ({"decoder_gradients": 10**7}, 5, True),
        ({"decoder_gradients": 10**7, "learner": "mcem"}, 5, False),  # the chains take most of them
    ],
)
def test_long_runs_are_compiled_and_short_ones_are_not(train: dict[str, Any], hidden: int, compiled: bool) -> None:
    execution = _chosen(hidden=hidden, train=train, **BERNOULLI)
    assert isinstance(execution, Compiled) is compiled
    assert (execution is eager) is not compiled


@pytest.mark.usefixtures("_nothing_traced")
@pytest.mark.parametrize(("steps", "compiled"), [(59, False), (61, True)])
def test_few_slow_steps_are_looked_at_too(steps: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling_module, "_RATE", 1e3)  # operations per second: every step takes a minute
    assert isinstance(_chosen(train={"steps": steps}, **BERNOULLI), Compiled) is compiled


@pytest.mark.usefixtures("_nothing_traced")
def test_what_was_asked_or_decided_before_goes_ahead() -> None:
    long, short = {"steps": 1_000_000}, {"steps": 10}
    assert _chosen(train=long, runtime={"compile": "off"}, **BERNOULLI) is eager
    assert isinstance(_chosen(train=short, runtime={"compile": "on"}, **BERNOULLI), Compiled)
    assert _chosen(train=long, decided=False, **BERNOULLI) is eager
    assert isinstance(_chosen(train=short, decided=True, **BERNOULLI), Compiled)


@pytest.mark.parametrize(
    "estimator", ["score-function", pytest.param("gumbel-softmax", marks=pytest.mark.slow), "reinmax"]
)
def test_objectives_over_codes_are_counted_and_tried(estimator: str) -> None:
    model = {"guide": "categorical", "prior": "unigram", "slots": 3, "codes": 4}
    said: list[str] = []
    objective = {"estimator": estimator, "num_samples": 2}
    execution = _chosen(said, train={"steps": 1_000_000}, model=model, objective=objective, **BERNOULLI)
    assert isinstance(execution, Compiled) and said == []
    assert execution.graphs == 1


LEARNERS = ["aevb", "naive", "wake-sleep", "mcem"]


def _learner_is_tried(learner: str) -> Compiled:
    sections: dict[str, Any] = {"train": {"steps": 1_000_000, "learner": learner}}
    if learner == "naive":
        sections["objective"] = {"num_samples": 5}
    said: list[str] = []
    execution = _chosen(said, **sections, **BERNOULLI)
    assert isinstance(execution, Compiled)
    assert said == []
    return execution


@pytest.mark.parametrize(
    "learner", [pytest.param(name, marks=pytest.mark.slow if name != "aevb" else []) for name in LEARNERS]
)
def test_the_function_of_a_learner_is_traced(learner: str) -> None:
    assert _learner_is_tried(learner).graphs == 1


@pytest.mark.usefixtures("_nothing_traced")
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_with_a_hot_loop_of_its_own_is_tried(learner: str) -> None:
    """With the noise prepared; tests of the learners trace their objectives."""
    _learner_is_tried(learner)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"train": {"learner": "svi"}}, "Pyro's own objectives"),
        ({"train": {"learner": "mcem"}, "mcem": {"growth": 1.0}}, "mcem.growth"),
    ],
)
def test_what_cannot_be_compiled_is_known_beforehand(sections: dict[str, Any], problem: str) -> None:
    steps = {"train": sections["train"] | {"steps": 1_000_000}}
    assert _chosen(**sections | steps, **BERNOULLI) is eager
    with pytest.raises(ElbowroomError, match=problem) as caught:
        _chosen(**sections | steps, runtime={"compile": "on"}, **BERNOULLI)
    assert "off" in caught.value.remedy


def test_a_switch_of_version_0_1_0_is_understood() -> None:
    assert [configure({"runtime": {"compile": given}}).runtime.compile for given in (True, False, "auto")] == [
        "on",
        "off",
        "auto",
    ]
    with pytest.raises(ElbowroomError, match="auto"):
        configure({"runtime": {"compile": "maybe"}})


# --- runs --------------------------------------------------------------------------------------------------------


def _everything(folder: Path, step: int) -> dict[str, torch.Tensor]:
    place = folder / "checkpoints" / f"step-{step}"
    return load_file(place / "model.safetensors") | load_file(place / "training.safetensors")


WARM_UP: dict[str, Any] = {"objective": {"warmup_epochs": 2.0}}
MORE_DRAWS: dict[str, Any] = {
    "objective": {"name": "iwae", "num_samples": 2, "last_samples": 4}, "train": {"ema": 0.8}
}  # fmt: skip
STAGES: dict[str, Any] = {
    "model": {"prior": "unigram", "slots": 3, "codes": 4, "code_dim": 2}, "train": {"learner": "vq"},
    "vq": {"reconstruction_share": 0.25, "prior_share": 0.25},
}  # fmt: skip


def _resumes(settings: dict[str, Any], folder: Path) -> None:
    settings = settings | {"data": {"validation": 8, "test": 8, "binarization": "dynamic"}}
    train = settings.pop("train", {})
    runtime = {"device": "cpu", "compile": "on"}
    whole = tiny(grey(), folder / "whole", runtime=runtime, train=train | {"steps": 12}, **settings)

    def quit_now() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(grey(), folder / "parted", runtime=runtime, train=train | {"steps": 12, "report_every": 3},
             observers=[Quits(7, quit_now)], **settings)  # fmt: skip
    torch._dynamo.reset()  # another process
    parted = tiny(grey(), folder / "parted", resume=True)
    assert json.loads((folder / "parted" / "config.json").read_text())["compiled"] is True
    ours, theirs = _everything(parted.folder.path, 12), _everything(whole.folder.path, 12)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(WARM_UP, id="warm-up"),
        pytest.param(MORE_DRAWS, id="more draws at the end", marks=pytest.mark.slow),
        pytest.param(STAGES, id="stages", marks=pytest.mark.slow),
        pytest.param(WARM_UP, id="warm-up in C++", marks=[pytest.mark.cpp, pytest.mark.slow]),
        pytest.param(MORE_DRAWS, id="more draws at the end in C++", marks=[pytest.mark.cpp, pytest.mark.slow]),
    ],
)
def test_a_compiled_run_resumes_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    _resumes(settings, tmp_path)


@pytest.mark.usefixtures("_nothing_traced")
@pytest.mark.parametrize("settings", [STAGES, MORE_DRAWS], ids=["stages", "more draws at the end"])
def test_a_run_of_several_functions_finds_each_again(settings: dict[str, Any], tmp_path: Path) -> None:
    """Up to twelve of them, which the slow tests trace."""
    _resumes(settings, tmp_path)


def test_a_compiled_run_has_the_figures_of_an_eager_one(tmp_path: Path) -> None:
    """The last batch of an epoch has 7 rows, and is not compiled."""
    data = {"validation": 8, "test": 8, "binarization": "dynamic"}
    runs = [
        tiny(grey(), tmp_path / mode, data=data, runtime={"device": "cpu", "compile": mode}, train={"steps": 20})
        for mode in ("on", "off")
    ]
    for one, other in zip(*(run.history for run in runs), strict=True):
        for key in one.keys() - {"seconds", "split"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5)


def test_where_it_cannot_be_compiled_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any, **options: Any) -> Any:
        raise RuntimeError("internal error: segmentation fault\nstack")

    monkeypatch.setattr(compiled_module, "compile_fx", fails)
    with pytest.raises(ElbowroomError, match="the compiler failed \\(RuntimeError: internal error") as caught:
        tiny(grey(), tmp_path / "on", runtime={"device": "cpu", "compile": "on"}, train={"steps": 4})
    assert "--runtime.compile off" in caught.value.remedy
    assert not (tmp_path / "on").exists()
    failure = caught.value.__cause__
    assert failure is not None

    def fails_at_once(*given: Any) -> Any:  # with the same error, and without tracing again
        raise failure

    monkeypatch.setattr(torch, "compile", lambda function, **options: fails_at_once)
    said: list[str] = []
    assert _chosen(said, train={"steps": 1_000_000}, **BERNOULLI) is eager
    (remark,) = said
    assert remark.startswith("The objective cannot be compiled, because the compiler failed (RuntimeError")
    assert "Training continues without the compiler" in remark


@pytest.mark.parametrize("last_samples", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_nothing_is_compiled_once_training_has_begun(
    last_samples: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Compiled] = []

    def make(*given: Any, **known: Any) -> Compiled:
        made.append(Compiled(*given, **known))
        return made[-1]

    monkeypatch.setattr(compiled_module, "Compiled", make)
    graphs: list[int] = []

    class Counts(Silent):
        def start(self, step: int, total: int | None) -> None:
            graphs.append(made[0].graphs)

    data = {"validation": 8, "test": 8, "binarization": "dynamic"}
    tiny(grey(), tmp_path / "run", data=data, runtime={"device": "cpu", "compile": "on"}, train={"steps": 10},
         objective={"name": "iwae", "last_samples": last_samples}, observers=[Counts()])  # fmt: skip
    assert len(made) == 1
    assert graphs == [made[0].graphs] == [1 if last_samples is None else 2]


@pytest.mark.usefixtures("_nothing_traced")
def test_the_remedy_can_be_taken_when_a_run_goes_on(tmp_path: Path) -> None:
    data = {"validation": 8, "test": 8, "binarization": "dynamic"}
    tiny(grey(), tmp_path / "run", data=data, runtime={"device": "cpu", "compile": "on"}, train={"steps": 4})
    run = tiny(
        grey(),
        tmp_path / "run",
        data=data,
        resume=True,
        runtime={"device": "cpu", "compile": "off"},
        train={"steps": 8},
    )
    assert run.step == 8
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compiled"] is False


@pytest.mark.usefixtures("_nothing_traced")
def test_a_stream_is_compiled_without_losing_a_row(tmp_path: Path) -> None:
    class Rows(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(grey().round())

    runs = [
        tiny(Rows(), tmp_path / mode, data={}, runtime={"device": "cpu", "compile": mode}, train={"steps": 12})
        for mode in ("on", "off")
    ]
    assert json.loads((tmp_path / "on" / "config.json").read_text())["compiled"] is True
    for one, other in zip(*(run.history for run in runs), strict=True):
        assert one["elbo"] == pytest.approx(other["elbo"], rel=1e-4)


def test_many_runs_of_a_process_are_compiled_each(tmp_path: Path) -> None:
    """The compiler counts by function, and would give up after eight of them; here after one."""
    with torch._dynamo.config.patch(cache_size_limit=1):
        for seed in range(2):
            train = {"steps": 2, "seed": seed}
            run = tiny(grey(), tmp_path / str(seed), runtime={"device": "cpu", "compile": "on"}, train=train,
                       data={"binarization": "dynamic"}, model={"latent_dim": seed + 1})  # fmt: skip
            assert json.loads((run.folder.path / "config.json").read_text())["compiled"] is True
