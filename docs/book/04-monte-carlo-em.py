# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Monte Carlo EM
#
# If the z behind each x were known, learning would be easy: one would maximise $\log p_\theta(x, z)$, which can be
# computed. z is not known. But given θ there is a distribution over it, the posterior $p_\theta(z \mid x)$. The EM
# algorithm {cite:p}`dempster1977` averages over this posterior.

# %%
import math
import os
import tempfile
from itertools import pairwise
from pathlib import Path

import torch

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
folder = Path(tempfile.mkdtemp())
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## One function, maximised in turns
#
# For any distribution q of z let
#
# $$ F(q, \theta) = \mathbb{E}_q[\log p_\theta(x, z)] + \mathrm{H}(q)
#    = \log p_\theta(x) - \mathrm{KL}\big(q \,\|\, p_\theta(z \mid x)\big), $$
#
# where the second form follows from $p_\theta(x, z) = p_\theta(x)\, p_\theta(z \mid x)$. (The negative of F is called
# the free energy.) EM maximises F in turns, first in q, then in θ:
#
# - **E-step.** The best q is the posterior under the present $\theta_i$, where $F = \log p_{\theta_i}(x)$.
# - **M-step.** With that q held, $\theta_{i+1}$ maximises $\mathbb{E}_q[\log p_\theta(x, z)]$.
#
# It follows that the evidence never decreases:
#
# $$ \log p_{\theta_{i+1}}(x) \ge F(q, \theta_{i+1}) \ge F(q, \theta_i) = \log p_{\theta_i}(x). $$
#
# For this, any θ that increases F is enough; it need not be the maximum. This variant is called *generalised* EM.
#
# For the linear-Gaussian model of {doc}`01-problem` both steps are exact. The M-step is a linear regression of x on z,
# in which z is replaced by its posterior moments: $W = \sum_n (x_n - b)\, \mathbb{E}[z_n]^\top \big(\sum_n
# \mathbb{E}[z_n z_n^\top]\big)^{-1}$.

# %%
_, _, x = er.oracles.ppca(dim=8, latent_dim=2, seed=0, num_data=200)


@torch.no_grad()
def em(model):
    """One round of EM."""
    q = model.posterior(x)
    second = (q.covariance_matrix + q.mean.unsqueeze(-1) * q.mean.unsqueeze(-2)).sum(0)
    weight = (x - model.bias).T @ q.mean @ torch.linalg.inv(second)
    return er.oracles.LinearGaussian(weight, model.bias, model.noise_scale)


def all_rounds(weight, rounds=200):
    """The models after each round of EM that starts at W, and their evidence."""
    models = [er.oracles.LinearGaussian(weight.double(), x.mean(0), scale=0.7)]
    for _ in range(rounds):
        models.append(em(models[-1]))
    return models, [model.log_evidence(x).mean().item() for model in models]


models, path = all_rounds(0.01 * torch.randn(8, 2, generator=generator))
_, stuck = all_rounds(torch.zeros(8, 2))
values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
best = er.oracles.LinearGaussian(
    vectors[:, -2:] * (values[-2:] - 0.7**2).sqrt(), x.mean(0), scale=0.7
)
highest = best.log_evidence(x).mean().item()
print("rounds        0       1       3      10     200   maximum")
for name, seen in {"W small": path, "W = 0": stuck}.items():
    print(
        f"{name:<8}"
        + "".join(f"{seen[k]:8.3f}" for k in (0, 1, 3, 10, 200))
        + f"{highest:10.3f}"
    )

# %% [markdown]
# :::{admonition} The usual tutorial: "in general" EM converges to $\arg\max_\theta p_\theta(x)$
# :class: warning
#
# **Wrong.** What is known is that the evidence does not decrease, and that under some conditions the limit is a
# *stationary point* {cite:p}`wu1983`: a local maximum, or a saddle point. The second row of the table stays at a saddle
# point. At W = 0 the posterior is the prior, $\mathbb{E}[z] = 0$, and so the M-step returns W = 0 in every round. Here
# a small change of W is enough to leave the saddle point. It is not enough to leave a local maximum, and neural
# networks have many of these.
# :::
#
# ## Fisher's identity
#
# The gradient of the evidence is a posterior average of a gradient that is easy to compute {cite:p}`fisher1925`:
#
# $$ \nabla_\theta \log p_\theta(x) = \frac{1}{p_\theta(x)} \int \nabla_\theta p_\theta(x, z) \, dz
#    = \int \frac{p_\theta(x, z)}{p_\theta(x)} \nabla_\theta \log p_\theta(x, z) \, dz
#    = \mathbb{E}_{p_\theta(z \mid x)}\big[\nabla_\theta \log p_\theta(x, z)\big]. $$
#
# p(x) does not appear on the right. So one can replace the M-step by *one gradient step*, which follows the gradient of
# the evidence itself, as long as the draws are from the posterior. The next cell tests this with exact draws, in
# blocks, so that each of the sixteen weights gets a z-score:

