"""Inference: bounds on log p(x) and their gradients, importance sampling, posterior sampling, annealing.

The functions take (model, guide, batch, …) and return one value per example, in nats. Nothing here averages over a
batch, holds an optimiser or trains; that is the task of the training methods in :mod:`elbowroom.learners`.
"""
