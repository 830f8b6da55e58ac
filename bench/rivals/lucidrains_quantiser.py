"""vector-quantize-pytorch's quantiser between two perceptrons: a codebook for each slot by moving averages, k-means."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize  # type: ignore[import-not-found, unused-ignore]

from bench.worker import serve, settings

__all__ = ["main"]


def main() -> None:
    """Serves: images, batch_size, hidden, slots, codes, code_dim, lr, decay, seed."""
    asked = settings()
    torch.manual_seed(asked["seed"])
    slots, dim, hidden, size = asked["slots"], asked["code_dim"], asked["hidden"], asked["batch_size"]
    data = torch.from_numpy(np.load(asked["images"]) > 127).flatten(1).float()
    encoder = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, slots * dim))
    decoder = nn.Sequential(nn.Linear(slots * dim, hidden), nn.ReLU(), nn.Linear(hidden, 784))
    quantiser = VectorQuantize(
        dim=slots * dim,
        codebook_dim=dim,
        codebook_size=asked["codes"],
        heads=slots,
        separate_codebook_per_head=True,
        decay=asked["decay"],
        commitment_weight=0.25 * slots * dim,  # it averages over elements where elbowroom sums
        kmeans_init=True,
        threshold_ema_dead_code=1,
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=asked["lr"], fused=True)

    def quantised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, numbers, commitment = quantiser(encoder(x)[:, None])
        return z[:, 0], numbers.reshape(len(x), slots), commitment.sum()

    def turn() -> Mapping[str, float]:
        total = torch.zeros(())
        quantiser.train()
        order = torch.randperm(len(data))
        for start in range(0, len(data), size):
            x = data[order[start : start + size]]
            z, _, commitment = quantised(x)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") / len(x)
            optimizer.zero_grad(set_to_none=True)
            (reconstruction + commitment).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            total += reconstruction.detach() * len(x)
        quantiser.eval()
        with torch.no_grad():
            _, numbers, _ = quantised(data[:10_000])
        shares = F.one_hot(numbers, asked["codes"]).double().mean(0)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum(-1)
        return {"loss": total.item() / len(data), "perplexity": float(entropy.exp().mean())}

    serve(turn)


if __name__ == "__main__":
    main()
