"""The commands, called as a person calls them, on tasks and a model small enough for seconds."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

from pipeline.__main__ import main
from pipeline.recipes import load_recipe
from pipeline.workload import read_workload, without_absent_sources

ROOT = Path(__file__).resolve().parent.parent
SHORT = [
    "data.predicted=arc1/training",
    "data.max_side=4",
    "data.views_per_task=6",
    "model.canvas_side=4",
    "model.dim=32",
    "model.num_heads=2",
    "model.max_supervision_steps=2",
    "train.num_steps=6",
    "train.global_batch=8",
    "train.log_every=2",
    "train.schedule=constant",
    "checkpoint.every=4",
    "adapt.num_steps=3",
    "adapt.global_batch=8",
    "predict.num_views=3",
    "engine.device=cpu",
    "engine.dtype=float32",
]


def call(*arguments, changes=SHORT, program=main):
    """Run a command in this process; return its exit status."""
    settings = ["--set", " ".join(changes)] if changes else []
    command = ["pipeline", *arguments, *settings]
    with mock.patch.object(sys, "argv", command), pytest.raises(SystemExit) as ended:
        program()
    return ended.value.code


def call_in_processes(count, *arguments, changes=SHORT):
    """Run a command in ``count`` processes started by torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "pipeline", *arguments, "--set", " ".join(changes)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def task_json(task):
    """The task in the form of a file of its own."""
    tests = [{"input": grid.tolist()} for grid in task.test_inputs]
    for test, answer in zip(tests, task.solutions or (), strict=task.solutions is not None):
        test["output"] = answer.tolist()
    train = [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in task.train]
    return {"train": train, "test": tests}


def write_task_folder(folder, tasks):
    """Write a file for each task; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{task.task_id}.json" for task in tasks]
    for path, task in zip(paths, tasks, strict=True):
        path.write_text(json.dumps(task_json(task)))
    return paths


@cache
def workload(recipe):
    """What a recipe computes, read once for all tests."""
    return read_workload(without_absent_sources(load_recipe(recipe, [])))
