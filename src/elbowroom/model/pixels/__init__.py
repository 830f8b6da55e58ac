"""Likelihoods of pictures whose pixels depend on each other, given z."""
