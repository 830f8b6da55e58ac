r"""A classifier two-sample test: are two samples from one distribution?

Take n draws of P and n draws of Q, hide the labels, and train a classifier to guess them. On draws that it was not
trained on, its accuracy has expectation ½ if P = Q. Otherwise, for any classifier,

.. math:: 2 \, \mathbb{E}[\text{accuracy}] - 1 \;\le\; \mathrm{TV}(P, Q) = \tfrac12 \int |p - q|,

so that an accuracy of 0.7 means: at least 40% of the one distribution lies where the other has no mass. A good
classifier makes the inequality tight; a poor one can miss a difference, but never invents one.

The classifier here is a logistic regression on the leading principal components and all their products. It is optimal
between two normals, so that it sees means, variances and correlations. It trains in a second on a thousand draws of a
thousand pixels, where a larger network would overfit.

Reference:
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, arXiv:1610.06545.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbowroom.errors import ElbowroomError

__all__ = ["LEAST_DRAWS", "TwoSampleTest", "classifier_test"]

LEAST_DRAWS = 50
"""Least number of draws of each sample; with fewer, an accuracy of 0.64 would not be unusual under P = Q."""

_COMPONENTS = 50  # principal components; their products are 1,275 more features
_PENALTY = 0.01  # scikit-learn's C: inverse strength of the L2 penalty, on standardised features
_DEPENDENT = 1.5  # folds share training draws: under P = Q, this widens the spread of z at most so many times
_DEGENERATE = 1e-9  # share of the leading component's variance; components below it are rounding errors
_FAR = 1e3  # deviations from 0 beyond which features are centred first


class TwoSampleTest(NamedTuple):
    """Accuracy of a classifier between two samples.

    Attributes:
        accuracy: share of right guesses on draws that it was not trained on; ½ is chance.
        stderr: its standard error, that of independent guesses.
        z: of accuracy − ½, against chance.
        points: draws of each sample.
    """

    accuracy: float
    stderr: float
    z: float
    points: int

    @property
    def distance(self) -> float:
        """2 · accuracy − 1, at least 0: a lower bound on the total variation between the distributions."""
        return max(0.0, 2 * self.accuracy - 1)


def classifier_test(first: Tensor, second: Tensor, *, generator: torch.Generator, folds: int = 5) -> TwoSampleTest:
    r"""Trains a classifier between two samples, and measures its accuracy by cross-validation.

    .. math:: \hat a = \frac{1}{2n} \sum_{i=1}^{2n} 1\{\hat y_{-f(i)}(x_i) = y_i\}, \qquad
        z = \frac{\hat a - 1/2}{1.5 \, \sqrt{1 / 8n}}

    with :math:`\hat y_{-f}` trained without fold f. Every fold has as many draws of the one sample as of the other.
    Guesses in different folds rest on mostly the same draws, so that their mean varies more than that of independent
    guesses: by 1.1 to 1.5 times in simulations with 2 to 30 features. The z-score allows for that.

    Args:
        first: independent draws, shape (n, features).
        second: independent draws, shape (m, features); of the larger sample min(n, m) draws are used.
        generator: the source of randomness, for the folds.
        folds: number of folds F.
    Returns:
        Accuracy with its standard error and z-score.
    Raises:
        ElbowroomError: fewer draws than ``LEAST_DRAWS``; draws of different shapes or that are not finite.
    Reference:
        Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, section 3, arXiv:1610.06545.
        Nadeau & Bengio (2003), Inference for the generalization error, Machine Learning 52.
    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> a, b, c = torch.randn(3, 400, 2, generator=generator)
        >>> bool(abs(classifier_test(a, b, generator=generator).z) < 4)
        True
        >>> bool(classifier_test(a, 2 * c, generator=generator).z > 4)
        True
    """
    points = min(len(first), len(second))
    _check(first, second, points)
    pair = torch.stack([_some(first, points, generator), _some(second, points, generator)])
    values = pair.flatten(0, 1).double().cpu().numpy()
    labels = np.repeat([0, 1], points)
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
    features = _features(values, seed)
    fold = np.tile(np.arange(points) % folds, 2)  # the rows are in random order already
    right = np.concatenate([_right(features, labels, fold == left_out) for left_out in range(folds)])
    accuracy = float(right.mean())
    total = 2 * points
    stderr = math.sqrt(max(accuracy * (1 - accuracy), 1 / total) / total)
    return TwoSampleTest(accuracy, stderr, (accuracy - 0.5) / (_DEPENDENT * math.sqrt(0.25 / total)), points)


def _some(sample: Tensor, points: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(sample), generator=generator, device=generator.device)
    return sample.detach()[order[:points].to(sample.device)]


def _features(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Standardised principal components of both samples together, and their products; they do not see the labels."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    # a deviation whose square is 0 cannot be standardised
    varying = values[:, (np.ptp(values, 0) > 0) & (values.var(0) > np.finfo(np.float64).tiny)]
    if not varying.shape[1]:
        return np.zeros((len(values), 1))
    center = varying.mean(0)
    if (np.abs(center) > _FAR * varying.std(0)).any():  # PCA subtracts means of squares, and nothing would be left
        varying = varying - center
    components = min(_COMPONENTS, *varying.shape)
    # the solver is chosen by size: covariance_eigh rounds small components, and the randomised one needs a seed
    scores = PCA(components, random_state=seed).fit_transform(varying)
    spread = scores.var(0)
    scores = StandardScaler().fit_transform(scores[:, spread > _DEGENERATE * spread.max()])
    products: NDArray[np.float64] = PolynomialFeatures(2, include_bias=False).fit_transform(scores)
    scaled: NDArray[np.float64] = StandardScaler().fit_transform(products)
    return scaled


def _right(features: NDArray[np.float64], labels: NDArray[Any], left_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which guesses about the left-out draws are right."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=_PENALTY, max_iter=300)
    with warnings.catch_warnings():
        # the test is valid for every classifier, also for one that has not converged
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features[~left_out], labels[~left_out])
    guesses: NDArray[np.bool_] = classifier.predict(features[left_out]) == labels[left_out]
    return guesses


def _check(first: Tensor, second: Tensor, points: int) -> None:
    if first.dim() != 2 or first.shape[1:] != second.shape[1:]:
        raise ElbowroomError(
            f"The samples have shapes {tuple(first.shape)} and {tuple(second.shape)}, but each row must be one draw, "
            "with the same features in both.",
            "Flatten the draws to (n, features).",
        )
    if points < LEAST_DRAWS:
        raise ElbowroomError(
            f"A two-sample test needs {LEAST_DRAWS} draws of each sample, but there are {points}.",
            "Hold more data out with --data.test 0.2, or use more of them with --points 1000.",
        )
    if not bool(first.isfinite().all() & second.isfinite().all()):
        raise ElbowroomError(
            "One of the two samples contains NaN or infinity.",
            "Check the model for non-finite weights first: `elbowroom doctor` does.",
        )
