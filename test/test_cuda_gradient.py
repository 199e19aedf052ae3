"""Triton's gradient of the filter against that of kernels and average, and against its sibling on the CPU.

On a GPU, or without one in Triton's interpreter, as in test_cuda_average.py.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeModel
from test_fused import OPTIONS
from test_fused_gradient import heads_of
from torch import Tensor

from dkn_ros.device import exact_float32
from dkn_ros.engine import TritonError
from dkn_ros.models import FDKN
from dkn_ros.models.fdkn import sampling_grid
from dkn_ros.sampling import WINDOW, fused_gradient
from dkn_ros.training_kernels import use_triton

pytest.importorskip("triton", reason="Triton is not installed: it comes with PyTorch's CUDA builds for Linux")

MODULES = ("dkn_ros.sampling.cuda", "dkn_ros.sampling.cuda_gradient")
ROOT = Path(__file__).resolve().parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TYPES = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Number types of the heads and the relative rounding of their gradients."""


@pytest.fixture(scope="module", autouse=True)
def cuda() -> Iterator[Any]:
    """`sampling.cuda_gradient`, made for the interpreter where there is no GPU: that is settled when it is imported."""
    exact_float32(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module(MODULES[1])
        for name in MODULES:
            sys.modules.pop(name, None)
            vars(sys.modules["dkn_ros.sampling"]).pop(name.rpartition(".")[2], None)


def gradients(model: FDKN, target: Tensor, heads: list[Tensor], form: Any) -> list[Tensor]:
    """The result and the gradient of every head, for a loss that weighs each pixel in its own way.

    form: None for the definition, or a module with `differentiable_average_of_heads`.
    """
    device = torch.device("cpu") if form is fused_gradient else DEVICE
    leaves = [head.detach().to(device).requires_grad_() for head in heads]
    guidance = (leaves[0], leaves[1]) if model.options.guided else None
    own, target = (leaves[-2], leaves[-1]), target.to(device)
    if form is None:
        result = model.average(target, *model.kernels(guidance, own))
    else:
        base, scale = sampling_grid(model.options)
        result = form.differentiable_average_of_heads(
            target, guidance, own, model.options.residual, base.to(device), scale
        )
    importance = torch.rand(result.shape, generator=torch.Generator().manual_seed(5)) - 0.4
    (result * importance.to(device)).sum().backward()
    assert all(leaf.grad is None or leaf.grad.dtype == leaf.dtype for leaf in leaves)
    return [result.detach().cpu(), *(leaf.grad.cpu().float() for leaf in leaves if leaf.grad is not None)]


def compare(found: list[Tensor], wanted: list[Tensor], rtol: float = 1e-4, atol: float = 2e-5) -> None:
    assert len(found) == len(wanted) > 2
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol * max(1.0, float(b.abs().max())))


SIZED = [*((options, (1, 1)) for options in OPTIONS), ({}, (2, 9)), ({"guided": False, "residual": False}, (3, 8))]
"""The interpreter takes a second for what a GPU does in microseconds; 9 blocks of a row are more than one program's."""


@pytest.mark.parametrize(("options", "size"), SIZED, ids=str)
def test_one_pass_gives_the_gradient_of_the_steps(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], size: tuple[int, int]
) -> None:
    model = make_model(**options)
    target, heads = torch.rand(2, 1, 4 * size[0], 4 * size[1]), heads_of(model, size)
    wanted = gradients(model, target, heads, None)
    assert all(gradient.abs().max() > 1e-3 for gradient in wanted[1:])
    compare(gradients(model, target, heads, cuda), wanted)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"residual": False}, {"guided": False}], ids=str)
def test_heads_of_any_type_get_gradients_of_their_type(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], kind: torch.dtype
) -> None:
    model = make_model(**options)
    target, heads = torch.rand(2, 1, 8, 12), [head.to(kind) for head in heads_of(model, (2, 3))]
    found = gradients(model, target, heads, cuda)
    compare(found, gradients(model, target, [head.float() for head in heads], None), rtol=TYPES[kind], atol=2e-4)
    if kind != torch.float16:  # which numba does not read
        compare(found, gradients(model, target, heads, fused_gradient), rtol=TYPES[kind], atol=2e-4)


@pytest.mark.parametrize("reach", [0.0, 7.0, 40.0, 1e9])
def test_samples_beyond_window_and_image(cuda: Any, make_model: MakeModel, reach: float) -> None:
    model, target = make_model(), torch.rand(2, 1, 12, 20)
    heads = heads_of(model, (3, 5), reach)
    compare(gradients(model, target, heads, cuda), gradients(model, target, heads, None))


