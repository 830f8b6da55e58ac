"""Runs on large numbers with small differences, against exact densities, by every way that data come in and go out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from elbowroom.data.binarization import Binarization
from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.data.precision import Units
from elbowroom.errors import ElbowroomError
from elbowroom.inference.importance.laplace_proposal import laplace_evidence
from elbowroom.running.impute import impute
from elbowroom.running.runs import Run, load
from small_runs import tiny

ROWS, DIM = 240, 4
OFFSETS = (0.0, 1e7, 1.7e9)
LINEAR: dict[str, Any] = {
    "model": {"latent_dim": 2, "encoder": {"hidden": []}, "decoder": {"hidden": []}},
    "train": {"epochs": 15, "batch_size": 20},
    "optimizer": {"lr": 0.03},
    "data": {"validation": 0, "test": 60},
}


def centred(rows: int = ROWS, seed: int = 0) -> Tensor:
    """Linear-Gaussian data with two latents, float64."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    return z @ weights + 0.3 * torch.randn(rows, DIM, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Run]:
    folder = tmp_path_factory.mktemp("offsets")
    short = LINEAR | {"train": {"epochs": 8, "batch_size": 20}}
    return {offset: tiny(centred() + offset, folder / f"{offset:.0f}", **short) for offset in OFFSETS}


@pytest.fixture(scope="module")
def far(runs: dict[float, Run]) -> Run:
    return runs[1.7e9]


def exact(run: Run, x: Tensor) -> Tensor:
    """log p(x) of the trained model, whose decoder is affine, float64, from data in the user's units.

    The shift of x from the mean is taken in parts, since the mean itself is not known to more than its float64 digits.
    """
    points = torch.cat([torch.zeros(1, 2), torch.eye(2)])
    with torch.no_grad():
        p_x = run.model.likelihood(points, None)
        at = p_x.loc.double()  # type: ignore[attr-defined]
        scale = p_x.scale.double()[0]  # type: ignore[attr-defined]
    origin = torch.zeros(DIM) if run.facts.origin is None else torch.tensor(run.facts.origin, dtype=torch.float64)
    weights = at[1:] - at[0]
    covariance = weights.T @ weights + torch.diag(scale.expand(DIM).square())
    normal = torch.distributions.MultivariateNormal(at[0], covariance)
    log_p: Tensor = normal.log_prob((x.double() - origin) - 0.0)
    return log_p


def test_ordinary_data_have_no_origin(runs: dict[float, Run]) -> None:
    assert runs[0.0].facts.origin is None
    assert runs[0.0].sample(2).x.dtype == torch.float32


@pytest.mark.parametrize("offset", OFFSETS[1:])
def test_the_origin_is_stored_to_the_last_digit(runs: dict[float, Run], offset: float) -> None:
    run = runs[offset]
    facts = json.loads((run.folder.path / "config.json").read_text())["facts"]
    assert tuple(facts["origin"]) == run.facts.origin
    rows = run.dataset().splits["train"]
    assert facts["origin"] == (centred() + offset)[rows].median(0).values.tolist()


@pytest.mark.parametrize("offset", OFFSETS)
def test_log_p_is_the_exact_one_whatever_the_offset(runs: dict[float, Run], offset: float) -> None:
    run, x = runs[offset], centred(seed=9)[:50] + offset
    found = laplace_evidence(run.model, None, next(run.read(x).batches("train", 50)), k=400,
                             generator=torch.Generator().manual_seed(0))  # fmt: skip
    z = (found.log_evidence.double() - exact(run, x)) / found.stderr.double()
    assert z.square().mean().sqrt() < 2
    assert abs(float(z.mean())) < 4 / 50**0.5


def test_the_offset_changes_no_result(runs: dict[float, Run]) -> None:
    """The runs have the same seeds; only rounding differs, and what training makes of it."""
    # draws are seeded by the rows' values, which differ in the last digits, too: many of them
    near, far = (runs[offset].evaluate("elbo", "iwae", k=1000, num_samples=200) for offset in (OFFSETS[0], OFFSETS[-1]))
    for one, two in zip(near, far, strict=True):
        assert two.value == pytest.approx(one.value, abs=0.05)


