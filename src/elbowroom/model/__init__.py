"""Models: networks, distributions, and the prior p(z), likelihood p(x | z) and guide q(z | x) made of them."""
