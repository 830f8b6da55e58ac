"""Likelihoods of counts: what is particular to each; the laws of all likelihoods are in test_likelihoods."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.model.binary_likelihoods import Bernoulli
from elbowroom.model.count_likelihoods import Binomial
from elbowroom.model.networks import MLP


def test_a_binomial_counts_ways():
    likelihood = Binomial(MLP((2,), (1, 3)), (3,), trials=4).double()
    distribution = likelihood(torch.randn(5, 2).double())
    p = distribution.logits.sigmoid()
    for x in range(5):
        expected = torch.log(math.comb(4, x) * p**x * (1 - p) ** (4 - x))
        torch.testing.assert_close(distribution.log_prob(torch.tensor(float(x)).double()), expected)


def test_one_trial_is_a_bernoulli():
    network, z, x = MLP((2,), (1, 3)), torch.randn(5, 2), torch.tensor([0.0, 1.0, 1.0])
    ours, theirs = Binomial(network, (3,), trials=1), Bernoulli(network, (3,))
    torch.testing.assert_close(ours(z).log_prob(x), theirs(z).log_prob(x))
    output = network(z)
    torch.testing.assert_close(ours.fisher_information(output), theirs.fisher_information(output))


def test_the_largest_count_is_known_to_the_likelihood():
    assert Binomial(MLP((2,), (1, 3)), (3,), trials=4).highest == 4


def test_no_trials_are_refused():
    with pytest.raises(ElbowroomError, match="0 trials"):
        Binomial(MLP((2,), (1, 3)), (3,), trials=0)
