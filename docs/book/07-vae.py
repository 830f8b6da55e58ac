# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The variational autoencoder, from scratch and in five lines
#
# All parts are there now: a model $p_\theta(x, z) = p(z)\, p_\theta(x \mid z)$, a guide $q_\phi(z \mid x)$, a bound,
# and a gradient that passes through the draws. Together they are the variational autoencoder of {cite:t}`kingma2014`
# and {cite:t}`rezende2014`. This page writes it in plain PyTorch, then in five lines of elbowroom, and tests that both
# compute the same function. At the end it shows the errors of the usual tutorial's code one by one, and measures them.
#
# The data are scikit-learn's digits of 8 × 8 pixels, so that the page runs in seconds; `make docs-full` runs it on
# MNIST.

# %%
import inspect
import math
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import elbowroom as er

# %matplotlib inline
FULL = os.environ.get("ELBOWROOM_DOCS") == "full"
NAME, LATENTS, HIDDEN, EPOCHS = ("mnist", 20, 400, 20) if FULL else ("digits", 8, 200, 100)
folder = Path(tempfile.mkdtemp())


def rows(split, **how):
    """All examples of a split, one row each."""
    data = er.load_data(NAME, test=0.2, **how)
    return next(iter(data.batches(split, data.size(split)))).x.flatten(1)


grey = rows("train", support="unit-interval")  # between 0 and 1
test = rows("test", binarization="dynamic")  # bits, the same each time
PIXELS = grey.shape[1]
print(f"{len(grey):,} training images, {len(test):,} test images, {PIXELS} pixels each")

# %% [markdown]
# ## The model
#
# $$ p(z) = N(z \mid 0, I), \qquad p_\theta(x \mid z) = \prod_i p_i^{x_i} (1 - p_i)^{1 - x_i},
#    \quad p = \sigma(f_\theta(z)), $$
#
# $$ q_\phi(z \mid x) = \prod_j N\big(z_j \mid \mu_j, \sigma_j^2\big), \qquad (\mu, \log \sigma^2) = g_\phi(x). $$
#
# Pixels are bits: a grey pixel of 0.3 becomes a bit that is 1 with probability 0.3, drawn anew in each epoch. The bound
# on one image's $\log p(x)$ has one term that is estimated from draws and one that has a closed form,
#
# $$ \mathcal{L}(x) = \mathbb{E}_{q(z \mid x)}\big[\log p_\theta(x \mid z)\big]
#    - \mathrm{KL}\big(q_\phi(z \mid x) \,\|\, p(z)\big),
#    \qquad z = \mu + \sigma \epsilon, \quad \epsilon \sim N(0, I), $$
#
# $$ \mathrm{KL} = \tfrac12 \sum_j \big(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\big), $$
#
# since $\mathbb{E}_q \log N(z_j \mid 0, 1) = -\frac12 (\log 2\pi + \mu_j^2 + \sigma_j^2)$ and $\mathbb{E}_q \log q(z_j)
# = -\frac12 (\log 2\pi + \log \sigma_j^2 + 1)$. The whole program is:


