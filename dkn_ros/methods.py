"""What an evaluation compares: the methods that upsample depth, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dkn_ros.models.classical import BASELINES, ximgproc
from dkn_ros.pipeline import Pipeline

FloatImage = NDArray[np.float32]
Method = Callable[[NDArray[np.uint8], FloatImage], FloatImage]
"""Colour HxWx3 and depth hxw (metres, NaN invalid) -> depth HxW (metres, NaN unknown)."""

REFERENCE = "bicubic"
"""The method that every evaluation has."""


def select(
    pipelines: Sequence[Pipeline], baselines: Sequence[str], sequence: bool = False
) -> tuple[dict[str, Method], dict[str, Method], dict[str, str]]:
    """The methods of `evaluate` by name: networks and baselines, and what each is.

    baselines: of bicubic (which `evaluate` always has), guided, jbu and fgs, or none.  Weights that are there in
    several number types carry these in their names.  sequence: whether frames follow each other in time; else each is
    taken as the first of its camera, so that no result depends on which came before.  Raises ValueError for others, for
    weights that are given twice, and if OpenCV lacks the filters.
    """
    wanted = [name for name in baselines if name not in (REFERENCE, "none")]
    unknown = sorted(set(wanted) - set(BASELINES))
    if unknown:
        raise ValueError(f"unknown baseline {', '.join(unknown)}; known: {REFERENCE}, {', '.join(BASELINES)}, none")
    if wanted:
        ximgproc()  # before the work, not in the middle of it
    networks: dict[str, Method] = {}
    about = {REFERENCE: "nearest measured depth in holes, bicubic resampling"}
    about |= {name: (BASELINES[name].__doc__ or "").splitlines()[0] for name in wanted}
    given = Counter(pipeline.card.sha256 for pipeline in pipelines)
    for pipeline in pipelines:
        card, kind = pipeline.card, str(pipeline.precision).removeprefix("torch.")
        suffix = f", {kind}" if given[card.sha256] > 1 else ""
        taken = about.get(f"{card.name}{suffix}", "")
        # Two trainings may well have called their weights the same.
        name = f"{card.name} {card.sha256[:8]}{suffix}" if taken else f"{card.name}{suffix}"
        if name in about or taken.endswith(card.sha256):
            raise ValueError(f"weights {card.name} are given twice, both in {kind}; wanted: each once")
        networks[name] = _network(pipeline, sequence)
        about[name] = f"{card.file}, sha256 {card.sha256}"
    return networks, {name: BASELINES[name] for name in wanted}, about


def twins(pipelines: Sequence[Pipeline], networks: Sequence[str]) -> dict[str, str]:
    """Names of networks -> names of what they are to give the same as: the same weights in the first number type.

    networks: the names that `select` gave the pipelines.
    """
    found, first = {}, dict[str, str]()
    for pipeline, name in zip(pipelines, networks, strict=True):
        original = first.setdefault(pipeline.card.sha256, name)
        if original != name:
            found[name] = original
    return found


def _network(pipeline: Pipeline, sequence: bool) -> Method:
    def enhanced(rgb: NDArray[np.uint8], low: FloatImage) -> FloatImage:
        if not sequence:
            pipeline.forget_camera()
        return pipeline.enhance(rgb, low).depth

    return enhanced
