"""``elbowroom impute``: what it fills in, what it leaves alone, what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import elbowroom as er
from elbowroom.cli import main
from elbowroom.cli.filled_cells import cell_texts, write_cells
from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.observers import Silent
from elbowroom.running.runs import Run, load

QUICK = ("--draws", "10", "--chains", "2", "--warmup", "10")
FAST = {"draws": 10, "chains": 2, "warmup": 10}
LEAST = {"draws": 4, "chains": 2, "warmup": 1, "interval": 0.4}  # where it is not looked at what was drawn
FITTED = ("--quiet", "--optimizer.lr", "0.02", "--train.batch-size", "200", "--train.report-every", "1000")
TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--model.latent-dim", "2")
BRIEF = ("--train.epochs", "2", "--quiet")

Ask = Callable[..., tuple[int, str, str]]  # arguments -> exit code, standard output, standard error


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Iterator[Path]:
    """The working directory, with runs on digits, on a table, on grey pixels, and files with and without holes."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    os.chdir(folder)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 1)) @ np.ones((1, 3)) + 0.1 * rng.normal(size=(200, 3))) * [1, 10, 100] + [0, 50, 1000]
    table = ["age,size,weight", *(",".join(f"{value:.3f}" for value in row) for row in x)]
    Path("whole.csv").write_text("\n".join(table) + "\n")
    Path("holes.csv").write_text("age,size,weight\n0.125,,1012.500\nNA,51.000,1003.000\n-1.000,40.00012345,900.000\n")
    np.save("other.npy", rng.random(size=(9, 5)))
    np.save("half.npy", (np.arange(64).reshape(8, 8) < 32).astype(np.uint8))
    np.save("flat.npy", np.ones(64))
    np.save("levels.npy", np.full((8, 8), 2))
    np.save("blank.npy", np.zeros((8, 8)))
    np.savez("archive.npz", mask=np.arange(64).reshape(8, 8) < 32)
    np.savez("nothing.npz", seen=np.ones(64))
    Path("text.npy").write_text("no array")
    try:
        main(["train", "digits", *TINY, *BRIEF, "--out", "run"])
        main(["train", "whole.csv", *TINY, "--out", "mine", "--train.epochs", "200", *FITTED])
        cross = ("--data.binarization", "none", "--model.likelihood", "cross-entropy")
        main(["train", "digits", *TINY, *BRIEF, *cross, "--out", "grey"])
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def digits() -> Run:
    return load("run")


# --- what is written ---------------------------------------------------------------------------------------------


