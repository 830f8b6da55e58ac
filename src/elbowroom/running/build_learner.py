"""Builds a learner from a configuration: which settings each of them reads, and which guide it can use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from elbowroom.errors import ElbowroomError
from elbowroom.inference.code_gradients import CODE_ESTIMATORS
from elbowroom.inference.objectives import OBJECTIVES, check_elbo
from elbowroom.learners.aevb import Aevb
from elbowroom.learners.e_step import EStep
from elbowroom.learners.em import Em
from elbowroom.learners.execution import Execution, eager
from elbowroom.learners.learner import Learner
from elbowroom.learners.mcem import Mcem
from elbowroom.learners.naive import naive
from elbowroom.learners.update import SCHEDULES, Update
from elbowroom.learners.vq import Vq, no_stages
from elbowroom.learners.wakesleep import WakeSleep
from elbowroom.model.hierarchy.guides import HIERARCHICAL_GUIDES
from elbowroom.names import EstimatorName
from elbowroom.running.build_pair import guide_name
from elbowroom.running.config import Config, ObjectiveConfig
from elbowroom.running.mixtures import class_prior

__all__ = ["RunLength", "build_learner"]

_TRANSITIONS_OF_DYNAMIC = (
    4  # transitions; one leaves the M-step's gradient off by half its length, four by nothing that shows
)
_VQ_ESTIMATOR: EstimatorName = "reinmax"  # of the joint stage, unless another is asked for


class RunLength(NamedTuple):
    """Length and data of a run, as far as a learner depends on them."""

    total_steps: int | None  #: None where the run is limited by time or work
    steps_per_epoch: int | None  #: None for a stream
    positions: Tensor | None  #: of the training data in the data set, ascending, int64; None for a stream
    scratch: Path  #: a folder for what does not fit into memory; made when needed


def build_learner(config: Config, length: RunLength, execution: Execution = eager) -> Learner:
    """The learner that the configuration names.

    Args:
        config: the configuration.
        length: length and data of the run.
        execution: how the objective is computed.
    Raises:
        ElbowroomError: settings that contradict each other, or a guide that the learner cannot use.
    """
    kind = _LEARNERS[config.train.learner]
    _check_guide(config, kind)
    _check_unread(config, kind)
    _check_estimators(config, kind)
    schedule = config.optimizer.schedule
    if length.total_steps is None and config.train.learner == "vq":  # no schedule would help
        raise no_stages()
    if length.total_steps is None and schedule != "constant":
        raise ElbowroomError(
            f"A {schedule} schedule needs the number of steps in advance, which a run limited by time or work does "
            "not have.",
            "Use --optimizer.schedule constant, or set the length with --train.epochs or --train.steps.",
        )
    update = Update(
        optimizer=_optimizer(config),
        total_steps=length.total_steps,
        schedule=SCHEDULES[schedule],
        clip_norm=config.optimizer.clip_norm,
        skip_norm=config.optimizer.skip_norm,
        ema=config.train.ema,
    )
    return kind.build(config, update, length, execution)


def _optimizer(config: Config) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    o = config.optimizer
    make: dict[str, Callable[..., Optimizer]] = {
        "adam": functools.partial(torch.optim.Adam, betas=o.betas, eps=o.eps, fused=True),
        "adamw": functools.partial(torch.optim.AdamW, betas=o.betas, eps=o.eps, fused=True),
        "adamax": functools.partial(torch.optim.Adamax, betas=o.betas, eps=o.eps),
        "adagrad": torch.optim.Adagrad,
        "rmsprop": functools.partial(torch.optim.RMSprop, momentum=o.momentum),
        "sgd": functools.partial(torch.optim.SGD, momentum=o.momentum),
    }
    return functools.partial(make[o.name], lr=o.lr, weight_decay=o.weight_decay)


# --- the learners ----------------------------------------------------------------------------------------------------


def _aevb(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    o = config.objective
    if o.warmup_epochs and length.steps_per_epoch is None:
        raise ElbowroomError("A stream has no epochs, so objective.warmup_epochs has no meaning.", "Set it to 0.")
    estimator: dict[str, Any] = {"estimator": o.estimator, "temperature": o.temperature}
    settings = estimator
    if o.name == "elbo":
        settings = estimator | {
            "kl": o.kl,
            "free_bits": o.free_bits,
            "free_bits_over": o.free_bits_over,
            "balance": o.balance,
        }
        _check_elbo(config)
    elif (o.beta, o.free_bits, o.free_bits_over, o.warmup_epochs, o.balance) != (1.0, 0.0, "example", 0.0, False):
        raise ElbowroomError(
            "beta, free_bits, free_bits_over, warmup_epochs and balance change the KL term, which the iwae objective "
            "does not have.",
            "Leave them out, or set --objective.name elbo.",
        )
    cooled = o.temperature if o.last_temperature is None else o.last_temperature
    if cooled != 1.0 and not {o.estimator, o.last_estimator} & set(CODE_ESTIMATORS):
        raise ElbowroomError(
            f"A temperature of {cooled:g} was asked for, but the estimator {o.estimator} has no softmax.",
            "Leave it out, or use an estimator for codes, such as --objective.estimator gumbel-softmax.",
        )
    of_the_end = ("last_name", "last_samples", "last_estimator", "last_temperature")
    later = [key for key in of_the_end if getattr(o, key) is not None]
    if later and length.total_steps is None:
        raise ElbowroomError(
            f"objective.{later[0]} needs the number of steps in advance, which a run limited by time or work does not "
            "have.",
            "Leave it out, or set the length with --train.epochs or --train.steps.",
        )
    last: dict[str, Any] | None = None
    if o.last_name is not None or o.last_estimator is not None:
        last = (settings if o.last_name is None else estimator) | {"estimator": o.last_estimator or o.estimator}
    return Aevb(
        name=o.name,
        objective=functools.partial(OBJECTIVES[o.name], **settings),
        last_objective=None if last is None else functools.partial(OBJECTIVES[o.last_name or o.name], **last),
        last_name=o.last_name,
        update=update,
        num_samples=o.num_samples,
        last_samples=o.last_samples,
        last_from=round((1 - o.last_share) * (length.total_steps or 0)),
        weighs_kl=o.name == "elbo",
        beta=o.beta,
        warmup_steps=o.warmup_epochs * (length.steps_per_epoch or 0),
        temperature=o.temperature,
        last_temperature=o.last_temperature,
        holes=o.holes,
        execution=execution,
    )


def _check_elbo(config: Config) -> None:
    """Refuses options of the ELBO that do not fit each other, in the last part of training, too."""
    o = config.objective
    estimators = {o.estimator} | ({o.last_estimator or o.estimator} if o.last_name is None else set())
    for estimator in estimators:
        check_elbo(kl=o.kl, beta=o.beta, free_bits=o.free_bits, estimator=estimator)
    over_batch, from_top = o.free_bits_over == "batch", guide_name(config) == "top-down"
    if over_batch and not o.free_bits:
        raise ElbowroomError(
            "objective.free_bits_over is batch, but objective.free_bits is 0.",
            "Give --objective.free-bits, such as 0.5, or leave this out.",
        )
    if o.balance and o.beta >= 1 and not o.warmup_epochs:
        raise ElbowroomError(
            f"objective.balance weighs groups while the weight of the KL is below 1, but it is {o.beta:g} throughout, "
            "never below 1.",
            "Let it grow, for instance by --objective.warmup-epochs 10, or leave this out.",
        )
    name = "balance" if o.balance else "free_bits_over batch" if over_batch else "free_bits"
    if name != "free_bits" and not from_top:
        raise ElbowroomError(
            f"objective.{name} needs the KL by group, which the guide {guide_name(config)} does not have.",
            "Leave it out, or give a hierarchy, --model.groups, and --model.guide top-down.",
        )
    by_group = o.balance or (o.free_bits > 0 and from_top)
    if by_group and (o.kl != "auto" or estimators != {"pathwise"}):
        raise ElbowroomError(
            f"objective.{name} needs the KL by group, for which objective.kl is auto and the estimator pathwise, but "
            f"they are {o.kl} and {' and '.join(sorted(estimators))}.",
            "Leave it out, or give --objective.kl auto and --objective.estimator pathwise; another estimator can "
            "serve the last part together with --objective.last-name iwae.",
        )


def _naive(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    prior, estimator = config.model.prior, config.objective.estimator
    if (prior == "mixture" or config.model.has_codes) and estimator != "score-function":
        raise ElbowroomError(
            f"The learner naive draws z from the prior, and the estimator {estimator} differentiates through these "
            f"draws, which is impossible for {'codes' if config.model.has_codes else 'a mixture'}.",
            "Use --objective.estimator score-function, or --model.prior normal.",
        )
    if config.objective.num_samples == 1:
        raise ElbowroomError(
            "With one draw from the prior the learner naive maximises E log p(x | z), and the best model for that "
            "ignores z.",
            "Give more, for instance --objective.num-samples 100.",
        )
    o = config.objective
    return naive(num_samples=o.num_samples, estimator=o.estimator, update=update, execution=execution)


def _wake_sleep(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    if config.model.prior == "vamp":
        raise ElbowroomError(
            "Wake-sleep trains model and guide separately, but a VampPrior is made of the guide.",
            "Use --model.prior normal or mixture, or --train.learner aevb.",
        )
    if guide_name(config) == "nearest-code" and config.model.codebook != "fsq":
        raise ElbowroomError(
            "Wake-sleep trains model and guide separately, but a nearest-code guide and a decoder learn one codebook.",
            "Use --model.guide categorical, a fixed --model.codebook fsq, or --train.learner vq.",
        )
    _check_apart(config, "Wake-sleep")
    return WakeSleep(update=update, num_samples=config.objective.num_samples, execution=execution)


def _mcem(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    if config.model.prior == "vamp":
        raise ElbowroomError(
            "Monte Carlo EM trains model and guide separately, but a VampPrior is made of the guide.",
            "Use --model.prior normal or mixture, or --train.learner aevb.",
        )
    if config.model.has_codes:
        raise ElbowroomError(
            "The learner mcem moves z by Hamiltonian Monte Carlo, which needs a continuous z, but the latents of this "
            f"model are codes ({config.model.latents}).",
            "Use --train.learner aevb with --model.guide categorical, or --train.learner vq.",
        )
    _check_apart(config, "Monte Carlo EM")
    m = config.mcem
    if m.growth and length.steps_per_epoch is None:
        raise ElbowroomError("A stream has no epochs, so mcem.growth has no meaning.", "Set it to 0.")
    settings = {key: getattr(m, key) for key in EStep.__dataclass_fields__}
    if m.warmup is None:
        settings["warmup"] = 5 if m.start == "persistent" else 20
    if m.transitions is None:  # a chain that has met other bits has to forget them
        settings["transitions"] = _TRANSITIONS_OF_DYNAMIC if config.data.binarization == "dynamic" else 1
    return Mcem(
        update=update,
        e_step=EStep(**settings),
        latent_dim=None if config.model.groups else config.model.latent_dim,
        positions=length.positions,
        draws=m.draws,
        growth_per_step=m.growth / (length.steps_per_epoch or 1),
        updates=m.updates,
        learns_guide=guide_name(config) != "none",
        scratch=length.scratch if m.storage == "disk" else None,
        execution=execution,
    )


def _check_apart(config: Config, learner: str) -> None:
    """Refuses a guide that reads the decoder's weights, where model and guide are trained by different objectives."""
    guide = guide_name(config)
    if guide in HIERARCHICAL_GUIDES:
        raise ElbowroomError(
            f"{learner} trains model and guide separately, but the guide {guide} computes with the decoder's weights.",
            "Use --model.guide diagonal, or --train.learner aevb.",
        )


