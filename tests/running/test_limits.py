"""How long a run goes on, by steps, by time or by work; and that where it stopped cannot be seen in what it found."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.model.pyramid import WeightNormalized
from elbowroom.running import engine
from elbowroom.running.build import facts_of
from elbowroom.running.build_pair import build_pair
from elbowroom.running.checkpoints import Checkpoints
from elbowroom.running.config import configure
from small_runs import Clock, Quits, everything, grey, reals, tiny

BATCH = 10  # of 37 training rows: batches of 10, 10, 10 and 7


def _lengths(**train: Any) -> dict[str, Any]:
    return {"batch_size": BATCH, **train}


def _train_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in everything(folder)["metrics"] if row["split"] == "train"]


# --- work --------------------------------------------------------------------------------------------------------


def test_work_ends_a_run_with_the_step_that_reaches_it(out: Path) -> None:
    """One draw for each datum: the work is the visits."""
    run = tiny(reals(), out, train=_lengths(decoder_gradients=50))
    last = run.history[-1]
    assert (last["step"], _train_rows(out)[-1]["decoder_gradients"]) == (6, 57)  # 37 in an epoch, then 47, then 57
    assert [row["step"] for row in _train_rows(out)] == [4, 6]
    assert [row["visits"] for row in _train_rows(out)] == [37, 57]


WORK: dict[str, tuple[dict[str, Any], int]] = {
    "aevb": ({}, 1),
    "aevb, 3 draws": ({"objective": {"num_samples": 3}}, 3),
    "naive": ({"train": {"learner": "naive"}, "objective": {"num_samples": 5}}, 5),
    "wake-sleep": ({"train": {"learner": "wake-sleep"}, "objective": {"num_samples": 2}}, 2),
    # to begin with, 3 + 2 transitions of 10 steps and where they start; then one update with two draws
    "mcem": (
        {
            "train": {"learner": "mcem"},
            "mcem": {"start": "prior", "metric": "identity", "warmup": 3, "draws": 2},
        },
        1 + 5 * 10 + 2,
    ),
    "mcem, 4 updates": (
        {
            "train": {"learner": "mcem"},
            "mcem": {"start": "prior", "metric": "identity", "warmup": 0, "num_steps": 6, "chains": 3, "updates": 4},
        },
        3 * (1 + 6 + 4),
    ),
}
if importlib.util.find_spec("pyro") is not None:
    WORK["svi"] = ({"train": {"learner": "svi"}, "svi": {"num_particles": 3}}, 3)


@pytest.mark.parametrize(("settings", "per_datum"), WORK.values(), ids=WORK)
def test_the_books_hold_visits_and_work(settings: dict[str, Any], per_datum: int, out: Path) -> None:
    tiny(reals(), out, **settings | {"train": _lengths(steps=6) | settings.get("train", {})})
    rows = _train_rows(out)
    assert [row["visits"] for row in rows] == [37, 57]
    assert [row["decoder_gradients"] for row in rows] == [per_datum * 37, per_datum * 57]


@pytest.mark.parametrize("learner", ["aevb", "mcem"])
def test_a_longer_limit_goes_on_as_if_it_had_been_there(learner: str, tmp_path: Path) -> None:
    work = 1_500 if learner == "mcem" else 120
    train = {"learner": learner, "report_every": 1}  # or the end would have a report of its own
    data = {"validation": 0 if learner == "mcem" else 8, "test": 8, "train": 37}
    tiny(reals(), tmp_path / "whole", train=_lengths(decoder_gradients=work, **train), data=data)
    tiny(reals(), tmp_path / "parted", train=_lengths(decoder_gradients=work // 3, **train), data=data)
    first = len(_train_rows(tmp_path / "parted"))
    tiny(reals(), tmp_path / "parted", resume=True, train=_lengths(decoder_gradients=work, **train), data=data)
    whole, parted = everything(tmp_path / "whole"), everything(tmp_path / "parted")
    assert 0 < first < len(_train_rows(tmp_path / "whole"))
    assert parted == whole
    again = tiny(reals(), tmp_path / "parted", resume=True, data=data)  # spent already: nothing happens
    assert len(again.history) == len(whole["metrics"])


def test_a_new_length_takes_the_place_of_the_old_one_of_another_kind(out: Path) -> None:
    tiny(reals(), out, train=_lengths(decoder_gradients=20))
    run = tiny(reals(), out, resume=True, train={"steps": 5})
    assert run.history[-1]["step"] == 5
    assert (run.config.train.steps, run.config.train.decoder_gradients) == (5, None)
    run = tiny(reals(), out, resume=True, train={"epochs": 2})
    assert run.history[-1]["step"] == 8
    with pytest.raises(ElbowroomError, match="more than once"):
        tiny(reals(), out, resume=True, train={"steps": 9, "decoder_gradients": 1_000})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(engine, "time", found)
    return found


def test_the_clock_stops_while_a_checkpoint_is_written(
    clock: Clock, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Checkpoints.save

    def slow(self: Checkpoints, *args: Any, **kwargs: Any) -> Path:
        clock.now += 0.5
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Checkpoints, "save", slow)
    run = tiny(reals(), out, train=_lengths(steps=4, report_every=1))
    assert run.history[-1]["step"] == 4
    assert run.history[-1]["seconds"] < 1.0  # three checkpoints were written before that report


def test_a_long_way_between_reports_is_not_lost(out: Path) -> None:
    def fall() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        tiny(
            reals(),
            out,
            train=_lengths(steps=9, report_every=1_000, checkpoint_seconds=1e-9),
            observers=[Quits(6, fall)],
        )
    assert (out / "checkpoints" / "latest").read_text() == "step-6"


# --- time --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clock")
def test_time_ends_a_run_with_a_report(out: Path) -> None:
    run = tiny(reals(), out, train=_lengths(seconds=0.1, report_every=1_000_000))
    last = run.history[-1]
    assert last["split"] == "validation"
    assert last["seconds"] >= 0.1
    steps = last["step"]
    assert (out / "checkpoints" / "latest").read_text() == f"step-{steps}"
    again = tiny(reals(), out, resume=True, train={"seconds": 0.2})
    assert steps < again.history[-1]["step"] < 2.5 * steps  # the second hour begins where the first one ended
    assert again.history[-1]["seconds"] >= 0.2


# --- chains that go on -------------------------------------------------------------------------------------------

CHAINS: dict[str, dict[str, Any]] = {
    "default": {"data": {"validation": 8, "test": 8}},
    "two chains on disk, a refresh in between": {"mcem": {"storage": "disk", "refresh": 2, "chains": 2, "draws": 2}},
    "a refresh on both sides": {"mcem": {"refresh": 1, "chains": 2, "draws": 2}},
    "nuts, identity, two updates, growing; a mixture for a prior, float64": {
        "mcem": {"sampler": "nuts", "metric": "identity", "updates": 2, "growth": 1.0, "warmup": 2},
        "model": {"prior": "mixture", "prior_components": 3},
        "runtime": {"dtype": "float64"},
    },
    "a guide beside, moving average": {"model": {"guide": "diagonal"}, "mcem": {"metric": "guide"}, "ema": 0.7},
    "from the guide": {"model": {"guide": "full"}, "mcem": {"start": "guide", "warmup": 2}},
}
REFRESHED = {"a refresh on both sides"}  # nothing is kept over the stop there that the one in between does not keep
SMALL = {"latent_dim": 2, "encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=name, marks=pytest.mark.slow if name in REFRESHED else []) for name, c in CHAINS.items()],
)
def test_chains_of_a_run_that_was_stopped_are_the_same_to_the_bit(case: dict[str, Any], tmp_path: Path) -> None:
    """Stopped twice within an epoch of two steps: weights, chains, metrics and step sizes are those of 5 at once."""
    # what validation measures takes the longest, and one case is enough to see that it disturbs nothing
    settings = {"data": {"validation": 0, "test": 8, "train": 37}, **case, "model": SMALL | case.get("model", {})}
    train = _lengths(learner="mcem", report_every=1, ema=settings.pop("ema", 0.0)) | {"batch_size": 20}
    tiny(reals(), tmp_path / "whole", train=train | {"steps": 5}, **settings)
    for number, steps in enumerate((1, 3, 5)):
        tiny(reals(), tmp_path / "parted", train=train | {"steps": steps}, resume=number > 0, **settings)
    whole, parted = everything(tmp_path / "whole"), everything(tmp_path / "parted")
    assert whole.keys() == parted.keys()
    for key in whole:
        assert whole[key] == parted[key], key
    tensors = load_file(tmp_path / "whole" / "checkpoints" / whole["latest"] / "training.safetensors")
    assert tensors["chains.common_log_step"].isfinite()
    if settings.get("mcem", {}).get("start", "persistent") == "persistent":
        visits = tensors["chains.visits"]
        assert len(visits) == 37  # validation and test data have no chains
        assert sorted(visits.unique().tolist()) == [2, 3]


def test_memory_and_disk_keep_the_same_chains(tmp_path: Path) -> None:
    for storage in ("memory", "disk"):
        tiny(reals(), tmp_path / storage, data={"validation": 0, "test": 8}, mcem={"storage": storage},
             train=_lengths(learner="mcem", steps=9))  # fmt: skip
    assert everything(tmp_path / "memory") == everything(tmp_path / "disk")
    assert (tmp_path / "disk" / "chains" / "z.bin").is_file()
    assert not (tmp_path / "memory" / "chains").exists()


def test_dynamic_binarisation_and_chains(tmp_path: Path) -> None:
    """Data that are drawn anew at every visit: the chain of a datum follows the pixels it meets."""
    data = {"validation": 0, "test": 8, "train": 37, "binarization": "dynamic"}
    train = _lengths(learner="mcem", report_every=1)
    tiny(grey(), tmp_path / "whole", data=data, train=train | {"steps": 9})
    tiny(grey(), tmp_path / "parted", data=data, train=train | {"steps": 5})
    tiny(grey(), tmp_path / "parted", data=data, train=train | {"steps": 9}, resume=True)
    assert everything(tmp_path / "whole") == everything(tmp_path / "parted")


# --- how many data -----------------------------------------------------------------------------------------------


def test_a_part_of_the_training_data_is_chosen_by_seed_and_the_test_set_stays() -> None:
    x = reals()
    whole = load_data(x, validation=8, test=8, seed=3)
    part, again = (load_data(x, validation=8, test=8, seed=3, train=12) for _ in range(2))
    other = load_data(x, validation=8, test=8, seed=4, train=12)
    assert part.size("train") == 12
    assert set(part.splits["train"].tolist()) < set(whole.splits["train"].tolist())
    for split in ("validation", "test"):
        assert torch.equal(part.splits[split], whole.splits[split])
    assert all(torch.equal(part.splits[split], again.splits[split]) for split in part.splits)
    assert not torch.equal(part.splits["train"], other.splits["train"])
    assert part.splits["train"].tolist() != whole.splits["train"][:12].tolist()


def test_a_run_on_a_part_visits_no_other_data(out: Path) -> None:
    data = {"validation": 8, "test": 8, "train": 12}
    run = tiny(reals(), out, data=data, train=_lengths(learner="mcem", epochs=2))
    assert run.history[-1]["step"] == 4
    latest = (out / "checkpoints" / "latest").read_text()
    visits = load_file(out / "checkpoints" / latest / "training.safetensors")["chains.visits"]
    assert visits.tolist() == [2] * 12


# --- gradients that are left out ---------------------------------------------------------------------------------


def test_a_run_of_which_no_step_changes_anything_ends_with_a_remedy(tmp_path: Path) -> None:
    long = {"steps": 30, "report_every": 15, "batch_size": BATCH}
    with pytest.raises(ElbowroomError, match=r"At step 15, all steps(.|\n)*skip_norm(.|\n)*such as") as caught:
        tiny(reals(), tmp_path / "stuck", optimizer={"skip_norm": 1e-6}, train=long)
    suggested = float(re.findall(r"such as \D+([\d.]+)", str(caught.value))[0])
    run = tiny(reals(), tmp_path / "run", optimizer={"skip_norm": suggested}, train=long)
    assert run.history[0]["skipped"] == 0
    tiny(reals(), tmp_path / "short", optimizer={"skip_norm": 1e-6}, train={**long, "report_every": 5})


# --- where weights start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["aevb", "mcem"])
def test_initial_weights_have_the_spread_that_was_asked_for(learner: str) -> None:
    facts = facts_of(load_data(reals(dim=40)), BATCH)
    hidden = {"encoder": {"hidden": [200]}, "decoder": {"hidden": [200]}}
    pairs = {
        std: build_pair(configure({"model": {"init_std": std, **hidden}, "train": {"learner": learner}}), facts, seed=0)
        for std in (None, 0.01)
    }
    for name, weight in pairs[0.01].named_parameters():
        if name.endswith("bias"):
            assert weight.abs().max() == 0
        elif weight.dim() == 2:
            # the spread of n normal numbers has a standard error of σ / √(2 n)
            assert abs(weight.std().item() - 0.01) < 4 * 0.01 / (2 * weight.numel()) ** 0.5
            assert abs(weight.mean().item()) < 4 * 0.01 / weight.numel() ** 0.5
    unlike = [
        name
        for (name, a), b in zip(pairs[None].named_parameters(), pairs[0.01].parameters(), strict=True)
        if a.dim() == 2 and torch.equal(a, b)
    ]
    assert unlike == []


def test_weights_that_are_normalised_start_with_the_spread_that_was_asked_for() -> None:
    network = {"kind": "pyramid", "channels": [16], "norm": "weight"}
    asked = {"model": {"init_std": 0.01, "encoder": network, "decoder": network}}
    pair = build_pair(configure(asked), facts_of(load_data(torch.rand(BATCH, 4, 4)), BATCH), seed=0)
    convolutions = [part for part in pair.modules() if isinstance(part, WeightNormalized)]
    assert convolutions
    for part in convolutions:
        used = part.weight * part.gain / part.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        assert abs(used.std().item() - 0.01) < 4 * 0.01 / (2 * used.numel()) ** 0.5
