"""Runs on captions: what the words say, which draws come first, how many obey, and that a run can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.cli import main
from elbowroom.data.naming import Covariate, Naming
from elbowroom.errors import ElbowroomError
from elbowroom.model.autoregressive import CausalTransformer
from elbowroom.running.caption_accuracy import captions_obeyed
from elbowroom.running.captioned import caption_context, said_in
from elbowroom.running.runs import Run, load
from elbowroom.running.train import train
from small_runs import Quits, grey, tiny

GRID: dict[str, Any] = {"kind": "grid", "patch": 4, "width": 4, "blocks": 1}
SMALL: dict[str, Any] = {
    "model": {
        "likelihood": "bernoulli",
        "prior_width": 8,
        "prior_layers": 1,
        "prior_heads": 2,
        "codes": 4,
        "encoder": GRID,
        "decoder": GRID,
    },
    "data": {"train": 400, "binarization": "dynamic"},
    "train": {"steps": 20, "batch_size": 40, "report_every": 5, "checkpoint_seconds": 0.0},
    "runtime": {"compile": "off", "device": "cpu"},
    "observers": [],
    "announce": lambda said: None,
}
FARM = (Covariate("kind", ("Hen", "Ox")), Covariate("width", ("thin", "medium", "bold")))


def trained(out: Path, **changed: Any) -> Run:
    sections = {name: {**given, **changed.get(name, {})} for name, given in SMALL.items() if isinstance(given, dict)}
    return train("dalle-digits", out=out, **(SMALL | changed | sections))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Run:
    return trained(tmp_path_factory.mktemp("captions") / "run")


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a bold ox", {"kind": "Ox", "width": "bold"}),
        ("HEN, thick strokes", {"kind": "Hen", "width": "bold"}),
        ("a picture of an ox", {"kind": "Ox"}),
        ("bold and thick", {"width": "bold"}),
        ("", {}),
    ],
)
def test_what_a_caption_says(caption: str, said: dict[str, str]) -> None:
    assert said_in(caption, FARM) == said


def test_numbers_are_words_and_words_are_numbers() -> None:
    for levels in (("zero", "one", "two"), ("0", "1", "2")):
        for caption in ("a two", "the digit 2"):
            assert said_in(caption, [Covariate("labels", levels)]) == {"labels": levels[2]}


@pytest.mark.parametrize(
    ("caption", "message"),
    [("a bolt ox", r"'bolt'.*\n.*'bold'"), ("a hen ox", "both Hen and Ox"), ("a cow", r"'cow'.*\n.*Choose one of")],
)
def test_what_says_nothing_is_refused_with_what_is_near(caption: str, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        said_in(caption, FARM)


def test_a_context_has_zeros_for_what_is_not_said_if_the_model_knows_them() -> None:
    naming = Naming(covariates=FARM)
    assert caption_context("a bold ox", naming, drop=0.0).tolist() == [0, 1, 0, 0, 1]
    assert caption_context("an ox", naming, drop=0.1).tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(ElbowroomError, match=r"nothing of width(.|\n)*--data.context-drop"):
        caption_context("an ox", naming, drop=0.0)
    with pytest.raises(ElbowroomError, match="not conditional on anything"):
        caption_context("an ox", Naming(), drop=0.1)
    with pytest.raises(ElbowroomError, match="conditional on weight"):
        caption_context("an ox", Naming(covariates=(Covariate("weight"),)), drop=0.1)


# --- a run -----------------------------------------------------------------------------------------------------------


def test_the_prior_reads_words_and_nothing_else_reads_the_caption(run: Run) -> None:
    assert [one.name for one in run.naming.covariates] == ["class", "width", "slant"]
    prior = run.model.prior
    assert isinstance(prior, CausalTransformer) and prior.network.words == (10, 3, 3)
    batch = next(iter(run.dataset().batches("test", 20)))
    none = torch.zeros_like(batch.context)  # type: ignore[arg-type]
    with torch.no_grad():
        z = run.guide(batch.x, batch.context).mode
        torch.testing.assert_close(run.guide(batch.x, none).mode, z)
        log_p = [run.model.log_likelihood(batch.x, z, context=given) for given in (batch.context, none)]
        torch.testing.assert_close(*log_p)
        assert not torch.equal(run.model.log_prior(z, batch.context), run.model.log_prior(z, none))


def test_the_best_come_first_by_what_the_caption_adds_to_the_codes(run: Run) -> None:
    found = run.sample_caption("a bold 3", 6, candidates=40, seed=1)
    assert found.mean.shape == found.x.shape == (6, 8, 8)
    said = found.context.expand(6, -1)
    with torch.no_grad():
        score = run.model.log_prior(found.z, said) - run.model.log_prior(found.z, torch.zeros_like(said))
    torch.testing.assert_close(found.score, score)
    assert (found.score.diff() <= 0).all()
    everyone = run.sample_caption("a bold 3", 40, seed=1)
    torch.testing.assert_close(everyone.score[:6], found.score)  # of the same 40
    plain = run.sample(40, context=said[:1].expand(40, -1), seed=1).z
    assert sorted(map(tuple, plain.tolist())) == sorted(map(tuple, everyone.z.tolist()))
    guided = run.sample_caption("a bold 3", 40, guidance=30.0, seed=1)
    assert guided.score.mean() > everyone.score.mean()


def test_captions_are_read_again_from_labels_and_pictures(run: Run) -> None:
    own = run.dataset()
    rows = own.splits["test"][:30]
    again = run.read(own.storage.gather(rows), labels=own.labels[rows])  # type: ignore[index]
    assert torch.equal(again.context, own.context[rows])  # type: ignore[index, arg-type]


def test_captions_that_are_written_beside_pictures_hold(run: Run, tmp_path: Path) -> None:
    """Bits have other strokes than the grey pictures that were captioned."""
    path, asked = tmp_path / "rows.npz", {"points": 25, "num_samples": 4}
    main(["evaluate", str(run.folder.path), "--methods", "elbo", "--points", "25", "--write-data", str(path), "--json"])
    own = run.dataset()
    there = run.read(path)
    assert torch.equal(there.context, own.context[torch.from_numpy(np.load(path)["row"])])  # type: ignore[index, arg-type]
    found = [run.evaluate("elbo", data=data, **asked)[0].value for data in (None, path)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_the_shares_of_captions_that_are_obeyed(run: Run) -> None:
    found = {one.word: one for one in captions_obeyed(run, 60)}
    assert list(found) == ["class", "width", "slant", "all"]
    assert found["class"].chance == pytest.approx(0.1) and found["all"].chance == pytest.approx(1 / 90)
    assert all(0 <= one.drawn <= 1 for one in found.values())
    assert found["all"].drawn <= min(found[word].drawn for word in ("class", "width", "slant"))


def test_a_judge_that_sees_the_pictures_themselves_finds_their_captions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the test pictures in the place of draws, all widths and slants are obeyed, and nearly all classes."""
    data = run.dataset()

    def themselves(num: int, *, context: torch.Tensor, **_: Any) -> Any:
        every = data.context[data.splits["test"]]  # type: ignore[index]
        places = [int((every == one.to(every)).all(1).nonzero()[0, 0]) for one in context]
        rows = data.splits["test"][torch.tensor(places)]
        return type("Drawn", (), {"mean": 16 * data.storage.gather(rows)})  # in another unit

    monkeypatch.setattr(run, "sample", themselves)
    found = {one.word: one.drawn for one in captions_obeyed(run, 100)}
    assert found["width"] == found["slant"] == 1
    assert found["class"] > 0.9


