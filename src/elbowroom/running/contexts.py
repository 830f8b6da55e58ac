"""Contexts by name: what a trained run is conditional on, and the covariates that are given to it in any form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from elbowroom.data.columns.asking import parse_columns
from elbowroom.data.context_source import column_names
from elbowroom.data.covariates import as_context, finite
from elbowroom.data.dataset import DataSet
from elbowroom.data.naming import Covariate, Naming, described
from elbowroom.errors import ElbowroomError, check_count, did_you_mean
from elbowroom.running.build import DataFacts
from elbowroom.running.config import Config

__all__ = [
    "class_contexts",
    "context_flags",
    "decoding_context",
    "how_to_give",
    "in_context",
    "named_columns",
    "naming_of",
    "one_context",
    "parsed",
    "run_context",
    "sample_context",
]

_SAMPLES = 25  # where nothing says how many


def naming_of(config: Config, facts: DataFacts, recorded: Mapping[str, Any]) -> Naming:
    """The names in the data of a trained run.

    Args:
        config: of the run.
        facts: of the run.
        recorded: ``data`` of its config.json. Runs of earlier versions kept the classes of covariates, but no names of
            columns: those of the context are in their configuration, and x is taken by position.
    """
    own = config.data
    levels = {column: tuple(names) for column, names in recorded.get("levels", {}).items()}
    names = recorded.get("context_columns")
    if names is None:
        of_labels = own.context == "labels" or (own.context is None and "labels" in levels)
        names = ["labels"] if of_labels else list(own.context or ())
    if names == ["labels"] and own.context == "labels":
        levels.setdefault("labels", tuple(str(at) for at in range(facts.context_dim)))
    covariates = [Covariate(name, levels.get(name), own.labels if name == "labels" else None) for name in names]
    if sum(one.width for one in covariates) != facts.context_dim:
        covariates = [Covariate("")] * facts.context_dim
    columns = recorded.get("columns")
    left_out = parse_columns(own.columns, own.drop).dropped
    return Naming(
        None if columns is None else tuple(columns),
        tuple(covariates),
        own.labels,
        own.id or facts.id_column,
        facts.columns,
        facts.set_aside,
        left_out,
        recorded.get("captions"),
    )


def named_columns(source: Any, context: Any, labels: Any, id: Any) -> dict[str, Any]:  # noqa: A002
    """The keywords that name columns of the data and hold no values, as settings, by which other data are read later.

    Example:
        >>> named_columns("people.csv", ["age", "kind"], "group", [7, 8])
        {'labels': 'group', 'context': ['age', 'kind']}
    """
    named = {name: given for name, given in (("labels", labels), ("id", id)) if isinstance(given, str)}
    columns = "labels" if isinstance(context, str) and context == "labels" else column_names(context, source)
    return named if columns is None else {**named, "context": columns}


def one_context(naming: Naming, context: Any, labels: Any) -> Any:
    """The context, which may be given as labels where it is made of them; None where neither is.

    Raises:
        ElbowroomError: both are given, or the run is not conditional on what is given.
    """
    if context is None and labels is None:
        return None
    if not naming.covariates:
        raise ElbowroomError(
            f"{'Labels were' if context is None else 'A context was'} given, but the model is not conditional on one.",
            "Leave it out, or train a model that is: data={'context': 'labels'}, or names of columns.",
        )
    if context is not None and labels is not None:
        raise ElbowroomError("Both context and labels were given, but a model has one context.", "Give one of them.")
    if labels is None:
        return context
    if [one.name for one in naming.covariates] != ["labels"]:
        raise ElbowroomError(
            f"Labels were given, but the model is conditional on {described(naming.covariates)}.", how_to_give(naming)
        )
    return labels


def run_context(naming: Naming, context: Any, labels: Any, total: int | None, *, otherwise: int = 1) -> Tensor | None:
    """The context of rows as it was given, in its own precision, shape (n, context_dim); None where none is given.

    Args:
        naming: of the run.
        context: any form that :func:`elbowroom.data.covariates.as_context` takes.
        labels: the same, where the run is conditional on class labels.
        total: the number of rows; as many as are given, if None.
        otherwise: the number of rows where that says nothing either.
    Raises:
        ElbowroomError: a run without a context, or a context that is not of its kind.
    """
    given = one_context(naming, context, labels)
    if given is None:
        return None
    what = "context" if labels is None else "labels"
    return finite(as_context(given, naming.covariates, total, what, otherwise=otherwise), "the samples")


def sample_context(
    config: Config, facts: DataFacts, naming: Naming, num_samples: int | None, context: Any, labels: Any
) -> tuple[int, Tensor | None]:
    """The number of samples and their context; arguments as in `Run.sample`.

    Raises:
        ElbowroomError: fewer than one sample; a model that is conditional on something else than class labels, and no
            context; what :func:`run_context` refuses.
    """
    if num_samples is not None:
        check_count(
            "num_samples",
            num_samples,
            "Give a number; what samples are conditional on is given by name: context=… or labels=….",
        )
    if num_samples is not None and num_samples < 1:
        raise ElbowroomError(f"{num_samples} samples were asked for, but at least one is needed.", "Give 1 or more.")
    given = run_context(naming, context, labels, num_samples, otherwise=_SAMPLES)
    if given is not None:
        return len(given), given
    number = _SAMPLES if num_samples is None else num_samples
    if not facts.context_dim:
        return number, None
    if config.data.context != "labels":
        raise ElbowroomError(
            f"The model is conditional on {described(naming.covariates)}, but none were given.", how_to_give(naming)
        )
    return number, class_contexts(config, facts, number)


def in_context(data: DataSet, naming: Naming, context: Any, labels: Any) -> DataSet:
    """Data that were read before, beside another context; unchanged where none is given."""
    given = run_context(naming, context, labels, len(data))
    if given is None:
        return data
    beside = replace(data, context=given, raw_context=given.double(), context_units=None)
    return beside.to(device=data.device, dtype=data.dtype)


def decoding_context(naming: Naming, context: Any, labels: Any, z: Tensor) -> Tensor | None:
    """The context of latents z, shape (\\*, n, latent): a row for each of n, or a tensor that fits to those of z."""
    width = sum(one.width for one in naming.covariates)
    if isinstance(context, Tensor) and context.shape[-1:] == (width,) and (context.dim() > 1 or z.dim() == 1):
        rows = run_context(naming, context.reshape(-1, width), labels, None)
        return None if rows is None else rows.reshape(context.shape)
    return run_context(naming, context, labels, z.shape[-2] if z.dim() > 1 else 1)


def class_contexts(config: Config, facts: DataFacts, num_samples: int) -> Tensor:
    """One-hot labels in blocks of nearly equal size; as `Run.class_contexts`."""
    if config.data.context != "labels":
        raise ElbowroomError(
            f"The model is conditional on {facts.context_dim} covariates, which are not class labels.",
            "Give the context of every sample: run.sample(context=…).",
        )
    classes = facts.context_dim
    return torch.eye(classes)[torch.arange(num_samples) * classes // max(num_samples, classes)]


def how_to_give(naming: Naming) -> str:
    """How the context of a run is given in Python, with an example, as a remedy for messages.

    Example:
        >>> how_to_give(Naming(covariates=(Covariate("kind", ("hen", "ox")), Covariate("weight"))))
        "Give it by name, for instance context={'kind': 'hen', 'weight': 0.0}."
    """
    if not naming.covariates[0].name:
        return f"Give context=, an array of shape (n, {len(naming.covariates)})."
    example = {one.name: 0.0 if one.levels is None else one.levels[0] for one in naming.covariates}
    return f"Give it by name, for instance context={example}."


def parsed(naming: Naming, pairs: Sequence[str] | None, labels: str | None = None) -> dict[str, Any] | None:
    """The context that a command line gives, as NAME=VALUE for each covariate or as a class; None where it gives none.

    Args:
        naming: of the run.
        pairs: such as ``kind=ox``; the name may be left out where there is one covariate.
        labels: a class, for a model that is conditional on class labels.
    Raises:
        ElbowroomError: a name that is not a covariate's, one that is missing or given twice, or text for a number; a
            class for a model that is not conditional on class labels.
    Example:
        >>> farm = Naming(covariates=(Covariate("kind", ("hen", "ox")), Covariate("weight")))
        >>> parsed(farm, ["weight=3.2", "kind=ox"])
        {'weight': 3.2, 'kind': 'ox'}
    """
    if pairs is None and labels is None:
        return None
    flag = "--context" if labels is None else "--labels"
    if pairs is not None and labels is not None:
        raise ElbowroomError(
            "Both --context and --labels were given, but a model has one context.", "Give one of them."
        )
    if not naming.covariates:
        raise ElbowroomError(f"{flag} was given, but the model is not conditional on anything.", "Leave it out.")
    if labels is not None:
        if naming.covariates[0].name == "labels":
            return {"labels": labels}
        raise ElbowroomError(
            f"--labels was given, but the model is conditional on {described(naming.covariates)}.",
            f"Write for instance --context {_example(naming.covariates)}."
            if naming.covariates[0].name
            else "Leave it out.",
        )
    if not naming.covariates[0].name:
        raise ElbowroomError(
            "--context was given, but the model's covariates have no names.",
            "Leave it out, or sample from Python: run.sample(context=…).",
        )
    known = {name: one for one in naming.covariates for name in one.names}
    given: dict[str, Any] = {}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign and len(naming.covariates) == 1:
            name, value = naming.covariates[0].name, pair
        elif not sign:
            raise ElbowroomError(
                f"--context {pair} is not of the form NAME=VALUE; the model is conditional on "
                f"{described(naming.covariates)}.",
                f"Write for instance --context {_example(naming.covariates)}.",
            )
        if name not in known:
            raise ElbowroomError(
                f"--context {pair} names no covariate: the model is conditional on {described(naming.covariates)}.",
                did_you_mean(name, known),
            )
        if known[name].name in given:
            raise ElbowroomError(f"--context gives {name} more than once.", "Give it once.")
        given[known[name].name] = value if known[name].levels is not None else _number(name, value)
    missing = [one for one in naming.covariates if one.name not in given]
    if missing:
        raise ElbowroomError(f"--context lacks {described(missing)}.", f"Add --context {_example(missing)}.")
    return given


def context_flags(naming: Naming) -> str | None:
    """The flags of a context, as an example for messages; None where the covariates have no names.

    Example:
        >>> context_flags(Naming(covariates=(Covariate("kind", ("hen", "ox")), Covariate("weight"))))
        '--context kind=hen --context weight=0'
    """
    return f"--context {_example(naming.covariates)}" if naming.covariates and naming.covariates[0].name else None


def _example(covariates: Sequence[Covariate]) -> str:
    return " --context ".join(f"{one.name}={0 if one.levels is None else one.levels[0]}" for one in covariates)


def _number(name: str, value: str) -> float:
    truth = {"true": 1.0, "false": 0.0}.get(value.lower())
    try:
        return float(value) if truth is None else truth
    except ValueError as error:
        raise ElbowroomError(
            f"--context {name}={value} should be a number.", f"Give for instance --context {name}=0."
        ) from error
