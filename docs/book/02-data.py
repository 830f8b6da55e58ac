# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The data
#
# Handwritten digits are the standard test data of this field. There is MNIST {cite:p}`lecun1998`, with 70,000 pictures
# of 28 × 28 pixels, and there are the 1,797 pictures of 8 × 8 pixels that come with scikit-learn. This page was built
# with one of the two, as the next cell says: `make docs` takes the small pictures, and `make docs-full` takes MNIST.
#
# Before models can be compared, three things have to be settled: which examples are for training and which for testing,
# which values a pixel can take, and which probability a model gives to such values.

# %%
import math
import os

import torch
from torch.distributions import Bernoulli

import elbowroom as er

# %matplotlib inline
NAME = "mnist" if os.environ.get("ELBOWROOM_DOCS") == "full" else "digits"
data = er.load_data(NAME, test=0.2)  # MNIST has a test set of its own, and keeps it


def rows(split, **how):
    """All examples of a split, one row each, float64."""
    delivered = er.load_data(NAME, test=0.2, **how)
    return next(iter(delivered.batches(split, delivered.size(split)))).x.flatten(1).double()


grey, grey_test = (rows(split, support="unit-interval") for split in ("train", "test"))
PIXELS = grey.shape[1]
print(f"{data}\n{data.source}\nlicence: {data.licence}")

# %% mystnb={"image": {"alt": "Twenty-four grey handwritten digits with their labels"}}
labels = data.labels[data.splits["train"]][:24].tolist()
er.plots.image_grid(grey[:24].unflatten(1, data.event_shape), titles=labels, columns=12)

# %% [markdown]
# The labels are for the reader. No model of this book uses them.
#
# ## What is a pixel?
#
# The *support* of x is the set of its possible values. A likelihood has a support too, and the two have to agree: a
# Bernoulli distribution gives probability to 0 and 1, a normal distribution has a density over all real numbers, and a
# continuous Bernoulli has one over [0, 1].

# %%
levels = grey.unique()
zeros, ones = (grey == 0).double().mean().item(), (grey == 1).double().mean().item()
print(f"stored as {data.native_support.description}; {len(levels)} different values occur")
print(
    f"exactly 0: {zeros:.1%} of the pixels, exactly 1: {ones:.1%}, "
    f"between: {1 - zeros - ones:.1%}"
)

# %% [markdown]
# :::{admonition} The usual tutorial: X has the sample space $[0, 1]^{28 \times 28}$
# :class: note
#
# **This is a choice, and not what the data are.** A pixel takes one of a few whole-numbered levels, and most pixels are
# exactly zero. A random variable that takes a single value with positive probability has no density on an interval. One
# can still fit a density to it. But a flexible model can then make its density ever higher around such values, and its
# log density grows without limit. High values of that kind mean nothing. It is also a choice to read the levels as
# integers, or the grey values as probabilities of bits, and these two choices are sound.
# :::
#
# ## Grey pixels under a Bernoulli
#
# A common choice is to use the Bernoulli's formula for a grey value, $x \log p + (1 - x) \log (1 - p)$ with x between 0
# and 1. It is called the *cross-entropy*. If it were a log density, the density would integrate to one. Its integral is
# known:
#
# $$ \int_0^1 p^x (1 - p)^{1 - x} dx = (1 - p) \int_0^1 e^{\ell x} dx = \frac{2p - 1}{\ell},
#    \qquad \ell = \log \frac{p}{1 - p}. $$
#
# The integral is largest at p = ½, where it is ½. So log 2 = 0.69 nats or more are missing for *every* pixel. How much
# more depends on p, and so on the model's parameters.

# %%
p = torch.linspace(0.001, 0.999, 1000, dtype=torch.float64)  # one half is not among them
x = (torch.arange(2000, dtype=torch.float64) + 0.5).unsqueeze(1) / 2000
mass = Bernoulli(p, validate_args=False).log_prob(x).exp().mean(0)  # by the midpoint rule
formula = (2 * p - 1) / p.logit()
print(
    f"∫ is at most {mass.max():.4f}; at p = 0.1 it is {mass[99]:.3f}, at p = 0.01 {mass[9]:.3f}"
)
print(f"formula and midpoint rule differ by {(mass - formula).abs().max():.1e}")

