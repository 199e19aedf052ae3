"""numba's compiler with a cache on disk where there is one to write to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core import types


def compiled(*signatures: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` whose result is kept on disk: beside the module, or in the user's cache folder.

    signatures: compile for these types at once, and for no others; without them, for whatever comes, when it comes.
    Where neither folder can be written, as in a read-only installation run without a home, numba refuses to compile at
    all; then it compiles anew in every process, which takes some seconds of the node's start.
    """

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        njit: Any = numba.njit
        given = (list(signatures),) if signatures else ()
        try:
            made: Callable[..., Any] = njit(*given, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function ...: no locator available"
            made = njit(*given, **options)(function)
        return made

    return compile_


def any_image(kind: Any, dimensions: int) -> types.Array:
    """The type of an array that is only read, whatever its strides: camera messages come as views of all kinds.

    Without it numba compiles anew, in the middle of a running node, for the first image with padded rows.
    """
    return types.Array(kind, dimensions, "A", readonly=True)
