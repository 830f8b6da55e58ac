# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Variational inference
#
# Monte Carlo EM draws from the posterior of each example by itself, and has to go on doing so as long as the model
# changes. Variational inference {cite:p}`blei2017` replaces the posterior by a distribution that is easy to draw from,
# here a normal distribution $q_\phi(z \mid x)$. We call it the *guide*; other names are approximate posterior and
# encoder. If a network computes its parameters from x, one set of weights φ serves all examples, including new ones.
# This is called *amortisation*, and it makes the variational autoencoder fast.
#
# This page derives the objective, checks each identity on a model where everything is known, and then looks at what is
# lost.

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

import elbowroom as er

# %matplotlib inline
generator = torch.Generator().manual_seed(0)
u, v = torch.randn(2, 8, generator=generator, dtype=torch.float64)
# The two latents have similar effects on x, so the posterior is narrow and correlated.
weight = torch.stack([u, u + 0.5 * v], 1)
model = er.oracles.LinearGaussian(weight, torch.zeros(8).double(), scale=0.7)
model.requires_grad_(False)
x, later = model.sample(200, generator=generator).x, model.sample(5000, generator=generator).x
exact, posterior = model.log_evidence(x), model.posterior(x)
covariance = posterior.covariance_matrix[0]
correlation = (covariance[0, 1] / covariance.diagonal().prod().sqrt()).item()
print(
    f"{len(x)} examples; "
    f"in the posterior the two latents have a correlation of {correlation:.2f}"
)

# %% [markdown]
# ## The bound, derived twice
#
# **By Jensen's inequality.** p(x) is an average of importance weights over *any* q that covers the posterior, and the
# logarithm of an average is at least the average of the logarithms:
#
# $$ \log p(x) = \log \mathbb{E}_{q}\Big[\frac{p(x, z)}{q(z \mid x)}\Big]
#    \;\ge\; \mathbb{E}_{q}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big] =: \mathcal{L}(x). $$
#
# This shows that $\mathcal{L}$ is a lower bound. It does not show how tight the bound is.
#
# **By Bayes' theorem.** Since $p(x, z) = p(x)\, p(z \mid x)$, for every single z
#
# $$ \log \frac{p(x, z)}{q(z \mid x)} = \log p(x) - \log \frac{q(z \mid x)}{p(z \mid x)}, \qquad\text{so that}\qquad
#    \mathcal{L}(x) = \log p(x) - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)\big). $$
#
# This shows how tight it is. The difference from log p(x) is the divergence of the guide from the posterior, which is
# zero if and only if the two are the same. $\mathcal{L}$ is called the *evidence lower bound*, ELBO. The divergence is
# called the *inference gap*; in this project it is also called the *elbow room*, or in short the room.
#
# The first guide is an affine map of x to two means and two log-variances, with random weights. It is a bad guide.


