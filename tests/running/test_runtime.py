"""The machine is found, or its absence is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.running.config import RuntimeConfig
from elbowroom.running.impute import impute
from elbowroom.running.observers import Silent
from elbowroom.running.runs import load
from elbowroom.running.runtime import (
    autocast_dtype,
    dtype_of,
    make_generator,
    pick_device,
    torch_settings,
    use_threads,
    warn_of_emulation,
)
from small_runs import reals, tiny


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == expected


def test_a_device_that_exists_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ElbowroomError, match="finds none"):
        pick_device("cuda:2")


@pytest.mark.parametrize(("name", "message"), [("gpu", "no device 'gpu'"), ("meta", "The device is 'meta'")])
def test_a_device_that_does_not_is_explained(name: str, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        pick_device(name)


def test_precision_is_what_was_asked_for() -> None:
    assert dtype_of(RuntimeConfig()) is torch.float32
    assert dtype_of(RuntimeConfig(dtype="float64")) is torch.float64
    assert autocast_dtype(RuntimeConfig()) is None
    assert autocast_dtype(RuntimeConfig(autocast="bfloat16")) is torch.bfloat16


def test_a_generator_is_a_function_of_the_seed() -> None:
    cpu = torch.device("cpu")
    draws = [torch.rand(3, generator=make_generator(cpu, seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_threads_are_set_only_if_given() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(None)
        assert torch.get_num_threads() == before
        use_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# --- the caller's settings of torch ------------------------------------------------------------------------------


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def all_at_once() -> Iterator[None]:
    with default_dtype(), default_device(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


CALLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": default_dtype,
    "meta": default_device,
    "device": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "threads": two_threads,
    "all": all_at_once,
}


def settings() -> tuple[Any, ...]:
    """What a caller may have set."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("caller", CALLERS)
def test_inside_the_settings_are_ours_and_afterwards_the_callers(caller: str) -> None:
    outside = settings()
    with CALLERS[caller]():
        theirs = settings()
        with torch_settings():
            assert settings()[:-1] == outside[:-1]
            use_threads(3)
            assert torch.get_num_threads() == 3
        assert settings() == theirs
        with pytest.raises(ZeroDivisionError), torch_settings():
            _ = 1 / 0
        assert settings() == theirs
    assert settings() == outside


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    tiny(reals(), tmp_path / "run", train={"steps": 2})
    assert torch.equal(torch.get_rng_state(), before)


def made(folder: Path, x: Any, learner: str = "aevb") -> dict[str, Any]:
    """A run and what can be done with it."""
    keys: dict[str, Any] = {"data": {"missing": "mask"}, "train": {"steps": 6, "learner": learner}}
    tiny(x, folder, **{**keys, "train": {**keys["train"], "steps": 3}})
    run = tiny(x, folder, resume=True, **keys)
    again = load(folder, data=x, announce=print)
    found: dict[str, Any] = {
        "history": [{k: v for k, v in row.items() if k != "seconds"} for row in run.history],
        "weights": {name: value.tolist() for name, value in again.pair.state_dict().items()},
        "sample": [part.tolist() for part in run.sample(3)],
        "decode": run.decode(run.sample(3).z).tolist(),
    }
    if learner == "aevb":
        found |= {
            "evaluate": [result.value for result in run.evaluate("elbo", "iwae", "laplace-is", k=5)],
            "score": run.score(x[1:4], k=5).log_evidence.tolist(),
            "encode": run.encode(x[1:4]).mean.tolist(),
            "reconstruct": [part.tolist() for part in run.reconstruct(3)],
            "posterior": run.posterior(x[1:3], draws=4, chains=2, warmup=4).z.tolist(),
            "impute": impute(run, x[:2], draws=20, chains=2, warmup=4).completed.tolist(),
            "doctor": [finding.title for finding in run.doctor(checks=["sound", "likelihood_fits"], points=8).findings],
        }
    return found


@pytest.fixture(scope="module")
def x() -> Any:
    x = reals().numpy()
    x[0, 1] = float("nan")
    return x


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, x: Any) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("settings") / "run", x)


@pytest.mark.parametrize(
    "caller", [pytest.param(name, marks=[] if name == "all" else pytest.mark.slow) for name in CALLERS]
)
def test_no_setting_of_the_caller_changes_a_number(
    caller: str, undisturbed: dict[str, Any], x: Any, tmp_path: Path
) -> None:
    with CALLERS[caller]():
        before = settings()
        found = made(tmp_path / "run", x)
        assert settings() == before
    for what, value in undisturbed.items():
        assert found[what] == value, what


@pytest.mark.parametrize("learner", ["mcem", "wake-sleep", "svi"])
def test_nor_do_all_of_them_with_another_learner(learner: str, x: Any, tmp_path: Path) -> None:
    if learner == "svi":
        pytest.importorskip("pyro")
    plain = made(tmp_path / "plain", x, learner)
    with all_at_once():
        assert made(tmp_path / "set", x, learner) == plain


def test_data_that_are_inference_tensors(tmp_path: Path) -> None:
    with torch.inference_mode():
        made_there = reals() + 0
        assert made_there.is_inference()
        inside = tiny(made_there, tmp_path / "inside", context=made_there[:, :2] * 1, train={"steps": 3})
        drawn = inside.sample(3, context=made_there[:3, :2] * 1)
    outside = tiny(reals(), tmp_path / "outside", context=reals()[:, :2], train={"steps": 3})
    assert torch.equal(drawn.x, outside.sample(3, context=reals()[:3, :2]).x)


def test_threads_of_a_run_end_with_it(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    inside: list[int] = []

    class Counts(Silent):
        def step(self) -> None:
            inside.append(torch.get_num_threads())

    tiny(reals(), tmp_path / "run", train={"steps": 1}, runtime={"threads": 3}, observers=[Counts()])
    assert inside == [3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("has", "autocast", "said"),
    [
        ({"architecture": "x86_64", "cpu_name": "A 1", "avx512_bf16": False, "amx_bf16": False}, "bfloat16", True),
        ({"architecture": "x86_64", "cpu_name": "", "avx512_bf16": False, "amx_bf16": False}, "bfloat16", True),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "none", False),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "bfloat16", False),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, "bfloat16", False),
        ({"architecture": "aarch64"}, "bfloat16", False),
        ({}, "bfloat16", False),
    ],
)
def test_a_lower_precision_that_is_emulated_is_said(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], autocast: Any, said: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    remarks: list[str] = []
    warn_of_emulation(RuntimeConfig(device="cpu", autocast=autocast), remarks.append)
    assert len(remarks) == said
    if said:
        assert "no bfloat16 instructions" in remarks[0]
        assert remarks[0].endswith("--runtime.autocast none is faster here")


def test_it_is_said_where_training_begins(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    has = {"architecture": "x86_64", "cpu_name": "A 1", "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    remarks: list[str] = []
    tiny(reals(), out, runtime={"autocast": "bfloat16"}, announce=remarks.append)
    assert any("(A 1) has no bfloat16 instructions" in remark for remark in remarks)
