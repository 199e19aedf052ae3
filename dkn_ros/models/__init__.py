"""The networks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from dkn_ros.models.fdkn import FDKN, FDKNOptions

__all__ = ["FDKN", "MODELS", "FDKNOptions", "build_model"]

MODELS: dict[str, tuple[type[FDKN], type[FDKNOptions]]] = {"fdkn": (FDKN, FDKNOptions)}


def build_model(name: str, options: Mapping[str, Any] | None = None) -> FDKN:
    """An untrained network of the named class; ValueError for a name or an option that does not exist."""
    if name not in MODELS:
        raise ValueError(f"model is {name!r}; wanted: one of {', '.join(MODELS)}")
    model, kind = MODELS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(str(option) for option in options or {} if option not in known)
    if unknown:
        raise ValueError(f"model {name} has no option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return model(kind(**(options or {})))
