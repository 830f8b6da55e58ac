"""Figures of tables: shares that sum to one, the worst features first, the outliers named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy.stats import ks_2samp

from elbowroom.data.columns.column import Column, ColumnKind
from elbowroom.errors import ElbowroomError
from elbowroom.showing import plots
from elbowroom.showing.figures.tabular import kolmogorov_smirnov

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(400, 12))


def shares(axes: Axes) -> list[float]:
    """Area over all bins of data and samples, in shares of rows."""
    heights = []
    for patch in axes.patches:
        xy = patch.get_xy()
        width = np.diff(np.unique(np.round(xy[:, 0], 9))).min()
        heights.append(abs(np.sum((xy[:-1, 1] + xy[1:, 1]) / 2 * np.diff(xy[:, 0]))) / width)
    return heights


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("sizes", [(50, 80), (1, 1), (3, 200)])
def test_the_distance_is_that_of_scipy(sizes: tuple[int, int], discrete: bool) -> None:
    one, other = (RNG.poisson(2, n) if discrete else RNG.normal(size=n) for n in sizes)
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks_2samp(one, other).statistic, abs=1e-12)


def test_data_and_samples_are_each_in_shares_of_their_own_rows() -> None:
    x = RNG.integers(0, 5, size=(100, 1))
    axes = plots.marginals_figure(x, np.concatenate([x, x, x]), names=["age"]).axes[0]
    assert [patch.get_label() for patch in axes.patches] == ["data", "samples  x ~ p(x | z)"]
    assert shares(axes) == pytest.approx([1, 1])
    assert axes.patches[0].get_xy()[:, 1].max() == pytest.approx(np.bincount(x[:, 0]).max() / 100)
    assert axes.get_title(loc="right") == "D = 0.00"


def test_few_integers_have_a_bin_each() -> None:
    x = np.array([0, 1, 1, 3])[:, None]
    axes = plots.marginals_figure(x, x).axes[0]
    assert set(np.unique(axes.patches[0].get_xy()[:, 0])) == {-0.5, 0.5, 1.5, 2.5, 3.5}
    bits = plots.marginals_figure(x > 0).axes[0]
    assert {0, 1} <= set(bits.get_xticks()) and not any(tick % 1 for tick in bits.get_xticks())


def test_of_many_features_the_nine_worst_are_shown() -> None:
    samples = TABLE.copy()
    samples[:, [0, 4, 7]] += 2
    samples[:, [1, 2, 3, 5, 8, 11]] += 0.5
    figure = plots.marginals_figure(TABLE, samples)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"x[{j}]" for j in (0, 1, 2, 3, 4, 5, 7, 8, 11)]
    assert "9 of 12" in figure.get_supxlabel()


def test_samples_far_outside_are_named() -> None:
    samples = TABLE[:, :1].copy()
    samples[:40] += 1e6
    axes = plots.marginals_figure(TABLE[:, :1], samples).axes[0]
    assert [text.get_text() for text in axes.texts] == ["10% of samples\nout of range"]
    assert axes.get_xlim()[1] < 10
    assert not plots.marginals_figure(TABLE[:, :1], TABLE[:, :1]).axes[0].texts


def test_data_alone_have_no_samples_no_legend_and_no_distance() -> None:
    figure = plots.marginals_figure(TABLE[:, :3], names=["a", "b", "c"])
    assert not figure.legends
    for axes in figure.axes:
        assert [patch.get_label() for patch in axes.patches] == ["data"]
        assert shares(axes) == pytest.approx([1])
        assert [axes.get_title(loc=side) for side in ("left", "center", "right")] == ["", "", ""]
    assert figure.axes[0].get_ylabel() == "share of rows"


def test_of_many_features_of_data_alone_the_first_nine_are_shown() -> None:
    figure = plots.marginals_figure(TABLE)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"x[{j}]" for j in range(9)]
    assert figure.get_supxlabel() == "The first 9 of 12 features."


def test_values_of_data_alone_that_lie_outside_are_counted() -> None:
    data = TABLE[:, :1].copy()
    data[:2] = -999
    assert [text.get_text() for text in plots.marginals_figure(data).axes[0].texts] == ["2 values\nout of range"]


def test_missing_values_are_left_out() -> None:
    data = TABLE[:, :3].copy()
    data[::2, 0] = np.nan
    data[:, 1] = np.nan
    figure = plots.marginals_figure(data, TABLE[:, :3], names=["a", "b", "c"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["a", "c"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["50% missing", ""]
    assert shares(figure.axes[0]) == pytest.approx([1, 1])
    assert figure.axes[0].get_ylabel() == "share of values"
    assert figure.get_supxlabel() == "Not shown, having no values: 1 of 3 features."


@pytest.mark.parametrize("columns", [1, 4, 5])  # 4 stand two by two; of 5 the second row is not full
def test_constants_names_with_dollars_and_any_number_of_features_can_be_drawn(columns: int) -> None:
    data = np.ones((5, columns))
    names = [f"$price_{j} in a very long name that fits nowhere$" for j in range(columns)]
    for figure in (
        plots.marginals_figure(data, 0.5 * data, names=names, note="$"),
        plots.reconstruction_figure(data, 0.5 * data, names=names, note="$"),
    ):
        figure.canvas.draw()
        assert len(figure.axes) == columns
        assert all(axes.get_xlabel().endswith("…") for axes in figure.axes)


def test_the_worst_reconstructions_are_shown_with_their_share_explained() -> None:
    means = TABLE.copy()
    means[:, :9] += 0.5 * RNG.normal(size=(400, 9))
    figure = plots.reconstruction_scatter(TABLE, means)
    assert [axes.get_xlabel() for axes in figure.axes] == [f"x[{j}]" for j in range(9)]
    x, mean = TABLE[:, 0], means[:, 0]
    assert figure.axes[0].get_title(loc="right") == f"R² = {1 - np.mean((x - mean) ** 2) / x.var():.2f}"
    dots = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(dots, np.stack([x, mean], 1))


@pytest.mark.parametrize(
    ("data", "samples", "names", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), None, "2 features and samples 3"),
        (torch.zeros(3, 2), torch.zeros(5, 2), ["a"], "1 names, but 2 features"),
        (torch.zeros(0, 2), torch.zeros(3, 2), None, "data is empty"),
        (torch.full((3, 2), float("nan")), torch.zeros(3, 2), None, "no feature"),
    ],
)
def test_marginals_refuse(data: torch.Tensor, samples: torch.Tensor, names: list[str] | None, message: str) -> None:
    with pytest.raises(ElbowroomError, match=message):
        plots.marginals_figure(data, samples, names=names)


def test_a_scatter_of_nothing_finite_is_an_error() -> None:
    with pytest.raises(ElbowroomError, match="no feature"):
        plots.reconstruction_scatter(torch.full((3, 2), float("nan")), torch.zeros(3, 2))


def test_half_a_per_cent_outside_is_not_called_none() -> None:
    samples = TABLE[:, :1].copy()
    samples[: len(samples) // 200] += 1e6
    axes = plots.marginals_figure(TABLE[:, :1], samples).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1% of samples\nout of range"]


def test_the_power_of_ten_beside_an_axis_is_as_small_as_its_numbers() -> None:
    axes = plots.marginals_figure(TABLE[:, :1] + 1.7e9).axes[0]
    axes.figure.canvas.draw()
    offset, *labels = axes.xaxis.get_offset_text(), *axes.get_xticklabels()
    assert offset.get_text()
    assert offset.get_fontsize() == labels[0].get_fontsize()


KINDS = (
    Column("plan", ColumnKind.CATEGORY, levels=("basic", "enterprise", "pro")),
    Column("news", ColumnKind.BINARY, levels=("no", "yes")),
    Column("since", ColumnKind.DATE, step=1.0),
    Column("spend", ColumnKind.POSITIVE),
)


def _of_kinds(rows: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    levels = torch.stack(
        [torch.randint(3, (rows,), generator=generator), torch.randint(2, (rows,), generator=generator)]
    )
    numbers = torch.rand(2, rows, generator=generator) * torch.tensor([[600.0], [9.0]]) + torch.tensor(
        [[18262.0], [0.1]]
    )
    return torch.cat([levels.float(), numbers]).T


def test_levels_and_dates_have_their_names_below_the_panels() -> None:
    x = _of_kinds()
    figure = plots.marginals_figure(x, x.flip(0), names=[kind.name for kind in KINDS], kinds=KINDS)
    plan, news, since, spend = ([label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes)
    assert plan == ["basic", "enterp…", "pro"]
    assert news == ["no", "yes"]
    assert [len(day) for day in since] == [10, 10] and since[0].startswith("2020-")
    assert "yes" not in spend


def test_categories_have_no_mean_to_be_compared_with() -> None:
    x = _of_kinds()
    figure = plots.reconstruction_scatter(x, x, names=[kind.name for kind in KINDS], kinds=KINDS)
    assert [axes.get_xlabel() for axes in figure.axes] == ["news", "since", "spend"]
    assert figure._supxlabel.get_text() == "Categories are left out: plan."
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["no", "yes"]
    assert all(len(label.get_text()) == 10 for label in figure.axes[1].get_yticklabels())
    with pytest.raises(ElbowroomError, match="every column with a value is a category"):
        plots.reconstruction_scatter(x[:, :1], x[:, :1], kinds=KINDS[:1])
