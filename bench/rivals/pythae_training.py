"""pythae's `VAE` by its `BaseTrainer`, which owns its loop: an epoch is timed by a callback.

The clock runs from `on_epoch_begin` to `on_log`, the last that an epoch does. In it is what the trainer does in every
epoch: its `DataLoader` over tensors that are in memory already, its progress bar, its copy of the best model. What it
does once (processing the data, its folder, the final model) is not, nor are checkpoints, which are off unless asked
for. Its own networks have 512 units; these are of the race's widths, with the sigmoid that its loss wants.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset  # type: ignore[import-not-found, unused-ignore]
from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found, unused-ignore]
from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-not-found, unused-ignore]
from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-not-found, unused-ignore]
from pythae.trainers import BaseTrainer, BaseTrainerConfig  # type: ignore[import-not-found, unused-ignore]
from pythae.trainers.training_callbacks import TrainingCallback  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor, nn

from bench.worker import Line, settings

__all__ = ["main"]


class _Encoder(BaseEncoder):  # type: ignore[misc, unused-ignore]
    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        BaseEncoder.__init__(self)
        self.latent_dim = latent_dim
        self.hidden = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)

    def forward(self, x: Tensor) -> Any:
        h = self.hidden(x.flatten(1))
        return ModelOutput(embedding=self.mean(h), log_covariance=self.log_variance(h))


class _Decoder(BaseDecoder):  # type: ignore[misc, unused-ignore]
    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        BaseDecoder.__init__(self)
        self.layers = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid())

    def forward(self, z: Tensor) -> Any:
        return ModelOutput(reconstruction=self.layers(z).view(len(z), 1, 28, 28))


class _Turns(TrainingCallback):  # type: ignore[misc, unused-ignore]
    """Waits for its turn before every epoch but the first, the warm-up, and answers after it."""

    def __init__(self, line: Line) -> None:
        self._line, self._warm = line, False

    def on_epoch_begin(self, training_config: Any, **_: Any) -> None:
        if self._warm:
            self._line.wait()
        self._warm = True

    def on_log(self, training_config: Any, logs: dict[str, float], **_: Any) -> None:
        self._line.answer(loss=float(logs["train_epoch_loss"]))


def main() -> None:
    """Serves: images, batch_size, hidden, latent_dim, lr, seed, epochs."""
    asked = settings()
    images = torch.from_numpy(np.load(asked["images"])).unsqueeze(1).float().div_(255)
    sizes = (images[0].numel(), asked["hidden"], asked["latent_dim"])
    torch.manual_seed(asked["seed"])
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=asked["latent_dim"], reconstruction_loss="bce")
    model = VAE(config, encoder=_Encoder(*sizes), decoder=_Decoder(*sizes))
    with tempfile.TemporaryDirectory() as folder:
        plan = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=asked["epochs"],
            learning_rate=asked["lr"],
            per_device_train_batch_size=asked["batch_size"],
            optimizer_cls="Adam",
            optimizer_params={"fused": True},
            seed=asked["seed"],
            no_cuda=True,
        )
        dataset = BaseDataset(images, torch.ones(len(images)))
        BaseTrainer(model, dataset, training_config=plan, callbacks=[_Turns(Line())]).train()


if __name__ == "__main__":
    main()
