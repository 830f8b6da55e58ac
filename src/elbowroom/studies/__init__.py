"""Experiments that the book runs: how noisy gradient estimators are, and how sampling from the prior fails."""
