"""Labels and covariates (context) that come beside the rows, in whatever form, as numbers.

Text becomes one-hot, one number for each of its classes; numbers stay as they are. A trained model knows its covariates
by name (:class:`~elbowroom.data.naming.Covariate`), and every form of the same context then means the same: one value
for all rows, a list, an array, class numbers, one-hot rows, a dict or a data frame with named columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.data.naming import Covariate, check_distinct, described, has_names, listed
from elbowroom.data.storage import Material, as_classes, as_tensor, is_text
from elbowroom.errors import ElbowroomError, did_you_mean

__all__ = [
    "as_context",
    "class_numbers",
    "context_from_labels",
    "encoded_column",
    "exact_context",
    "finite",
    "finite_context",
    "match_levels",
    "values_of",
    "with_context",
]

_ALIKE = ({"true", "True", "1"}, {"false", "False", "0"})  # how the same truth is written


# --- values from Python ------------------------------------------------------------------------------------------


def values_of(given: Any) -> npt.NDArray[Any]:
    """An array of values from Python: a tensor, a column of a data frame, a list, or one value (shape ()).

    Raises:
        ElbowroomError: some are masked.
    """
    _refuse_masked(given)
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        return np.asarray((given.float() if given.dtype is torch.bfloat16 else given).numpy())
    if hasattr(given, "to_numpy"):
        return np.asarray(given.to_numpy())
    if isinstance(given, list | tuple) and any(isinstance(value, str | bytes) for value in given):
        array = np.empty(len(given), dtype=object)  # numpy would make text of what is missing
        array[:] = given
        return array
    try:
        array = np.asarray(given)
    except ValueError as fault:
        raise ElbowroomError(
            f"What was given is not an array ({str(fault).splitlines()[0].rstrip('.')}).",
            "Give every row the same number of values.",
        ) from fault
    if array.dtype.kind == "U" and isinstance(given, list | tuple):
        array = np.asarray(given, dtype=object)  # numbers beside text stay numbers
    if array.ndim == 0 and array.dtype.kind == "O":
        raise ElbowroomError(
            f"A {type(given).__name__} was given, but values are expected, one for each row.",
            "Give a list or an array, or for several columns a dict or a data frame.",
        )
    return array


def _refuse_masked(given: Any) -> None:
    """Refuse masked arrays of numpy or torch, and lists of these, in which something is masked."""
    number = sum(map(_masked, given)) if isinstance(given, list | tuple) else _masked(given)
    if number:
        raise ElbowroomError(
            f"{number:,} of the values that were given beside the data {'is' if number == 1 else 'are'} masked, but "
            "labels and context must be known for every row: only x may have missing elements.",
            "Fill in those values, numpy.ma.filled(a, …), or take those rows out.",
        )


def _masked(given: Any) -> int:
    """How many elements are masked."""
    if given is np.ma.masked or isinstance(given, np.ma.MaskedArray):
        return int(np.ma.getmaskarray(given).sum())
    return int((~given.get_mask()).sum()) if hasattr(given, "get_mask") else 0  # torch's MaskedTensor


def _columns_of(given: Any) -> dict[str, Any] | None:
    """The columns of a dict, a list of dicts or a data frame by name; None for what has no names."""
    if isinstance(given, Mapping):
        return {str(column): values for column, values in given.items()}
    if isinstance(given, list | tuple) and given and all(isinstance(row, Mapping) for row in given):
        names = list(dict.fromkeys(str(name) for row in given for name in row))
        return {name: [row.get(name) for row in given] for name in names}
    if hasattr(given, "columns") and hasattr(given, "to_numpy") and has_names(list(given.columns)):
        check_distinct([str(column) for column in given.columns], "The context")
        return {str(column): given[column] for column in given.columns}
    return None


def class_numbers(labels: Any, total: int) -> tuple[Tensor, tuple[str, ...] | None]:
    """Class labels from Python as numbers, int64, shape (n,), and their names where they are text."""
    values = values_of(labels)
    if values.shape not in ((total,), (total, 1)):
        raise ElbowroomError(
            f"labels has shape {values.shape}, but the data have {total:,} rows.",
            "Give labels one class number or name for each row.",
        )
    return as_classes(values, "labels")


# --- one column --------------------------------------------------------------------------------------------------


def encoded_column(
    values: npt.NDArray[Any], what: str, known: Covariate | None = None, *, from_file: bool = False
) -> tuple[Tensor, tuple[str, ...] | None]:
    """One column of the context as numbers, shape (n, width), and the classes of text.

    Args:
        values: shape (n,).
        what: what messages call it, such as "Column 'kind' of people.csv".
        known: what the column was in training; found from the values unless given.
        from_file: whether the values are rows of a table, for the remedy.
    Raises:
        ElbowroomError: an unknown class, a missing one, or text where training had numbers.
    Example:
        >>> encoded_column(np.array(["ox", "hen"]), "kind", Covariate("kind", ("hen", "ox", "pig")))[0].tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    levels = None if known is None else known.levels
    if levels is None:
        if not is_text(values):
            return _real(values, what)[:, None], None
        if known is not None:
            example = next(value for value in values.tolist() if isinstance(value, str | bytes))
            raise ElbowroomError(
                f"{what} holds text, such as {example!r}, but held numbers in training.", "Give numbers there."
            )
    numbers, names = as_classes(values, what)
    if levels is None:
        assert names is not None, "text has names"
        return one_hot(numbers, len(names)), names
    numbered = names is None
    if names is None:
        unique, places = np.unique(numbers.numpy(), return_inverse=True)
        numbers, names = torch.from_numpy(places.astype(np.int64)), tuple(str(value) for value in unique.tolist())
    places_there = match_levels(numbers, names, levels, what, numbered=numbered, from_file=from_file)
    return one_hot(places_there, len(levels)), levels


