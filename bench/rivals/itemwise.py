"""The tutorials' loop: a ``Dataset`` that converts images one by one, a ``DataLoader``, a loss from probabilities.

What most introductions to the variational autoencoder do, written anew with the usual encoder's nonlinearity in its
place, so that all contenders compute the same. Each item goes the way of torchvision's ``ToTensor``: array, PIL
image, array, tensor, float, divided by 255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.worker import serve_epochs

__all__ = ["itemwise"]


class Items(Dataset[tuple[Tensor, int]]):
    """Images as (tensor of shape (1, 28, 28) in [0, 1], label)."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self.images = torch.from_numpy(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index].numpy())
        array = np.array(image, np.uint8, copy=True)
        tensor = torch.from_numpy(array).view(1, *array.shape).contiguous()
        return tensor.to(torch.float32).div(255), 0


def itemwise(
    images: npt.NDArray[np.uint8], *, batch_size: int, hidden: int, latent_dim: int, lr: float, seed: int
) -> Callable[[], float]:
    """A function that trains for one more epoch and returns its mean loss, nats per example."""
    torch.manual_seed(seed)
    pixels = images[0].size
    first, mean, log_variance = nn.Linear(pixels, hidden), nn.Linear(hidden, latent_dim), nn.Linear(hidden, latent_dim)
    decoder = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels), nn.Sigmoid())
    parameters = [p for part in (first, mean, log_variance, decoder) for p in part.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    cross_entropy = nn.BCELoss(reduction="sum")
    loader = DataLoader(Items(images), batch_size=batch_size, shuffle=True)

    def epoch() -> float:
        total = 0.0
        for image, _ in loader:
            x = image.view(-1, pixels)
            optimizer.zero_grad()
            h = torch.relu(first(x))
            mu, log_var = mean(h), log_variance(h)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
            loss = (cross_entropy(decoder(z), x) + kl) / len(x)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        return total / len(images)

    return epoch


if __name__ == "__main__":
    serve_epochs(itemwise)
