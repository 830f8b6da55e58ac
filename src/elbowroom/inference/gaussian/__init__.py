"""Normal approximations of the posterior: Laplace, the optimal normal of each example, cubature."""