def _real(values: npt.NDArray[Any], what: str) -> Tensor:
    """Numbers as they are; of Python objects, NaN where a value is missing."""
    if values.dtype.kind == "O":
        try:
            values = np.array([np.nan if str(one) in ("None", "<NA>", "NaT") else float(one) for one in values])
        except (TypeError, ValueError) as fault:
            raise ElbowroomError(
                f"{what} holds values that are neither numbers nor text.", "Give numbers, or text."
            ) from fault
    return as_tensor(values, what)


def match_levels(
    numbers: Tensor,
    names: Sequence[str],
    known: Sequence[str],
    what: str,
    *,
    numbered: bool = False,
    from_file: bool = True,
) -> Tensor:
    """Renumber classes as in training.

    Args:
        numbers: places in ``names``, int64, shape (n,).
        names: of the classes at hand.
        known: the names in training, in their order.
        what: for the message.
        numbered: the names are numbers, and so are places in ``known`` where those are words.
        from_file: whether they are rows of a table, for the remedy.
    Raises:
        ElbowroomError: a class that was not among those in training.
    Example:
        >>> match_levels(torch.tensor([0, 1]), ("b", "c"), ("a", "b", "c"), "the labels")
        tensor([1, 2])
        >>> match_levels(torch.tensor([0, 1]), ("0", "2"), ("a", "b", "c"), "the labels", numbered=True)
        tensor([0, 2])
    """
    place = {name: at for at, name in enumerate(known)}
    if numbered and not any(name.removeprefix("-").isdecimal() for name in known):
        place = {str(at): at for at in range(len(known))}
    for alike in _ALIKE:
        there = alike & place.keys()
        if len(there) == 1:
            place |= dict.fromkeys(alike, place[there.pop()])
    strange = [name for name in names if name not in place]
    if strange:
        near = did_you_mean(strange[0], known)
        if not near.startswith("Did"):
            choice = f"Give one of them{f', or their numbers 0 to {len(known) - 1}' if numbered else ''}."
            near = "Take those rows out, or train with that class." if from_file else choice
        raise ElbowroomError(
            f"{what} holds the class '{strange[0]}', but the classes in training were {listed(known)}.", near
        )
    return torch.tensor([place[name] for name in names], dtype=torch.int64)[numbers]


# --- the whole context -------------------------------------------------------------------------------------------


