# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The problem
#
# Some distribution $p_\text{data}(x)$ produces the data, handwritten digits for instance. Nobody can write this
# distribution down. We only have draws from it, the *examples*. We want a model: something that draws more examples of
# the same kind, and that says how probable any given x is.
#
# This book is about *latent-variable models*. A vector z, the *latent variable*, is drawn first, from a simple
# distribution. Then x is drawn, from a distribution whose parameters a function $f_\theta$ computes from z:
#
# $$ z \sim p(z), \qquad x \sim p_\theta(x \mid z), \qquad
#    p_\theta(x, z) = p(z)\, p_\theta(x \mid z), \qquad p_\theta(x) = \int p_\theta(x, z) \, dz. $$
#
# Drawing from such a model takes two lines of code. To say how probable an x is, one needs the integral on the right,
# the *evidence* $p_\theta(x)$. This integral is the difficulty that all methods of this book deal with.
#
# This page first shows the problem without the difficulty. It takes models where the integral is known: linear and
# Gaussian ones, called probabilistic PCA {cite:p}`tipping1999`.
#
# $$ z \sim N(0, I), \quad x \mid z \sim N(Wz + b, \sigma^2 I)
#    \quad\Longrightarrow\quad x \sim N(b, \, W W^\top + \sigma^2 I). $$

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

import elbowroom as er

# %matplotlib inline
# here the true distribution is known
truth, _, train = er.oracles.ppca(dim=10, latent_dim=3, seed=0, num_data=100)
test = truth.sample(20_000, generator=torch.Generator().manual_seed(1)).x
print(
    f"{len(train)} examples to learn from, {len(test):,} to test on, "
    f"of {test.shape[1]} numbers each"
)

# %% [markdown]
# ## Maximum likelihood is the nearest model
#
# How far is a model from the truth? The Kullback–Leibler divergence (KL) measures it in *nats*. It is the amount by
# which the true log density exceeds the model's, on average over examples from the true distribution:
#
# $$ \mathrm{KL}(p_\text{data} \,\|\, p_\theta)
#    = \mathbb{E}_{p_\text{data}}\Big[\log \frac{p_\text{data}(x)}{p_\theta(x)}\Big]
#    = \underbrace{\mathbb{E}_{p_\text{data}}[\log p_\text{data}(x)]}_{-\mathrm{H}(p_\text{data})}
#    - \mathbb{E}_{p_\text{data}}[\log p_\theta(x)] \;\ge\; 0. $$
#
# The first term is minus the entropy of the data, and does not depend on θ. So the model nearest to the truth is the
# one with the highest expected log density,
#
# $$ \arg\min_\theta \mathrm{KL}(p_\text{data} \,\|\, p_\theta)
#    = \arg\max_\theta \mathbb{E}_{p_\text{data}}[\log p_\theta(x)], $$
#
# and that expectation can be estimated from examples, by $\frac1N \sum_n \log p_\theta(x_n)$. The true distribution
# need not be known.
#
# Nine models are fitted to the hundred examples, with one to nine latent dimensions. Each is the exact maximum of the
# likelihood. For probabilistic PCA there is a formula for it: $W = U (\Lambda - \sigma^2)^{1/2}$, where Λ are the
# largest eigenvalues of the data's covariance, U their eigenvectors, and $\sigma^2$ the average of the other
# eigenvalues.


# %%
def fit(x, latents):
    """The linear-Gaussian model with so many latents that has the highest likelihood."""
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))  # in ascending order
    variance = values[:-latents].mean()
    weight = vectors[:, -latents:] * (values[-latents:] - variance).sqrt()
    return er.oracles.LinearGaussian(weight, x.mean(0), scale=variance.sqrt().item())


@torch.no_grad()
def marginal(model):
    """p(x), with z integrated out."""
    noise = model.noise_scale**2 * torch.eye(len(model.bias), dtype=torch.float64)
    return MultivariateNormal(model.bias, model.weight @ model.weight.T + noise)


