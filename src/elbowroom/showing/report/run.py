"""A report of a run, from its folder: what was recorded is read, and what takes only seconds is computed.

A file that is damaged stops the report: a page with a figure left out would look like one where it was never taken.
What cannot be drawn, because the data are gone or there is no guide, is left out with the reason in its place; what was
not measured yet is named with the command that measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from elbowroom import __version__
from elbowroom.memory import in_words
from elbowroom.model.mixtures import Mixture
from elbowroom.model.pixels.autoregressive import AutoregressivePixels
from elbowroom.phrasing import with_article
from elbowroom.running.build_pair import guide_name
from elbowroom.running.config import Config
from elbowroom.running.diagnosis import FILE, Checkup, read_checkup
from elbowroom.running.model_config import ModelConfig
from elbowroom.running.runs import Run
from elbowroom.showing import plots
from elbowroom.showing.report import figures
from elbowroom.showing.report.blocks import Block, FactList, FactSheet, Figure, Problem, Prose, Report, ReportSection
from elbowroom.showing.report.chains import chains
from elbowroom.showing.report.records import read_history, read_results
from elbowroom.showing.report.repeat import how_to_repeat
from elbowroom.showing.report.results import evaluation, headline, room, tiles
from elbowroom.showing.report.simple_models import beside_simple_models
from elbowroom.showing.report.words import (
    bits,
    checkpoint_flags,
    command,
    duration,
    epochs_in_words,
    evidence,
    network,
    plain,
    verdict,
)

__all__ = ["doctor_findings", "report_of_run"]

_METHODS = {
    "aevb": "variational Bayes with an encoder (aevb)",
    "naive": "Monte Carlo from the prior (naive)",
    "mcem": "Monte Carlo EM (mcem)",
    "wake-sleep": "wake-sleep",
    "svi": "stochastic variational inference in Pyro (svi)",
    "vq": "vector quantisation in stages (vq)",
    "em": "expectation maximisation (em)",
}
_SPLITS = {"train": "training", "validation": "validation", "test": "test"}
_OBJECTIVES = {"elbo": "ELBO", "iwae": "importance-weighted bound"}
_PRIORS = {
    "normal": "standard normal",
    "mixture": "mixture of {components} normals",
    "vamp": "VampPrior of {components} pseudo-inputs",
    "maf": "masked autoregressive flow of {transforms} transforms",
    "nsf": "neural spline flow of {transforms} transforms",
    "coupling": "coupling flow of {transforms} transforms",
    "uniform": "uniform",
    "unigram": "unigram (independent slots)",
    "made": "autoregressive (MADE)",
    "transformer": "autoregressive (transformer)",
    "pixelcnn": "autoregressive (masked convolutions)",
}
_GUIDES = {
    "diagonal": "normal, diagonal",
    "full": "normal, full covariance",
    "iaf": "inverse autoregressive flow",
    "nsf": "neural spline flow",
    "top-down": "normal groups, from the top down with the decoder",
    "bottom-up": "normal groups, from the bottom up",
    "categorical": "categorical, a factor for each slot",
    "nearest-code": "by distance to the vectors of a codebook",
    "exact": "the posterior itself, by the sum over the codes",
    "none": "none",
}


def report_of_run(run: Run, *, seed: int = 0) -> Report:
    """All that is known of a run.

    Args:
        run: with its data, where these came from Python.
        seed: of the samples and reconstructions that are drawn.
    Raises:
        ElbowroomError: evaluation.json, doctor.json, metrics.jsonl or posterior.npz is damaged.
    """
    folder, protocol = run.folder, run.content["data"]
    history = read_history(folder)
    found = read_results(
        folder,
        dataset=str(protocol.get("dataset", run.config.data.name)),
        binarization=str(protocol.get("binarization", run.config.data.binarization)),
        step=run.step,
    )
    checkup = read_checkup(folder, run.result_name(FILE))
    parts = _sizes(run)
    findings = doctor_findings(checkup, folder.path, run.step, checkpoint_flags(run))
    commands = how_to_repeat(run, found, parts, diagnosed=checkup is not None)
    parted = ReportSection(
        "room", "The elbow room (inference gap) and its parts", "Elbow room", tuple(room(run, found))
    )
    measured = [*evaluation(run, found), *beside_simple_models(run, found)]
    sections = (
        ReportSection("trained", "Set-up", "Set-up", (_setup(run, parts, history),)),
        *_pictures(run, history, seed),
        *chains(run, history),
        ReportSection("evaluation", "Evaluation", "Evaluation", tuple(measured)),
        *([] if run.model.latent_support == "codes" else [parted]),  # the parts are those of a normal q
        ReportSection("doctor", "What the doctor found", "Doctor", tuple(findings)),
        ReportSection("repeat", "How to repeat it", "Repeat", tuple(commands)),
    )
    return Report(
        subject="run",
        name=folder.path.resolve().name,
        place=str(folder.path),
        lead=_lead(run, parts, history),
        headline=headline(run, found, history, checkup),
        tiles=tuple(tiles(run, found, history, checkup)),
        sections=sections,
        maker=f"elbowroom {__version__}",
    )


def _pictures(run: Run, history: Sequence[dict[str, Any]], seed: int) -> list[ReportSection]:
    """Curves, samples, reconstructions and the latent space."""

    def blocks(*drawn: tuple[Callable[[], Figure], str]) -> tuple[Block, ...]:
        return tuple(figures.attempt(draw, what) for draw, what in drawn)

    latent: list[tuple[Callable[[], Figure], str]] = [(partial(figures.latents, run), "Encoded examples")]
    has_codes, is_image = run.model.latent_support == "codes", plots.is_image(run.facts.event_shape)
    if has_codes:
        latent = [(partial(figures.codes, run), "The codes in use")]
        if is_image and run.has_guide:
            if run.config.model.slots_per_place:
                latent.append((partial(figures.code_maps, run, seed), "Codes at their places"))
            latent.append((partial(figures.code_examples, run), "Examples of codes"))
            latent.append((partial(figures.code_swaps, run), "What codes do"))
        if is_image:
            latent.append((partial(figures.code_growth, run, seed), "The growth of samples"))
    elif is_image:
        if run.config.model.latent_dim == 2 and not run.config.model.groups:
            latent.append((partial(figures.manifold, run), "Means over the latent plane"))
        if run.has_guide:
            latent.append((partial(figures.traversals, run), "Traversals"))
    curves = blocks((partial(figures.curves, run, history), "Training curves"))
    samples = blocks((partial(figures.samples, run, seed), "Samples"))
    if is_image:
        samples += blocks((partial(figures.nearest_training, run, seed), "The nearest training examples"))
    reconstructions = blocks((partial(figures.reconstructions, run, seed), "Reconstructions"))
    return [
        ReportSection("curves", "Training curves", "Curves", curves),
        ReportSection("samples", "Samples and means", "Samples", samples),
        ReportSection("reconstructions", "Reconstructions", "Reconstructions", reconstructions),
        ReportSection("latents", "Codes" if has_codes else "Latent space", "Latents", blocks(*latent)),
    ]


# --- set-up ------------------------------------------------------------------------------------------------------


def _lead(run: Run, parts: Mapping[str, int], history: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: the model, the training method and the training data."""
    settings = run.config
    data = f" on {parts['train']:,} examples" if "train" in parts else ""
    took = f" in {duration(float(history[-1]['seconds']))}" if history else ""
    dataset = run.content["data"].get("dataset", settings.data.name)
    method = _METHODS[settings.train.learner]
    return (
        f"A model of {dataset} with {settings.model.latents}, "
        f"{with_article(_prior(run))} prior and {_likelihood(run)}, trained by {method}{data}{took}."
    )


