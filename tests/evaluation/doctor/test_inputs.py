"""What the doctor's checks are given: the learned guide, a split that was held out, and the same draws again."""

from __future__ import annotations

import pytest
import torch

from elbowroom.data.loading import load_data
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.model.guides import PriorGuide
from elbowroom.model.oracles import ppca


def _inputs(*, test: float = 0.0, validation: float = 0.0) -> DoctorInput:
    model, guide, x = ppca(4, 2, seed=0, num_data=60)
    return DoctorInput(model, guide, load_data(x, support="reals", test=test, validation=validation), points=10)


def test_the_prior_in_a_guides_place_counts_as_no_guide() -> None:
    inputs = _inputs()
    assert inputs.learned_guide is inputs.guide
    assert DoctorInput(inputs.model, PriorGuide(inputs.model.prior), inputs.data).learned_guide is None
    assert DoctorInput(inputs.model, None, inputs.data).learned_guide is None


def test_the_test_split_goes_before_the_validation_split() -> None:
    assert _inputs(test=20, validation=30).held_out() == "test"
    assert _inputs(test=20, validation=30).held_out(25) == "validation"
    assert _inputs(validation=30).held_out(30) == "validation"


def test_too_few_held_out_rows_are_refused() -> None:
    with pytest.raises(ElbowroomError, match=r"validation split has 31 rows(.|\n)*--data.test"):
        _inputs(test=20, validation=30).held_out(31)


def test_a_check_sees_the_same_examples_and_draws_each_time() -> None:
    inputs = _inputs(test=20)
    first, again = (inputs.batch("test") for _ in range(2))
    assert len(first) == 10
    torch.testing.assert_close(first.x, again.x, rtol=0, atol=0)
    z, same, other = (inputs.prior_draws(first, inputs.generator(check)) for check in ("a", "a", "b"))
    assert z.shape == (10, 2)
    torch.testing.assert_close(z, same, rtol=0, atol=0)
    assert not torch.equal(z, other)
