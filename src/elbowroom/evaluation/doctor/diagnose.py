"""The doctor: runs every check on a trained model and collects the findings.

============================ ==========================================================================================
check                        asks
============================ ==========================================================================================
``sound``                    are weights, scales and the terms of the bound finite, for every example?
``likelihood_fits``          is p(x | z) a density over such data, and is its noise as large as theirs?
``columns_fit``              of a table: which columns do not follow their density given the rest of the row?
``finished``                 had the bound stopped rising when training ended?
``latents_in_use``           does z carry information about x, and does the decoder use it?
``groups_in_use``            which groups of a hierarchy, or levels of codes, carry information about x?
``generalises``              are decoder and encoder as good on held-out data?
``amortisation``             what does the encoder lose against a q that is fitted to each example by itself?
``calibration``              is q(z | x) as wide as the posterior, on data simulated from the model?
``holes``                    does the prior draw z where no example is encoded?
``sample_quality``           can a classifier tell samples from data, and is the prior or the decoder the cause?
``samples_and_means``        how much of the variation of samples do pictures of means leave out?
``codes_in_use``             are there codes that no example has?
``code_prior``               does the prior know the codes better than their frequencies do, held-out ones too?
``sharpness``                would the ELBO be higher if q(z | x) were softer, or sharper?
``deterministic_bound``      how far is log p(x) above the bound from the most likely codes alone?
============================ ==========================================================================================

Groups are those of hierarchies, columns those of tables with columns of several kinds. Amortisation, calibration and
holes are about latents that are real vectors, and the last four about codes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError, did_you_mean
from elbowroom.evaluation.doctor import codes, columns, groups, guide, latents, likelihood, prior, training
from elbowroom.evaluation.doctor.examination import Check, Examination, Studies
from elbowroom.evaluation.doctor.findings import Finding
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.model.conditional import LatentSupport
from elbowroom.model.latent import LatentModel
from elbowroom.progress import Progress, silent

__all__ = ["CHECKS", "Diagnosis", "default_checks", "diagnose"]

CHECKS: dict[str, Check] = {
    "sound": training.sound,
    "likelihood_fits": likelihood.likelihood_fits,
    "columns_fit": columns.columns_fit,
    "finished": training.finished,
    "latents_in_use": latents.latents_in_use,
    "groups_in_use": groups.groups_in_use,
    "generalises": training.generalises,
    "amortisation": guide.amortisation,
    "calibration": guide.calibration,
    "holes": prior.holes,
    "sample_quality": prior.sample_quality,
    "samples_and_means": latents.samples_and_means,
    "codes_in_use": codes.codes_in_use,
    "code_prior": codes.code_prior,
    "sharpness": codes.sharpness,
    "deterministic_bound": codes.deterministic_bound,
}
_OF_OTHERS: dict[LatentSupport, frozenset[str]] = {
    "real": frozenset({"codes_in_use", "code_prior", "sharpness", "deterministic_bound"}),
    "codes": frozenset({"amortisation", "calibration", "holes"}),
}
"""The checks that are not about latents with these values."""

_SEVERITY_ORDER = {"severe": 0, "warning": 1, "note": 2}
_NEEDS_SOUND = "The model has weights or terms that are not finite (check sound)."


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of all checks.

    Attributes:
        findings: the most severe first, otherwise in the order of the checks.
        not_examined: check -> the reason why it does not apply to this model or these data.
        seconds: check -> its run time.
        studies: what several checks share, for figures; not kept in doctor.json.
    """

    findings: tuple[Finding, ...]
    not_examined: dict[str, str]
    seconds: dict[str, float]
    studies: Studies = field(default_factory=Studies, compare=False, repr=False)

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)


def default_checks(model: LatentModel) -> list[str]:
    """The checks that concern a model, by the values of its latents, in the order of ``CHECKS``.

    Example:
        >>> from elbowroom.model import oracles
        >>> "holes" in default_checks(oracles.ppca(dim=8, latent_dim=2, seed=0)[0])
        True
    """
    left_out = _OF_OTHERS[model.latent_support] | (frozenset() if groups.group_sizes(model) else {"groups_in_use"})
    left_out |= frozenset() if model.likelihood.support is Support.TABLE else {"columns_fit"}
    return [name for name in CHECKS if name not in left_out]


def diagnose(
    inputs: DoctorInput,
    *,
    checks: Sequence[str] | None = None,
    announce: Progress = silent,
) -> Diagnosis:
    """Runs the checks on a trained model.

    A check that does not apply, because there is no guide or too little data, is listed with the reason. If the
    model's numbers are not sound, the other checks are skipped: they would find the same fault in other words.

    Args:
        inputs: the model, its data, and the history of its training.
        checks: names from ``CHECKS``; unless given all those that concern such a model, see :func:`default_checks`.
        announce: called before every check with its name, the checks done and all checks.
    Raises:
        ElbowroomError: an unknown name; fewer than two points.
    Example:
        >>> from elbowroom.data.loading import load_data
        >>> from elbowroom.model import oracles
        >>> model, _, x = oracles.ppca(dim=8, latent_dim=2, seed=0, num_data=500)
        >>> data = load_data(x, support="reals", validation=0.0, test=0.4).to(dtype=x.dtype)
        >>> diagnose(DoctorInput(model, model.exact_guide(), data), checks=["sound", "latents_in_use"]).healthy
        True
    """
    names = default_checks(inputs.model) if checks is None else list(checks)
    for name in names:
        if name not in CHECKS:
            raise ElbowroomError(f"There is no check '{name}'.", did_you_mean(name, CHECKS))
    if inputs.points < 2:
        raise ElbowroomError(
            f"points is {inputs.points}, but the checks compare examples with each other.", "Give --points 2 or more."
        )
    examined = Examination.of(inputs)
    findings: list[Finding] = []
    not_examined: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for done, name in enumerate(names):
        announce(name, done, len(names))
        if any(finding.check == "sound" and finding.severity == "severe" for finding in findings):
            not_examined[name] = _NEEDS_SOUND
            continue
        began = time.monotonic()
        try:
            findings += CHECKS[name](examined)
        except ElbowroomError as reason:
            not_examined[name] = reason.problem
        except torch.linalg.LinAlgError as fault:  # type: ignore[attr-defined]
            not_examined[name] = f"A matrix cannot be inverted, since some numbers hardly vary ({fault})."
        seconds[name] = time.monotonic() - began
    announce("", len(names), len(names))
    findings.sort(key=lambda finding: _SEVERITY_ORDER[finding.severity])
    return Diagnosis(tuple(findings), not_examined, seconds, examined.studies)
