"""Every combination of parts builds, trains and comes back from disk the same."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elbowroom.data.support import Support
from elbowroom.errors import ElbowroomError
from elbowroom.learners.aevb import Aevb
from elbowroom.model.draws import mean
from elbowroom.model.likelihoods import LIKELIHOODS
from elbowroom.running.build import build_data, facts_of, likelihood_class, pick_likelihood
from elbowroom.running.build_learner import RunLength, build_learner
from elbowroom.running.build_pair import build_pair, initialise
from elbowroom.running.config import Config, configure
from elbowroom.running.runs import load
from small_runs import grey, reals, tiny


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _whole(high: int) -> Tensor:
    return torch.randint(0, high, (40, 4, 4), generator=_generator())


IMAGE = torch.rand(40, 4, 4, generator=_generator())
WITH_SUPPORT: dict[Support, tuple[Tensor, dict[str, Any]]] = {
    Support.BINARY: (IMAGE, {"binarization": "dynamic"}),
    Support.UNIT_INTERVAL: (IMAGE, {}),
    Support.REALS: (torch.randn(40, 4, 4, generator=_generator()), {}),
    Support.BYTES: (_whole(256).to(torch.uint8), {"support": "bytes"}),
    Support.CATEGORIES: (_whole(3), {"support": "categories"}),
    Support.COUNTS: (_whole(9), {"support": "counts"}),
}
#: likelihood -> data, settings of them; every registered likelihood
DATA = {name: WITH_SUPPORT[kind.support] for name, kind in LIKELIHOODS.items()}
DATA["colour-logistic-mixture"] = (
    torch.randint(0, 256, (40, 3, 4, 4), generator=_generator()).to(torch.uint8),
    {"support": "bytes"},
)
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "hidden": [6]},
    "residual": {"kind": "residual", "width": 6, "blocks": 1},
    "conv": {"kind": "conv", "channels": [2, 3]},
}
PRIORS, GUIDES = ("normal", "mixture", "vamp"), ("diagonal", "full")
COMBINATIONS = [
    combination
    for combination in itertools.product(DATA, PRIORS, GUIDES, NETWORKS)
    if combination[:2] != ("categorical", "vamp")
]
FLOWS = [
    ("bernoulli", "maf", "nsf", "conv"),
    ("gaussian", "nsf", "iaf", "mlp"),
    ("poisson", "coupling", "iaf", "residual"),
    ("bernoulli", "vamp", "nsf", "mlp"),
    ("bernoulli", "normal", "iaf", "mlp"),
]


def _settings(likelihood: str, prior: str, guide: str, network: str) -> dict[str, Any]:
    parts = {"encoder": NETWORKS[network], "decoder": NETWORKS[network]}
    return {
        "data": {"test": 8, "validation": 0, **DATA[likelihood][1]},
        "model": {
            "latent_dim": 2, "likelihood": likelihood, "prior": prior, "prior_components": 3, "guide": guide,
            "components": 2, "prior_width": 8, "guide_width": 8, **parts,
        },
    }  # fmt: skip


def _combination(parts: tuple[str, str, str, str]) -> Any:
    """Every two parts meet, of the likelihood, the prior, the guide and the network; all of them in slow tests.

    A likelihood has three: each prior, each network, and both guides, which are dealt out anew for the next one.
    """
    turn, prior = list(DATA).index(parts[0]), PRIORS.index(parts[1]) if parts not in FLOWS else 0
    dealt = (GUIDES[(prior + turn // 3) % 2], list(NETWORKS)[(turn + prior) % 3])
    quick = parts[2:] == dealt or parts in [*FLOWS, ("categorical", "normal", "full", "conv")]  # which has no VampPrior
    return pytest.param(*parts, id=":".join(parts), marks=() if quick else pytest.mark.slow)


def test_every_two_parts_meet() -> None:
    quick = [each.values for each in map(_combination, COMBINATIONS) if not each.marks]
    for one, other in itertools.combinations(range(4), 2):
        assert {(parts[one], parts[other]) for parts in quick} == {(parts[one], parts[other]) for parts in COMBINATIONS}


@pytest.mark.parametrize(
    ("likelihood", "prior", "guide", "network"), [_combination(parts) for parts in COMBINATIONS + FLOWS]
)
def test_every_combination_builds_trains_and_comes_back(
    likelihood: str, prior: str, guide: str, network: str, out: Path
) -> None:
    x = DATA[likelihood][0]
    run = tiny(x, out, train={"steps": 2, "batch_size": 16}, **_settings(likelihood, prior, guide, network))
    (row,) = run.history
    assert math.isfinite(row["elbo"])
    assert row["step"] == 2
    again = load(out, data=x)
    batch = next(iter(run.dataset().batches("test", 8)))
    z = torch.randn(3, 8, 2, generator=_generator())
    ours, theirs = run.model.log_joint(batch.x, z), again.model.log_joint(batch.x, z)
    assert ours.isfinite().all()
    assert torch.equal(ours, theirs)
    assert torch.equal(run.guide(batch.x).mean, again.guide(batch.x).mean)
    assert again.model.likelihood.name == likelihood


@pytest.mark.parametrize("norm", ["group", "weight"])
def test_a_pyramid_builds_trains_and_comes_back(norm: str, out: Path) -> None:
    net = {"kind": "pyramid", "channels": [4, 6], "blocks": 1, "norm": norm}
    settings = _settings("colour-logistic-mixture", "normal", "diagonal", "conv")
    settings["model"] |= {"encoder": net, "decoder": net}
    run = tiny(DATA["colour-logistic-mixture"][0], out, train={"steps": 2, "batch_size": 16}, **settings)
    x = next(iter(run.dataset().batches("test", 8))).x
    assert torch.equal(run.guide(x).mean, load(out, data=DATA["colour-logistic-mixture"][0]).guide(x).mean)
    assert run.model.likelihood.network.levels[0].convolutions[2].in_channels == 6  # the smallest picture is the first


GRID = {"kind": "grid", "width": 4, "hidden": [5], "patch": 2}


@pytest.mark.parametrize(
    "model",
    [
        {"encoder": {**GRID, "batch_norm": True}},
        {"decoder": {**GRID, "batch_norm": True}},
        {"groups": [1], "encoder": {**GRID, "batch_norm": True}, "decoder": GRID},
        {"groups": [1], "encoder": GRID, "decoder": {**GRID, "batch_norm": True}},
        {"groups": [1], "decoder": {"batch_norm": True}},
    ],
    ids=str,
)
def test_batch_normalisation_that_a_network_lacks_is_refused(model: dict[str, Any], out: Path) -> None:
    with pytest.raises(ElbowroomError, match=r"Batch normalisation(.|\n)*batch-norm"):
        tiny(grey(dim=16).reshape(-1, 4, 4), out, model=model)


def test_batch_normalisation_of_a_pyramid_is_refused(out: Path) -> None:
    net = {"kind": "pyramid", "channels": [4], "batch_norm": True}
    with pytest.raises(ElbowroomError, match=r"Batch normalisation(.|\n)*--model\.encoder\.norm"):
        tiny(DATA["bernoulli"][0], out, data={"binarization": "dynamic", "test": 8}, model={"encoder": net})


def test_a_missing_channel_is_refused_before_training(out: Path) -> None:
    x = DATA["colour-logistic-mixture"][0].float()
    x[3, 1, 2, 2] = torch.nan
    settings = _settings("colour-logistic-mixture", "normal", "diagonal", "mlp")
    settings["data"] |= {"missing": "mask", "test": 0}
    with pytest.raises(ElbowroomError, match="missing of 1 of 640 pixels"):
        tiny(x, out, **settings)
    x[3, :, 2, 2] = torch.nan  # the whole pixel
    assert math.isfinite(tiny(x, out, train={"steps": 2, "batch_size": 16}, **settings).history[0]["elbo"])


def test_pseudo_inputs_between_categories_are_refused(out: Path) -> None:
    with pytest.raises(ElbowroomError, match="VampPrior"):
        tiny(DATA["categorical"][0], out, **_settings("categorical", "vamp", "diagonal", "mlp"))
    assert not out.exists()


@pytest.mark.parametrize("support", list(Support))
def test_every_support_has_a_likelihood_of_its_own(support: Support) -> None:
    likelihood = likelihood_class(Config().model, support)
    assert likelihood.support is support
    assert likelihood.normalized
    assert likelihood.name == pick_likelihood(Config().model, support)
    assert pick_likelihood(configure({"model": {"likelihood": "gaussian"}}).model, support) == "gaussian"


# --- where weights start -----------------------------------------------------------------------------------------


def _pair(x: Tensor, **keys: Any) -> tuple[Any, Any, Config]:
    config = configure({"data": {"test": 0.1, "validation": 0.1}}, keys)
    data = build_data(config, x)
    pair = build_pair(config, facts_of(data, 10), seed=0)
    initialise(pair, config, data)
    return pair, data, config


@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "gaussian", "poisson"])
def test_the_mean_starts_at_the_datas(likelihood: str, network: str) -> None:
    """With the last layer's weights out of the way, what is left is its bias."""
    x, settings = DATA[likelihood]
    keys = {"data": settings, "model": {"likelihood": likelihood, "latent_dim": 2, "decoder": NETWORKS[network]}}
    pair, data, _ = _pair(x, **keys)
    torch.nn.init.zeros_(pair.model.likelihood.network.output_layer.weight)
    started = mean(pair.model.likelihood(torch.randn(5, 2, generator=_generator())))
    wanted = data.moments()[0].float()
    assert torch.allclose(started, wanted.expand_as(started), rtol=1e-3, atol=1e-3)