# %%
model = models[3]
(exact,) = torch.autograd.grad(model.log_evidence(x).mean(), model.weight)
q, blocks = model.posterior(x), []
for _ in range(200):
    z = er.draw(q, (20,), generator=generator).detach()
    blocks.append(torch.autograd.grad(model.log_joint(x, z).mean(), model.weight)[0])
blocks = torch.stack(blocks)
fisher_z = (blocks.mean(0) - exact) / (blocks.std(0) / len(blocks) ** 0.5)
print(
    f"z-scores of the weights: mean square {fisher_z.square().mean():.2f}, "
    f"largest {fisher_z.abs().max():.1f}"
)

# %% [markdown]
# :::{admonition} The usual tutorial estimates the E-step by $\sum_i^n \log P_\theta(x, z_i)$
# :class: warning
#
# **1/n is missing.** This does not matter to an argmax. It does matter to a gradient step, which becomes n times too
# long. More draws should make the step better, and make it worse.
# :::

# %%
step = 0.05 * blocks[:50].mean(0)  # the average of 1,000 draws for each example
with torch.no_grad():
    moved = [
        er.oracles.LinearGaussian(model.weight + n * step, model.bias, 0.7) for n in (1, 1000)
    ]
by_average, by_sum = (model.log_evidence(x).mean().item() for model in moved)
print(
    f"log p before {path[3]:.3f}; after a step along the average {by_average:.3f}, "
    f"along the sum {by_sum:.3f}"
)

# %% [markdown]
# ## A model whose posterior is not normal
#
# With a neural network for $f_\theta$ the posterior has no formula. But it is known up to its constant, $p(z \mid x)
# \propto p(x, z)$, and a Markov chain needs no more than that. Hamiltonian Monte Carlo (HMC) {cite:p}`neal2011` gives z
# a random momentum and follows the gradient of log p(x, z) for a few steps. NUTS {cite:p}`hoffman2014` chooses the
# number of steps by itself. In elbowroom each example keeps a chain, which continues from where it was when the example
# comes up again. This training method is called `mcem` {cite:p}`wei1990`. The model below has two latents, so that a
# grid gives the evidence ({doc}`01-problem`), after one epoch and after more:

# %%
NAME, EPOCHS = ("mnist", 20) if FULL else ("digits", 20)
settings = {
    "model": {"latent_dim": 2},
    "data": {
        "binarization": "static",
        "validation": 0,
        "test": 0.2,
        "train": 5000 if FULL else None,
    },
    "optimizer": {"lr": 3e-3, "schedule": "constant"},
    "train": {"learner": "mcem", "epochs": 1},
}
run = er.train(NAME, out=folder / "em", observers=[], **settings)
images = next(iter(run.dataset().batches("test", 40, points=40)))
early = er.oracles.quadrature_log_evidence(run.model, images.x, points=101, limit=6.0)
run = er.train(
    NAME,
    out=folder / "em",
    observers=[],
    announce=lambda text: None,
    resume=True,
    train={"epochs": EPOCHS},
)
late = er.oracles.quadrature_log_evidence(run.model, images.x, points=101, limit=6.0)
gain, gain_error = er.mean_and_stderr(late - early)
print(
    f"log p(x), exact, of {len(images)} held-out digits: "
    f"{early.mean():.2f}, then {late.mean():.2f}"
)
print(f"a gain of {gain:.2f} ± {gain_error:.2f} nats")

# %% [markdown]
# ## How good the chains are
#
# The next cell draws from 40 posteriors, with four chains for each. R̂ tells whether chains still depend on where they
# started. It compares the variance between chains with the variance within them, and should be near 1
# {cite:p}`vehtari2021`. The effective sample size tells how many independent draws the chains are worth.

