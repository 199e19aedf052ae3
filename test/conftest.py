"""What the tests share: a ROS domain of their own, random numbers and small networks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

if TYPE_CHECKING:
    from dkn_ros.models import FDKN

# Tests that start nodes must neither hear nor disturb a robot, a colleague or a second test run in the same network.
# Set before anything imports rclpy; processes that the tests start inherit both. Domains 0 to 101 have ports that are
# free on every system, and 0 is everybody's default.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 101)
# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every process that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class MakeModel(Protocol):
    """The type of the `make_model` fixture."""

    def __call__(self, seed: int = 0, **options: Any) -> FDKN: ...


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Makes small networks in evaluation mode, the same for the same seed, whose kernels differ from pixel to pixel."""
    return _small_model


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file, with its card, of a small network with random weights."""
    from dkn_ros.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(_small_model(), path, model="fdkn", options={"n1": 8, "n2": 8})
    return path


@pytest.fixture(scope="session")
def identity_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a network that changes nothing: kernels of equal weights less their mean are zero."""
    import torch

    from dkn_ros.weights import save_weights

    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    model = _small_model()
    for name, parameter in model.named_parameters():
        if "conv_weight" in name:
            torch.nn.init.zeros_(parameter)
    save_weights(model, path, model="fdkn", options={"n1": 8, "n2": 8})
    return path


def _small_model(seed: int = 0, **options: Any) -> FDKN:
    import torch
    from torch import nn

    from dkn_ros.models import FDKN, FDKNOptions

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = FDKN(FDKNOptions(**{"n1": 8, "n2": 8, **options}))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after a training, so that each of its four parts matters
                statistics = dict(module.named_buffers())
                statistics["running_mean"].normal_(0, 0.1)
                statistics["running_var"].uniform_(0.02, 0.1)
                module.weight.uniform_(0.8, 1.5)
                module.bias.normal_(0, 0.2)
        for tower in (model.guidance, model.target):
            if tower is not None:
                tower.conv_weight.weight.mul_(4)
                tower.conv_offset.weight.mul_(2)
    return model.eval()