def test_a_run_that_is_resumed_leaves_out_the_same_words(run: Run, tmp_path: Path) -> None:
    whole, stopped = trained(tmp_path / "whole"), tmp_path / "stopped"

    def quits() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(stopped, observers=[Quits(13, quits)])
    train(out=stopped, resume=True, observers=[], announce=lambda said: None)
    ends = [load(path, checkpoint="latest").pair.state_dict() for path in (tmp_path / "whole", stopped)]
    assert whole.step == 20 and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_sampling_from_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, arrays = str(run.folder.path), str(tmp_path / "drawn.npz")
    flags = ("--num", "4", "--candidates", "8", "--guidance", "2", "--temperature", "0.9", "--top-p", "0.95")
    main(["sample", path, "--caption", "a bold seven leaning left", *flags, "--arrays", arrays])
    assert Path(arrays).is_file() and (run.folder.path / "figures" / "samples.png").is_file()
    capsys.readouterr()
    for wrong, said in (
        (("--caption", "a bald seven"), "Did you mean 'bold'?"),
        (("--caption", "a seven", "--context", "class=one"), "one context"),
        (("--candidates", "9"), "without a caption"),
        (("--caption", "a seven", "--num", "9", "--candidates", "4"), "--candidates"),
        (("--caption", "a seven", "--temperature", "0"), "--temperature is 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["sample", path, *wrong])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_rules_are_refused_where_they_have_no_meaning(run: Run, tmp_path: Path) -> None:
    plain = tiny(grey(), tmp_path / "plain", train={"steps": 2})
    with pytest.raises(ElbowroomError, match=r"code after code(.|\n)*transformer"):
        plain.sample(2, temperature=0.5)
    with pytest.raises(ElbowroomError, match="was not trained on captions"):
        captions_obeyed(plain)
    never = trained(tmp_path / "never", data={"context_drop": 0.0, "train": 400}, train={"steps": 3})
    with pytest.raises(ElbowroomError, match=r"Guidance of 2(.|\n)*--data.context-drop"):
        never.sample(2, context=torch.eye(16)[:2], guidance=2.0)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ({"context_in": "prior"}, {}, "there is no context"),
        ({"context_in": "prior"}, {"context": "labels"}, "the prior normal of this model reads none"),
    ],
)
def test_a_context_for_the_prior_needs_both(model: Any, data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError, match=message):
        tiny(grey(), tmp_path / "run", model=model, data=data, labels=[0, 1] * 26 + [0] if data else None)
