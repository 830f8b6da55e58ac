"""Checks before a comparison trains: recipes that cannot work, and log p(x) that are not of the same examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from elbowroom.errors import ElbowroomError
from small_comparisons import go, write

pytestmark = pytest.mark.usefixtures("comparison_folder")


def test_a_fault_of_the_last_recipe_is_found_before_the_first_is_trained() -> None:
    write("naive.toml", 'learner = "naive"')
    Path("naive.toml").write_text(Path("naive.toml").read_text().replace("[model]", '[model]\nguide = "diagonal"'))
    with pytest.raises(ElbowroomError, match="naive: The learner naive draws z from the prior"):
        go("aevb.toml", "naive.toml")
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("bits.npy", "other.npy", "data "),
        ("test = 30", "test = 30\nseed = 1", "data.seed"),
        ("test = 30", "test = 29", "test points"),
        ("test = 30", 'test = 30\nsupport = "reals"', "kind of values"),
    ],
)
def test_what_is_not_of_the_same_points_is_not_compared(old: str, new: str, what: str) -> None:
    Path("wake.toml").write_text(Path("wake.toml").read_text().replace(old, new))
    with pytest.raises(ElbowroomError, match=f"aevb and wake differ in their {what}.*not of the same examples"):
        go()
    assert not Path("o").exists()


def test_other_bits_are_other_points() -> None:
    for name, how in (("aevb.toml", "static"), ("wake.toml", "threshold")):
        text = Path(name).read_text().replace("bits.npy", "grey.npy")
        Path(name).write_text(text.replace("test = 30", f'test = 30\nbinarization = "{how}"'))
    with pytest.raises(ElbowroomError, match=r"data.binarization \(static and threshold\)"):
        go()


def test_what_is_given_covariates_is_not_compared_with_what_is_not() -> None:
    Path("wake.toml").write_text(Path("wake.toml").read_text().replace("test = 30", 'test = 30\ncontext = "labels"'))
    with pytest.raises(ElbowroomError, match=r"aevb and wake differ in their data\.context"):
        go(config={"data": {"name": "digits", "binarization": "threshold"}})


def test_training_sets_may_differ_unless_they_are_measured() -> None:
    Path("wake.toml").write_text(Path("wake.toml").read_text().replace("test = 30", "test = 30\ntrain = 40"))
    assert len(go(moments=1).rows) == 2
    with pytest.raises(ElbowroomError, match="differ in their train points") as caught:
        go(splits=["test", "train"], out="p")
    assert "without --splits train" in caught.value.remedy


def test_codes_are_refused_before_a_setting_that_would_not_help() -> None:
    """Not the schedule first, after whose change the same recipe would be refused again."""
    text = Path("aevb.toml").read_text().replace("[model]", '[model]\nprior = "uniform"\nslots = 3\ncodes = 4')
    Path("codes.toml").write_text(text.replace("[optimizer]", '[optimizer]\nschedule = "cosine"'))
    with pytest.raises(ElbowroomError, match=r"codes: A comparison .* of this recipe are codes \(3 slots") as caught:
        go("codes.toml")
    assert "--methods ais,bdmc" in caught.value.remedy
