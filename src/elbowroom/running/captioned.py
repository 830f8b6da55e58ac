r"""Pictures for a caption: what its words say, draws that follow them, and which of these follow them best.

A caption is a context in words: "a bold seven leaning left" says class, width and slant. Draws are ranked by the
pointwise mutual information of codes and caption,

.. math:: \log \frac{p(c | z)}{p(c)} = \log p(z | c) - \log p(z | \varnothing),

with the context :math:`\varnothing` that says nothing: the draws first by which the model itself would find the caption
again. For a model that knows no such context it is log p(z | c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from elbowroom.data.captions import DIGIT_NAMES
from elbowroom.data.naming import Covariate, Naming, described
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.model.autoregressive import AutoregressivePrior
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.model.conditional import Conditional
from elbowroom.model.latent import LatentModel, Sample, evaluation_mode

__all__ = ["Captioned", "best_first", "caption_context", "drawing_by", "said_in"]

_OTHERWISE = {
    "thick": "bold",
    "fat": "bold",
    "heavy": "bold",
    "wide": "bold",
    "slim": "thin",
    "fine": "thin",
    "light": "thin",
    "normal": "medium",
    "straight": "upright",
    "vertical": "upright",
    **{str(number): name for number, name in enumerate(DIGIT_NAMES)},
}
_AS_NUMBERS = {name: str(number) for number, name in enumerate(DIGIT_NAMES)}  # labels without names
_SILENT = {
    *("a", "an", "the", "and", "in", "of", "on", "to", "with", "that", "is"),
    *("leaning", "slanted", "slanting", "stroke", "strokes", "digit", "number", "picture"),
}


class Captioned(NamedTuple):
    """Pictures drawn for a caption, those that follow it best first."""

    z: Tensor  #: codes, one-hot, shape (n, L K)
    x: Tensor  #: draws of x, shape (n, *event)
    mean: Tensor  #: E[x | z], shape (n, *event)
    score: Tensor  #: nats, shape (n,): by which they are ranked
    context: Tensor  #: what the caption says, shape (context_dim,)


def said_in(caption: str, covariates: Sequence[Covariate]) -> dict[str, str]:
    """The words of a caption that say something, by covariate.

    Args:
        caption: such as "a bold seven leaning left".
        covariates: of classes, whose names are the words.
    Raises:
        ElbowroomError: a word that is not known, or two of one covariate.
    Example:
        >>> width = Covariate("width", ("thin", "medium", "bold"))
        >>> said_in("a thick one", [width, Covariate("class", ("one", "two"))])
        {'width': 'bold', 'class': 'one'}
        >>> said_in("a bald one", [width, Covariate("class", ("one", "two"))])
        Traceback (most recent call last):
            ...
        elbowroom.errors.ElbowroomError: The caption 'a bald one' has the word 'bald', which says nothing to this model.
          Did you mean 'bold'?
    """
    known = {level.lower(): (one.name, level) for one in covariates for level in one.levels or ()}
    found: dict[str, str] = {}
    for word in re.findall(r"[\w'-]+", caption.lower()):
        meant = (word, _OTHERWISE.get(word, ""), _AS_NUMBERS.get(word, ""))
        name, level = next((known[one] for one in meant if one in known), ("", ""))
        if not name and word not in _SILENT:
            raise ElbowroomError(
                f"The caption '{caption}' has the word '{word}', which says nothing to this model.",
                did_you_mean(word, known),
            )
        if found.get(name, level) != level:
            raise ElbowroomError(
                f"The caption '{caption}' says both {found[name]} and {level}, of which a picture has one.",
                "Leave one of them out.",
            )
        if name:
            found[name] = level
    return found


def caption_context(caption: str, naming: Naming, *, drop: float) -> Tensor:
    """What a caption says as a context, shape (context_dim,); a covariate of which it says nothing is zeros.

    Args:
        caption: in words of the model's vocabulary.
        naming: of the run.
        drop: the share of contexts that were left out in training.
    Raises:
        ElbowroomError: a model that is not conditional on classes; a word that is not known; a covariate that is not
            said, for a model that has never been without it.
    """
    covariates = naming.covariates
    if not covariates or any(one.levels is None for one in covariates):
        on = f"conditional on {described(covariates)}" if covariates else "not conditional on anything"
        raise ElbowroomError(
            f"A caption was given, but the model is {on}.",
            "Leave it out, or train on captions: `elbowroom train dalle-digits`.",
        )
    said = said_in(caption, covariates)
    missing = [one for one in covariates if one.name not in said]
    if missing and not drop:
        raise ElbowroomError(
            f"The caption '{caption}' says nothing of {described(missing)}, but in training everything was said.",
            "Say it, too, or train with --data.context-drop 0.1.",
        )
    parts = [torch.tensor([float(level == said.get(one.name)) for level in one.levels or ()]) for one in covariates]
    return torch.cat(parts)


@contextmanager
def drawing_by(prior: Conditional, rule: SamplingRule, *, drop: float) -> Iterator[None]:
    """A context in which the prior's draws follow a rule.

    Raises:
        ElbowroomError: a prior that does not draw code after code; guidance of a model that was never without its
            context.
    """
    if rule.changes_nothing:
        yield
        return
    if not isinstance(prior, AutoregressivePrior):
        raise ElbowroomError(
            f"Guidance, temperature and top-p are for priors that draw code after code, but this one is a "
            f"{type(prior).__name__}.",
            "Leave them out, or train with --model.prior transformer.",
        )
    if rule.guidance != 1 and not drop:
        raise ElbowroomError(
            f"Guidance of {rule.guidance:g} was asked for, which compares with no context, but in training there was "
            "always one.",
            "Leave it out, or train with --data.context-drop 0.1.",
        )
    with prior.drawing_by(rule):
        yield


def best_first(model: LatentModel, drawn: Sample, context: Tensor, num: int, *, drop: float) -> Captioned:
    """The draws that follow a caption best, the best one first.

    Args:
        model: by which they were drawn.
        drawn: for the caption.
        context: what it says, shape (context_dim,).
        num: how many to keep.
        drop: the share of contexts that were left out in training; where there is none, log p(z | c) ranks.
    """
    z = drawn.z.to(next(model.parameters()))
    rows = context.to(z).expand(len(z), -1)
    with evaluation_mode(model):
        score = model.log_prior(z, rows)
        if drop:
            score = score - model.log_prior(z, torch.zeros_like(rows))
    score = score.cpu()
    best = score.argsort(descending=True, stable=True)[:num]
    return Captioned(drawn.z[best], drawn.x[best], drawn.mean[best], score[best], context)