def _likelihood(run: Run) -> str:
    name = run.model.likelihood.name
    words = with_article(f"{name} likelihood") if run.normalized else f"a {name} loss in place of a likelihood"
    if isinstance(run.model.likelihood, Mixture):
        return f"{words} that is a mixture of {run.model.likelihood.components}"
    return f"{words} of each pixel given those before it" if _pixels(run) else words


def _prior(run: Run) -> str:
    model = run.config.model
    return _PRIORS[model.prior].format(components=model.prior_components, transforms=model.prior_transforms)


def _sizes(run: Run) -> dict[str, int]:
    """Number of examples in each split; empty for a stream, which has no splits."""
    if not (run.folder.path / "splits.safetensors").is_file():
        return {}
    found = {split: len(rows) for split, rows in run.folder.read_splits().items()}
    return {split: found[split] for split in _SPLITS if split in found}


def _setup(run: Run, parts: Mapping[str, int], history: Sequence[Mapping[str, Any]]) -> FactSheet:
    """The run's settings and records: data, model, training, checkpoint, machine."""
    return FactSheet((_data(run, parts), _model(run), _training(run.config), _record(run, history)))


def _data(run: Run, parts: Mapping[str, int]) -> FactList:
    facts, protocol, settings = run.facts, run.content["data"], run.config.data
    stored = "" if facts.native_support == facts.support else f", stored as {facts.native_support.description}"
    rows = {
        "data set": str(protocol.get("dataset", settings.name)),
        "one example": f"{' × '.join(map(str, facts.event_shape))} values: {facts.support.description}{stored}",
        "protocol": bits({"binarization": settings.binarization, "seed": settings.seed, **protocol}),
        **{f"{_SPLITS[split]} examples": f"{number:,}" for split, number in parts.items()},
    }
    if "source" in protocol:
        licence = f" ({protocol['licence']})" if "licence" in protocol else ""
        rows["credits"] = f"{protocol['source']}{licence}"
    if facts.context_dim:
        given = settings.context if isinstance(settings.context, str) else ", ".join(settings.context or ())
        rows["covariates"] = f"{facts.context_dim}{f': {given}' if given else ''}"
    if settings.missing == "mask":
        rows["missing values"] = "marginalised out"
    return FactList("Data", tuple(rows.items()))