# %%
def affine(family, outputs):
    """A guide whose parameters are affine in x."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return family(er.networks.MLP((8,), outputs, hidden=()).double(), 2)


guide = affine(er.guides.DiagonalNormal, (2, 2))
with torch.no_grad():
    q = guide(x)
    z = er.draw(q, (100,), generator=generator)
    log_w = model.log_joint(x, z) - q.log_prob(z)
    room_of_draw = q.log_prob(z) - posterior.log_prob(z)
pointwise = (log_w + room_of_draw - exact).abs().max().item()
print(f"draw by draw: log w + log q / posterior − log p(x) is at most {pointwise:.1e}")

# %% [markdown]
# The expectation can be checked exactly too. For this model log p(x, z) is quadratic in z. For a q with mean μ and
# covariance $C C^\top$, the average over the 2D points $\mu \pm \sqrt D\, C e_j$ is the exact expectation of a
# quadratic function:


# %%
def factor(q):
    """C of a normal distribution with the covariance C Cᵀ."""
    full = isinstance(q, MultivariateNormal)
    return q.scale_tril if full else torch.diag_embed(q.stddev)


def exact_elbo(model, guide, x):
    """E_q[log p(x, z)] + H(q), of a linear-Gaussian model and a normal guide, with no draws."""
    q = guide(x)
    steps = math.sqrt(q.event_shape[0]) * factor(q).movedim(-1, 0)  # √D C e_j, for each j
    points = torch.cat([q.mean + steps, q.mean - steps])
    return model.log_joint(x, points).mean(0) + q.entropy()


with torch.no_grad():
    bound = exact_elbo(model, guide, x)
    q = guide(x)
    room = kl_divergence(MultivariateNormal(q.mean, scale_tril=factor(q)), posterior)
identity = (bound + room - exact).abs().max().item()
print(
    f"ELBO {bound.mean():.3f} + KL {room.mean():.3f} = {(bound + room).mean():.3f}; "
    f"log p(x) = {exact.mean():.3f}"
)
print(f"largest difference of a single example: {identity:.1e}")
tight = (exact_elbo(model, model.exact_guide(), x) - exact).abs().max().item()
print(f"with the posterior for a guide, ELBO − log p(x): {tight:.1e}")

# %% [markdown]
# :::{admonition} The usual tutorial: "the ELBO is always smaller than the log-likelihood"
# :class: note
#
# **Smaller or equal**, as the last line shows. And it holds in expectation: estimates from draws are sometimes larger
# ({doc}`10-how-good` counts how often).
# :::
#
# ## Training the guide
#
# Now the model is fixed, and only φ is trained. Since log p(x) does not depend on φ, to maximise $\mathcal{L}$ is to
# minimise $\mathrm{KL}(q \,\|\, p(z \mid x))$, although in general nobody can compute that divergence. We train two
# guides, one with a diagonal covariance and one with a full covariance.


# %%
def maximise(parameters, objective):
    """Maximises an objective that has no noise, and returns its maximum."""
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = -objective()
        value.backward()
        return value

    optimizer.step(loss)
    return objective().item()


diagonal, full = guide, affine(er.guides.FullNormal, er.guides.FullNormal.parameter_shape(2))
for each in (diagonal, full):
    maximise(each.parameters(), lambda each=each: exact_elbo(model, each, x).mean())
    each.requires_grad_(False)
precision = posterior.precision_matrix[0]
predicted = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
gaps, gaps_later = {}, {}
for name, learned_guide in {"diagonal": diagonal, "full": full}.items():
    gaps[name] = (exact - exact_elbo(model, learned_guide, x)).mean().item()
    gaps_later[name] = (
        (model.log_evidence(later) - exact_elbo(model, learned_guide, later)).mean().item()
    )
    print(f"{name:<9} room {gaps[name]:.4f} nats, on 5,000 new examples {gaps_later[name]:.4f}")
narrow = (diagonal(x[:1]).stddev / posterior.stddev[:1]).squeeze()
print(
    f"predicted for the diagonal: {predicted:.4f}; "
    f"its standard deviations over the posterior's: {narrow[0]:.3f}, {narrow[1]:.3f}"
)

# %% [markdown]
# The full covariance loses nothing: here the posterior *is* normal, with a mean that is affine in x. The loss of the
# diagonal covariance cannot be removed by training. For a normal posterior with precision matrix Λ the best diagonal q
# has the variances $1 / \Lambda_{jj}$, and
#
# $$ \min_q \mathrm{KL} = \tfrac12 \Big(\sum_j \log \Lambda_{jj} - \log |\Lambda|\Big), $$
#
# which is zero only for a diagonal Λ. These variances are *smaller* than the posterior's own, $(\Lambda^{-1})_{jj}$.
# The divergence in this direction, $\mathrm{KL}(q \,\|\, p)$, is large where q has mass and p has little, and does not
# penalise q for leaving out a part of p. So a guide that is trained with the ELBO tends to be too narrow.

# %% mystnb={"image": {"alt": "A correlated posterior; the full guide coincides with it, the diagonal one is inside"}}
axis = torch.linspace(-1.2, 1.2, 200, dtype=torch.float64)
grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
figure = er.plots.new_figure(er.plots.COLUMN, 2.9)
axes = figure.add_subplot()
first = model.posterior(x[:1])
looks = {
    "posterior": (first, er.plots.GREY, "-"),
    "full": (full(x[:1]), er.plots.BLUE, "--"),
    "diagonal": (diagonal(x[:1]), er.plots.VERMILION, "-"),
}
for name, (q, colour, line) in looks.items():
    # This is −2 on the ellipse of two standard deviations.
    depth = q.log_prob(grid + first.mean) - q.log_prob(q.mean)
    style = {"levels": [-2.0, -0.5], "colors": colour, "linestyles": line, "linewidths": 1}
    axes.contour(axis, axis, depth.view(200, 200).T, **style)
    axes.plot([], [], color=colour, linestyle=line, label=name)
axes.legend(frameon=False, fontsize=er.plots.SMALL)
er.plots.thin_axes(axes, xlabel="z[0] − posterior mean", ylabel="z[1] − posterior mean")
figure

# %% mystnb={"image": {"alt": "ELBO of the diagonal guide well below log p(x), that of the full guide on it"}}
bounds = {
    "ELBO, diagonal": exact_elbo(model, diagonal, x),
    "ELBO, full": exact_elbo(model, full, x),
    "log p(x)": exact,
}
rows = [
    (name, *er.mean_and_stderr(v), "exact" if v is exact else "lower")
    for name, v in bounds.items()
]
er.plots.evaluation_figure(
    [dict(zip(("name", "value", "stderr", "bound"), row, strict=True)) for row in rows]
)

# %% [markdown]
# ## When the model learns as well
#
# Now θ is trained with the ELBO too. Then the inference gap changes the model. The model raises the ELBO by having
# posteriors that the guide can approximate, at the cost of likelihood. With the best guide of a family for each θ, the
# ELBO of a linear-Gaussian model is $\log p_\theta(x)$ less a gap that depends on Λ alone, so its maximum over θ *and*
# φ can be found exactly. We do this for three kinds of covariance: full, where the gap is zero and the result is
# maximum likelihood; diagonal, with the gap above; and isotropic, $\sigma^2 I$, whose best variance is $D /
# \operatorname{tr} \Lambda$ and whose gap is $\frac12 (D \log \frac{\operatorname{tr} \Lambda}{D} - \log |\Lambda|)$.


# %%
def gap(precision, kind):
    """The least KL(q ‖ N(m, Λ⁻¹)) over q of a kind, nats."""
    isotropic = len(precision) * (precision.trace() / len(precision)).log()
    volume = {
        "full": precision.logdet(),
        "diagonal": precision.diagonal().log().sum(),
        "isotropic": isotropic,
    }
    return 0.5 * (volume[kind] - precision.logdet())


def learned(kind, data):
    """The model with the highest ELBO, its ELBO, its log p(x) and Λ."""
    start = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = er.oracles.LinearGaussian(start, data.mean(0), scale=0.7)

    def precision():
        return model.posterior(data[:1]).precision_matrix[0]  # the same for every x

    elbo = maximise(
        [model.weight], lambda: model.log_evidence(data).mean() - gap(precision(), kind)
    )
    return elbo, model.log_evidence(data).mean().item(), precision().detach()


directions = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64))[0]
truth = er.oracles.LinearGaussian(
    directions * torch.tensor([6.0, 2.0, 1.0]), torch.zeros(8).double(), scale=0.7
)
data = truth.sample(2000, generator=generator).x
found = {kind: learned(kind, data) for kind in ("full", "diagonal", "isotropic")}
for kind, (elbo, log_p, shape) in found.items():
    scaled = shape / shape.diagonal().outer(shape.diagonal()).sqrt()
    off = (scaled - torch.eye(3)).abs().max().item()
    print(
        f"{kind:<10} ELBO {elbo:.4f}, log p(x) {log_p:.4f}, "
        f"largest off-diagonal of the scaled Λ {off:.1e}"
    )

# %% [markdown]
# In the end the diagonal guide costs nothing. The reason is that a rotation of the latents, $W \to WR$, does not change
# the likelihood, so the model rotates its latents until its posteriors are diagonal. A neural network has less freedom
# to do so. The isotropic guide does cost something. No rotation makes three precisions equal, so the model itself
# changes towards equal precisions, and its likelihood is lower than it could be.
#
# :::{admonition} The usual tutorial: this "is equivalent to maximizing the log-likelihood … *and* fitting" the guide
# :class: warning
#
# **Wrong in general.** It maximises one sum, $\log p_\theta(x) - \mathrm{KL}$, and a loss in one term can pay for a
# gain in the other. The maximum has the highest likelihood only where the guide can become the posterior at no cost.
# The last row shows a model that has a lower likelihood in exchange for a smaller gap.
# :::
#
# :::{admonition} The usual tutorial: $q_\phi(x) = N(\mu_\phi(x), \sigma^2_\phi(x)\, \mathbb{1})$, "often"
# :class: warning
#
# **Read literally the formula is isotropic, and the code is not.** The code has one log-variance for each latent, which
# is a diagonal covariance. The last two rows show the difference between the two families.
# :::
#
# {doc}`10-how-good` measures what a network's guide loses by its family and what by amortisation, and
# {doc}`11-training-methods` what it gains in speed. How to estimate the gradient of $\mathcal{L}$ from draws is the
# subject of {doc}`the next page <06-gradients>`.
#
# ## The claims of this page, as code

# %%
# ELBO + KL = log p(x), for each draw and in expectation.
assert pointwise < 1e-9 and identity < 1e-9
# The ELBO is below log p(x), and equal to it where q is the posterior.
assert room.min() > 0 and tight < 1e-9
# A diagonal guide loses what the formula predicts, a full one nothing.
assert abs(gaps["diagonal"] - predicted) < 1e-3 and gaps["full"] < 1e-3 < 0.1 < predicted
# The guide is amortised: it is as good on new examples.
assert abs(gaps_later["diagonal"] - gaps["diagonal"]) < 0.01 and gaps_later["full"] < 0.01
# The diagonal guide is too narrow.
assert bool((narrow < 0.9).all())
highest = found["full"][1]
# The model rotates its latents until a diagonal guide costs nothing.
assert abs(found["diagonal"][1] - highest) < 1e-4 and abs(found["diagonal"][0] - highest) < 1e-4
# An isotropic guide lowers the model's likelihood, and still leaves a gap.
assert found["isotropic"][1] < highest - 0.01
assert found["isotropic"][0] < found["isotropic"][1] - 0.1
