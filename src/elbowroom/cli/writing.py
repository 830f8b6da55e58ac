"""Output files named by the user: checked before the work, written atomically after it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elbowroom.cli.speech import wrote
from elbowroom.errors import ElbowroomError

if TYPE_CHECKING:
    from torch import Tensor

    from elbowroom.data.dataset import DataSet

__all__ = ["checked_target", "not_taken", "save_arrays", "write_arrays", "write_csv", "write_evaluated"]


def checked_target(path: Path, *, folder: Path | None = None, suffix: str | None = None) -> Path:
    """The path, if a file can be written there.

    Args:
        path: where to write.
        folder: a folder that is checked elsewhere.
        suffix: the ending that the name must have.
    Raises:
        ElbowroomError: it is a folder, it would lie in a folder that does not exist, or its name ends otherwise.
    """
    if path.is_dir():
        raise ElbowroomError(
            f"{path} is a folder, but a file is to be written.",
            f"Name a file, such as {path / 'out'}{suffix or '.csv'}.",
        )
    if suffix is not None and path.suffix != suffix:
        what = "Arrays are" if suffix == ".npz" else "This is"
        raise ElbowroomError(f"{what} written as {suffix}, and {path} is not named so.", f"Name it {path}{suffix}.")
    if path.parent != folder and not path.parent.is_dir():
        raise ElbowroomError(
            f"{path} cannot be written: there is no folder {path.parent}.", f"Make it: mkdir -p {path.parent}."
        )
    return path


def write_arrays(path: Path, **tensors: Tensor | Sequence[str]) -> None:
    """Writes arrays by name, as .npz, and prints the path."""
    save_arrays(path, **tensors)
    wrote(path)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV: NaN as an empty cell, true and false in lower case."""
    from elbowroom.running.checkpoints import write_text_atomically

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    write_text_atomically(path, text.getvalue())


def _cell(value: Any) -> Any:
    """Empty for NaN, true and false in lower case, infinities as they are."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if isinstance(value, float) and math.isnan(value) else value


def write_evaluated(path: Path, data: DataSet, rows: Tensor) -> None:
    """Writes the values of these rows as the model saw them, as .npz."""
    from elbowroom.data.written import evaluated_arrays

    save_arrays(path, **evaluated_arrays(data, rows))


def save_arrays(path: Path, **tensors: Tensor | Sequence[str]) -> None:
    """Writes arrays by name, as .npz: tensors, and text."""
    import numpy as np

    arrays: dict[str, Any] = {
        name: np.array(values, dtype=np.str_) if isinstance(values, list | tuple) else np.asarray(values)
        for name, values in tensors.items()
    }
    temporary = path.with_name(f".{path.stem}.writing.npz")
    try:
        np.savez(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def not_taken(named: Mapping[str, Sequence[str]], taken: Iterable[str]) -> dict[str, Sequence[str]]:
    """Columns of identifiers for an archive in which some names are taken.

    Example:
        >>> not_taken({"customer": ["a", "b"]}, ["mean"]), not_taken({"mean": ["a", "b"]}, ["mean"])
        ({'customer': ['a', 'b']}, {'id_mean': ['a', 'b']})
    """
    there = {*taken, "path", "file", "allow_pickle"}  # the last three are arguments of who writes it
    return {f"id_{name}" if name in there else name: values for name, values in named.items()}
