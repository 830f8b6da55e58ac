# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Why are the images poor?
#
# The usual tutorial ends with a sheet of generated digits, many of which are no digits, and with a question: "this
# image doesn't work so well. I'm not sure why". A picture alone cannot answer it. There are four possible reasons: the
# training may not have finished, the encoder may be poor, the decoder with its likelihood may be poor, or z may be
# drawn where the decoder was never trained. Each of these can be measured. `elbowroom doctor RUN` does so for any run;
# this page explains its reasoning.
#
# `make docs-full` examines a model of MNIST and the tutorial's own run. The fast version of this page examines a small
# model. With one bit for each of 8 × 8 pixels the doctor finds no problem in a model of the digits, because an image
# holds too little information. So each grey pixel is enlarged to 3 × 3 pixels, each of which becomes a bit of its own.

# %%
import math
import os
import tempfile
from pathlib import Path

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
folder = Path(tempfile.mkdtemp())
if FULL:
    SOURCE, OPTIONS, MODEL = "mnist", {}, {}
else:  # half of the digits are held out, since the classifier needs many
    digits = er.load_data("digits", test=0)
    images = next(iter(digits.batches("train", len(digits)))).x
    SOURCE = images.repeat_interleave(3, 1).repeat_interleave(3, 2)
    MODEL = {"latent_dim": 16, "encoder": {"hidden": [200]}, "decoder": {"hidden": [200]}}
    OPTIONS = {
        "data": {"binarization": "dynamic", "test": 0.5, "validation": 0},
        "optimizer": {"lr": 3e-3, "schedule": "one-cycle"},
        "train": {"epochs": 80, "batch_size": 100},
    }
run = er.train(SOURCE, out=folder / "normal", observers=[], model=MODEL, **OPTIONS)
elbo = run.evaluate("elbo")[0]
print(f"ELBO {elbo.value:.2f} ± {elbo.stderr:.2f} nats, {elbo.points:,} test images")

# %% mystnb={"image": {"alt": "Sampled digits, black and white and rough, beside smooth grey means"}}
drawn = run.sample(36, seed=1)
er.plots.samples_figure(drawn.x, drawn.mean)

# %% [markdown]
# This is the same picture of MNIST, which this page draws in `make docs-full`:
#
# ![Thirty-six samples of a model of MNIST, and their means](../pictures/book-09-samples.png)
#
# ## Means are not samples
#
# What tutorials show as generated images is on the right: the mean of $p(x \mid z)$, one for each z. A draw from the
# model is on the left. The mean is smoother, since it leaves out the randomness of single pixels given z. How much that
# is follows from the law of total variance,
#
# $$ \mathrm{Var}(x) = \mathrm{Var}_z\big(\mathbb{E}[x \mid z]\big) + \mathbb{E}_z\big[\mathrm{Var}(x \mid z)\big], $$
#
# of which a sheet of means shows only the first part. Summed over pixels:

# %%
many = run.sample(4000, seed=2)
# Bits, and their probabilities given z.
x, p = many.x.flatten(1).double(), many.mean.flatten(1).double()
of_samples = x.var(0).sum().item()
of_means, of_noise = p.var(0).sum().item(), (p * (1 - p)).mean(0).sum().item()
print(
    f"variance of samples {of_samples:.2f} = {of_means:.2f} of means "
    f"+ {of_noise:.2f} of the pixels given z"
)
print(f"pictures of means leave out {of_noise / of_samples:.0%}")
mean = p.mean(0)
# The mean of this difference is 0 if the law holds.
beyond, error = er.mean_and_stderr(((x - mean) ** 2 - (p - mean) ** 2 - p * (1 - p)).sum(1))

# %% [markdown]
# ## What the doctor finds
#
# The next cell runs the doctor's checks on this model. Three of them matter here. `amortisation` refits q for each
# image and reports what the encoder loses. `holes` compares where the data put z with where the prior draws it.
# `sample_quality` trains a classifier to tell samples from data.