def test_half_hidden_digits_are_completed(ask: Ask) -> None:
    code, out, err = ask("impute", "run", "--hide", "bottom", "--num", "6", *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "filled in 192 of 384 values, in 6 of 6 examples"
    assert "2 chains of 10 draws each: R-hat" in lines[1]
    assert lines[2].startswith("log-loss ")  # intervals of zeros and ones hold both, and are not spoken of
    warned, wrote = lines[3:-2], lines[-2:]  # of chains as short as these
    assert all(line.startswith(("warning: The chains of an example", "warning: The draws of ")) for line in warned)
    assert wrote == ["wrote run/imputed.npz", "wrote run/figures/completions.png"]
    assert Path("run/figures/completions.png").stat().st_size > 1000
    with np.load("run/imputed.npz") as found:
        assert set(found) == {"x", "mask", "mean", "lower", "upper", "stddev", "samples", "completed", "truth", "rows"}
        mask, truth = found["mask"], found["truth"]
        assert mask[:, :4].all()
        assert not mask[:, 4:].any()
        assert found["samples"].shape == (5, 6, 8, 8)
        for name in ("mean", "lower", "upper", "completed"):
            assert (found[name][mask] == truth[mask]).all()
        assert ((found["mean"] >= 0) & (found["mean"] <= 1)).all()
        assert (found["x"][~mask] == 0).all()  # the hidden part was not seen


def test_a_table_trained_whole_fills_in_one_with_holes(ask: Ask) -> None:
    code, out, err = ask("impute", "mine", "holes.csv", "--out", "filled.npz", *QUICK)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "filled in 2 of 9 values, in 2 of 3 examples"
    assert out.splitlines()[-2:] == ["wrote filled.npz", "wrote filled.csv"]
    rows = [line.split(",") for line in Path("filled.csv").read_text().splitlines()]
    assert rows[0] == ["age", "size", "weight"]
    numbers = np.array(rows[1:], dtype=float)
    assert numbers[2].tolist() == [-1.0, 40.00012345, 900.0]  # to the last digit
    assert (numbers[0, [0, 2]].tolist(), numbers[1, 1:].tolist()) == ([0.125, 1012.5], [51.0, 1003.0])
    with np.load("filled.npz") as found:
        assert numbers[0, 1] == pytest.approx(found["completed"][0, 1], rel=1e-5)
        assert numbers[1, 0] == pytest.approx(found["completed"][1, 0], rel=1e-5)
        assert found["lower"][0, 1] < numbers[0, 1] < found["upper"][0, 1]
        assert "truth" not in found
    # all columns say the same of the one latent there is: 1012.5 is 0.125 standard deviations above the middle
    assert abs(numbers[0, 1] - 51.25) < 4
    assert not Path("mine/figures/completions.png").exists()


@pytest.fixture(scope="module")
def answers(workplace: Path) -> Path:
    """A run on a table of yes and no as 1 and 0, whose columns agree; and one with holes."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.integers(0, 2, (120, 1)), 3, axis=1)
    flipped = rng.random(rows.shape) < 0.1
    np.savetxt("answers.csv", rows ^ flipped, fmt="%d", delimiter=",", header="a,b,c", comments="")
    Path("asked.csv").write_text("a,b,c\n1,,1\n,0,0\n0,0,\n1,1,1\n")
    main(["train", "answers.csv", *TINY, "--out", "yes", "--train.epochs", "60", *FITTED])
    return Path("yes")


def test_a_binary_table_is_filled_in_with_zeros_and_ones(answers: Path, ask: Ask) -> None:
    code, out, err = ask("impute", "yes", "asked.csv", "--out", "said.npz", *QUICK)
    assert (code, err) == (0, "")
    assert out.splitlines()[-3:] == ["wrote said.npz", "wrote said.csv", "wrote said-cells.csv"]
    assert Path("said.csv").read_text() == "a,b,c\n1,1,1\n0,0,0\n0,0,0\n1,1,1\n"
    lines = [line.split(",") for line in Path("said-cells.csv").read_text().splitlines()]
    assert lines[0] == ["row", "column", "filled", "probability"]
    assert [line[:3] for line in lines[1:]] == [["0", "b", "1"], ["1", "a", "0"], ["2", "c", "0"]]
    with np.load("said.npz") as found:  # the probability that it is 1, as ever
        one = [found["completed"][at] for at in ((0, 1), (1, 0), (2, 2))]
    expected = [one[0], 1 - one[1], 1 - one[2]]
    assert [float(line[3]) for line in lines[1:]] == pytest.approx(expected, rel=1e-5)
    assert all(0.5 < probability < 1 for probability in expected)


def test_counts_and_categories_are_filled_in_as_what_they_are(tmp_path: Path, ask: Ask) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(0, 3, (90, 1)), 3, axis=1)
    np.savetxt(tmp_path / "x.csv", x, fmt="%d", delimiter=",", header="a,b,c", comments="")
    (tmp_path / "holes.csv").write_text("a,b,c\n2,,2\n,1,1\n")
    for support, columns in (("counts", ["mean", "lower", "upper"]), ("categories", ["probability"])):
        run = str(tmp_path / support)
        code, _, err = ask("train", str(tmp_path / "x.csv"), *TINY, "--data.support", support, "--out", run, *BRIEF)
        assert code == 0, err
        code, out, err = ask("impute", run, str(tmp_path / "holes.csv"), *QUICK)
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == f"wrote {run}/imputed-cells.csv"
        table = (tmp_path / support / "imputed.csv").read_text().splitlines()
        cells = [line.split(",") for line in (tmp_path / support / "imputed-cells.csv").read_text().splitlines()]
        assert cells[0] == ["row", "column", "filled", *columns]
        filled = [table[1].split(",")[1], table[2].split(",")[0]]
        assert [cell[2] for cell in cells[1:]] == filled
        assert all(text in {"0", "1", "2", "3", "4"} for text in filled)
        if support == "counts":
            for _, _, text, mean, lower, upper in cells[1:]:
                assert abs(float(mean) - int(text)) <= 0.5 and float(lower) <= float(mean) <= float(upper)


def test_a_value_is_spelled_as_its_column_spells_it(answers: Path) -> None:
    found = impute("yes", np.array([[1, np.nan, 1], [0, 0, 0], [1, 1, 1]], dtype=np.float32), **FAST)
    assert found.rounded.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert cell_texts(found, 1, [None, "no", "yes"]) == ["yes", "no", "yes"]
    assert cell_texts(found, 1, [None, "0.0", "1.0"])[0] == "1.0"
    assert found.certainty is not None and found.certainty[1:].eq(1).all()


def test_large_numbers_keep_the_digits_that_tell_them_apart(digits: Run) -> None:
    found = impute("mine", np.array([[0.1, np.nan, 1010.0], [0.3, 52.0, 1020.0]], dtype=np.float32), **FAST)
    far = replace(found, completed=found.completed.double() + 1.7e9)
    assert cell_texts(far, 1, ["", ""])[1] == "1700000052"
    assert cell_texts(found, 1, ["", ""])[1] == "52"


def test_warnings_come_with_the_json_too(ask: Ask) -> None:
    _, out, _ = ask("impute", "mine", "holes.csv", "--out", "again.npz", "--json", "--jumps", *QUICK)
    answer = json.loads(out)
    assert isinstance(answer["diagnostics"]["warnings"], list)
    assert answer["settings"]["jumps"] is True


def test_json_says_where_the_files_are(ask: Ask) -> None:
    code, out, err = ask("impute", "mine", "whole.csv", "--hide", "0.3", "--num", "50", "--json", *QUICK)
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert answer["wrote"] == ["mine/imputed.npz"]  # what was hidden is not written over the table
    assert answer["missing"] == answer["recovery"]["num_values"]
    assert 0.5 < answer["recovery"]["coverage"] <= 1
    assert answer["recovery"]["value"] < 0.8 < answer["recovery"]["baseline"] < 1.3  # in standard deviations
    assert answer["settings"]["draws"] == 10


# --- what is missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "kept"),
    [("top", np.s_[4:, :]), ("bottom", np.s_[:4, :]), ("left", np.s_[:, 4:]), ("right", np.s_[:, :4])],
)
def test_a_side_is_hidden(side: str, kept: tuple[slice, slice], digits: Run) -> None:
    found = impute(digits, hide=side, num=2, **LEAST)
    expected = np.zeros((8, 8), dtype=bool)
    expected[kept] = True
    assert (found.mask.numpy() == expected).all()
    assert found.hidden is not None
    assert torch.equal(found.hidden, ~found.mask)


@pytest.mark.parametrize("mask", ["half.npy", "archive.npz", np.arange(64).reshape(8, 8) < 32])
def test_a_mask_says_what_was_observed(mask: object, digits: Run) -> None:
    found = impute(digits, mask=mask, num=2, **LEAST)
    assert found.mask[:, :4].all()
    assert not found.mask[:, 4:].any()


def test_a_mask_of_all_data_follows_the_chosen_rows(digits: Run) -> None:
    size = digits.dataset().size("test")
    mask = torch.rand(size, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    found = impute(digits, mask=mask, num=3, **LEAST)
    within = torch.searchsorted(digits.dataset().splits["test"], found.rows)
    assert torch.equal(digits.dataset().splits["test"][within], found.rows)  # rows of the data, not of the split
    assert within.tolist() != [0, 1, 2]
    assert torch.equal(found.mask, mask[within])
    assert found.truth is not None
    assert torch.equal(found.truth, digits.dataset().take("test", within).x)


def test_a_rate_hides_by_chance_and_by_the_seed(digits: Run) -> None:
    one, two, other = (impute(digits, hide=0.25, num=20, seed=seed, **LEAST) for seed in (0, 0, 1))
    assert abs((~one.mask).float().mean() - 0.25) < 0.05
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.samples, two.samples)
    assert not torch.equal(one.mask, other.mask)


def test_what_is_hidden_does_not_reach_the_model(digits: Run) -> None:
    """Two data that differ below the middle alone are one and the same once that is hidden."""
    x = np.zeros((1, 8, 8), dtype=np.float32)
    other = x.copy()
    x[0, 0, :], other[0, 0, :], other[0, 4:] = 1, 1, 1
    one, two = (impute(digits, values, hide="bottom", **LEAST) for values in (x, other))
    assert torch.equal(one.samples, two.samples)
    assert one.recovery != two.recovery


def test_nan_and_hiding_go_together() -> None:
    x = np.array([[0.1, np.nan, 1010.0], [0.3, 52.0, 1020.0], [np.nan, np.nan, np.nan]], dtype=np.float32)
    found = impute("mine", x, hide=0.5, seed=3, **FAST)
    assert found.hidden is not None
    assert not found.hidden[torch.from_numpy(np.isnan(x))].any()
    assert not found.mask[torch.from_numpy(np.isnan(x))].any()
    assert found.recovery is not None
    assert found.recovery.num_values == int(found.hidden.sum()) > 0
    assert 40 < found.completed[2, 1] < 60  # nothing is known of it: about the mean


def test_categories_are_recovered_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.integers(0, 3, (120, 1)), 4, axis=1)
    run = er.train(
        x, out=tmp_path / "run", data={"support": "categories"}, observers=[Silent()], announce=lambda _: None,
        model={"latent_dim": 2, "encoder": {"hidden": [16]}, "decoder": {"hidden": [16]}},
        train={"epochs": 150, "batch_size": 120, "report_every": 1000}, optimizer={"lr": 0.05},
    )  # fmt: skip
    found = impute(run, hide=0.4, split="train", num=40, **FAST)
    assert found.recovery is not None
    assert (found.recovery.measure, found.recovery.coverage) == ("accuracy", None)
    assert found.recovery.value > 0.8  # of one's neighbours' number; a guess is right once in three
    assert abs(found.recovery.value - found.recovery.baseline) < 0.2


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED = [
    ("impute run", ("None of the 10 examples has a missing value", "--hide bottom")),
    ("impute mine whole.csv", ("None of the 200 examples", "--mask")),
    ("impute run --hide botom", ("'botom'", "'bottom'")),
    ("impute run --hide 1.5", ("--hide is 1.5", "between 0 and 1")),
    ("impute run --hide 0", ("--hide is 0", "between 0 and 1")),
    ("impute run --hide nan", ("--hide is nan", "between 0 and 1")),
    ("impute mine --hide top", ("not pictures", "--hide 0.3")),
    ("impute run --mask gone.npy", ("no mask file gone.npy", "Check the path")),
    ("impute run --mask flat.npy", ("(64,)", "(8, 8)", "1 where it was observed")),
    ("impute run --mask levels.npy", ("other values than 0 and 1",)),
    ("impute run --mask text.npy", ("text.npy", "numpy.save")),
    ("impute run --mask nothing.npz", ("nothing.npz", "named mask")),
    ("impute run --hide top --interval 1", ("interval is 1", "between 0 and 1")),
    ("impute run --hide top --interval 0", ("interval is 0", "between 0 and 1")),
    ("impute run --hide top --interval 0.999", ("800 draws", "1,999", "more draws")),
    ("impute run --hide top --draws 3", ("draws is 3", "4 or more")),
    ("impute run --hide top --chains 0", ("chains is 0", "1 or more")),
    ("impute run --hide top --warmup 0", ("warmup is 0", "1 or more")),
    ("impute run --hide top --num 0", ("--num is 0", "1 or more")),
    ("impute run --hide top --method gibbs", ("gibbs", "nuts")),
    ("impute run --hide top --split tset", ("tset", "'test'")),
    ("impute run other.npy", ("(5,)", "(8, 8)")),
    ("impute run gone.npy", ("gone.npy", "Check the path")),
    ("impute grey --hide top", ("cross-entropy", "does not integrate to one", "continuous-bernoulli")),
    ("impute gone --hide top", ("gone", "no config.json")),
    ("impute run --hide top --out x.csv", ("x.csv", ".npz")),
    ("impute run --hide top --out gone/x.npz", ("gone", "mkdir")),
    ("impute mine holes.csv --out holes.npz", ("holes.csv", "over the data themselves", "--out")),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "words"), REFUSED, ids=[argv.removeprefix("impute ") for argv, _ in REFUSED])
def test_a_mistake_is_explained_and_costs_nothing(argv: str, words: tuple[str, ...], ask: Ask) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and path.name != ".lock"}
    for more in ((), ("--json",)):
        code, out, err = ask(*argv.split(), *more)
        assert (code, out) == (2, ""), err
        problem, _, remedy = err[err.index("elbowroom: ") :].partition("\n  ")
        assert problem.rstrip().endswith("."), err
        assert len(remedy.strip()) > 8, err
        for word in words:
            assert word in err, err
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_a_stream_has_no_rows_of_its_own(tmp_path: Path) -> None:
    class Endless(torch.utils.data.IterableDataset[torch.Tensor]):
        def __iter__(self) -> Iterator[torch.Tensor]:
            generator = torch.Generator().manual_seed(0)
            while True:
                yield torch.randn(3, generator=generator)

    run = er.train(
        Endless(), out=tmp_path / "run", observers=[Silent()], announce=lambda _: None,
        model={"latent_dim": 1, "encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}}, train={"steps": 5},
    )  # fmt: skip
    with pytest.raises(ElbowroomError, match="stream"):
        impute(run, hide=0.3)
    found = impute(run, np.array([[0.5, np.nan, 1.0]]), **FAST)
    assert found.num_missing == 1


def test_a_filled_cell_names_its_row(answers: Path, tmp_path: Path) -> None:
    found = impute("yes", np.array([[1, np.nan, 1], [0, 0, np.nan]], dtype=np.float32), **FAST)
    found = replace(found, ids={"column": ["007", "008"]})
    lines = write_cells(tmp_path / "cells.csv", found, ["a", "b", "c"]).read_text().splitlines()
    assert lines[0] == "row,column,filled,probability,id_column"
    assert [line.split(",")[-1] for line in lines[1:]] == ["007", "008"]
