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
from dkn_ros.models.revival import living_share, revive
from dkn_ros.models.start import fewer_channels, start_from
from dkn_ros.models.teacher import Teacher
from dkn_ros.ranks import Ranks, share_norms
from dkn_ros.recipe import check_stages, recipe_at, unlike
from dkn_ros.synthetic.samples import FRAME_HEIGHT, RATIOS, Sample, SceneStore, typical_crops
from dkn_ros.training_kernels import use_triton
from dkn_ros.validation import ratios
from dkn_ros.weights import Card, check_output, load_model, save_weights

FILLED_WEIGHT = 0.5
"""Weight in the loss of pixels whose input was filled in: what lies in a hole can often not be known."""
REVIVING = 2 / 3
"""Share of the steps in which channels begin anew: after it they would not have the time to learn."""
REVIVAL_CROPS = (40, 4)
"""Crops, of so many scenes, on none of which a channel that is dead fires."""


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
        check_output(self._weights)  # before the work, not after it
        self.ranks = ranks or Ranks(resolve_device(config.device, torch.cuda.is_available()))
        if config.batch < self.ranks.size:
            raise ValueError(f"batch is {config.batch}, processes {self.ranks.size}; wanted: a crop for each at least")
        self.device = self.ranks.device
        exact_float32(self.device)
        torch.manual_seed(config.seed)
        self._crops: list[Sample] = []
        self.model = build_model(config.model, config.options).to(self.device)
        if config.start:
            earlier = load_model(config.start)[0]
            start_from(self.model, earlier)
            if fewer_channels(earlier, self.model) and not config.revive_every:
                raise ValueError(
                    "start has fewer channels, and the new ones learn nothing; wanted: revive_every above 0"
                )
        self.teacher = self._teacher()
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

    def _teacher(self) -> Teacher | None:
        if not self.config.teacher:
            return None
        teacher = Teacher(load_model(self.config.teacher)[0].to(self.device), self.crops)
        teacher.check(self.model)
        return teacher

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
        # To the CPU: Adam counts its steps there, and would wait for a GPU twice a parameter if they lay on it.
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
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

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser step on this process's share of a batch; returns the loss of the whole, on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.model.train()
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.sum_gradients(self.model)
        # A crop with one wild depth step must not undo what the others taught.
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.step += 1
        return self.ranks.sum(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        """This process's part of a sum over all."""
        guidance, target, validity, truth, traits = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if self.teacher is not None and self.step < self.config.taught * self.config.iterations:
                unlikeness = self.teacher.unlikeness(self.model, guidance, target, validity, traits)
                return unlikeness * len(target) / self.config.batch
            output = self.model(guidance, target, validity, traits)
        total, weight = loss_sums(output, truth, validity, self.settings(self.step).square_weight)
        return total / self.ranks.sum(weight)

    @property
    def crops(self) -> list[Sample]:
        """On which is looked for channels that are dead; always the same."""
        if not self._crops:
            o = self.model.options
            self._crops = typical_crops(o.rgb, *REVIVAL_CROPS, alignment=o.alignment)
        return self._crops

    def revive(self) -> None:
        """Begin dead channels anew, if it is time to, see `models.revival`; the running average's with them."""
        c = self.config
        if not c.revive_every or self.step % c.revive_every or self.step > REVIVING * c.iterations:
            return
        anew = revive(self.model, self.crops, self.step)
        average, parameters = self.average.module.state_dict(), dict(self.model.named_parameters())
        for name, value in self.model.state_dict().items():
            if name not in anew:
                continue
            new = anew[name]
            average[name][new] = value[new]
            moments = self.optimiser.state.get(parameters[name]) if name in parameters else None
            if moments and new.all():
                del self.optimiser.state[parameters[name]]  # which has steps of its own to count
            elif moments:
                # Those of a dead channel are zero, and its first steps would be several times those of the others.
                moments["exp_avg"][new] = 0
                moments["exp_avg_sq"][new] = moments["exp_avg_sq"][~new].mean()

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
        last: Tensor | None = None
        before = self.seconds
        while self.step < self.config.iterations:
            start = time.monotonic()
            self.revive()
            step = self.train_step(batches.next())
            # One step late: to read a loss waits for a GPU, which by then has the next step to do.
            recent += [] if last is None else [float(last)]
            last = step
            self.seconds += time.monotonic() - start
            bar.update()
            if self.step % 20 == 0 and recent:
                bar.set_postfix(loss=f"{np.mean(recent[-100:]):.4f}")
            if self.step % self.config.checkpoint_every == 0 or self.step == self.config.iterations:
                recent.append(float(last))
                last = None
                if self.ranks.first:
                    self.history.append({"step": self.step, "loss": float(np.mean(recent)), **self.validate()})
                    self.save()
                recent.clear()
        bar.close()
        if self.seconds > before:
            waited = self.ranks.sum(torch.tensor(batches.waited, device=self.device))
            self.waiting = float(waited) / (self.seconds - before)

    def validate(self) -> dict[str, float]:
        """Of the averaged weights: `validation.ratios`, and `living`, the share of the channels that fire at all."""
        network = self.average.module.eval()
        assert isinstance(network, FDKN)
        return {"living": living_share(network, self.crops), **ratios(network, self.device)}

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
