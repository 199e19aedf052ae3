"""The training loop: procedural scenes, the camera model, one network; resumable to the same result.

Every random choice of step i comes from (seed, i), so a run that was interrupted goes on as if it had not been, also
with another number of processes (`ranks`), whose result differs by the order of summation alone.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import dkn_ros
from dkn_ros.batches import Batch, Batches, scene_file, workers_of
from dkn_ros.config import TrainingConfig
from dkn_ros.device import available_cores, exact_float32, resolve_device
from dkn_ros.engine import TritonError
from dkn_ros.models import FDKN, build_model
from dkn_ros.preprocess import guidance_image, target_image
from dkn_ros.ranks import Ranks, share_norms
from dkn_ros.recipe import check_stages, recipe_at, unlike
from dkn_ros.synthetic.degradation import CameraModel, degrade
from dkn_ros.synthetic.samples import FRAME_HEIGHT, RATIOS, SceneStore
from dkn_ros.synthetic.scene import Scene
from dkn_ros.training_kernels import use_triton
from dkn_ros.weights import Card, load_model, save_weights

FILLED_WEIGHT = 0.5
"""Weight in the loss of pixels whose input was filled in: what lies in a hole can often not be known."""
VALIDATION_SCENES = 6
VALIDATION_SEED = 900_000_000


def loss_of(output: Tensor, truth: Tensor, validity: Tensor, square_weight: float = 0.0) -> Tensor:
    """Mean absolute error in parts of the depth range, the loss of the paper, and squared error by its weight.

    Absolute error alone makes edges sharp where the camera leaves their place open, and so, measured in RMSE, worse
    than bicubic's blur; with the squared error the result hedges, but only where it must.

    Adding each crop's root mean square error, nearer to what is measured in the end, was tried and given up: it gives
    a flat crop the same pull as one full of edges, and after 1000 steps the guidance was still not used.
    """
    total, weight = loss_sums(output, truth, validity, square_weight)
    return total / weight


def loss_sums(output: Tensor, truth: Tensor, validity: Tensor, square_weight: float) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `loss_of`: sums over some crops of a batch, which add up."""
    weight = torch.where(validity > 0, 1.0, FILLED_WEIGHT)
    error = output - truth
    return (weight * (error.abs() + square_weight * error.square())).sum(), weight.sum()


def start_from(model: FDKN, earlier: FDKN) -> None:
    """Begin with the weights of another network; what that was not told (`validity`, `traits`, `alignment`) begins
    without effect.

    Raises ValueError for a network that differs in anything else.
    """
    now, then = model.options, earlier.options
    more = {name: getattr(then, name) or getattr(now, name) for name in ("validity", "traits", "alignment")}
    alike = dataclasses.replace(then, **more)
    unlike = [f.name for f in dataclasses.fields(now) if getattr(now, f.name) != getattr(alike, f.name)]
    if unlike:
        raise ValueError(
            f"start holds a network with {', '.join(f'{name} {getattr(then, name)}' for name in unlike)}; wanted: "
            f"{', '.join(f'{name} {getattr(now, name)}' for name in unlike)}, as in the options"
        )
    state, first = dict(earlier.state_dict()), "target.conv1.weight"
    given, wider = state[first], torch.zeros_like(model.target.conv1.weight)
    images = given.shape[1] - then.told  # the traits stand last, validity between
    wider[:, :images] = given[:, :images]
    first_told = wider.shape[1] - now.told
    wider[:, first_told : first_told + then.told] = given[:, images:]
    state[first] = wider
    model.load_state_dict(state)


