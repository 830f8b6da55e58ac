"""What is learned: networks, distributions, and the three conditionals p(z), p(x | z), q(z | x) made of them."""
