"""Figures: each is a function that returns a matplotlib figure."""