# %%
found = run.doctor(
    checks=["finished", "latents_in_use", "amortisation", "holes", "sample_quality"]
)
print(er.diagnosis_text(run.folder.path.name, found))

# %% [markdown]
# **The encoder cannot be the reason.** It is not used when an image is generated: z comes from the prior, and x from
# the decoder. A poor encoder can harm the training of the decoder, and it makes the inference gap (the elbow room)
# larger. But for a given decoder, another encoder changes no sample.
#
# **Prior or decoder?** Give the same decoder z from elsewhere: from $q(z \mid x)$ of other images, where it was
# trained. If a classifier can still tell these samples from data, the decoder is the reason. If it no longer can, the
# prior is. If the classifier is right in a share $a$ of cases, $d = 2a - 1$ is a lower bound on the total variation
# between samples and data, and $1 - d_\text{encodings} / d_\text{prior}$ is the share of it that is due to the prior
# {cite:p}`lopezpaz2017`.

# %%
samples, aggregate = found.studies.samples, found.studies.aggregate
for source, test in samples.tests.items():
    print(
        f"z from {source:<10} classifier right in {test.accuracy:.1%} ± {test.stderr:.1%}; "
        "50% is chance"
    )
share = 1 - samples.tests["encodings"].distance / samples.tests["prior"].distance
print(f"share of the prior: {share:.0%}")

# %% mystnb={"image": {"alt": "Encodings in clusters over the prior's contours; images from three sources of z"}}
er.plots.holes_figure(aggregate, samples, value_range=(0, 1))

# %% [markdown]
# ## The prior and the aggregate posterior
#
# Averaged over the data, the guide is the *aggregate posterior* $q(z) = \frac1N \sum_n q(z \mid x_n)$, which is where
# the data put z. The KL term of the ELBO, averaged too, is the sum of two parts {cite:p}`hoffman2016`,
#
# $$ \frac1N \sum_n \mathrm{KL}\big(q(z \mid x_n) \,\|\, p(z)\big)
#    = \underbrace{\frac1N \sum_n \mathrm{KL}\big(q(z \mid x_n) \,\|\, q(z)\big)}_{\text{what z says of the example}}
#    + \underbrace{\mathrm{KL}\big(q(z) \,\|\, p(z)\big)}_{\text{the mismatch}}, $$
#
# since $\log \frac{q(z|x)}{p(z)} = \log \frac{q(z|x)}{q(z)} + \log \frac{q(z)}{p(z)}$. The second part says nothing
# about any image, but lowers the bound of each. Training makes it smaller only as long as this does not make the first
# part worse. So $q(z)$ forms clusters, with gaps between them, or *holes*, where a normal distribution has none. Any
# prior $r(z)$ instead of $p(z)$, with all else unchanged, raises the ELBO of an image by $\mathbb{E}_{q(z|x)}[\log r(z)
# - \log p(z)]$. Here r is a mixture of normals, fitted to encodings of training data, and the gain is measured on
# held-out data:

# %%
gain, gain_error = er.mean_and_stderr(aggregate.gains["mixture"])
print(f"a learned prior would gain {gain:.2f} ± {gain_error:.2f} nats per image")
print(f"{aggregate.empty:.0%} of the prior's draws lie where only 1% of the encodings do")

# %% [markdown]
# ## The remedy
#
# The remedy is to learn the prior with the rest of the model: a mixture of normals, or the VampPrior of
# {cite:t}`tomczak2018`, whose components are the guide's distributions for learned inputs. The next cell trains the
# same model with the same seed and the same number of steps:

# %%
learned = {**MODEL, "prior": "mixture", "prior_components": 500 if FULL else 50}
mixed = er.train(SOURCE, out=folder / "mixture", observers=[], model=learned, **OPTIONS)
points = None if FULL else 300  # None: all
scores = [fitted.score(k=200, points=points).log_evidence for fitted in (run, mixed)]
rise, rise_error = er.mean_and_stderr(scores[1] - scores[0])
print(
    f"log p(x) of test images rises by {rise:.2f} ± {rise_error:.2f} "
    "nats (importance-weighted bounds, k = 200)"
)