class Trainer:
    """A network in training, its optimiser and its running average; `save` and `resume` carry all of it.

    ranks: this process among those that train together and its device, see `ranks.place`; alone, if not given.
    """

    def __init__(self, config: TrainingConfig, output: Path, ranks: Ranks | None = None) -> None:
        largest = max(RATIOS) * 3  # a multiple of this has a whole number of pixels at every ratio that is drawn
        if config.crop % largest or config.crop + 2 * config.misregistration > FRAME_HEIGHT:
            raise ValueError(
                f"crop is {config.crop}; wanted: a multiple of {largest}, at most {FRAME_HEIGHT} with misregistration"
            )
        check_stages(config)
        self.config, self.output = config, output
        self.ranks = ranks or Ranks(resolve_device(config.device, torch.cuda.is_available()))
        if config.batch < self.ranks.size:
            raise ValueError(f"batch is {config.batch}, processes {self.ranks.size}; wanted: a crop for each at least")
        self.device = self.ranks.device
        exact_float32(self.device)
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, config.options).to(self.device)
        if config.start:
            start_from(self.model, load_model(config.start)[0])
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True)
        if self.ranks.size > 1:
            share_norms(self.model)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.workers = workers_of(config.workers, self.ranks, available_cores())
        self.waiting: float | None = None
        """Share of the steps' time in this run in which they waited, see `Batches.waited`; None: no step."""
        self._use_triton()

    def _use_triton(self) -> None:
        if self.device.type == "cuda":
            try:
                use_triton(self.model, self.device)
            except TritonError as error:
                if self.ranks.first:
                    print(f"Triton cannot serve here: {error}; plain operations train, slower", file=sys.stderr)

    @property
    def checkpoint(self) -> Path:
        """The file that `save` writes and `resume` reads."""
        return self.output / "checkpoint.pt"

    @property
    def drawers(self) -> str:
        """What draws the batches ahead of the steps, in words."""
        each = f" for each of {self.ranks.size}" if self.ranks.size > 1 else ""
        return f"{self.workers} processes{each}" if self.workers else f"a thread{each}"

    @property
    def _weights(self) -> Path:
        return self.output / f"{self.config.name}.safetensors"

    def save(self) -> None:
        """Write the checkpoint and the loss curve (as numbers and as a picture)."""
        state = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)
        with open(self.output / "loss.csv", "w", newline="", encoding="utf-8") as file:
            names = sorted({name for row in self.history for name in row}, key=lambda name: (name != "step", name))
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.history)
        from dkn_ros.figures import loss_curve

        loss_curve(self.history, self.output / "loss.png")

    def resume(self) -> bool:
        """Go on from a checkpoint, if there is one; ValueError if it belongs to another recipe."""
        if not self.checkpoint.is_file():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        changed = unlike(self.config, state["config"])
        if changed:
            raise ValueError(
                f"{self.checkpoint} was made with other {', '.join(changed)}; remove it or choose another --out"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        return True

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to a hundredth."""
        c = self.config
        if step < c.warm_up:
            return c.learning_rate * (step + 1) / c.warm_up
        progress = (step - c.warm_up) / max(1, c.iterations - c.warm_up)
        return c.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def settings(self, step: int) -> TrainingConfig:
        """The recipe as it is at a step."""
        return recipe_at(self.config, step)

    def train_step(self, batch: Batch) -> float:
        """One optimiser step on this process's share of a batch; returns the loss of the whole."""
        guidance, target, validity, truth, traits = batch
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            output = self.model(guidance, target, validity, traits)
        total, weight = loss_sums(output, truth, validity, self.settings(self.step).square_weight)
        loss = total / self.ranks.sum(weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.sum_gradients(self.model)
        # A crop with one wild depth step must not undo what the others taught.
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return float(self.ranks.sum(loss.detach()))

    def run(self, progress: bool = True) -> Card:
        """Train to the end of the recipe, from the checkpoint if there is one; returns the card of what was saved."""
        self.output.mkdir(parents=True, exist_ok=True)
        progress = progress and self.ranks.first
        resumed = self.resume()
        self.ranks.check_alike(self.step, "checkpoints of steps")
        with (
            self._scenes(progress) as scenes,
            Batches(scenes, self.config, self.ranks, self.workers, self.step) as batches,
        ):
            self._steps(batches, progress, "training (resumed)" if resumed else "training")
        if self.ranks.first:
            card = self.export()
        self.ranks.wait()
        return card if self.ranks.first else load_model(str(self._weights))[1]

    def _scenes(self, progress: bool) -> AbstractContextManager[SceneStore]:
        if self.workers or self.ranks.size > 1:
            return scene_file(self.config, self.output / "scenes.bin", self.ranks, progress)
        return nullcontext(SceneStore(self.config.scenes, self.config.seed, progress))

    def _steps(self, batches: Batches, progress: bool, title: str) -> None:
        bar = tqdm(total=self.config.iterations, initial=self.step, unit="step", disable=not progress, desc=title)
        recent: list[float] = []
        before = self.seconds
        while self.step < self.config.iterations:
            start = time.monotonic()
            recent.append(self.train_step(batches.next()))
            self.seconds += time.monotonic() - start
            bar.update()
            if self.step % 20 == 0:
                bar.set_postfix(loss=f"{np.mean(recent[-100:]):.4f}")
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.iterations:
                if self.ranks.first:
                    self.history.append({"step": self.step, "loss": float(np.mean(recent)), **self.validate()})
                    self.save()
                recent.clear()
        bar.close()
        if self.seconds > before:
            waited = self.ranks.sum(torch.tensor(batches.waited, device=self.device))
            self.waiting = float(waited) / (self.seconds - before)

    def validate(self) -> dict[str, float]:
        """RMSE over bicubic's RMSE on scenes that training does not see, for each ratio; below 1 is better."""
        network = self.average.module.eval()
        assert isinstance(network, FDKN)
        return {
            f"x{factor}_{name}": float(np.mean(list(_ratios(network, self.device, camera))))
            for factor in (2, 4, 8)
            for name, camera in (
                ("clean", CameraModel(factor, "bicubic")),
                ("sensor", CameraModel(factor, "nearest", lateral_noise=0.3, disparity_noise=0.1, shadows=1.0)),
            )
        }

    def export(self) -> Card:
        """Write the averaged weights and their card; the recipe is this configuration."""
        recipe: dict[str, Any] = {
            "config": dataclasses.asdict(self.config),
            "command": "dkn train recipe.yaml, with `config` as recipe.yaml",
            "dkn_ros": dkn_ros.__version__,
            "torch": torch.__version__.split("+")[0],
            "hours": round(self.seconds / 3600, 2),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {self.device.type}"
            + (f", {self.ranks.size} processes" if self.ranks.size > 1 else ""),
        }
        last = {name: round(value, 4) for name, value in self.history[-1].items()} if self.history else {}
        return save_weights(
            self.average.module,
            self._weights,
            model=self.config.model,
            options=dict(self.config.options),
            licence=self.config.licence,
            description="trained by `dkn train` on the package's procedural scenes alone",
            recipe=recipe,
            metrics={"validation (RMSE over bicubic's, unseen procedural scenes)": last},
        )


def _ratios(network: FDKN, device: torch.device, camera: CameraModel) -> Iterator[float]:
    for i in range(VALIDATION_SCENES):
        frame = Scene(VALIDATION_SEED + i).frame(320, 240, time=1.0)
        low = degrade(frame.depth, camera, np.random.default_rng(i))
        height, width = frame.depth.shape
        target = target_image(low, width, height)
        truth = (frame.depth - target.low) / (target.high - target.low)
        with torch.inference_mode():
            tensors = [torch.from_numpy(a)[None, None].to(device) for a in (target.image, target.validity)]
            guidance = torch.from_numpy(guidance_image(frame.rgb, network.options.rgb))[None].to(device)
            traits = torch.from_numpy(target.traits.encoded())[None].to(device)
            output = network(guidance, *tensors, traits)
        known = target.validity[6:-6, 6:-6] > 0
        error = (output[0, 0].cpu().numpy() - truth)[6:-6, 6:-6][known]
        baseline = (target.image - truth)[6:-6, 6:-6][known]
        yield float(np.sqrt(np.mean(error**2) / np.mean(baseline**2)))
