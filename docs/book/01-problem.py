# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The problem
#
# There is a distribution $p_\text{data}(x)$ that nobody can write down, of handwritten digits say. What one has are
# draws from it. What one wants is a model: something that draws more of the kind, and that says of any x how probable
# it is.
#
# This book is about models with a hidden cause. A vector z is drawn first, from a simple distribution; then x, from a
# distribution whose parameters a function $f_\theta$ computes from z:
#
# $$ z \sim p(z), \qquad x \sim p_\theta(x \mid z), \qquad
#    p_\theta(x, z) = p(z)\, p_\theta(x \mid z), \qquad p_\theta(x) = \int p_\theta(x, z) \, dz. $$
#
# Drawing from such a model is two lines. Saying how probable an x is takes the integral on the right, and that is
# where all the trouble comes from, and all the methods.
#
# To see what the problem is without the trouble, this page takes models where the integral is known: linear and
# Gaussian ones, probabilistic PCA {cite:p}`tipping1999`.
#
# $$ z \sim N(0, I), \quad x \mid z \sim N(Wz + b, \sigma^2 I)
#    \quad\Longrightarrow\quad x \sim N(b, \, W W^\top + \sigma^2 I). $$

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

import elbowroom as er

# %matplotlib inline
# here nature, for once, is known
truth, _, train = er.oracles.ppca(dim=10, latent_dim=3, seed=0, num_data=100)
test = truth.sample(20_000, generator=torch.Generator().manual_seed(1)).x
print(
    f"{len(train)} data to learn from, {len(test):,} to judge by, "
    f"of {test.shape[1]} numbers each"
)

# %% [markdown]
# ## Maximum likelihood is the nearest model
#
# How far is a model from the truth? The Kullback–Leibler divergence says it in *nats*, by how much the truth's log
# density exceeds the model's, on average over what the truth produces:
#
# $$ \mathrm{KL}(p_\text{data} \,\|\, p_\theta)
#    = \mathbb{E}_{p_\text{data}}\Big[\log \frac{p_\text{data}(x)}{p_\theta(x)}\Big]
#    = \underbrace{\mathbb{E}_{p_\text{data}}[\log p_\text{data}(x)]}_{-\mathrm{H}(p_\text{data})}
#    - \mathbb{E}_{p_\text{data}}[\log p_\theta(x)] \;\ge\; 0. $$
#
# The first term is minus the entropy of the data. It has no θ in it. So the model nearest to the truth is the one with
# the highest expected log density,
#
# $$ \arg\min_\theta \mathrm{KL}(p_\text{data} \,\|\, p_\theta)
#    = \arg\max_\theta \mathbb{E}_{p_\text{data}}[\log p_\theta(x)], $$
#
# and that expectation can be estimated from draws: $\frac1N \sum_n \log p_\theta(x_n)$. The truth is not needed for it.
#
# Nine models are fitted to the hundred data, with one to nine latents. Each is the exact maximum of the likelihood:
# for probabilistic PCA that is a formula, $W = U (\Lambda - \sigma^2)^{1/2}$ with the largest eigenvalues Λ of the
# data's covariance and their vectors U, and $\sigma^2$ the average of the others.


# %%
def fit(x, latents):
    """The linear-Gaussian model of so many latents with the highest likelihood."""
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
# The last two columns agree, within the error of an average over 20,000 data. Most of that error is common to all
# models, because it comes from the data. Datum by datum against the truth, little of it is left:

# %%
# estimates the KL
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
er.plots.thin_axes(axes, xlabel="latents of the model", ylabel="log p(x), nats per datum")
figure

# %% [markdown]
# :::{admonition} The usual tutorial: this "is equivalent to maximizing the log-likelihood of the data"
# :class: note
#
# **True of the expectation, and of data without end.** The sum over the data one learned from is another thing: it
# rises with every latent that is added, above that of the truth itself, while the model gets *farther* from the truth.
# In the table the training data prefer nine latents, the divergence prefers three. That is why everything in this book
# is measured on data that were held out. Held-out data rank the nine models exactly as the divergence does.
# :::
#
# ## What a nat is
#
# A nat is the unit of natural logarithms, as a bit is that of binary ones: 1 nat = 1.443 bits. One nat per datum means
# that the better model finds each datum e = 2.7 times as probable, on average in the sense of the geometric mean. It
# adds up: over N data the odds between two models are $e^{N \Delta}$. The differences in this field are small numbers
# of nats and decide with near certainty:

# %%
ahead, error = er.mean_and_stderr(of_test[3] - of_test[4])
print(
    f"three latents are {ahead:.4f} ± {error:.4f} nats per datum better than four: "
    f"{ahead / math.log(2):.4f} bits;"
)
print(
    f"after 1,000 data the odds for three are e^{1000 * ahead:.0f}, "
    f"{math.exp(1000 * ahead):.1e} to 1"
)

# %% [markdown]
# Where x is real, a log density depends on the unit of measurement. In millimetres in the place of centimetres every
# density is ten times lower in each dimension. That shifts all models alike, so that differences and divergences do
# not change. It means that log densities compare on the same data in the same units, and nowhere else.


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
# ## What stands in the way
#
# Outside of linear-Gaussian models the integral over z has no formula. In one or two dimensions a grid does,
#
# $$ p_\theta(x) \approx \sum_i h^d \, p_\theta(x, z_i), $$
#
# and does very well, for any $f_\theta$: the error of a sum over a smooth function that vanishes at the ends shrinks
# faster than any power of the spacing h.

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
        f"{65.0**dim:.1e} evaluations of the model for each datum"
    )

# %% [markdown]
# :::{admonition} The usual tutorial: "infeasible already in our small example"
# :class: note
#
# **True of its 20 latents, not of integrals over z as such.** With two latents a grid of a few thousand points gives
# log p(x) to better than a millionth of a nat. {doc}`04-monte-carlo-em` and {doc}`10-how-good` use one as the exact
# answer for trained networks.
# :::
#
# :::{admonition} The usual tutorial: to follow the gradient "we'd have to evaluate" ∇p(x) / p(x), and so p(x)
# :class: note
#
# **The formula is right, the conclusion is not.** The gradient of log p(x) is also an average over the posterior,
# $\mathbb{E}_{p(z \mid x)}[\nabla_\theta \log p_\theta(x, z)]$, in which p(x) does not occur. {doc}`04-monte-carlo-em`
# derives that and tests it.
# :::
#
# The pages that follow are about the ways around the integral: draws from the prior, which fail
# ({doc}`03-prior-sampling`); draws from the posterior ({doc}`04-monte-carlo-em`); and a bound in its place, which is
# the way of the variational autoencoder ({doc}`05-variational-inference`).
#
# ## The claims of this page, as code

# %%
assert all(abs(z) < 4 for z in z_scores.values())  # held-out log densities estimate the KL,
# rank the models as it does, and find the truth's size;
assert by_test == by_distance and by_distance[0] == 3
assert by_train == list(range(9, 0, -1))  # training data ask for ever more latents,
assert of_train[9] > truth.log_evidence(train).mean().item()  # beyond the truth
assert distance[9] > distance[3] + 0.05 and all(kl > 0 for kl in distance.values())
assert ahead > 4 * error
# units shift log p, and no KL
assert abs(shift + 10 * math.log(10)) < 1e-9 and abs(same - distance[3]) < 1e-9
assert grid_errors[65] < 1e-6 < 1e-2 < grid_errors[17]  # a grid serves for two latents
