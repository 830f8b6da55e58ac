"""Names of columns: matched whatever their order, and what is missing or unknown is named."""

from __future__ import annotations

import pytest

from elbowroom.data.naming import check_distinct, element_name, has_names, matched_columns
from elbowroom.errors import ElbowroomError


@pytest.mark.parametrize(
    ("found", "problem", "remedy"),
    [
        (["a", "c", "b", "kind"], "x has the column 'kind' besides", "Take it out, or train a model with that column."),
        (["e", "a", "b", "c", "d"], "the columns 'e', 'd' besides", "Take them out"),
        (["a", "b"], "x has no column 'c', which", "Give a table with all columns of the training data: a, b, c."),
        (["a"], "no columns 'b', 'c', which", "all columns of the training data"),
        (["a", "b", "zzz"], "no column 'c', which the model was trained on, but a column 'zzz'", "If 'zzz' is 'c'"),
        (
            ["b", "zzz", "yyy"],
            "no columns 'a', 'c', which the model was trained on, but the columns 'zzz', 'yyy'",
            "all",
        ),
    ],
)
def test_columns_that_do_not_fit_are_named(found: list[str], problem: str, remedy: str) -> None:
    with pytest.raises(ElbowroomError) as caught:
        matched_columns(found, ("a", "b", "c"), "x")
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


def test_the_nearest_of_several_is_the_renamed_one() -> None:
    with pytest.raises(ElbowroomError) as caught:
        matched_columns(["Income", "age", "noise"], ("age", "income"), "x")
    assert caught.value.remedy == "If 'Income' is 'income', rename it."


def test_columns_are_put_into_the_order_of_training() -> None:
    assert matched_columns(["c", "a", "b"], ("a", "b", "c"), "x") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["column_1", "column_2"], False),
        (["column_0", "column_1"], False),
        (["column_2", "column_1"], True),
        (["column_1", "age"], True),
        ([0, 1, 2], False),
        ([1, 0], True),
        (["0", "1"], True),
    ],
)
def test_numbered_columns_are_no_names(columns: list[object], named: bool) -> None:
    assert has_names(columns) is named


@pytest.mark.parametrize("columns", [["a", "b", "a"], ["a", "b", "a_duplicated_0"]])
def test_two_columns_of_one_name_are_refused(columns: list[str]) -> None:
    with pytest.raises(ElbowroomError, match="more than one column named 'a'"):
        check_distinct(columns, "x")
    check_distinct(["a", "b", "b_duplicated"], "x")


def test_elements_are_called_by_their_places_where_columns_do_not_fit() -> None:
    assert element_name(("a",), (2,), 1) == "x[1]"
    assert element_name(None, (3, 8, 8), 64 + 8 + 5) == "x[1, 1, 5]"