def _model(run: Run) -> FactList:
    settings = run.config.model
    guide = guide_name(run.config)
    rows = {
        **_latents(settings),
        "prior p(z)": _prior(run),
        "likelihood p(x | z)": _likelihood_with_range(run),
        **_pixels(run),
        "decoder": network(settings.decoder),
        "guide q(z | x), the approximate posterior": _GUIDES[guide],
        **({} if guide in ("none", "exact") else {"encoder": network(settings.encoder)}),
        "parameters": f"{sum(parameter.numel() for parameter in run.pair.parameters()):,}",
    }
    return FactList("Model", tuple(rows.items()))


def _likelihood_with_range(run: Run) -> str:
    likelihood = run.model.likelihood
    highest = likelihood.elementwise.highest
    of = "" if highest is None else f" of values 0..{highest:,}"
    mixed = f", a mixture of {likelihood.components} components" if isinstance(likelihood, Mixture) else ""
    return f"{likelihood.name}{of}{mixed}{'' if run.normalized else ' (not a likelihood)'}"


def _pixels(run: Run) -> dict[str, str]:
    """What a pixel sees of those before it; nothing for pixels that are independent given z."""
    likelihood, settings = run.model.likelihood, run.config.model
    if not isinstance(likelihood, AutoregressivePixels):
        return {}
    layers, side = settings.masked_layers, likelihood.receptive_field
    convolutions = f"{layers} masked convolution{'s' * (layers > 1)} of {settings.masked_width} channels"
    return {"pixels": f"each given those before it, within {side} × {side} around it: {convolutions}"}


def _latents(settings: ModelConfig) -> dict[str, str]:
    """The line about the latents."""
    if settings.has_codes:
        return {"codes": settings.latents}
    return {"latent dimensions": settings.latents if settings.groups else str(settings.latent_dim)}


