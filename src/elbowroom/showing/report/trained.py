"""What was trained on what, from config.json, the splits and the reports: facts, and the sentence that sums them up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from elbowroom.memory import in_words
from elbowroom.running.build import guide_name
from elbowroom.running.config import Config
from elbowroom.running.runs import Run
from elbowroom.showing.report.blocks import FactList, FactSheet
from elbowroom.showing.report.words import bits, duration, network, plain

__all__ = ["lead", "sheet_of_facts", "sizes"]

_LEARNERS = {
    "aevb": "variational Bayes with an encoder (aevb)",
    "naive": "Monte Carlo from the prior (naive)",
    "mcem": "Monte Carlo EM (mcem)",
    "wake-sleep": "wake-sleep",
    "svi": "stochastic variational inference in Pyro (svi)",
}
_OBJECTIVES = {"elbo": "ELBO", "iwae": "importance-weighted bound"}
_PRIORS = {"normal": "standard normal", "mixture": "mixture of {} normals", "vamp": "VampPrior of {} pseudo-inputs"}
_GUIDES = {"diagonal": "normal, diagonal", "full": "normal, full covariance", "none": "none"}


def lead(run: Run, parts: Mapping[str, int], history: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: what this model is, and what it learned from."""
    settings = run.config
    data = f" on {parts['train']:,} data" if "train" in parts else ""
    took = f" in {duration(float(history[-1]['seconds']))}" if history else ""
    dim, learner = settings.model.latent_dim, _LEARNERS[settings.train.learner]
    return (
        f"A model of {run.content['data'].get('dataset', settings.data.name)} with {dim} latent{'s' * (dim > 1)}, a "
        f"{_prior(run)} prior and {_likelihood(run)}, learned by {learner}{data}{took}."
    )


def _likelihood(run: Run) -> str:
    name = run.model.likelihood.name
    return f"a {name} likelihood" if run.normalized else f"a {name} in the place of a likelihood"


def _prior(run: Run) -> str:
    return _PRIORS[run.config.model.prior].format(run.config.model.prior_components)


def sizes(run: Run) -> dict[str, int]:
    """How many data each split has; nothing for a stream, which has no splits."""
    if not (run.folder.path / "splits.safetensors").is_file():
        return {}
    found = {split: len(rows) for split, rows in run.folder.read_splits().items()}
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def sheet_of_facts(run: Run, parts: Mapping[str, int], history: Sequence[Mapping[str, Any]]) -> FactSheet:
    """Data, model, learning, and what it took."""
    return FactSheet((_data(run, parts), _model(run), _learning(run.config), _record(run, history)))


def _data(run: Run, parts: Mapping[str, int]) -> FactList:
    facts, protocol, settings = run.facts, run.content["data"], run.config.data
    stored = "" if facts.native_support == facts.support else f", stored as {facts.native_support.description}"
    rows = {
        "data set": str(protocol.get("dataset", settings.name)),
        "a datum": f"{' × '.join(map(str, facts.event_shape))}, {facts.support.description}{stored}",
        "protocol": bits({"binarization": settings.binarization, "seed": settings.seed, **protocol}),
        **{f"{split} data": f"{number:,}" for split, number in parts.items()},
    }
    if facts.context_dim:
        given = settings.context if isinstance(settings.context, str) else ", ".join(settings.context or ())
        rows["covariates"] = f"{facts.context_dim}{f': {given}' if given else ''}"
    if settings.missing == "mask":
        rows["missing values"] = "summed out"
    return FactList("Data", tuple(rows.items()))


def _model(run: Run) -> FactList:
    settings = run.config.model
    guide = guide_name(run.config)
    rows = {
        "latents": str(settings.latent_dim),
        "prior p(z)": _prior(run),
        "likelihood p(x | z)": run.model.likelihood.name + ("" if run.normalized else ", which is none"),
        "decoder": network(settings.decoder),
        "guide q(z | x)": _GUIDES[guide],
        **({} if guide == "none" else {"encoder": network(settings.encoder)}),
        "parameters": f"{sum(parameter.numel() for parameter in run.pair.parameters()):,}",
    }
    return FactList("Model", tuple(rows.items()))


def _learning(settings: Config) -> FactList:
    objective, optimizer, train = settings.objective, settings.optimizer, settings.train
    rows = {"learner": _LEARNERS[train.learner]}
    if train.learner == "aevb":
        draws = f"{objective.num_samples:,} draw{'s' * (objective.num_samples > 1)} of z"
        rows["objective"] = f"{_OBJECTIVES[objective.name]}, {draws}"
        rows["gradient"] = objective.estimator
        changed = {
            "β": (objective.beta, 1.0),
            "warm-up epochs": (objective.warmup_epochs, 0.0),
            "free bits": (objective.free_bits, 0.0),
        }
        rows |= {name: plain(given) for name, (given, usual) in changed.items() if given != usual}
    elif train.learner == "svi":
        rows["objective"] = f"Pyro's {settings.svi.elbo}, {settings.svi.num_particles:,} particles"
    elif train.learner == "mcem":
        rows["chains"] = f"{settings.mcem.chains:,} for each datum, {settings.mcem.sampler}, {settings.mcem.start}"
    rows["optimiser"] = f"{optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule}"
    rows["batches"] = f"of {train.batch_size:,}"
    rows["seed"] = str(train.seed)
    return FactList("Learning", tuple(rows.items()))


def _record(run: Run, history: Sequence[Mapping[str, Any]]) -> FactList:
    rows: dict[str, str] = {}
    if history:
        last = history[-1]
        epochs = f" ({last['epoch']:,g} epochs)" if last.get("epoch") else ""
        rows["steps"] = f"{last['step']:,}{epochs}"
        rows["wall time"] = duration(float(last["seconds"]))
        visits = [row["visits"] for row in history if row.get("visits")]
        rows |= {"data visited": f"{visits[-1]:,}"} if visits else {}
    rows["weights of"] = f"step {run.step:,}"
    device = run.config.runtime.device
    rows["device"] = f"auto ({run.device} where this page was made)" if device == "auto" else device
    rows["precision"] = run.config.runtime.dtype
    peak = run.content.get("peak_memory")
    if isinstance(peak, int | float) and math.isfinite(peak):
        rows["peak memory"] = in_words(int(peak))
    for name in ("elbowroom", "torch"):
        rows |= {name: str(run.content[name])} if name in run.content else {}
    return FactList("Record", tuple(rows.items()))
