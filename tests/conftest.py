"""What tests share: real tasks, a small model, and an engine that computes the same everywhere."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from augment.dataset import Dataset
from augment.files import hash_file, write_description
from augment.puzzle_index import PuzzleIndex
from augment.task import Pair, Task
from pipeline.deadline import Watchdog
from pipeline.sources import DATA_DIR_VARIABLE, load_source
from solver.engine import Engine, open_engine
from solver.puzzle_table import PuzzleTable
from solver.settings import EngineSettings, ModelSettings, TrainSettings

torch.set_num_threads(1)
# No test depends on the machine's speed, and a failure comes back on the next run.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SMALL_MODEL = ModelSettings(
    canvas_side=10,
    dim=32,
    num_heads=2,
    num_cycles=2,
    num_latent_steps=1,
    max_supervision_steps=3,
)
BOX_MODEL = replace(SMALL_MODEL, canvas="box")
KINDS = {
    "trm": SMALL_MODEL,
    "hrm": replace(SMALL_MODEL, kind="hrm", num_layers=1, num_latent_steps=3),
    "transformer": replace(SMALL_MODEL, kind="transformer", num_heads=3, num_cycles=1),
}
"""A small model of each kind; the transformer's three heads, 10 wide, are narrower than 32."""
SHORT_TRAINING = TrainSettings(num_steps=8, global_batch=8, warmup_steps=2, log_every=2)


@pytest.fixture(scope="session")
def arc1() -> list[Task]:
    return load_source("arc1/training")


@pytest.fixture(scope="session")
def small_tasks(arc1: list[Task]) -> list[Task]:
    """The first twelve real tasks of which every grid fits 10x10."""
    return [task for task in arc1 if task.longest_side() <= 10][:12]


@pytest.fixture(scope="session")
def engine() -> Engine:
    return open_engine(EngineSettings(device="cpu", dtype="float32"), print)


@pytest.fixture
def small_dataset(small_tasks: list[Task]) -> Dataset:
    return make_dataset(small_tasks)


def make_dataset(
    tasks: list[Task], rows_per: str = "view", views: int = 5, canvas_side: int = 10
) -> Dataset:
    tasks = [task.without_solutions() for task in tasks]
    index = PuzzleIndex.of(tasks, views, 0, rows_per)
    return Dataset(tuple(tasks), index, (False,) * len(tasks), canvas_side)


def solved_dataset(tasks: list[Task], visit_sizes: tuple[int, ...] | None = None) -> Dataset:
    """The tasks with their solutions on the whole canvas, with six views each."""
    index = PuzzleIndex.of(tasks, 5, 0, "view")
    return Dataset(tuple(tasks), index, (True,) * len(tasks), 30, visit_sizes)


def fresh_pairs(count: int) -> list[Pair]:
    """Different pairs of 2x3 grids."""
    grids = (np.array([[9, *divmod(n, 10)], [0, 0, 0]], dtype=np.uint8) for n in range(count))
    return [Pair(grid, grid[::-1].copy()) for grid in grids]


def rewrite_description(path: Path, **changes: object) -> None:
    """Make a folder's description right again after changes of its files, or of itself."""
    description = json.loads(path.read_text())
    del description["digest"]
    files = {name: hash_file(path.parent / name) for name in description["files"]}
    write_description(path, {**description, "files": files, **changes})


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def zeros(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), dtype=np.uint8)


def make_table(dataset: Dataset, dim: int = SMALL_MODEL.dim) -> PuzzleTable:
    return PuzzleTable(dataset.index.num_rows, torch.zeros(dim))


@pytest.fixture(autouse=True)
def _no_silent_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that ends this process ends all tests: not with success."""
    monkeypatch.setattr(Watchdog, "_end", lambda self: os._exit(70))


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder of the test's own, so that runs/ lies there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_concept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine to which ConceptARC was never downloaded."""
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


needs_concept = pytest.mark.skipif(
    not os.environ.get(DATA_DIR_VARIABLE),
    reason=f"{DATA_DIR_VARIABLE} is not set, so ConceptARC would have to be downloaded",
)