def with_context(material: Material, given: Any, known: Sequence[Covariate] = ()) -> Material:
    """The same rows beside a context from Python, in any form.

    Args:
        material: the rows.
        given: one entry for each row.
        known: the covariates of training; found from what is given unless there are any.
    Raises:
        ElbowroomError: another number of rows, or what :func:`as_context` refuses.
    """
    total = len(material.storage)
    if known:
        return replace(
            material,
            context=as_context(given, known, total),
            levels={one.name: one.levels for one in known if one.levels is not None},
            context_columns=tuple(one.name for one in known) if known[0].name else None,
        )
    columns = _columns_of(given)
    if columns is None:
        values = values_of(given)
        if values.ndim == 0 or len(values) != total:
            raise ElbowroomError(
                f"context has shape {values.shape}, but the data have {total:,} rows.",
                "Give context one entry for each row.",
            )
        name = getattr(given, "name", None)
        named = name if isinstance(name, str) and name else None
        if not is_text(values):
            context = _real(values, "context") if values.ndim == 1 else as_tensor(values, "context")
            context = context.reshape(total, -1)
            return replace(material, context=context, context_columns=(named,) if named else None)
        values = values.reshape(total, -1)
        names = [f"context_{at + 1}" for at in range(values.shape[1])] if values.shape[1] > 1 else [named or "context"]
        columns = {name: values[:, at] for at, name in enumerate(names)}
    encoded = {
        column: encoded_column(values, _of(column, "context"))
        for column, values in _lengths(columns, total, "context").items()
    }
    return replace(
        material,
        context=torch.cat([part for part, _ in encoded.values()], 1),
        levels={column: levels for column, (_, levels) in encoded.items() if levels is not None},
        context_columns=tuple(columns),
    )


def as_context(
    given: Any, known: Sequence[Covariate], total: int | None = None, what: str = "context", *, otherwise: int = 1
) -> Tensor:
    """A context in any form as numbers in the order of training, shape (n, context_dim).

    Args:
        given: one value for all rows; one value for each row, where there is one covariate: text, class numbers (places
            among the classes, where those are words), real numbers; an array of shape (n, context_dim), such as one-hot
            rows; one row of numbers for all; a dict, a list of dicts or a data frame with the covariates by name.
        known: the covariates of training, in their order.
        total: the number of rows; as many as are given unless it is.
        what: the keyword, for messages.
        otherwise: the number of rows where nothing says it, since one value is given for all.
    Raises:
        ElbowroomError: another number of rows, unknown classes, columns that are missing or unknown, text for a number.
    Example:
        >>> kind = [Covariate("kind", ("hen", "ox", "pig"))]
        >>> as_context(["ox", "pig"], kind).tolist()
        [[0, 1, 0], [0, 0, 1]]
        >>> as_context("ox", kind, 2).tolist() == as_context({"kind": 1}, kind, 2).tolist() == [[0, 1, 0]] * 2
        True
        >>> as_context({"kind": "cow"}, kind, 2)
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: Column 'kind' of the context holds the class 'cow', but the classes in \
training were hen, ox, pig.
          Give one of them.
    """
    columns = _columns_of(given)
    if columns is not None and len(known) == 1 and columns.keys() == set(known[0].levels or ()):
        given, columns = (
            np.column_stack([values_of(columns[level]) for level in known[0].levels or ()]),
            None,
        )  # one-hot
    if columns is None or not known[0].name:
        stacked = [values_of(values) for values in columns.values()] if isinstance(given, Mapping) and columns else None
        values = values_of(given) if stacked is None else np.column_stack(stacked)
        whole = _whole_rows(values, known)
        if whole is not None:
            if values.ndim == 1:
                return whole.expand(otherwise if total is None else total, -1)
            _check_length(len(whole), total, _of("", what))
            return whole
        columns = _by_place(values, known, what)
    else:
        columns = _by_name(columns, known, what)
    parts = _lengths(columns, total, what, otherwise)
    return torch.cat([encoded_column(parts[one.name], _of(one.name, what), one)[0] for one in known], dim=1)


def _of(column: str, what: str) -> str:
    return f"Column '{column}' of the {what}" if column else f"The {what}"


def _by_name(columns: dict[str, Any], known: Sequence[Covariate], what: str) -> dict[str, Any]:
    """The columns by the names that they had in training; refuses missing and unknown ones."""
    names = [name for one in known for name in one.names]
    found = {one.name: name for one in known for name in one.names if name in columns}
    missing = [one.name for one in known if one.name not in found]
    unknown = [name for name in columns if name not in names]
    if not missing and not unknown:
        return {name: columns[given] for name, given in found.items()}
    near = did_you_mean(unknown[0], missing) if unknown and missing else ""
    if not missing:
        remedy = f"Take {' and '.join(unknown)} out."
    elif near.startswith("Did"):
        remedy = near
    else:
        remedy = f"Give all of {', '.join(one.name for one in known)}, and nothing else."
    raise ElbowroomError(
        f"The {what} has the columns {listed(list(columns))}, but the model was trained with {described(known)}.",
        remedy,
    )