def test_the_output_bias_can_be_left_alone() -> None:
    biases = [
        _pair(IMAGE, model={"output_bias": how})[0].model.likelihood.network.output_layer.bias.detach()
        for how in ("zero", "data-mean")
    ]
    assert not torch.allclose(*biases)


def test_real_data_are_standardised_by_the_training_rows() -> None:
    x = reals()
    pair, data, _ = _pair(x)
    rows = x[data.splits["train"]].double()
    for module, names in ((pair.model.likelihood, ("shift", "unit")), (pair.guide.transform, ("shift", "scale"))):
        shift, unit = (module.get_buffer(name).double() for name in names)
        assert torch.allclose(shift, rows.mean(0), rtol=1e-5)
        assert torch.allclose(unit, rows.std(0, correction=0), rtol=1e-5)


@pytest.mark.parametrize("scale", ["learned", "per-element"])
def test_the_density_is_in_the_datas_own_unit(scale: str, tmp_path: Path) -> None:
    """Data a thousand times as large, the same weights: every density is 1000^−D of what it was."""
    x = reals().double()
    factor = 1000.0
    keys: dict[str, Any] = {"model": {"scale": scale, "latent_dim": 2}, "runtime": {"dtype": "float64"}}
    pairs = [_pair(data, **keys)[0] for data in (x, x * factor)]
    z = torch.randn(4, 10, 2, generator=_generator(), dtype=torch.float64)
    small, large = (pair.model.log_joint(data[:10], z) for pair, data in zip(pairs, (x, x * factor), strict=True))
    assert torch.allclose(large, small - x.shape[1] * math.log(factor), rtol=1e-9)
    assert torch.allclose(pairs[0].guide(x).mean, pairs[1].guide(x * factor).mean)


