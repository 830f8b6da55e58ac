"""An objective as one compiled function of data and noise.

.. math:: (x, \\epsilon) \\mapsto \\big(\\mathcal{L}(x; \\theta, \\phi), \\nabla_{\\theta, \\phi}\\big)

`torch.compile` sees the whole of it, networks and densities and their derivatives, and makes a few loops of what would
be some hundred operations. What is random stays outside: noise is drawn before the call, from the run's generator,
in the order in which the objective asks for it (:mod:`elbowroom.model.noise`), so that a compiled run has the random
numbers of an eager one.

A compiled function is made for one shape of its inputs. The shapes that a run has are known: full batches, and a
smaller one at the end of an epoch, which is left to PyTorch. So nothing is compiled in the middle of a run, but for a
second number of draws where one was asked for.
"""

from __future__ import annotations

import errno
import functools
import os
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import exc
from torch._dynamo.exc import TorchDynamoException, Unsupported, UserError
from torch._inductor import list_mode_options
from torch._inductor.compile_fx import compile_fx
from torch._inductor.exc import InvalidCxxCompiler

from elbowroom.data.batch import Batch
from elbowroom.errors import ElbowroomError
from elbowroom.learners.execution import Objective, ObjectiveValue, eager
from elbowroom.learners.learner import untouched
from elbowroom.model.latent import Pair
from elbowroom.model.noise import CannotPrepareError, Prepared, Recorder
from elbowroom.progress import Announce

__all__ = ["Compiled"]

_MOST_GRAPHS = 8  # functions of one run; more would be a sign that something changes at every step

# older versions of torch have another name for it
_TooManyError: type[Exception] = getattr(exc, "FailOnRecompileLimitHit", TorchDynamoException)
_FAILURES = (TorchDynamoException, _TooManyError, OSError)
_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.ENOENT, errno.EEXIST}


class Compiled:
    """Computes an objective and its gradient by one compiled function of batch and noise.

    Args:
        rows: of a full batch; smaller ones are run by :func:`eager`.
        required: whether what cannot be compiled is an error. Otherwise it is announced, and run by :func:`eager`.
        announce: told once why nothing is compiled.
        mode: of `torch.compile`, "reduce-overhead" for CUDA graphs; None for its default.
    Attributes:
        graphs: functions compiled so far.
        given_up: whether compiling has failed, and all is run by :func:`eager`.
    Raises:
        ElbowroomError: ``required``, and there is no compiler, or the compiler fails.
    """

    def __init__(self, rows: int, *, required: bool = False, announce: Announce, mode: str | None = None) -> None:
        self.rows = rows
        self.graphs = 0
        self._required, self._announce, self._mode = required, announce, mode
        self._functions: dict[Any, _Function] = {}
        self.given_up = False
        if not _traces_gradients():
            self._give_up(
                ElbowroomError(
                    f"The objective cannot be compiled, because torch {torch.__version__} does not compile gradients.",
                    "Install torch 2.13 or later, or set --runtime.compile off.",
                )
            )

    def __call__(
        self,
        objective: Objective,
        pair: Pair,
        batch: Batch,
        *tensors: Tensor,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> ObjectiveValue:
        known = None
        if len(batch) == self.rows and not self.given_up:
            known = self._function(objective, pair, batch, tensors, settings)
        if known is None:
            return eager(objective, pair, batch, *tensors, generator=generator, **settings)
        before = None if generator is None else generator.get_state()
        try:
            return known(pair, batch, tensors, generator)
        except _FAILURES as error:
            if generator is not None and before is not None:
                generator.set_state(before)  # what follows draws the same
            self._give_up(_refusal(error), error)
            return eager(objective, pair, batch, *tensors, generator=generator, **settings)

    def _function(
        self,
        objective: Objective,
        pair: Pair,
        batch: Batch,
        tensors: tuple[Tensor, ...],
        settings: Mapping[str, Any],
    ) -> _Function | None:
        """The function for inputs of this kind, made now where there is none; None where none can be made."""
        named = sorted((name, _identity(value)) for name, value in settings.items())
        key = (objective, *named, _kind(batch), *(tuple(tensor.shape) for tensor in tensors))
        known = self._functions.get(key)
        if known is not None or len(self._functions) == _MOST_GRAPHS:
            return known
        made = _Function(objective, settings, backend=self._backend)
        try:
            made.record(pair, batch, tensors)
        except CannotPrepareError as error:
            self._give_up(_refusal(error), error)
            return None
        try:
            made.compile(pair, batch, tensors)
        except _FAILURES as error:
            self._give_up(_refusal(error), error)
            return None
        self._functions[key] = made
        return made

    def _give_up(self, refusal: ElbowroomError, cause: Exception | None = None) -> None:
        if self._required:
            raise refusal from cause
        self._announce(f"{refusal.problem} Training continues without the compiler. {refusal.remedy}")
        self.given_up = True

    def _backend(self, graph: torch.fx.GraphModule, examples: list[Tensor], **options: Any) -> Any:
        """What `torch.compile` does with a graph by default, counted."""
        patches = list_mode_options(self._mode) if self._mode else None
        function = compile_fx(graph, examples, config_patches=patches)
        self.graphs += 1  # the compiler may have asked, by an exception, to be given the graph anew
        return function


class _Function:
    """An objective and its gradient, compiled for one shape of its inputs."""

    def __init__(self, objective: Objective, settings: Mapping[str, Any], *, backend: Callable[..., Any]) -> None:
        self._objective, self._settings, self._backend = objective, settings, backend
        self._recorder: Recorder | None = None
        self._compiled: Callable[..., Any] | None = None

        def value_and_gradient(
            pair: Pair,
            weights: list[nn.Parameter],
            data: tuple[Tensor, Tensor | None, Tensor | None],
            tensors: tuple[Tensor, ...],
            drawn: list[Tensor],
        ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor | None, ...]]:
            x, context, mask = data
            batch = Batch(x, None, context, mask)
            value, parts = objective(pair, batch, *tensors, generator=Prepared(drawn), **settings)
            mean = value.mean()
            gradient = torch.autograd.grad(mean.neg(), weights, allow_unused=True)
            return mean.detach(), {name: part.mean() for name, part in parts.items()}, gradient

        # the compiler counts and keeps its functions by code object, and this one is that of every run in the process
        code = value_and_gradient.__code__.replace()
        self._value_and_gradient = types.FunctionType(
            code, value_and_gradient.__globals__, "value_and_gradient", None, value_and_gradient.__closure__
        )

    def record(self, pair: Pair, batch: Batch, tensors: tuple[Tensor, ...]) -> None:
        """Finds what is drawn, and leaves everything as it was."""
        self._recorder = Recorder(torch.Generator(batch.x.device))
        with untouched(pair):
            self._objective(pair, batch, *tensors, generator=self._recorder, **self._settings)

    def compile(self, pair: Pair, batch: Batch, tensors: tuple[Tensor, ...]) -> None:
        """Compiles, by a call that leaves everything as it was."""
        self._compiled = torch.compile(self._value_and_gradient, fullgraph=True, dynamic=False, backend=self._backend)
        with untouched(pair), _tracing_gradients():
            self(pair, batch, tensors, torch.Generator(batch.x.device))

    def __call__(
        self, pair: Pair, batch: Batch, tensors: tuple[Tensor, ...], generator: torch.Generator | None
    ) -> ObjectiveValue:
        assert self._recorder is not None and self._compiled is not None  # see record() and compile()
        drawn = [] if generator is None else self._recorder.draw(generator)
        weights = [weight for weight in pair.parameters() if weight.requires_grad]
        given = (pair, weights, (batch.x, batch.context, batch.mask), tensors, drawn)
        try:
            value, parts, gradient = self._compiled(*given)
        except Unsupported:  # it is compiled anew where something outside has changed, such as the number of threads
            with _tracing_gradients():
                value, parts, gradient = self._compiled(*given)
        for weight, slope in zip(weights, gradient, strict=True):
            weight.grad = slope if slope is None else _laid_out_as(weight, slope)
        return ObjectiveValue(value, parts)


