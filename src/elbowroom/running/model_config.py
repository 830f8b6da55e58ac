"""Sections of the configuration about the model: prior, likelihood, guide, and their networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from elbowroom.names import CODE_PRIORS, GuideName, LikelihoodName, PriorName
from elbowroom.sections import Section

__all__ = ["ModelConfig", "NetworkConfig", "Widths", "split_commas"]


def split_commas(value: Any) -> Any:
    """Several values of a flag, separated by commas, with or without the brackets of a recipe:
    ``--model.encoder.hidden 200,100``.
    """
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [part for item in value for part in item.strip().strip("[]").split(",") if part.strip()]
    return value


Widths = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(split_commas)]


class NetworkConfig(Section):
    """One neural network."""

    kind: Literal["mlp", "residual", "conv", "grid", "pyramid"] = "mlp"
    """Multi-layer perceptron, residual multi-layer perceptron, convolutions; residual convolutions on a grid of patches
    (grid), or at every size of a picture (pyramid)."""
    hidden: Widths = (400,)
    """Widths of the hidden layers (mlp); of the dense layer between the grid and a vector (grid)."""
    channels: Widths = (32, 64)
    """Channels of the convolutions, those nearest to the data first (conv, pyramid); each halves height and width."""
    width: Annotated[int, Field(gt=0)] = 256
    """Width of every block (residual); channels on the grid (grid)."""
    blocks: Annotated[int, Field(gt=0)] = 2
    """Number of blocks (residual, grid), or of blocks for each entry of channels (pyramid); a decoder with groups on a
    grid has one below each group."""
    patch: Annotated[int, Field(gt=0)] = 4
    """Side of a patch, in pixels (grid)."""
    norm: Literal["group", "weight", "none"] = "group"
    """Inside the blocks (pyramid): of groups of channels, or of the weights."""
    activation: str = "relu"
    """relu, tanh, elu, gelu, silu, leaky-relu, softplus or identity; a grid always has silu."""
    batch_norm: bool = False
    """Batch normalisation after each hidden layer (mlp, residual, conv)."""
    linear: bool = False
    """A linear part beside the network, whose last layer then starts at zero (mlp, residual, conv)."""


class ModelConfig(Section):
    """Prior p(z), likelihood p(x | z) and guide q(z | x), the encoder or approximate posterior."""

    latent_dim: Annotated[int, Field(gt=0)] = 20
    """Dimensions of z; for codes, z has a number for each code of each slot instead."""
    groups: Widths = ()
    """A hierarchy: latents of each group below the top one (100 or 100,50); the top one has latent_dim. With a decoder
    on a grid, channels of each group, which has so many latents at every place of the grid."""
    group_hidden: Widths = (100,)
    """Widths of the hidden layers between two groups of vectors."""
    slots: Annotated[int, Field(ge=1)] = 16
    """Slots of z, with one code each; 1 for a mixture, whose classes are the codes."""
    slots_per_place: Annotated[int, Field(ge=0)] = 0
    """Slots at each place of the grid of patches, instead of slots: encoder and decoder are of kind grid, and a code
    means the same at every place; 0: slots have no places."""
    code_levels: Annotated[int, Field(ge=1)] = 1
    """Levels of slots at places: above the grid of patches each has half the rows and columns of the one below, and
    codes of its own (VQ-VAE-2)."""
    codes: Annotated[int, Field(ge=2)] | Literal["auto"] = 16
    """Number of codes to choose from in each slot; 'auto' tries several on validation rows (learner em)."""
    codebook: Literal["ema", "gradient", "fsq"] = "ema"
    """How the vectors of the codes are learned (guide nearest-code): as moving averages of the encoder's output, by
    gradient, or not at all: a fixed grid (finite scalar quantisation)."""
    code_dim: Annotated[int, Field(gt=0)] = 16
    """Length of the vector of a code (guide nearest-code)."""
    likelihood: Literal["auto", LikelihoodName] = "auto"
    """p(x | z); 'auto' takes the one that fits the support of the data."""
    scale: float | Literal["learned", "per-element"] = "learned"
    """σ of a Gaussian, Laplace or Student-t likelihood, b of a logit-Laplace one: a number, one learned value, or one
    per element from the network; of real, positive and heaped columns of a table: learned for each column, or per
    element."""
    degrees_of_freedom: Annotated[float, Field(gt=1)] | Literal["learned"] = "learned"
    """ν of a Student-t likelihood: a number above 1, or one learned value for each element."""
    trials: Annotated[int, Field(gt=0)] | None = None
    """N of a binomial likelihood, the largest count that is possible; by default the largest of the data."""
    levels: Annotated[int, Field(ge=2)] | None = None
    """K of an ordinal likelihood, whose levels are 0..K−1; by default the largest of the data plus one."""
    cut_points: Literal["auto", "per-element", "shared"] = "auto"
    """Cut points of an ordinal likelihood: learned for each element, or shared by all; 'auto' shares those of
    pictures."""
    mean_activation: Literal["identity", "sigmoid"] = "identity"
    """Output activation of the mean of a Gaussian likelihood, or of the location of the others of real numbers."""
    components: Annotated[int, Field(gt=0)] = 5
    """Components of the discretised logistic mixture."""
    likelihood_components: Annotated[int, Field(gt=0)] = 1
    """Components of p(x | z), each a product over all elements, which are summed exactly; with a linear decoder this
    has latent class models and mixtures of factor analysers as special cases."""
    tails: Literal["wide", "none"] = "wide"
    """Noise of real and positive columns of a table: normal, with a learned share three times as wide, or without."""
    masked_layers: Annotated[int, Field(ge=0)] = 0
    """Masked convolutions at the end of the decoder, by which each pixel depends on those before it, for pictures; 0:
    elements are independent given z."""
    masked_width: Annotated[int, Field(gt=0)] = 16
    """Channels of the masked convolutions."""
    masked_kernel: Annotated[int, Field(gt=0)] = 5
    """Side of their kernels, odd; that of the first is 7."""
    masked_features: Annotated[int, Field(gt=0)] = 4
    """Features that the decoder makes of z for each element, instead of parameters, where there are masked layers."""
    prior: PriorName = "normal"
    """p(z): standard normal, learned mixture of Gaussians, VampPrior; normalising flows: masked autoregressive (maf),
    neural spline (nsf), affine coupling (coupling); of codes: uniform, independent slots (unigram), autoregressive by a
    masked MLP (made), by a causal transformer, or by masked convolutions over slots at places (pixelcnn)."""
    prior_components: Annotated[int, Field(gt=0)] = 100
    """Components of a mixture or Vamp prior."""
    prior_width: Annotated[int, Field(gt=0)] | None = None
    """Width of the layers of an autoregressive prior or a flow; by default 512 for made, 128 for the others."""
    prior_layers: Annotated[int, Field(gt=0)] = 2
    """Hidden layers of an autoregressive prior, or of each transform of a flow."""
    prior_transforms: Annotated[int, Field(gt=0)] = 3
    """Transforms of a prior that is a flow."""
    prior_heads: Annotated[int, Field(gt=0)] = 4
    """Attention heads of a transformer prior."""
    context_in: Literal["all", "prior"] = "all"
    """Which parts read the context: prior, guide and decoder (all), or the prior alone, as DALL·E's transformer reads a
    caption."""
    guide: Literal["auto", GuideName] = "auto"
    """q(z | x): normal with diagonal or full covariance; normalising flows: inverse autoregressive (iaf), neural spline
    with coupling (nsf); of a hierarchy, from the top down with the decoder, or from the bottom up; over codes,
    categorical, by distance to the nearest vector of a codebook (nearest-code), or the posterior itself (exact); or
    none. 'auto': none for the
    learners naive and mcem, nearest-code for vq, exact for em, top-down for a hierarchy, else diagonal, or categorical
    where the prior is one of codes."""
    guide_transforms: Annotated[int, Field(gt=0)] = 3
    """Transforms of a guide that is a flow."""
    guide_width: Annotated[int, Field(gt=0)] = 128
    """Width of the layers of each transform of a guide that is a flow."""
    encoder: NetworkConfig = NetworkConfig()
    """Network of the guide (encoder)."""
    decoder: NetworkConfig = NetworkConfig()
    """Network of the likelihood (decoder)."""
    output_bias: Literal["zero", "data-mean"] = "data-mean"
    """Initial value of the decoder's output bias; 'zero' leaves the network's own initialisation."""
    init_std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of normal initial weights, with zero biases; by default torch's own initialisation."""

    @property
    def has_codes(self) -> bool:
        """Whether the latents are codes, by the prior's name."""
        return self.prior in CODE_PRIORS

    @property
    def latents(self) -> str:
        """The latents in words: "20 latents", "24 slots × 16 codes"."""
        if self.has_codes:
            if self.slots_per_place:
                many = "a slot" if self.slots_per_place == 1 else f"{self.slots_per_place} slots"
                sides = [self.encoder.patch * 2**level for level in reversed(range(self.code_levels))]
                patches = " and ".join(f"of {side} × {side}" for side in sides)
                return f"{many} × {self.codes} codes per patch {patches}"
            return f"{self.slots} slot{'s' * (self.slots > 1)} × {self.codes} codes"
        if self.groups:
            places = " per place" if self.decoder.kind == "grid" else ""
            return f"{self.latent_dim} latents on top, {' + '.join(map(str, self.groups))}{places} below"
        return f"{self.latent_dim} latent{'s' * (self.latent_dim > 1)}"
