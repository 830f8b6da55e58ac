"""Annealed importance sampling (AIS) and bidirectional Monte Carlo (BDMC)."""
