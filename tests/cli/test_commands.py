"""Every command on a small trained run: what it writes, what it prints, what its help says."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from elbowroom import __version__
from elbowroom.cli import main
from elbowroom.data import sources
from elbowroom.running.config import configure, read_recipe, recipe_names
from elbowroom.running.folder import RunFolder

TINY = ("--model.encoder.hidden", "6", "--model.decoder.hidden", "6", "--train.epochs", "2", "--quiet")

Say = Callable[..., tuple[str, str]]  # arguments -> standard output, standard error


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Iterator[Path]:
    """The working directory, with data of several kinds and a run on each of three."""
    folder, before = tmp_path_factory.mktemp("workplace"), Path.cwd()
    os.chdir(folder)
    _write_data(np.random.default_rng(0))
    try:
        main(["train", "digits", *TINY, "--model.latent-dim", "2"])
        main(["train", "table.csv", *TINY, "--model.latent-dim", "3"])
        main(["train", "digits", *TINY, "--out", "runs/labels", "--data.context", "labels"])
        yield folder
    finally:
        os.chdir(before)


def _write_data(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 3)).astype(np.float32)
    np.save("table.npy", x)
    np.savez("archive.npz", x=x, labels=rng.integers(0, 3, 60))
    rows = "".join(",".join(f"{value:.4f}" for value in row) + "\n" for row in x)
    Path("table.csv").write_text("age,size,weight\n" + rows)
    Path("spoilt.csv").write_text("age,size,weight\n" + rows + "NA,0.5,1.5\n")
    np.save("counts.npy", rng.poisson(3, (60, 5)))
    np.save("bits.npy", rng.integers(0, 2, (60, 6, 6), dtype=np.uint8))
    for kind in ("cats", "dogs"):
        (Path("pictures") / kind).mkdir(parents=True)
        for number in range(15):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(f"pictures/{kind}/{number}.png")


def is_picture(path: str) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return min(picture.size) > 100


def paths_in(out: str) -> list[str]:
    return [line.removeprefix("wrote ") for line in out.splitlines() if line.startswith("wrote ")]


# --- training ----------------------------------------------------------------------------------------------------


def test_train_writes_the_run_folder(say: Say) -> None:
    out, err = say("train", "digits", *TINY, "--out", "fresh")
    assert err == ""  # --quiet
    assert out.splitlines()[0] == "trained fresh: 30 steps, 8 latents"
    assert re.fullmatch(r"peak memory [\d.]+ [MG]B", out.splitlines()[1])
    assert paths_in(out) == ["fresh/figures/curves.png"]
    assert is_picture("fresh/figures/curves.png")
    assert "next: elbowroom evaluate fresh" in out
    config = json.loads(Path("fresh/config.json").read_text())
    assert config["elbowroom"] == __version__
    assert config["config"]["model"]["encoder"]["hidden"] == [6]
    assert len(config["data"]["sha256"]) == 64
    lines = [json.loads(line) for line in Path("fresh/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        (15, "train"), (15, "validation"), (30, "train"), (30, "validation"),
    ]  # fmt: skip
    assert {path.name for path in Path("fresh/checkpoints").iterdir()} >= {"best", "latest", "step-30"}


def test_train_reports_to_standard_error(say: Say) -> None:
    out, err = say("train", "digits", *TINY[:-1], "--out", "spoken")
    assert "step 30/30" in err
    assert "nats per example" in err
    assert "step 30/30" not in out


@pytest.mark.parametrize(
    ("source", "likelihood"),
    [
        pytest.param("table.npy", "gaussian", marks=pytest.mark.slow),  # as the archive is, but for its labels
        ("archive.npz", "gaussian"),
        pytest.param("table.csv", "gaussian", marks=pytest.mark.slow),  # as runs/table is, which others look at
        ("counts.npy", "negative-binomial"),
        ("bits.npy", "bernoulli"),
        ("pictures", "discretized-logistic-mixture"),
    ],
)
def test_train_on_data_of_ones_own(source: str, likelihood: str, say: Say) -> None:
    name = f"own-{source}"
    out, _ = say("train", source, *TINY, "--out", name)
    assert out.startswith(f"trained {name}: ")
    out, _ = say("evaluate", name, "--k", "5", "--json")
    results = {result["name"]: result for result in json.loads(out)["results"]}
    assert math.isfinite(results["elbo"]["value"])
    assert ("elbo, bits per dimension" in results) == (source in ("pictures", "counts.npy"))
    for command in ("sample", "reconstruct", "encode"):
        out, _ = say(command, name)
        assert all(is_picture(path) for path in paths_in(out) if path.endswith(".png"))


def test_train_names_the_run_after_the_data(say: Say) -> None:
    np.save("faces.of.2019.npy", np.load("table.npy"))
    say("train", "faces.of.2019.npy", *TINY)
    assert Path("runs/faces.of.2019/config.json").is_file()


def test_columns_of_a_table_can_be_the_context(say: Say) -> None:
    say("train", "table.csv", *TINY, "--data.context", "age,size", "--out", "given")
    out, _ = say("sample", "given", "--num", "7", "--arrays", "drawn.npz")
    assert paths_in(out)[-1] == "drawn.npz"
    assert np.load("drawn.npz")["x"].shape == (7, 1)


def test_missing_values_can_be_summed_out(say: Say) -> None:
    say("train", "spoilt.csv", *TINY, "--data.missing", "mask", "--out", "masked")
    out, _ = say("evaluate", "masked", "--methods", "elbo", "--split", "train", "--json")
    assert math.isfinite(json.loads(out)["results"][0]["value"])


def test_a_recipe_of_ones_own_and_a_flag_over_it(say: Say) -> None:
    Path("mine.toml").write_text('[data]\nname = "table.npy"\n[model]\nlatent_dim = 3\n[train]\nbatch_size = 16\n')
    say("train", "mine.toml", *TINY, "--model.latent-dim", "4")
    config = json.loads(Path("runs/mine/config.json").read_text())["config"]
    assert config["model"]["latent_dim"] == 4
    assert config["train"]["batch_size"] == 16


def test_a_recipe_is_laid_over_data_by_config(say: Say) -> None:
    Path("over.toml").write_text("[model]\nlatent_dim = 5\n")
    say("train", "table.npy", "--config", "over.toml", *TINY, "--out", "laid")
    config = json.loads(Path("laid/config.json").read_text())["config"]
    assert (config["model"]["latent_dim"], config["data"]["name"]) == (5, str(Path("table.npy").absolute()))


def test_resume_goes_on(say: Say) -> None:
    say("train", "table.npy", *TINY, "--train.batch-size", "16", "--out", "longer")
    flags = ("--train.epochs", "4", "--quiet", "--out", "longer")
    out, err = say("train", "table.npy", "--resume", *flags)
    assert "going on with longer from step 6" in err
    assert "12 steps" in out


def test_tensorboard_writes_event_files(say: Say) -> None:
    pytest.importorskip("tensorboard")
    say("train", "table.npy", *TINY, "--train.tensorboard", "--out", "watched")
    assert list(Path("watched/tensorboard").glob("events.*"))


def test_built_in_data_are_read_from_the_folder_of_the_user(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Path(os.environ["ELBOWROOM_DATA"]) / "MNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    rng, files = np.random.default_rng(0), {}
    for role, file in sources.BUILT_IN["mnist"].files.items():
        number = 40 if role.startswith("train") else 20
        shape = (number, 28, 28) if "images" in role else (number,)
        content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        content += rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
        (raw / file.name.removesuffix(".gz")).write_bytes(content)
        files[role] = dataclasses.replace(file, digest=f"sha256:{hashlib.sha256(content).hexdigest()}")
    monkeypatch.setitem(sources.BUILT_IN, "mnist", dataclasses.replace(sources.BUILT_IN["mnist"], files=files))
    say("train", "mnist", *TINY, "--data.validation", "10", "--train.steps", "2")
    out, _ = say("evaluate", "runs/mnist", "--methods", "elbo", "--json")
    answer = json.loads(out)
    assert answer["protocol"]["dataset"] == "mnist"
    assert answer["results"][0]["points"] == 20
    out, _ = say("data", "list", "--json")
    where = {row["name"]: row["where"] for row in json.loads(out)["data"]}
    assert where["mnist"] == f"in {raw}"
    say("data", "fetch", "mnist")


# --- measuring ---------------------------------------------------------------------------------------------------


def test_evaluate_prints_one_json_object(say: Say) -> None:
    out, _ = say("evaluate", "runs/digits", "--methods", "elbo,iwae", "--k", "10", "--points", "50", "--json")
    answer = json.loads(out)
    assert set(answer) == {"run", "step", "split", "protocol", "results", "peak_memory"}
    assert answer["step"] > 0
    assert answer["peak_memory"] > 2**20
    assert (answer["run"], answer["split"]) == ("runs/digits", "test")
    assert {"dataset": "digits", "binarization": "dynamic", "seed": 0}.items() <= answer["protocol"].items()
    for result in answer["results"]:
        assert set(result) == {"name", "value", "stderr", "unit", "points", "bound", "method", "asked", "found"}
        assert result["points"] == 50
    results = {result["name"]: result for result in answer["results"]}
    assert set(results) == {"elbo", "reconstruction", "kl", "iwae", "elbow room"}
    assert results["iwae"]["asked"]["k"] == 10
    assert results["elbo"]["bound"] == results["iwae"]["bound"] == "lower"
    difference = results["reconstruction"]["value"] - results["kl"]["value"]
    assert results["elbo"]["value"] == pytest.approx(difference, abs=1e-4)
    stored = json.loads(Path("runs/digits/evaluation.json").read_text())["results"]
    assert results["elbo"]["value"] in [result["value"] for result in stored]


def test_evaluate_prints_a_table_and_draws_it(say: Say) -> None:
    out, _ = say("evaluate", "runs/digits", "--k", "10")
    assert out.startswith("digits · test · dynamic binarization, seed 0")
    assert "± s.e." in out
    assert "IWAE, k = 10" in out
    assert "of 2" in out  # active units
    assert re.search(r"^checkpoint of step [\d,]+\npeak memory [\d.]+ [MG]B$", out, re.MULTILINE)
    assert paths_in(out) == [
        "runs/digits/evaluation.json",
        "runs/digits/evaluation",
        "runs/digits/figures/evaluation.png",
    ]
    assert is_picture("runs/digits/figures/evaluation.png")


@pytest.mark.parametrize(
    "methods", [["elbo,active-units"], ["elbo", "active-units"], ["elbo,", "active-units"]], ids=" ".join
)
def test_methods_with_commas_or_spaces(methods: list[str], say: Say) -> None:
    out, _ = say("evaluate", "runs/digits", "--methods", *methods, "--json")
    assert [r["name"] for r in json.loads(out)["results"]] == ["elbo", "reconstruction", "kl", "active units"]


def test_cross_entropy_is_labelled_wherever_it_is_shown(say: Say) -> None:
    flags = ("--data.binarization", "none", "--model.likelihood", "cross-entropy", "--out", "grey")
    _, err = say("train", "digits", *TINY[:-1], *flags)
    assert "not a log-likelihood" in err
    out, _ = say("evaluate", "grey", "--json")
    results = json.loads(out)["results"]
    assert all("not a log-likelihood" in result["name"] for result in results if result["unit"] == "nats")
    assert not any(result["bound"] for result in results)
    out, _ = say("evaluate", "grey")
    assert "not a log-likelihood" in out
    assert "bound" not in out


def test_score_prints_one_json_object(say: Say) -> None:
    out, _ = say("score", "runs/table", "--k", "5", "--json")
    answer = json.loads(out)
    assert set(answer) == {"run", "data", "unit", "bound", "method", "k", "unreliable", "scores"}
    assert (answer["data"], answer["unit"], answer["bound"], answer["k"]) == ("test", "nats", "lower", 5)
    splits = RunFolder("runs/table").read_splits()
    assert [score["row"] for score in answer["scores"]] == splits["test"].tolist()
    columns = {"row", "log_p", "stderr", "ess", "pareto_k", "draws", "reliable"}
    assert all(set(score) == columns for score in answer["scores"])
    assert answer["unreliable"] == 6  # so few draws do not tell
    assert not Path("runs/table/scores.csv").exists()


@pytest.mark.parametrize("data", ["table.csv", "table.npy"])
def test_score_writes_a_row_for_every_row(data: str, say: Say) -> None:
    out, _ = say("score", "runs/table", data, "--k", "5", "--out", "scores.csv")
    assert paths_in(out) == ["scores.csv"]
    with Path("scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(60))
    values = [float(row["log_p"]) for row in rows]
    said = float(out.split("≥ ")[1].split(" ±")[0])
    assert said == pytest.approx(np.mean(values), abs=1e-3)


# --- looking -----------------------------------------------------------------------------------------------------

PICTURES = [
    ("sample runs/digits", ["samples", "traversals", "manifold"]),
    ("sample runs/table", ["samples"]),
    ("sample runs/labels", ["samples", "traversals"]),
    ("reconstruct runs/digits --num 4", ["reconstructions"]),
    ("reconstruct runs/table --split train", ["reconstructions"]),
    ("reconstruct runs/labels", ["reconstructions"]),
]


@pytest.mark.parametrize(("command", "names"), PICTURES, ids=[command for command, _ in PICTURES])
def test_pictures_are_written(command: str, names: list[str], say: Say) -> None:
    out, err = say(*command.split())
    assert err == ""
    run = command.split()[1]
    assert paths_in(out) == [f"{run}/figures/{name}.png" for name in names]
    assert all(is_picture(path) for path in paths_in(out))


def test_a_hierarchy_with_two_latents_on_top_has_no_plane(say: Say) -> None:
    say("train", "digits", *TINY, "--out", "runs/deep", "--model.latent-dim", "2", "--model.groups", "3,1")
    out, _ = say("sample", "runs/deep", "--num", "4")
    assert paths_in(out) == [f"runs/deep/figures/{name}.png" for name in ("samples", "traversals")]
    rows = json.loads(say("runs", "list", "--json")[0])["runs"]
    assert {row["latents"] for row in rows if row["run"] == "runs/deep"} == {"2 + 3 + 1"}


def test_arrays_beside_the_pictures(say: Say) -> None:
    say("sample", "runs/digits", "--num", "5", "--arrays", "s.npz")
    say("reconstruct", "runs/digits", "--num", "4", "--arrays", "r.npz")
    drawn, found = np.load("s.npz"), np.load("r.npz")
    assert {name: drawn[name].shape for name in drawn.files} == {"z": (5, 2), "x": (5, 8, 8), "mean": (5, 8, 8)}
    assert {name: found[name].shape for name in found.files} == dict.fromkeys(("x", "mean", "sample"), (4, 8, 8))
    assert set(np.unique(drawn["x"])) <= {0, 1}
    say("sample", "runs/digits", "--num", "5", "--arrays", "again.npz")
    assert (np.load("again.npz")["x"] == drawn["x"]).all()
    say("sample", "runs/digits", "--num", "5", "--seed", "1", "--arrays", "other.npz")
    assert (np.load("other.npz")["x"] != drawn["x"]).any()


@pytest.mark.parametrize(
    ("argv", "rows", "labels"),
    [("runs/digits", 180, True), ("runs/digits --split validation", 180, True), ("runs/table table.npy", 60, False)],
)
def test_encode_writes_the_posterior(argv: str, rows: int, labels: bool, say: Say) -> None:
    out, _ = say("encode", *argv.split(), "--out", "codes.npz")
    assert paths_in(out)[0] == "codes.npz"
    assert is_picture(paths_in(out)[1])
    codes = np.load("codes.npz")
    assert set(codes.files) == {"mean", "stddev", "rows"} | ({"labels"} if labels else set())
    if "digits" in argv:
        split = "validation" if "validation" in argv else "test"
        assert codes["rows"].tolist() == load_file("runs/digits/splits.safetensors")[split].tolist()  # in the data
    else:
        assert codes["rows"].tolist() == list(range(60))
    assert codes["mean"].shape == codes["stddev"].shape
    assert len(codes["mean"]) == rows
    assert (codes["stddev"] > 0).all()


def test_codes_lie_in_the_run_unless_said_otherwise(say: Say) -> None:
    out, _ = say("encode", "runs/digits")
    assert paths_in(out) == ["runs/digits/encoded.npz", "runs/digits/figures/latents.png"]


# --- data, recipes, runs -----------------------------------------------------------------------------------------


def test_data_list(say: Say) -> None:
    rows = json.loads(say("data", "list", "--json")[0])["data"]
    assert [set(row) for row in rows] == [{"name", "description", "where"}] * len(rows)
    assert {"digits", "mnist", "fashion-mnist", "omniglot"} <= {row["name"] for row in rows}
    out, _ = say("data", "list")
    assert all(row["name"] in out for row in rows)


@pytest.mark.parametrize(
    ("source", "shape", "support"),
    [
        ("digits", [8, 8], "unit-interval"),
        ("table.csv", [3], "reals"),
        ("counts.npy", [5], "counts"),
        ("bits.npy", [6, 6], "binary"),
        ("pictures", [8, 8], "bytes"),
    ],
)
def test_data_show(source: str, shape: list[int], support: str, say: Say) -> None:
    out, _ = say("data", "show", source, "--out", "look.png", "--json")
    answer = json.loads(out)
    assert {"name", "shape", "support", "splits", "sha256", "picture"} <= set(answer)
    assert answer["shape"] == shape
    assert answer["support"].startswith(support)
    assert is_picture(answer["picture"])
    out, _ = say("data", "show", source, "--out", "look.png")
    assert " × ".join(map(str, shape)) in out
    assert paths_in(out) == ["look.png"]


def test_data_show_of_a_table_with_several_kinds(say: Say) -> None:
    Path("people.csv").write_text(
        "id,city,age,notes\n" + "".join(f"{at},{'ab'[at % 2]},{at * 7 % 30},x\n" for at in range(40))
    )
    out, _ = say("data", "show", "people.csv", "--data.columns", "age:real,notes:drop", "--json")
    columns = {one["column"]: one for one in json.loads(out)["columns"]}
    assert {name: one["kind"] for name, one in columns.items()} == {
        "city": "binary",
        "age": "real",
        "id": "identifier",
    }
    out, remarks = say("data", "show", "people.csv", "--data.drop", "notes")
    assert [line.split() for line in out.splitlines() if line.startswith("city")] == [
        ["city", "binary", "2", "0", "a,", "b", "probability", "of", "2", "levels"]
    ]
    assert "people.csv: set aside as identifier (column 'id')" in remarks


def test_data_show_as_they_are_delivered(say: Say) -> None:
    out, _ = say("data", "show", "digits", "--data.binarization", "dynamic", "--data.validation", "7", "--json")
    answer = json.loads(out)
    assert answer["support"].startswith("binary")
    assert answer["splits"]["validation"] == 7
    assert answer["picture"] == "digits.png"


def test_data_fetch_of_what_is_built_in(say: Say) -> None:
    assert say("data", "fetch", "digits")[0] == "digits: built in\n"


def test_recipes_list(say: Say) -> None:
    rows = json.loads(say("recipes", "list", "--json")[0])["recipes"]
    assert [row["name"] for row in rows] == recipe_names()
    for row in rows:
        assert len(row["description"]) > 20
        assert not row["description"].endswith("et al")


def test_recipes_list_shows_each_recipe_once_and_replications_as_groups(say: Say) -> None:
    out = say("recipes", "list")[0]
    table, groups = out.split("replications of papers")
    names = re.findall(r"^([\w-]+)  ", table, re.MULTILINE)[1:]  # without the heading
    for prefix, endings in re.findall(r"^([\w-]+)….*\n((?:  .*\n?)+)", groups, re.MULTILINE):
        names += [prefix + ending for ending in re.findall(r"[\w-]+", endings)]
    assert sorted(names) == recipe_names()
    assert groups.count("aevb-fig2-…") == 1 and "nz3, nz3-modern, nz3-wake-sleep, nz5," in groups


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_is_shown_can_be_used(say: Say, name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(say("recipes", "show", name)[0], encoding="utf-8")
    assert configure(read_recipe(mine)) == configure(read_recipe(name))


def test_runs_list(say: Say) -> None:
    rows = json.loads(say("runs", "list", "--json")[0])["runs"]
    listed = {row["run"]: row for row in rows}
    assert {"runs/digits", "runs/table", "runs/labels"} <= set(listed)
    assert set(rows[0]) == {"run", "data", "learner", "latents", "step", "seconds", "elbo", "on"}
    assert (listed["runs/digits"]["data"], listed["runs/digits"]["latents"]) == ("digits", 2)
    assert listed["runs/digits"]["step"] == 30
    assert "runs/digits" in say("runs", "list")[0]
    assert say("runs", "list", "pictures")[0] == "no runs in pictures\n"


def test_runs_show(say: Say) -> None:
    say("evaluate", "runs/table", "--methods", "elbo")
    answer = json.loads(say("runs", "show", "runs/table", "--json")[0])
    assert {"run", "step", "config", "facts", "data", "evaluation", "elbowroom", "torch"} <= set(answer)
    assert answer["config"]["model"]["latent_dim"] == 3
    assert {"elbo", "kl"} <= {result["name"] for result in answer["evaluation"]}
    out, _ = say("runs", "show", "runs/table")
    settings = out.split("settings that differ from the defaults")[1].split("result")[0]
    assert "model.latent_dim" in settings
    assert "optimizer.lr" not in settings
    assert "elbo" in out


JSON = ["data list", "recipes list", "runs list", "runs show runs/digits", "evaluate runs/digits --methods elbo",
        "score runs/table --k 2", "data show digits --out look.png"]  # fmt: skip


@pytest.mark.parametrize("command", JSON)
def test_json_is_one_object_and_nothing_else(command: str, say: Say) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    out, err = say(*command.split(), "--json")
    answer = json.loads(out, parse_constant=refuse)
    assert isinstance(answer, Mapping)
    assert answer
    assert err == ""


def test_json_has_no_word_for_nan(say: Say, capsys: pytest.CaptureFixture[str]) -> None:
    from elbowroom.cli.speech import print_json

    content: dict[str, Any] = {"a": [math.nan, 1.0], "b": {"c": -math.inf}, "d": Path("x")}
    print_json(content)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.0], "b": {"c": None}, "d": "x"}
