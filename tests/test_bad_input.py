"""Whatever a user gets wrong: exit code 2, what was given against what was expected, the remedy, and nothing lost.

Every row of the tables below is one mistake. It runs in a folder that holds a trained run; afterwards every file in
that folder must be what it was, byte by byte, and nothing may have been added.
"""

from __future__ import annotations

import builtins
import errno
import gzip
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from elbowroom.cli import main
from elbowroom.data import sources
from elbowroom.running import checkpoints, observers

TINY = {"--model.encoder.hidden": "4", "--model.decoder.hidden": "4", "--model.latent-dim": "2", "--train.epochs": "1"}
SPEAK_JSON = {"evaluate", "score", "data list", "data show", "recipes list", "runs list", "runs show"}

Answer = tuple[int, str, str]  # exit code, standard output, standard error
Ask = Callable[..., Answer]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file's content and every folder's existence; a lock is no content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name != ".lock":
            digest = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def assert_complains(answer: Answer, *words: str) -> None:
    """Exit code 2, and a problem and its remedy on standard error alone."""
    code, out, err = answer
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    message = err[err.index("elbowroom: ") :]
    problem, _, remedy = message.partition("\n  ")
    assert problem.rstrip().endswith("."), problem
    assert len(remedy.strip()) > 8, message
    for word in words:
        assert word in message, message


def tiny(*argv: str) -> list[str]:
    """The arguments, and those of a tiny model beside what they say themselves."""
    rest = [word for flag, value in TINY.items() if flag not in argv for word in (flag, value)]
    return [*argv, *rest]