def _training(settings: Config) -> FactList:
    objective, optimizer, train = settings.objective, settings.optimizer, settings.train
    rows = {"training method": _METHODS[train.learner]}
    if train.learner == "aevb":
        draws = f"{objective.num_samples:,} draw{'s' * (objective.num_samples > 1)} of z"
        rows["objective"] = f"{_OBJECTIVES[objective.name]}, {draws}"
        rows["gradient estimator"] = objective.estimator
        changed = {
            "β": (objective.beta, 1.0),
            "warm-up epochs": (objective.warmup_epochs, 0.0),
            "free bits": (objective.free_bits, 0.0),
        }
        rows |= {name: plain(given) for name, (given, usual) in changed.items() if given != usual}
    elif train.learner == "svi":
        rows["objective"] = f"Pyro's {settings.svi.elbo}, {settings.svi.num_particles:,} particles"
    elif train.learner == "mcem":
        rows["chains"] = f"{settings.mcem.chains:,} for each example, {settings.mcem.sampler}, {settings.mcem.start}"
    if train.learner == "em":  # which takes whole steps, with all rows
        rows["starts"] = f"{settings.em.starts:,}"
    else:
        rows["optimiser"] = f"{optimizer.name}, learning rate {optimizer.lr:g}, {optimizer.schedule}"
        rows["batch size"] = f"{train.batch_size:,}"
    rows["seed"] = str(train.seed)
    return FactList("Training", tuple(rows.items()))


def _checkpoint(run: Run, history: Sequence[Mapping[str, Any]]) -> str:
    """Which checkpoint the weights are from: one before the last report can only be the best by validation."""
    best = bool(history) and run.step != history[-1]["step"]
    return f"{'best' if best else 'last'} checkpoint (step {run.step:,})"


def _record(run: Run, history: Sequence[Mapping[str, Any]]) -> FactList:
    rows: dict[str, str] = {}
    if history:
        last = history[-1]
        epochs = f" ({epochs_in_words(last['epoch'])})" if last.get("epoch") else ""
        rows["steps"] = f"{last['step']:,}{epochs}"
        rows["wall time"] = duration(float(last["seconds"]))
        visits = [row["visits"] for row in history if row.get("visits")]
        rows |= {"examples seen": f"{visits[-1]:,}"} if visits else {}
    rows["weights"] = _checkpoint(run, history)
    device = run.config.runtime.device
    rows["device"] = f"auto ({run.device} on the machine that made this page)" if device == "auto" else device
    rows["precision"] = run.config.runtime.dtype
    peak = run.content.get("peak_memory")
    if isinstance(peak, int | float) and math.isfinite(peak):
        rows["peak memory"] = in_words(int(peak))
    for name in ("elbowroom", "torch"):
        rows |= {name: str(run.content[name])} if name in run.content else {}
    return FactList("Record", tuple(rows.items()))


# --- doctor ------------------------------------------------------------------------------------------------------


def doctor_findings(checkup: Checkup | None, place: Path, step: int, which: Sequence[str] = ()) -> list[Block]:
    """The doctor's findings, the most severe first; a warning before them where they are of another checkpoint.

    Args:
        checkup: what doctor.json holds; None where the doctor was not run.
        place: the run's folder, for the command that runs the doctor.
        step: of the run's present weights.
        which: the flags that name these weights.
    """
    ask = command("doctor", place, *which)
    if checkup is None:
        return [Prose(f"The doctor has not been run yet: `{ask}` runs it.", tone="missing")]
    diagnosis = checkup.diagnosis
    said = verdict(diagnosis)
    blocks: list[Block] = [Prose(f"{said[:1].upper()}{said[1:]}")]
    if checkup.step is None:
        why = f"{FILE} does not say which checkpoint was examined, and the run may have another by now"
        blocks.append(Prose(f"{why}: `{ask}` examines the present one, of step {step:,}.", tone="warning"))
    elif checkup.step != step:
        why = (
            f"These findings are of the checkpoint of step {checkup.step:,}; the run's present one is of step {step:,}"
        )
        blocks.append(Prose(f"{why}: `{ask}` examines it.", tone="warning"))
    if checkup.data is not None:
        blocks.append(Prose(f"They are of other data than the run's own: {checkup.data}.", tone="warning"))
    for finding in diagnosis.findings:
        numbers = tuple((number.name, evidence(number)) for number in finding.evidence)
        blocks.append(Problem(finding.severity, finding.title, numbers, finding.explanation, finding.remedy))
    if diagnosis.not_examined:
        reasons = " ".join(f"{check}: {why}" for check, why in diagnosis.not_examined.items())
        blocks.append(Prose(f"Not examined. {reasons}", tone="missing"))
    return blocks
