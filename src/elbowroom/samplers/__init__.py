"""Markov chain Monte Carlo over log densities: thousands of small targets at once. Nothing here knows of models."""