def train_run(name: str, *argv: str) -> None:
    main(tiny("train", *argv, "--out", name, "--quiet"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Path:
    """A folder with three runs: on digits, on the user's own file, on grey pixels under cross-entropy."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        np.save("own.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
        often = ("--train.report-every", "5", "--train.checkpoint-seconds", "0")
        train_run("run", "digits", "--optimizer.schedule", "constant", *often)
        train_run("mine", "own.npy")
        train_run("grey", "digits", "--data.binarization", "none", "--model.likelihood", "cross-entropy")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh copy of the runs, as the working directory, beside files with every fault."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with every fault, and good ones that something else does not fit."""
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    grey = rng.random((40, 4)).astype(np.float32)
    np.save(folder / "grey.npy", grey)
    np.save(folder / "reals.npy", rng.normal(size=(40, 4)))
    np.save(folder / "counts.npy", rng.integers(-1, 9, (40, 4)))
    np.save(folder / "categories.npy", rng.integers(0, 5, (40, 4)) + np.eye(40, 4, dtype=int))
    np.save(folder / "one.npy", grey[:1])
    np.save(folder / "none.npy", grey[:0])
    np.save(folder / "complex.npy", grey.astype(complex))
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        spoilt = grey.copy()
        spoilt[7, 2] = value
        np.save(folder / f"{name}.npy", spoilt)
    constant = rng.normal(size=(40, 4))
    constant[:, 1] = 3.0
    np.save(folder / "constant.npy", constant)
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (folder / "empty.npy").touch()
    (folder / "truncated.npy").write_bytes((folder / "grey.npy").read_bytes()[:200])
    (folder / "text.npy").write_text("these are no numbers")
    (folder / "notes.txt").write_text("hello")
    np.savez(folder / "two.npz", a=grey, b=grey)
    np.savez(folder / "labels.npz", x=grey, labels=np.zeros(7))
    (folder / "words.csv").write_text("age,town\n" + "3,Ulm\n4,Bonn\n" * 20)
    (folder / "infinite.csv").write_text("age,size\n" + "3,1.5\n4,inf\n" * 20)
    (folder / "one.csv").write_text("age,size\n3,1.5\n")
    (folder / "ragged.csv").write_text("age,size\n3,1.5\n4\n5,6,7\n")
    (folder / "table.csv").write_text("age,size\n" + "".join(f"{i},{i / 7}\n" for i in range(40)))
    (folder / "nothing").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"no picture")
    (folder / "broken.toml").write_text("[model\nlatent_dim = 3\n")
    (folder / "section.toml").write_text("[modle]\nlatent_dim = 3\n")
    (folder / "key.toml").write_text('[model.encoder]\nhiden = [3]\n[data]\nname = "digits"\n')
    (folder / "type.toml").write_text('[train]\nepochs = "many"\n')
    (folder / "flat.toml").write_text("model = 3\n")
    (folder / "value.toml").write_text('[model]\nlikelihood = "bernouli"\n')
    return folder


@dataclass(frozen=True)
class Case:
    """A mistake: the command line ({bad} is the folder of faulty files) and what the message must name."""

    argv: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        first = self.argv.split()
        return " ".join(first[:2]) if first[0] in ("data", "recipes", "runs") else first[0]


def case(identity: str, argv: str, *words: str) -> Any:
    return pytest.param(Case(argv, words), id=identity)


def tr(arguments: str) -> str:
    return " ".join(tiny("train", *arguments.split(), "--out", "out"))


CASES = [
    # misspelt
    case("command", "trian digits", "'trian'", "'train'"),
    case("subcommand", "data shwo digits", "'shwo'", "'show'"),
    case("flag", "train digits --model.latent-dims 3", "--model.latent-dims", "Did you mean", "--model.latent-dim"),
    case("flag-of-evaluate", "evaluate run --splitt test", "--splitt", "--split"),
    case("root-flag", "--frobnicate", "--frobnicate"),
    case("recipe-or-data", "train mnits", "'mnits'", "'mnist'"),
    case("nothing-like-it", "train xyzzy", "'xyzzy'", "The nearest are", "recipes list"),
    case("recipe-to-show", "recipes show mnits", "'mnits'", "'mnist'"),
    case("data-to-fetch", "data fetch omnigolt", "'omnigolt'", "'omniglot'"),
    case("nothing-to-fetch", "data fetch", "No data set", "data list"),
    case("data-to-show", "data show digts", "digts", "'digits'"),
    case("method", "evaluate run --methods iwea", "'iwea'", "'iwae'"),
    case("split", "evaluate run --split tets", "tets", "'test'"),
    case("likelihood", tr("digits --model.likelihood bernouli"), "--model.likelihood", "bernouli", "'bernoulli'"),
    case("activation", tr("digits --model.encoder.activation rlu"), "'rlu'", "'relu'"),
    case("no-source", "train", "Nothing was named", "train digits"),
    case("no-run", "evaluate", "RUN is missing", "evaluate --help"),
    case("no-value", "train digits --out", "--out", "value"),
    case("too-many", "train digits mnist", "'mnist'", "too many"),
    # numbers that cannot be
    case("negative-epochs", tr("digits --train.epochs -1"), "--train.epochs is -1", "greater than 0"),
    case("zero-batch-size", tr("digits --train.batch-size 0"), "--train.batch-size is 0", "greater than 0"),
    case("zero-latents", tr("digits --model.latent-dim 0"), "--model.latent-dim is 0", "greater than 0"),
    case("no-number", tr("digits --train.batch-size many"), "--train.batch-size is many", "a whole number"),
    case("neither-number-nor-name", tr("digits --model.scale big"), "--model.scale is big", "learned"),
    case("width-of-nothing", tr("digits --model.encoder.hidden 8,0"), "--model.encoder.hidden", "greater than 0"),
    case("two-at-once", tr("digits --train.epochs 0 --train.batch-size -1"), "--train.epochs", "--train.batch-size"),
    case("two-sections", tr("digits --train.ema 1"), "--train.ema is 1", "less than 1"),
    case("share-above-one", tr("digits --data.validation 1.5"), "--data.validation", "1.5"),
    case("all-validation", tr("digits --data.validation 1790"), "1,790", "left to train on"),
    case("zero-k", "evaluate run --k 0", "--k is 0", "greater than 0", "describes --k"),
    case("k-of-letters", "evaluate run --k many", "--k is many", "a whole number"),
    case("zero-points", "evaluate run --points 0", "--points is 0", "greater than 0"),
    case("zero-draws", "evaluate run --num-samples 0", "--num-samples is 0", "greater than 0"),
    case("several-settings", "evaluate run --k 0 --start gide", "--k is 0", "--start is gide", "'guide'"),
    case("one-point-of-active-units", "evaluate run --methods active-units --points 1", "one example", "2 or more"),
    case("zero-samples", "sample run --num 0", "--num is 0", "1 or more"),
    case("zero-samples-of-a-table", "sample mine --num 0", "--num is 0", "1 or more"),
    case("zero-reconstructions", "reconstruct run --num 0", "--num is 0", "1 or more"),
    case("zero-k-of-score", "score run --k 0", "0", "1 or more"),
    # data
    case("missing-file", tr("{bad}/missing.npy"), "missing.npy", "nor a file"),
    case("missing-file-to-show", "data show {bad}/missing.npy", "missing.npy", "Check the path"),
    case("missing-file-to-score", "score mine {bad}/missing.npy", "missing.npy", "Check the path"),
    case("empty-file", tr("{bad}/empty.npy"), "empty.npy", "0 bytes"),
    case("truncated-file", tr("{bad}/truncated.npy"), "truncated.npy", "truncated", "numpy.save"),
    case("text-for-numbers", tr("{bad}/text.npy"), "text.npy", "numpy"),
    case("wrong-kind", tr("{bad}/notes.txt"), "notes.txt", ".npy"),
    case("pickled", tr("{bad}/pickled.npy"), "pickled", "never unpickles"),
    case("complex", tr("{bad}/complex.npy"), "complex numbers"),
    case("two-arrays", tr("{bad}/two.npz"), "a, b", "x"),
    case("too-few-labels", tr("{bad}/labels.npz"), "labels has shape (7,)", "each row"),
    case("empty-folder", tr("{bad}/nothing"), "nothing", "is empty"),
    case("damaged-picture", tr("{bad}/pictures"), "a.png", "cannot be read"),
    case("nan", tr("{bad}/nan.npy"), "NaN", "row 7", "--data.missing mask"),
    case("nan-to-score", "score mine {bad}/nan.npy", "NaN", "row 7"),
    case("infinity", tr("{bad}/inf.npy"), "infinite", "row 7"),
    case("infinity-in-csv", tr("{bad}/infinite.csv"), "infinite", "row 1"),
    case("words-in-csv", tr("{bad}/words.csv"), "'town'", "'Ulm'", "numbers"),
    case("ragged-csv", tr("{bad}/ragged.csv"), "ragged.csv", "columns"),
    case("one-row", tr("{bad}/one.npy"), "one row", "at least 2"),
    case("one-row-of-csv", tr("{bad}/one.csv"), "one row", "at least 2"),
    case("no-row", tr("{bad}/none.npy"), "no rows"),
    case("constant-column", tr("{bad}/constant.npy"), "are constant", "1", "Drop"),
    case("grey-under-bernoulli", tr("{bad}/grey.npy --model.likelihood bernoulli"), "between 0 and 1",
         "--data.binarization dynamic", "continuous-bernoulli"),
    case("reals-under-bernoulli", tr("{bad}/reals.npy --model.likelihood bernoulli"), "reals", "bernoulli"),
    case("reals-binarised", tr("{bad}/reals.npy --data.binarization dynamic"), "reals.npy", "binari"),
    case("negative-counts", tr("{bad}/counts.npy --data.support counts"), "-1", "negative", "counts"),
    case("categories-beyond", tr("{bad}/categories.npy --data.num-categories 3"), "3 categories", "0..2"),
    case("labels-that-are-not", tr("{bad}/grey.npy --data.context labels"), "labels", "no labels"),
    case("conditional-recipe-without-labels", tr("mnist-conditional --data.name {bad}/grey.npy --data.validation 4"),
         "labels", "no labels"),
    case("column-that-is-not", tr("{bad}/table.csv --data.context agee"), "'agee'", "'age'"),
    case("wrong-shape-at-score", "score run {bad}/grey.npy", "(4,)", "(8, 8)"),
    case("wrong-shape-at-encode", "encode run {bad}/grey.npy", "(4,)", "(8, 8)"),
    case("conv-on-a-table", tr("{bad}/reals.npy --model.encoder.kind conv"), "Convolutions", "shape (4)", "mlp"),
    # recipes
    case("no-recipe-file", "train {bad}/gone.toml --out out", "gone.toml", "recipes list"),
    case("no-config-file", "train digits --config {bad}/gone.toml --out out", "gone.toml"),
    case("no-toml", "train {bad}/broken.toml --out out", "broken.toml", "TOML"),
    case("unknown-section", "train {bad}/section.toml --out out", "section 'modle'", "'model'"),
    case("unknown-key", "train {bad}/key.toml --out out", "'model.encoder.hiden'", "'hidden'"),
    case("type", "train {bad}/type.toml --out out", "train.epochs is 'many'", "a number"),
    case("section-that-is-a-number", "train {bad}/flat.toml --out out", "model", "section"),
    case("value", "train {bad}/value.toml --out out", "model.likelihood", "'bernoulli'"),
    # settings that do not go together
    case("dreg-with-elbo", tr("digits --objective.estimator dreg"), "dreg", "iwae"),
    case("beta-with-iwae", tr("digits --objective.name iwae --objective.beta 2"), "beta", "iwae"),
    case("analytic-kl-of-vamp", tr("digits --model.prior vamp --objective.kl analytic"), "analytic", "monte-carlo"),
    case("free-bits-of-vamp", tr("digits --model.prior vamp --objective.free-bits 1"), "free_bits", "normal prior"),
    case("free-bits-by-sampling", tr("digits --objective.kl monte-carlo --objective.free-bits 1"), "free_bits"),
    case("stl-analytic", tr("digits --objective.estimator stl --objective.kl analytic"), "stl", "monte-carlo"),
    case("betas-beyond-one", tr("digits --optimizer.betas 1 2"), "--optimizer.betas", "less than 1"),
    # likelihoods that are none
    case("iwae-of-cross-entropy", "evaluate grey --methods iwae", "cross-entropy", "does not integrate to one"),
    case("score-of-cross-entropy", "score grey", "cross-entropy", "does not integrate to one", "continuous-bernoulli"),
    # machines
    case("unknown-device", tr("digits --runtime.device gpu"), "'gpu'", "cuda"),
    case("unknown-device-at-evaluate", "evaluate run --device gpu", "'gpu'", "cuda"),
    # runs and files
    case("run-exists", "train digits --out run", "run", "exists already", "--resume", "--overwrite", "run-2"),
    case("out-is-a-file", "train digits --out own.npy", "own.npy", "a file"),
    case("out-below-a-file", "train digits --out own.npy/run", "own.npy"),
    case("no-such-run", "evaluate runs/gone", "runs/gone", "no config.json", "runs list"),
    case("resume-of-nothing", "train digits --resume --out gone", "gone", "no config.json"),
    case("resume-with-another-model", "train digits --resume --out run --model.latent-dim 9", "model.latent_dim", "9"),
    case("scores-into-a-folder", "score run --out grey", "grey is a folder"),
    case("scores-into-nowhere", "score run --out gone/scores.csv", "gone", "mkdir"),
    case("codes-by-another-name", "encode run --out codes.csv", "codes.csv", ".npz"),
    case("arrays-by-another-name", "sample run --arrays x.npy", "x.npy", ".npz"),
    case("picture-into-nowhere", "data show digits --out gone/digits.png", "gone", "mkdir"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", CASES)
def test_a_mistake_is_explained_and_costs_nothing(mistake: Case, here: Path, bad: Path, ask: Ask) -> None:
    before = snapshot(here)
    argv = [word.format(bad=bad) for word in mistake.argv.split()]
    assert_complains(ask(*argv), *mistake.words)
    if mistake.command in SPEAK_JSON:
        assert_complains(ask(*argv, "--json"), *mistake.words)
    assert snapshot(here) == before


# Settings that are found out only when the model is built or measured must not have emptied the run by then.
REPLACING = [
    "digits --objective.estimator dreg",
    "digits --objective.name iwae --objective.beta 2",
    "digits --model.prior vamp --objective.kl analytic",
    "digits --model.encoder.activation rlu",
    "digits --optimizer.betas 1 2",
    "{bad}/constant.npy",
    "{bad}/nan.npy",
    "{bad}/grey.npy --model.likelihood bernoulli",
    "digits --runtime.device gpu",
]


@pytest.mark.parametrize("settings", REPLACING)
def test_overwrite_spares_the_run_when_the_new_one_cannot_be(settings: str, here: Path, bad: Path, ask: Ask) -> None:
    before = snapshot(here)
    assert_complains(ask(*tiny("train", *settings.format(bad=bad).split(), "--out", "run", "--overwrite")))
    assert snapshot(here) == before


# --- runs that were damaged --------------------------------------------------------------------------------------


def _flip(file: Path, at: int = -5) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def _lose_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def _damage_checkpoints(run: Path) -> None:
    for file in (run / "checkpoints").glob("step-*/model.safetensors"):
        _flip(file)


def _damage_config(run: Path) -> None:
    (run / "config.json").write_text((run / "config.json").read_text()[:-40])


def _empty_config(run: Path) -> None:
    (run / "config.json").write_text("{}")


def _foreign_config(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["model"]["latent_dims"] = 3
    (run / "config.json").write_text(json.dumps(content))


def _other_architecture(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    content["config"]["model"]["latent_dim"] = 3
    (run / "config.json").write_text(json.dumps(content))


def _damage_results(run: Path) -> None:
    (run / "evaluation.json").write_text('{"results": [')


DAMAGES = [
    pytest.param(_lose_checkpoints, "evaluate run", ("no good checkpoint", "--overwrite"), id="no-checkpoint"),
    pytest.param(_damage_checkpoints, "evaluate run", ("no good checkpoint", "changed on disk"), id="all-damaged"),
    pytest.param(_damage_checkpoints, "train digits --resume --out run", ("no good checkpoint",), id="resume-damaged"),
    pytest.param(_damage_config, "evaluate run", ("config.json", "JSON"), id="config-cut-short"),
    pytest.param(_damage_config, "runs show run", ("config.json", "JSON"), id="config-cut-short-shown"),
    pytest.param(_empty_config, "evaluate run", ("config.json",), id="config-empty"),
    pytest.param(_empty_config, "runs show run", ("config.json",), id="config-empty-shown"),
    pytest.param(_foreign_config, "evaluate run", ("config.json", "latent_dims"), id="config-with-a-foreign-key"),
    pytest.param(_other_architecture, "evaluate run", ("do not fit", "config.json"), id="other-architecture"),
    pytest.param(_damage_results, "evaluate run --methods elbo", ("evaluation.json", "JSON"), id="results-cut-short"),
    pytest.param(_damage_results, "runs show run", ("evaluation.json", "JSON"), id="results-cut-short-shown"),
]


@pytest.mark.parametrize(("damage", "argv", "words"), DAMAGES)
def test_a_damaged_run_is_named(
    damage: Callable[[Path], None], argv: str, words: tuple[str, ...], here: Path, ask: Ask
) -> None:
    damage(here / "run")
    before = snapshot(here)
    assert_complains(ask(*argv.split()), *words)
    assert snapshot(here) == before


def test_a_flipped_byte_falls_back_to_the_last_good_checkpoint(here: Path, ask: Ask) -> None:
    pointed = (here / "run/checkpoints/best").read_text().strip()
    _flip(here / "run/checkpoints" / pointed / "model.safetensors")
    code, out, err = ask("evaluate", "run", "--methods", "elbo", "--json")
    assert code == 0, err
    assert json.loads(out)["results"]
    assert f"{pointed} is damaged" in err
    assert "fell back to step-" in err


def test_a_damaged_run_hides_no_other_in_the_list(here: Path, ask: Ask) -> None:
    _damage_config(here / "grey")
    code, out, err = ask("runs", "list", ".", "--json")
    assert code == 0, err
    assert [Path(run["run"]).name for run in json.loads(out)["runs"]] == ["mine", "run"]
    assert "grey" in err


@pytest.mark.parametrize(
    "argv", ["evaluate new", "sample new", "train own.npy --resume --out new --train.epochs 2"], ids=lambda v: v[:8]
)
def test_changed_data_are_noticed(argv: str, here: Path, ask: Ask) -> None:
    ask(*tiny("train", "own.npy", "--out", "new", "--quiet"))  # a run knows its data by their absolute path
    x = np.load("own.npy")
    np.save("own.npy", x + 1)
    before = snapshot(here)
    assert_complains(ask(*argv.split()), "own.npy", "have changed since", "SHA-256")
    assert snapshot(here) == before


def test_foreign_files_are_never_overwritten(here: Path, ask: Ask) -> None:
    (here / "photos").mkdir()
    (here / "photos/holiday.txt").write_text("dear")
    before = snapshot(here)
    assert_complains(ask("train", "digits", "--out", "photos", "--overwrite"), "no config.json", "--out")
    assert snapshot(here) == before


@pytest.mark.parametrize(
    "argv", ["train digits --resume --out run --train.epochs 2", "train digits --overwrite --out run", "evaluate run"]
)
def test_a_run_that_is_being_written_is_left_alone(argv: str, here: Path, ask: Ask) -> None:
    before = snapshot(here)
    with FileLock(here / "run/.lock"):
        assert_complains(ask(*argv.split()), "another process", "--out")
    assert snapshot(here) == before


# --- a machine that lacks something ------------------------------------------------------------------------------


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package look as if it were not installed."""

    def hide(package: str) -> None:
        real = builtins.__import__

        def fake(name: str, *args: Any, **rest: Any) -> Any:
            if name == package or name.startswith(f"{package}."):
                raise ModuleNotFoundError(f"No module named '{package}'", name=package)
            return real(name, *args, **rest)

        for loaded in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setattr(builtins, "__import__", fake)

    return hide


def test_a_table_without_polars(here: Path, bad: Path, ask: Ask, without: Callable[[str], None]) -> None:
    without("polars")
    before = snapshot(here)
    assert_complains(ask(*tiny("train", str(bad / "table.csv"), "--out", "out")), "polars", "elbowroom[tables]")
    assert snapshot(here) == before


def test_tensorboard_without_tensorboard(here: Path, ask: Ask, without: Callable[[str], None]) -> None:
    without("torch.utils.tensorboard")
    before = snapshot(here)
    answer = ask(*tiny("train", "digits", "--train.tensorboard", "--out", "out"))
    assert_complains(answer, "TensorBoard", "elbowroom[tensorboard]")
    assert snapshot(here) == before


@pytest.mark.parametrize("argv", ["train digits --runtime.device cuda --out out", "evaluate run --device cuda"])
def test_no_gpu_where_one_is_asked_for(argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = snapshot(here)
    assert_complains(ask(*argv.split()), "'cuda'", "cpu")
    assert snapshot(here) == before


@pytest.mark.parametrize("argv", ["data fetch fashion-mnist", tr("fashion-mnist")], ids=["fetch", "train"])
def test_no_network(argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, path: Path) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(sources, "_download", refuse)
    assert_complains(ask(*argv.split()), "fashion-mnist", "name resolution", "$ELBOWROOM_DATA/FashionMNIST")
    assert not (here / "out").exists()


def test_a_download_with_the_wrong_digest_is_not_kept(here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(url: str, path: Path) -> None:
        path.write_bytes(gzip.compress(b"not clothes"))  # whole, but another file

    monkeypatch.setattr(sources, "_download", serve)
    answer = ask("data", "fetch", "fashion-mnist")
    assert_complains(answer, "train-images-idx3-ubyte.gz", "sha256", "was expected")
    assert not [path for path in sources.cache_folder().rglob("*") if path.is_file()]


# --- a disk that is full -----------------------------------------------------------------------------------------


def _full(*args: Any, **rest: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name"), [(checkpoints, "save_model"), (checkpoints, "save_file"), (os, "fsync"), (os, "replace")]
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    module: Any, name: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers = [(here / "run/checkpoints" / pointer).read_text() for pointer in ("best", "latest")]
    if name == "replace":  # what Path.replace calls
        monkeypatch.setattr(Path, "replace", _full)
    else:
        monkeypatch.setattr(module, name, _full)
    answer = ask("train", "digits", "--resume", "--out", "run", "--train.epochs", "2", "--quiet")
    assert_complains(answer, "full", "room")
    monkeypatch.undo()
    os.chdir(here)
    assert [(here / "run/checkpoints" / pointer).read_text() for pointer in ("best", "latest")] == pointers
    assert ask("evaluate", "run", "--methods", "elbo")[0] == 0
    code, _, err = ask("train", "digits", "--resume", "--out", "run", "--train.epochs", "2", "--quiet")
    assert code == 0, err


@pytest.mark.parametrize("argv", ["score run --k 2", "evaluate run --methods elbo", "encode run"])
def test_a_full_disk_while_results_are_written(
    argv: str, here: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(here)
    monkeypatch.setattr(os, "fsync", _full)
    monkeypatch.setattr(np, "savez", _full)
    code, _, err = ask(*argv.split())
    assert code == 2
    assert "full" in err
    assert "Make room" in err
    changed = {path for path, digest in snapshot(here).items() if before.get(path) != digest}
    assert all(".writing" in path for path in changed), changed


# --- training that goes wrong, or is stopped ---------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_term_and_cause(here: Path, ask: Ask) -> None:
    often = ("--train.report-every", "1", "--train.checkpoint-seconds", "0")
    answer = ask(*tiny("train", "digits", "--optimizer.lr", "1e30", *often, "--out", "wild", "--quiet"))
    assert_complains(answer, "At step ", "finite", "elbo = ", "learning rate", "--optimizer.lr")


def test_weights_from_before_a_divergence_are_kept(here: Path, ask: Ask) -> None:
    steep = ("--optimizer.name", "sgd", "--optimizer.schedule", "one-cycle", "--optimizer.lr", "30")
    often = ("--train.report-every", "1", "--train.checkpoint-seconds", "0")
    assert_complains(
        ask(*tiny("train", "digits", *steep, *often, "--out", "wild", "--quiet")), "the last good checkpoint"
    )
    code, out, err = ask("evaluate", "wild", "--methods", "elbo", "--json")
    assert code == 0, err
    assert -200 < json.loads(out)["results"][0]["value"] < 0


class Interrupting:
    """Counts steps, and presses Ctrl-C in the middle of an epoch."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Presses Ctrl-C after so many steps of the next training."""

    def install(steps: int) -> None:
        press = Interrupting(steps)
        monkeypatch.setattr(observers.Silent, "step", lambda self: press())

    yield install


def test_ctrl_c_saves_and_resume_ends_with_the_same_numbers(
    here: Path, ask: Ask, interrupt_after: Callable[[int], None]
) -> None:
    settings = tiny("train", "digits", "--train.epochs", "2", "--quiet")
    assert ask(*settings, "--out", "whole")[0] == 0
    interrupt_after(7)
    code, out, err = ask(*settings, "--out", "cut")
    assert code == 130
    assert out == ""
    assert "--resume" in err
    assert "Traceback" not in err
    assert (here / "cut/checkpoints/latest").read_text().strip() == "step-7"
    code, out, err = ask("train", "digits", "--resume", "--out", "cut", "--quiet")
    assert code == 0, err
    assert "from step 7" in err

    def lines(run: str) -> list[dict[str, Any]]:
        rows = map(json.loads, (here / run / "metrics.jsonl").read_text().splitlines())
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert lines("cut") == lines("whole")
