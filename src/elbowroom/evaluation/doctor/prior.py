"""The doctor's look at the prior: holes between it and the aggregate posterior, and what they do to samples.

How much difference is a fault? A good model of real data has some: on MNIST a learned prior gains two to five nats
over N(0, I), and a few tenths on data without clusters. One nat is taken for worth a warning, as much as a much better
encoder gains; and so is a third of all samples lying where no data are, which one sees in any sheet of them.
"""

from __future__ import annotations

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.examination import Examination
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.sample_quality import SampleStudy, share_of_prior
from elbowroom.evaluation.doctor.two_sample import TwoSampleTest
from elbowroom.evaluation.thresholds import CERTAIN_Z, MAIN_SHARE, NOTABLE_NATS
from elbowroom.numerics import mean_and_stderr

__all__ = ["holes", "sample_quality"]

_POOR = 1 / 3  # of the samples, at the least, lie where data do not
_HOPELESS = 0.9  # likewise
_BEYOND_DOUBT = 2.0  # standard errors that a distance has to exceed a limit by

_LEARN = "Train with a learned prior: --model.prior vamp, or --model.prior mixture."


def holes(inputs: Examination) -> list[Finding]:
    r"""The aggregate posterior against the prior, on held-out data.

    .. math:: \mathrm{gain} = \mathbb{E}_n \mathbb{E}_{q(z|x_n)} [\log r(z) - \log p(z)],
        \qquad q(z) = \mathbb{E}_n \, q(z|x_n)

    with r a mixture fitted to q(z) on training data (:mod:`elbowroom.evaluation.doctor.learned_prior`).

    Args:
        inputs: a trained model and its data, with what was studied of them before.
    Returns:
        One finding: a warning where the gain is a nat or more beyond doubt; severe where, besides, nearly all samples
        are unlike data for that reason. None without a guide.
    Raises:
        ElbowroomError: too few data held out.
    Reference:
        Hoffman & Johnson (2016), ELBO surgery. Rosca et al. (2018), Distribution matching in variational inference,
        arXiv:1802.06847.
    """
    if inputs.learned_guide is None:
        return []
    found = inputs.aggregate
    gain, stderr = mean_and_stderr(found.gains["mixture"])
    if not (gain >= NOTABLE_NATS and gain > CERTAIN_Z * stderr):
        return [Finding("holes", "note", _no_holes(gain, found), _hole_numbers(found), _HOLES, "Nothing to do.")]
    samples = inputs.samples
    spoilt = _certainly_above(samples.tests["prior"], _HOPELESS) and share_of_prior(samples.tests) >= MAIN_SHARE
    title = f"Data and prior put z in different places: a learned prior would gain {gain:.1f} nats per datum."
    return [Finding("holes", "severe" if spoilt else "warning", title, _hole_numbers(found), _HOLES, _LEARN)]


_HOLES = (
    "A sample begins with z from the prior, and the decoder was taught with z from the encoder. Where the two differ "
    "there are holes: places that the prior proposes and no datum ever came from. The gain is exactly what the ELBO of "
    "a held-out datum rises by if a mixture of normals takes the prior's place and nothing else is changed."
)


def _no_holes(gain: float, found: Aggregate) -> str:
    if gain < 0.05 and found.test.z < CERTAIN_Z:
        return "Data and prior put z in the same places."
    return (
        f"Data and prior put z in nearly the same places: a learned prior would gain {max(gain, 0):.2f} nats per datum."
    )


def _hole_numbers(found: Aggregate) -> tuple[Evidence, ...]:
    (scale, of_scale), (both, _), (total, of_total) = (mean_and_stderr(found.gains[name]) for name in found.gains)
    correlation = mean_and_stderr(found.gains["correlated"] - found.gains["rescaled"])[1]
    clusters = mean_and_stderr(found.gains["mixture"] - found.gains["correlated"])[1]
    farthest = int(found.variance.log().abs().argmax())
    variance = float(found.variance[farthest])
    return (
        Evidence("gain of a learned prior", total, of_total),
        Evidence("of which by scale", scale, of_scale),
        Evidence("of which by correlation", both - scale, correlation),
        Evidence("of which by clusters and the holes between them", total - both, clusters),
        Evidence("z of data told from z of the prior", found.test.accuracy, found.test.stderr, "accuracy"),
        Evidence("prior draws where hardly any data are (1% by chance)", found.empty, found.empty_stderr, "share"),
        Evidence(f"variance of z[{farthest}] over data, in the prior's", variance, None, "ratio"),
    )


