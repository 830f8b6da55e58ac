"""Inspection of foreign functions: find the networks inside them, and explain errors of their first calls.

A decoder is often not a module but a function around one, ``lambda z: net(z)``. To put ``net`` into evaluation mode, it
has to be found first: in the function's closure, among the globals that its code names, or on the object whose method
it is. If it cannot be found, it can still be tested: a network in training mode with batch normalisation gives another
result for an example alone than in a batch, and one with dropout gives another result the second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.errors import ElbowroomError

__all__ = ["first_call", "networks_of", "precisions", "require_same_answer", "shape_remedy"]

_SAME = 1e-3  # of the largest output: more than rounding in float32, less than the effect of batch statistics


def networks_of(*programs: Any) -> list[nn.Module]:
    """The networks that functions call, as far as they can be found.

    Args:
        programs: modules, methods, functions, partial functions, objects.
    Returns:
        Modules, each once; submodules are not listed.
    Example:
        >>> net = nn.Linear(2, 3)
        >>> networks_of(lambda z: net(z)) == [net]
        True
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    for program in programs:
        for module in _search(program, seen, None):
            found.setdefault(id(module), module)
    inside = {id(part) for module in found.values() for part in module.modules() if part is not module}
    return [module for key, module in found.items() if key not in inside]


def _search(thing: Any, seen: set[int], home: str | None) -> Iterator[nn.Module]:
    """Modules inside an object; functions from another Python module than ``home`` are searched only if given."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, nn.Module):
        yield thing
    elif isinstance(thing, partial):
        yield from _search_all([thing.func, *thing.args, *thing.keywords.values()], seen)
    elif isinstance(thing, MethodType):
        yield from _search_all([thing.__self__, thing.__func__], seen)
    elif isinstance(thing, FunctionType):
        if home is None or thing.__module__ == home:
            yield from _search_function(thing, seen)
    elif isinstance(thing, Mapping):
        yield from _search_all(thing.values(), seen)
    elif isinstance(thing, list | tuple):
        yield from _search_all(thing, seen)
    elif not isinstance(thing, Tensor | ModuleType | type):
        yield from (value for value in getattr(thing, "__dict__", {}).values() if isinstance(value, nn.Module))


def _search_all(things: Iterable[Any], seen: set[int]) -> Iterator[nn.Module]:
    for thing in things:
        yield from _search(thing, seen, None)


def _search_function(function: FunctionType, seen: set[int]) -> Iterator[nn.Module]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    yield from _search_all([*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()], seen)
    names = _names(function.__code__)
    for value in [function.__globals__[name] for name in names if name in function.__globals__]:
        if isinstance(value, ModuleType):  # mynets.decoder
            yield from (vars(value)[name] for name in names if isinstance(vars(value).get(name), nn.Module))
        else:
            yield from _search(value, seen, function.__module__)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name without a value yet
        return False


def _names(code: CodeType) -> list[str]:
    """Names that the code of a function uses, including that of inner functions."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def precisions(*modules: nn.Module) -> list[torch.dtype]:
    """The floating-point types of the modules' weights, each once."""
    return list(dict.fromkeys(w.dtype for m in modules for w in m.parameters() if w.dtype.is_floating_point))


def first_call(program: Callable[..., Any], argument: Tensor, who: str, remedy: str) -> Any:
    """Calls a foreign function; an exception becomes an error that names the input.

    Args:
        program: a function of one tensor.
        argument: its argument.
        who: its name in messages.
        remedy: the remedy of the error.
    Raises:
        ElbowroomError: for any exception, which is chained.
    """
    try:
        return program(argument)
    except ElbowroomError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        precision = str(argument.dtype).removeprefix("torch.")
        raise ElbowroomError(
            f"The {who} fails on a tensor of shape {tuple(argument.shape)}, {precision}: "
            f"{type(error).__name__}: {lines[0]}",
            remedy,
        ) from error


def shape_remedy(event_shape: Sequence[int]) -> str:
    """A remedy: shapes in which an encoder may expect examples of this shape."""
    size = math.prod(event_shape)
    side = math.isqrt(size)
    if len(event_shape) >= 2:
        picture = tuple(event_shape) if len(event_shape) == 3 else (1, *event_shape[-2:])
    else:
        picture = (1, side, side) if side * side == size else (1, size)
    return (
        f"Give the shape in which it takes an example of {size} elements: input_shape=({size},) flat, "
        f"input_shape={picture} for convolutions; or give data like those that it was trained on."
    )


@torch.no_grad()
def require_same_answer(read: Callable[[Tensor], Sequence[Tensor]], argument: Tensor, who: str) -> None:
    """Refuses a network whose output depends on the rest of its batch, or is random.

    Args:
        read: the network, as a function from a batch to tensors with one row for each of its rows.
        argument: a batch, if possible with two rows or more.
        who: its name in messages.
    Raises:
        ElbowroomError: names which of the two.
    """
    call = partial(first_call, read, who=who, remedy=_EVAL)
    first = call(argument)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(20170801)  # another seed than that of the first call, in case it draws
        again = call(argument)
    alone = call(argument[:1])
    for others, what in (
        (again, "called twice with the same input, it returns different outputs"),
        (alone, "its output for an example depends on the other examples of the batch"),
    ):
        for one, other in zip(first, others, strict=True):
            rows, largest = min(len(one), len(other)), float(one.nan_to_num(0.0, 0.0, 0.0).abs().max())
            if not torch.allclose(one[:rows], other[:rows], rtol=0.0, atol=_SAME * largest, equal_nan=True):
                raise ElbowroomError(f"The {who} is not a deterministic function of each example: {what}.", _EVAL)


_EVAL = (
    "Call .eval() on the network first: in training mode, dropout is random and batch normalisation uses the batch. If "
    "it draws z itself, give a function without the draw."
)
