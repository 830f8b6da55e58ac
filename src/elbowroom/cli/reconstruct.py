"""``elbowroom reconstruct``: examples beside their reconstructions."""

from __future__ import annotations

from pathlib import Path

from elbowroom.cli.options import Checkpoint, Device, RunPath, Split, load_run
from elbowroom.cli.speech import wrote
from elbowroom.cli.writing import checked_target, write_arrays

__all__ = ["reconstruct"]


def reconstruct(
    run: RunPath,
    data: str | None = None,
    *,
    num: int = 10,
    split: Split = None,
    seed: int = 0,
    arrays: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = None,
) -> None:
    """Show examples beside their reconstructions.

    Parameters
    ----------
    data
        Other data: a path or a built-in name (default: a split of the run's own data).
    num
        Number of examples: the first ones of DATA, or a random choice of a split.
    split
        Split of the run's own data (default: test); DATA has none.
    seed
        Seed of the draws.
    arrays
        Also write x, mean and sample to this .npz file, and mask, true where observed, if x has missing elements.
    """
    from elbowroom.showing import gallery

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    loaded = load_run(run, device, checkpoint)
    figure = gallery.reconstructions(loaded, num, data=data, split=split, seed=seed)
    wrote(gallery.save(loaded, "reconstructions", figure))
    if target is not None:
        found = loaded.reconstruct(num, data=data, split=split, seed=seed)
        missing = {} if found.mask is None else {"mask": found.mask}
        write_arrays(target, x=found.x, mean=found.mean, sample=found.sample, **missing)