@pytest.mark.parametrize("edge", [-WINDOW // 2 - 1, -(WINDOW // 2), 0, WINDOW // 2])
@pytest.mark.parametrize("beside", [-0.25, 0.0, 0.25])
def test_samples_around_the_windows_edge(cuda: Any, make_model: MakeModel, edge: int, beside: float) -> None:
    """On whole pixels too, where the slope is that towards the next."""
    model, target = make_model(guided=False), torch.rand(2, 1, 8, 12)
    weight, offset = heads_of(model, (2, 3))
    heads = [weight, torch.full_like(offset, edge + beside)]
    compare(gradients(model, target, heads, cuda), gradients(model, target, heads, None))


def test_weights_of_zero_have_the_gradient_of_the_steps(cuda: Any, make_model: MakeModel) -> None:
    """A sigmoid in a half type can give 0, where the sum of absolute weights has no slope of its own."""
    model, target = make_model(residual=False), torch.rand(2, 1, 8, 12)
    heads = heads_of(model, (2, 3))
    heads[0][:, :40] = 0
    compare(gradients(model, target, heads, cuda), gradients(model, target, heads, None))


def test_autocast_changes_nothing(cuda: Any, make_model: MakeModel) -> None:
    model, target = make_model(), torch.rand(2, 1, 12, 20)
    heads = heads_of(model, (3, 5))
    wanted = gradients(model, target, heads, cuda)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for a, b in zip(gradients(model, target, heads, cuda), wanted, strict=True):
            assert torch.equal(a, b)


def test_a_depth_that_wants_a_gradient_is_refused(cuda: Any, make_model: MakeModel) -> None:
    model = make_model()
    heads = heads_of(model, (2, 2))
    base, scale = sampling_grid(model.options)
    target = torch.rand(2, 1, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match=r"sampling\.reference"):
        cuda.differentiable_average_of_heads(target, (heads[0], heads[1]), (heads[2], heads[3]), True, base, scale)


# --- in the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"guided": False, "residual": False}], ids=str)
def test_a_network_learns_the_same_with_odd_sizes(
    cuda: Any, make_model: MakeModel, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The padding that `forward` cuts off again must not leak into the gradient of the parameters."""
    model = make_model(**options).train().to(DEVICE)
    guidance, target, wanted = (torch.rand(2, 1, 7, 10).to(DEVICE) for _ in range(3))
    fused = cuda.differentiable_average_of_heads
    calls: list[bool] = []

    def counted(*given: Any) -> Tensor:
        calls.append(model.triton)
        result: Tensor = fused(*given)
        return result

    monkeypatch.setattr(cuda, fused.__name__, counted)
    found = []
    for model.triton in (True, False):
        model.zero_grad()
        (model(guidance, target) - wanted).abs().mean().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(model.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    model.triton = True
    with torch.no_grad():  # a validation goes the way that it went
        model.eval()(guidance, target)
    assert calls == [True]


def test_the_kernels_are_tried_before_they_are_trusted(
    cuda: Any, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    use_triton(model, DEVICE)
    assert model.triton
    honest = cuda._AverageOfHeads.backward

    def wrong(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        made = honest(ctx, *grads)
        return (*made[:-1], made[-1] * 1.1)

    monkeypatch.setattr(cuda._AverageOfHeads, "backward", staticmethod(wrong))
    with pytest.raises(TritonError, match=r"its gradient on a trial is off by 0\.\d"):
        use_triton(model, DEVICE)
    assert not model.triton


def test_without_triton_one_line_says_so(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(f"{name}", raising=False)
    with pytest.raises(TritonError, match="triton") as raised:
        use_triton(make_model(), DEVICE)
    assert "\n" not in str(raised.value)


# --- the compiler ---------------------------------------------------------------------------------------------------

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dkn_ros.sampling.cuda import BLOCKS, WARPS, _average
from dkn_ros.sampling.cuda_gradient import _backward

numbers = {"height": "i32", "width": "i32", "rows": "i32", "columns": "i32", "scale": "fp32"}
towers = [a + b for a in ("", "grad_") for b in ("gw", "go", "tw", "to")]
for capability, size, heads in ((75, 3, "*fp16"), (90, 3, "*bf16")):
    fixed = {"COUNT": size * size, "SIZE": size, "GUIDED": True, "LOGITS": False, "RESIDUAL": True, "BOUNDED": False,
             "KEEP": True, "RADIUS": 7, "STRIDE": 4, "BLOCKS": BLOCKS}
    known = numbers | dict.fromkeys(towers, heads)
    for kernel in (_average, _backward):
        signature = {n: known.get(n, "constexpr" if n in fixed else "*fp32") for n in kernel.arg_names}
        values = {(kernel.arg_names.index(n),): fixed[n] for n in kernel.arg_names if n in fixed}
        target = GPUTarget("cuda", capability, 32)
        made = triton.compile(ASTSource(kernel, signature, values), target, {"num_warps": WARPS})
        print(len(made.asm["cubin"]), "bytes,", made.metadata.shared, "shared")
"""


def test_both_passes_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 4 and all(line.split()[0] != "0" and line.endswith(" 0 shared") for line in lines)
