# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Gradients
#
# The ELBO is an expectation over the guide q, and q has the parameters φ. To maximise the ELBO one needs its gradient,
# estimated from draws. This page derives the estimators in use, compares each with the exact gradient of a model where
# it is known, and measures their variance.
#
# Write $f(z) = \log p_\theta(x, z) - \log q_\phi(z \mid x)$, so that $\mathcal{L} = \mathbb{E}_{q_\phi}[f(z)]$.

# %%
import math
import os
import tempfile
from pathlib import Path

import torch

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
generator = torch.Generator().manual_seed(0)
model, guide, x = er.oracles.ppca(dim=8, latent_dim=2, seed=0)
phi, theta = list(guide.parameters()), [model.weight, model.bias]


def gradient(value, parameters):
    """The gradient of the mean over examples, as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters)])


def exact_elbo():
    """With no draws: an average over 2 D points is exact for a quadratic (page 5)."""
    q = guide(x)
    points = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double().unsqueeze(1)
    return model.log_joint(x, q.mean + q.stddev * points).mean(0) + q.entropy()


exact = gradient(exact_elbo(), phi)
print(f"the exact gradient has {len(exact)} components and the length {exact.norm():.3f}")

# %% [markdown]
# ## Why not differentiate inside the expectation
#
# An expectation is an integral, and φ appears in two places of it:
#
# $$ \nabla_\phi \int q_\phi(z)\, f(z)\, dz
#    = \underbrace{\int \nabla_\phi q_\phi(z)\, f(z)\, dz}_{\mathbb{E}_q[f \, \nabla_\phi \log q_\phi]}
#    + \underbrace{\int q_\phi(z)\, \nabla_\phi f(z)\, dz}_{-\mathbb{E}_q[\nabla_\phi \log q_\phi]}. $$
#
# If one draws z, treats it as a constant, and differentiates f, one computes the second term only. And the second term
# is zero,
#
# $$ \mathbb{E}_q[\nabla_\phi \log q_\phi] = \int q_\phi \frac{\nabla_\phi q_\phi}{q_\phi} dz
#    = \nabla_\phi \int q_\phi \, dz = \nabla_\phi 1 = 0, $$
#
# so this *naive* estimator is pure noise with mean zero. The whole gradient is in the first term.
#
# ## Two estimators
#
# **The score function** {cite:p}`williams1992`. Take the first term as it is: draw z, and multiply $\nabla_\phi \log
# q_\phi(z)$, the score, by f(z). One may subtract any constant from f, since the mean of the score is zero. A good
# constant, called a *baseline*, removes most of the noise. With two draws, each can be the baseline of the other.
#
# **The pathwise gradient** {cite:p}`kingma2014,rezende2014`. Write the draw as a function of noise that does not depend
# on φ, $z = \mu + \sigma \epsilon$. This is called *reparameterisation*. Then the expectation is over ε, the gradient
# may move inside, and the chain rule gives
#
# $$ \nabla_\phi \mathcal{L} = \mathbb{E}_{\epsilon}\big[\nabla_\phi f(z(\epsilon, \phi))\big]
#    = \mathbb{E}_\epsilon\Big[\frac{\partial f}{\partial z} \frac{\partial z}{\partial \phi}
#      - \nabla_\phi \log q_\phi(z)\Big|_{z \text{ fixed}}\Big]. $$
#
# This estimator uses the gradient of log p(x, z) in z, which the score function does not. The last part has mean zero
# again. Leaving it out gives **STL**, "sticking the landing" {cite:p}`roeder2017`. The KL from a normal prior has a
# closed form, and need not be estimated from draws at all.

# %%
sampled = {"kl": "monte-carlo", "generator": generator}
estimators = {
    "path, KL in closed form": lambda: er.objectives.elbo(model, guide, x, generator=generator),
    "path": lambda: er.objectives.elbo(model, guide, x, **sampled),
    "STL": lambda: er.objectives.elbo(model, guide, x, estimator="stl", **sampled),
    "score function": lambda: er.objectives.elbo(
        model, guide, x, estimator="score-function", **sampled
    ),
    "score, two draws, baseline": lambda: er.objectives.elbo(
        model, guide, x, estimator="score-function", num_samples=2, **sampled
    ),
    "naive": lambda: er.objectives.log_weights(
        model, guide, x, estimator="score-function", generator=generator
    ),
}
DRAWS = 400
drawn = {
    name: torch.stack([gradient(of(), phi) for _ in range(DRAWS)])
    for name, of in estimators.items()
}
errors = {name: g.std(0) / math.sqrt(DRAWS) for name, g in drawn.items()}
z_scores = {name: (g.mean(0) - exact) / errors[name] for name, g in drawn.items()}
variance = {name: g.var(0).sum().item() for name, g in drawn.items()}
print("                              variance   mean square of z   largest |z|")
for name, z in z_scores.items():
    print(f"{name:<28}{variance[name]:10.3g}{z.square().mean():19.2f}{z.abs().max():14.1f}")
of_nothing = drawn["naive"].mean(0) / errors["naive"]
square, largest = of_nothing.square().mean(), of_nothing.abs().max()
print(f"the naive estimator against zero: mean square of z {square:.2f}, largest {largest:.1f}")

# %% [markdown]
# The z-scores are differences from the *exact* gradient, divided by their standard errors. Five estimators are right,
# and their variances differ by a factor of hundreds. (Their 36 components are not independent, so a mean square of 2 is
# no sign of an error; a |z| of 5 would be.) One estimator is wrong, and its mean is zero.
#
# :::{admonition} The usual tutorial: the result of differentiating inside
# :class: warning
#
# $$ \nabla_\phi \mathbb{E}_q[f] \;\ne\; \mathbb{E}_q[\nabla_\phi f]
#    = -\frac1L \sum_j \nabla_\phi \log q_\phi(z \mid x) $$
#
# **The ≠ is right, what follows it is not.** An average of L draws is an estimate, not the expectation. And the
# expectation is known: it is exactly zero. So the naive gradient is not a poor approximation of the gradient. It has
# nothing to do with it, and on average the guide would never move.
# :::
#
# :::{admonition} The usual tutorial: sampling "interrupts" backpropagation
# :class: note
#
# **This is a property of one estimator, not of the problem.** The score function needs no path through the draw. It is
# right, also for discrete z, which have no such path. But it is noisy, and reducing the noise is the purpose of
# reparameterisation. (For discrete z there are relaxations that have a path {cite:p}`jang2017,maddison2017`.)
# :::
#
# ## A sign
#
# :::{admonition} The usual tutorial: the final estimate of the gradient
# :class: warning
#
# $$ \nabla_\phi \mathcal{L} \simeq -\frac1L \sum_j \nabla_\phi
#    \big(\log p_\theta(x, z_j) - \log q_\phi(z_j \mid x)\big), \qquad z_j = g(\phi, \epsilon_j, x). $$
#
# **The minus is wrong.** This is the gradient of −ELBO, which a minimiser needs, written as the gradient of the ELBO. A
# step along it lowers the ELBO.
# :::

# %%
printed = -drawn["path"].mean(0)
cosine = torch.cosine_similarity(printed, exact, dim=0).item()
before, after = exact_elbo().mean().item(), {}
here = torch.nn.utils.parameters_to_vector(phi).detach()
for name, direction in {"the right sign": -printed, "as printed": printed}.items():
    torch.nn.utils.vector_to_parameters(here + 0.001 * direction, phi)
    after[name] = exact_elbo().mean().item()
torch.nn.utils.vector_to_parameters(here, phi)
print(f"cosine with the exact gradient {cosine:.4f}")
print(f"ELBO {before:.4f}, after a small step", {k: round(v, 4) for k, v in after.items()})

# %% [markdown]
# ## The gradient in the model's parameters
#
# q does not depend on θ, so here the gradient does move inside: $\nabla_\theta \mathcal{L} = \mathbb{E}_q[\nabla_\theta
# \log p_\theta(x, z)]$, and the tutorial is right. But this is the gradient of the *bound*. The gradient of log p(x) is
# the same average over the posterior ({doc}`04-monte-carlo-em`). The two differ by the gradient of the inference gap:

# %%
of_bound, of_evidence = gradient(exact_elbo(), theta), gradient(model.log_evidence(x), theta)
by_draws = torch.stack([gradient(estimators["path"](), theta) for _ in range(300)])
theta_z = (by_draws.mean(0) - of_bound) / (by_draws.std(0) / math.sqrt(len(by_draws)))
apart = ((of_bound - of_evidence).norm() / of_evidence.norm()).item()
print(
    f"estimate against ∇ELBO: mean square of z {theta_z.square().mean():.2f}; "
    f"∇ELBO and ∇log p differ by {apart:.0%}"
)

# %% [markdown]
# ## Where the guide is good
#
# The variance can vanish when training is done. Where q is the posterior, $f(z) = \log p(x)$ for *every* z. Then f does
# not depend on z, and STL has no variance at all. The pathwise gradient with its score term keeps some.

# %%
perfect = er.gradient_study(
    model,
    model.exact_guide(),
    x,
    estimators=["pathwise", "stl"],
    kl="monte-carlo",
    draws=50,
    generator=generator,
)
landing = {one.estimator: one.variance for one in perfect if one.wrt == "guide"}
print("at the exact posterior:", {name: f"{value:.1e}" for name, value in landing.items()})

# %% [markdown]
# ## Tighter bounds
#
# The importance-weighted bound of {doc}`10-how-good` has an unexpected property: the gradient for the guide gets
# *worse* with the number K of draws. Its signal-to-noise ratio falls like $1 / \sqrt K$ {cite:p}`rainforth2018`. DReG
# {cite:p}`tucker2019` applies reparameterisation a second time, to the score term. Then the ratio rises with K.

# %%
snr = {}
for k in (1, 10, 100):
    options = {"objective": "iwae", "num_samples": k, "draws": 200, "generator": generator}
    study = er.gradient_study(model, guide, x, estimators=["pathwise", "dreg"], **options)
    snr |= {(one.estimator, k): one.snr for one in study if one.wrt == "guide"}
    print(
        f"K = {k:3}: signal over noise, path {snr['pathwise', k]:6.2f}, "
        f"DReG {snr['dreg', k]:6.2f}"
    )

# %% [markdown]
# ## A network
#
# The next cell does the same for a variational autoencoder of the digits, early in its training, with one draw of z for
# each of a hundred images:

# %% mystnb={"image": {"alt": "Gradient variances: score function far above pathwise; naive is hollow, since biased"}}
NAME, EPOCHS = ("mnist", 1) if FULL else ("digits", 5)
out = Path(tempfile.mkdtemp()) / "run"
run = er.train(
    NAME,
    out=out,
    observers=[],
    data={"validation": 0},
    train={"epochs": EPOCHS},
    optimizer={"schedule": "constant"},
)
batch = run.dataset().take("train", torch.arange(100))
names = ["pathwise", "stl", "score-function", "naive"]
study = er.gradient_study(
    run.model,
    run.guide,
    batch,
    estimators=names,
    kl="monte-carlo",
    draws=150,
    generator=generator,
)
of_guide = {one.estimator: one for one in study if one.wrt == "guide"}
for name, one in of_guide.items():
    print(
        f"{name:<15} variance {one.variance:10.3g}, signal / noise {one.snr:6.3f}, "
        f"z of the bias {one.bias_z:+.1f}"
    )
er.plots.gradient_figure([one._asdict() for one in study])

# %% [markdown]
# `er.gradient_study` does this for any model; `elbowroom train --objective.estimator stl` (or `score-function`, or
# `dreg` for the importance-weighted bound) trains with it.
#
# ## The claims of this page, as code

# %%
# All estimators but the naive one are unbiased.
right = [name for name in estimators if name != "naive"]
for name in right:
    assert z_scores[name].abs().max() < 4.5, name
# The naive estimator is zero on average.
assert z_scores["naive"].abs().max() > 20 and of_nothing.abs().max() < 4.5
# The score function is the noisiest.
assert variance["score function"] > 10 * variance["path"]
# A baseline helps by more than a second draw alone would.
assert variance["score, two draws, baseline"] < variance["score function"] / 2
# The sign as printed is wrong.
assert cosine < -0.99 and after["as printed"] < before < after["the right sign"]
# The gradient in θ is that of the bound, not that of log p(x).
assert theta_z.abs().max() < 4.5 and apart > 0.05
# At the exact posterior STL has no variance.
assert landing["stl"] < 1e-20 < 1e-3 < landing["pathwise"]
assert snr["pathwise", 100] < snr["pathwise", 10] and snr["dreg", 100] > snr["dreg", 10]
assert of_guide["score-function"].variance > 10 * of_guide["pathwise"].variance
assert abs(of_guide["naive"].bias_z) > 4 > abs(of_guide["score-function"].bias_z)
