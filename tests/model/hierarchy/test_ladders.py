"""Hierarchical decoders: values and residuals are inverses, and the model is the same as the centred one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import hierarchy_cases as cases
from elbowroom.errors import ElbowroomError
from elbowroom.model.draws import draw
from elbowroom.model.hierarchy.ladders import VectorLadder

VECTORS = ("top-down", "bottom-up")


@pytest.mark.parametrize("context_dim", [0, 2])
def test_values_and_residuals_are_inverses(context_dim: int) -> None:
    case = cases.nonlinear("top-down", context_dim=context_dim)
    u = torch.randn(4, 6, 7, generator=cases.seeded(), dtype=torch.float64)
    values = case.ladder.values(u, case.context)
    assert [value.shape for value in values] == [(4, 6, 2), (4, 6, 3), (4, 6, 2)]
    back, log_scale = case.ladder.residuals(values, case.context)
    torch.testing.assert_close(back, u)

    def flat(u: Tensor) -> Tensor:  # of one draw of one example
        context = None if case.context is None else case.context[:1]
        return torch.cat(case.ladder.values(u[None], context), -1)[0]

    jacobian = torch.autograd.functional.jacobian(flat, u[0, 0])
    torch.testing.assert_close(log_scale[0, 0], torch.linalg.slogdet(jacobian).logabsdet)


def test_output_is_that_of_the_last_value() -> None:
    case = cases.nonlinear("top-down")
    u = torch.randn(4, 6, 7, generator=cases.seeded(), dtype=torch.float64)
    last = case.ladder.values(u, None)[-1]
    torch.testing.assert_close(case.ladder(u), case.ladder.decoder(last))


@torch.no_grad()
def test_samples_are_those_of_the_centred_model() -> None:
    """Ancestral sampling of the groups' values, written out here, against draws of residuals through the decoder."""
    model = cases.linear((2, 2), dim=3).model
    conditional, n, generator = model.ladder.conditionals[0], 40_000, cases.seeded()
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    mean, log_scale = conditional(z).chunk(2, -1)
    z = mean + log_scale.exp() * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    mean = model.ladder.decoder(z)[:, 0]
    centred = mean + model.noise_scale * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    ours = model.sample(n, generator=generator).x

    def moments(x: Tensor) -> Tensor:
        return torch.cat([x, torch.einsum("ni,nj->nij", x, x).flatten(1)], 1)

    a, b = moments(centred), moments(ours)
    assert ((a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / n).sqrt()).abs().max() < 4


@pytest.mark.parametrize("kind", cases.KINDS)
def test_going_on_from_the_guides_state_is_the_same(kind: str) -> None:
    case = cases.nonlinear(kind, context_dim=2)
    q = case.guide(case.x, case.context)
    z = draw(q, (3,), generator=cases.seeded())

    def log_likelihood() -> Tensor:
        return case.model.log_likelihood(case.x, z, context=case.context)

    plain = log_likelihood()
    weights = list({id(w): w for w in [*case.model.parameters(), *case.guide.parameters()]}.values())
    known = torch.autograd.grad(plain.sum(), weights, retain_graph=True, allow_unused=True, materialize_grads=True)
    calls = _count_advances(case.ladder)
    with q.shared(z):
        shared = log_likelihood()
    assert calls == []  # nothing is computed again
    torch.testing.assert_close(shared, plain)
    found = torch.autograd.grad(shared.sum(), weights, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, known)
    with q.shared(z.clone()):  # other values of z, for all that is known
        torch.testing.assert_close(log_likelihood(), plain)
    assert calls == [1, 2]
    torch.testing.assert_close(log_likelihood(), plain)


def _count_advances(ladder: object) -> list[int]:
    calls: list[int] = []
    advance = ladder.advance  # type: ignore[attr-defined]

    def counted(group: int, *given: object) -> object:
        calls.append(group)
        return advance(group, *given)

    ladder.advance = counted  # type: ignore[attr-defined]
    return calls


def test_what_was_drawn_without_a_gradient_is_not_shared_with_one() -> None:
    case = cases.nonlinear("top-down")
    q = case.guide(case.x)
    with torch.no_grad():
        z = draw(q, (2,), generator=cases.seeded())
    with q.shared(z):
        assert case.model.log_likelihood(case.x, z).requires_grad


@pytest.mark.parametrize("kind", ["top-down", "grid"])
def test_every_group_and_the_context_reach_the_output(kind: str) -> None:
    case = cases.nonlinear(kind, context_dim=2)
    u = torch.randn(6, sum(case.ladder.sizes), generator=cases.seeded(), dtype=torch.float64)
    before, end = case.ladder(u, case.context), 0
    for size in case.ladder.sizes:
        moved = u.clone()
        moved[:, end : end + size] += 1.0
        assert (case.ladder(moved, case.context) - before).abs().amax((1, 2)).min() > 1e-3
        end += size
    assert (case.ladder(u, case.context + 1) - before).abs().amax((1, 2)).min() > 1e-3


def test_no_group_is_refused() -> None:
    with pytest.raises(ElbowroomError, match="no groups"):
        VectorLadder((), (1, 3))


def test_log_scales_are_bounded() -> None:
    ladder = VectorLadder((1, 1), (1, 2), hidden=(), between=())
    with torch.no_grad():
        ladder.conditionals[0].output.weight.zero_()
        ladder.conditionals[0].output.bias.copy_(torch.tensor([0.0, 1000.0]))
    value = ladder.values(torch.tensor([[0.0, 1.0]]), None)[1]
    assert math.isclose(value.item(), math.exp(3.0), rel_tol=1e-6)
