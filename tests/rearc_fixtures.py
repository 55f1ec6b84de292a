"""Fixtures for tests of fresh pairs: ``pytest_plugins = ["rearc_fixtures"]``."""

import importlib.util
import sys

import pytest
from fake_rearc import GENERATORS, VERIFIERS

from pipeline import rearc


def forget_programs():
    for name in [name for name in sys.modules if name.partition(".")[0] == "rearc_utils"]:
        del sys.modules[name]


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """The package on the path; a pair may take a fifth of a second."""
    folder = tmp_path / "path" / "reasoning_gym" / "arc" / "rearc_utils"
    (folder / "generators").mkdir(parents=True)
    (folder / "generators" / "__init__.py").write_text("from .all import *\n")
    (folder / "generators" / "all.py").write_text(GENERATORS)
    (folder / "verifiers.py").write_text(VERIFIERS)
    (folder.parents[1] / "__init__.py").write_text("raise ImportError('loads all other tasks')\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setattr(rearc, "_PAIR_SECONDS", 0.2)
    forget_programs()
    yield
    forget_programs()


@pytest.fixture
def no_package(monkeypatch):
    """A machine without reasoning-gym."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "reasoning_gym" else find_spec(n)
    )


@pytest.fixture
def real_package():
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not installed")
    forget_programs()
    yield
    forget_programs()
