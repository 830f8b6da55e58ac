# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Draws from the prior
#
# $p(x) = \int p(x \mid z)\, p(z)\, dz$ is an average over the prior, and an average can be estimated from draws:
#
# $$ \hat p_K(x) = \frac1K \sum_{k=1}^K p(x \mid z_k), \qquad z_k \sim p(z), \qquad \mathbb{E}[\hat p_K(x)] = p(x). $$
#
# This estimate is unbiased for every K and needs nothing but the model. But for nearly every model of interest it is
# useless. This page shows why, and how many draws it would take.

# %%
import math
import os
import tempfile
from pathlib import Path

import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The estimate is unbiased, its logarithm is not
#
# We start with a case where it works: a linear-Gaussian model with a single latent, whose log p(x) is known. Let $r =
# \hat p_K / p - 1$. For small r, $\log \hat p_K - \log p \approx r - \frac12 r^2$. The mean of r is zero, and that of
# its square is $\mathrm{Var}(w) / K$ with $w = p(x \mid z) / p(x)$. So the logarithm is too low on average, by
#
# $$ \log p(x) - \mathbb{E}[\log \hat p_K(x)] \;\approx\; \frac{\mathrm{Var}(w)}{2K} \;>\; 0, $$
#
# This is Jensen's inequality, $\mathbb{E} \log \hat p \le \log \mathbb{E} \hat p$, with the size of the difference.

# %%
small, _, x = er.oracles.ppca(dim=2, latent_dim=1, seed=1, num_data=50)
prior = er.guides.PriorGuide(small.prior)
with torch.no_grad():
    log_w = er.objectives.log_weights(
        small, prior, x, 40_000, generator=generator
    ) - small.log_evidence(x)
ratio, ratio_error = er.mean_and_stderr(log_w.exp())
print(f"mean of p̂ / p: {ratio:.4f} ± {ratio_error:.4f}")
biases = {}
for count in (1, 10, 100, 1000):
    of_logarithm, error = er.mean_and_stderr(
        math.log(count) - log_w.unflatten(0, (-1, count)).logsumexp(1)
    )
    biases[count] = (of_logarithm, error, log_w.exp().var(0).mean().item() / (2 * count))
    print(
        f"K = {count:4}: log p̂ is {of_logarithm:.4f} ± {error:.4f} nats too low; "
        f"Var(w) / 2K = {biases[count][2]:.4f}"
    )

# %% [markdown]
# ## The same with ten latents
#
# Now $\log \hat p$ is dozens of nats too low, and a hundred times as many draws help little. The largest term dominates
# the average: the *effective sample size*, $(\sum w)^2 / \sum w^2$, stays near one.

# %%
model, _, x = er.oracles.ppca(dim=20, latent_dim=10, seed=0, num_data=50)
prior = er.guides.PriorGuide(model.prior)
exact = model.log_evidence(x).detach()
missing, effective = {}, {}
for count in (1, 100, 10_000):
    found = er.importance_estimate(model, prior, x, num_samples=count, generator=generator)
    missing[count], effective[count] = (
        er.mean_and_stderr(exact - found.log_evidence),
        found.ess.median().item(),
    )
    mean, error = missing[count]
    print(
        f"K = {count:6,}: {mean:7.1f} ± {error:.1f} nats too low, "
        f"effective draws {effective[count]:.2f}"
    )

# %% [markdown]
# How can an unbiased estimate always be too low? The average over all possible samples is right, because very rarely a
# z falls where the posterior is, and then $\hat p$ is larger than p(x) by an enormous factor. In a sample of affordable
# size this does not happen.
#
# ## How many draws it takes
#
# One needs enough draws for some to land where the posterior $p(z \mid x)$ has its mass. Their number is known
# {cite:p}`chatterjee2018`. It is about
#
# $$ K^* \approx \exp \mathrm{KL}\big(p(z \mid x) \,\|\, p(z)\big), $$
#
# for any model. On average over x the exponent is the mutual information of x and z, that is, how much an example says
# about its latent variable. If each of the d latent dimensions carries some nats of information, the exponent grows in
# proportion to d. The argument does not need normal distributions or Lipschitz constants, and the rate need not be 1.

# %%
with torch.no_grad():
    posterior, standard = model.posterior(x), model.prior(None).base_dist
    normal = MultivariateNormal(standard.loc, torch.diag_embed(standard.scale.square()))
    divergence = kl_divergence(posterior, normal).mean().item()