# %% [markdown]
# The missing constant matters, since it moves the optimum. The *continuous Bernoulli* {cite:p}`loaiza2019` is the same
# formula divided by its integral. Take the simplest model of the digits, in which each pixel has one parameter and is
# independent of the others. The cross-entropy is highest where that parameter is the pixel's mean. The density is
# highest elsewhere:

# %%
mean = grey.mean(0).clamp(0.001, 0.999)
cross_entropy = Bernoulli(mean, validate_args=False).log_prob(grey_test).sum(1)
# The same p, with the normalising constant.
normalised = er.distributions.ContinuousBernoulli(mean.logit()).log_prob(grey_test).sum(1)
at_its_best = er.distributions.ContinuousBernoulli.with_mean(mean).log_prob(grey_test).sum(1)
constant, whole = (normalised - cross_entropy).mean().item(), PIXELS * math.log(2)
lost, lost_error = er.mean_and_stderr(at_its_best - normalised)
print(f"the formula alone: {cross_entropy.mean():9.2f} 'nats' per held-out digit")
print(
    f"with its constant: {normalised.mean():9.2f} nats, "
    f"{constant:.2f} more; {PIXELS} log 2 is {whole:.2f}"
)
print(
    f"at the best p:     {at_its_best.mean():9.2f} nats, "
    f"{lost:.2f} ± {lost_error:.2f} more than at the pixels' means"
)

# %% [markdown]
# :::{admonition} The usual tutorial trains on grey pixels with `BCELoss` and calls that the log-likelihood
# :class: warning
#
# **Wrong.** The formula is not a density on grey values: its integral is at most ½ for each pixel. The result cannot be
# compared with any log-likelihood, is no bound on one, and has its maximum at other parameters than the likelihood.
# (Much of the gain in the last row comes from pixels that are nearly always black, for the reason given in the box
# above.) {doc}`07-vae` measures the effect of the constant in a network.
# :::
#
# elbowroom refuses this combination, and says what to do instead:

# %%
try:
    er.train(
        NAME, data={"binarization": "none"}, model={"likelihood": "bernoulli"}, out="refused"
    )
    refusal = ""
except er.ElbowroomError as error:
    refusal = str(error)
print(refusal)

# %% [markdown]
# If you still want the cross-entropy, ask for it by name, `--model.likelihood cross-entropy`. Its results are labelled
# "not a log-likelihood" wherever they are shown.
#
# ## Grey to black and white
#
# Most publications model bits, not grey values. This is called *binarisation*, and there are three ways to do it:
#
# | | a pixel of grey value g becomes | |
# |---|---|---|
# | `threshold` | 1 where $g \ge \frac12$ | no randomness |
# | `static` | 1 with probability g, drawn once and for all | the same bits in every epoch |
# | `dynamic` | 1 with probability g, drawn anew each time | a new binary picture in every epoch |
#
# With *dynamic* binarisation the model is never trained on the same bits twice, which makes overfitting harder. For
# *evaluation* the bits are fixed in all three ways. Otherwise a bound would be another number each time it is measured.


# %%
def in_training(how, count=1, seed=0):
    """The first eight training images as a model is trained on them, in several epochs."""
    delivered = er.load_data(
        NAME, test=0.2, binarization=how, support="unit-interval" if how == "none" else "auto"
    )
    draws = torch.Generator().manual_seed(seed)
    return [
        next(delivered.training_batches(8, seed=0, epoch=0, generator=draws)).x.double()
        for _ in range(count)
    ]


shown = {"grey": in_training("none"), "threshold": in_training("threshold")}
shown |= {kind: in_training(kind, 2) for kind in ("static", "dynamic")}
names = [
    name if k == 0 else f"{name}, again"
    for name, seen in shown.items()
    for k in range(len(seen))
]

# %% mystnb={"image": {"alt": "Eight digits as grey pixels and as bits: threshold, static twice, dynamic twice"}}
images = torch.cat([x for seen in shown.values() for x in seen])
er.plots.image_grid(images, columns=8, row_labels=names)

