"""Normal approximations of the posterior: Laplace, the best normal for one observation, cubature."""