# %%
found = {
    name: er.posterior(run, points=40, method=name, draws=250, chains=4, warmup=100)
    for name in ("hmc", "nuts")
}
for name, chains in found.items():
    seen, price = chains.diagnostics, chains.info.num_gradients.sum().item()
    print(
        f"{name:<5} median R̂ {seen.rhat.median():.3f}, "
        f"above 1.05 for {(seen.rhat > 1.05).any(1).sum()} of 40 digits;",
        end=" ",
    )
    print(
        f"median effective size {seen.ess_bulk.median():,.0f} of 1,000; "
        f"{price / 40 / 1000:.1f} gradients per draw"
    )

# %% [markdown]
# Some digits have an R̂ far from 1, and this is not a fault of R̂. With two latents a digit often has two explanations,
# as in the picture below. Where these lie far apart, no chain passes from one to the other. Chains that started on both
# sides then disagree, and R̂ shows it. But R̂ only compares chains with each other: if all of them are at one mode, it
# does not show that there is a second one. The grid does. The next cell computes how much of each posterior's mass lies
# near the draws, and leaves out digits for which this is less than 95%.
#
# Are the draws right for the others? The grid gives the mean and the standard deviation of each posterior. The
# difference between the chains' mean and the grid's mean, divided by the standard error that follows from the effective
# sample size, should be a z-score:

# %%
axis = torch.linspace(-6, 6, 121)
grid = torch.cartesian_prod(axis, axis)
with torch.no_grad():
    # Shape (grid, examples).
    log_joint = torch.cat(
        [run.model.log_joint(images.x, z.unsqueeze(1)) for z in grid.split(2000)]
    )
weights = log_joint.double().softmax(0)
mean = weights.T @ grid.double()
deviation = (weights.T @ grid.double().square() - mean.square()).sqrt()
chain_z, mixed, missed = {}, {}, {}
for name, chains in found.items():
    error = deviation / er.samplers.ess_mean(chains.z.double()).sqrt()
    mixed[name] = chains.diagnostics.rhat.amax(1) < 1.05
    near = [torch.cdist(grid, z).amin(1) < 0.5 for z in chains.z.flatten(0, 1).unbind(1)]
    mass = (weights * torch.stack(near, 1)).sum(0)
    missed[name] = mixed[name] & (mass < 0.95)
    right = mixed[name] & (mass >= 0.95)
    chain_z[name] = ((chains.z.double().mean((0, 1)) - mean) / error)[right].abs()
    within, middle = (chain_z[name] < 2).double().mean(), chain_z[name].median()
    print(f"{name:<5} R̂ near 1, and a mode is missed: {missed[name].sum()} of 40 digits")
    print(
        f"      {len(chain_z[name])} others: median |z| {middle:.2f} (0.67 is right), "
        f"below 2 in {within:.0%} (95%)"
    )

# %% mystnb={"image": {"alt": "A posterior with two modes; three chains move to one; a thousand draws lie on both"}}
# The example whose posterior has the largest entropy.
widest = int((weights * weights.clamp(min=1e-30).log()).sum(0).argmin())
target = er.samplers.Density(
    lambda z, x: run.model.log_joint(x, z), images.x[widest : widest + 1]
)
start = torch.tensor([[-3.0, 3.0], [3.0, 3.0], [0.0, -3.5]]).unsqueeze(1)
tuning = er.samplers.Tuning(torch.tensor([0.1]), er.samplers.Metric.identity(start))
hmc, here = er.samplers.HMC(num_steps=4), er.samplers.init(target, start)
walks = er.samplers.sample(hmc, target, here, tuning, draws=40, generator=generator).z[:, :, 0]
figure = er.plots.new_figure(er.plots.PAGE, 3.2)
height = (weights[:, widest] / weights[:, widest].max()).view(121, 121)
titles = ("HMC: three chains, 40 transitions", "NUTS: 1,000 draws")
levels = [0.001, 0.01, 0.1, 0.3, 0.6, 0.9]
for axes, title in zip(figure.subplots(1, 2), titles, strict=True):
    axes.contour(axis, axis, height.T, colors=er.plots.GREY, linewidths=0.6, levels=levels)
    er.plots.thin_axes(axes, title=title, xlabel="z[0]", ylabel="z[1]")
    axes.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
for k, colour in enumerate((er.plots.BLUE, er.plots.VERMILION, er.plots.GREEN)):
    figure.axes[0].plot(
        *torch.cat([start[k], walks[:, k]]).T, "o-", color=colour, markersize=2, linewidth=0.6
    )
figure.axes[1].scatter(
    *found["nuts"].z[:, :, widest].flatten(0, 1).T, s=1, color=er.plots.BLUE, linewidths=0
)
figure

