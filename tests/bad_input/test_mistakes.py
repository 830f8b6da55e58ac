"""Whatever a user gets wrong: exit code 2, what was given against what was expected, the remedy, and nothing lost.

Every row of the tables below is one mistake. It runs in a folder that holds a trained run; afterwards every file in
that folder must be what it was, byte by byte, and nothing may have been added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from complaints import Ask, assert_complains, snapshot, tiny, tr

SPEAK_JSON = {"evaluate", "score", "data list", "data show", "recipes list", "runs list", "runs show"}


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
    case("wrong-kind", tr("{bad}/notes.doc"), "notes.doc", ".npy"),
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
    case("words-in-csv", tr("{bad}/words.csv --data.support reals"), "'town'", "'Ulm'", "numbers"),
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