def sample_quality(inputs: Examination) -> list[Finding]:
    r"""Samples against held-out data: how different they are, and whether by the prior or by the decoder.

    .. math:: d = 2 \cdot \text{accuracy} - 1 \le \mathrm{TV}(\text{samples}, \text{data}), \qquad
        \text{share of the prior} = 1 - d_{z \sim q(z)} / d_{z \sim p(z)}

    Args:
        inputs: a trained model and its data, with what was studied of them before.
    Returns:
        One finding: a warning where a third of the samples or more are unlike data, beyond doubt; severe where nearly
        all are. Without a guide, nothing is attributed.
    Raises:
        ElbowroomError: too few data held out.
    Reference:
        Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, arXiv:1610.06545.
    """
    found = inputs.samples
    of_prior = found.tests["prior"]
    poor = of_prior.z > CERTAIN_Z and _certainly_above(of_prior, _POOR)
    severity: Severity = "note"
    if poor:
        severity = "severe" if _certainly_above(of_prior, _HOPELESS) else "warning"
    title, explanation, remedy = _verdict(found, poor, bool(inputs.model.likelihood.normalized))
    return [Finding("sample_quality", severity, title, _sample_numbers(found), explanation, remedy)]


def _certainly_above(test: TwoSampleTest, distance: float) -> bool:
    return test.distance - _BEYOND_DOUBT * 2 * test.stderr > distance


def _verdict(found: SampleStudy, poor: bool, normalized: bool) -> tuple[str, str, str]:
    """Title, explanation and remedy."""
    of_prior = found.tests["prior"]
    told = f"{of_prior.accuracy:.0%} of guesses which is which are right"
    seen = _SEEN if normalized else f"{_SEEN} The data are grey, and were drawn as bits, as the model's samples are."
    if of_prior.z <= CERTAIN_Z:
        title = f"Samples cannot be told from {of_prior.points:,} held-out data ({told})."
        return title, seen, "Nothing to do; more --points see finer differences."
    if not poor:
        return f"Samples differ a little from data: {told}.", seen, "Nothing urgent to do."
    if found.holes is None:
        return f"Samples are unlike data: {told}.", seen, "A guide would tell whether prior or decoder is the reason."
    encodings, share = found.tests["encodings"], share_of_prior(found.tests)
    if share >= MAIN_SHARE and found.holes.z > CERTAIN_Z:
        title = f"Samples are unlike data ({told}), and the prior is the main reason."
        because = (
            f"With z from other data's encodings in the place of the prior, the decoder makes samples of which only "
            f"{encodings.accuracy:.0%} of guesses are right: {share:.0%} of the difference is due to where z is drawn "
            f"from, and with a learned prior it would be {found.tests['learned'].accuracy:.0%}. No better decoder "
            "changes that part. "
        )
        return title, because + seen, _LEARN
    title = f"Samples are unlike data ({told}), and the decoder with its likelihood is the main reason."
    because = (
        f"Even with z from other data's encodings {encodings.accuracy:.0%} of guesses are right: only {share:.0%} of "
        "the difference is due to where z is drawn from. "
    )
    return title, because + seen, "Give the decoder more latents, capacity or training, or choose another likelihood."


_SEEN = (
    "One classifier, on the leading principal components and their products, guesses what is a sample x ~ p(x | z) and "
    "what a datum; 50% is chance."
)


def _sample_numbers(found: SampleStudy) -> tuple[Evidence, ...]:
    names = {"prior": "the prior", "learned": "a learned prior", "encodings": "other data's encodings"}
    numbers = [
        Evidence(f"told from data, z from {names[source]}", test.accuracy, test.stderr, "accuracy")
        for source in names
        if (test := found.tests.get(source)) is not None
    ]
    if found.holes is not None:
        test = found.holes
        numbers.append(
            Evidence(
                "told from each other, z from the prior and from encodings", test.accuracy, test.stderr, "accuracy"
            )
        )
        numbers.append(Evidence("share of the difference due to the prior", share_of_prior(found.tests), None, "share"))
    numbers += [
        Evidence(f"edges in means of p(x | z), z from {names[source]}, over the data's", *found.blur[source], "ratio")
        for source in names
        if source in found.blur
    ]
    return tuple(numbers)
