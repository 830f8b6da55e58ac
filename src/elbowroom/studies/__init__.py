"""Experiments of the book: the variance of gradient estimators, and the cost of sampling from the prior."""
