r"""Checks of discrete latents: codes in use, the prior over codes, the sharpness of q, the deterministic bound.

**Codes in use.** A code that no example has is dead: neither encoder nor decoder learns anything about it.

**The prior.** Where it knows less about the codes than the frequencies of single codes say, a unigram r(z) in its place
raises the ELBO of an example, with nothing else changed, by

.. math:: \mathbb{E}_{q(z|x)} [\log r(z) - \log p(z)], \qquad r(z) = \prod_l r_l(z_l).

**Sharpness.** Of a guide q, the family :math:`q_\tau(z | x) \propto q(z | x)^{1 / \tau}`, slot by slot, is sharper for
τ < 1 and softer for τ > 1. A guide that is as sharp as it should be has the largest ELBO at τ = 1. One that always
takes the nearest code, as in a VQ-VAE, is the limit τ → 0; its importance weights are all alike and show nothing.

**The deterministic bound.** Papers quote log p(x, ẑ) with the most likely codes ẑ, which leaves all others out:

.. math:: \log p(x) - \log p(x, \hat z) = -\log p(\hat z | x).

Reference:
    van den Oord, Vinyals & Kavukcuoglu (2017), Neural Discrete Representation Learning, section 3.1, arXiv:1711.00937.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.evaluation.code_usage import code_usage
from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.thresholds import CERTAIN_Z, MAIN_SHARE, NOTABLE_NATS, RESOLVED_NATS
from elbowroom.inference.importance.estimate import importance_estimate
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.code_distributions import Codes, CodeSpace
from elbowroom.model.conditional import Conditional
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.latent import evaluation_mode
from elbowroom.model.top_down_codes import TopDownCodes
from elbowroom.numerics import difference_and_stderr, mean_and_stderr

__all__ = ["code_prior", "codes_in_use", "deterministic_bound", "fitted_unigram", "sharpness"]

_BATCH = 500  # examples at a time through the guide
_PER_CODE = 20  # examples for each code of a slot, where there are so many
_LEAST_PER_CODE = 10  # with fewer, a code that is used evenly could be missing by chance
_RARE = 0.01  # of an even share: a code with less probability than that, and no example, is dead
_TRAINING = 10  # training examples for each held-out one, that a unigram is fitted to
_SMOOTHING = 0.5  # added to the count of every code: Jeffreys' prior
_DRAWS = 4  # of z for each example, where a mean over q is taken
_COMPARED = 500  # examples whose bounds are compared
_WEIGHTS = 200  # draws of the importance-weighted bound
_TEMPERATURES = (1 / 16, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0, 64.0, 256.0)  # τ


def _guide(inputs: DoctorInput) -> Conditional | None:
    """The guide over codes; None where none was learned.

    Raises:
        ElbowroomError: latents that are real vectors.
    """
    if inputs.model.latent_support == "real":
        raise ElbowroomError("This check is about codes, but the z of this model is continuous.", "Leave it out.")
    return inputs.learned_guide


def _probabilities(q: Distribution) -> Tensor:
    """Of every code, shape (batch, L, K); of lower levels, given the most likely codes above."""
    assert isinstance(q, Codes | TopDownCodes)  # no other guide is over codes
    return q.probs


def codes_in_use(inputs: DoctorInput) -> list[Finding]:
    r"""Dead codes: those that are the most likely one of no example, and that q gives hardly any probability.

    .. math:: \text{dead} = \sum_{l, k} \Big[\, \hat z_{nl} \ne k \text{ for all } n, \text{ and }
        \frac{1}{N} \sum_n q(z_l = k | x_n) < \frac{0.01}{K} \,\Big]

    Args:
        inputs: a trained model with codes, and its data: training data where there are any.
    Returns:
        One finding: a warning where half of the codes or more are dead; a note otherwise. None without a guide.
    Raises:
        ElbowroomError: latents that are real vectors; fewer than ten examples for each code of a slot.
    """
    guide, space = _guide(inputs), inputs.model.space
    if guide is None:
        return []
    split = "train" if inputs.data.size("train") else inputs.held_out()
    numbers, probs = [], []
    with evaluation_mode(guide):
        for batch in inputs.data.batches(split, _BATCH, points=max(inputs.points, _PER_CODE * space.codes)):
            q = guide_distribution(guide, batch)
            numbers.append(space.numbers(q.mode))
            probs.append(_probabilities(q).sum(0, dtype=torch.float64))
    found, examples = torch.cat(numbers), sum(map(len, numbers))
    if examples < _LEAST_PER_CODE * space.codes:
        raise ElbowroomError(
            f"{examples:,} examples are too few to say which of {space.codes} codes a slot uses: of some, none would "
            "be there by chance.",
            f"Examine it with {_LEAST_PER_CODE * space.codes:,} or more.",
        )
    usage = code_usage(space, found)
    average = torch.stack(probs).sum(0) / examples
    unseen = space.split(space.one_hot(found)).sum(0) == 0
    dead = int((unseen & (average < _RARE / space.codes)).sum())
    evidence = (
        Evidence("codes that some example has", usage.used, None, f"of {space.dim:,}"),
        Evidence("the same in the slot with fewest", usage.fewest, None, f"of {space.codes}"),
        Evidence("perplexity of a slot", usage.perplexity, usage.stderr, f"of {space.codes} codes"),
    )
    of = f"{dead:,} of {space.dim:,} codes are dead: no example has them."
    if dead >= MAIN_SHARE * space.dim:
        return [Finding("codes_in_use", "warning", of, evidence, _DEAD, _REVIVE)]
    title = of if dead else "No code is dead."
    return [Finding("codes_in_use", "note", title, evidence, _DEAD, "Nothing to do.")]


_DEAD = (
    "A dead code gets no gradient from any example: it stays where it is, and the model is one with fewer codes. Some "
    "dead codes do no harm, since the bound does not ask for all of them."
)
_REVIVE = (
    "The learner vq restarts dead codes of a codebook. With a categorical guide, let the weight of the KL term grow "
    "slowly (--objective.warmup-epochs 10), or give the model fewer codes (--model.codes)."
)


@torch.no_grad()
def fitted_unigram(guide: Conditional, batches: Iterable[Batch], space: CodeSpace) -> Codes:
    r"""The frequencies of single codes, in expectation over draws of the guide.

    .. math:: r_l(k) \propto \sum_n q(z_l = k | x_n) + \tfrac12

    Args:
        guide: q(z | x) over codes, in evaluation mode.
        batches: of training data, at least one.
        space: L and K.
    Returns:
        float64, batch shape ().
    """
    counts = torch.zeros(space, dtype=torch.float64)
    for batch in batches:
        counts += _probabilities(guide_distribution(guide, batch)).sum(0, dtype=torch.float64).cpu()
    return Codes((counts + _SMOOTHING).log())


def code_prior(inputs: DoctorInput) -> list[Finding]:
    r"""The prior against the frequencies of single codes, and its overfitting, on codes drawn from the guide.

    .. math:: \mathrm{gain} = \mathbb{E}_n \mathbb{E}_{q(z|x_n)} [\log r(z) - \log p(z)], \qquad
        r_l(k) \propto \sum_n q(z_l = k | x_n) + \tfrac12

    on held-out data, where the sum in r is over training data; and

    .. math:: \mathrm{overfitting} = \mathbb{E}_{\mathrm{test}} \mathbb{E}_{q(z|x)} [-\log p(z)]
        - \mathbb{E}_{\mathrm{train}} \mathbb{E}_{q(z|x)} [-\log p(z)]

    Args:
        inputs: a trained model with codes, and its data.
    Returns:
        A warning where a unigram is certainly better by a tenth of a nat or more, else a note; and a warning where
        training codes are certainly cheaper by a nat or more. None without a guide.
    Raises:
        ElbowroomError: latents that are real vectors; no training examples; too few held-out ones.
    Reference:
        Hoffman & Johnson (2016), ELBO surgery, for the gain.
    """
    guide, model, space = _guide(inputs), inputs.model, inputs.model.space
    if guide is None:
        return []
    inputs.require_training()
    batch, generator = inputs.batch(inputs.held_out(2)), inputs.generator("code_prior")
    with evaluation_mode(model, guide):
        unigram = fitted_unigram(guide, inputs.data.batches("train", _BATCH, points=_TRAINING * inputs.points), space)
        z, of_prior = _drawn(inputs, guide, batch, generator)
        of_unigram = unigram.log_prob(z.double().cpu()).mean(0).to(of_prior.device)
        of_training = _drawn(inputs, guide, inputs.batch("train"), generator)[1]
    gain, stderr = mean_and_stderr(of_unigram - of_prior)
    evidence = (
        Evidence("cross-entropy of held-out codes under the prior", *mean_and_stderr(-of_prior)),
        Evidence("the same under the frequencies of single codes", *mean_and_stderr(-of_unigram)),
        Evidence("gain of the frequencies", gain, stderr),
    )
    if gain > RESOLVED_NATS and gain > CERTAIN_Z * stderr:
        title = (
            f"The prior is worse than a unigram: frequencies of single codes would gain {gain:.1f} nats per example."
        )
        found = Finding("code_prior", "warning", title, evidence, _PRIOR, _FIT_PRIOR)
        return [found, *_overfitted(of_training, of_prior)]
    better = f"{-gain:.1f} nats better than" if -gain > CERTAIN_Z * stderr else "about as good as"
    title = f"The prior is {better} frequencies of single codes."
    return [
        Finding("code_prior", "note", title, evidence, _PRIOR, "Nothing to do."),
        *_overfitted(of_training, of_prior),
    ]


def _drawn(inputs: DoctorInput, guide: Conditional, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws z ~ q(z | x), shape (draws, batch, L K), and the mean of their log p(z), float64, shape (batch,)."""
    z = draw(guide_distribution(guide, batch), (_DRAWS,), generator=generator)
    return z, inputs.model.log_prior(z, batch.context).double().mean(0)