def _whole_rows(values: npt.NDArray[Any], known: Sequence[Covariate]) -> Tensor | None:
    """Rows of numbers that need no reading, shape (n, context_dim): one-hot ones and real covariates."""
    width = sum(one.width for one in known)
    if values.dtype.kind not in "biuf" or values.ndim == 0:
        return None
    if values.ndim == 1:  # where there is one covariate, that is a value for each row
        return as_tensor(values[None], "context") if len(known) > 1 and len(values) == width else None
    rows = values.reshape(len(values), -1)
    if rows.shape[1] != width or (width == 1 and known[0].levels is not None and not (rows == 1).all()):
        return None
    return as_tensor(rows, "context")


def _by_place(values: npt.NDArray[Any], known: Sequence[Covariate], what: str) -> dict[str, npt.NDArray[Any]]:
    """Columns by their places: one value or a vector for one covariate, or a column for each."""
    if len(known) == 1 and (values.ndim < 2 or values.shape[1:] == (1,)):
        return {known[0].name: values}
    if values.ndim == 2 and values.shape[1] == len(known) and known[0].name:
        return {one.name: values[:, at] for at, one in enumerate(known)}
    width = sum(one.width for one in known)
    given = f"has shape {tuple(values.shape)}" if values.ndim else "is one value"
    if known[0].name:
        example = {one.name: one.levels[0] if one.levels is not None else 0.0 for one in known}
        remedy = f"Give the covariates by name, for instance {what}={example}."
    else:
        remedy = f"Give an array of shape (n, {width})."
    raise ElbowroomError(f"The {what} {given}, but the model was trained with {described(known)}.", remedy)


def _lengths(
    columns: Mapping[str, Any], total: int | None, what: str, otherwise: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """The columns as vectors of one length; a single value stands for all rows."""
    arrays = {name: values_of(values) for name, values in columns.items()}
    lengths = {name: len(values.reshape(-1)) for name, values in arrays.items() if values.ndim}
    rows = total if total is not None else max(lengths.values(), default=otherwise)
    for name, length in lengths.items():
        _check_length(length, rows, _of(name, what))
    return {
        name: values.reshape(-1) if values.ndim else np.full(rows, values[()], dtype=values.dtype)
        for name, values in arrays.items()
    }


def _check_length(length: int, total: int | None, what: str) -> None:
    needed = max(length if total is None else total, 1)
    if length != needed:
        raise ElbowroomError(
            f"{what} has {length:,} {'row' if length == 1 else 'rows'}, but {needed:,} are needed.",
            f"Give it {needed:,}, or one value, not in a list, that holds for all of them.",
        )


def context_from_labels(material: Material, known: Sequence[str] | None) -> Material:
    """The labels, one-hot, numbered as in training where that is known."""
    if material.labels is None:
        raise ElbowroomError(
            f"The labels of {material.name} are to be the context, but there are no labels.",
            "Give labels, or the context itself as an array.",
        )
    numbers, names, numbered = material.labels, material.classes, material.classes is None
    if names is None:
        least = min(0, int(numbers.min()))
        numbers = numbers - least
        names = tuple(str(least + at) for at in range(int(numbers.max()) + 1))
    if known is not None:
        present = torch.from_numpy(
            np.unique(numbers.numpy())
        )  # numbers that merely lie between the least and the greatest are no classes
        names = tuple(names[at] for at in present.tolist())
        places, what = torch.searchsorted(present, numbers), f"The labels of {material.name}"
        numbers, names = match_levels(places, names, known, what, numbered=numbered), tuple(known)
    context = one_hot(numbers, len(names))
    return replace(material, context=context, levels={"labels": names}, context_columns=("labels",))


def finite(context: Tensor, name: str) -> Tensor:
    """A context as it is, if all of it is finite; the last step for every context, wherever it came from.

    Args:
        context: shape (n, context_dim).
        name: of the data, for the message.
    Raises:
        ElbowroomError: a value that is not finite; names the row.
    """
    bad = ~context.isfinite().all(1)
    if bad.any():
        count = int(bad.sum())
        raise ElbowroomError(
            f"The context of {name} is not finite in {count:,} {'row' if count == 1 else 'rows'}, the first being row "
            f"{int(bad.nonzero()[0])}.",
            "Fill in those values, or take those rows out: only x may have missing elements.",
        )
    return context


def finite_context(material: Material) -> Tensor | None:
    """The context as float32; refuses one that is not finite, naming the row."""
    return None if material.context is None else finite(material.context, material.name).float()


def exact_context(material: Material) -> Tensor | None:
    """The context as float64 where float32 does not hold it exactly; otherwise None."""
    given = material.context
    if given is None or bool((given.float().double() == given.double()).all()):
        return None
    return given.double()