def _svi(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    from elbowroom.learners.svi import Svi

    if config.model.has_codes:
        raise ElbowroomError(
            f"The learner svi hands the guide to Pyro, which has no codes ({config.model.latents}).",
            "Use --train.learner aevb with --model.guide categorical, or --train.learner vq.",
        )
    return Svi(update=update, elbo=config.svi.elbo, num_particles=config.svi.num_particles)


def _vq(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    o, v, total = config.objective, config.vq, length.total_steps
    if guide_name(config) != "nearest-code":
        raise ElbowroomError(
            f"The learner vq trains a guide that chooses the nearest vectors of a codebook, but model.guide is "
            f"{guide_name(config)}.",
            "Leave --model.guide out, or train this guide with --train.learner aevb.",
        )
    assert total is not None  # see build_learner
    if v.reconstruction_share + v.prior_share > 1:
        raise ElbowroomError(
            f"vq.reconstruction_share is {v.reconstruction_share:g} and vq.prior_share {v.prior_share:g}, together "
            "more than the whole training.",
            "Give shares that add up to less than 1, or to 1 for a VQ-VAE without the joint stage.",
        )
    joint_from = round((v.reconstruction_share + v.prior_share) * total)
    commitment = 0.0 if config.model.codebook == "fsq" else 0.25
    return Vq(
        update=update,
        prior_from=round(v.reconstruction_share * total),
        joint_from=joint_from,
        last_from=max(joint_from, round((1 - o.last_share) * total)),
        joint_rate=v.joint_rate,
        commitment=commitment if v.commitment is None else v.commitment,
        gradient=v.gradient,
        decay=v.decay,
        restart_below=v.restart_below,
        estimator=_VQ_ESTIMATOR if o.estimator == "pathwise" else o.estimator,
        temperature=o.temperature,
        num_samples=o.num_samples,
        last_estimator=o.last_estimator or "score-function",
        last_samples=o.last_samples or max(2, o.num_samples),
        last_bound=o.name,
        execution=execution,
    )


def _em(config: Config, update: Update, length: RunLength, execution: Execution) -> Learner:
    if not config.model.has_codes:
        raise ElbowroomError(
            f"The learner em fits mixtures, whose latent is the number of a class, but z has {config.model.latents}.",
            "Use the settings of a latent class model, --config latent-class, or --train.learner mcem.",
        )
    if guide_name(config) not in ("exact", "none"):
        raise ElbowroomError(
            f"The learner em knows p(z | x) itself, so it trains no {guide_name(config)} guide.",
            "Leave --model.guide out.",
        )
    if length.positions is None:
        raise ElbowroomError(
            "The learner em needs all examples for each step, but a stream has no end.",
            "Give data of known length: an array, a file or a Dataset.",
        )
    if (number := len(length.positions)) > config.train.batch_size:
        raise ElbowroomError(
            f"The learner em needs all {number:,} training examples for each step, but train.batch_size is "
            f"{config.train.batch_size:,}.",
            f"Give --train.batch-size {number}, or the settings of a latent class model, --config latent-class.",
        )
    return Em(prior=class_prior(config))


class _Kind(NamedTuple):
    """A learner: how it is built, the keys of ``objective`` that it reads, and whether it uses a guide."""

    build: Callable[[Config, Update, RunLength, Execution], Learner]
    reads: frozenset[str]
    guide: str  #: "needed", "optional" or "unusable"


_LEARNERS: dict[str, _Kind] = {
    "aevb": _Kind(_aevb, frozenset(ObjectiveConfig.model_fields), "needed"),
    "naive": _Kind(_naive, frozenset({"num_samples", "estimator"}), "unusable"),
    "mcem": _Kind(_mcem, frozenset(), "optional"),
    "wake-sleep": _Kind(_wake_sleep, frozenset({"num_samples"}), "needed"),
    "svi": _Kind(_svi, frozenset(), "needed"),
    "em": _Kind(_em, frozenset(), "optional"),
    "vq": _Kind(
        _vq,
        frozenset({"name", "num_samples", "last_samples", "last_share", "estimator", "last_estimator", "temperature"}),
        "needed",
    ),
}


def _check_guide(config: Config, kind: _Kind) -> None:
    learner, name = config.train.learner, guide_name(config)
    if kind.guide == "needed" and name == "none":
        raise ElbowroomError(
            f"The learner {learner} trains a guide q(z | x) together with the model, but model.guide is none.",
            "Leave --model.guide out, or train without a guide by --train.learner mcem.",
        )
    if kind.guide == "unusable" and name != "none":
        raise ElbowroomError(
            f"The learner {learner} draws z from the prior, so it cannot use a {name} guide.",
            "Leave --model.guide out, or use --train.learner aevb, which trains one.",
        )


def _check_estimators(config: Config, kind: _Kind) -> None:
    """Refuses gradient estimators for the other kind of latents: real vectors, or codes."""
    learner, has_codes = config.train.learner, config.model.has_codes
    flags = {"estimator": "--objective.estimator", "last_estimator": "--objective.last-estimator"}
    for key, flag in flags.items():
        given: EstimatorName | None = getattr(config.objective, key)
        if key not in kind.reads or given in (None, "score-function"):
            continue
        if not has_codes and given in CODE_ESTIMATORS:
            raise ElbowroomError(
                f"objective.{key} is {given}, which is for draws of codes, but z has {config.model.latents}.",
                "Leave it out, or train a model with codes: --model.prior made.",
            )
        chosen_by_learner = learner == "naive" or (learner == "vq" and (key, given) == ("estimator", "pathwise"))
        if has_codes and given not in CODE_ESTIMATORS and not chosen_by_learner:
            raise ElbowroomError(
                f"objective.{key} is {given}, which differentiates through draws of real vectors, but z is made of "
                f"codes ({config.model.latents}).",
                f"Give {flag} reinmax, which is biased a little, or score-function, which is unbiased and has much "
                "more variance.",
            )


def _check_unread(config: Config, kind: _Kind) -> None:
    """Refuses settings of the objective, and of other learners, that this learner would ignore."""
    learner, default = config.train.learner, Config()
    unread = [
        f"objective.{key}"
        for key in ObjectiveConfig.model_fields
        if key not in kind.reads and getattr(config.objective, key) != getattr(default.objective, key)
    ]
    unread += [
        section
        for section in ("mcem", "svi", "vq", "em")
        if section != learner and getattr(config, section) != getattr(default, section)
    ]
    if learner == "em":  # which has no gradient to follow
        unread += [
            name
            for name, is_given in (
                ("optimizer", config.optimizer != default.optimizer),
                ("train.ema", config.train.ema != default.train.ema),
            )
            if is_given
        ]
    if unread:
        raise ElbowroomError(
            f"The learner {learner} does not read {', '.join(unread)}.",
            "Leave that out, or choose the learner that reads it with --train.learner.",
        )
