# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Codes instead of vectors
#
# The tutorial ends with DALL·E and VQ-VAE, whose latents are not real vectors but *codes*: z has L slots, and each slot
# holds one of K codes. The model is the same, $p(x, z) = p(z)\, p(x \mid z)$, and so is the question, how large
# $\log p(x)$ is. Papers on vector quantisation {cite:p}`oord2017` answer it with one code alone. This page measures
# what that leaves out. Its models are so small that all codes can be summed over:
#
# $$ p(x) = \sum_{z} p(z) \, p(x \mid z), \qquad K^L \text{ terms.} $$

# %%
import os
import tempfile
from pathlib import Path

import torch

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
NAME = "mnist" if FULL else "digits"
folder = Path(tempfile.mkdtemp())
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Two models
#
# Both have 4 slots of 8 codes, 4,096 values of z. In both, the encoder gives a vector for every slot, and the guide is
# a categorical distribution by the distances from the K vectors of a codebook,
#
# $$ q(z_l = k \mid x) \propto \exp\big(-\lVert e_l(x) - c_{lk} \rVert^2 / T\big). $$
#
# The first is trained as in the paper: encoder, decoder and codebook on the reconstruction from the nearest code; then
# an autoregressive prior on the codes of the training data. The second does both more briefly, and then trains all of
# them together on the ELBO ({doc}`the training method vq <../reference/learners/vq>`).

# %%
options = {
    "data": {"binarization": "threshold", "validation": 0.1, "test": 0.2},
    "model": {
        "guide": "nearest-code",
        "prior": "made",
        "slots": 4,
        "codes": 8,
        "prior_width": 64,
        "encoder": {"hidden": [200]},
        "decoder": {"hidden": [200]},
    },
    "optimizer": {"lr": 2e-3 if FULL else 4e-3, "schedule": "cosine", "clip_norm": 20.0},
    "train": {
        "learner": "vq",
        "epochs": 20 if FULL else 100,
        "batch_size": 100 if FULL else 200,
    },
}
stages = {
    "two stages": {"reconstruction_share": 0.7, "prior_share": 0.3},
    "three stages": {"reconstruction_share": 0.3, "prior_share": 0.1},
}
runs = {
    name: er.train(NAME, out=folder / name, observers=[], vq=shares, **options)
    for name, shares in stages.items()
}

# %% [markdown]
# ## One code is not all of them
#
# Write $\hat z$ for the most likely code. The bound of the papers is one term of the sum,
#
# $$ \log p(\hat z) + \log p(x \mid \hat z) \;=\; \log p(x) - \big[ -\log p(\hat z \mid x) \big] \;\le\; \log p(x), $$
#
# in the hope that a decoder that was trained on $\hat z$ leaves $p(x \mid z)$ no mass for other z. What it is too low
# by is $-\log p(\hat z \mid x)$, exactly: how unsure the posterior is of the code. `er.enumerated` sums over all codes,
# and so gives both sides.


# %%
def bounds(run):
    x = run.dataset().take("test", torch.arange(300)).x
    with torch.no_grad():
        every = er.enumerated(run.model, x)
        mode = run.guide(x).mode
        one_code = run.model.log_joint(x, mode).double()
        elbo = er.objectives.elbo(
            run.model, run.guide, x, kl="auto", num_samples=200,
            estimator="score-function", generator=generator,
        ).double()  # fmt: skip
        distinct = er.distinct_bound(
            run.model, run.guide, x, num_samples=1000, generator=generator
        )
        weighted = er.importance_estimate(
            run.model, run.guide, x, num_samples=1000, generator=generator
        ).log_evidence
    return every.log_posterior, {
        "the most likely code": one_code,
        "ELBO": elbo,
        "distinct among 1,000 draws": distinct,
        "importance weights, k = 1,000": weighted,
        "all codes": every.log_evidence,
    }


posteriors, found = {}, {}
for name, run in runs.items():
    posteriors[name], found[name] = bounds(run)  # (codes, images), and nats of each image
for name, values in found.items():
    print(name)
    for bound, value in values.items():
        mean, error = er.mean_and_stderr(value)
        short, short_error = er.mean_and_stderr(values["all codes"] - value)
        print(
            f"  {bound:<33} {mean:7.2f} ± {error:.2f}, "
            f"short of log p(x) by {short:.3f} ± {short_error:.3f}"
        )

