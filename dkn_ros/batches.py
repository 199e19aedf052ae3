"""The batches of a training, in the order of its steps, drawn ahead of them by a thread or by processes.

The crops of a step come one after the other from one generator of (seed, step), and how much of it a crop uses depends
on the crop; so a batch is drawn whole.  What is divided, among the workers of a process and among processes that train
together, are the steps: of N processes number r draws the batches of the steps r, r + N, r + 2N, ..., and sends each
to the others.  So every batch is drawn once, and is the same whoever draws it.

One core (AMD EPYC) draws 300 crops of 144 x 144 pixels a second, 490 of 96 x 96, and renders 5 scenes; in a worker 210
(6 crops a step) to 270 (64).  A GPU that makes 100 steps a second of 6 such crops needs 3 cores, with 64 crops 24.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dkn_ros.config import TrainingConfig
from dkn_ros.ranks import Ranks
from dkn_ros.recipe import recipe_at
from dkn_ros.synthetic.samples import SceneStore
from dkn_ros.traits import Traits

Batch = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Guidance, target, validity, truth and traits."""
MOST_WORKERS = 16
"""Nobody who gives no number wants more: each holds some 370 MB, and 16 such cores draw 4,000 crops a second."""


def workers_of(requested: int, ranks: Ranks, cores: int) -> int:
    """Processes that draw for this one: as requested; 0 is none on a CPU and its share of the cores on a GPU."""
    if requested or ranks.device.type == "cpu":
        return requested
    return min(MOST_WORKERS, max(1, cores // ranks.size - 1))


def batch_of(scenes: SceneStore, config: TrainingConfig, step: int) -> Batch:
    """The whole batch of a step."""
    rng = np.random.default_rng((config.seed, 2, step))
    now = recipe_at(config, step)
    samples = [scenes.draw(now, rng) for _ in range(config.batch)]
    guidance, target, validity, truth, traits = (
        torch.from_numpy(np.stack([getattr(s, name) for s in samples]))
        for name in ("guidance", "target", "validity", "truth", "traits")
    )
    return guidance, target[:, None], validity[:, None], truth[:, None], traits


class Batches:
    """What every step works on, on the device: this process's share of its batch.

    scenes: with a file of their own (`SceneStore.of_file`) if there are workers, which map it.
    workers: processes that draw; 0: a thread of this one.  first: the step to begin with.
    """

    def __init__(
        self, scenes: SceneStore, config: TrainingConfig, ranks: Ranks, workers: int = 0, first: int = 0
    ) -> None:
        self._config, self._ranks, self._step = config, ranks, first
        own = range(first + (ranks.rank - first) % ranks.size, config.iterations, ranks.size)
        self._drawn = _by_processes(scenes, config, own, workers, ranks) if workers else _by_thread(scenes, config, own)
        self._begun = False
        self.waited = 0.0
        """Seconds that steps waited for batches that this process draws; less the first, before which workers start."""

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawn.close()

    def next(self) -> Batch:
        """The share of the next step; crops along the first axis."""
        ranks, config = self._ranks, self._config
        source, batch = self._step % ranks.size, None
        if source == ranks.rank:
            start = time.monotonic()
            batch = next(self._drawn)
            self.waited += time.monotonic() - start if self._begun else 0.0
            self._begun = True
        self._step += 1
        on_device = [
            torch.empty(shape, device=ranks.device) if batch is None else batch[i].to(ranks.device, non_blocking=True)
            for i, shape in enumerate(_shapes(config))
        ]
        if ranks.size > 1:
            for tensor in on_device:
                ranks.broadcast(tensor, source)
            on_device = [tensor[ranks.share(config.batch)] for tensor in on_device]
        guidance, target, validity, truth, traits = on_device
        return guidance, target, validity, truth, traits


def _shapes(config: TrainingConfig) -> list[tuple[int, ...]]:
    image = (config.crop, config.crop)
    channels = 3 if config.options.get("rgb", False) else 1
    return [(config.batch, channels, *image), *[(config.batch, 1, *image)] * 3, (config.batch, len(Traits._fields))]


def _by_thread(scenes: SceneStore, config: TrainingConfig, steps: Sequence[int]) -> Generator[Batch, None, None]:
    """Batches of `steps`; the next one is drawn while the network works on this one."""
    with ThreadPoolExecutor(1, "samples") as drawer:
        ahead: list[Future[Batch]] = []
        for step in steps:
            ahead.append(drawer.submit(batch_of, scenes, config, step))
            if len(ahead) > 1:
                yield ahead.pop(0).result()
        for drawn in ahead:
            yield drawn.result()


def _by_processes(
    scenes: SceneStore, config: TrainingConfig, steps: Sequence[int], workers: int, ranks: Ranks
) -> Generator[Batch, None, None]:
    """Batches of `steps`, in order, from a pool of processes, each some steps ahead; pinned for a GPU."""
    assert scenes.path is not None
    loader = DataLoader(
        _Drawn(scenes.path, config),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_drawn,
        pin_memory=ranks.device.type == "cuda",
        # Not forked: numba's and OpenCV's threads of this process do not live on in a fork.
        multiprocessing_context="spawn",
        worker_init_fn=_begin,
    )
    for batch in loader:
        guidance, target, validity, truth, traits = batch
        yield guidance, target, validity, truth, traits


class _Drawn(Dataset):
    """Step -> batch, in a worker, which maps the scenes when it is first asked."""

    def __init__(self, path: Path, config: TrainingConfig) -> None:
        self._path, self._config = path, config
        self._scenes: SceneStore | None = None

    def __getitem__(self, step: int) -> Batch:
        self._scenes = self._scenes or SceneStore.of_file(self._path)
        return batch_of(self._scenes, self._config, step)


def _as_drawn(batch: Any) -> Any:
    return batch


def _begin(_number: int) -> None:
    import numba

    cv2.setNumThreads(1)
    numba.set_num_threads(1)


@contextmanager
def scene_file(config: TrainingConfig, path: Path, ranks: Ranks, progress: bool) -> Iterator[SceneStore]:
    """The scenes of a recipe in a file that all processes map, 2.2 MB each; each renders its share; gone in the end."""
    try:
        if ranks.first:
            SceneStore.make_file(path, config.scenes)
        ranks.wait()
        SceneStore.render_into(path, config.seed, range(ranks.rank, config.scenes, ranks.size), progress)
        ranks.wait()
        yield SceneStore.of_file(path)
    finally:
        if ranks.first:
            path.unlink(missing_ok=True)  # where it is mapped it lives on
