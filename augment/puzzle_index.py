"""The puzzle index: which row of the puzzle table belongs to which task and view."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import orjson
from numpy.typing import NDArray

from augment.arrays import read_array
from augment.errors import InputError
from augment.files import read_object, write_atomic
from augment.grid import NUM_COLORS, shorten
from augment.task import Task
from augment.view import IDENTITY_CODE, NUM_VIEWS, ViewCodes, sample_views

PUZZLES = "puzzles.json"
"""The file of an index with the tasks of its rows; their views are in :data:`VIEWS`."""
VIEWS = "views.npy"

RowsPer = Literal["view", "task"]
"""A row for each view of each task (the reference), or one for each task."""

ColorMaps = Literal["all", "inputs", "varying", "none"]
"""Which colors views permute: all but 0 (the reference); inputs, of these not the ones that only
outputs have; varying, of those not the ones that every input has; or none.

A color that only outputs have is the same for every input, so it may mean something; a color that
all inputs have may play a part of its own.
"""


@dataclass(frozen=True, eq=False)
class PuzzleIndex:
    """The tasks of a puzzle table in order, and the views of each.

    The views of task t are ``codes[starts[t]:starts[t + 1]]``, the identity first. Row 0 is blank.
    The digest of its demonstrations ties a row to what it was trained on, not only to a name.
    """

    task_ids: tuple[str, ...]
    task_digests: tuple[str, ...]
    starts: NDArray[np.int64]
    codes: ViewCodes
    rows_per: RowsPer

    @classmethod
    def of(
        cls,
        tasks: Sequence[Task],
        views_per_task: int,
        seed: int,
        rows_per: RowsPer,
        color_maps: ColorMaps = "all",
        on_task: Callable[[], object] = lambda: None,
    ) -> "PuzzleIndex":
        """Return the index of ``tasks`` with the identity and up to ``views_per_task`` more views.

        Only what a solver may see decides which views are distinct; solutions play no part.
        ``on_task`` is called after each task.
        """
        codes = []
        for task in tasks:
            kept = _colors_kept(task, color_maps)
            codes.append(sample_views(task.visible_grids, task.task_id, views_per_task, seed, kept))
            on_task()
        return cls(
            tuple(task.task_id for task in tasks),
            tuple(task.demonstrations_digest() for task in tasks),
            np.cumsum([0, *map(len, codes)]),
            np.concatenate([np.empty(0, np.uint32), *codes]),
            rows_per,
        )

    @classmethod
    def empty(cls, rows_per: RowsPer) -> "PuzzleIndex":
        """Return the index of no tasks."""
        return cls.of([], 0, 0, rows_per)

    @property
    def num_rows(self) -> int:
        """The rows of the table, the blank one included."""
        return 1 + (len(self.codes) if self.rows_per == "view" else len(self.task_ids))

    @property
    def num_views(self) -> NDArray[np.int64]:
        """The number of views of each task, (tasks,)."""
        return np.diff(self.starts)

    @cached_property
    def digest(self) -> str:
        """A hash of everything that decides what a row means."""
        state = hashlib.sha256(self.rows_per.encode())
        state.update(orjson.dumps([self.task_ids, self.task_digests]))
        state.update(np.ascontiguousarray(self.starts, dtype="<i8").data)
        state.update(np.ascontiguousarray(self.codes, dtype="<u4").data)
        return state.hexdigest()

    @cached_property
    def _positions(self) -> dict[tuple[str, str], int]:
        return {
            key: position
            for position, key in enumerate(zip(self.task_ids, self.task_digests, strict=True))
        }

    def key(self, position: int) -> tuple[str, str]:
        """Return the id of a task and the digest of its demonstrations."""
        return self.task_ids[position], self.task_digests[position]

    def position_of(self, task_id: str, digest: str) -> int | None:
        """Return the position of the task with this key, None if absent."""
        return self._positions.get((task_id, digest))

    def find(self, task: Task) -> int | None:
        """Return the position of a task with this id and these demonstrations, None if absent."""
        return self.position_of(task.task_id, task.demonstrations_digest())

    def rows(
        self, tasks: NDArray[np.int64], views: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ViewCodes]:
        """Return rows (N,) and view codes (N,) of the given views of the given tasks."""
        positions = self.starts[tasks] + views
        return 1 + (positions if self.rows_per == "view" else tasks), self.codes[positions]

    def save(self, folder: Path) -> None:
        """Write ``puzzles.json`` and ``views.npy`` into ``folder``."""
        description = {
            "rows_per": self.rows_per,
            "task_ids": self.task_ids,
            "task_digests": self.task_digests,
            "num_views": self.num_views.tolist(),
        }
        write_atomic(folder / PUZZLES, orjson.dumps(description))
        np.save(folder / VIEWS, self.codes, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "PuzzleIndex":
        """Read what :meth:`save` wrote; :class:`InputError` where it cannot have written it."""
        path = folder / PUZZLES
        raw = read_object(path)
        for name, kind in (("task_ids", str), ("task_digests", str), ("num_views", int)):
            column = raw.get(name)
            if not isinstance(column, list) or not all(type(value) is kind for value in column):
                raise InputError(f"{path}: {name} is {shorten(column)}, no list of {kind.__name__}")
        task_ids, task_digests, num_views = (
            raw[name] for name in ("task_ids", "task_digests", "num_views")
        )
        if raw.get("rows_per") not in get_args(RowsPer):
            raise InputError(f"{path}: rows_per is {shorten(raw.get('rows_per'))}")
        if not len(task_ids) == len(task_digests) == len(num_views):
            raise InputError(f"{path}: not as many ids as digests and numbers of views")
        codes = read_array(folder / VIEWS, np.uint32)
        if sum(num_views) != len(codes) or min(num_views, default=1) < 1:
            raise InputError(
                f"{path}: at least a view of each task and {sum(num_views)} views, but {VIEWS} "
                f"holds {len(codes)}"
            )
        starts = np.cumsum([0, *num_views])
        if (codes >= NUM_VIEWS).any() or (codes[starts[:-1]] != IDENTITY_CODE).any():
            raise InputError(f"{folder / VIEWS}: not the views of tasks, each with itself first")
        return cls(tuple(task_ids), tuple(task_digests), starts, codes, raw["rows_per"])


def _colors_kept(task: Task, color_maps: ColorMaps) -> Sequence[int]:
    """Return the colors of a task that its views leave as they are."""
    if color_maps == "all":
        return ()
    colors = range(1, NUM_COLORS)
    if color_maps == "none":
        return colors
    inputs = [set(np.unique(g)) for g in (*(p.input for p in task.train), *task.test_inputs)]
    outputs = set[int]().union(*(np.unique(pair.output) for pair in task.train))
    kept = outputs - set[int]().union(*inputs)
    if color_maps == "varying":
        kept |= set.intersection(*inputs)
    return [color for color in colors if color in kept]
