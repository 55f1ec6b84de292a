"""The oracle of ``make fuzz`` for checkpoints, votes and data sets."""

import hashlib
import json
import math
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
from fuzz_formats import Store, restore_weights, rows_digest_of, texts, whole
from fuzz_oracle import Doubts, check, read_content
from fuzz_settings import RULES, TYPES, check_range, flatten
from fuzz_stores import DESCRIPTIONS, STORES, intact
from numpy.typing import NDArray

from pipeline.recipes import RECIPES
from solver.settings import ModelSettings


def open_store(kind: str, folder: Path, needed: set[str], doubts: Doubts) -> Store:
    """Return a store of the format that the program writes today."""
    name = DESCRIPTIONS[kind]
    version = json.loads(intact(kind)[name])["format"]
    return Store(folder / STORES[kind], name, version, needed, doubts)


def column(array: NDArray[Any], least: int, most: int) -> list[int]:
    """Return an array (N,) of whole numbers in a range."""
    check(array.ndim == 1 and array.dtype.kind in "iu", "no column of whole numbers")
    check(((array >= least) & (array <= most)).all(), f"a number beyond {least}..{most}")
    return array.tolist()


def judge_model(raw: Any, doubts: Doubts) -> dict[str, Any]:
    """Return the settings of a model, which are judged as changes of settings are."""
    check(isinstance(raw, dict), "no architecture")
    model = asdict(ModelSettings())
    check(raw.keys() <= model.keys(), "settings that are not known")
    if raw.keys() < model.keys():
        doubts.append("settings left out")
    model |= raw
    for name, value in model.items():
        kind = TYPES[f"model.{name}"]
        if get_origin(kind) is Literal:
            check(type(value) is str and value in get_args(kind), f"{name}: none of the choices")
        else:
            kinds = (float, int) if kind is float else (kind,)
            check(type(value) in kinds, f"{name}: its type")
        if kind in (int, float):
            check(math.isfinite(value), f"{name}: not finite")
            check_range(f"model.{name}", value, doubts)
    values = flatten(RECIPES["demo"]()) | {f"model.{name}": value for name, value in model.items()}
    for reason, holds in RULES.items():
        check(holds(values), reason)
    fixed = {"kind": "trm", "variant": "attention", "patch": 1, "convolution": False,
             "rows_per": "view"}  # fmt: skip
    check(all(model[name] == value for name, value in fixed.items()), "weights of another network")
    return model