def test_elements_that_never_vary_are_refused_by_name(out: Path) -> None:
    x = reals()
    x[:, [1, 4]] = torch.tensor([0.0, 7.3])
    with pytest.raises(ElbowroomError, match=r"2 of 6 elements are constant in .* \(x\[1\], x\[4\]\)"):
        tiny(x, out)
    frame = pytest.importorskip("polars").DataFrame(x.numpy(), schema=[f"c{at}" for at in range(5)] + ["income"])
    with pytest.raises(ElbowroomError, match=r"2 of 6 columns are constant in .* \(c1, c4\)") as caught:
        tiny(frame, out)
    assert caught.value.remedy == "Drop c1, c4."
    assert tiny(frame.drop("c1", "c4"), out, train={"steps": 1}).naming.columns == ("c0", "c2", "c3", "income")


def test_grey_pixels_under_a_gaussian_may_be_constant_and_keep_their_unit() -> None:
    """The corners of a picture are often black: that is no reason to refuse it, nor to blow it up."""
    x = IMAGE.clone()
    x[:, 0, 0] = 0
    pair, data, _ = _pair(x, model={"likelihood": "gaussian"})
    assert data.support is Support.REALS
    assert torch.equal(pair.model.likelihood.unit, torch.ones(4, 4))
    assert torch.equal(pair.guide.transform.scale, torch.ones(4, 4))
    torch.nn.init.zeros_(pair.model.likelihood.network.output_layer.weight)
    started = mean(pair.model.likelihood(torch.zeros(1, 20)))
    assert torch.allclose(started[0], data.moments()[0].float(), atol=1e-6)


