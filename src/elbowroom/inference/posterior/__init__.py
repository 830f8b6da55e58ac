"""Draws from the posterior p(z|x) by Markov chains, and what follows from them."""
