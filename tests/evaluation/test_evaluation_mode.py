"""Evaluation sees networks as they are used, and leaves them as they were."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elbowroom.data.dataset import DataSet
from elbowroom.data.loading import load_data
from elbowroom.evaluation.evaluate import evaluate
from elbowroom.evaluation.scoring import score
from elbowroom.model.guides import DiagonalNormal
from elbowroom.model.latent import LatentModel
from elbowroom.model.networks import MLP
from elbowroom.model.oracles import ppca

DIM, LATENT = 6, 2


def _data(x: Tensor) -> DataSet:
    data = load_data(x, support="reals", validation=0.0, test=0.0)
    assert isinstance(data, DataSet)
    return data.to(dtype=torch.float64)


def _normed() -> tuple[LatentModel, DiagonalNormal, DataSet]:
    model, _, x = ppca(DIM, LATENT, seed=3, num_data=64)
    torch.manual_seed(0)
    network = MLP((DIM,), (2, LATENT), hidden=(8,), batch_norm=True).double()
    return model, DiagonalNormal(network, LATENT), _data(x)


def test_networks_are_in_evaluation_mode_and_put_back() -> None:
    model, guide, data = _normed()
    norm = next(module for module in guide.modules() if isinstance(module, nn.BatchNorm1d))
    norm.eval()  # modes may differ within a network
    model.train()
    guide.network.train(True)
    norm.eval()
    modes = [module.training for module in [*model.modules(), *guide.modules()]]
    buffers = {name: value.clone() for name, value in guide.named_buffers()}
    seen: list[tuple[bool, bool]] = []
    guide.register_forward_hook(lambda *_: seen.append((guide.training, torch.is_grad_enabled())))
    evaluate(model, guide, data, split="train", k=2)
    assert set(seen) == {(False, False)}
    assert [module.training for module in [*model.modules(), *guide.modules()]] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in guide.named_buffers())
    assert torch.is_grad_enabled()


def test_a_datum_is_measured_alone_however_many_come_with_it() -> None:
    """In training mode, batch normalisation would let a datum's figure depend on its neighbours."""
    model, guide, data = _normed()
    x = next(iter(data.batches("train", 64))).x
    together = score(model, guide, data, split="train", method="iwae", k=50).log_evidence
    pairs = [score(model, guide, _data(two), split="train", method="iwae", k=50).log_evidence for two in x.split(2)]
    assert torch.equal(together, torch.cat(pairs))