def test_pseudo_inputs_start_as_training_data() -> None:
    pair, data, _ = _pair(IMAGE, model={"prior": "vamp", "prior_components": 5})
    rows = IMAGE[data.splits["train"]].clamp(0.01, 0.99)
    for u in pair.model.prior.pseudo_inputs:
        assert (u - rows).abs().flatten(1).amax(1).min() < 1e-4


def test_more_pseudo_inputs_than_data_repeat_them() -> None:
    pair, _, _ = _pair(IMAGE, model={"prior": "vamp", "prior_components": 77})
    assert pair.model.prior.pseudo_inputs.shape == (77, 4, 4)


def test_weights_are_a_function_of_the_seed_and_leave_torchs_own_alone() -> None:
    config, data = Config(), build_data(Config(), IMAGE)
    facts, state = facts_of(data, 10), torch.get_rng_state()
    a, b, c = (build_pair(config, facts, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a.parameters(), c.parameters(), strict=True))


# --- the learner -------------------------------------------------------------------------------------------------


def test_the_learner_is_what_the_configuration_says() -> None:
    config = configure(
        {
            "objective": {"beta": 2.0, "warmup_epochs": 1.5},
            "optimizer": {"clip_norm": 3.0, "lr": 0.1, "name": "adamw", "betas": [0.8, 0.9], "weight_decay": 0.2},
            "train": {"ema": 0.9},
        }
    )
    learner = build_learner(config, RunLength(100, 8, torch.arange(1000), Path("chains")))
    assert isinstance(learner, Aevb)
    assert (learner.beta, learner.warmup_steps) == (2.0, 12.0)
    assert (learner.update.clip_norm, learner.update.ema) == (3.0, 0.9)
    pair, _, _ = _pair(IMAGE)
    optimizer = learner.init(pair).optimizer
    assert type(optimizer) is torch.optim.AdamW
    group = optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.1, (0.8, 0.9), 0.2)


@pytest.mark.parametrize("weight", [{"beta": 2.0}, {"free_bits": 0.1}, {"warmup_epochs": 1.0}])
def test_iwae_has_no_kl_term_to_weigh(weight: dict[str, float], out: Path) -> None:
    with pytest.raises(ElbowroomError, match="iwae objective does not have"):
        tiny(IMAGE, out, objective={"name": "iwae", **weight})
    assert not out.exists()


def test_a_stream_has_no_epochs_to_warm_up_over() -> None:
    config = configure({"objective": {"warmup_epochs": 1.0}})
    with pytest.raises(ElbowroomError, match="no epochs"):
        build_learner(config, RunLength(10, None, None, Path("chains")))


# --- precision --------------------------------------------------------------------------------------------------


def test_bfloat16_inside_the_networks_leaves_densities_in_float32(out: Path) -> None:
    x = grey(dim=16)
    run = tiny(x, out, runtime={"device": "cpu", "autocast": "bfloat16"}, train={"steps": 6, "batch_size": 10})
    assert {parameter.dtype for parameter in run.pair.parameters()} == {torch.float32}
    rows = [row for row in run.history if row["split"] == "train"]
    assert all(math.isfinite(row["elbo"]) for row in rows)
    full = tiny(x, out.with_name("full"), train={"steps": 6, "batch_size": 10})
    for row, exact in zip(rows, (row for row in full.history if row["split"] == "train"), strict=True):
        assert row["elbo"] == pytest.approx(exact["elbo"], abs=0.1)
        assert row["elbo"] != exact["elbo"]
