"""A context in any form means the same, and what cannot be one is refused with a sentence that helps."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.data.covariates import as_context, encoded_column, finite
from elbowroom.data.loading import load_data
from elbowroom.data.naming import Covariate
from elbowroom.errors import ElbowroomError

pl = pytest.importorskip("polars")

KIND = [Covariate("kind", ("hen", "ox", "pig"))]
FARM = [Covariate("kind", ("hen", "ox", "pig")), Covariate("weight")]
DIGIT = [Covariate("labels", ("3", "5", "7"), also="digit")]
OX_OX_PIG = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def pandas(**columns: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


FORMS = {
    "list": lambda: ["ox", "ox", "pig"],
    "tuple": lambda: ("ox", "ox", "pig"),
    "text": lambda: np.array(["ox", "ox", "pig"]),
    "objects": lambda: np.array(["ox", "ox", "pig"], dtype=object),
    "bytes": lambda: np.array([b"ox", b"ox", b"pig"]),
    "bytes as objects": lambda: [b"ox", b"ox", b"pig"],
    "a column of text": lambda: np.array([["ox"], ["ox"], ["pig"]]),
    "numbers": lambda: [1, 1, 2],
    "whole floats": lambda: np.array([1.0, 1.0, 2.0]),
    "a column of numbers": lambda: torch.tensor([[1], [1], [2]]),
    "one-hot": lambda: np.eye(3)[[1, 1, 2]],
    "one-hot tensor": lambda: torch.eye(3)[[1, 1, 2]],
    "one-hot of bools": lambda: np.eye(3, dtype=bool)[[1, 1, 2]],
    "dict": lambda: {"kind": ["ox", "ox", "pig"]},
    "dict of numbers": lambda: {"kind": np.array([1, 1, 2])},
    "polars": lambda: pl.DataFrame({"kind": ["ox", "ox", "pig"]}),
    "dicts": lambda: [{"kind": "ox"}, {"kind": "ox"}, {"kind": "pig"}],
    "one-hot by name": lambda: pl.DataFrame({"pig": [0, 0, 1], "ox": [1, 1, 0], "hen": [0, 0, 0]}),
    "polars series": lambda: pl.Series(["ox", "ox", "pig"]),
    "polars categorical": lambda: pl.Series(["ox", "ox", "pig"]).cast(pl.Categorical),
    "pandas": lambda: pandas(kind=["ox", "ox", "pig"]),
    "pandas series": lambda: pandas(kind=["ox", "ox", "pig"])["kind"],
    "pandas categorical": lambda: pandas(kind=["ox", "ox", "pig"])["kind"].astype("category"),
    "pandas string": lambda: pandas(kind=["ox", "ox", "pig"])["kind"].astype("string"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("total", [3, None])
def test_every_form_of_one_covariate_means_the_same(form: str, total: int | None) -> None:
    assert as_context(FORMS[form](), KIND, total).tolist() == OX_OX_PIG


@pytest.mark.parametrize("one", ["ox", 1, np.int64(1), np.str_("ox"), torch.tensor(1), {"kind": "ox"}])
def test_one_value_stands_for_all(one: Any) -> None:
    assert as_context(one, KIND, 2).tolist() == [[0, 1, 0]] * 2
    assert len(as_context(one, KIND, otherwise=7)) == 7


SEVERAL = {
    "dict": {"kind": ["ox", "pig"], "weight": [2.5, 3.0]},
    "in another order": {"weight": [2.5, 3.0], "kind": ["ox", "pig"]},
    "polars": pl.DataFrame({"weight": [2.5, 3.0], "kind": ["ox", "pig"]}),
    "numbers in columns": np.array([[1, 2.5], [2, 3.0]]),
    "objects in columns": np.array([["ox", 2.5], ["pig", 3.0]], dtype=object),
    "as the network takes it": np.array([[0, 1, 0, 2.5], [0, 0, 1, 3.0]]),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_every_form_of_two_covariates_means_the_same(form: str) -> None:
    assert as_context(SEVERAL[form], FARM, 2).tolist() == [[0, 1, 0, 2.5], [0, 0, 1, 3.0]]


def test_a_single_value_goes_with_a_list() -> None:
    assert as_context({"kind": ["ox", "pig"], "weight": 2}, FARM).tolist() == [[0, 1, 0, 2], [0, 0, 1, 2]]


def test_one_row_of_numbers_stands_for_all() -> None:
    assert as_context([0, 1, 0, 2.5], FARM, 2).tolist() == [[0, 1, 0, 2.5]] * 2
    nameless = [Covariate("")] * 2
    assert as_context([0.5, 2.0], nameless, 3).tolist() == [[0.5, 2.0]] * 3
    assert as_context(np.ones((3, 2)), nameless, 3).tolist() == [[1, 1]] * 3
    assert as_context({"a": [1.0], "b": [2.0]}, nameless, 1).tolist() == [[1, 2]]


@pytest.mark.parametrize("given", [7, "7", [7], ["7"], np.array([7.0]), {"digit": 7}, {"labels": "7"}])
def test_numbered_classes_are_called_by_their_numbers(given: Any) -> None:
    """What the run was trained with decides: 7 is the class 7, and neither the seventh nor a real number."""
    assert as_context(given, DIGIT, 1).tolist() == [[0, 0, 1]]
    with pytest.raises(ElbowroomError, match="holds the class '0', but the classes in training were 3, 5, 7"):
        as_context(0, DIGIT, 1)


def test_numbers_stay_numbers_where_the_run_has_a_covariate() -> None:
    for given in (7, [7], np.array([[7.0]])):
        assert as_context(given, [Covariate("")], 1).tolist() == [[7]]


@pytest.mark.parametrize("levels", [("false", "true"), ("0", "1"), ("False", "True"), ("no", "yes")])
@pytest.mark.parametrize("form", [[True, False], np.array([True, False]), pl.Series([True, False]), [1, 0]])
def test_truths_are_found_however_they_are_written(levels: tuple[str, str], form: Any) -> None:
    assert as_context(form, [Covariate("smoker", levels)]).tolist() == [[0, 1], [1, 0]]
    assert as_context(form, [Covariate("smoker")]).tolist() == [[1], [0]]


def test_text_and_numbers_together_are_text() -> None:
    values, levels = encoded_column(np.array([1, "a", 1], dtype=object), "kind")
    assert levels == ("1", "a")
    assert values.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert as_context([1, "a"], [Covariate("kind", levels)]).tolist() == [[1, 0], [0, 1]]


REFUSED: dict[str, tuple[Any, Any, str, str]] = {
    "unknown class": (
        ["ox", "pgi"],
        KIND,
        "holds the class 'pgi', but the classes in training were hen, ox, pig",
        "'pig'",
    ),
    "nothing like it": ("cow", KIND, "the class 'cow'", "Give one of them."),
    "number beyond": (3, KIND, "the class '3'", "their numbers 0 to 2"),
    "fraction": (0.5, KIND, "neither whole numbers nor text", "a class number or a class name"),
    "missing class": (
        ["ox", None],
        KIND,
        "missing, or neither whole numbers nor text, the first in row 1",
        "Give every",
    ),
    "missing as nan": (["ox", float("nan")], KIND, "the first in row 1", "Give every row"),
    "text for a number": (
        {"kind": "ox", "weight": "heavy"},
        FARM,
        "'weight' of the context holds text, such as 'heavy'",
        "numbers",
    ),
    "wrong length": (["ox"], KIND, "has 1 row, but 2 are needed", "not in a list"),
    "no rows": ([], KIND, "has 0 rows, but 2 are needed", "Give it 2"),
    "lengths": ({"kind": ["ox"], "weight": [1, 2]}, FARM, "'kind' of the context has 1 row", "Give it 2"),
    "missing column": (
        {"kind": "ox"},
        FARM,
        "has the columns kind, but the model was trained with kind (",
        "Give all of kind, weight",
    ),
    "unknown column": (
        {"kind": "ox", "weight": 1, "age": 3},
        FARM,
        "has the columns kind, weight, age",
        "Take age out.",
    ),
    "misspelt column": ({"kind": "ox", "wieght": 1}, FARM, "has the columns kind, wieght", "'weight'"),
    "frame of others": (pl.DataFrame({"a": [1, 2]}), KIND, "has the columns a,", "Give all of kind"),
    "one value for two": ("ox", FARM, "is one value, but the model was trained with kind", "for instance context={"),
    "one list for two": (["ox", "pig"], FARM, "has shape (2,)", "for instance context={"),
    "wrong width": (np.zeros((2, 5)), FARM, "has shape (2, 5)", "for instance context={"),
    "wrong width, no names": (
        np.zeros((2, 5)),
        [Covariate("")] * 2,
        "has shape (2, 5), but the model was trained with 2 covariates",
        "shape (n, 2)",
    ),
    "dates": (np.array(["2020-01-01"], dtype="datetime64[D]"), [Covariate("t")], "dates", "numbers"),
    "set": ({"ox", "pig"}, KIND, "A set was given, but values are expected", "Give a list"),
    "generator": ((kind for kind in ("ox", "pig")), KIND, "A generator was given", "Give a list"),
    "objects": ([slice(1), slice(2)], [Covariate("t")], "neither numbers nor text", "numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], FARM, "not an array", "same number"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_no_context_of_the_model_is_refused(given: str) -> None:
    value, known, problem, remedy = REFUSED[given]
    with pytest.raises(ElbowroomError) as caught:
        as_context(value, known, 1 if given in ("dates",) else 2)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("given", ["one value for two", "one list for two", "wrong width"])
def test_the_context_that_a_remedy_names_is_taken(given: str) -> None:
    value, known, _, _ = REFUSED[given]
    with pytest.raises(ElbowroomError) as caught:
        as_context(value, known, 2)
    example = ast.literal_eval(caught.value.remedy.split("context=")[1].removesuffix("."))
    assert as_context(example, known, 2).tolist() == [[1, 0, 0, 0]] * 2


def test_missing_numbers_are_named_by_row() -> None:
    with pytest.raises(ElbowroomError, match="not finite in 1 row, the first being row 1"):
        finite(as_context({"kind": "ox", "weight": [1.0, None]}, FARM), "the samples")


# --- the context of data in training -----------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(6, 2))
KINDS = ["ox", "pig", "ox", "hen", "ox", "pig"]
GIVEN = {
    "text": (np.array(KINDS), {"context": ("hen", "ox", "pig")}, ("context",)),
    "list": (KINDS, {"context": ("hen", "ox", "pig")}, ("context",)),
    "series": (pl.Series("kind", KINDS), {"kind": ("hen", "ox", "pig")}, ("kind",)),
    "frame": (pl.DataFrame({"kind": KINDS}), {"kind": ("hen", "ox", "pig")}, ("kind",)),
    "dict": ({"kind": KINDS}, {"kind": ("hen", "ox", "pig")}, ("kind",)),
}


@pytest.mark.parametrize("form", GIVEN)
def test_text_beside_an_array_is_one_hot(form: str) -> None:
    given, levels, columns = GIVEN[form]
    data = load_data(X, context=given, test=0)
    assert data.context is not None
    assert data.context.argmax(1).tolist() == [1, 2, 1, 0, 1, 2]
    assert (data.levels, data.context_columns) == (levels, columns)


def test_numbers_and_text_beside_an_array_keep_their_order() -> None:
    data = load_data(X, context={"weight": np.arange(6), "kind": KINDS}, test=0)
    assert data.context is not None
    assert data.context[3].tolist() == [3, 1, 0, 0]
    assert data.context_columns == ("weight", "kind")
    assert data.names() == {"context_columns": ["weight", "kind"]}


def test_several_columns_of_text_without_names_are_numbered() -> None:
    data = load_data(X, context=np.array([KINDS, KINDS[::-1]]).T, test=0)
    assert data.levels == dict.fromkeys(("context_1", "context_2"), ("hen", "ox", "pig"))


def test_a_list_of_text_is_columns_only_where_the_table_has_them() -> None:
    frame = pl.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": KINDS})
    assert load_data(frame, context=["kind"], test=0).event_shape == (2,)
    assert load_data(frame, context="kind", test=0).event_shape == (2,)
    assert load_data(frame[["a", "b"]], context=KINDS, test=0).context_dim == 3
    with pytest.raises(ElbowroomError, match="has no column 'knid'"):
        load_data(frame, context=["knid"])


def test_a_frame_without_names_is_an_array() -> None:
    frame = pytest.importorskip("pandas").DataFrame(np.eye(3)[[0, 1, 2, 0, 1, 2]])
    data = load_data(X, context=frame, test=0)
    assert data.context is not None
    assert (data.context[:2].tolist(), data.context_columns) == ([[1, 0, 0], [0, 1, 0]], None)
    assert as_context(frame, KIND).tolist() == frame.to_numpy().tolist()
    with pytest.raises(ElbowroomError, match="The context has more than one column named 'a'"):
        load_data(X, context=frame.set_axis(["a", "a", "b"], axis=1))


@pytest.mark.parametrize("context", [KINDS[:5], {"kind": KINDS[:5]}, np.array(KINDS[:5]), pl.Series(KINDS[:5])])
def test_a_context_of_another_length_is_refused(context: Any) -> None:
    with pytest.raises(ElbowroomError, match=r"6 (rows|are needed)|not a table"):
        load_data(X, context=context)


def test_numbers_beside_text_stay_numbers() -> None:
    known = [Covariate("kind", ("hen", "ox")), Covariate("weight")]
    assert as_context([["ox", 3.5], ["hen", 1]], known).tolist() == [[0, 1, 3.5], [1, 0, 1]]


MASKED = np.ma.MaskedArray([1.0, 2.0, 3.0], [False, True, False])


@pytest.mark.parametrize(
    "given",
    [MASKED, MASKED[:, None], {"weight": MASKED}, [MASKED[:1], MASKED[1:2], MASKED[2:]], [1.0, np.ma.masked, 3.0]],
    ids=["array", "column", "by name", "rows", "entry"],
)
def test_masked_values_beside_the_data_are_refused(given: Any) -> None:
    weight = [Covariate("weight")]
    for read in (lambda: load_data(np.eye(3), context=given), lambda: as_context(given, weight)):
        with pytest.raises(ElbowroomError, match="1 of the values that were given beside the data is masked"):
            read()
    with pytest.raises(ElbowroomError, match="is masked, but labels and context must be known"):
        load_data(np.eye(3), labels=np.ma.MaskedArray([0, 1, 2], MASKED.mask))


def test_a_mask_that_hides_nothing_is_no_fault() -> None:
    whole = np.ma.MaskedArray([1.0, 2.0, 3.0], False)
    filled = np.ma.filled(MASKED, 9.0)  # the remedy
    assert load_data(np.eye(3), context=whole).context.tolist() == [[1], [2], [3]]
    assert load_data(np.eye(3), context=filled).context.tolist() == [[1], [9], [3]]
