"""How many captions are obeyed: pictures drawn for captions of the test set, judged by what was not trained with them.

The class is told by a support vector machine of scikit-learn, fitted to the run's training pictures; width and slant
are measured as for the captions. What a picture loses in its codes is no fault of the prior, so reconstructions of the
test pictures are judged alike. Draws by guidance can do better than these: they are more typical than real pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbowroom.data.captions import MEASURES, Captioner, measured
from elbowroom.data.dataset import DataSet
from elbowroom.data.splits import seeded_permutation
from elbowroom.errors import ElbowroomError
from elbowroom.numerics import mean_and_stderr
from elbowroom.running.runs import Run

__all__ = ["Obeyed", "captions_obeyed"]

_FITTED = 10_000  # training pictures for the classifier


class Obeyed(NamedTuple):
    """How often pictures are what the word of a caption says."""

    word: str  #: class, width or slant; or all, for all three at once
    drawn: float  #: share of the pictures drawn for captions
    stderr: float
    reconstructed: float  #: share of reconstructions of the pictures that had these captions
    chance: float  #: share where captions are not read, if all words are as frequent


def captions_obeyed(run: Run, num: int = 500, *, seed: int = 0, **rule: float) -> list[Obeyed]:
    """The share of captions of the test set that draws obey, for each word and for all together.

    Args:
        run: a model of captions, whose data are there.
        num: number of pictures, each for the caption of another test row; fewer where there are fewer.
        seed: of the choice of rows and of the draws.
        rule: guidance, temperature, top_p, as in `Run.sample`.
    Raises:
        ElbowroomError: a run that was not trained on captions.
    Example:
        >>> captions_obeyed(run, 300)[0].word                                     # doctest: +SKIP
        'class'
    """
    data = run.dataset()
    if data.captions is None or data.labels is None:
        raise ElbowroomError(
            f"{run.folder.path} was not trained on captions, so none can be obeyed.",
            "Train on them: --data.context captions.",
        )
    captioner = Captioner.of_record(data.captions)
    rows = data.splits["test"][seeded_permutation(data.size("test"), 3, seed)[:num].sort().values]
    context = data.context_as_given(rows)
    assert context is not None  # that of captions
    said = np.stack([part.argmax(1).cpu().numpy() for part in context.split_with_sizes(data.word_widths, 1)], 1)
    drawn = run.sample(len(rows), context=context, seed=seed, **rule).mean
    means = run.reconstruct(data=_grey(data, rows), labels=data.labels[rows], num=len(rows), seed=seed).mean
    classifier = _fitted(data)
    found = [_words(captioner, classifier, pictures, said[:, 0]) == said for pictures in (drawn, means)]
    shares = []
    for at, word in enumerate(("class", *MEASURES)):
        share, stderr = mean_and_stderr(torch.from_numpy(found[0][:, at]).double())
        shares.append(Obeyed(word, share, stderr, float(found[1][:, at].mean()), 1 / data.word_widths[at]))
    share, stderr = mean_and_stderr(torch.from_numpy(found[0].all(1)).double())
    chance = float(np.prod([one.chance for one in shares]))
    return [*shares, Obeyed("all", share, stderr, float(found[1].all(1).mean()), chance)]


def _grey(data: DataSet, rows: Tensor) -> Tensor:
    """Pictures as they are stored, before any binarisation."""
    return data.storage.gather(rows.to(data.storage.device)).cpu()


def _pictures(x: Tensor) -> npt.NDArray[np.float64]:
    """Grey values of length 1, whatever their unit is, shape (n, height, width): bytes, counts of steps, shares."""
    grey: npt.NDArray[np.float64] = x.double().cpu().numpy()
    grey = grey.reshape(len(grey), *grey.shape[-2:]).clip(0)
    length = np.sqrt(np.square(grey).sum((1, 2), keepdims=True))
    scaled: npt.NDArray[np.float64] = np.divide(grey, length, out=np.zeros_like(grey), where=length > 0)
    return scaled


def _fitted(data: DataSet) -> object:
    from sklearn.svm import SVC

    assert data.labels is not None  # see `captions_obeyed`
    train = data.splits["train"]
    chosen = train[seeded_permutation(len(train), 4, 0)[:_FITTED]]
    pictures = _pictures(_grey(data, chosen))
    return SVC(C=10.0).fit(pictures.reshape(len(chosen), -1), data.labels[chosen].numpy())


def _words(
    captioner: Captioner, classifier: object, x: Tensor, classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The words that pictures deserve, shape (n, 3); width and slant as pictures of these classes."""
    pictures = _pictures(x)
    words = captioner.words(measured(pictures), classes)
    words[:, 0] = classifier.predict(pictures.reshape(len(pictures), -1))  # type: ignore[attr-defined]
    return words
