"""Ways to learn a latent-variable model: the only place that averages over a batch and touches an optimiser."""