def _overfitted(of_training: Tensor, of_held_out: Tensor) -> list[Finding]:
    """A warning where log p(z) is certainly higher for codes of training examples; nothing otherwise."""
    gap, stderr = difference_and_stderr(of_training, of_held_out)
    if not (gap > NOTABLE_NATS and gap > CERTAIN_Z * stderr):
        return []
    evidence = (
        Evidence("cross-entropy of training codes under the prior", *mean_and_stderr(-of_training)),
        Evidence("the same of held-out codes", *mean_and_stderr(-of_held_out)),
        Evidence("difference", gap, stderr),
    )
    title = f"The prior overfits: codes of training examples cost {gap:.1f} nats less than held-out ones."
    return [Finding("code_prior", "warning", title, evidence, _OVERFITTED, _SMALLER_PRIOR)]


_OVERFITTED = (
    "The prior gives codes of training examples more probability than codes of held-out ones: it has learned some of "
    "them by heart. Its samples can then be copies of training examples, and the bound on held-out data falls by this "
    "difference."
)
_SMALLER_PRIOR = (
    "Make the prior smaller (--model.prior-width, --model.prior-layers), penalise large weights "
    "(--optimizer.weight-decay 0.01), stop earlier (--train.patience 5 with --data.validation), or get more data."
)


