"""Hierarchies: groups of latents one below the other, in vectors or on a grid of patches."""
