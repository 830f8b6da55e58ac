"""What people give that is no array of rows. Each is refused with a sentence about what it is."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elbowroom.data.pictures.decoding import is_picture
from elbowroom.data.pictures.finding import IMAGES
from elbowroom.errors import ElbowroomError

__all__ = ["check_not_names", "check_not_records", "check_source", "dict_item", "ragged"]

_LIKELY = ("image", "images", "img", "pixel_values", "x", "data", "features", "input")  # keys that data have


def check_source(source: Any) -> None:
    """Refuse what cannot be an array of rows: mappings, sets, iterators, bytes, open files, single pictures, …

    Raises:
        ElbowroomError: names what it is, and what to give instead.
    Example:
        >>> check_source({3, 1})
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: The data are a set, which has no order, but rows have one.
          Give a list: sorted(data).
    """
    kind = type(source).__name__
    if isinstance(source, Mapping) and not hasattr(source, "toarray"):  # as scipy's dictionaries of keys
        keys = [str(key) for key in list(source)[:5]]
        example = f"data[{keys[0]!r}]" if keys else "an array"
        raise ElbowroomError(
            f"The data are a dict of {', '.join(keys) or 'nothing'}, but one array of rows is expected.",
            f"Give one of its values, such as {example}, and others as labels= or context=; or, where its values are "
            "columns, a data frame: polars.DataFrame(data).",
        )
    if isinstance(source, (set, frozenset)):
        raise ElbowroomError(
            f"The data are a {kind}, which has no order, but rows have one.", "Give a list: sorted(data)."
        )
    if isinstance(source, (bytes, bytearray)):
        raise ElbowroomError(
            f"The data are {len(source):,} bytes without a shape, but an array of rows is expected.",
            "Say what they are: numpy.frombuffer(data, dtype=numpy.uint8).reshape(number_of_rows, -1).",
        )
    if is_picture(source):
        raise ElbowroomError(
            f"The data are one picture of {source.width}x{source.height} pixels, but a model is trained on many.",
            "Give a list of pictures, or the folder they lie in.",
        )
    if isinstance(source, type):
        raise ElbowroomError(
            f"The data are the class {source.__name__}, but one of its objects is expected.",
            f"Make one: {source.__name__}(…).",
        )
    if hasattr(source, "read") and hasattr(source, "seek"):
        name = getattr(source, "name", None)
        path = f": {name!r}" if isinstance(name, str) else ", or numpy.load(file) of a .npy file"
        raise ElbowroomError(
            f"The data are an open file ({kind}), but an array or a path is expected.", f"Give its path{path}."
        )
    if isinstance(source, Iterator) or (isinstance(source, Iterable) and not _has_positions(source)):
        raise ElbowroomError(
            f"The data are a {kind}, whose elements come one after the other, but rows are chosen by position.",
            "Give list(data) if they fit into memory; otherwise wrap it in a torch IterableDataset, whose __iter__ "
            "starts anew each time.",
        )
    if hasattr(source, "__getitem__") and not hasattr(source, "__len__") and not hasattr(source, "__array__"):
        raise ElbowroomError(
            f"The data are a {kind}, which has rows by position but no length.",
            "Give it a __len__, or its n rows in a list: [data[i] for i in range(n)].",
        )
    if callable(source) and not _has_positions(source):
        raise ElbowroomError(
            f"The data are a {kind}, which can be called, but an array of rows is expected.",
            "Call it, and give what it returns: data().",
        )


def _has_positions(source: Any) -> bool:
    return any(hasattr(source, name) for name in ("__array__", "__getitem__", "toarray", "todense", "to_numpy"))


def check_not_names(values: Sequence[Any]) -> None:
    """Refuse the paths of files in place of what they hold."""
    first = str(values[0])
    suffix = Path(first).suffix.lower()
    if not all(isinstance(value, (str, Path)) for value in values) or not (suffix in IMAGES or Path(first).is_file()):
        return
    opened = "PIL.Image.open(path)" if suffix in IMAGES else "numpy.load(path)"
    raise ElbowroomError(
        f"The data are a list of {len(values):,} names of files, such as '{Path(first).name}', but rows are expected.",
        f"Give what they hold: [{opened} for path in data]; or the one path of a folder of images or of a file.",
    )


def check_not_records(rows: Sequence[Any]) -> None:
    """Refuse a list of dicts: a table, or items of which one entry is the row."""
    if isinstance(rows[0], Mapping):
        if all(isinstance(value, (numbers.Number, str)) or value is None for value in rows[0].values()):
            raise ElbowroomError(
                f"The data are a list of dicts with {_keys(rows[0])}, but an array of rows is expected.",
                "Make them a table: polars.DataFrame(data).",
            )
        raise dict_item(rows[0], "the list")


def dict_item(item: Mapping[Any, Any], name: str, *, source: str = "rows") -> ElbowroomError:
    """The error for items that are dicts, with the line that takes x out of them.

    Args:
        item: the first one.
        name: of what it comes from.
        source: how items are fetched: "rows" by position, "stream" one by one, "batches" by a ``DataLoader``.
    Example:
        >>> print(dict_item({"image": [0.5], "label": 3}, "the Faces"))
        The items of the Faces are dicts with image, label, but x is expected.
          Take it out: [data[i]['image'] for i in range(len(data))].
    """
    likely = next((key for wanted in _LIKELY for key in item if str(key).lower() == wanted), None)
    if likely is None:
        likely = next(
            (key for key, value in item.items() if len(getattr(value, "shape", ())) > 0), next(iter(item), "x")
        )
    lines = {
        "rows": f"Take it out: [data[i][{likely!r}] for i in range(len(data))].",
        "stream": f"Take it out: yield item[{likely!r}].",
        "batches": f"Take it out: DataLoader(…, collate_fn=lambda items: torch.stack([item[{likely!r}] for item in "
        "items])).",
    }
    return ElbowroomError(f"The items of {name} are dicts with {_keys(item)}, but x is expected.", lines[source])


def _keys(item: Mapping[Any, Any]) -> str:
    return ", ".join(str(key) for key in list(item)[:5]) or "nothing in them"


def ragged(rows: Any, fault: Exception | None = None) -> ElbowroomError:
    """The error for rows that differ in shape; it names the first that does."""
    reason = "" if fault is None else f" ({str(fault).splitlines()[0].rstrip('.')})"
    shapes = [_shape(row) for row in rows] if isinstance(rows, (list, tuple)) else []
    odd = next((at for at, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None and shapes[0] is not None and shapes[odd] is not None:
        reason = f" (row 0 has shape {shapes[0]}, row {odd} {shapes[odd]})"
    remedy = "Give every row the same number of elements, and NaN with --data.missing mask where one is missing."
    if all(isinstance(row, (list, tuple)) and len(row) > 1 and hasattr(row[0], "shape") for row in rows):
        remedy = "If they are pairs of data and labels, give those of one pair: data[0][0], and data[0][1] as labels=."
    whole = [shape for shape in shapes if shape]
    if 1 < len(whole) == len(shapes) <= 4 and len({shape[0] for shape in whole}) == 1 and whole[0][0] > len(whole):
        remedy = (
            "If they are data and what belongs to them, give the first alone, and the others as labels= or context=."
        )
    return ElbowroomError(f"The data are not an array of rows of one shape{reason}.", remedy)


def _shape(row: Any) -> tuple[int, ...] | None:
    shape = getattr(row, "shape", None)
    if shape is not None:
        return tuple(shape)
    return (len(row),) if isinstance(row, (list, tuple)) else () if isinstance(row, numbers.Number) else None
