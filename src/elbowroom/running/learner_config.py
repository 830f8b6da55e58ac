"""Sections of the configuration that one training method reads: each is named after its method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from elbowroom.running.model_config import Widths
from elbowroom.sections import Section

__all__ = ["EmConfig", "McemConfig", "SviConfig", "VqConfig"]


class EmConfig(Section):
    """Expectation maximisation of a mixture (learner em)."""

    classes: Widths = (2, 3, 4, 6, 8, 12, 16, 24)
    """Numbers of classes that are tried where model.codes is auto; the best on validation rows is taken."""
    starts: Annotated[int, Field(gt=0)] = 4
    """Random starts, of which the best goes on."""
    prior_rows: Annotated[float, Field(gt=0)] = 1.0
    """How many rows like those of the whole table each class has in addition, where a column has levels."""
    prior_scale: Annotated[float, Field(gt=0)] = 0.4
    """Deviation that is expected within a class, as a part of a column's; it counts as much as three rows."""


class McemConfig(Section):
    """Markov chains of Monte Carlo EM (learner mcem)."""

    sampler: Literal["hmc", "nuts"] = "hmc"
    """MCMC kernel of the E-step."""
    start: Literal["persistent", "guide", "prior"] = "persistent"
    """Where the chains of an example start at a visit: where they were, or anew from the guide or the prior."""
    chains: Annotated[int, Field(gt=0)] = 1
    """Chains per example."""
    metric: Literal["auto", "gauss-newton", "guide", "identity"] = "auto"
    """Metric (mass matrix) of the steps; 'auto': gauss-newton where the likelihood has a Fisher information, else
    identity."""
    refresh: Annotated[int, Field(gt=0)] = 10
    """Number of visits (uses of an example for training) after which its metric is computed again."""
    num_steps: Annotated[int, Field(gt=0)] | None = None
    """Leapfrog steps of an HMC trajectory; by default 4 with the metric gauss-newton, else 10."""
    target_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Mean acceptance to which the step sizes are adapted."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Transitions of a chain before its first draw; by default 5, or 20 for chains that start anew."""
    transitions: Annotated[int, Field(gt=0)] | None = None
    """Transitions per draw; by default 1, but 4 with dynamic binarisation."""
    draws: Annotated[int, Field(gt=0)] = 1
    """Draws of each chain per visit (each time its example is used)."""
    growth: Annotated[float, Field(ge=0)] = 0.0
    """Draws added per epoch."""
    updates: Annotated[int, Field(gt=0)] = 1
    """Updates of the weights per E-step."""
    storage: Literal["memory", "disk"] = "memory"
    """Where chains are kept: in memory, or memory-mapped in the run folder."""


class SviConfig(Section):
    """Pyro's stochastic variational inference (learner svi)."""

    elbo: Literal["trace", "trace-mean-field", "renyi"] = "trace"
    """Trace_ELBO, TraceMeanField_ELBO, or RenyiELBO of order 0 (the importance-weighted bound)."""
    num_particles: Annotated[int, Field(gt=0)] = 1
    """Draws of z per example."""


class VqConfig(Section):
    """Stages and codebook of vector quantisation (learner vq)."""

    reconstruction_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training in which encoder, codebook and decoder are trained on the nearest codes."""
    prior_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training after that in which the prior is trained on draws of the codes; in the rest all are trained
    together."""
    joint_rate: Annotated[float, Field(gt=0)] = 0.5
    """Learning rate of the last stage, as a part of optimizer.lr."""
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    """How the decoder's gradient gets past the choice of the nearest code to the encoder."""
    commitment: Annotated[float, Field(ge=0)] | None = None
    """Weight of the squared distance of the encoder's output from its code; by default 0.25, and 0 with the codebook
    fsq."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay of the moving averages of the codes."""
    restart_below: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """A code that is used less than this part of an equal share is put at an output of the encoder; 0: never."""
