"""What goes into the pictures of a run: the model's own numbers, in the right order, with the right words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import elbowroom as er
from elbowroom.errors import ElbowroomError
from elbowroom.running.impute import impute
from elbowroom.running.observers import Silent
from elbowroom.running.runs import Run
from elbowroom.showing import gallery, plots
from elbowroom.showing.figures.style import png

pytestmark = pytest.mark.drawn

SMALL = {"encoder": {"hidden": [8]}, "decoder": {"hidden": [8]}}


def nobody(_: str) -> None:
    pass


def fit(folder: Path, values: Any, *, latent_dim: int = 3, data: dict[str, Any] | None = None, **rest: Any) -> Run:
    model = SMALL | {"latent_dim": latent_dim} | rest.pop("model", {})
    given = {"data": data or {}, "train": {"epochs": 2, "batch_size": 32}}
    run: Run = er.train(values, out=folder, model=model, observers=[Silent()], announce=nobody, **given, **rest)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> dict[str, Run]:
    """A run for every kind of picture."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    table = rng.normal(size=(80, 3)).astype(np.float32)
    grey = {"model": {"likelihood": "cross-entropy"}}
    return {
        "digits": fit(folder / "digits", "digits"),
        "two": fit(folder / "two", "digits", latent_dim=2),
        "grey": fit(folder / "grey", "digits", data={"binarization": "none"}, **grey),
        "bytes": fit(folder / "bytes", rng.integers(0, 256, (60, 6, 6), dtype=np.uint8)),
        "labels": fit(folder / "labels", "digits", data={"context": "labels"}),
        "table": fit(folder / "table", table),
        "covariates": fit(folder / "covariates", rng.integers(0, 2, (80, 5, 5)), context=table),
    }


class Drawn(dict[str, Any]):
    """What a figure was given: its values by place, its settings by name."""

    values: tuple[Any, ...] = ()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Drawn]:
    """Notes what the figure of that name is given, and draws it."""

    def watch(name: str) -> Drawn:
        seen, real = Drawn(), getattr(plots, name)

        def spy(*values: Any, **settings: Any) -> Figure:
            seen.values = values
            seen.update(settings)
            figure: Figure = real(*values, **settings)
            return figure

        monkeypatch.setattr(plots, name, spy)
        return seen

    return watch


def is_drawn(figure: Figure) -> bool:
    return png(figure)[:4] == b"\x89PNG"


