"""The core needs no ROS, imports run one way, and importing the package costs nothing."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dkn_ros

PACKAGE = Path(dkn_ros.__file__).parent
ROS_MODULES = (
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "rosbag2_py",
    "sensor_msgs",
    "std_msgs",
    "tf2_ros",
)
LAYERS = (
    {"settings", "config", "depth", "geometry", "sampling", "metrics"},
    {"models"},
    {"weights"},
    {"pipeline"},
    {"ros", "benchmark", "evaluation", "methods", "report", "explain", "commands", "cli"},
)
"""From the bottom up; a module may import, also by way of others, only from its own layer and those below."""
OPTIONAL = {
    "dkn_ros.sampling.cuda": "triton",
    "dkn_ros.sampling.cuda_gradient": "triton",
    "dkn_ros.gpu.columns_cuda": "triton",
}
"""Modules that need a package that not every installation has."""
BLOCK_ROS = f"""
import sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ROS_MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NoRos())
"""


@cache
def modules() -> list[str]:
    """Of the files, not of what imports: a broken module is not left out."""
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")]
    return sorted(".".join(names[:-1] if names[-1] == "__init__" else names) for names in parts)


def is_shell(module: str) -> bool:
    return f"{module}.".startswith("dkn_ros.ros.")


def source(module: str) -> ast.Module:
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """Everything below a node that runs: not what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        yield child
        yield from statements(child, inside_functions)


def imported(module: str, inside_functions: bool = True) -> set[str]:
    """Names of the modules that a module imports: anybody's by their full name."""
    known = set(modules())
    found: set[str] = set()
    for node in statements(source(module), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            home = node.module or ""
            names = {f"{home}.{alias.name}" for alias in node.names}
            found |= (names & known) or {home}
    return found - {module}


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module -> the modules of this package that it imports, those inside of functions too."""
    known = set(modules())
    return {module: frozenset(imported(module) & known) for module in known}


def reached(module: str) -> set[str]:
    """All modules of this package that an import of this one leads to, itself not counted unless there is a circle."""
    found: set[str] = set()
    waiting = list(graph()[module])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph()[name])
    return found


def layer(module: str) -> int | None:
    """The layer that a module or the package it lies in belongs to; None where it has no fixed place."""
    part = module.split(".")[1] if "." in module else ""
    return next((i for i, names in enumerate(LAYERS) if part in names), None)


def has(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=PACKAGE.parent, timeout=300
    )


def test_the_reader_of_imports_reads_them() -> None:
    """The tests below would pass on an empty graph."""
    assert {"dkn_ros.models", "dkn_ros.resources", "torch", "yaml"} <= imported("dkn_ros.weights")
    assert "dkn_ros.sampling.cpu" in imported("dkn_ros.sampling")
    assert "dkn_ros.sampling.cpu" not in imported("dkn_ros.sampling", inside_functions=False)
    assert imported("dkn_ros") & set(modules()) == set()
    assert {"dkn_ros.sampling.cpu", "dkn_ros.models.fdkn", "dkn_ros.depth"} <= reached("dkn_ros.pipeline")
    assert "rclpy" in set().union(*(imported(module) for module in modules() if is_shell(module)))


def test_every_module_of_the_core_imports_without_ros() -> None:
    core = [module for module in modules() if not is_shell(module) and has(OPTIONAL.get(module, "dkn_ros"))]
    assert len(core) > 15 and set(OPTIONAL) <= set(modules())
    done = run(
        f"{BLOCK_ROS}\nimport importlib\n"
        f"for name in {core!r}:\n    importlib.import_module(name)\n"
        f"print([name for name in sys.modules if name.partition('.')[0] in {ROS_MODULES!r}])\n"
        "print([name for name in sys.modules if name.startswith('dkn_ros.ros')])\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_blocking_ros_does_block_it() -> None:
    done = run(f"{BLOCK_ROS}\nimport sensor_msgs.msg")
    assert done.returncode != 0 and "No module named 'sensor_msgs'" in done.stderr


def test_the_core_names_no_ros_module() -> None:
    """Not even inside of a function, where the test above would not see it."""
    for module in modules():
        if not is_shell(module):
            names = {name.partition(".")[0] for name in imported(module)}
            assert not names & set(ROS_MODULES), module


def test_only_the_command_line_reaches_for_the_shell_and_only_inside_of_functions() -> None:
    for module in modules():
        if is_shell(module):
            continue
        if any(is_shell(name) for name in imported(module)):
            assert module == "dkn_ros.commands", module
        assert not any(is_shell(name) for name in imported(module, inside_functions=False)), module


def test_imports_run_one_way() -> None:
    for module in modules():
        own = layer(module)
        if own is not None:
            above = {name for name in reached(module) if (layer(name) or 0) > own}
            assert not above, f"{module} leads to {', '.join(sorted(above))}, which stand above it"


def test_imports_make_no_circle() -> None:
    for module in modules():
        assert module not in reached(module), f"{module} imports itself by way of others"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "cv2", "numba", "yaml", "matplotlib", "rclpy")
    done = run(f"import sys; import dkn_ros; print([n for n in {heavy!r} if n in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_are_found_when_they_are_asked_for() -> None:
    from dkn_ros.config import PipelineConfig
    from dkn_ros.pipeline import Enhanced, Pipeline
    from dkn_ros.weights import load_model

    for name, wanted in (
        ("Enhanced", Enhanced), ("Pipeline", Pipeline), ("PipelineConfig", PipelineConfig), ("load_model", load_model)
    ):  # fmt: skip
        assert getattr(dkn_ros, name) is wanted
        assert name in dkn_ros.__all__
    assert len(dkn_ros.__all__) == 4
    assert not hasattr(dkn_ros, "absent")