# %% [markdown]
# Pictures of 8 × 8 pixels are coarse. This is the same picture of MNIST, which this page draws in `make docs-full`:
#
# ![Eight MNIST digits as grey pixels and as bits, in the same six rows](../pictures/book-02-binarisation.png)

# %%
many, greys = torch.stack(in_training("dynamic", 400)), shown["grey"][0]
unsure = (greys > 0) & (greys < 1)
z = ((many.mean(0) - greys) / (greys * (1 - greys) / len(many)).sqrt())[unsure]
print(
    f"mean of {len(many)} draws of dynamic bits, against the grey values: "
    f"mean square of z {z.square().mean():.2f}, where 1 is expected"
)
fixed = {kind: torch.equal(*seen) for kind, seen in shown.items() if len(seen) == 2}
twice = [rows("test", binarization="dynamic") for _ in range(2)]
print(f"the same bits in two epochs: {fixed}; in evaluation, dynamic: {torch.equal(*twice)}")

# %% [markdown]
# A log-likelihood depends on the way of binarisation. Here is the simplest model again, with independent pixels, on the
# same pictures. (Static and dynamic are tested on the same bits; they differ in the bits that the model was fitted to.)

# %%
scores = {}
for how in ("threshold", "static", "dynamic"):
    p = rows("train", binarization=how).mean(0).clamp(0.001, 0.999)
    scores[how] = Bernoulli(p).log_prob(rows("test", binarization=how)).sum(1)
    value, error = er.mean_and_stderr(scores[how])
    print(f"{how:<10} {value:8.2f} ± {error:.2f} nats per held-out digit")
# The entropy of the bits, given the grey values.
noise = Bernoulli(grey_test.clamp(1e-12, 1 - 1e-12)).entropy().sum(1)
print(
    f"drawing the bits has an entropy of {noise.mean():.2f} nats: "
    "the expected log-likelihood of any model is at most minus that"
)

# %% [markdown]
# That last number is a lower bound on the entropy of the bits: $\mathrm{H}(x) \ge \mathrm{H}(x \mid \text{grey})$. The
# expected log-likelihood of any model is at most $-\mathrm{H}(x)$. With a threshold this lower bound is zero. So "−86
# nats on MNIST" has no meaning unless it is said how MNIST was binarised. Every result of elbowroom comes with its
# protocol:

# %%
protocol = er.load_data(NAME, test=0.2, binarization="dynamic").protocol()
print(
    {
        key: f"{value[:12]}…" if key.startswith("sha256") else value
        for key, value in protocol.items()
    }
)

# %% [markdown]
# :::{admonition} The usual tutorial: "only a tiny subset of these points correspond to meaningful images"
# :class: tip
#
# **True**, and a log-likelihood says how tiny the subset is. A model of n bits whose mean log-likelihood is −L nats
# puts most of its probability on about $e^L$ of the $2^n$ images. The next cell does this calculation for the simplest
# model. For a good model of MNIST, at −80 nats, the share is $10^{-201}$, since all images together are $e^{543}$.
# :::

# %%
share = (-scores["dynamic"].mean().item() - whole) / math.log(10)
print(
    f"e^{-scores['dynamic'].mean():.1f} typical images of e^{whole:.1f}: "
    f"a share of 10^{share:.0f}"
)

# %% [markdown]
# ## The claims of this page, as code

# %%
# Grey values under a Bernoulli: the integral is at most one half, so log 2 or more are missing.
assert torch.allclose(mass, formula, atol=1e-5) and mass.max() < 0.5
assert constant > whole
# The missing constant moves the optimum.
assert lost > 4 * lost_error
# elbowroom refuses the combination, and names remedies.
assert "binarization" in refusal and "continuous-bernoulli" in refusal
# Single values have positive probability, so there is no density.
assert zeros > 0.1 and len(levels) < 300
# Dynamic bits are 1 as often as the grey value says.
assert 0.6 < z.square().mean() < 1.5
# Dynamic bits are drawn anew in training, and fixed in evaluation.
assert fixed == {"static": True, "dynamic": False} and torch.equal(*twice)
assert torch.equal(shown["threshold"][0], (greys >= 0.5).double())
# The entropy of the bits is above that of drawing them.
assert -scores["dynamic"].mean() > noise.mean() > 1
# Few of all images are digits.
assert share < -5