def test_curves_are_those_of_the_history(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("training_curves")
    assert is_drawn(gallery.curves(runs["grey"]))
    assert drawn.values == (runs["grey"].history,)
    assert drawn["normalized"] is False
    assert drawn["title"] == "grey"


def test_a_figure_is_kept_under_its_name(runs: dict[str, Run]) -> None:
    run = runs["digits"]
    figure = gallery.samples(run, 4)
    assert not (run.folder.figures / "samples.png").exists()  # a figure alone writes nothing
    path = gallery.save(run, "samples", figure)
    assert path == run.folder.figures / "samples.png"
    assert path.read_bytes() == png(figure)


def test_samples_are_shown_beside_their_own_means(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("samples_figure")
    assert is_drawn(gallery.samples(runs["digits"], 9, seed=4))
    expected = runs["digits"].sample(9, seed=4)
    assert torch.equal(drawn.values[0], expected.x)
    assert torch.equal(drawn.values[1], expected.mean)
    assert drawn["value_range"] == (0.0, 1.0)
    assert drawn["note"] is None


@pytest.mark.parametrize("name", ["bytes", "labels", "covariates"])
def test_below_a_sample_is_the_training_example_nearest_to_its_mean(
    runs: dict[str, Run], watch: Callable[[str], Drawn], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(gallery, "_AT_ONCE", 17)  # a few batches
    run, drawn = runs[name], watch("code_pictures_figure")
    assert is_drawn(gallery.nearest_training(run, 4))
    means, nearest = drawn.values[0].double()
    assert torch.equal(means, run.sample(4, context=gallery.contexts(run, 4)).mean.double())
    x = next(run.dataset().batches("train", 10_000)).x.double()
    distances = (x - means.unsqueeze(1)).square().flatten(2).sum(-1)
    assert torch.equal(nearest, x[distances.argmin(1)])


def test_no_row_with_holes_is_nearest(tmp_path: Path, watch: Callable[[str], Drawn]) -> None:
    x = np.random.default_rng(1).normal(size=(30, 4, 4)).astype(np.float32)
    x[::2, 0] = np.nan
    drawn = watch("code_pictures_figure")
    holes = {"data": {"missing": "mask"}}
    gallery.nearest_training(fit(tmp_path / "some", x, **holes), 3)
    assert bool(drawn.values[0].isfinite().all())
    x[1::2, 1] = np.nan
    with pytest.raises(ElbowroomError, match="Every training example misses something"):
        gallery.nearest_training(fit(tmp_path / "all", x, **holes), 3)


def test_bytes_are_shown_from_black_to_white(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("samples_figure")
    gallery.samples(runs["bytes"], 4)
    assert drawn["value_range"] == (0.0, 255.0)


FIGURES: list[tuple[str, Callable[[Run], Figure]]] = [
    ("samples_figure", gallery.samples),
    ("reconstruction_figure", gallery.reconstructions),
    ("traversal_figure", gallery.traversals),
]


@pytest.mark.parametrize(("figure", "draw"), FIGURES, ids=[name for name, _ in FIGURES])
def test_what_is_no_likelihood_says_so(
    figure: str, draw: Callable[[Run], Figure], runs: dict[str, Run], watch: Callable[[str], Drawn]
) -> None:
    drawn = watch(figure)
    draw(runs["grey"])
    assert "not a log-likelihood" in drawn["note"]
    draw(runs["digits"])
    assert drawn["note"] is None


def test_a_row_for_every_class(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("class_rows_figure")
    gallery.samples(runs["labels"], seed=2)
    x, mean, classes = drawn.values
    assert x.shape == mean.shape == (10, 10, 8, 8)
    assert list(classes) == [str(digit) for digit in range(10)]
    one_hot = torch.eye(10).repeat_interleave(10, 0)
    assert torch.equal(mean.flatten(0, 1), runs["labels"].sample(100, context=one_hot, seed=2).mean)


def test_covariates_are_those_of_data(runs: dict[str, Run]) -> None:
    run = runs["covariates"]
    given = gallery.contexts(run, 200)
    assert given is not None
    assert given.shape == (200, 3)
    known = {tuple(row) for row in run.dataset().context.tolist()}  # type: ignore[union-attr]
    assert {tuple(row) for row in given.tolist()} <= known
    assert gallery.contexts(runs["labels"], 5) is None
    assert gallery.contexts(runs["digits"], 5) is None
    assert is_drawn(gallery.samples(run, 6))


def test_tables_are_compared_with_samples(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("marginals_figure")
    gallery.samples(runs["table"], 5)
    data, samples = drawn.values
    assert len(data) == runs["table"].dataset().size("train")
    assert len(samples) == 1000  # five would make no histogram


def test_reconstructions_are_those_of_the_run(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("reconstruction_figure")
    gallery.reconstructions(runs["digits"], 4, split="validation", seed=3)
    expected = runs["digits"].reconstruct(4, split="validation", seed=3)
    assert torch.equal(drawn.values[0], expected.x)
    assert torch.equal(drawn.values[1], expected.mean)
    assert torch.equal(drawn["samples"], expected.sample)


def test_reconstructions_of_a_table(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("reconstruction_scatter")
    assert is_drawn(gallery.reconstructions(runs["table"], 4))
    assert drawn.values[0].shape == drawn.values[1].shape == (8, 3)  # the whole test set


def test_the_manifold_decodes_the_grid_in_its_order(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("manifold_figure")
    gallery.manifold(runs["two"], r=5)
    means = drawn.values[0]
    assert means.shape == (5, 5, 8, 8)
    corner = plots.manifold_grid(5)[1, 3]
    assert torch.allclose(means[1, 3], runs["two"].decode(corner[None])[0], atol=1e-6)


def test_a_traversal_varies_one_latent_and_no_other(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn, run = watch("traversal_figure"), runs["digits"]
    gallery.traversals(run, steps=5, reach=2.0)
    decoded, dims, values = drawn.values
    assert values.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    batch = next(iter(run.dataset().batches("test", 1000)))
    with torch.no_grad():
        means = run.guide(batch.x, None).mean
    assert dims == means.var(0).argsort(descending=True).tolist()  # the most active first
    z = means[0].clone()
    z[dims[1]] = values[3]
    assert torch.allclose(decoded[1, 3], run.decode(z[None])[0], atol=1e-6)


def test_traversals_keep_the_class(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn, run = watch("traversal_figure"), runs["labels"]
    gallery.traversals(run, steps=3)
    decoded, dims, values = drawn.values
    batch = next(iter(run.dataset().batches("test", 1000)))
    assert batch.context is not None
    with torch.no_grad():
        z = run.guide(batch.x, batch.context).mean[0].clone()
    z[dims[0]] = values[2]
    assert torch.allclose(decoded[0, 2], run.decode(z[None], context=batch.context[:1])[0], atol=1e-6)


def test_traversals_without_a_test_set(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (40, 5, 5))
    assert is_drawn(gallery.traversals(fit(tmp_path / "run", bits, data={"test": 0})))


def test_traversals_of_a_single_test_row(tmp_path: Path) -> None:
    bits = (torch.rand(40, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    run = fit(tmp_path / "run", bits, data={"test": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_drawn(gallery.traversals(run))


def test_codes_are_scattered_with_their_labels(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("latent_scatter")
    encoded = runs["digits"].encode()
    assert is_drawn(gallery.latents(encoded))
    assert torch.equal(drawn.values[0], encoded.mean)
    assert torch.equal(drawn["labels"], encoded.labels)


def test_holes_are_those_of_the_doctors_studies(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def draw(*values: Any, **settings: Any) -> Figure:
        seen.append((*values, settings))
        return Figure()

    monkeypatch.setattr(gallery, "holes_figure", draw)
    aggregate, samples = object(), SimpleNamespace(data=torch.zeros(2, 6, 6))
    gallery.holes(runs["bytes"], aggregate, samples)  # type: ignore[arg-type]
    assert seen == [(aggregate, samples, {"value_range": (0.0, 255.0), "title": "bytes"})]


def test_results_are_drawn_under_the_runs_name(runs: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    run, of_bounds, of_room = runs["digits"], watch("evaluation_figure"), watch("room_figure")
    results = run.evaluate("elbo", "room", points=4, k=3)
    assert is_drawn(gallery.evaluation(run, results[:3]))
    assert [row["name"] for row in of_bounds.values[0]] == ["elbo", "reconstruction", "kl"]
    assert (of_bounds["title"], of_bounds["normalized"]) == ("digits", True)
    of_draws = watch("k_curve_figure")
    curve = run.evaluate("k-curve", points=4)
    assert is_drawn(gallery.k_curve(run, curve))
    assert of_draws.values[0] == [1, 10, 100, 1000, 5000]
    assert of_draws.values[1:] == ([r.value for r in curve], [r.stderr for r in curve])
    assert is_drawn(gallery.room(run, results))
    assert list(of_room.values[0]) == ["train", "test"]
    assert of_room["title"] == "digits"


@pytest.mark.parametrize(
    ("draw", "run", "words"),
    [
        (gallery.manifold, "digits", "this model has 3"),
        (gallery.manifold, "table", "are not images"),
        (gallery.traversals, "table", "are not images"),
        (lambda run: gallery.samples(run, 0), "table", "--num is 0"),
        (lambda run: gallery.reconstructions(run, -1), "digits", "--num is -1"),
    ],
    ids=["manifold-of-three", "manifold-of-a-table", "traversal-of-a-table", "no-samples", "no-reconstructions"],
)
def test_what_cannot_be_drawn(draw: Callable[[Run], Figure], run: str, words: str, runs: dict[str, Run]) -> None:
    with pytest.raises(ElbowroomError, match=words):
        draw(runs[run])


# --- data with holes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> dict[str, Run]:
    """Runs on data with holes, whose places batches fill with the mean of a column or with 0."""
    folder, rng = tmp_path_factory.mktemp("gaps"), np.random.default_rng(0)
    table, pictures = rng.normal(5, 1, size=(80, 3)), rng.integers(0, 2, (60, 5, 5)).astype(np.float32)
    table[rng.random(table.shape) < 0.3] = np.nan
    pictures[:, 0] = np.nan
    masked = {"missing": "mask"}
    return {
        "table": fit(folder / "table", table.astype(np.float32), data=masked),
        "pictures": fit(folder / "pictures", pictures, data=masked | {"support": "binary"}),
    }


def test_marginals_and_scatter_leave_out_what_is_missing(gaps: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    run = gaps["table"]
    data = run.dataset()
    for name, draw, split in (
        ("marginals_figure", gallery.samples, "train"), ("reconstruction_scatter", gallery.reconstructions, "test"),
    ):  # fmt: skip
        drawn = watch(name)
        assert is_drawn(draw(run))
        mask = next(iter(data.batches(split, 1000))).mask
        assert mask is not None and not mask.all()
        assert torch.equal(drawn.values[0].isnan(), ~mask)


def test_pictures_with_holes_are_shown_with_holes(gaps: dict[str, Run], watch: Callable[[str], Drawn]) -> None:
    drawn = watch("reconstruction_figure")
    assert is_drawn(gallery.reconstructions(gaps["pictures"], 4))
    assert drawn.values[0][:, 0].isnan().all() and not drawn.values[0][:, 1:].isnan().any()
    drawn = watch("completions_figure")
    found = impute(gaps["pictures"], hide="bottom", num=3, draws=4, chains=5, warmup=3)
    assert is_drawn(gallery.completions(gaps["pictures"], found))
    # the first row was missing before the lower half was hidden, and nobody knows what is there
    assert drawn["truth"][:, 0].isnan().all() and not drawn["truth"][:, 1:].isnan().any()
