"""Codes at the places of a grid.

code_networks         encoder and decoder of pictures, with slots at every place of a grid of patches
causal_convolutions   masked convolutions over the slots
priors                the priors of these
"""
