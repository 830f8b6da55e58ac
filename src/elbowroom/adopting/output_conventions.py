r"""Outputs of foreign networks: pairs, joined tensors, mappings, records and distributions, read by one rule.

Two outputs are a mean and a spread. The user states what the spread is: :math:`\log \sigma^2`, :math:`\sigma^2`,
:math:`\sigma` or :math:`\log \sigma`. If the outputs have names, the names state it too, and so does a distribution.
If the two contradict each other, one of them is wrong, and only the user can know which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbowroom.errors import ElbowroomError

__all__ = ["ENCODER_OUTPUTS", "TO_LOG_VARIANCE", "EncoderOutput", "only_output", "two_outputs"]

EncoderOutput = Literal["mean-logvar", "mean-variance", "mean-scale", "mean-logscale"]
ENCODER_OUTPUTS: tuple[EncoderOutput, ...] = get_args(EncoderOutput)

#: convention -> (second output) to log σ²
TO_LOG_VARIANCE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean-logvar": lambda second: second,
    "mean-variance": lambda second: second.log(),
    "mean-scale": lambda second: 2 * second.log(),
    "mean-logscale": lambda second: 2 * second,
}

#: the names of a mean, and those of a spread with the convention that they state
_MEANS = ("embedding", "mean", "mu", "loc", "z_mean", "z_mu")
_SPREADS = {
    "log_covariance": "mean-logvar",
    "log_variance": "mean-logvar",
    "log_var": "mean-logvar",
    "logvar": "mean-logvar",
    "z_log_var": "mean-logvar",
    "z_logvar": "mean-logvar",
    "log_sigma": "mean-logscale",
    "log_std": "mean-logscale",
    "log_scale": "mean-logscale",
    "z_log_sigma": "mean-logscale",
    "z_log_std": "mean-logscale",
    "scale": "mean-scale",
    "sigma": "mean-scale",
    "std": "mean-scale",
    "stddev": "mean-scale",
    "variance": "mean-variance",
    "var": "mean-variance",
}


def two_outputs(found: Any, who: str, said: str | None = None) -> tuple[Tensor, Tensor]:
    """Mean and spread from a pair, a mapping or record with names, a normal distribution, or one tensor with both.

    Args:
        found: what the network returned; a tensor has both in its last axis, the mean first.
        who: "encoder" or "decoder", for messages.
        said: the convention that the user stated; names and distributions must agree with it.
    Raises:
        ElbowroomError: anything else; names or a distribution that contradict the stated convention.
    Example:
        >>> import torch
        >>> two_outputs({"mu": torch.zeros(2), "logvar": torch.ones(2)}, "encoder", "mean-logvar")
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    if isinstance(found, Tensor):
        if found.dim() and found.shape[-1] % 2 == 0:
            size = found.shape[-1] // 2
            return found[..., :size], found[..., size:]
    elif isinstance(found, Distribution):
        base = found.base_dist if isinstance(found, Independent) else found
        if isinstance(base, Normal):
            _require_agreement(said, "mean-scale", f"a {type(base).__name__} distribution, with loc and scale", who)
            return base.loc, base.scale
    else:
        named = _by_name(found)
        if named is not None:
            mean, spread = named
            _require_agreement(said, _SPREADS[spread], f"'{mean}' and '{spread}'", who)
            return _item(found, mean), _item(found, spread)
        if isinstance(found, tuple | list):
            if len(found) == 2 and all(isinstance(part, Tensor) for part in found):
                return found[0], found[1]
            raise _not_a_pair(found, who)
    shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
    raise ElbowroomError(
        f"The {who} returned a {type(found).__name__}{shape}, but two outputs are needed: a mean and a spread.",
        "Return a pair of tensors, or one tensor whose last axis has first the mean and then the spread.",
    )


def _not_a_pair(found: tuple[Any, ...] | list[Any], who: str) -> ElbowroomError:
    """The error for several outputs: it is unknown which are mean and spread, since many return a draw of z first."""
    kinds = ", ".join(
        f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__ for part in found
    )
    given = "x" if who == "encoder" else "z"
    return ElbowroomError(
        f"The {who} returned a {type(found).__name__} of {len(found)} ({kinds}), but a pair of tensors is needed, a "
        "mean and a spread, and it is unknown which these are.",
        f"Pick them in a function, for instance {who}=lambda {given}: net({given})[1:3] for (z, mean, log-variance).",
    )


def _item(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _by_name(found: Any) -> tuple[str, str] | None:
    """The names of the two outputs, if it has names."""
    for spread in _SPREADS:
        for mean in _MEANS:
            if isinstance(_item(found, mean), Tensor) and isinstance(_item(found, spread), Tensor):
                return mean, spread
    return None


def _require_agreement(said: str | None, states: str, what: str, who: str) -> None:
    if said is not None and said != states:
        raise ElbowroomError(
            f"{who}_output is '{said}', but the {who} returned {what}, which means '{states}'.",
            f"Give {who}_output='{states}'; or, if the names mislead, return a plain pair of tensors.",
        )


def only_output(found: Any) -> Tensor:
    """The only output: a tensor, or the one called reconstruction in a record."""
    if isinstance(found, Tensor):
        return found
    inner = _item(found, "reconstruction")
    if isinstance(inner, Tensor):
        return inner
    raise ElbowroomError(
        f"The decoder returned a {type(found).__name__}, but one tensor is needed.",
        "Wrap it in a function that returns that tensor, or name both outputs: decoder_output='mean-logvar'.",
    )