_PRIOR = (
    "A unigram, which knows how often each code of a slot occurs and nothing else, was fitted to codes of training "
    "examples. The gain is exactly the rise of the ELBO on held-out examples if it replaces the prior and nothing else "
    "changes. A prior that is worse was fitted to other codes than the guide draws, was not fitted, or overfits."
)
_FIT_PRIOR = (
    "Train the prior for longer, on codes that are drawn from the guide and not on the most likely ones; or take "
    "--model.prior unigram or made."
)


class _Tempered(Conditional):
    """q(z | x) to the power 1 / τ, normalised."""

    def __init__(self, guide: Conditional, temperature: float) -> None:
        super().__init__()
        self.guide, self.temperature = guide, temperature
        self.latent_support = guide.latent_support

    def forward(self, given: Tensor | None, context: Tensor | None = None) -> Distribution:
        q = self.guide(given, context)
        assert isinstance(q, Codes | TopDownCodes)  # no other guide is over codes
        return q.tempered(self.temperature)


def sharpness(inputs: DoctorInput) -> list[Finding]:
    r"""Whether q(z | x) is too sharp or too soft: its ELBO at other temperatures, on held-out data.

    .. math:: \max_\tau \mathbb{E}_n \big(\mathcal{L}[q_\tau] - \mathcal{L}[q]\big), \qquad
        q_\tau(z_l = k | x) \propto q(z_l = k | x)^{1/\tau}

    Args:
        inputs: a trained model with codes, and its data.
    Returns:
        One finding: a warning where another temperature certainly gains a nat or more. None without a guide.
    Raises:
        ElbowroomError: latents that are real vectors; too few held-out examples.
    """
    guide, model, space = _guide(inputs), inputs.model, inputs.model.space
    if guide is None:
        return []
    batch = inputs.batch(inputs.held_out(2), min(inputs.points, _COMPARED))
    with evaluation_mode(model, guide):
        # the same noise at every temperature, so that differences are those of pairs
        bounds = {
            tau: elbo_terms(
                model, _Tempered(guide, tau), batch, num_samples=_DRAWS, kl="auto",
                generator=inputs.generator("sharpness"),
            ).value.double()
            for tau in _TEMPERATURES
        }  # fmt: skip
        q = guide_distribution(guide, batch)
        if isinstance(q, TopDownCodes):
            entropy = q.entropy_given(draw(q, (_DRAWS,), generator=inputs.generator("entropy"))).mean(0).double()
        else:
            entropy = q.entropy().double()
        ess = _weighted(inputs, guide, batch, "sharpness of weights")[1]
    best = max(bounds, key=lambda tau: float(bounds[tau].mean()))
    gain, stderr = mean_and_stderr(bounds[best] - bounds[1.0])
    most = space.slots * math.log(space.codes)
    evidence = (
        Evidence("ELBO", *mean_and_stderr(bounds[1.0])),
        *(
            Evidence(f"rise of the ELBO at {tau:g} times the temperature", *mean_and_stderr(bounds[tau] - bounds[1.0]))
            for tau in sorted({0.5, 2.0, best} - {1.0})
        ),
        Evidence(f"entropy of q, of {most:.1f} nats at most", *mean_and_stderr(entropy)),
        Evidence(
            f"effective draws of {_WEIGHTS} in its importance weights, median", float(ess.median()), None, "draws"
        ),
    )
    severity, title, remedy = _sharp(best, gain, gain > CERTAIN_Z * stderr)
    return [Finding("sharpness", severity, title, evidence, _SHARP, remedy)]


