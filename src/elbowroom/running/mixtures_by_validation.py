"""The number of classes of a mixture, found on validation rows."""

from __future__ import annotations

import torch

from elbowroom.data.dataset import DataSet
from elbowroom.data.stream import StreamSet
from elbowroom.errors import ElbowroomError
from elbowroom.learners.em_classes import best_classes, try_classes
from elbowroom.model.latent import LatentModel
from elbowroom.progress import Announce
from elbowroom.running.build import facts_of
from elbowroom.running.build_pair import build_pair, initialise
from elbowroom.running.config import Config
from elbowroom.running.mixtures import class_prior, whole_split
from elbowroom.running.runtime import dtype_of

__all__ = ["with_number_of_classes"]


@torch.no_grad()
def with_number_of_classes(config: Config, data: DataSet | StreamSet, *, announce: Announce) -> Config:
    """The configuration with a number of classes, where it was left open.

    Args:
        config: the configuration.
        data: prepared for the model.
        announce: called with what was tried.
    Raises:
        ElbowroomError: no validation rows; the model is no mixture.
    """
    if config.model.codes != "auto" or config.train.learner != "em" or not isinstance(data, DataSet):
        return config  # what is refused is refused where the model is built
    if not data.size("validation"):
        raise ElbowroomError(
            "The number of classes is to be found on validation rows (model.codes is auto), but there are none.",
            "Give a number, such as --model.codes 4, or hold rows out with --data.validation 0.1.",
        )
    facts = facts_of(data, config.train.batch_size)

    def make(classes: int) -> LatentModel:
        settings = _with_classes(config, classes)
        pair = build_pair(settings, facts, seed=config.train.seed)
        initialise(pair, settings, data)
        return pair.model

    like = torch.zeros((), dtype=dtype_of(config.runtime))
    train, validation = (whole_split(data, split, like) for split in ("train", "validation"))
    tried = try_classes(make, train, validation, class_prior(config), config.em.classes)
    best = best_classes(tried).classes
    shown = ", ".join(f"{each.classes} {each.value:.3f}" for each in tried)
    announce(f"classes, and log p(x) of the validation rows: {shown}; {best} are taken")
    return _with_classes(config, best)


def _with_classes(config: Config, classes: int) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"codes": classes})})
