"""Runs: configuration, the objects built from it, the run folder, and the training loop."""
