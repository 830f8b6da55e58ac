"""The largest tensor that a computation makes, for tests of what bounds memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            # of its storage: a view that is expanded takes none
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out
