"""A capture of work on the CPU that keeps the rules of a CUDA graph's, so that work may be tested for them anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Result = TypeVar("Result")
REFUSED = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal")
"""What makes the host wait for the device, or a shape depend on data."""


class Tape(TorchDispatchMode):
    """Records PyTorch's operations with the very tensors that they got and gave; replays them on those.

    As with a CUDA graph, Python does not run again, numbers stay as they were, and every replay uses the same memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(REFUSED):
            raise RuntimeError(f"operation not permitted when stream is capturing\n{func}")
        with self:  # in inference mode an operation that consists of others arrives here whole
            result = func.decompose(*args, **(kwargs or {}))
        if result is not NotImplemented:
            return result
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            if not _is_view(func):
                for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def _is_view(func: Any) -> bool:
    returned = [r.alias_info for r in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


class TapeRecorder:
    """A `graphs.Recorder`."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        self.captures += 1
        work()  # the warm-up
        tape = Tape()
        with tape:
            result = work()

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return replay, result
