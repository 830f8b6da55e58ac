"""A run as its user holds it: what it measures, draws and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import elbowroom as er
from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation import inference_gaps
from elbowroom.running.diagnosis import Checkup, read_checkup
from elbowroom.running.runs import Run, load
from elbowroom.showing.report.records import read_results
from small_runs import grey, reals, tiny

FEW = {"steps": 4, "batch_size": 10}


class Endless(IterableDataset[Tensor]):
    """The same rows over and over."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield from reals()


@pytest.fixture
def run(out: Path) -> Run:
    return tiny(reals(), out, train=FEW)


def test_what_is_loaded_is_what_was_trained(run: Run) -> None:
    again = load(run.folder.path, data=reals())
    for a, b in zip(run.pair.state_dict().values(), again.pair.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not any(module.training for module in again.pair.modules())
    assert (again.step, again.history) == (run.step, run.history)
    assert "2 latents, step 4" in repr(again)


def test_a_run_over_codes_is_measured_by_what_codes_have(out: Path) -> None:
    """Unless methods are named: bounds and the use of codes. The sum over all codes comes first in a report."""
    bits = (grey(60) > 0.5).float()
    model = {"guide": "categorical", "prior": "unigram", "slots": 2, "codes": 3}
    codes = tiny(bits, out, model=model | {"encoder": {"hidden": [5]}, "decoder": {"hidden": [5]}},
                 objective={"estimator": "score-function", "num_samples": 2}, train=FEW)  # fmt: skip
    found = codes.evaluate(k=20)
    assert {result.method for result in found} == {"elbo", "codes"}
    used = next(result for result in found if result.name == "codes used")
    assert 2 <= used.value <= used.found["of"] == 6
    exact = {result.name: result.value for result in codes.evaluate("enumerate")}
    assert exact["log p(x)"] == pytest.approx(exact["elbo"] + exact["elbow room"])
    known = read_results(codes.folder, dataset="the array", binarization="none", step=codes.step)
    best = known.bound()
    assert best is not None and (best.result.method, best.result.bound) == ("enumerate", "exact")
    with pytest.raises(ElbowroomError, match="active-units needs a continuous z"):
        codes.evaluate("active-units")


def test_data_from_python_have_to_be_given_again(run: Run) -> None:
    alone = load(run.folder.path)
    with pytest.raises(ElbowroomError, match="given in Python"):
        _ = alone.data
    assert alone.sample(3).x.shape == (3, 6)


def test_other_data_are_not_taken_for_the_runs_own(run: Run) -> None:
    """Their test split would hold rows that were trained on."""
    with pytest.raises(ElbowroomError, match="have changed"):
        load(run.folder.path, data=reals().flip(0))
    with pytest.raises(ElbowroomError, match="covariates"):
        load(run.folder.path, data=reals(), context=torch.zeros(53, 1))


def test_covariates_can_be_given_again(out: Path) -> None:
    context = torch.randn(53, 2, generator=torch.Generator().manual_seed(0))
    run = tiny(reals(), out, context=context, train=FEW)
    again = load(out, data=reals(), context=context)
    assert again.evaluate("elbo")[0].value == run.evaluate("elbo")[0].value
    scored = again.score(again.read(reals(4, seed=9), context=context[:4]), k=5)
    assert scored.log_evidence.shape == (4,)
    with pytest.raises(ElbowroomError, match="0 covariates, but the model was trained with 2"):
        again.score(reals(4))
    with pytest.raises(ElbowroomError, match="2 covariates, but none were given"):
        again.sample(3)
    assert again.sample(3, context=context[:3]).x.shape == (3, 6)


# --- measuring ---------------------------------------------------------------------------------------------------


def test_results_are_kept_once(run: Run) -> None:
    for _ in range(2):
        results = run.evaluate(k=5)
    names = [result.name for result in results]
    assert names == ["elbo", "reconstruction", "kl", "iwae", "elbow room", "active units"]
    kept = json.loads((run.folder.path / "evaluation.json").read_text())["results"]
    assert [result["name"] for result in kept] == names
    assert {result["step"] for result in kept} == {run.step}
    assert all(result["peak_memory"] > 2**20 for result in kept)
    run.evaluate("iwae", k=7)
    assert len(run.folder.evaluations()) == len(names) + 2


def test_every_method_that_the_likelihood_allows(out: Path) -> None:
    run = tiny(grey(), out, model={"likelihood": "cross-entropy", "latent_dim": 2}, train=FEW)
    names = [result.name for result in run.evaluate()]
    assert names[-1] == "active units"
    assert not [name for name in names if name.startswith("iwae")]
    with pytest.raises(ElbowroomError, match="score estimates"):
        run.score()


def _remembered(measure: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    found: dict[bytes, dict[str, Tensor]] = {}

    def remembered(*given: Any, **settings: Any) -> dict[str, Tensor]:
        (rows,) = (each.x.numpy().tobytes() for each in given if isinstance(each, Batch))
        if rows not in found:
            found[rows] = measure(*given, **settings)
        return found[rows]

    return remembered


def test_the_room_of_training_data_stands_beside_that_of_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("best_q_estimate", "reference_log_evidence"):  # what has been found of a batch is not looked for again
        monkeypatch.setattr(inference_gaps, name, _remembered(getattr(inference_gaps, name)))
    few = {"points": 4, "k": 3}
    alone = {split: run.evaluate("room", split=split, **few) for split in ("test", "validation", "train")}
    assert [r.split for r in alone["test"]] == ["test"] * 6 + ["train"] * 6
    assert [r.split for r in alone["validation"]] == ["validation"] * 6 + ["train"] * 6
    assert alone["train"] == alone["test"][6:] + alone["test"][:6]
    kept = json.loads((run.folder.path / "evaluation.json").read_text())["results"]
    assert {r["split"] for r in kept if r["name"] == "elbow room"} == {"test", "validation", "train"}
    assert {r.split for r in run.evaluate("elbo", "room", **few) if r.name == "kl"} == {"test"}


def test_the_room_of_other_data_stands_alone(run: Run, out: Path) -> None:
    few = {"points": 4, "k": 3}
    assert {r.split for r in run.evaluate("room", data=reals(seed=3), **few)} == {"all"}
    untested = tiny(reals(), out.with_name("untested"), data={"test": 0}, train=FEW)
    assert {r.split for r in untested.evaluate("room", split="train", **few)} == {"train"}


def test_the_doctor_is_asked_from_python(run: Run) -> None:
    told: list[str] = []
    found = run.doctor(
        checks=["sound", "latents_in_use"],
        points=8,
        seed=1,
        announce=lambda check, done, total, detail=None: told.append(check),
    )
    assert told == ["sound", "latents_in_use", ""]
    kept = read_checkup(run.folder)
    assert kept == Checkup(found, step=4, points=8, seed=1)
    again = er.doctor(load(run.folder.path, data=reals()), checks=["sound"], points=8)
    assert set(again.seconds) == {"sound"}
    kept = read_checkup(run.folder)
    assert kept is not None and kept.diagnosis == again


def test_scores_are_in_the_order_of_the_rows(run: Run) -> None:
    x = reals(6, seed=4)
    forward, backward = run.score(x, k=30), run.score(x.flip(0), k=30)
    assert torch.equal(forward.log_evidence, backward.log_evidence.flip(0))
    assert len(forward.log_evidence.unique()) == 6
    assert torch.equal(run.score(x[3:5], k=30).log_evidence, forward.log_evidence[3:5])
    own = run.score(split="validation", k=5)
    assert own.log_evidence.shape == (8,)
    assert torch.equal(own.rows, run.dataset().splits["validation"])


def test_encodings_come_with_the_splits_labels(out: Path) -> None:
    labels = torch.arange(53) % 3
    run = tiny(reals(), out, labels=labels, train=FEW)
    found = run.encode(split="test")
    rows = run.dataset().splits["test"]
    assert found.labels is not None
    assert torch.equal(found.labels, labels[rows])
    assert torch.allclose(found.mean, run.guide(reals()[rows]).mean)
    other = run.encode(reals(5, seed=2))
    assert (other.mean.shape, other.labels) == ((5, 2), None)


# --- other data --------------------------------------------------------------------------------------------------


def test_some_encodings_come_with_their_own_labels(out: Path) -> None:
    labels = torch.arange(53)  # each datum says which one it is
    run = tiny(reals(), out, labels=labels, train=FEW)
    some, every = run.encode(split="train", points=5), run.encode(split="train")
    assert some.labels is not None and every.labels is not None
    assert len(some.mean) == len(some.labels) == 5
    places = [every.labels.tolist().index(label) for label in some.labels.tolist()]
    assert torch.allclose(some.mean, every.mean[places], atol=1e-6)


def test_other_data_are_read_as_the_runs_own_were(out: Path) -> None:
    """Whole numbers among real ones are real numbers to this model, whatever they look like alone."""
    run = tiny(reals(), out, train=FEW)
    counts = torch.randint(0, 5, (7, 6), generator=torch.Generator().manual_seed(0))
    x = next(iter(run.read(counts).batches("train", 7))).x
    assert torch.equal(x, counts.float())


def test_a_dark_picture_is_still_one_of_bytes(out: Path) -> None:
    x = torch.randint(0, 256, (53, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    run = tiny(x, out, model={"likelihood": "continuous-bernoulli", "latent_dim": 2}, train=FEW)
    dark = torch.zeros(2, 6, dtype=torch.uint8)
    dark[0, 0] = 1
    read = next(iter(run.read(dark).batches("train", 2))).x
    assert read[0, 0].item() == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: reals(dim=5), r"shape \(5,\)"), (lambda: torch.full((3, 6), torch.nan), "missing")],
    ids=["shape", "NaN"],
)
def test_what_does_not_fit_is_refused(make: Any, message: str, run: Run) -> None:
    with pytest.raises(ElbowroomError, match=message):
        run.score(make(), k=2)


# --- looking -----------------------------------------------------------------------------------------------------


def test_samples_are_a_function_of_the_seed(run: Run) -> None:
    a, b, c = run.sample(4), run.sample(4), run.sample(4, seed=1)
    assert torch.equal(a.x, b.x)
    assert not torch.equal(a.x, c.x)
    assert torch.allclose(run.decode(a.z), a.mean)
    with pytest.raises(ElbowroomError, match="0 samples"):
        run.sample(0)


def test_classes_take_turns(out: Path) -> None:
    labels = torch.arange(53) % 3
    run = tiny(reals(), out, labels=labels, data={"context": "labels", "validation": 8, "test": 8}, train=FEW)
    assert run.class_contexts(6).argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert run.class_contexts(7).argmax(1).bincount(minlength=3).tolist() == [3, 2, 2]


def test_a_reconstruction_belongs_to_its_datum(run: Run) -> None:
    found = run.reconstruct(5, split="validation")
    batch = next(iter(run.dataset().batches("validation", 5, points=5)))
    assert torch.equal(found.x, batch.x)
    assert found.mean.shape == found.sample.shape == found.x.shape


def test_a_stream_has_nothing_to_measure_on(out: Path) -> None:
    run = tiny(DataLoader(Endless(), batch_size=10), out, train=FEW)
    with pytest.raises(ElbowroomError, match="no test set"):
        run.evaluate("elbo")
    assert run.score(reals(4), k=3).log_evidence.shape == (4,)


@pytest.mark.parametrize(("name", "column"), [("who", "who"), ("elbo", "id_elbo"), ("row", "id_row")])
def test_files_of_evaluate_carry_identifiers(name: str, column: str, tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    x = reals(53)
    frame = pl.DataFrame(x.numpy(), schema=[f"x{at}" for at in range(6)]).with_columns(
        pl.Series(name, [f"{at:03}" for at in range(53)])
    )
    run = tiny(frame, tmp_path / "run", data={"id": name}, train={"steps": 2})
    run.evaluate("elbo", "bdmc", temperatures=1, chains=4, simulated=4)
    folder = tmp_path / "run" / "evaluation"
    with (folder / "elbo-test.csv").open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0])[:3] == ["row", column, "elbo"]
    assert [row[column] for row in found] == [f"{int(row['row']):03}" for row in found]
    assert [int(row["row"]) for row in found] == run.dataset().splits["test"].tolist()
    header = (folder / "bdmc-simulated-test.csv").read_text().splitlines()[0].split(",")
    assert column not in header and "row" not in header  # simulated data are no rows of the file


def test_without_identifiers_there_is_no_column_for_them(tmp_path: Path) -> None:
    run = tiny(reals(53), tmp_path / "run", train={"steps": 2})
    run.evaluate("elbo")
    header = (tmp_path / "run" / "evaluation" / "elbo-test.csv").read_text().splitlines()[0]
    assert header == "row,elbo,reconstruction,kl,observed"
