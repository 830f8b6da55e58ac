"""Importance sampling: estimates of log p(x) from weighted draws, and how far they can be trusted."""
