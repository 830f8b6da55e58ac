"""``elbowroom sample``, ``elbowroom reconstruct`` and ``elbowroom encode``."""

from __future__ import annotations

from pathlib import Path

from elbowroom.cli.options import Device, RunPath, Split, load_run
from elbowroom.cli.speech import wrote
from elbowroom.cli.writing import checked_target, write_arrays

__all__ = ["encode", "reconstruct", "sample"]


def sample(run: RunPath, *, num: int = 25, seed: int = 0, arrays: Path | None = None, device: Device = None) -> None:
    """Draw from the model: samples, means, traversals; the manifold of two latents.

    Parameters
    ----------
    num
        How many samples.
    seed
        Seed of the draws.
    arrays
        Also write z, x and mean to this .npz file.
    """
    from elbowroom.showing import gallery, plots

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    loaded = load_run(run, device)
    wrote(gallery.samples(loaded, num, seed=seed))
    if plots.is_image(loaded.facts.event_shape):
        wrote(gallery.traversals(loaded))
        if loaded.config.model.latent_dim == 2:
            wrote(gallery.manifold(loaded))
    if target is not None:
        drawn = loaded.sample(num, context=gallery.contexts(loaded, num), seed=seed)
        write_arrays(target, z=drawn.z, x=drawn.x, mean=drawn.mean)


def reconstruct(
    run: RunPath,
    *,
    num: int = 10,
    split: Split = "test",
    seed: int = 0,
    arrays: Path | None = None,
    device: Device = None,
) -> None:
    """Show data beside what the model makes of them.

    Parameters
    ----------
    num
        How many data.
    split
        Which data.
    seed
        Seed of the draws.
    arrays
        Also write x, mean and sample to this .npz file.
    """
    from elbowroom.showing import gallery

    target = None if arrays is None else checked_target(arrays, suffix=".npz")
    loaded = load_run(run, device)
    wrote(gallery.reconstructions(loaded, num, split=split, seed=seed))
    if target is not None:
        found = loaded.reconstruct(num, split=split, seed=seed)
        write_arrays(target, x=found.x, mean=found.mean, sample=found.sample)


def encode(
    run: RunPath, data: str | None = None, *, split: Split = "test", out: Path | None = None, device: Device = None
) -> None:
    """Write mean and standard deviation of q(z | x) as .npz, and draw the means.

    Parameters
    ----------
    data
        A path or a built-in name; a split of the run's own data unless given.
    split
        Which split, where no data are named.
    out
        The .npz file; RUN/encoded.npz unless given.
    """
    from elbowroom.showing import gallery

    target = checked_target(out or run / "encoded.npz", folder=run, suffix=".npz")
    loaded = load_run(run, device)
    encoded = loaded.encode(data, split=split)
    labels = {} if encoded.labels is None else {"labels": encoded.labels}
    write_arrays(target, mean=encoded.mean, stddev=encoded.stddev, **labels)
    wrote(gallery.latents(loaded, encoded))
