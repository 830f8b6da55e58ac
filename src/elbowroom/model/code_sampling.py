r"""Rules for drawing codes that are not draws of the prior: guidance, a temperature, and a nucleus.

A model's draws :math:`z \sim p(z | c)` are those by which it is judged. Pictures for the eye are often drawn from a
sharper distribution: each slot, given those before it, by the logits

.. math:: \ell = \ell(z_{<l}, \varnothing) + s \, \big(\ell(z_{<l}, c) - \ell(z_{<l}, \varnothing)\big), \qquad
    \pi = \mathrm{softmax}(\ell / T),

of which only the likeliest codes are kept, as few as have at least the probability p together (the nucleus, top-p).
The context :math:`\varnothing` says nothing; a model knows it if contexts were left out in its training. With s = 1,
T = 1 and p = 1 these are the model's own draws.

Reference:
    Ho & Salimans (2022), Classifier-Free Diffusion Guidance, arXiv:2207.12598.
    Holtzman, Buys, Du, Forbes & Choi (2020), The Curious Case of Neural Text Degeneration, arXiv:1904.09751.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.errors import ElbowroomError

__all__ = ["SamplingRule"]


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How each slot is drawn, given those before it.

    Args:
        guidance: s: 1 for the context as it is, more to follow it further, 0 not to read it.
        temperature: T: below 1 the likelier codes become likelier still.
        top_p: p, the probability of the nucleus.
    Raises:
        ElbowroomError: a number that is out of range.
    Example:
        >>> rule = SamplingRule(top_p=0.6)
        >>> rule(torch.tensor([[0.5, 0.3, 0.2]]).log()).softmax(-1)
        tensor([[0.6250, 0.3750, 0.0000]])
    """

    guidance: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.guidance >= 0 and math.isfinite(self.guidance)):
            raise ElbowroomError(
                f"--guidance is {self.guidance:g}, but it starts at 0.",
                "Give 1 for the caption as it is, or more, such as --guidance 2.",
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ElbowroomError(
                f"--temperature is {self.temperature:g}, but it is a number above 0.",
                "Give 1 for the model's own draws, or less, such as --temperature 0.8.",
            )
        if not 0 < self.top_p <= 1:
            raise ElbowroomError(
                f"--top-p is {self.top_p:g}, but it is a probability above 0.",
                "Give 1 to keep all codes, or less, such as --top-p 0.9.",
            )

    def keywords(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"guidance": self.guidance, "temperature": self.temperature, "top_p": self.top_p}

    @property
    def changes_nothing(self) -> bool:
        """Whether draws are those of the model."""
        return self == SamplingRule()

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits of one slot by which its code is drawn.

        Args:
            logits: of every row given its context, shape (n, K); with a guidance other than 1 those of the same rows
                without context after them, shape (2 n, K).
        Returns:
            The same shape; with guidance both halves are equal.
        """
        if self.guidance != 1:
            given, nothing = logits.log_softmax(-1).chunk(2)
            logits = (nothing + self.guidance * (given - nothing)).repeat(2, 1)
        logits = logits / self.temperature
        if self.top_p == 1:
            return logits
        ranked, places = logits.softmax(-1).sort(-1, descending=True)
        kept = ranked.cumsum(-1) - ranked < self.top_p  # what the likelier codes have is not yet enough
        least = torch.finfo(logits.dtype).min
        return torch.where(kept.gather(-1, places.argsort(-1)), logits, least)
