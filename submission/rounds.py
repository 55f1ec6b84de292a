"""Rounds: the predictions of some views of all tests, each in a folder with their hashes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augment.errors import InputError
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.prediction import Prediction

_FORMAT = 2
_DESCRIPTION = "round.json"
_PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The views ``first`` to ``stop`` (excluded) of all tests of some tasks, by some weights."""

    fingerprint: str
    """Of all that decides the predictions, but for the steps of test-time training."""
    step: int
    """The steps of test-time training that the weights had behind them; 0 for none."""
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
        "q": np.array([p.q for p in round_.predictions]),
        "reproduced": np.array([p.reproduced for p in round_.predictions]),
        "shape": np.array([(0, 0) if g is None else g.shape for g in grids], dtype=np.uint8),
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
    """Read what :func:`write_round` wrote; :class:`InputError` when it is not as it was written."""
    path = folder / _DESCRIPTION
    raw = read_description(path, "round of votes", _FORMAT)
    task_ids = tuple(raw["task_ids"])
    with np.load(folder / _PREDICTIONS, allow_pickle=False) as columns:
        shapes = columns["shape"].reshape(-1, 2).astype(np.int64)
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
        task_ids,
        raw["first"],
        raw["stop"],
        raw["complete"],
        predictions,
    )


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