treated = mixed.doctor(checks=["holes", "sample_quality"]).studies
left, left_error = er.mean_and_stderr(treated.aggregate.gains["mixture"])
after, before = treated.samples.tests["prior"], samples.tests["prior"]
print(
    f"a learned prior would still gain: {left:.2f} ± {left_error:.2f} nats; before {gain:.2f}"
)
print(
    f"classifier right: {after.accuracy:.1%} ± {after.stderr:.1%}; before {before.accuracy:.1%}"
)

# %% mystnb={"image": {"alt": "Samples and means of the model with a learned prior; fewer are malformed"}}
drawn = mixed.sample(36, seed=1)
er.plots.samples_figure(drawn.x, drawn.mean)

# %% [markdown]
# And this is the picture of MNIST with a learned prior, by `make docs-full`:
#
# ![Thirty-six samples of a model of MNIST with a learned prior, and their means](../pictures/book-09-learned-prior.png)
#
# :::{admonition} The usual tutorial: "I'm not sure why that is but I double-checked with the original repo"
# :class: warning
#
# **That two programs agree does not explain anything.** On MNIST, `elbowroom train tutorial-pytorch` is the tutorial's
# code as printed, and `elbowroom doctor runs/tutorial-pytorch` gives the answer. With z from N(0, I), a classifier is
# right about 76% of samples and digits. With z from the encodings of other digits it is right about 62%, so the prior
# causes 55% of the difference. 15% of the prior's draws lie where only 1% of the encodings do. A learned prior would
# gain 5.0 ± 0.1 nats, nearly all of it from clusters and the holes between them.
#
# The missing ReLU is a fault but not the reason. With the ReLU added (`tutorial-pytorch-fixed`) the encoder loses 3.1
# nats instead of 5.5 ± 0.3, and the classifier is right about 73%: the prior remains. With binary pixels and 50 epochs
# (`mnist`) it is 70%, and a learned prior leaves 55%.
# :::
#
# :::{admonition} The usual tutorial: the decoder's output is the image, "the mean of taking many samples"
# :class: warning
#
# **Wrong.** What is shown is the mean of $p(x \mid z)$ at *one* z. It is an expectation, not an image that the model
# generates: 49% of the variance of samples is missing from it (`elbowroom doctor runs/tutorial-pytorch`).
# :::

# %%
if FULL:
    tutorial = er.train("tutorial-pytorch", out=folder / "tutorial", observers=[])
    print(er.diagnosis_text("tutorial-pytorch", er.doctor(tutorial)))
else:
    print("With MNIST (make docs-full) this cell trains the recipe tutorial-pytorch,")
    print("and prints the doctor's report on it.")

# %% [markdown]
# ## The claims of this page, as code
#
# The folds of the classifier's cross-validation share data, so its standard errors are multiplied by 1.5.

# %%
# The law of total variance holds.
assert abs(beyond) < 4 * error
# A mean is not a sample.
assert of_noise > 0.2 * of_samples
# The prior does not match the aggregate posterior, and draws where few encodings are.
assert gain > 4 * gain_error
assert aggregate.empty > 0.01 + 4 * aggregate.empty_stderr
of_prior, of_encodings = samples.tests["prior"], samples.tests["encodings"]
# Samples differ from data, and from samples with z from encodings.
assert of_prior.z > 4 and samples.holes.z > 4
better_by = of_prior.accuracy - of_encodings.accuracy
# The latter are nearer to data.
assert better_by > 3 * 1.5 * math.hypot(of_prior.stderr, of_encodings.stderr)
# A learned prior raises log p(x), removes most of the mismatch, and makes better samples.
assert rise > 4 * rise_error
assert left < gain - 4 * (gain_error**2 + left_error**2) ** 0.5
assert after.accuracy < before.accuracy
