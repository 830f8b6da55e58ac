# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The data
#
# Handwritten digits are the fruit flies of this field: MNIST {cite:p}`lecun1998`, 70,000 pictures of 28 × 28 pixels,
# or the 1,797 pictures of 8 × 8 that come with scikit-learn. This page was built with one of them, as the next cell
# says; `make docs` takes the small ones, `make docs-full` MNIST.
#
# Before a model can be better or worse, three things have to be settled: which data are for learning and which for
# judging, what values a pixel can take, and what the model says of such values.

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
    """All rows of a split, one a line, float64."""
    delivered = er.load_data(NAME, test=0.2, **how)
    return next(iter(delivered.batches(split, delivered.size(split)))).x.flatten(1).double()


grey, grey_test = (rows(split, support="unit-interval") for split in ("train", "test"))
PIXELS = grey.shape[1]
print(f"{data}\n{data.source}\nlicence: {data.licence}")

# %% mystnb={"image": {"alt": "Twenty-four grey handwritten digits with their labels"}}
labels = data.labels[data.splits["train"]][:24].tolist()
er.plots.image_grid(grey[:24].unflatten(1, data.event_shape), titles=labels, columns=12)

# %% [markdown]
# The labels are for us. No model of this book sees them.
#
# ## What is a pixel?
#
# The *support* of x is the set of its possible values. A likelihood has one too, and the two have to agree: a Bernoulli
# says something of 0 and 1, a normal distribution of all real numbers, a density on [0, 1] of that interval.

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
# **A choice, and not what the data are.** A pixel takes a few whole-numbered levels, and most pixels are exactly zero.
# A random variable that hits a single value with positive probability has no density on an interval. A density can
# still be fitted to it, but where a model is free to sharpen, its log density grows without limit around such values:
# high numbers of that kind mean nothing. To read the levels as integers, or the grey values as probabilities of bits,
# are choices too, and sound ones.
# :::
#
# ## Grey pixels under a Bernoulli
#
# The usual choice is the Bernoulli's formula for a grey value, $x \log p + (1 - x) \log (1 - p)$ with x between 0 and
# 1, the *cross-entropy*. Were it a log density, the density would integrate to one. Its integral is known:
#
# $$ \int_0^1 p^x (1 - p)^{1 - x} dx = (1 - p) \int_0^1 e^{\ell x} dx = \frac{2p - 1}{\ell},
#    \qquad \ell = \log \frac{p}{1 - p}. $$
#
# It is largest at p = ½, where it is ½. So *every* pixel lacks log 2 = 0.69 nats or more, and how much more depends on
# p, that is, on the model's parameters.

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
# The constant that is missing is no matter of taste, since it moves the optimum. The *continuous Bernoulli*
# {cite:p}`loaiza2019` is the same formula divided by its integral. Take the simplest model of the digits: each pixel on
# its own, with one number. The cross-entropy wants that number to be the pixel's mean. The density wants another one:

# %%
mean = grey.mean(0).clamp(0.001, 0.999)
cross_entropy = Bernoulli(mean, validate_args=False).log_prob(grey_test).sum(1)
# the same p, with the constant
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
# **Wrong.** The formula is no density on grey values: its integral is at most ½ for each pixel. What comes out cannot
# be compared with any log-likelihood, bounds none, and is maximal at other parameters than the likelihood is. (Much of
# the gain in the last row is made at pixels that are nearly always black: the atoms of the box above.) {doc}`07-vae`
# measures what the constant is worth in a network.
# :::
#
# elbowroom refuses that combination, and says what can be done:

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
# Whoever wants the cross-entropy nevertheless asks for it by name, `--model.likelihood cross-entropy`, and gets figures
# that are labelled "not a log-likelihood" wherever they are shown.
#
# ## Grey to black and white
#
# Most of the literature does not model grey values but bits. A grey value becomes a bit in one of three ways:
#
# | | a pixel of grey value g becomes | |
# |---|---|---|
# | `threshold` | 1 where $g \ge \frac12$ | no randomness |
# | `static` | 1 with probability g, drawn once and for all | the same bits in every epoch |
# | `dynamic` | 1 with probability g, drawn at every visit | endless data from each picture |
#
# Under *dynamic* binarisation the learner never meets the same bits twice, which makes overfitting harder. To *judge*,
# the bits are fixed in all three: a bound that is measured on other bits each time is another number each time.


