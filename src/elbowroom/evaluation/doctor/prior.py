"""Checks of the prior: holes between it and the aggregate posterior, and what they do to samples.

How much difference is a fault? A good model of real data has some: on MNIST a learned prior gains two to five nats
over N(0, I), on data without clusters a few tenths of a nat. Two things are worth a warning: a gain of one nat, which
is what a much better encoder gains; and a third of all samples lying where there are no data, which one sees in any
sheet of samples.
"""

from __future__ import annotations

from elbowroom.evaluation.doctor.aggregate_posterior import Aggregate
from elbowroom.evaluation.doctor.examination import Examination
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.sample_quality import SampleStudy, share_of_prior
from elbowroom.evaluation.thresholds import CERTAIN_Z, MAIN_SHARE, NOTABLE_NATS
from elbowroom.evaluation.two_sample import TwoSampleTest
from elbowroom.numerics import mean_and_stderr

__all__ = ["holes", "sample_quality"]

_POOR = 1 / 3  # share of samples where there are no data, at the least: worth a warning
_HOPELESS = 0.9  # share of samples where there are no data, at the least: severe
_MARGIN = 2.0  # standard errors by which a distance has to exceed its limit

_LEARN = "Train with a learned prior: --model.prior vamp, or --model.prior mixture."
_LEARN_CODES = (
    "Train with an autoregressive prior, --model.prior made or --model.prior transformer, or train it for longer."
)