models = {latents: fit(train, latents) for latents in range(1, 10)}
distance = {
    latents: kl_divergence(marginal(truth), marginal(m)).item() for latents, m in models.items()
}
with torch.no_grad():
    of_train = {latents: m.log_evidence(train).mean().item() for latents, m in models.items()}
    of_test = {latents: m.log_evidence(test) for latents, m in models.items()}
    of_truth = truth.log_evidence(test)
entropy = marginal(truth).entropy().item()
print("latents   log p, train   log p, held out   KL, exact   −H − log p, held out")
for latents, values in of_test.items():
    mean, error = er.mean_and_stderr(values)
    held_out = f"{mean:11.3f} ± {error:.3f}"
    print(
        f"{latents:7}{of_train[latents]:15.3f}{held_out}"
        f"{distance[latents]:12.4f}{-entropy - mean:16.3f}"
    )

# %% [markdown]
# The last two columns agree, within the error of an average over 20,000 examples. Most of that error comes from the
# data and is common to all models. So it nearly vanishes when each model is compared with the truth example by example:

# %%
# The mean of this difference estimates the KL.
excess = {latents: er.mean_and_stderr(of_truth - values) for latents, values in of_test.items()}
z_scores = {
    latents: (mean - distance[latents]) / error for latents, (mean, error) in excess.items()
}
print("mean of log p_data(x) − log p(x), less the exact KL, in standard errors:")
print("  ".join(f"{latents}: {z:+.1f}" for latents, z in z_scores.items()))
by_distance = sorted(models, key=lambda latents: distance[latents])
by_test = sorted(models, key=lambda latents: -of_test[latents].mean().item())
by_train = sorted(models, key=lambda latents: -of_train[latents])
print(
    f"best first, by exact KL {by_distance}, by held-out data {by_test}, "
    f"by training data {by_train}"
)

# %% mystnb={"image": {"alt": "Training log density rises with every latent; held-out log density peaks at three"}}
figure = er.plots.new_figure(er.plots.COLUMN, 2.2)
axes = figure.add_subplot()
held_out = [values.mean().item() for values in of_test.values()]
axes.plot(
    list(models),
    list(of_train.values()),
    "o-",
    color=er.plots.VERMILION,
    markersize=3,
    linewidth=1,
    label="training data",
)
axes.plot(
    list(models),
    held_out,
    "o-",
    color=er.plots.BLUE,
    markersize=3,
    linewidth=1,
    label="held-out data",
)
axes.axhline(-entropy, color="#777777", linewidth=0.8, linestyle="--", label="the truth")
axes.legend(frameon=False, fontsize=er.plots.SMALL)
er.plots.thin_axes(axes, xlabel="latents of the model", ylabel="log p(x), nats per example")
figure

# %% [markdown]
# :::{admonition} The usual tutorial: this "is equivalent to maximizing the log-likelihood of the data"
# :class: note
#
# **True of the expectation, and in the limit of infinitely many data.** It does not hold for the sum over the training
# examples. That sum rises with every latent dimension that is added, even above the value of the true distribution,
# while the model gets *farther* from the truth. In the table the training data prefer nine latents, and the divergence
# prefers three. That is why this book measures everything on held-out data. They rank the nine models exactly as the
# divergence does.
# :::
#
# ## What a nat is
#
# A nat is the unit of natural logarithms, as a bit is the unit of binary ones: 1 nat = 1.443 bits. A model that is
# better by one nat per example gives each example a probability that is e = 2.7 times as high, in the geometric mean.
# These differences add up: over N examples the odds between two models are $e^{N \Delta}$. In this field, differences
# are often small numbers of nats, and still decide with near certainty:

# %%
ahead, error = er.mean_and_stderr(of_test[3] - of_test[4])
print(
    f"three latents are {ahead:.4f} ± {error:.4f} nats per example better than four: "
    f"{ahead / math.log(2):.4f} bits;"
)
print(
    f"after 1,000 examples the odds for three are e^{1000 * ahead:.0f}, "
    f"{math.exp(1000 * ahead):.1e} to 1"
)

