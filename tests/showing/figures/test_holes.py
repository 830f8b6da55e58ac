"""The figure of holes says the numbers that it was given, for pictures and for tables."""

from __future__ import annotations

import pytest
import torch

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.learned_prior import learn_priors
from elbowroom.evaluation.doctor.sample_quality import SampleStudy
from elbowroom.evaluation.two_sample import TwoSampleTest
from elbowroom.model.oracles import LinearGaussian
from elbowroom.showing.figures.holes import holes_figure


def _aggregate(latent_dim: int) -> Aggregate:
    generator = torch.Generator().manual_seed(0)
    model = LinearGaussian(torch.ones(3, latent_dim), torch.zeros(3), scale=1.0)
    z, prior = torch.randn(2, 300, latent_dim, generator=generator)
    learned = learn_priors(model, z.unsqueeze(0), torch.ones(latent_dim), generator=generator)
    gains = dict.fromkeys(learned, torch.full((300,), 1.25))
    plane = torch.eye(latent_dim, dtype=torch.float64)[:, :2]
    test = TwoSampleTest(0.63, 0.01, 13.0, 300)
    return Aggregate(z, prior, learned["mixture"], gains, test, 0.2, z.var(0), plane)


def _samples(event: tuple[int, ...], sources=("encodings", "learned", "prior")) -> SampleStudy:
    generator = torch.Generator().manual_seed(1)
    tests = {s: TwoSampleTest(a, 0.01, 9.0, 300) for s, a in zip(sources, (0.55, 0.61, 0.92), strict=False)}
    means = {s: torch.rand(20, *event, generator=generator) for s in sources}
    return SampleStudy(tests, None, means, {}, torch.rand(20, *event, generator=generator))


def _texts(figure) -> str:
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    ticks = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    return "\n".join(titles + ticks)


@pytest.mark.parametrize("event", [(8, 8), (1, 8, 8), (3, 8, 8)])
def test_pictures_stand_in_rows_that_say_how_often_they_are_told_from_data(event, tmp_path):
    figure = holes_figure(_aggregate(3), _samples(event), title="a run", path=tmp_path / "holes.png")
    said = _texts(figure)
    for part in ("63%", "1.2 nats", "55%", "61%", "92%"):
        assert part in said
    assert len(figure.axes) == 5  # latents, data and three sources
    assert (tmp_path / "holes.png").stat().st_size > 10_000


def test_data_that_are_no_pictures_get_bars():
    figure = holes_figure(_aggregate(2), _samples((5,)))
    latents, bars = figure.axes
    assert [round(bar.get_width(), 2) for bar in bars.patches] == [0.55, 0.61, 0.92]
    assert len(latents.collections) == 2  # dots and contours


def test_a_single_latent_is_drawn_as_two_densities():
    figure = holes_figure(_aggregate(1), _samples((5,)))
    curves = figure.axes[0].lines
    assert len(curves) == 2
    for curve in curves:
        x, y = curve.get_data()
        assert ((y[1:] + y[:-1]) / 2 * (x[1:] - x[:-1])).sum() == pytest.approx(1.0, abs=0.1)


def test_a_row_is_left_out_where_there_is_no_such_source():
    figure = holes_figure(_aggregate(2), _samples((8, 8), sources=("prior",)))
    assert len(figure.axes) == 3


def test_pictures_share_one_scale_of_grey():
    samples = _samples((8, 8))
    figure = holes_figure(_aggregate(2), samples, value_range=(0.0, 2.0))
    strip = torch.tensor(figure.axes[1].images[0].get_array()[:8, :8, 0])
    assert torch.allclose(strip.double(), samples.data[0].double() / 2 * 255, atol=1.0)


def test_missing_pixels_of_the_data_are_blue():
    samples = _samples((8, 8))
    samples.data[:, :4] = torch.nan
    figure = holes_figure(_aggregate(2), samples)
    data, encoded = (figure.axes[panel].images[0].get_array() for panel in (1, 2))
    blue = (88, 106, 132)
    assert (data[:4, :8] == blue).all() and not (data[4:8, :8] == blue).all(-1).any()
    assert not (encoded == blue).all(-1).any()
