# ---
# jupytext: {text_representation: {extension: .py, format_name: percent}}
# kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Depth
#
# One vector of latents has to say everything about an image: which digit it is, how it leans, and where each stroke
# ends. Two changes take details off it. In a *hierarchy*, groups of latents follow each other from the top down,
#
# $$ p(z) = p(z_1) \, p(z_2 \mid z_1), \qquad p(x \mid z_1, z_2), $$
#
# and the lower group says where strokes run when the top has said what they are. With an *autoregressive likelihood*,
#
# $$ p(x \mid z) = \prod_i p(x_i \mid x_1, \dots, x_{i-1}, z), $$
#
# each pixel sees its neighbours that were drawn before it, and z need not say what they show already.
#
# Both raise $\log p(x)$. This page measures by how much, and what the latents then still say.

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
# ## Four models
#
# All four have residual convolutions on a grid of patches, a guide that fits, and the same training. The first has one
# vector of latents with the prior N(0, I). The second learns a mixture of normals as its prior. The third has a second
# group of latents, two at each place of the grid ({doc}`how <../howto/hierarchies>`). The fourth has one vector again,
# and two masked convolutions over the pixels ({doc}`how <../howto/autoregressive-likelihoods>`).

# %%
grid = {
    "kind": "grid",
    "width": 32 if FULL else 16,
    "hidden": [300 if FULL else 64],
    "blocks": 1,
    "patch": 4 if FULL else 2,
}
base = {
    "latent_dim": 32 if FULL else 6,
    "encoder": grid,
    "decoder": grid,
    "likelihood": "bernoulli",
}
mixture = {"prior": "mixture", "prior_components": 50 if FULL else 20}
models = {
    "one vector, N(0, I)": base,
    "mixture prior": base | mixture,
    "two groups": base | mixture | {"groups": [4] if FULL else [2]},
    "masked pixels": base
    | mixture
    | {"masked_layers": 2, "masked_width": 8, "masked_kernel": 3},
}
runs = {
    name: er.train(
        NAME,
        out=folder / str(number),
        observers=[],
        model=model,
        data={"binarization": "threshold" if NAME == "digits" else "dynamic", "test": 0.2},
        objective={"warmup_epochs": 2 if FULL else 10},
        optimizer={"lr": 3e-3 if FULL else 6e-3, "schedule": "warmup-cosine"},
        train={"epochs": 10 if FULL else 40, "batch_size": 100 if FULL else 200},
    )
    for number, (name, model) in enumerate(models.items())
}

# %% [markdown]
# ## What each is worth
#
# The importance-weighted bound of the same test images, in nats, and what each change gains over the model before it
# that differs by this change alone. Images differ much more than models do, so the errors are those of paired
# differences.


# %%
def weighted(run):
    x = run.dataset().take("test", torch.arange(300)).x
    with torch.no_grad():
        return er.importance_estimate(
            run.model, run.guide, x, num_samples=500 if FULL else 200, generator=generator
        ).log_evidence


found = {name: weighted(run) for name, run in runs.items()}
before = dict.fromkeys(("two groups", "masked pixels"), "mixture prior")
before["mixture prior"] = "one vector, N(0, I)"
gains = {}
for name, value in found.items():
    mean, error = er.mean_and_stderr(value)
    print(f"{name:<20} {mean:7.2f} ± {error:.2f}", end="")
    if name in before:
        gains[name] = er.mean_and_stderr(value - found[before[name]])
        print("   {:+.2f} ± {:.2f} against {}".format(*gains[name], before[name]), end="")
    print()

# %% mystnb={"image": {"alt": "The four models' bounds on log p(x)"}}
er.plots.evaluation_figure(
    [
        dict(
            zip(
                ("name", "value", "stderr", "bound"),
                (name, *er.mean_and_stderr(value), "lower"),
                strict=True,
            )
        )
        for name, value in found.items()
    ]
)

# %% [markdown]
# ## What the latents still say
#
# The Kullback–Leibler divergence from the prior is how many nats about x the latents carry. In a hierarchy it is a sum
# over groups. Where masked convolutions see the neighbours, the latents carry less, and log p(x) is higher all the
# same: the decoder has taken over what is local. A group that carries nearly nothing *sleeps*.


# %%
def carried(run):
    x = run.dataset().take("test", torch.arange(300)).x
    with torch.no_grad():
        parts = er.objectives.elbo_terms(
            run.model, run.guide, x, kl="auto", num_samples=50, generator=generator
        ).parts
    return {
        key: er.mean_and_stderr(part) for key, part in parts.items() if key.startswith("kl")
    }


nats = {name: carried(run) for name, run in runs.items()}
for name, parts in nats.items():
    groups = [f"group {key[3:]}: {mean:.2f}" for key, (mean, _) in parts.items() if key != "kl"]
    mean, error = parts["kl"]
    print(f"{name:<20} {mean:6.2f} ± {error:.2f} nats   {', '.join(groups)}")

# %% [markdown]
# On the 8 × 8 digits the second group sleeps: its nats are nearly zero, and what the third model gains comes from the
# layers of the decoder that the group brought along. On MNIST, where there is more to say, the groups on the grid carry
# two fifths of all nats, though one of the two sleeps there, too (`elbowroom train mnist-hierarchy-15min`, and kl_2,
# kl_3 in its `metrics.jsonl`).
#
# Draws of the pixels for the same z show what is left to them: each row has six draws for one z. Beside them stands the
# mean of fifty such draws.

# %% mystnb={"image": {"alt": "Draws of x for the same z, with masked pixels, and their means"}}
masked = runs["masked pixels"]
with torch.no_grad():
    z = masked.model.sample(6, generator=generator).z
    draws = er.draw(masked.model.likelihood(z), (50,), generator=generator)
er.plots.samples_figure(
    draws[:6].transpose(0, 1).flatten(0, 1), draws.mean(0).repeat_interleave(6, 0)
)

# %% [markdown]
# ## What annealing says
#
# The ELBO of a hierarchy is too low by the divergence of its guide from the posterior, and it is not known by how much
# until something else is asked. Papers on hierarchies quote importance-weighted bounds. In the coordinates that are
# used here the prior of every group below the top is N(0, I) ({doc}`how <../howto/hierarchies>`), so that annealed
# importance sampling goes through a hierarchy as through any other model, and bidirectional Monte Carlo says how exact
# it is.

# %%
deep = runs["two groups"]
points = 20 if FULL else 12
for result in deep.evaluate(
    "elbo", "iwae", "ais", k=500, points=points, temperatures=32, chains=8
):
    if result.name in ("elbo", "iwae", "ais"):
        print(f"{result.name.upper():<5} {result.value:7.2f} ± {result.stderr:.2f}")

# %% [markdown]
# ## What this page claims

# %%
assert gains["masked pixels"][0] > 4 * gains["masked pixels"][1]
assert gains["mixture prior"][0] > -4 * gains["mixture prior"][1]
assert gains["two groups"][0] > -4 * gains["two groups"][1]
assert nats["masked pixels"]["kl"][0] < nats["mixture prior"]["kl"][0]
groups = nats["two groups"]
assert abs(groups["kl_1"][0] + groups["kl_2"][0] - groups["kl"][0]) < 1e-3
