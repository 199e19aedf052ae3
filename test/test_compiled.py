"""Compiling with a cache on disk, and without one where there is no place for it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SOURCE = """
from dkn_ros.compiled import compiled
@compiled(nogil=True)
def twice(x):
    return 2 * x
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, **environment}
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=120)


def test_what_is_compiled_is_kept_on_disk(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(SOURCE)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import module; assert module.twice(21) == 42"
    done = run(script, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").rglob("*.nbc"))


def test_without_a_place_for_the_cache_it_compiles_all_the_same(tmp_path: Path) -> None:
    """As in a read-only installation run without a home: the source's folder and the user's cannot be written."""
    (tmp_path / "file").touch()
    script = f"""
        import numba
        place = {str(tmp_path / "file" / "module.py")!r}  # below a file nothing can be made, not even by root
        scope = {{"__name__": "module", "__file__": place}}
        exec(compile({SOURCE!r}, place, "exec"), scope)
        assert scope["twice"](21) == 42
        try:
            numba.njit(cache=True)(eval(compile("lambda x: x", place, "eval")))
        except RuntimeError as error:
            print(error)
    """
    nowhere = str(tmp_path / "file" / "nowhere")
    done = run(textwrap.dedent(script), HOME=nowhere, XDG_CACHE_HOME=nowhere, NUMBA_CACHE_DIR=nowhere)
    assert done.returncode == 0, done.stderr
    if "cannot cache" not in done.stdout:
        pytest.fail("numba found a place for its cache: this test shows nothing")