# %%
class Encoder(nn.Module):
    """x to the mean and the log-variance of q(z | x)."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(PIXELS, HIDDEN)
        self.mean, self.log_variance = nn.Linear(HIDDEN, LATENTS), nn.Linear(HIDDEN, LATENTS)

    def forward(self, x):
        h = torch.relu(self.hidden(x))
        return self.mean(h), self.log_variance(h)


def elbo(encoder, decoder, x, epsilon):
    """One value for each image, in nats."""
    mean, log_variance = encoder(x)
    z = mean + torch.exp(0.5 * log_variance) * epsilon
    reconstruction = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return reconstruction - kl


torch.manual_seed(0)
encoder = Encoder()
# From z to logits.
decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))

# %% [markdown]
# Next is the training loop. The loss is the mean over the batch, so neither its value nor the step depends on the
# number of images in the batch. Apart from the initial weights, all randomness comes from one generator.

# %%
generator = torch.Generator().manual_seed(0)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for _ in range(EPOCHS):
    for batch in torch.randperm(len(grey), generator=generator).split(128):
        x = torch.bernoulli(grey[batch], generator=generator)
        epsilon = torch.randn(len(x), LATENTS, generator=generator)
        loss = -elbo(encoder, decoder, x, epsilon).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

with torch.no_grad():
    noises = (torch.randn(len(test), LATENTS, generator=generator) for _ in range(100))
    by_hand = sum(elbo(encoder, decoder, test, epsilon) for epsilon in noises) / 100
print(
    f"ELBO of {len(test):,} test images: "
    f"{by_hand.mean():.2f} ± {by_hand.std() / len(test) ** 0.5:.2f} nats"
)

# %% [markdown]
# ## Five lines
#
# The same model in elbowroom. Only the choices made above are stated; there is no loop, no loss and no shape.

# %%
model = {
    "latent_dim": LATENTS,
    "encoder": {"hidden": [HIDDEN]},
    "decoder": {"hidden": [HIDDEN]},
    "output_bias": "zero",
}
data = {"binarization": "dynamic", "validation": 0, "test": 0.2}
optimizer = {"lr": 1e-3, "schedule": "constant"}
chosen = {
    "model": model,
    "data": data,
    "optimizer": optimizer,
    "train": {"epochs": EPOCHS, "batch_size": 128},
}
run = er.train(NAME, **chosen, out=folder / "vae", observers=[])
results = run.evaluate("elbo", "iwae", k=500, num_samples=100)
for result in results:
    print(
        f"{result.name:<15}{result.value:8.2f} ± {result.stderr:.2f} {result.unit}, "
        f"{result.bound or 'no'} bound"
    )

# %% mystnb={"image": {"alt": "A sheet of sampled digits, black and white, beside their grey means"}}
drawn = run.sample(25)
er.plots.samples_figure(drawn.x, drawn.mean)

# %% [markdown]
# Pictures of 8 × 8 pixels are coarse. This is the same picture of MNIST, which this page draws in `make docs-full`:
#
# ![Twenty-five samples of a model of MNIST, and their means](../pictures/book-07-samples.png)
#
# The two ELBOs are close but not equal, because the initial weights, the order of the images and the noise differ. Such
# a difference could hide a small error. So the weights of the first program are now copied into the networks of the
# second, in double precision, and both use the same noise.

# %%
guide = er.guides.DiagonalNormal(
    er.networks.MLP((PIXELS,), (2, LATENTS), hidden=(HIDDEN,)), LATENTS
)
likelihood = er.likelihoods.Bernoulli(
    er.networks.MLP((LATENTS,), (1, PIXELS), hidden=(HIDDEN,)), (PIXELS,)
)
model = er.LatentModel(er.priors.StandardNormal(LATENTS), likelihood)
# elbowroom has one last layer for both, with the means first, then the log-variances.
heads = nn.Linear(HIDDEN, 2 * LATENTS)
heads.weight.data = torch.cat([encoder.mean.weight, encoder.log_variance.weight]).detach()
heads.bias.data = torch.cat([encoder.mean.bias, encoder.log_variance.bias]).detach()
layers = [*guide.network.layers, *likelihood.network.layers]
for ours, theirs in zip(layers, [encoder.hidden, heads, decoder[0], decoder[2]], strict=True):
    ours.load_state_dict(theirs.state_dict())
for module in (encoder, decoder, model, guide):
    module.double()

x = test[:100].double()
noise = torch.randn(100, LATENTS, dtype=x.dtype, generator=generator.manual_seed(1))
first = elbo(encoder, decoder, x, noise)
second = er.objectives.elbo(model, guide, x, generator=generator.manual_seed(1))
(gradient,) = torch.autograd.grad(first.mean(), encoder.hidden.weight)
(same_gradient,) = torch.autograd.grad(second.mean(), guide.network.layers[0].weight)
bound_differs = (first - second).abs().max().item()
gradient_differs = ((gradient - same_gradient).norm() / gradient.norm()).item()
print(
    f"bounds differ by {bound_differs:.1e} nats, "
    f"gradients by {gradient_differs:.1e} of their size"
)

# %% [markdown]
# ## Errors in the usual tutorial's code
#
# **The missing ReLU.** The tutorial's encoder is two linear layers with no activation between them. The output of such
# a map at $a + b - c$ follows from its outputs at $a$, $b$ and $c$, so a test of superposition finds this without a
# look at the code. And two affine maps in a row are one affine map, so the 400 hidden units have no effect.


# %%
def superposition_error(f):
    """How far f(a + b − c) is from f(a) + f(b) − f(c), in units of what f returns."""
    a, b, c = x[:30].split(10)
    return ((f(a + b - c) - f(a) - f(b) + f(c)).abs().max() / f(x).std()).item()


with torch.no_grad():
    # There is no activation between the layers.
    printed = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, LATENTS)).double()
    linear, curved = superposition_error(printed), superposition_error(lambda x: encoder(x)[0])
    one_layer = F.linear(x, printed[1].weight @ printed[0].weight, printed[1](printed[0].bias))
    two_layers_differ = (one_layer - printed(x)).abs().max().item()
print(f"superposition fails by {linear:.1e} without the ReLU, by {curved:.2f} with it")
print(f"two layers and one differ by {two_layers_differ:.1e}")

# %% [markdown]
# :::{admonition} The usual tutorial: "simple neural networks for both encoder and decoder"
# :class: warning
#
# **Wrong for the encoder**, which is linear. On MNIST this costs 4.8 nats of its loss: 108.44 ± 0.26, against 103.64 ±
# 0.25 with the ReLU added (`elbowroom train tutorial-pytorch`, `elbowroom train tutorial-pytorch-fixed`, then
# `elbowroom evaluate`). The doctor finds it in the same way: "The encoder is linear". The text also splits the output
# of the *decoder* into mean and variance; it should be the encoder's.
# :::
#
# **Grey pixels.** The code puts grey values into the Bernoulli's formula, which is then not a density. The missing
# factor depends on $p$, the network's output:
#
# $$ \int_0^1 p^x (1 - p)^{1 - x} \, dx = \frac{2p - 1}{\log p - \log (1 - p)} \le \tfrac12. $$

# %%
p = torch.tensor([0.02, 0.2, 0.499, 0.9], dtype=torch.float64)
at = (torch.arange(100_000, dtype=torch.float64) + 0.5).unsqueeze(1) / 100_000
mass = (p**at * (1 - p) ** (1 - at)).mean(0)
formula = (2 * p - 1) / (p.log() - (1 - p).log())
some = grey[:500].double()
best = some.clamp(1e-12, 1 - 1e-12)  # no output has a lower loss than p = x
least_loss = F.binary_cross_entropy(best, some, reduction="none").sum(1).mean().item()
with torch.no_grad():
    z = guide(some).mean
    # The first has the normalising constant, the second does not.
    kinds = (er.likelihoods.ContinuousBernoulli, er.likelihoods.CrossEntropy)
    density, not_one = (
        er.LatentModel(model.prior, kind(likelihood.network, (PIXELS,))) for kind in kinds
    )
    left_out = (density.log_likelihood(some, z) - not_one.log_likelihood(some, z)).mean().item()
print("∫ for p =", ", ".join(f"{a:.3g}: {b:.2f}" for a, b in zip(p, mass, strict=True)))
print(f"a perfect reconstruction of grey images still has a loss of {least_loss:.1f} nats")
print(f"constant left out, at this network's outputs: {left_out:.0f} nats for {PIXELS} pixels")

# %% [markdown]
# :::{admonition} The usual tutorial: the term is "exactly the (negative of) the BCELoss"
# :class: warning
#
# **True of bits, wrong of grey pixels.** For grey pixels it is not a log-likelihood. It is no bound on $\log p(x)$, and
# cannot be compared with any other model's value. On MNIST the constant left out is 1,621 nats at that network's own
# outputs (`elbowroom doctor runs/tutorial-pytorch`). elbowroom refuses grey data under a Bernoulli. They have to be
# binarised, or modelled by the density with its constant, the continuous Bernoulli of {cite:t}`loaiza2019`.
#
# Both formulas beside the claim are misprinted. The first, $x \log y + (1 - x) \log y$, equals $\log y$, so the image
# drops out. The second has $p$ and $x$ exchanged, $p \log x + (1 - p) \log x$, and is $-\infty$ for a black pixel. The
# right formula is $x \log p + (1 - x) \log (1 - p)$.
# :::

# %%
answer, image = torch.rand(PIXELS, generator=generator), test[0]
minus_bce = -F.binary_cross_entropy(answer, image, reduction="sum").item()
bernoulli = torch.distributions.Bernoulli(answer).log_prob(image).sum().item()
misprint, of_negative = (
    (x * answer.log() + (1 - x) * answer.log()).sum().item() for x in (image, 1 - image)
)
exchanged = (answer * image.log() + (1 - answer) * image.log()).sum().item()
print(
    f"Bernoulli {bernoulli:.3f}, −BCE {minus_bce:.3f}; misprinted {misprint:.3f}, "
    f"of the negative {of_negative:.3f}"
)

# %% [markdown]
# **Divided twice.** The loss of a batch is already a mean, and is divided by the batch size once more before it is
# printed. The test loss is a sum of batch means, divided by the number of *images*. Both are too small by about the
# batch size (0.86 instead of 108), and twice the batch size would halve them:

# %%
meant = -by_hand.mean().item()
shown = {
    size: sum(-part.mean().item() for part in by_hand.split(size)) / len(by_hand)
    for size in (64, 128)
}
print(
    f"right: {meant:.2f}; printed with batches of 64: {shown[64]:.3f}, of 128: {shown[128]:.3f}"
)

# %% [markdown]
# **An interval passed as a switch.** The call is `train(loader, epoch, REPORT_INTERVAL)`, but the third parameter is
# another one. Nothing fails: 100 counts as `True`, and the interval keeps its default.

# %%
as_printed = inspect.signature(
    lambda loader, epoch_number=None, verbose=True, report_interval=100: None
)
# train(loader, epoch, REPORT_INTERVAL), with 500 asked for
got = as_printed.bind("loader", 1, 500).arguments
print(got)

# %% [markdown]
# There are smaller errors: the test set is evaluated in every epoch with gradients recorded; a last, smaller batch has
# the same weight as a full one; and the pictures at the end are means, not samples ({doc}`09-poor-images`).
#
# ## The claims of this page, as code

# %%
# With the same weights and noise both programs give the same value and the same gradient.
assert bound_differs < 1e-9 and gradient_differs < 1e-9
# Two trainings with different seeds agree within a nat.
assert abs(results[0].value + meant) < 1.0
# Without the ReLU the encoder is one affine map.
assert linear < 1e-9 < 0.1 < curved and two_layers_differ < 1e-9
# For grey values the integral is at most one half.
assert torch.allclose(mass, formula, atol=1e-6) and bool((mass < 0.5).all())
# The loss of grey images cannot be zero, and a constant is missing for every pixel.
assert least_loss > 1 and left_out > PIXELS * math.log(2)
# For bits, −BCE is the log-likelihood. Neither formula, as printed, is.
assert abs(minus_bce - bernoulli) < 1e-3
assert abs(misprint - of_negative) < 1e-3 and exchanged == -float("inf")
# The printed loss is too small by about the batch size: twice the batch size halves it.
assert 0.9 < shown[64] / shown[128] / 2 < 1.1
assert 0.8 < meant / shown[128] / 128 < 1.2
assert got["verbose"] == 500 and "report_interval" not in got
