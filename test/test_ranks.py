"""Processes that train together: who is where, batch norms over all, and the result of one process."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from test_training import TINY, Interrupted, losing, tiny
from torch import Tensor, nn

from dkn_ros import training, validation
from dkn_ros.models.fdkn import FDKN, FDKNOptions
from dkn_ros.ranks import Ranks, SharedBatchNorm, place, share_norms
from dkn_ros.training import Trainer

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def torchrun(rank: int, size: int, here: int | None = None) -> dict[str, str]:
    """What torchrun tells a process."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(here or size)}


@pytest.mark.parametrize(
    ("requested", "environment", "gpus", "placed"),
    [
        ("auto", {}, 0, Ranks(CPU)),
        ("auto", {}, 4, Ranks(torch.device("cuda"))),
        ("cuda:3", torchrun(0, 1), 4, Ranks(torch.device("cuda:3"))),
        ("auto", torchrun(1, 2), 0, Ranks(CPU, 1, 2)),
        ("cpu", torchrun(1, 2), 2, Ranks(CPU, 1, 2)),
        ("auto", torchrun(3, 4), 4, Ranks(torch.device("cuda:3"), 3, 4)),
        ("cuda", torchrun(0, 2), 8, Ranks(torch.device("cuda:0"), 0, 2)),
    ],
)
def test_every_process_gets_a_device(requested: str, environment: dict[str, str], gpus: int, placed: Ranks) -> None:
    assert place(requested, environment, gpus) == placed


@pytest.mark.parametrize(
    ("requested", "environment", "gpus", "named"),
    [
        ("cuda", torchrun(0, 2), 0, "device is 'cuda' but PyTorch finds no CUDA device"),
        ("cuda:1", torchrun(0, 2), 2, "device is 'cuda:1' for 2 processes; wanted: auto, cuda or cpu"),
        ("auto", torchrun(2, 3), 2, "3 processes for 2 GPUs; wanted: torchrun --nproc-per-node 2, or device: cpu"),
        ("auto", torchrun(0, 4, here=2), 2, "4 processes train, 2 of them here; wanted: all of them on one machine"),
    ],
)
def test_processes_that_cannot_be_placed(requested: str, environment: dict[str, str], gpus: int, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        place(requested, environment, gpus)


@pytest.mark.parametrize(("count", "size"), [(6, 2), (7, 3), (3, 3), (64, 5)])
def test_shares_are_the_whole_and_nearly_alike(count: int, size: int) -> None:
    shares = [list(range(count))[Ranks(CPU, rank, size).share(count)] for rank in range(size)]
    assert [crop for share in shares for crop in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1 <= min(map(len, shares))


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch is 2, processes 3; wanted: a crop for each at least"):
        Trainer(tiny(), tmp_path, Ranks(CPU, 0, 3))


# --- batch norms ----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_a_shared_norm_is_the_usual_one(kind: torch.dtype) -> None:
    plain = nn.BatchNorm2d(5)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    parent = nn.Sequential(nn.BatchNorm2d(5))
    parent[0].load_state_dict(plain.state_dict())
    share_norms(parent)
    shared = parent[0]
    assert type(shared) is SharedBatchNorm and list(shared.state_dict()) == list(plain.state_dict())
    images = (3 + torch.randn(4, 5, 6, 7)).to(kind)
    importance = torch.randn(4, 5, 6, 7)
    found: list[list[Tensor]] = []
    for norm in (shared, plain):
        x = images.clone().requires_grad_()
        y = norm(x)
        (y * importance).sum().backward()
        norm.eval()
        assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
        found.append([y, x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers(), norm(images)])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        near = 1e-5 if a.dtype == torch.float32 and kind == torch.float32 else 2e-2
        torch.testing.assert_close(a, b, rtol=near, atol=near)


def test_a_network_keeps_its_parameters_when_its_norms_are_shared() -> None:
    model = FDKN(FDKNOptions(n1=8, n2=8))
    parameters, names = list(model.parameters()), list(model.state_dict())
    share_norms(model)
    assert sum(isinstance(module, SharedBatchNorm) for module in model.modules()) == 6
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names


# --- a whole training -----------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from dkn_ros import cli, training, validation
validation.SCENES, training.REVIVAL_CROPS = 1, (8, 1)
if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
"""


def test_two_processes_go_on_where_one_stopped_and_end_as_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three crops a step: one process has more than the other, and their pixels weigh differently."""
    monkeypatch.setattr(validation, "SCENES", 1)
    monkeypatch.setattr(training, "REVIVAL_CROPS", (8, 1))
    plan = {**TINY, "batch": 3, "options": {"n1": 8, "n2": 8, "validity": True, "traits": True}, "revive_every": 2}
    whole = Trainer(tiny(**plan), tmp_path / "whole")
    whole.run(progress=False)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Trainer, "train_step", losing(3))
        Trainer(tiny(**plan), tmp_path / "parts").run(progress=False)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "program.py"), str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "parts")],
        capture_output=True, text=True, cwd=ROOT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout.strip().splitlines()
    assert len(told) == 2, told  # of one of them, not of each
    assert re.fullmatch(
        r"the steps waited for their batches \d+% of the time; drawn by a thread for each of 2", told[0]
    )
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        "checkpoint.pt", "loss.csv", "loss.png", "tiny.safetensors", "tiny.yaml",
    }  # fmt: skip

    with open(tmp_path / "parts" / "loss.csv", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    for row, wanted in zip(rows, whole.history, strict=True):
        for name, value in wanted.items():
            assert float(row[name]) == pytest.approx(value, rel=2e-5), name
    again = Trainer(tiny(**plan), tmp_path / "parts")
    assert again.resume() and again.step == 6
    for name, value in whole.average.module.state_dict().items():
        # A norm takes away the bias before it, whose gradient so is rounding alone, of which Adam makes whole steps.
        if not re.search(r"conv[135]\.bias|running_mean", name):
            torch.testing.assert_close(again.average.module.state_dict()[name], value, rtol=1e-3, atol=5e-4)
