r"""Captions of pictures, from their labels and two measures of their strokes: "a bold seven leaning left".

A caption has three words, each of a small vocabulary: the class, the width of the strokes, and their slant. With grey
values :math:`g_{ij} \ge 0`, in row i and column j, A their sum, and :math:`\bar\imath, \bar\jmath` their centre,

.. math:: \text{width} = \frac{2 A}{\sum_{ij} |\nabla g|_{ij}}, \qquad
    \text{slant} = \arctan \frac{\sum_{ij} g_{ij} (\bar\imath - i) (j - \bar\jmath)}
    {\sum_{ij} g_{ij} (i - \bar\imath)^2}.

A stroke of width w and length l has area w l and two edges of length l, and the sum of gradients is the length of all
edges. The slant is the angle from the vertical, positive to the right, by which the rows are shifted on average.
Neither depends on the unit of the grey values.

A seven leans more than a six by its shape. So a picture is compared with those of its own class: the thinner third of
the training rows is thin, the bolder third bold, and so with the slant. Each word then says nothing of the class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.data.naming import Naming
from elbowroom.data.storage import Material
from elbowroom.errors import ElbowroomError

__all__ = ["DIGIT_NAMES", "MEASURES", "Captioner", "measured", "slant", "stroke_width", "with_captions"]

#: words for labels that are numbers
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: covariate -> its words, from the least third of the measure to the greatest
MEASURES: dict[str, tuple[str, str, str]] = {
    "width": ("thin", "medium", "bold"),
    "slant": ("left", "upright", "right"),
}

_AT_A_TIME = 1000  # pictures

Grey = npt.NDArray[np.float64]


def stroke_width(pictures: Grey) -> Grey:
    """The mean width of strokes, in pixels, shape (n,); of black pictures 0.

    Args:
        pictures: grey values from 0, shape (n, height, width).
    Example:
        >>> bars = np.zeros((2, 40, 40))
        >>> bars[0, 2:38, 10:13] = bars[1, 2:38, 10:18] = 1
        >>> stroke_width(bars).round(1)
        array([2.8, 6.6])
    """
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
    across, down = np.diff(padded, axis=2)[:, :-1], np.diff(padded, axis=1)[:, :, :-1]
    edges = np.hypot(across, down).sum((1, 2))
    widths: Grey = np.divide(2 * pictures.sum((1, 2)), edges, out=np.zeros_like(edges), where=edges > 0)
    return widths


def slant(pictures: Grey) -> Grey:
    """The slant in degrees from the vertical, positive to the right, shape (n,); of black pictures 0.

    Args:
        pictures: grey values from 0, shape (n, height, width).
    Example:
        >>> slant(np.fliplr(np.eye(9))[None]).round(1)  # from the lower left to the upper right
        array([45.])
    """
    rows, columns = np.mgrid[: pictures.shape[1], : pictures.shape[2]]
    area = pictures.sum((1, 2), keepdims=True)
    weight = np.divide(pictures, area, out=np.zeros_like(pictures), where=area > 0)
    up = (weight * rows).sum((1, 2), keepdims=True) - rows
    right = columns - (weight * columns).sum((1, 2), keepdims=True)
    shift, spread = (weight * up * right).sum((1, 2)), (weight * up * up).sum((1, 2))
    degrees: Grey = np.degrees(np.arctan2(shift, spread))
    return degrees


def measured(pictures: Grey) -> dict[str, Grey]:
    """Both measures by name, each of shape (n,).

    Args:
        pictures: grey values from 0, shape (n, height, width).
    """
    return {"width": stroke_width(pictures), "slant": slant(pictures)}


@dataclass(frozen=True)
class Captioner:
    """Which words a picture of a known class gets.

    Attributes:
        classes: the words for labels 0, 1, ….
        bounds: covariate -> for each class, the two values between the thirds of its measure.
    """

    classes: tuple[str, ...]
    bounds: dict[str, tuple[tuple[float, float], ...]]

    @classmethod
    def fit(cls, classes: Sequence[str], measures: Mapping[str, Grey], labels: npt.NDArray[np.int64]) -> Captioner:
        """The words of these classes, with bounds between the thirds of these pictures.

        Args:
            classes: names of the labels 0, 1, ….
            measures: of the pictures of training, see :func:`measured`.
            labels: shape (n,).
        Raises:
            ElbowroomError: a class without a picture.
        """
        bounds = {}
        empty = next((name for at, name in enumerate(classes) if not (labels == at).any()), None)
        if empty is not None:
            raise ElbowroomError(
                f"No training row is of the class '{empty}', so nothing says which of its pictures are bold.",
                "Train on more rows, or leave that class out.",
            )
        for name, values in measures.items():
            thirds = [np.quantile(values[labels == at], (1 / 3, 2 / 3)) for at in range(len(classes))]
            bounds[name] = tuple((float(low), float(high)) for low, high in thirds)
        return cls(tuple(classes), bounds)

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Covariate -> its words, in the order of the context."""
        return {"class": self.classes, **MEASURES}

    def words(self, measures: Mapping[str, Grey], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of each word among those of its covariate, shape (n, 3).

        Args:
            measures: of the pictures, see :func:`measured`.
            labels: of each, shape (n,); a drawn picture is held against the class in its caption.
        """
        found = [labels]
        for name in MEASURES:
            limits = np.array(self.bounds[name])[labels]
            found.append((measures[name][:, None] > limits).sum(1))
        return np.stack(found, 1)

    def sentences(self, context: Tensor) -> list[str]:
        """Contexts as captions: "bold seven leaning left".

        Args:
            context: one-hot words, shape (n, context_dim); what is zeros is not said.
        """
        found = []
        for row in context.cpu():
            said, start = [], 0
            for names in self.levels.values():
                part, start = row[start : start + len(names)], start + len(names)
                said.append(names[int(part.argmax())] if bool(part.any()) else "")
            of_class, width, lean = said
            lean = f"leaning {lean}" if lean in ("left", "right") else lean
            found.append(" ".join(word for word in (width, of_class, lean) if word))
        return found

    def record(self) -> dict[str, Any]:
        """As it is kept with a run."""
        return {"classes": list(self.classes), "bounds": {name: list(pairs) for name, pairs in self.bounds.items()}}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Captioner:
        """What `record` kept."""
        bounds = {name: tuple((low, high) for low, high in pairs) for name, pairs in record["bounds"].items()}
        return cls(tuple(record["classes"]), bounds)


def with_captions(material: Material, train: Tensor, like: Naming | None) -> Material:
    """The same pictures with captions as their context.

    Args:
        material: pictures with labels.
        train: positions of the training rows, by which thirds are measured.
        like: the names in the data of a trained model; pictures are then captioned as those were.
    Raises:
        ElbowroomError: what are no grey pictures, or have no labels.
    """
    if material.labels is None:
        raise ElbowroomError(
            f"Captions of {material.name} were asked for, but there are no labels to make them of.",
            "Give labels, or leave --data.context out.",
        )
    measures = _measures(material)
    labels = material.labels.numpy()
    known = None if like is None or like.captions is None else Captioner.of_record(like.captions)
    if known is None:
        rows = train.numpy()
        known = Captioner.fit(_classes(material), {name: of[rows] for name, of in measures.items()}, labels[rows])
    if labels.min() < 0 or labels.max() >= len(known.classes):
        raise ElbowroomError(
            f"The labels of {material.name} go from {labels.min()} to {labels.max()}, but the captions have words for "
            f"0 to {len(known.classes) - 1}.",
            "Take the other rows out.",
        )
    words = torch.from_numpy(known.words(measures, labels))
    context = torch.cat([one_hot(words[:, at], len(names)) for at, names in enumerate(known.levels.values())], 1)
    return replace(
        material, context=context, levels=known.levels, context_columns=tuple(known.levels), captions=known.record()
    )


def _measures(material: Material) -> dict[str, Grey]:
    """Both measures of all pictures, a thousand at a time."""
    shape = material.storage.event_shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)) or material.masked:
        raise ElbowroomError(
            f"Captions of {material.name} were asked for, but they are made for whole grey pictures, and its rows have "
            f"shape {shape}{' with values missing' if material.masked else ''}.",
            "Give grey pictures, such as mnist or digits, or covariates of your own.",
        )
    parts = []
    for rows in torch.arange(len(material.storage)).split(_AT_A_TIME):  # type: ignore[no-untyped-call]
        grey: Grey = material.storage.gather(rows).double().cpu().numpy()
        parts.append(measured(grey.reshape(len(grey), *shape[-2:])))
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}


def _classes(material: Material) -> tuple[str, ...]:
    """Words for the labels: their names, those of digits, or the numbers themselves."""
    assert material.labels is not None
    if material.classes is not None:
        return tuple(name.strip().lower().replace(" ", "-") for name in material.classes)
    number = int(material.labels.max()) + 1
    return DIGIT_NAMES[:number] if number <= len(DIGIT_NAMES) else tuple(map(str, range(number)))