# %% [markdown]
# Where x is a real number, a log density depends on the unit of measurement. In millimetres, every density is ten times
# lower in each dimension than in centimetres. That shifts all models by the same amount, so differences and divergences
# do not change. It follows that log densities can be compared only on the same data in the same units.


# %%
def in_millimetres(model):
    """The same model of 10 x."""
    return er.oracles.LinearGaussian(
        10 * model.weight.detach(), 10 * model.bias.detach(), 10 * model.noise_scale
    )


with torch.no_grad():
    shift = (in_millimetres(models[3]).log_evidence(10 * test) - of_test[3]).mean().item()
same = kl_divergence(
    marginal(in_millimetres(truth)), marginal(in_millimetres(models[3]))
).item()
print(
    f"log p shifts by {shift:.3f} = −10 log 10 nats; "
    f"the KL was {distance[3]:.6f} and is {same:.6f}"
)

# %% [markdown]
# ## Why the integral is difficult
#
# For models that are not linear and Gaussian, the integral over z has no formula. In one or two dimensions a sum over a
# grid does well,
#
# $$ p_\theta(x) \approx \sum_i h^d \, p_\theta(x, z_i), $$
#
# for any smooth $f_\theta$: the error of such a sum over a function that vanishes at the ends shrinks faster than any
# power of the spacing h.

# %%
flat, _, data = er.oracles.ppca(dim=10, latent_dim=2, seed=0)
exact = flat.log_evidence(data).detach()
grid_errors = {}
for points in (9, 17, 33, 65):
    found = er.oracles.quadrature_log_evidence(flat, data, points=points)
    grid_errors[points] = (found - exact).abs().max().item()
    print(
        f"{points:3} points a side: {points**2:5,} evaluations, "
        f"largest error {grid_errors[points]:.1e} nats"
    )
for dim in (2, 5, 20):
    print(
        f"{dim:3} latents with 65 points a side: "
        f"{65.0**dim:.1e} evaluations of the model for each example"
    )

# %% [markdown]
# :::{admonition} The usual tutorial: "infeasible already in our small example"
# :class: note
#
# **True of its 20 latents, not of integrals over z in general.** With two latents a grid of a few thousand points gives
# log p(x) to better than a millionth of a nat. {doc}`04-monte-carlo-em` and {doc}`10-how-good` use such a grid as the
# exact answer for trained networks.
# :::
#
# :::{admonition} The usual tutorial: to follow the gradient "we'd have to evaluate" ∇p(x) / p(x), and so p(x)
# :class: note
#
# **The formula is right, the conclusion is not.** The gradient of log p(x) is also an average over the posterior,
# $\mathbb{E}_{p(z \mid x)}[\nabla_\theta \log p_\theta(x, z)]$, in which p(x) does not appear. {doc}`04-monte-carlo-em`
# derives and tests this.
# :::
#
# The next pages show the ways around the integral: draws from the prior, which fail ({doc}`03-prior-sampling`); draws
# from the posterior ({doc}`04-monte-carlo-em`); and a lower bound on log p(x), which is what the variational
# autoencoder uses ({doc}`05-variational-inference`).
#
# ## The claims of this page, as code

# %%
# Held-out log densities estimate the KL.
assert all(abs(z) < 4 for z in z_scores.values())
# They rank the models as the KL does, and find the true number of latents.
assert by_test == by_distance and by_distance[0] == 3
# Training data always prefer more latents, and go beyond the true distribution.
assert by_train == list(range(9, 0, -1))
assert of_train[9] > truth.log_evidence(train).mean().item()
assert distance[9] > distance[3] + 0.05 and all(kl > 0 for kl in distance.values())
assert ahead > 4 * error
# A change of units shifts log p, and leaves the KL as it is.
assert abs(shift + 10 * math.log(10)) < 1e-9 and abs(same - distance[3]) < 1e-9
# A grid is enough for two latents.
assert grid_errors[65] < 1e-6 < 1e-2 < grid_errors[17]
