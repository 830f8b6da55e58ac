"""The classifier two-sample test: honest where nothing differs, and as good as the best where something does."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.two_sample import classifier_test


def _phi(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equal_distributions_give_z_scores_of_variance_one():
    z = []
    for seed in range(60):
        generator = _generator(seed)
        a, b = torch.randn(2, 150, 4, generator=generator)
        z.append(classifier_test(a, b, generator=generator).z)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4 / math.sqrt(60)
    assert 0.55 < float(z.std()) < 1.1


def test_more_features_than_draws_are_not_learned_by_heart():
    generator = _generator(0)
    a, b = torch.randn(2, 80, 400, generator=generator)
    assert abs(classifier_test(a, b, generator=generator).z) < 4


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_is_found_as_well_as_can_be(shift):
    generator = _generator(1)
    a, b = torch.randn(2, 2000, 3, generator=generator)
    found = classifier_test(a, b + torch.tensor([shift, 0.0, 0.0]), generator=generator)
    best = _phi(shift / 2)
    assert found.z > 4
    assert found.z == pytest.approx((found.accuracy - 0.5) / (1.5 * 0.5 / math.sqrt(4000)))
    assert found.stderr == pytest.approx(math.sqrt(found.accuracy * (1 - found.accuracy) / 4000))
    assert best - 0.01 - 4 * found.stderr < found.accuracy < best + 4 * found.stderr


def test_a_difference_of_width_is_found_as_well_as_can_be():
    generator = _generator(2)
    a, b = torch.randn(2, 2000, 1, generator=generator)
    found = classifier_test(a, 3 * b, generator=generator)
    edge = math.sqrt(2 * math.log(3) / (1 - 1 / 9))  # where N(0, 1) and N(0, 9) cross
    best = 0.5 + 0.5 * (2 * _phi(edge) - 2 * _phi(edge / 3))
    assert abs(found.accuracy - best) < 4 * found.stderr


def test_a_correlation_is_found():
    generator = _generator(3)
    a, b = torch.randn(2, 1000, 2, generator=generator)
    b[:, 1] = 0.8 * b[:, 0] + 0.6 * b[:, 1]  # the marginals stay N(0, 1)
    assert classifier_test(a, b, generator=generator).z > 4


def test_distance_is_a_lower_bound_on_total_variation():
    generator = _generator(4)
    a, b = torch.randn(2, 3000, 1, generator=generator)
    found = classifier_test(a, b + 1, generator=generator)
    assert found.distance == pytest.approx(2 * found.accuracy - 1)
    assert found.distance < 2 * _phi(0.5) - 1 + 8 * found.stderr


def test_the_unit_of_features_does_not_matter():
    a, b = torch.randn(2, 500, 2, generator=_generator(5), dtype=torch.float64)
    b = b + 0.5
    plain, scaled = (classifier_test(s * a, s * b, generator=_generator(0)) for s in (1.0, 1e6))
    assert plain.accuracy == pytest.approx(scaled.accuracy, abs=1e-9)


def test_constant_features_and_rounding_say_nothing():
    generator = _generator(6)
    a, b = torch.randn(2, 300, 2, generator=generator, dtype=torch.float64)
    tiny = torch.tensor([1e-6, -1e-6], dtype=torch.float64)
    a, b = (torch.cat([x, torch.ones(300, 1) + e], 1) for x, e in zip((a, b), tiny, strict=True))
    assert abs(classifier_test(a, b, generator=generator).z) < 4
    constant = torch.ones(100, 3)
    assert classifier_test(constant, constant, generator=generator).accuracy == pytest.approx(0.5)


def test_the_larger_sample_is_thinned_at_random():
    ordered = torch.arange(2000.0)[:, None]  # its first rows are its lowest
    other = ordered[torch.randperm(2000, generator=_generator(7))[:400]]
    found = classifier_test(ordered, other, generator=_generator(8))
    assert found.points == 400
    assert abs(found.z) < 4


def test_the_same_generator_gives_the_same_figure():
    a, b = torch.randn(2, 200, 3, generator=_generator(9))
    first, second = (classifier_test(a, b, generator=_generator(1)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (torch.zeros(10, 2), torch.zeros(900, 2), "there are 10"),
        (torch.zeros(100, 2), torch.zeros(100, 3), "shapes"),
        (torch.zeros(100, 2, 2), torch.zeros(100, 2, 2), "shapes"),
        (torch.full((100, 2), math.nan), torch.zeros(100, 2), "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, said):
    with pytest.raises(ElbowroomError, match=said):
        classifier_test(first, second, generator=_generator(0))


def test_features_that_differ_by_less_than_can_be_squared_say_nothing():
    generator = torch.Generator().manual_seed(0)
    first, second = (1e-200 * torch.randn(2, 60, 3, generator=generator, dtype=torch.float64)).unbind()
    assert classifier_test(first, second, generator=generator).accuracy == 0.5


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e12])
def test_an_offset_does_not_matter(offset):
    """A variance as a difference of squares would be 0, and a share of it a warning."""
    generator = torch.Generator().manual_seed(0)
    first, second = 0.01 * torch.randn(2, 200, 1, generator=generator, dtype=torch.float64)
    found = classifier_test(first + offset, 3 * second + offset, generator=generator)
    assert found.accuracy > 0.65