# %% mystnb={"image": {"alt": "Bounds on log p(x), from one code to the sum over all codes"}}
rows = [
    (bound, *er.mean_and_stderr(value), "exact" if bound == "all codes" else "lower")
    for bound, value in found["three stages"].items()
]
er.plots.evaluation_figure(
    [dict(zip(("name", "value", "stderr", "bound"), row, strict=True)) for row in rows]
)

# %% [markdown]
# The posterior is unsure of the code, so one code is not enough. Importance weights close part of that gap, and nearly
# all of it where the guide is as broad as the posterior. And the bound from one code does not compare models, since
# it measures, beside $\log p(x)$, how sure the posterior is:

# %%
two, three = found["two stages"], found["three stages"]
for bound in ("the most likely code", "ELBO", "all codes"):
    mean, error = er.mean_and_stderr(three[bound] - two[bound])
    print(f"by {bound:<21} three stages are better by {mean:+.2f} ± {error:.2f} nats")

# %% [markdown]
# Larger models cannot be enumerated: with 32 slots of 16 codes there are 3 × 10³⁸ values of z. There the
# importance-weighted bound and {doc}`annealed importance sampling <../reference/methods/ais>` remain, and
# `elbowroom evaluate RUN --methods codes` reports all of the above but the last row. For the recipe
# `mnist-codes-15min` it finds, with `--k 1000 --points 10000` on MNIST's test digits, −98.04 ± 0.23 nats by the most
# likely code, and −82.15 ± 0.22 by importance weights: sixteen nats are a matter of which bound is quoted.
#
# ## What the codes say
#
# $\log p(x)$ is also a balance of two costs: the *rate*, the nats that z costs, and the *distortion*, those that x
# costs when z is known.

# %%
for name, run in runs.items():
    for result in run.evaluate("codes", k=100):
        if result.name in ("codes rate", "codes distortion", "perplexity", "codes used"):
            error = "" if result.stderr is None else f" ± {result.stderr:.2f}"
            print(f"{name:<13} {result.name:<17} {result.value:7.2f}{error} {result.unit}")

# %% [markdown]
# The prior is what makes samples from codes. Under the uniform prior that a VQ-VAE has before its second stage, all
# codes are alike, most of them decode to nothing that was ever seen, and log p(x) is lower for every image that was
# encoded well.

# %% mystnb={"image": {"alt": "Samples of the three-stage model with its learned prior"}}
joint = runs["three stages"]
uniform = er.LatentModel(er.codes.UniformCodes(joint.model.space), joint.model.likelihood)
x = joint.dataset().take("test", torch.arange(300)).x
with torch.no_grad():
    without = er.enumerated(uniform, x).log_evidence
gain, gain_error = er.mean_and_stderr(found["three stages"]["all codes"] - without)
print(f"the learned prior is worth {gain:.2f} ± {gain_error:.2f} nats")
drawn = joint.sample(36)
er.plots.samples_figure(drawn.x, drawn.mean)

# %% [markdown]
# ## What this page claims

# %%
for values in found.values():
    exact = values["all codes"]
    assert bool((values["the most likely code"] <= exact + 1e-4).all())
    assert bool((values["distinct among 1,000 draws"] <= exact + 1e-4).all())
    order = ["the most likely code", "distinct among 1,000 draws"]
    assert bool((values[order[0]] <= values[order[1]] + 1e-4).all())
    # The gap of one code is what the posterior leaves to the others.
for name, run in runs.items():
    numbers = run.model.space.numbers(run.guide(x).mode)
    place = (numbers * run.model.space.codes ** torch.arange(3, -1, -1)).sum(-1)
    of_mode = posteriors[name][place, torch.arange(len(x))]
    gap = found[name]["all codes"] - found[name]["the most likely code"]
    assert torch.allclose(gap, -of_mode, atol=1e-3)
    mean, error = er.mean_and_stderr(gap)
    assert mean > 4 * error
    left = er.mean_and_stderr(
        found[name]["all codes"] - found[name]["importance weights, k = 1,000"]
    )
    assert left[0] + 4 * left[1] < mean
assert gain > 4 * gain_error