print(
    f"here: {divergence:.1f} nats on average: "
    f"it takes about e^{divergence:.1f} = {math.exp(divergence):.0e} draws"
)

# %% [markdown]
# To measure this, one has to choose the information per dimension: the model $x \mid z \sim N(\sqrt{s}\, z, I)$ in d
# dimensions has $\frac12 \log (1 + s)$ nats in each. `er.prior_sampling_study` counts how many evaluations of the model
# bring the mean error of log p(x) down to one nat. It compares three methods: draws from the prior; draws from a guide,
# that is, an approximation of the posterior, as imperfect as a trained one (its means are off by 0.3 standard
# deviations, its variances by a factor of 1.3); and annealing from the prior ({doc}`10-how-good`).

# %%
settings = (
    {} if FULL else {"dims": (1, 2, 4, 6, 8, 12, 16), "replicates": 8, "most_draws": 2**15}
)
study = er.prior_sampling_study(**settings, generator=generator)
rates = {(rate.method, rate.information): rate for rate in study.rates}
for rate in study.rates:
    law = "exp({} d)" if rate.law == "exponential" else "d to the power {}"
    theory = "" if rate.theory is None else f", in theory {rate.theory:.2f} for large d"
    print(
        f"{rate.information:4} nat, {rate.method:<6}"
        + law.format(f"({rate.rate:.3f} ± {rate.stderr:.3f})")
        + theory
    )

# %% mystnb={"image": {"alt": "Evaluations against dimensions: prior exponential, guide flat, annealing a power"}}
er.plots.prior_sampling_figure(
    *([row._asdict() for row in table] for table in (study.costs, study.ess, study.rates))
)

# %% [markdown]
# A guide does not change this law. It makes the exponent small: the exponent is now $\mathrm{KL}(p(z \mid x) \,\|\, q(z
# \mid x))$, here 0.05 nats per dimension.
#
# ## What the usual tutorial says instead
#
# It takes $p(x \mid z) \propto \exp(-\|x - f(z)\|^2 / \sigma^2)$ for $N(x \mid f(z), \sigma^2 I)$, and concludes that
# "usually"
#
# $$ P\big(z : \|x - f(z)\|^2 < \sigma^2\big) \propto \exp(-d). $$
#
# Both can be checked. The exponent of a normal distribution is $-\|x - f\|^2 / 2\sigma^2$. And the probability of the
# event is known for the models above. With $x = \sqrt{s}\, z_0 + \epsilon$ and another draw z, each coordinate of $x -
# \sqrt{s}\, z$ has the distribution $N(0, 1 + 2s)$. So the probability is $P(\chi^2_d < 1 / (1 + 2s))$.

# %%
sigma, r = 0.7, torch.linspace(-8, 8, 4001, dtype=torch.float64)
printed = torch.exp(-(r**2) / sigma**2)
# The standard deviation that the printed exponent implies.
implied = math.sqrt(((r**2 * printed).sum() / printed.sum()).item())
log_ratio = (
    Normal(0.0, sigma).log_prob(r) - Normal(0.0, sigma).log_prob(torch.zeros(()))
).double()
print(f"printed exponent: a normal of scale {implied:.4f} = σ / √2, where σ = {sigma}")
print(
    "the exponent of a normal distribution over r² / σ²: "
    f"{(log_ratio / r**2 * sigma**2)[0]:.3f}"
)

# %%
s = math.expm1(2.0)  # one nat per dimension
hits = {
    d: torch.special.gammainc(torch.tensor(d / 2), torch.tensor(0.5 / (1 + 2 * s))).item()
    for d in (1, 2, 5, 10, 20)
}
own = {d: torch.special.gammainc(torch.tensor(d / 2), torch.tensor(0.5)).item() for d in hits}
print("  d      exp(−d)   a prior draw hits   the z that made x does")
for d in hits:
    print(f"{d:3}{math.exp(-d):13.1e}{hits[d]:20.1e}{own[d]:25.1e}")
z, z0 = (torch.randn(100_000, 2, generator=generator) for _ in range(2))
noise = torch.randn(100_000, 2, generator=generator)
seen, seen_error = er.mean_and_stderr(
    ((noise + math.sqrt(s) * (z0 - z)).square().sum(1) < 1).double()
)
print(f"by simulation, d = 2: {seen:.4f} ± {seen_error:.4f}")

