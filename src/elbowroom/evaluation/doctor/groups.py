"""A check of hierarchies: how much each group of latents carries, and which ones sleep."""

from __future__ import annotations

from torch import Tensor

from elbowroom.evaluation.doctor.findings import Evidence, Finding, Severity
from elbowroom.evaluation.doctor.inputs import DoctorInput
from elbowroom.evaluation.doctor.latents import is_nothing, log_likelihood
from elbowroom.inference.objectives import elbo_terms
from elbowroom.model.draws import draw
from elbowroom.model.guides import guide_distribution
from elbowroom.model.hierarchy.ladders import Ladder
from elbowroom.model.latent import LatentModel, evaluation_mode
from elbowroom.numerics import mean_and_stderr

__all__ = ["group_sizes", "groups_in_use"]


def group_sizes(model: LatentModel) -> tuple[int, ...]:
    """Latents of each group of a hierarchy, the top group first; of any other model none.

    Example:
        >>> from elbowroom.model.hierarchy.oracles import LinearHierarchy
        >>> group_sizes(LinearHierarchy((1, 2), dim=4, seed=0))
        (1, 2)
    """
    network = model.likelihood.network
    return network.sizes if isinstance(network, Ladder) and len(network.sizes) > 1 else ()


def groups_in_use(inputs: DoctorInput) -> list[Finding]:
    r"""What each group of a hierarchy carries, on held-out data.

    .. math:: \mathrm{KL}_l = \mathbb{E}_n \mathbb{E}_q \, \mathrm{KL}\big(q(u_l | u_{<l}, x_n) \,\|\, p(u_l)\big),
        \qquad \mathrm{gain}_l = \mathbb{E}_n \log p(x_n | u_n)
        - \mathbb{E}_n \log p(x_n | u_{n, 1}, \ldots, u_{m, l}, \ldots, u_{n, L})

    The gain is what the decoder gains from the right residuals of one group, the others being right: those of group l
    are drawn for another example m ≠ n. A group sleeps if its KL, or from the bottom up its gain, counts as nothing:
    it is below 0.1 nats, and below 0.5 nats with four standard errors added.

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
    sizes = group_sizes(model)
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
        name = f"group {group}, {size} latent{'s' * (size > 1)}"
        if rate is not None:
            evidence.append(Evidence(f"KL of {name}", *mean_and_stderr(rate)))
        evidence.append(Evidence(f"loss of the decoder if {name}, is another example's", *mean_and_stderr(gain)))
        if is_nothing(*mean_and_stderr(gain if rate is None else rate)):
            asleep.append(group)
    severity, title, remedy = _in_use(asleep, len(sizes))
    return [Finding("groups_in_use", severity, title, tuple(evidence), _GROUPS, remedy)]


def _exchanged(u: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """u with one group after the other taken from another example."""
    found, end = [], 0
    for size in sizes:
        own = slice(end, end := end + size)
        other = u.clone()
        other[:, own] = u[:, own].roll(1, 0)
        found.append(other)
    return found


_GROUPS = (
    "Group 1 is the top one. A group whose q(u | x) is its prior carries no information about x. It is often a lower "
    "group at the start of training, or an upper one if the groups near x suffice; such a group costs time and adds "
    "nothing to the bound."
)


def _in_use(asleep: list[int], groups: int) -> tuple[Severity, str, str]:
    """Severity, title and remedy."""
    if not asleep:
        return "note", f"All {groups} groups of the hierarchy carry information about x.", "Nothing to do."
    if len(asleep) == groups:
        return "note", f"None of the {groups} groups carries information about x.", "See the check latents_in_use."
    if len(asleep) == 1:
        title = f"Group {asleep[0]} of {groups} sleeps: it carries no information about x."
    else:
        named = f"{', '.join(map(str, asleep[:-1]))} and {asleep[-1]}"
        title = f"Groups {named} of {groups} sleep: they carry no information about x."
    return "warning", title, _WAKE


_WAKE = (
    "Keep groups awake while the others learn: --objective.warmup-epochs 10, and with a guide from the top down "
    "--objective.free-bits 0.5 --objective.free-bits-over batch. Or train with fewer groups."
)
