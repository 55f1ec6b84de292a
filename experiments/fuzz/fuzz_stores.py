"""Checkpoints, votes and data sets for ``make fuzz``: folders with a description and hashes.

Most changes are self-consistent: hashes and digests are computed again by an own implementation of
the format, so that only the meaning is wrong. The others are plain damage.
"""

import hashlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from fuzz_formats import Arrays, decode, digest_of, encode, rows_digest_of
from fuzz_inputs import Files, Input, dump, mutate_bytes, mutate_files, mutate_tree

from augment.dataset import Dataset
from augment.prediction import Prediction
from augment.puzzle_index import PuzzleIndex
from augment.task import Task
from pipeline.sources import load_source
from solver.kinds import new_model
from solver.puzzle_table import PuzzleTable
from solver.settings import ModelSettings
from solver.weights import describe_checkpoint, load_weights, write_weights
from submission.rounds import Round, read_votes, write_round
from submission.vote import pool_votes

STORES = {"checkpoints": "checkpoint", "votes": "votes/round_0001", "data sets": "dataset"}
DESCRIPTIONS = {
    "checkpoints": "checkpoint.json", "votes": "round.json", "data sets": "dataset.json",
}  # fmt: skip


@cache
def intact(kind: str) -> Files:
    """Return the files of a small store as the program writes it."""
    tasks = sorted(load_source("arc1/training"), key=_num_cells)[:3]
    index = PuzzleIndex.of(tasks, 5, 0, "view")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        if kind == "data sets":
            Dataset(tuple(tasks), index, (True, False, True), 20).save(folder, "fingerprint")
        elif kind == "votes":
            ids = tuple(task.task_id for task in tasks)
            outputs = [None, *(task.train[0].output for task in tasks)]
            predictions = [Prediction(ids[n % 3], 0, outputs[n % 4], n / 8, n // 3)
                           for n in range(9)]  # fmt: skip
            write_round(folder, Round("fingerprint", 7, ids, 0, 3, True, predictions))
        else:
            folder.mkdir()
            settings = ModelSettings(
                canvas_side=10, dim=2, num_heads=1, num_layers=1, num_cycles=2, num_latent_steps=1,
                max_supervision_steps=2, prefix_length=4,
            )  # fmt: skip
            rows = torch.linspace(-1, 1, 6).reshape(3, 2)
            table = PuzzleTable(index.num_rows, torch.zeros(2))
            table.put(np.array([1, 2, 5]), rows)
            state = new_model(settings, 0).state_dict()
            write_weights(folder, state, table, index, np.array([3, 5], np.uint64))
            describe_checkpoint(folder, 5, settings, {"train": {"lr": 1e-3}}, index, "fuzz")
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _num_cells(task: Task) -> int:
    return sum(grid.size for grid in task.visible_grids)


def _mutate_arrays(rng: random.Random, arrays: Arrays) -> str:
    """Change one of some arrays in place."""
    key = rng.choice(sorted(arrays))
    array = arrays[key].copy()
    change = rng.choice((
        "value", "value", "value", "value", "type", "type", "shape", "shorter", "longer", "empty",
        "equal", "missing", "another name", "surplus", "halved", "whole numbers",
    ))  # fmt: skip
    match change:
        case "value" if array.size:
            numbers = (-1, 0, 1, 2, 9, 10, 31, 255, 2**31 - 1, 2**62)
            floats = (np.nan, np.inf, -np.inf, -0.5, 1.5, 1e30)
            number = rng.choice(numbers + floats * 2 if array.dtype.kind == "f" else numbers)
            with np.errstate(all="ignore"):
                array.flat[rng.randrange(array.size)] = np.array(number).astype(array.dtype)
        case "type":
            names = ("f4", "f8", "f2", "i1", "i8", "u1", "?", "u2", "U3", "O", ">u4", ">i8")
            with np.errstate(all="ignore"):
                array = array.astype(rng.choice(names))
        case "shape":
            array = rng.choice((
                array.reshape(-1), array[None], array[..., None], array.T, np.array(array.sum()),
            ))  # fmt: skip
        case "shorter":
            array = array[:-1]
        case "longer":
            array = np.concatenate([array, array[-1:]]) if array.ndim else array
        case "empty":
            array = array[:0]
        case "equal" if array.ndim and len(array) > 1:
            array[rng.randrange(len(array))] = array[rng.randrange(len(array))]
        case "missing":
            del arrays[key]
            return f"{change} {key!r}"
        case "another name":
            arrays[rng.choice(("", "x", f"{key}:scale", "numbers", "cells"))] = arrays.pop(key)
            return f"{change} {key!r}"
        case "surplus":
            arrays["surplus"] = array
            return change
        case "halved" if array.dtype.kind == "f":
            array = array.astype(np.float16)
        case "whole numbers" if array.dtype.kind == "f" and array.ndim == 2:
            arrays[f"{key}:scale"] = np.float32(abs(array).max(1, keepdims=True) / 127)
            array = np.ones(array.shape, np.int8)
    arrays[key] = array
    return f"{change} {key!r}"


def _seal(files: Files, name: str, description: Any, mutate: Callable[[Any], object]) -> None:
    """Write a description that fits the files, once ``mutate`` has changed it too."""
    for file in description["files"]:
        description["files"][file] = hashlib.sha256(files[file]).hexdigest()
    if "rows_digest" in description:
        with suppress(Exception), np.errstate(all="ignore"):  # of files that have none
            codes = np.load(io.BytesIO(files["views.npy"]))
            description["rows_digest"] = rows_digest_of(orjson.loads(files["puzzles.json"]), codes)
    mutate(description)
    with suppress(Exception):
        description["digest"] = digest_of(orjson.loads(dump(description)))
    files[name] = dump(description)


def _make(rng: random.Random, kind: str) -> Input:
    files = dict(intact(kind))
    name = DESCRIPTIONS[kind]
    description = json.loads(files[name])
    mutations = []
    way = rng.random()
    if way < 0.85:
        changes = rng.choice((0, 1, 1, 1, 1, 2))
        chosen = [rng.choice(sorted(files)) for _ in range(changes)]
        for file in set(chosen) - {name}:
            value = decode(file, files[file])
            hostile = not file.endswith(".json") and rng.random() < 0.15
            if hostile:
                mutations.append(f"{file}: another header")
            else:
                change = mutate_tree if file.endswith(".json") else _mutate_arrays
                mutations.append(f"{file}: {change(rng, value)}")
            files[file] = encode(rng, file, value, hostile=hostile)

        def mutate(tree: Any) -> None:
            inner = rng.choice((tree, tree, *(v for v in tree.values() if isinstance(v, dict))))
            mutations.append(f"{name}: {mutate_tree(rng, inner)}")

        _seal(files, name, description, mutate if name in chosen else lambda tree: None)
    elif way < 0.93:
        file = rng.choice(sorted(files))
        files[file], mutation = mutate_bytes(rng, files[file])
        mutations.append(f"{file}: {mutation}")
    else:
        mutations.append(mutate_files(rng, files))
    placed = {f"{STORES[kind]}/{file}": content for file, content in files.items()}
    return Input(kind, (), placed, tuple(mutations))


def make_checkpoints(rng: random.Random) -> Input:
    """Return a checkpoint with the weights of a small model."""
    return _make(rng, "checkpoints")


def make_votes(rng: random.Random) -> Input:
    """Return votes with one round."""
    return _make(rng, "votes")


def make_datasets(rng: random.Random) -> Input:
    """Return a data set of three real tasks."""
    return _make(rng, "data sets")


def read_checkpoints(folder: Path, arguments: tuple[str, ...]) -> Any:
    """Return the weights that the program reads."""
    weights = load_weights(folder / STORES["checkpoints"])
    rows = weights.table.look_up(np.arange(weights.table.num_rows))
    tensors = {**weights.model.state_dict(), "rows": rows}
    return (
        asdict(weights.model.settings),
        {name: (tuple(t.shape), t.numpy().tobytes()) for name, t in tensors.items()},
        _plain_index(weights.index),
        weights.trained_on.tolist(),
    )


def read_rounds(folder: Path, arguments: tuple[str, ...]) -> Any:
    """Return the predictions that the program reads, by the steps of their weights."""
    by_step = read_votes(folder / "votes")
    pool_votes(by_step)
    return {
        step: [
            (p.task_id, p.test, p.view, p.q, None if np.isnan(p.reproduced) else p.reproduced,
             None if p.grid is None else p.grid.tolist())
            for p in predictions
        ]
        for step, predictions in by_step.items()
    }  # fmt: skip


def read_datasets(folder: Path, arguments: tuple[str, ...]) -> Any:
    """Return tasks, puzzle index and the plan of visits that the program reads."""
    dataset = Dataset.load(folder / STORES["data sets"])
    tasks = []
    for task, flag, size in zip(
        dataset.tasks, dataset.with_solutions, dataset.pairs_per_visit.tolist(), strict=True
    ):
        train = [grid for pair in task.train for grid in (pair.input, pair.output)]
        parts = (train, task.test_inputs, task.solutions or ())
        plain = [[grid.tolist() for grid in part] for part in parts]
        tasks.append((task.task_id, *plain, bool(flag), size))
    return tasks, _plain_index(dataset.index), dataset.canvas_side


def _plain_index(index: PuzzleIndex) -> Any:
    """Return a puzzle index as plain values."""
    return [
        index.rows_per,
        [*index.task_ids],
        [*index.task_digests],
        index.num_views.tolist(),
        index.codes.tolist(),
    ]