def _identity(setting: Any) -> Any:
    """What a setting is known by: of a partial function, what it is made of, since two of the same are not equal."""
    if isinstance(setting, functools.partial):
        return setting.func, setting.args, tuple(sorted(setting.keywords.items()))
    return setting


def _laid_out_as(weight: Tensor, slope: Tensor) -> Tensor:
    """The gradient in the weight's own order in memory, which fused optimisers count on."""
    return slope if slope.stride() == weight.stride() else torch.empty_like(weight).copy_(slope)


def _kind(batch: Batch) -> tuple[Any, ...]:
    return tuple(None if part is None else (part.shape, part.dtype) for part in (batch.x, batch.context, batch.mask))


def _traces_gradients() -> bool:
    """Whether this torch can put a backward pass into the function that it compiles."""
    return hasattr(torch._dynamo.config, "trace_autograd_ops")


def _tracing_gradients() -> AbstractContextManager[None]:
    """Lets a backward pass be part of what is compiled: off by default, and looked at when something is compiled."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(trace_autograd_ops=True)
    return patched


def _refusal(error: Exception) -> ElbowroomError:
    """Why something was not compiled, and what can be done about it."""
    leave = "set --runtime.compile off"
    causes = list(_causes(error))
    if any(isinstance(cause, InvalidCxxCompiler) for cause in causes):
        named = os.environ.get("CXX", "g++")
        return ElbowroomError(
            f"The objective cannot be compiled, because there is no C++ compiler ('{named}' does not run).",
            f"Install g++ or clang, name it with the environment variable CXX, or {leave}.",
        )
    refused = next((cause for cause in causes if isinstance(cause, OSError) and cause.errno in _CANNOT_WRITE), None)
    if refused is not None:
        where = f" ({refused.filename})" if refused.filename else ""
        return ElbowroomError(
            f"The objective cannot be compiled, because the compiler's cache{where} cannot be written: "
            f"{refused.strerror or refused}.",
            f"Name a folder that can be with the environment variable TORCHINDUCTOR_CACHE_DIR, or {leave}.",
        )
    if isinstance(error, CannotPrepareError):
        return ElbowroomError(f"The objective cannot be compiled. {error.problem}", f"Otherwise {leave}.")
    if isinstance(error, _TooManyError) and _TooManyError is not TorchDynamoException:
        return ElbowroomError(
            "The objective cannot be compiled once and for all, because something in it changes from step to step.",
            f"Look at it with TORCH_LOGS=recompiles, or {leave}.",
        )
    if isinstance(error, Unsupported | UserError):
        first = _first_line(error)
        return ElbowroomError(
            f"The objective cannot be compiled, because torch.compile does not understand a part of it ({first}).",
            f"Write the model without branches that depend on values, or {leave}.",
        )
    inner = next((cause for cause in causes if not isinstance(cause, TorchDynamoException)), error)
    what = f"{type(inner).__name__}: {_first_line(inner)}"
    return ElbowroomError(
        f"The objective cannot be compiled, because the compiler failed ({what}).",
        f"See that the C++ compiler works, or {leave}.",
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message").rstrip(".")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
