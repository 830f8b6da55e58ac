"""elbowroom: learn a latent-variable model, and know what it is worth.

The public names are imported when they are first used, so that ``import elbowroom`` is quick.

Example:
    >>> import elbowroom as er
    >>> run = er.train("digits", out="runs/digits")          # doctest: +SKIP
    >>> run.evaluate("elbo", "iwae")                         # doctest: +SKIP
    >>> run.sample(25)                                       # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# public name -> (module, attribute); None: the module itself
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "Batch": ("elbowroom.data.batch", "Batch"),
    "Conditional": ("elbowroom.model.conditional", "Conditional"),
    "Config": ("elbowroom.running.config", "Config"),
    "ElbowroomError": ("elbowroom.errors", "ElbowroomError"),
    "LatentModel": ("elbowroom.model.latent", "LatentModel"),
    "Result": ("elbowroom.evaluation.results", "Result"),
    "Run": ("elbowroom.running.runs", "Run"),
    "adopt": ("elbowroom.adopting.adopt", "adopt"),
    "adopt_pyro": ("elbowroom.adopting.adopt", "adopt_pyro"),
    "adopt_pythae": ("elbowroom.adopting.adopt", "adopt_pythae"),
    "ais": ("elbowroom.inference.annealing.ais", "ais"),
    "bidirectional": ("elbowroom.inference.annealing.bidirectional", "bidirectional"),
    "captions_obeyed": ("elbowroom.running.caption_accuracy", "captions_obeyed"),
    "codes": ("elbowroom.model.codes", None),
    "compare": ("elbowroom.running.compare", "compare"),
    "diagnosis_text": ("elbowroom.showing.diagnosis", "diagnosis_text"),
    "distinct_bound": ("elbowroom.inference.enumeration", "distinct_bound"),
    "distributions": ("elbowroom.model.distributions", None),
    "doctor": ("elbowroom.running.api", "doctor"),
    "draw": ("elbowroom.model.draws", "draw"),
    "enumerated": ("elbowroom.inference.enumeration", "enumerated"),
    "evaluate": ("elbowroom.evaluation.evaluate", "evaluate"),
    "gradient_study": ("elbowroom.studies.gradient_variance", "gradient_study"),
    "guides": ("elbowroom.model.guides", None),
    "importance_curve": ("elbowroom.inference.importance.curve", "importance_curve"),
    "importance_estimate": ("elbowroom.inference.importance.estimate", "importance_estimate"),
    "impute": ("elbowroom.running.impute", "impute"),
    "likelihoods": ("elbowroom.model.likelihoods", None),
    "load": ("elbowroom.running.runs", "load"),
    "load_data": ("elbowroom.data.loading", "load_data"),
    "mean_and_stderr": ("elbowroom.numerics", "mean_and_stderr"),
    "networks": ("elbowroom.model.networks", None),
    "objectives": ("elbowroom.inference.objectives", None),
    "oracles": ("elbowroom.model.oracles", None),
    "plots": ("elbowroom.showing.plots", None),
    "posterior": ("elbowroom.running.api", "posterior"),
    "prior_sampling_study": ("elbowroom.studies.prior_sampling", "prior_sampling_study"),
    "priors": ("elbowroom.model.priors", None),
    "report": ("elbowroom.showing.report.writing", "report"),
    "sample_given": ("elbowroom.running.api", "sample_given"),
    "samplers": ("elbowroom.samplers", None),
    "simulate": ("elbowroom.inference.annealing.bidirectional", "simulate"),
    "to_pyro": ("elbowroom.learners.svi", "to_pyro"),
    "train": ("elbowroom.running.train", "train"),
}

__all__ = [*_PUBLIC, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'elbowroom' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    value = import_module(module)
    return value if attribute is None else getattr(value, attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
