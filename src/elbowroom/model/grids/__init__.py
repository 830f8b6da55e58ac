"""Codes at the places of a grid.

code_networks         encoder and decoder of pictures, with slots at every place of a grid of patches
level_networks        the same with several levels of slots, coarse ones first
level_guides          the guides of levels
causal_convolutions   masked convolutions over the slots
priors                the priors of these
"""
