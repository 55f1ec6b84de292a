"""Tasks as a few arrays: the form in which a data set keeps them on disk."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.task import Pair, Task
from augment.tokens import GridStore


def pack_tasks(tasks: Sequence[Task]) -> dict[str, NDArray[Any]]:
    """Return the tasks, without their ids, as arrays.

    ``cells``, ``heights`` and ``widths`` are those of all grids, task by task: demonstrations,
    test inputs, answers. ``num_demonstrations``, ``num_tests`` and ``num_answers`` (0 where they
    are hidden) count them.
    """
    store = GridStore.of(
        grid for task in tasks for grid in (*task.visible_grids, *(task.answers or ()))
    )
    return {
        "cells": store.cells,
        "heights": store.heights.astype(np.uint8),
        "widths": store.widths.astype(np.uint8),
        "num_demonstrations": np.array([len(task.train) for task in tasks]),
        "num_tests": np.array([len(task.test_inputs) for task in tasks]),
        "num_answers": np.array([len(task.answers or ()) for task in tasks]),
    }


def unpack_tasks(task_ids: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> tuple[Task, ...]:
    """Return what :func:`pack_tasks` packed; the grids are parts of ``columns["cells"]``."""
    heights, widths = (columns[side].astype(np.int64) for side in ("heights", "widths"))
    grids = iter(GridStore.cut(columns["cells"], heights, widths))
    counts = (columns[f"num_{part}"].tolist() for part in ("demonstrations", "tests", "answers"))
    return tuple(
        Task(
            task_id,
            tuple(Pair(next(grids), next(grids)) for _ in range(num_demonstrations)),
            tuple(islice(grids, num_tests)),
            tuple(islice(grids, num_answers)) or None,
        )
        for task_id, num_demonstrations, num_tests, num_answers in zip(
            task_ids, *counts, strict=True
        )
    )
