"""``elbowroom reconstruct``: examples beside their reconstructions."""

from __future__ import annotations

from pathlib import Path

from elbowroom.cli.options import Device, RunPath, Split, load_run
from elbowroom.cli.speech import wrote
from elbowroom.cli.writing import checked_target, write_arrays

__all__ = ["reconstruct"]


def reconstruct(
    run: RunPath,
    *,
    num: int = 10,
    split: Split = "test",
    seed: int = 0,
    arrays: Path | None = None,
    device: Device = None,
) -> None:
    """Show examples beside their reconstructions.

    Parameters
    ----------
    num
        Number of examples.
    split
        Split of the run's data.
    seed
        Seed of the draws.
    arrays
        Also write x, mean and sample to this .npz file, and mask, true where observed, if x has missing elements.
    """
    from elbowroom.showing import gallery

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    loaded = load_run(run, device)
    figure = gallery.reconstructions(loaded, num, split=split, seed=seed)
    wrote(gallery.save(loaded, "reconstructions", figure))
    if target is not None:
        found = loaded.reconstruct(num, split=split, seed=seed)
        mask = next(iter(loaded.dataset().batches(split, num, points=num))).mask
        missing = {} if mask is None else {"mask": mask.cpu()}
        write_arrays(target, x=found.x, mean=found.mean, sample=found.sample, **missing)
