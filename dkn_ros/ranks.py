"""Several processes that train one network, as torchrun starts them: who is who, sums over all, shared batch norms.

Every process works on its share of the same batch.  What a sum over the batch enters (the loss, its gradient, the
statistics of the batch norms) is summed over the processes, so that the result is that of one process up to the order
of summation.  PyTorch's DistributedDataParallel takes the mean of the processes' gradients, which is another loss
wherever shares weigh differently, and its SyncBatchNorm knows no CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dkn_ros.device import resolve_device

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another, as while that renders its share of the scenes."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: number `rank` of `size`, on a device of its own."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, validates and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` crops are this process's: as many as another's, or one more or less."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; for all the same to the last bit."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor, source: int) -> None:
        """Overwrite `tensor` by that of the process `source`."""
        if self.size > 1:
            dist.broadcast(tensor, source)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, model: nn.Module) -> None:
        """Make the gradients of the parameters their sum over all processes, in one message of some megabytes."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def check_alike(self, value: int, what: str) -> None:
        """Raise ValueError unless all processes have the same `value`."""
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        if len(set(values)) > 1:
            raise ValueError(
                f"the processes have {what} {', '.join(map(str, values))}; wanted: the same in all of them"
            )


def place(requested: str, environment: Mapping[str, str], gpus: int) -> Ranks:
    """Where this process belongs, by what torchrun tells it; without torchrun it is alone on the requested device.

    gpus: how many CUDA devices there are.  Raises ValueError where device and processes do not fit.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks(resolve_device(requested, gpus > 0))
    rank, local = int(environment["RANK"]), int(environment["LOCAL_RANK"])
    here = int(environment.get("LOCAL_WORLD_SIZE", str(size)))
    if here != size:
        raise ValueError(f"{size} processes train, {here} of them here; wanted: all of them on one machine")
    device = resolve_device(requested, gpus > 0)
    if device.type == "cpu":
        return Ranks(device, rank, size)
    if device.index is not None:
        raise ValueError(f"device is {requested!r} for {size} processes; wanted: auto, cuda or cpu")
    if gpus < size:
        raise ValueError(f"{size} processes for {gpus} GPUs; wanted: torchrun --nproc-per-node {gpus}, or device: cpu")
    return Ranks(torch.device("cuda", local), rank, size)


def join(ranks: Ranks) -> None:
    """Meet the other processes, by NCCL on GPUs and by Gloo on CPUs."""
    if ranks.size > 1:
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
        dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batch of all processes; parameters, buffers and evaluation are those of `nn.BatchNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """BxCxHxW of this process's crops, float32 or, with autocast, a half type."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        y, mean, variance, count = _SharedNorm.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            share = self.momentum if self.momentum is not None else 0.1
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (count / (count - 1)), share)
        normalised: Tensor = y
        return normalised


class _SharedNorm(torch.autograd.Function):
    """The result, and mean, variance (of the batch, divided by its count) and count over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        own = torch.cat((mean, variance, mean.new_full((1,), x.numel() // x.shape[1])))
        every = own.new_zeros((dist.get_world_size(), len(own)))
        every[dist.get_rank()] = own
        dist.all_reduce(every)
        means, variances, counts = every.split((len(mean), len(mean), 1), dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        grad, centred = grads[0].float(), x.float() - mean.view(1, -1, 1, 1)
        steepness = (variance + ctx.eps).rsqrt()
        own = torch.stack((grad.sum((0, 2, 3)), (grad * centred).sum((0, 2, 3))))
        every = own.clone()
        dist.all_reduce(every)
        level, slope = every / count
        scaled, level, slope = (
            part.view(1, -1, 1, 1) for part in (weight * steepness, level, slope * steepness.square())
        )
        along = scaled * (grad - level - centred * slope)
        # Of weight and bias this process's part: those of all are summed with all parameters' gradients.
        return along.to(x.dtype), own[1] * steepness, own[0], None


def share_norms(model: nn.Module) -> None:
    """Put a `SharedBatchNorm` in the place of every batch norm, with its parameters and buffers."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is nn.BatchNorm2d:
                shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum)
                shared.weight, shared.bias = norm.weight, norm.bias
                for buffer, value in norm.named_buffers():
                    setattr(shared, buffer, value)
                setattr(parent, name, shared)
