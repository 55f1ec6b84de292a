"""Rounds: the predictions of some views of all tests, each in a folder with their hashes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.arrays import read_arrays
from augment.errors import InputError
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.grid import check_stored, shorten
from augment.prediction import Prediction
from augment.task import Task

_FORMAT = 2
_DESCRIPTION = "round.json"
_PREDICTIONS = "predictions.npz"
_MOST_PREDICTIONS = 2**24  # of a round; each takes some 300 bytes of memory
_COLUMNS = {
    **dict.fromkeys(("task", "test", "view"), (np.int32, 1)),
    **dict.fromkeys(("q", "reproduced"), (np.float64, 1)),
    "shape": (np.uint8, 2),
    "cells": (np.uint8, 1),
}


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The views ``first`` to ``stop`` (excluded) of all tests of some tasks, by some weights."""

    fingerprint: str
    """Of all that decides the predictions, but for the steps of test-time training."""
    step: int
    """The steps of test-time training that the weights had behind them; 0 for none.

    Of tasks trained apart the most that they may have been, so that these votes count as newest.
    """
    task_ids: tuple[str, ...]
    first: int
    stop: int
    complete: bool
    """Whether every prediction is there; time can be over before."""
    predictions: Sequence[Prediction]


def write_round(folder: Path, round_: Round) -> None:
    """Write the round as ``folder``, which appears only when it is complete."""
    numbers = {task_id: number for number, task_id in enumerate(round_.task_ids)}
    grids = [p.grid for p in round_.predictions]
    columns: dict[str, NDArray[np.generic]] = {
        "task": np.array([numbers[p.task_id] for p in round_.predictions], dtype=np.int32),
        "test": np.array([p.test for p in round_.predictions], dtype=np.int32),
        "view": np.array([p.view for p in round_.predictions], dtype=np.int32),
        "q": np.array([p.q for p in round_.predictions], dtype=np.float64),
        "reproduced": np.array([p.reproduced for p in round_.predictions], dtype=np.float64),
        "shape": np.array(
            [(0, 0) if g is None else g.shape for g in grids], dtype=np.uint8
        ).reshape(-1, 2),
        "cells": np.concatenate(
            [np.empty(0, np.uint8), *(g.ravel() for g in grids if g is not None)]
        ),
    }
    with replace_folder(folder) as temporary:
        np.savez_compressed(temporary / _PREDICTIONS, allow_pickle=False, **columns)
        description = {
            "format": _FORMAT,
            "fingerprint": round_.fingerprint,
            "step": round_.step,
            "first": round_.first,
            "stop": round_.stop,
            "complete": round_.complete,
            "task_ids": round_.task_ids,
            "files": {_PREDICTIONS: hash_file(temporary / _PREDICTIONS)},
        }
        write_description(temporary / _DESCRIPTION, description)


def read_round(folder: Path) -> Round:
    """Read what :func:`write_round` wrote; :class:`InputError` when it cannot have written it."""
    path = folder / _DESCRIPTION
    raw = read_description(
        path, "round of votes", _FORMAT, (_PREDICTIONS,),
        fingerprint=str, step=int, first=int, stop=int, complete=bool, task_ids=list,
    )  # fmt: skip
    task_ids, views = raw["task_ids"], range(raw["first"], raw["stop"])
    if not all(type(task_id) is str for task_id in task_ids):
        raise InputError(f"{path}: task_ids is {shorten(task_ids)}, no list of str")
    columns = read_arrays(folder / _PREDICTIONS, _COLUMNS)
    try:
        _check_columns(columns, len(task_ids), views)
    except InputError as error:
        raise InputError(f"{folder / _PREDICTIONS}: {error}") from None
    shapes = columns["shape"].astype(np.int64)
    parts = np.split(columns["cells"], np.cumsum(shapes.prod(1))[:-1]) if len(shapes) else []
    names = ("task", "test", "q", "view", "reproduced")
    rows = zip(shapes.tolist(), parts, *(columns[n].tolist() for n in names), strict=True)
    predictions = [
        Prediction(
            task_ids[task],
            test,
            cells.reshape(shape).copy() if len(cells) else None,
            q,
            view,
            reproduced,
        )
        for shape, cells, task, test, q, view, reproduced in rows
    ]
    return Round(
        raw["fingerprint"],
        raw["step"],
        tuple(task_ids),
        raw["first"],
        raw["stop"],
        raw["complete"],
        predictions,
    )


def _check_columns(columns: Mapping[str, NDArray[Any]], num_tasks: int, views: range) -> None:
    """Raise :class:`InputError` unless the columns are those of predictions of a round."""
    count = len(columns["task"])
    if any(len(column) != count for name, column in columns.items() if name != "cells"):
        raise InputError("columns of different lengths")
    if count > _MOST_PREDICTIONS:
        raise InputError(f"{count:,} predictions are too many")
    if columns["shape"].shape[1] != 2:
        raise InputError("a shape is not a height and a width")
    heights, widths = columns["shape"][columns["shape"].any(1)].astype(np.int64).T
    check_stored(columns["cells"], heights, widths)
    for name, numbers in (("task", range(num_tasks)), ("view", views)):
        column = columns[name]
        if not ((column >= numbers.start) & (column < numbers.stop)).all():
            raise InputError(f"a {name} is not in {numbers.start}..{numbers.stop - 1}")
    if (columns["test"] < 0).any():
        raise InputError(f"a test has the number {columns['test'].min()}")
    for name in ("q", "reproduced"):
        column = columns[name]
        is_share = (column >= 0) & (column <= 1)
        if not (is_share | (np.isnan(column) & (name == "reproduced"))).all():
            raise InputError(f"a value of {name} is not in 0..1")
    keys = np.stack([columns[name] for name in ("view", "test", "task")])
    keys = keys[:, np.lexsort(keys)]
    if (keys[:, 1:] == keys[:, :-1]).all(0).any():
        raise InputError("a view votes twice for a test")


def check_tests(predictions: Iterable[Prediction], tasks: Iterable[Task], folder: Path) -> None:
    """Raise :class:`InputError`, naming ``folder``, unless all are of tests of ``tasks``."""
    num_tests = {task.task_id: len(task.test_inputs) for task in tasks}
    for prediction in predictions:
        task_id, test = prediction.task_id, prediction.test
        if test >= num_tests.get(task_id, 0):
            what = f"votes for test {test} of task {shorten(task_id)}"
            raise InputError(f"{folder}: {what}, which is not among the predicted ones")


def round_folders(folder: Path) -> list[Path]:
    """Return the rounds in ``folder``, oldest first."""
    return sorted(folder.glob("round_" + "[0-9]" * 4))


def read_votes(folder: Path) -> dict[int, list[Prediction]]:
    """Return the predictions of all rounds in ``folder`` by the steps of the weights."""
    folders = round_folders(folder)
    if not folders:
        raise InputError(f"{folder}: no rounds of votes")
    return by_step(map(read_round, folders))


def by_step(rounds: Iterable[Round]) -> dict[int, list[Prediction]]:
    """Return the predictions of the rounds by the steps that their weights had behind them.

    A view votes once for a test: where rounds overlap, the later one counts.
    """
    views_by_step: Mapping[int, dict[tuple[str, int, int], Prediction]] = defaultdict(dict)
    for round_ in rounds:
        views = {(p.task_id, p.test, p.view): p for p in round_.predictions}
        views_by_step[round_.step].update(views)
    return {step: list(views.values()) for step, views in views_by_step.items()}