def holes(inputs: Examination) -> list[Finding]:
    r"""The aggregate posterior against the prior, on held-out data.

    .. math:: \mathrm{gain} = \mathbb{E}_n \mathbb{E}_{q(z|x_n)} [\log r(z) - \log p(z)],
        \qquad q(z) = \mathbb{E}_n \, q(z|x_n)

    where r is a mixture fitted to q(z) on training data (:mod:`elbowroom.evaluation.doctor.learned_prior`).

    Args:
        inputs: a trained model and its data, with the studies made so far.
    Returns:
        One finding: a warning where the gain is certainly a nat or more; severe where, in addition, nearly all samples
        are unlike data for that reason. None without a guide.
    Raises:
        ElbowroomError: too few held-out examples; latents that are codes.
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
    title = f"Encoder and prior put z in different places: a learned prior would gain {gain:.1f} nats per example."
    return [Finding("holes", "severe" if spoilt else "warning", title, _hole_numbers(found), _HOLES, _LEARN)]


_HOLES = (
    "A sample begins with z from the prior, but the decoder was trained on z from the encoder. Where the two differ "
    "there are holes: regions where the prior draws z, but no example is encoded. The gain is exactly the rise of the "
    "ELBO on held-out examples if a mixture of normals replaces the prior and nothing else changes."
)


def _no_holes(gain: float, found: Aggregate) -> str:
    if gain < 0.05 and found.test.z < CERTAIN_Z:
        return "Encoder and prior put z in the same places."
    return (
        "Encoder and prior put z in nearly the same places: a learned prior would gain "
        f"{max(gain, 0):.2f} nats per example."
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
        Evidence(
            "classifier accuracy, z of the encoder against z of the prior",
            found.test.accuracy,
            found.test.stderr,
            "accuracy",
        ),
        Evidence("prior draws in regions without data (1% by chance)", found.empty, found.empty_stderr, "share"),
        Evidence(f"variance of z[{farthest}] over the data, relative to the prior's", variance, None, "ratio"),
    )


def sample_quality(inputs: Examination) -> list[Finding]:
    r"""Samples against held-out data: how different they are, and whether the prior or the decoder is the cause.

    .. math:: d = 2 \cdot \text{accuracy} - 1 \le \mathrm{TV}(\text{samples}, \text{data}), \qquad
        \text{share of the prior} = 1 - d_{z \sim q(z)} / d_{z \sim p(z)}

    Args:
        inputs: a trained model and its data, with the studies made so far.
    Returns:
        One finding: a warning where certainly a third of the samples or more are unlike data; severe where nearly all
        are. Without a guide, no cause is named.
    Raises:
        ElbowroomError: too few held-out examples.
    Reference:
        Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, arXiv:1610.06545.
    """
    found = inputs.samples
    of_prior = found.tests["prior"]
    poor = of_prior.z > CERTAIN_Z and _certainly_above(of_prior, _POOR)
    severity: Severity = "note"
    if poor:
        severity = "severe" if _certainly_above(of_prior, _HOPELESS) else "warning"
    learn = _LEARN_CODES if inputs.model.latent_support == "codes" else _LEARN
    title, explanation, remedy = _verdict(found, poor, bool(inputs.model.likelihood.normalized), learn)
    return [Finding("sample_quality", severity, title, _sample_numbers(found), explanation, remedy)]


def _certainly_above(test: TwoSampleTest, distance: float) -> bool:
    return test.distance - _MARGIN * 2 * test.stderr > distance


def _verdict(found: SampleStudy, poor: bool, normalized: bool, learn: str) -> tuple[str, str, str]:
    """Title, explanation and remedy."""
    of_prior = found.tests["prior"]
    accuracy = f"classifier accuracy {of_prior.accuracy:.0%}"
    seen = _SEEN if normalized else f"{_SEEN} The data are grey; like the samples, they were drawn as bits."
    if of_prior.z <= CERTAIN_Z:
        title = f"Samples look like the {of_prior.points:,} held-out examples to a classifier ({accuracy})."
        return title, seen, "Nothing to do. With more --points, smaller differences can be found."
    if not poor:
        return f"Samples differ a little from data ({accuracy}).", seen, "Nothing urgent to do."
    if found.holes is None:
        return (
            f"Samples are unlike data ({accuracy}).",
            seen,
            "Train with a guide to see whether prior or decoder is the cause.",
        )
    encodings, share = found.tests["encodings"], share_of_prior(found.tests)
    if share >= MAIN_SHARE and found.holes.z > CERTAIN_Z:
        title = f"Samples are unlike data ({accuracy}), and the prior is the main reason."
        learned = found.tests.get("learned")
        middle = "" if learned is None else f"; with a learned prior it is {learned.accuracy:.0%}"
        because = (
            "If z comes from the encodings of other examples instead of the prior, classifier accuracy is only "
            f"{encodings.accuracy:.0%}{middle}. So {share:.0%} of the difference comes from where z is drawn, and no "
            "better decoder changes that part. "
        )
        return title, because + seen, learn
    title = f"Samples are unlike data ({accuracy}), and the decoder with its likelihood is the main reason."
    because = (
        f"Even if z comes from the encodings of other examples, classifier accuracy is {encodings.accuracy:.0%}: only "
        f"{share:.0%} of the difference comes from where z is drawn. "
    )
    return title, because + seen, "Give the decoder more latents, capacity or training, or choose another likelihood."


_SEEN = (
    "A classifier, on the leading principal components and their products, learns to separate samples x ~ p(x | z) "
    "from held-out examples; an accuracy of 50% is chance."
)


def _sample_numbers(found: SampleStudy) -> tuple[Evidence, ...]:
    names = {"prior": "the prior", "learned": "a learned prior", "encodings": "encodings of other examples"}
    numbers = [
        Evidence(f"classifier accuracy against data, z from {names[source]}", test.accuracy, test.stderr, "accuracy")
        for source in names
        if (test := found.tests.get(source)) is not None
    ]
    if found.holes is not None:
        test = found.holes
        numbers.append(
            Evidence(
                "classifier accuracy, z from the prior against z from encodings", test.accuracy, test.stderr, "accuracy"
            )
        )
        numbers.append(Evidence("share of the difference due to the prior", share_of_prior(found.tests), None, "share"))
    numbers += [
        Evidence(
            f"edges in means of p(x | z) relative to the data's, z from {names[source]}", *found.blur[source], "ratio"
        )
        for source in names
        if source in found.blur
    ]
    return tuple(numbers)