# %% [markdown]
# :::{admonition} The usual tutorial: the probability of a useful z is "∝ exp(−d)"
# :class: warning
#
# **Right in principle, wrong as a formula.** Draws from the prior do fail exponentially. But the factor ½ is missing
# from the exponent, which makes the noise σ/√2. The event is the wrong one, too. In d dimensions of noise, $\|x -
# f(z)\|^2$ is about $d \sigma^2$ even at the z that x was made from, so not even this z is counted (last column). The
# event's probability falls faster than any exponential, and does not tell how many draws are needed. And the rate is
# not 1. It is the number of nats that a latent dimension carries: 0.25 and 1 in the two panels above, where we chose
# it.
# :::
#
# ## A trained model
#
# How many nats do the latents of a real model carry? About as many as the KL term of its bound. (More exactly, the KL
# term is the exponent above plus the error of the guide.) The next cell trains a small variational autoencoder and
# compares 1,000 draws from each:

# %%
NAME, EPOCHS = ("mnist", 10) if FULL else ("digits", 60)
out = Path(tempfile.mkdtemp()) / "run"
run = er.train(
    NAME, out=out, observers=[], data={"validation": 0, "test": 0.2}, train={"epochs": EPOCHS}
)
kl = next(result for result in run.evaluate("elbo") if result.name == "kl").value
batch = run.dataset().take("test", torch.arange(200))
guides = {"guide": run.guide, "prior": er.guides.PriorGuide(run.model.prior)}
found = {
    name: er.importance_estimate(run.model, q, batch, num_samples=1000, generator=generator)
    for name, q in guides.items()
}
behind, behind_error = er.mean_and_stderr(
    found["guide"].log_evidence - found["prior"].log_evidence
)
for name, estimate in found.items():
    print(f"draws of the {name}: median effective number {estimate.ess.median():.1f} of 1,000")
print(f"KL term {kl:.1f} nats, e^{kl:.1f} = {math.exp(kl):,.0f}")
print(
    f"log p(x) by the prior's draws is {behind:.2f} ± {behind_error:.2f} "
    "nats below that by the guide's"
)

# %% [markdown]
# :::{admonition} The usual tutorial: one "would require a very large number of samples"
# :class: tip
#
# **True.** With its own model, 20 latents on MNIST, the KL term is 25.7 nats, and $e^{25.7}$ is 145 billion draws for
# each picture and each gradient step. One can still train with few draws; {doc}`11-training-methods` measures the
# result.
# :::
#
# ## The claims of this page, as code

# %%
# p̂ is unbiased.
assert abs(ratio - 1) < 4 * ratio_error
# log p̂ is too low.
assert all(bias > 4 * error for bias, error, _ in list(biases.values())[:3])
# It is too low by Var(w) / 2K.
assert abs(biases[100][0] - biases[100][2]) < 4 * biases[100][1] + 0.1 * biases[100][2]
# With ten latents even 10,000 draws are far from enough.
assert missing[1][0] > missing[100][0] > missing[10_000][0] > 2 and effective[10_000] < 10
slow, fast = rates["prior", 0.25], rates["prior", 1.0]
# The number of draws is exp(nats per dimension × d).
assert abs(fast.rate - 1) < 0.15 and abs(slow.rate - 0.25) < 0.08
# A guide makes the exponent small.
assert all(
    cost.reached and cost.evaluations < 20 for cost in study.costs if cost.method == "guide"
)
# Annealing needs a power of d.
assert rates["ais", 1.0].law == "power" and rates["ais", 1.0].rate < 3
assert (
    abs(implied - sigma / math.sqrt(2)) < 1e-6
    and abs(float((log_ratio / r**2 * sigma**2)[0]) + 0.5) < 1e-5
)
# The simulation agrees with the event's probability.
assert abs(seen - hits[2]) < 4 * seen_error
falls = [math.log(hits[a] / hits[b]) / (b - a) for a, b in ((1, 2), (2, 5), (5, 10), (10, 20))]
# This probability falls faster than an exponential of d.
assert falls == sorted(falls) and falls[-1] > 2
# The event leaves out even the z that made x.
assert own[5] < 0.05 and own[20] < 1e-6
assert behind > 4 * behind_error and found["prior"].ess.median() < found["guide"].ess.median()
