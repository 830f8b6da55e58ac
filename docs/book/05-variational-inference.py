# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Variational inference
#
# Monte Carlo EM draws from the posterior, datum by datum, for ever. Variational inference {cite:p}`blei2017` puts
# something in its place from which drawing is one line: a normal distribution $q_\phi(z \mid x)$, the *guide*. If a
# network computes its parameters from x, one set of weights φ answers for all data, those too that come later. That is
# called *amortisation*, and it is what makes the variational autoencoder quick.
#
# The page derives the objective, checks each identity where everything is known, and then looks at what is lost.

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

import elbowroom as er

# %matplotlib inline
generator = torch.Generator().manual_seed(0)
u, v = torch.randn(2, 8, generator=generator, dtype=torch.float64)
weight = torch.stack(
    [u, u + 0.5 * v], 1
)  # both latents do nearly the same, so that the posterior is narrow and slanted
model = er.oracles.LinearGaussian(weight, torch.zeros(8).double(), scale=0.7).requires_grad_(
    False
)
x, later = model.sample(200, generator=generator).x, model.sample(5000, generator=generator).x
exact, posterior = model.log_evidence(x), model.posterior(x)
covariance = posterior.covariance_matrix[0]
correlation = (covariance[0, 1] / covariance.diagonal().prod().sqrt()).item()
print(
    f"{len(x)} data; in the posterior the two latents have a correlation of {correlation:.2f}"
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
# This shows that it is a bound, and not how good a one.
#
# **By Bayes' theorem.** Since $p(x, z) = p(x)\, p(z \mid x)$, for every single z
#
# $$ \log \frac{p(x, z)}{q(z \mid x)} = \log p(x) - \log \frac{q(z \mid x)}{p(z \mid x)}, \qquad\text{so that}\qquad
#    \mathcal{L}(x) = \log p(x) - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)\big). $$
#
# This shows how good: what is missing is the divergence of the guide from the posterior. It is zero if and only if they
# are the same. $\mathcal{L}$ is the *evidence lower bound*, ELBO; the divergence is the elbow room.
#
# The guide here is an affine map of x to two means and two log-variances, with random weights: a bad one.


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
# As an expectation it can be checked to the last digit too. For this model log p(x, z) is quadratic in z, and 2D
# points, $\mu \pm \sqrt D\, C e_j$ for a q with covariance $C C^\top$, integrate a quadratic without error:


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
print(f"largest difference of one datum: {identity:.1e}")
tight = (exact_elbo(model, model.exact_guide(), x) - exact).abs().max().item()
print(f"with the posterior for a guide, ELBO − log p(x): {tight:.1e}")

# %% [markdown]
# :::{admonition} The usual tutorial: "the ELBO is always smaller than the log-likelihood"
# :class: note
#
# **Smaller or equal**, as the last line shows, and in expectation: estimates from draws exceed it now and then
# ({doc}`10-how-good` counts them).
# :::
#
# ## Teaching the guide
#
# The model is held now, and only φ climbs. Because log p(x) has no φ in it, raising $\mathcal{L}$ is lowering
# $\mathrm{KL}(q \,\|\, p(z \mid x))$, though nobody can compute that divergence. Two families: with a diagonal
# covariance, and with a full one.


# %%
def climb(parameters, objective):
    """To the top of an objective that has no noise; returns its value there."""
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
    climb(each.parameters(), lambda each=each: exact_elbo(model, each, x).mean())
    each.requires_grad_(False)
precision = posterior.precision_matrix[0]
foretold = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
gaps, gaps_later = {}, {}
for name, learned_guide in {"diagonal": diagonal, "full": full}.items():
    gaps[name] = (exact - exact_elbo(model, learned_guide, x)).mean().item()
    gaps_later[name] = (
        (model.log_evidence(later) - exact_elbo(model, learned_guide, later)).mean().item()
    )
    print(
        f"{name:<9} room {gaps[name]:.4f} nats, on 5,000 data never seen {gaps_later[name]:.4f}"
    )
narrow = (diagonal(x[:1]).stddev / posterior.stddev[:1]).squeeze()
print(
    f"foretold for the diagonal: {foretold:.4f}; "
    f"its standard deviations over the posterior's: {narrow.tolist()}"
)

# %% [markdown]
# The full covariance loses nothing: here the posterior *is* normal, its mean affine in x. The diagonal one loses what
# no training can give back. For a normal posterior with precision matrix Λ the best diagonal q has the variances
# $1 / \Lambda_{jj}$, and
#
# $$ \min_q \mathrm{KL} = \tfrac12 \Big(\sum_j \log \Lambda_{jj} - \log |\Lambda|\Big), $$
#
# which is zero for a diagonal Λ alone. These variances are *smaller* than the posterior's own, $(\Lambda^{-1})_{jj}$:
# the divergence in this direction, $\mathrm{KL}(q \,\|\, p)$, punishes q where p is small and forgives it what it
# leaves out. A guide taught by the ELBO tends to be too sure.

# %% mystnb={"image": {"alt": "A slanted posterior with the full guide on top of it and the diagonal guide inside"}}
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
    # −2 on the ellipse of two standard deviations
    depth = q.log_prob(grid + first.mean) - q.log_prob(q.mean)
    axes.contour(
        axis,
        axis,
        depth.view(200, 200).T,
        levels=[-2.0, -0.5],
        colors=colour,
        linestyles=line,
        linewidths=1,
    )
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
# Now θ climbs the ELBO too. Then the room is no mere nuisance: the model gains by having posteriors that the guide can
# follow, and pays in likelihood. With the best guide of a family for each θ, the ELBO of a linear-Gaussian model is
# $\log p_\theta(x)$ less a gap that depends on Λ alone, so that its maximum over θ *and* φ can be found exactly. For
# three kinds of covariance: full, where the gap is zero and this is maximum likelihood; diagonal, with the gap above;
# and isotropic, $\sigma^2 I$, whose best variance is $D / \operatorname{tr} \Lambda$ and whose gap is
# $\frac12 (D \log \frac{\operatorname{tr} \Lambda}{D} - \log |\Lambda|)$.


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

    elbo = climb(
        [model.weight], lambda: model.log_evidence(data).mean() - gap(precision(), kind)
    )
    return elbo, model.log_evidence(data).mean().item(), precision().detach()


directions = torch.linalg.qr(torch.randn(8, 3, generator=generator, dtype=torch.float64))[0]
nature = er.oracles.LinearGaussian(
    directions * torch.tensor([6.0, 2.0, 1.0]), torch.zeros(8).double(), scale=0.7
)
data = nature.sample(2000, generator=generator).x
found = {kind: learned(kind, data) for kind in ("full", "diagonal", "isotropic")}
for kind, (elbo, log_p, shape) in found.items():
    off = (
        (shape / shape.diagonal().outer(shape.diagonal()).sqrt() - torch.eye(3))
        .abs()
        .max()
        .item()
    )
    print(
        f"{kind:<10} ELBO {elbo:.4f}, log p(x) {log_p:.4f}, "
        f"largest off-diagonal of the scaled Λ {off:.1e}"
    )

# %% [markdown]
# The diagonal guide costs nothing in the end, and for a reason: a turn of the latents, $W \to WR$, changes no
# likelihood, so the model turns until its posteriors are diagonal. With a neural network there is less freedom to do
# so. The isotropic guide does cost: no turn makes three precisions equal, so the model itself is bent towards equal
# ones, and its likelihood is lower than it could be.
#
# :::{admonition} The usual tutorial: this "is equivalent to maximizing the log-likelihood … *and* fitting" the guide
# :class: warning
#
# **Wrong in general.** It maximises one sum, $\log p_\theta(x) - \mathrm{KL}$, in which one term is given up for the
# other. The maximum is the likelihood's only where the guide can become the posterior at no cost. The last row shows a
# model that has given up likelihood for a smaller room.
# :::
#
# :::{admonition} The usual tutorial: $q_\phi(x) = N(\mu_\phi(x), \sigma^2_\phi(x)\, \mathbb{1})$, "often"
# :class: warning
#
# **Read literally the formula is isotropic, and the code is not.** It has one log-variance for each latent, a diagonal
# covariance. The difference between the two families is that between the last two rows.
# :::
#
# {doc}`10-how-good` measures what a network's guide loses by its family and what by amortisation, and
# {doc}`11-training-methods` what it gains in speed. How to estimate the gradient of $\mathcal{L}$ from draws is the
# subject of {doc}`the next page <06-gradients>`.
#
# ## The claims of this page, as code

# %%
# ELBO + KL = log p(x), draw by draw and in expectation
assert pointwise < 1e-9 and identity < 1e-9
assert room.min() > 0 and tight < 1e-9  # below log p(x), and on it where q is the posterior
# what a diagonal loses
assert abs(gaps["diagonal"] - foretold) < 1e-3 and gaps["full"] < 1e-3 < 0.1 < foretold
# amortised: new data too
assert abs(gaps_later["diagonal"] - gaps["diagonal"]) < 0.01 and gaps_later["full"] < 0.01
assert bool((narrow < 0.9).all())  # too sure
highest = found["full"][1]
# the model turns,
assert abs(found["diagonal"][1] - highest) < 1e-4 and abs(found["diagonal"][0] - highest) < 1e-4
assert found["isotropic"][1] < highest - 0.01  # or is bent,
assert found["isotropic"][0] < found["isotropic"][1] - 0.1  # and still has room
