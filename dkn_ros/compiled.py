"""numba's compiler with a cache on disk where there is one to write to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit` whose result is kept on disk: beside the module, or in the user's cache folder.

    Where neither can be written, as in a read-only installation run without a home, numba refuses to compile at all;
    then it compiles anew in every process, which takes some seconds of the node's warm-up.
    """

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            made: Callable[..., Any] = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function ...: no locator available"
            made = numba.njit(**options)(function)
        return made

    return compile_