def _sharp(best: float, gain: float, sure: bool) -> tuple[Severity, str, str]:
    """Severity, title and remedy."""
    if not (sure and gain >= NOTABLE_NATS):
        return "note", "The guide is neither too sharp nor too soft for its ELBO.", "Nothing to do."
    word, way = ("sharp", "softer") if best > 1 else ("soft", "sharper")
    title = f"The guide is too {word}: at {best:g} times its temperature the ELBO is {gain:.1f} nats higher."
    remedy = (
        f"Make it {way}: the learner vq chooses the temperature of a nearest-code guide and learns it in its joint "
        "stage; a categorical guide needs more training, with an unbiased gradient at the end "
        "(--objective.last-estimator score-function)."
    )
    return "warning", title, remedy


_SHARP = (
    "The probabilities of q(z | x) were raised to the power 1 / τ, slot by slot, and the ELBO was measured for each τ "
    "with the same noise. A guide that is too sharp leaves out codes that the posterior has, and importance weights do "
    "not show it: draws that are all alike have equal weights. One that is too soft wastes its draws."
)


def deterministic_bound(inputs: DoctorInput) -> list[Finding]:
    r"""How far the bound from the most likely codes alone, which is often quoted, is below the importance-weighted one.

    .. math:: \mathbb{E}_n \Big( \log \frac1K \sum_k \frac{p(x_n, z_{nk})}{q(z_{nk} | x_n)}
        - \log p(x_n, \hat z_n) \Big), \qquad \hat z_n = \arg\max_z q(z | x_n)

    Args:
        inputs: a trained model with codes, and its data.
    Returns:
        One note. None without a guide, or where the likelihood has no log p(x).
    Raises:
        ElbowroomError: latents that are real vectors; too few held-out examples.
    """
    guide, model = _guide(inputs), inputs.model
    if guide is None or not model.likelihood.normalized:
        return []
    batch = inputs.batch(inputs.held_out(2), min(inputs.points, _COMPARED))
    with evaluation_mode(model, guide):
        likely = guide_distribution(guide, batch).mode
        quoted = model.log_joint(batch.x, likely, context=batch.context, mask=batch.mask).double()
        weighted, _ = _weighted(inputs, guide, batch, "deterministic_bound")
    gap, stderr = mean_and_stderr(weighted - quoted)
    evidence = (
        Evidence("deterministic bound, log p(x, ẑ)", *mean_and_stderr(quoted)),
        Evidence(f"importance-weighted bound, k = {_WEIGHTS}", *mean_and_stderr(weighted)),
        Evidence("difference", gap, stderr),
    )
    if gap >= NOTABLE_NATS and gap > CERTAIN_Z * stderr:
        title = f"log p(x) is at least {gap:.1f} nats above the deterministic bound, which must not be quoted for it."
    else:
        title = f"The deterministic bound is {max(gap, 0):.2f} nats below the importance-weighted one."
    remedy = "Quote the bounds of --methods iwae or ais, and name the method: --methods codes sets them side by side."
    return [Finding("deterministic_bound", "note", title, evidence, _QUOTED, remedy)]


_QUOTED = (
    "Models with vector quantisation are often quoted with the log-likelihood of the most likely codes and the length "
    "of their code, as if p(x | z) vanished for all other codes. What is left out is −log p(ẑ | x)."
)


def _weighted(inputs: DoctorInput, guide: Conditional, batch: Batch, stream: str) -> tuple[Tensor, Tensor]:
    """The importance-weighted bound and the effective sample size of each example, float64."""
    found = importance_estimate(inputs.model, guide, batch, num_samples=_WEIGHTS, generator=inputs.generator(stream))
    return found.log_evidence.double(), found.ess.double()