def judge_checkpoints(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> Any:
    """Return settings, weights, puzzle index and leak keys of a checkpoint."""
    needed = {"weights.safetensors", "rows.safetensors", "puzzles.json", "views.npy"}
    store = open_store("checkpoints", folder, needed, doubts)
    folder /= STORES["checkpoints"]
    whole(store.get("step", int), 0)
    if type(store.description.get("code_version")) is not str:
        doubts.append("a description without what nobody reads")
    store.get("settings", dict)
    model = judge_model(store.get("architecture", dict), doubts)
    dim, inner = model["dim"], -(-round(model["expansion"] * model["dim"] * 2 / 3) // 256) * 256
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding": (12, dim), "output_head.weight": (12, dim), "y_start": (dim,),
        "z_start": (dim,), "halt_head.weight": (2, dim), "halt_head.bias": (2,),
    }  # fmt: skip
    for n in range(model["num_layers"]):
        shapes |= {
            f"net.layers.{n}.attention.qkv.weight": (3 * dim, dim),
            f"net.layers.{n}.attention.output.weight": (dim, dim),
            f"net.layers.{n}.mlp.gate_up.weight": (2 * inner, dim),
            f"net.layers.{n}.mlp.down.weight": (dim, inner),
        }
    weights = restore_weights(store.tensors("weights.safetensors"), shapes, doubts)
    index = store.index()
    rows_per, ids, digests, views, codes = index
    puzzles = {"rows_per": rows_per, "task_ids": ids, "task_digests": digests, "num_views": views}
    digest = rows_digest_of(puzzles, np.array(codes, np.uint32))
    check(store.get("rows_digest", str) == digest, "rows of another puzzle index")
    check(rows_per == model["rows_per"], "rows per something else")
    saved = store.tensors("rows.safetensors")
    check("numbers" in saved and saved["numbers"].ndim == 1, "no numbers of rows")
    numbers = saved["numbers"]
    check(numbers.dtype.kind in "iu" and len(set(numbers.tolist())) == len(numbers), "no numbers")
    check(((numbers >= 0) & (numbers <= len(codes))).all(), "rows that are not there")
    if numbers.dtype != np.int64 or (numbers == 0).any() or (np.diff(numbers) < 0).any():
        doubts.append("unusual numbers of rows")
    of_rows = {"start": (dim,), "rows": (len(numbers), dim)}
    used = {name: saved[name] for name in saved if name.removesuffix(":scale") in of_rows}
    if len(used) + 1 < len(saved):
        doubts.append("more than rows")
    rows = restore_weights(used, of_rows, doubts)
    table = np.tile(rows["start"], (1 + len(codes), 1))
    table[numbers.astype(np.int64)] = rows["rows"]
    content = store.files.get("trained_on.npy")
    if content is None and (folder / "trained_on.npy").exists():
        doubts.append("a file without a hash")
        content = read_content(folder / "trained_on.npy")
    keys = np.empty(0, np.uint64) if content is None else store.array(content)
    check(keys.ndim == 1 and keys.dtype == np.uint64, "no leak keys")
    tensors = {**weights, "rows": table}
    plain = {name: (tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}
    return model, plain, index, keys.tolist()


def judge_votes(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> Any:
    """Return the predictions of the one round, by the steps of its weights."""
    store = open_store("votes", folder, {"predictions.npz"}, doubts)
    store.get("fingerprint", str), store.get("complete", bool)
    step, first, stop = (whole(store.get(name, int), 0) for name in ("step", "first", "stop"))
    check(first <= stop, "a round that ends before it begins")
    ids = texts(store.get("task_ids", list))
    is_usual = all(name.isprintable() and name for name in ids) and len(set(ids)) == len(ids)
    if not is_usual or first == stop:
        doubts.append("an unusual round")
    types = {"task": "i4", "test": "i4", "view": "i4", "q": "f8", "reproduced": "f8",
             "shape": "u1", "cells": "u1"}  # fmt: skip
    columns = store.arrays("predictions.npz", types)
    shape, cells = columns["shape"], columns["cells"]
    check(shape.ndim == 2 and shape.shape[1] == 2 and shape.dtype.kind in "iu", "no shapes")
    sides = shape.astype(np.int64)
    check(((sides >= 0) & (sides <= 30)).all(), "a side beyond 0..30")
    check((sides.all(1) | ~sides.any(1)).all(), "half a grid")
    check(cells.shape == (sides.prod(1).sum(),), "another number of cells")
    column(cells, 0, 9)
    tasks = column(columns["task"], 0, len(ids) - 1)
    tests = column(columns["test"], 0, 2**31 - 1)
    views = column(columns["view"], 0, 2**31 - 1)
    shares = []
    for name in ("q", "reproduced"):
        array = columns[name]
        check(array.ndim == 1 and array.dtype.kind == "f", f"{name} is no column of numbers")
        is_there = ~np.isnan(array) if name == "reproduced" else np.ones(len(array), bool)
        check(((array >= 0) & (array <= 1))[is_there].all(), f"{name} is no share")
        shares.append([None if math.isnan(share) else share for share in array.tolist()])
    check({len(c) for c in (tasks, tests, views, *shares)} == {len(sides)}, "other lengths")
    parts = np.split(cells, np.cumsum(sides.prod(1))[:-1]) if len(sides) else []
    read = {}
    for task, test, view, q, reproduced, size, part in zip(
        tasks, tests, views, *shares, sides.tolist(), parts, strict=True
    ):
        vote = ids[task], test, view
        if view >= stop or view < first or test > 100 or vote in read:
            doubts.append("a vote that no round holds")
        grid = part.reshape(size).tolist() if len(part) else None
        read[vote] = *vote, q, reproduced, grid
    return {step: list(read.values())}


def judge_datasets(folder: Path, arguments: tuple[str, ...], doubts: Doubts) -> Any:
    """Return tasks, puzzle index and the plan of visits of a data set."""
    store = open_store("data sets", folder, {"tasks.npz", "puzzles.json", "views.npy"}, doubts)
    store.get("fingerprint", str)
    side = whole(store.get("canvas_side", int), 1, 30)
    index = store.index()
    ids, digests = index[1:3]
    check(ids and len(set(ids)) == len(ids), "no tasks, or one twice")
    least = {"num_demonstrations": 1, "num_tests": 1, "num_solutions": 0}
    types = {**dict.fromkeys(least, "i8"), "visit_sizes": "i8", "with_solutions": "?",
             "cells": "u1", "heights": "u1", "widths": "u1"}  # fmt: skip
    columns = store.arrays("tasks.npz", types)
    flags = columns.pop("with_solutions")
    check(flags.shape == (len(ids),), "no flags")
    if flags.dtype != bool:
        column(flags, 0, 1)
    cells = columns.pop("cells")
    column(cells, 0, 9)
    heights, widths = (column(columns[name], 1, 30) for name in ("heights", "widths"))
    counts = [column(columns[name], number, 10**6) for name, number in least.items()]
    sizes = column(columns["visit_sizes"], 0, 10**6)
    check({len(c) for c in (*counts, sizes)} == {len(ids)}, "other lengths")
    check(len(heights) == len(widths), "other lengths")
    check(len(cells) == np.dot(heights, widths), "other cells")
    check(len(heights) == 2 * sum(counts[0]) + sum(counts[1]) + sum(counts[2]), "other grids")
    sizes_of_grids = list(zip(heights, widths, strict=True))
    parts = np.split(cells, np.cumsum([height * width for height, width in sizes_of_grids])[:-1])
    grids = iter(part.reshape(size) for part, size in zip(parts, sizes_of_grids, strict=True))
    tasks = []
    for name, digest, flag, size, num_train, num_tests, num_solutions in zip(
        ids, digests, flags.tolist(), sizes, *counts, strict=True
    ):
        check(num_solutions in (0, num_tests), "solutions of some tests")
        train = list(islice(grids, 2 * num_train))
        tests, solutions = list(islice(grids, num_tests)), list(islice(grids, num_solutions))
        keys = (bytes(grid.shape) + grid.astype(np.uint8).tobytes() for grid in train)
        check(hashlib.sha256(b"".join(keys)).hexdigest() == digest, "a puzzle index of other tasks")
        if flag and not solutions:
            doubts.append("solutions that are hidden, to be trained on")
        trained = train + (tests + solutions if flag and solutions else [])
        check(size <= len(trained) // 2, "more visits than pairs")
        check(max(max(g.shape) for g in trained) <= side, "a grid larger than the canvas")
        plain = [[g.tolist() for g in part] for part in (train, tests, solutions)]
        tasks.append((name, *plain, bool(flag), size))
    return tasks, index, side
