"""A check of hierarchies: how much each group of latents, or each level of codes, carries, and which ones sleep."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.latents import is_nothing, log_likelihood
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.draws import draw
from elbowroom.model.grids.level_networks import LevelDecoder
from elbowroom.model.guides import guide_distribution
from elbowroom.model.hierarchy.ladders import Ladder
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.model.quantizer import EmbeddedCodes
from elbowroom.numerics import mean_and_stderr

__all__ = ["group_sizes", "groups_in_use"]


def group_sizes(model: LatentModel) -> tuple[int, ...]:
    """Latents of each group of a hierarchy, the top group first, or entries of z of each level of codes; of any other
    model none.

    Example:
        >>> from elbowroom.model.hierarchy.oracles import LinearHierarchy
        >>> group_sizes(LinearHierarchy((1, 2), dim=4, seed=0))
        (1, 2)
    """
    network = model.likelihood.network
    if isinstance(network, EmbeddedCodes):
        network = network.network
    if isinstance(network, LevelDecoder):
        return tuple(grid.slots * model.space.codes for grid in network.grids)
    return network.sizes if isinstance(network, Ladder) and len(network.sizes) > 1 else ()


def groups_in_use(inputs: DoctorInput) -> list[Finding]:
    r"""What each group of a hierarchy, or each level of codes, carries, on held-out data.

    .. math:: \mathrm{KL}_l
        = \mathbb{E}_n \mathbb{E}_q \, \mathrm{KL}\big(q(u_l | u_{<l}, x_n) \,\|\, p(u_l | u_{<l})\big)

    .. math:: \mathrm{gain}_l = \mathbb{E}_n \log p(x_n | u_n)
        - \mathbb{E}_n \log p(x_n | u_{n, 1}, \ldots, u_{m, l}, \ldots, u_{n, L})

    The gain is what the decoder gains from the right residuals of one group, the others being right: those of group l
    are drawn for another example m ≠ n. Of levels of codes, z is in the place of u. A group sleeps if its KL, or from
    the bottom up its gain, counts as nothing: it is below 0.1 nats, and below 0.5 nats with four standard errors added.

    Args:
        inputs: a trained model and its data.
    Returns:
        One finding: a warning where some groups sleep and others do not, else a note. None without a guide, or for a
        model without groups.
    Raises:
        ElbowroomError: too few held-out examples.
    Reference:
        Sønderby et al. (2016), Ladder Variational Autoencoders, section 3.2, arXiv:1602.02282.
    """
    guide, model = inputs.learned_guide, inputs.model
    sizes, has_codes = group_sizes(model), model.latent_support == "codes"
    words = _LEVELS if has_codes else _GROUPS
    if guide is None or not sizes:
        return []
    batch, generator = inputs.batch(inputs.held_out(2)), inputs.generator("groups_in_use")
    with evaluation_mode(model, guide):
        parts = elbo_terms(model, guide, batch, kl="auto", generator=generator).parts
        u = draw(guide_distribution(guide, batch), (), generator=generator)
        right = log_likelihood(model, batch, u)
        gains = [right - log_likelihood(model, batch, other) for other in _exchanged(u, sizes)]
    evidence, asleep = [], []
    for group, (size, gain) in enumerate(zip(sizes, gains, strict=True), 1):
        rate = parts.get(f"kl_{group}")
        number, of = (size // model.space.codes, "slot") if has_codes else (size, "latent")
        name = f"{words.one} {group}, {number} {of}{'s' * (number > 1)}"
        if rate is not None:
            evidence.append(Evidence(f"KL of {name}", *mean_and_stderr(rate)))
        evidence.append(Evidence(f"loss of the decoder if {name}, is another example's", *mean_and_stderr(gain)))
        if is_nothing(*mean_and_stderr(gain if rate is None else rate)):
            asleep.append(group)
    severity, title, remedy = _in_use(asleep, len(sizes), words)
    return [Finding("groups_in_use", severity, title, tuple(evidence), words.explanation, remedy)]


def _exchanged(u: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """u with one group after the other taken from another example."""
    found, end = [], 0
    for size in sizes:
        own = slice(end, end := end + size)
        other = u.clone()
        other[:, own] = u[:, own].roll(1, 0)
        found.append(other)
    return found


class _Words(NamedTuple):
    """What groups are called, and what is said about those that sleep."""

    one: str
    whole: str
    explanation: str
    wake: str


_GROUPS = _Words(
    "group",
    "the hierarchy",
    "Group 1 is the top one. A group whose q(u | x) is its prior carries no information about x. It is often a lower "
    "group at the start of training, or an upper one if the groups near x suffice; such a group costs time and adds "
    "nothing to the bound.",
    "Keep groups awake while the others learn: --objective.warmup-epochs 10, and with a guide from the top down "
    "--objective.free-bits 0.5 --objective.free-bits-over batch. Or train with fewer groups.",
)
_LEVELS = _Words(
    "level",
    "codes",
    "Level 1 is the top one. A level whose q(z | x) is its prior, given the levels above, carries no information about "
    "x. It is often the top one, if the codes below suffice; such a level costs time and adds nothing to the bound.",
    "Leave the level out: --model.code-levels. Or leave it more to say, with fewer codes below (--model.codes); with "
    "the learner aevb also --objective.warmup-epochs 10 and --objective.free-bits 0.5.",
)


def _in_use(asleep: list[int], groups: int, words: _Words) -> tuple[Severity, str, str]:
    """Severity, title and remedy."""
    one = words.one
    if not asleep:
        return "note", f"All {groups} {one}s of {words.whole} carry information about x.", "Nothing to do."
    if len(asleep) == groups:
        return "note", f"None of the {groups} {one}s carries information about x.", "See the check latents_in_use."
    if len(asleep) == 1:
        title = f"{one.capitalize()} {asleep[0]} of {groups} sleeps: it carries no information about x."
    else:
        named = f"{', '.join(map(str, asleep[:-1]))} and {asleep[-1]}"
        title = f"{one.capitalize()}s {named} of {groups} sleep: they carry no information about x."
    return "warning", title, words.wake
