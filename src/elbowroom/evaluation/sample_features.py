"""Features in which samples are compared with data: a small network's that was trained in the box, or components.

Distances between pixels say little about pictures. Where the training rows have classes, the features are the hidden
layer of a small perceptron that was trained to tell the classes apart, by scikit-learn, from these rows and a seed;
elsewhere they are the leading principal components. They are not those of the Inception network: figures in them
compare models of one data set, and with no published FID, precision or recall.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SampleFeatures", "fit_features"]

_HIDDEN = 64  # units of the perceptron
_COMPONENTS = 50


@dataclass(frozen=True)
class SampleFeatures:
    """What rows are compared by.

    Attributes:
        description: for results: what they are, and of what.
        of: rows, shape (n, inputs), to features, shape (n, features).
        classify: rows to the number of their class, shape (n,); None where there are no classes.
    """

    description: str
    of: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None


def fit_features(training: Tensor, labels: Tensor | None, *, seed: int) -> SampleFeatures:
    """Features of training rows: a classifier's hidden layer, or principal components.

    Args:
        training: rows, shape (n, inputs).
        labels: their classes, int64, shape (n,); None for components.
        seed: of the classifier's weights and batches, and of the search for components.
    Example:
        >>> rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
        >>> fit_features(rows, None, seed=0).of(rows).shape
        torch.Size([300, 5])
        >>> by_class = fit_features(rows, (rows[:, 0] > 0).long(), seed=0)
        >>> by_class.of(rows).shape, float((by_class.classify(rows) == (rows[:, 0] > 0)).double().mean()) > 0.9
        (torch.Size([300, 64]), True)
    """
    rows = training.double().cpu().numpy()
    mean, scale = rows.mean(0), float(rows.std()) or 1.0  # one scale: pixels share their unit

    def standard(x: Tensor) -> NDArray[np.float64]:
        centred: NDArray[np.float64] = (x.double().cpu().numpy() - mean) / scale
        return centred

    if labels is not None and len(torch.unique(labels)) > 1:
        return _classifier(standard(training), labels, standard, seed)
    return _components(standard(training), standard, seed)


def _classifier(
    rows: NDArray[np.float64], labels: Tensor, standard: Callable[[Tensor], NDArray[np.float64]], seed: int
) -> SampleFeatures:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((_HIDDEN,), random_state=seed, max_iter=100, n_iter_no_change=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred epochs are enough for features
        network.fit(rows, labels.cpu().numpy())
    weights, bias = network.coefs_[0], network.intercepts_[0]
    classes = len(network.classes_)
    return SampleFeatures(
        f"{_HIDDEN} hidden units of a classifier of {classes} classes, trained on {len(rows):,} training rows",
        lambda x: torch.from_numpy(np.maximum(standard(x) @ weights + bias, 0.0)),
        lambda x: torch.from_numpy(network.predict(standard(x)).astype(np.int64)),
    )


def _components(
    rows: NDArray[np.float64], standard: Callable[[Tensor], NDArray[np.float64]], seed: int
) -> SampleFeatures:
    from sklearn.decomposition import PCA

    found = PCA(min(_COMPONENTS, *rows.shape), random_state=seed).fit(rows)
    return SampleFeatures(
        f"{found.n_components_} principal components of {len(rows):,} training rows",
        lambda x: torch.from_numpy(found.transform(standard(x))),
    )