def ways(tmp_path: Path) -> dict[str, Callable[[Tensor], Any]]:
    def saved(x: Tensor) -> Path:
        np.save(tmp_path / "x.npy", x.numpy())
        return tmp_path / "x.npy"

    def table(x: Tensor) -> Path:
        lines = [",".join("abcd"), *(",".join(f"{value!r}" for value in row) for row in x.tolist())]
        (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "x.csv"

    return {
        "tensor": lambda x: x,
        "array": lambda x: x.numpy(),
        "file": saved,
        "table": table,
        "Dataset": TensorDataset,
        "loaded before": lambda x: load_data(x, test=0.0),
    }


@pytest.mark.parametrize("way", ["tensor", "array", "file", "table", "Dataset", "loaded before"])
def test_other_data_are_counted_from_the_origin_of_training(far: Run, way: str, tmp_path: Path) -> None:
    if way == "table":
        pytest.importorskip("polars")
    x = centred(seed=3)[:20] + 1.7e9 + torch.tensor([0.0, 50.0, 0.0, 0.0])  # whose own median lies elsewhere
    source = ways(tmp_path)[way](x)
    data = far.read(source)
    batch = next(data.batches("train", 20))
    origin = torch.tensor(far.facts.origin, dtype=torch.float64)
    assert torch.allclose(batch.x.double(), x - origin, atol=1e-5)
    assert torch.equal(far.encode(source).mean, far.encode(x).mean)


def test_a_run_that_is_loaded_again(far: Run) -> None:
    again = load(far.folder.path, data=centred() + 1.7e9)
    for one, two in zip(again.dataset().batches("test", 60), far.dataset().batches("test", 60), strict=True):
        assert torch.equal(one.x, two.x)
    assert torch.equal(again.sample(5).x, far.sample(5).x)


def test_a_run_that_goes_on_keeps_its_origin(tmp_path: Path) -> None:
    short = {**LINEAR, "train": {"steps": 9, "batch_size": 20}}
    longer = {**LINEAR, "train": {"steps": 18, "batch_size": 20}}
    x = centred() + 1.7e9
    whole = tiny(x, tmp_path / "whole", **longer)
    tiny(x, tmp_path / "parts", **short)
    parts = tiny(x, tmp_path / "parts", resume=True, **longer)
    assert parts.facts.origin == whole.facts.origin
    for (name, one), two in zip(whole.pair.state_dict().items(), parts.pair.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_an_old_run_has_no_origin_and_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json without an origin: data are delivered as they were then, also where the run goes on."""
    x = centred() + 5000  # little enough that training survives, far enough that a new run has an origin
    short, longer = ({**LINEAR, "train": {"steps": steps, "batch_size": 20}} for steps in (9, 18))
    with monkeypatch.context() as then:
        then.setattr("elbowroom.running.units.find_units", lambda data, dtype: Units())
        old, whole = tiny(x, tmp_path / "old", **short), tiny(x, tmp_path / "whole", **longer)
    config = old.folder.path / "config.json"
    content = json.loads(config.read_text())
    del content["facts"]["origin"], content["facts"]["context_units"]
    config.write_text(json.dumps(content))
    run = load(old.folder.path, data=x)
    batch = next(run.dataset().batches("test", 60))
    assert torch.equal(batch.x, x.float()[run.dataset().splits["test"]])
    assert run.sample(2).x.dtype == torch.float32
    further = tiny(x, old.folder.path, resume=True, **longer)
    assert further.facts.origin is None
    for (name, one), two in zip(whole.pair.state_dict().items(), further.pair.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert tiny(x, tmp_path / "new", **short).facts.origin is not None


# --- results in the user's units ---------------------------------------------------------------------------------


def test_samples_and_means_are_in_the_users_units(runs: dict[float, Run], far: Run) -> None:
    near, drawn = runs[0.0].sample(200, seed=1), far.sample(200, seed=1)
    assert drawn.z.dtype == torch.float32
    for here, there in ((near.x, drawn.x), (near.mean, drawn.mean)):
        assert there.dtype == torch.float64
        assert torch.allclose(there - 1.7e9, here.double(), atol=0.05)
    assert torch.equal(far.decode(drawn.z), drawn.mean)


def test_reconstructions_are(far: Run) -> None:
    found = far.reconstruct(10)
    rows = next(far.dataset().batches("test", 10, points=10)).index
    assert rows is not None
    assert torch.allclose(found.x, (centred() + 1.7e9)[rows], rtol=0, atol=1e-6)
    assert (found.mean - found.x).abs().max() < 3
    assert len(found.sample[:, 0].unique()) == 10


@pytest.fixture(scope="module")
def imputed(far: Run) -> tuple[Tensor, Any]:
    x = centred(seed=4)[:6] + 1.7e9
    x[0, 1] = x[3, 2] = float("nan")
    return x, impute(far, x, method="hmc", draws=20, chains=2, warmup=20)


def test_completed_data_are(imputed: tuple[Tensor, Any]) -> None:
    x, found = imputed
    known = ~x.isnan()
    assert torch.equal(found.mask, known)
    for part in (found.completed, found.mean, found.lower, found.upper, *found.samples):
        assert torch.allclose(part[known], x[known], rtol=0, atol=1e-6)
        assert (part - 1.7e9).abs().max() < 20
    assert bool((found.lower < found.completed)[~known].all() & (found.completed < found.upper)[~known].all())
    assert found.stddev.max() < 5


def test_the_truth_of_hidden_values_is(far: Run) -> None:
    found = impute(far, hide=0.3, num=5, method="hmc", draws=20, chains=2, warmup=20)
    assert torch.allclose(found.truth, (centred() + 1.7e9)[found.rows], rtol=0, atol=1e-6)
    assert found.recovery is not None and found.recovery.value < 2


def test_a_completed_table_keeps_the_digits(far: Run, tmp_path: Path, say: Callable[..., tuple[str, str]]) -> None:
    pytest.importorskip("polars")
    x = centred(seed=4)[:3] + 1.7e9
    cells = [[f"{value!r}" for value in row] for row in x.tolist()]
    cells[1][2] = ""
    (tmp_path / "x.csv").write_text("\n".join(["a,b,c,d", *(",".join(row) for row in cells)]) + "\n")
    say("impute", str(far.folder.path), str(tmp_path / "x.csv"), "--out", str(tmp_path / "y.npz"),
        "--method", "hmc", "--draws", "20", "--chains", "2", "--warmup", "20")  # fmt: skip
    lines = (tmp_path / "y.csv").read_text().splitlines()
    arrays = np.load(tmp_path / "y.npz")
    assert float(lines[2].split(",")[2]) == pytest.approx(arrays["completed"][1, 2], abs=1e-4)
    assert abs(arrays["completed"][1, 2] - 1.7e9) < 20
    assert lines[1].split(",") == cells[0]


def test_arrays_of_the_command_line_are(far: Run, tmp_path: Path, say: Callable[..., tuple[str, str]]) -> None:
    np.save(tmp_path / "own.npy", (centred() + 1.7e9).numpy())
    keys = ["--model.latent-dim", "2", "--model.encoder.hidden", "4", "--model.decoder.hidden", "4"]
    say("train", str(tmp_path / "own.npy"), "--out", str(tmp_path / "r"), "--train.epochs", "1", "--quiet", *keys)
    say("sample", str(tmp_path / "r"), "--arrays", str(tmp_path / "s.npz"), "--num", "5")
    say("reconstruct", str(tmp_path / "r"), "--arrays", str(tmp_path / "t.npz"), "--num", "5")
    for file in ("s", "t"):
        for name, array in np.load(tmp_path / f"{file}.npz").items():
            if name != "z":
                assert array.dtype == np.float64
                assert np.abs(array - 1.7e9).max() < 50


def test_pictures_are(far: Run) -> None:
    from elbowroom.showing import gallery
    from elbowroom.showing.figures.dataset import picture

    for figure in (gallery.samples(far), gallery.reconstructions(far)):
        low, high = figure.axes[0].get_xlim()
        assert 1.7e9 - 50 < low < high < 1.7e9 + 50
    loaded = load_data(centred() + 1.7e9)
    assert isinstance(loaded, DataSet)
    low, high = picture(loaded).axes[0].get_xlim()
    assert 1 < high - low < 50


# --- streams, covariates, refusals ------------------------------------------------------------------------------


def test_a_stream(tmp_path: Path) -> None:
    x = centred() + 1.7e9
    loader = DataLoader(TensorDataset(x), batch_size=20)
    run = tiny(loader, tmp_path / "run", model=LINEAR["model"], train={"steps": 150, "batch_size": 20},
               optimizer=LINEAR["optimizer"])  # fmt: skip
    assert run.facts.origin == pytest.approx([1.7e9] * DIM, abs=2)
    rows = x[:50]
    found = laplace_evidence(run.model, None, next(run.read(rows).batches("train", 50)), k=400,
                             generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert float((found.log_evidence.double() - exact(run, rows)).abs().max()) < 0.5
    assert float(exact(run, rows).mean()) > -8  # learnt: merged values would have a spread of 128


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor, Run]:
    """The mean of x depends on a time; seconds since 1970 reach the model standardised."""
    hours = torch.arange(ROWS, dtype=torch.float64)[:, None] / ROWS
    x = centred() + 3 * hours
    times = 1.7e9 + 3600 * hours
    run = tiny(x, tmp_path_factory.mktemp("context") / "run", context=times, **LINEAR)
    return x, times, run


def test_covariates_are_stored_standardised_and_taken_in_the_users_units(
    conditional: tuple[Tensor, Tensor, Run],
) -> None:
    x, times, run = conditional
    assert run.facts.context_units is not None
    batch = next(run.dataset().batches("test", 60))
    assert batch.context is not None and batch.index is not None
    assert batch.context.abs().max() < 3
    read = next(run.read(x, context=times).batches("train", ROWS))
    assert read.context is not None and read.index is not None
    assert torch.equal(read.context[batch.index], batch.context)


def test_sampling_takes_the_covariates_in_the_users_units(conditional: tuple[Tensor, Tensor, Run]) -> None:
    x, times, run = conditional
    for rows in (slice(0, 60), slice(-60, None)):  # the mean rises by 3 from the first to the last
        drawn = run.sample(400, context=times[rows].mean(0).expand(400, 1)).x.double()
        away = (drawn.mean(0) - x[rows].mean(0)) / (x.std(0) * (1 / 400 + 1 / 60) ** 0.5)
        assert away.abs().max() < 4
    z = torch.zeros(1, 2)
    assert bool((run.decode(z, context=times[-1:]) - run.decode(z, context=times[:1]) > 1).all())


def test_pictures_draw_with_the_covariates_of_the_data(conditional: tuple[Tensor, Tensor, Run]) -> None:
    from elbowroom.showing import gallery

    _, times, run = conditional
    given = gallery.contexts(run, 30)
    assert given is not None
    assert bool(torch.isin(given, times).all())
    gallery.samples(run)


def test_a_run_with_small_covariates_is_the_same_to_the_bit(tmp_path: Path) -> None:
    context = centred()[:, :1]
    run = tiny(centred(), tmp_path / "run", context=context, train={"steps": 2, "batch_size": 20})
    assert run.facts.context_units is None
    batch = next(run.dataset().batches("test", 60))
    assert batch.context is not None and batch.index is not None
    assert torch.equal(batch.context, context.float()[batch.index])


def test_what_merges_is_refused_and_its_remedies_work(tmp_path: Path) -> None:
    x = centred()
    x[::2, 1] += 1.7e9
    with pytest.raises(ElbowroomError, match="In element 1 of the array, 50% of the different values") as caught:
        tiny(x, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "leave that column out" in caught.value.remedy
    steps = {"steps": 2, "batch_size": 20}
    tiny(x, tmp_path / "double", runtime={"dtype": "float64", "device": "cpu"}, train=steps)
    tiny(x[:, [0, 2, 3]], tmp_path / "without", train=steps)
    with pytest.raises(ElbowroomError, match="In covariate 0 of the array"):
        tiny(centred(), tmp_path / "covariate", context=x[:, 1:2])
    double = {"dtype": "float64", "device": "cpu"}
    run = tiny(centred(), tmp_path / "covariate", context=x[:, 1:2], runtime=double, train=steps)
    batch = next(run.dataset().batches("test", 60))
    assert batch.context is not None
    assert len(batch.context.unique()) == len(batch)


def test_large_counts_are_refused_and_the_remedies_work(
    tmp_path: Path, ask: Callable[..., tuple[int, str, str]]
) -> None:
    np.save(tmp_path / "x.npy", 1_700_000_000 + np.random.default_rng(0).integers(0, 9_999, (80, 2)))
    keys = ["train", str(tmp_path / "x.npy"), "--model.encoder.hidden", "4", "--model.decoder.hidden", "4", "--quiet"]
    code, _, err = ask(*keys, "--out", str(tmp_path / "a"), "--train.epochs", "1")
    assert code == 2
    assert "counts 0, 1, 2, …, up to 1,7" in err
    for number, remedy in enumerate((["--runtime.dtype", "float64"], ["--data.support", "reals"])):
        assert " ".join(remedy) in err
        code, _, err2 = ask(*keys, "--out", str(tmp_path / f"b{number}"), "--train.epochs", "1", *remedy)
        assert code == 0, err2


@pytest.mark.parametrize("size", [1e-46, 1e-30, 1e30, 1e39])
def test_sizes_beyond_float32_are_refused_and_double_precision_takes_them(size: float, tmp_path: Path) -> None:
    with pytest.raises(ElbowroomError) as caught:
        tiny(size * centred(), tmp_path / "run")
    assert "--runtime.dtype float64" in caught.value.remedy
    steps = {"steps": 2, "batch_size": 20}
    tiny(size * centred(), tmp_path / "double", runtime={"dtype": "float64", "device": "cpu"}, train=steps)


def test_a_row_beyond_float32_is_named_where_it_is_read(far: Run) -> None:
    x = centred()[:5] + 1.7e9
    x[3, 2] = 1e39
    with pytest.raises(ElbowroomError, match=r"Row 3 of the array holds 1e\+39 in element 2"):
        far.score(x)


def test_other_data_that_merge_are_only_far_away(far: Run) -> None:
    """What is far from the training data has hardly any density; that is no reason not to say so."""
    batch = next(far.read(centred()[:5]).batches("train", 5))
    assert torch.allclose(batch.x, torch.full_like(batch.x, -1.7e9))


def test_binarised_data_have_no_origin(tmp_path: Path) -> None:
    run = tiny(torch.rand(60, 6).double(), tmp_path / "run", data={"binarization": "dynamic", "test": 8},
               train={"steps": 2, "batch_size": 20})  # fmt: skip
    assert run.dataset().binarization is Binarization.DYNAMIC
    assert run.facts.origin is None