# %% [markdown]
# A chain of few steps may stay at one mode of two. The longer chains on the right visit both.
#
# ## Why a few draws of the posterior suffice
#
# {doc}`03-prior-sampling` needed millions of draws, while EM needs only one draw for each example each time it comes
# up. Why? Take the average of f over n draws from the very distribution that the expectation is about. Its error is
# $\mathrm{sd}(f) / \sqrt n$, however narrow that distribution is. For a normal posterior in d dimensions, $\log p(x,
# z)$ is a constant minus $\frac12 \chi^2_d$, which has a variance of d/2. Draws from the prior, in contrast, have to be
# *weighted*, and the relative variance of the weights grows like exp(d).

# %%
spread_z, ess, harmonic = {}, {}, {}
for d in (2, 5, 20):
    oracle, _, data = er.oracles.ppca(dim=30, latent_dim=d, seed=0, num_data=50)
    with torch.no_grad():
        z = er.draw(oracle.posterior(data), (1000,), generator=generator)
        variance, error = er.mean_and_stderr(oracle.log_joint(data, z).var(0))
        # The harmonic mean of p(x | z), an estimate of p(x).
        inverse = math.log(len(z)) - (-oracle.log_likelihood(data, z)).logsumexp(0)
        harmonic[d] = er.mean_and_stderr(inverse - oracle.log_evidence(data))
    prior = er.guides.PriorGuide(oracle.prior)
    by_prior = er.importance_estimate(
        oracle, prior, data, num_samples=2000, generator=generator
    )
    ess[d] = by_prior.ess.mean().item()
    spread_z[d] = (variance - d / 2) / error
    print(
        f"d = {d:2}: Var of log p(x, z) {variance:6.2f}, "
        f"of 2,000 prior draws count {ess[d]:6.1f};",
        end=" ",
    )
    print(f"harmonic mean off by {harmonic[d][0]:+.1f} ± {harmonic[d][1]:.1f} nats")

# %% [markdown]
# :::{admonition} The usual tutorial: few suffice, being "more likely where the function you want to estimate is larger"
# :class: warning
#
# **The conclusion is right, the reason is not.** The same draws estimate $-\log p(x, z)$ equally well, and they lie
# where this is *smallest*. What counts is the variance under the posterior. And posterior draws do not help with
# everything. Since $1 / p(x) = \mathbb{E}_{p(z \mid x)}[1 / p(x \mid z)]$, they give an unbiased estimate of 1/p(x),
# whose inverse is the harmonic mean of $p(x \mid z)$. This is several nats too high (last column), because the draws
# that matter, those where $p(x \mid z)$ is small, are rare. So posterior draws do not give p(x) either, although the
# tutorial suggests that they were once used for it ("how can we estimate P(x)?").
#
# The tutorial also requires that θ stays near $\theta_i$. This is not needed. The expectation of the E-step is under
# $\theta_i$, whatever the θ inside the logarithm, so the draws are right for every θ.
# :::
#
# The price of EM is time: a draw from the posterior costs gradients of the decoder, for each example in each epoch.
# Whether this is "too long" is measured in {doc}`11-training-methods`.
#
# ## The claims of this page, as code

# %%
# EM never decreases the evidence, and reaches the maximum.
assert all(b >= a - 1e-12 for a, b in pairwise(path)) and highest - path[-1] < 1e-6
# It does not leave a saddle point.
assert stuck[-1] == stuck[0] and highest - stuck[-1] > 1
assert fisher_z.abs().max() < 4.5 and exact.norm() > 0.01  # Fisher's identity
assert by_average > path[3] and by_sum < path[3] - 1  # the missing 1/n
assert gain > 4 * gain_error  # Monte Carlo EM raises the exact evidence
for name, z in chain_z.items():
    # Most chains mix, and few of those that do are at one mode of several.
    assert mixed[name].double().mean() > 0.6 and found[name].info.divergent.sum() == 0, name
    assert missed[name].double().mean() < 0.25, name
    # Those that mix have the means of the grid.
    assert 0.4 < z.median() < 1.0 and (z < 4).double().mean() > 0.95, name
# The variance of log p(x, z) is d / 2.
assert all(abs(z) < 4 for z in spread_z.values())
# With more dimensions fewer draws from the prior count.
assert ess[2] > 10 * ess[20] and ess[20] < 3
# The harmonic mean is far too high.
assert harmonic[20][0] > 4 * harmonic[20][1] and harmonic[20][0] > 1
