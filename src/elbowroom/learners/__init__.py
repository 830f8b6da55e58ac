"""Learners, the training methods: only here are losses averaged over a batch and weights updated."""
