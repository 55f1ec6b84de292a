"""Compiled loops do without their cache where it cannot be kept or is damaged."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import FunctionCache

from augment.compiled import compiled

ROOT = Path(__file__).resolve().parent.parent
LOOP = """
from augment.compiled import compiled

@compiled
def double(number):
    return 2 * number

print(double(21), sum(double.stats.cache_hits.values()))
"""


def run_loop(folder, **environment):
    """The output of a process that calls a loop in a module of its own."""
    module = folder / "loop.py"
    if not module.exists():
        module.write_text(LOOP)
    done = subprocess.run(
        [sys.executable, "loop.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_machine_code_is_kept(tmp_path):
    assert run_loop(tmp_path) == ["42", "0"]
    assert run_loop(tmp_path) == ["42", "1"]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04damaged", b"cbuiltins\nnothing\n."])
def test_what_is_damaged_is_compiled_again(tmp_path, suffix, content):
    run_loop(tmp_path)
    (path,) = (tmp_path / "__pycache__").glob(f"*{suffix}")
    path.write_bytes(content)
    assert run_loop(tmp_path) == ["42", "0"]
    assert run_loop(tmp_path) == ["42", "1"]


def test_a_full_disk_costs_only_the_cache(monkeypatch):
    def save(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FunctionCache, "_save_overload", save)
    assert compiled(lambda number: number + 1)(1) == 2


def test_without_a_folder_for_it_there_is_no_cache(monkeypatch):
    def find_no_folder(*_):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(FunctionCache, "__init__", find_no_folder)
    assert compiled(lambda number: number + 1)(1) == 2


def test_without_a_home_there_is_no_cache(tmp_path, monkeypatch):
    def find_no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", find_no_home)
    assert compiled(lambda number: number + 1)(1) == 2
    assert list(tmp_path.iterdir()) == []