# %%
def visits(how, count=1, seed=0):
    """The first eight training images as a learner meets them, at so many visits."""
    delivered = er.load_data(
        NAME, test=0.2, binarization=how, support="unit-interval" if how == "none" else "auto"
    )
    draws = torch.Generator().manual_seed(seed)
    return [
        next(delivered.training_batches(8, seed=0, epoch=0, generator=draws)).x.double()
        for _ in range(count)
    ]


shown = {"grey": visits("none"), "threshold": visits("threshold")}
shown |= {kind: visits(kind, 2) for kind in ("static", "dynamic")}
names = [
    name if k == 0 else f"{name}, again"
    for name, seen in shown.items()
    for k in range(len(seen))
]

# %% mystnb={"image": {"alt": "Eight digits as grey pixels and as bits: threshold, static twice, dynamic twice"}}
images = torch.cat([x for seen in shown.values() for x in seen])
er.plots.image_grid(images, columns=8, row_labels=names)

# %%
many, greys = torch.stack(visits("dynamic", 400)), shown["grey"][0]
unsure = (greys > 0) & (greys < 1)
z = ((many.mean(0) - greys) / (greys * (1 - greys) / len(many)).sqrt())[unsure]
print(
    f"dynamic bits, mean of {len(many)} visits against grey: "
    f"mean square of z {z.square().mean():.2f}, 1 is right"
)
fixed = {kind: torch.equal(*seen) for kind, seen in shown.items() if len(seen) == 2}
twice = [rows("test", binarization="dynamic") for _ in range(2)]
print(f"the same at both visits: {fixed}; in evaluation, dynamic: {torch.equal(*twice)}")

# %% [markdown]
# A log-likelihood belongs to one of these protocols. The simplest model again, each pixel on its own, on the same
# pictures (static and dynamic are judged by the same bits; what differs is what was learned from):

# %%
scores = {}
for how in ("threshold", "static", "dynamic"):
    p = rows("train", binarization=how).mean(0).clamp(0.001, 0.999)
    scores[how] = Bernoulli(p).log_prob(rows("test", binarization=how)).sum(1)
    value, error = er.mean_and_stderr(scores[how])
    print(f"{how:<10} {value:8.2f} ± {error:.2f} nats per held-out digit")
# of the bits, for somebody who knows the greys
noise = Bernoulli(grey_test.clamp(1e-12, 1 - 1e-12)).entropy().sum(1)
print(
    f"the drawing of bits alone has {noise.mean():.2f} nats of entropy: "
    "no model of such bits can do better than that"
)

# %% [markdown]
# That last number is a floor: $\mathrm{H}(x) \ge \mathrm{H}(x \mid \text{grey})$, and the expected log-likelihood of
# any model is at most $-\mathrm{H}(x)$. Under a threshold the floor is zero. So "−86 nats on MNIST" says nothing
# unless it says which MNIST. Every result of elbowroom carries its protocol:

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
# **True**, and a log-likelihood says how tiny. A model of n bits whose mean log-likelihood is −L nats puts most of its
# probability on about $e^L$ of the $2^n$ images. The next cell does the sum for the simplest model of all; a good
# model of MNIST, at −80 nats in the place of 543, leaves a share of $10^{-201}$.
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
# grey under a Bernoulli: at most one half
assert torch.allclose(mass, formula, atol=1e-5) and mass.max() < 0.5
assert constant > whole  # so that each pixel lacks log 2, and more
assert lost > 4 * lost_error  # and the optimum lies elsewhere
assert "binarization" in refusal and "continuous-bernoulli" in refusal  # refused, with remedies
assert zeros > 0.1 and len(levels) < 300  # atoms: no density
assert 0.6 < z.square().mean() < 1.5  # dynamic bits are 1 as often as the grey value says,
# drawn anew to learn, fixed to judge
assert fixed == {"static": True, "dynamic": False} and torch.equal(*twice)
assert torch.equal(shown["threshold"][0], (greys >= 0.5).double())
# above a floor that a threshold does not have
assert -scores["dynamic"].mean() > noise.mean() > 1
assert share < -5  # few images are digits
