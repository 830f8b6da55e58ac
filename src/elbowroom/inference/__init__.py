"""Floor 2, the mathematics: bounds on log p(x), the estimators of their gradients, and importance sampling.

Everything here is a function of (model, guide, batch, …) that gives one value per datum, in nats. Nothing here
reduces over a batch, holds an optimiser or trains; that is what learners are for.
"""
