"""A data set: tasks and a plan of their views; examples are made when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from augment.boxes import Boxes, boxes_around
from augment.columns import pack_tasks, unpack_tasks
from augment.errors import InputError
from augment.files import hash_file, read_description, replace_folder, write_description
from augment.grid import NUM_COLORS
from augment.leaks import collect_taught
from augment.puzzles import PuzzleIndex
from augment.task import Pair, Task
from augment.tokens import GridStore, encode_grids, turn_sizes
from augment.view import ViewCodes, color_maps

NUM_VIEW_FEATURES = NUM_COLORS
"""The dihedral, and what the colors 1..9 became (:func:`view_features`)."""

_FORMAT = 2
"""Raised when the same tasks and settings would be saved, or their views drawn, differently."""
_DESCRIPTION = "dataset.json"
_TASKS = "tasks.npz"
_EPOCHS_KEPT = 4
_SAMPLING = 0  # what this generator is for; exploration in solver.batch has another number


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """N examples as arrays; ``labels`` hold PAD (0) where nothing is to be learned.

    inputs, labels: (N, canvas_side ** 2) uint8 tokens. rows: (N,) int64. codes: (N,) view codes.
    boxes: (N, 4), see :mod:`augment.boxes`; outside of them every token is PAD.
    """

    inputs: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    codes: ViewCodes
    boxes: Boxes

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def take(self, chosen: slice | NDArray[np.int64]) -> "Examples":
        """Return some of the examples."""
        return Examples(*(column[chosen] for column in self.columns.values()))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Tasks, the views of each, and which of them give their test pairs to training too."""

    tasks: tuple[Task, ...]
    index: PuzzleIndex
    with_answers: tuple[bool, ...]
    canvas_side: int

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InputError("the data set has no task to train on")
        if any(self.index.find(task) != n for n, task in enumerate(self.tasks)):
            raise InputError("the data set's row map belongs to other tasks")
        for task, pairs in zip(self.tasks, self.trained_pairs, strict=True):
            for number, pair in enumerate(pairs):
                if max(*pair.input.shape, *pair.output.shape) > self.canvas_side:
                    raise InputError(
                        f"task {task.task_id!r}, trained pair {number}: a grid of "
                        f"{pair.input.shape} -> {pair.output.shape} does not fit the "
                        f"{self.canvas_side}x{self.canvas_side} canvas"
                    )

    @cached_property
    def trained_pairs(self) -> tuple[tuple[Pair, ...], ...]:
        """The pairs each task is trained on: demonstrations, and test pairs where allowed."""
        return tuple(
            task.train + (task.test_pairs if with_answers else ())
            for task, with_answers in zip(self.tasks, self.with_answers, strict=True)
        )

    @cached_property
    def taught(self) -> NDArray[np.uint64]:
        """The digests of all that the tasks teach whose answers are trained on."""
        pairs = zip(self.tasks, self.with_answers, strict=True)
        return collect_taught(task for task, with_answers in pairs if with_answers)

    @cached_property
    def num_pairs(self) -> int:
        """The number of trained pairs, which is the number of examples in an epoch."""
        return sum(map(len, self.trained_pairs))

    @cached_property
    def _store(self) -> GridStore:
        """Grids 2p and 2p + 1 are input and output of trained pair p."""
        return GridStore.of(
            grid
            for pairs in self.trained_pairs
            for pair in pairs
            for grid in (pair.input, pair.output)
        )

    @cached_property
    def _task_of_pair(self) -> NDArray[np.int64]:
        counts = [len(pairs) for pairs in self.trained_pairs]
        return np.repeat(np.arange(len(counts)), counts)

    def save(self, folder: Path, built_from: str = "") -> None:
        """Write the data set as ``folder``, which is replaced only when the new one is whole.

        ``built_from`` is a digest of what it was made of, for :meth:`load` to compare.
        """
        with replace_folder(folder) as temporary:
            columns = {**pack_tasks(self.tasks), "with_answers": np.array(self.with_answers)}
            np.savez(temporary / _TASKS, allow_pickle=False, **columns)
            self.index.save(temporary)
            description = {
                "format": _FORMAT,
                "built_from": built_from,
                "canvas_side": self.canvas_side,
                "files": {path.name: hash_file(path) for path in sorted(temporary.iterdir())},
            }
            write_description(temporary / _DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path, built_from: str | None = None) -> "Dataset":
        """Read what :meth:`save` wrote.

        Raises :class:`InputError` when a file is not as it was written, or when the data set was
        made of something else than ``built_from``.
        """
        description = read_description(folder / _DESCRIPTION, "data set", _FORMAT)
        if built_from not in (None, description["built_from"]):
            raise InputError(f"{folder}: built from other tasks or settings")
        index = PuzzleIndex.load(folder)
        with np.load(folder / _TASKS, allow_pickle=False) as columns:
            tasks = unpack_tasks(index.task_ids, columns)
            with_answers = tuple(columns["with_answers"].tolist())
        return cls(tasks, index, with_answers, description["canvas_side"])


class ExampleStream:
    """The endless stream of training examples of a data set, the same for a seed on any machine.

    An epoch visits each task once, in random order: one random view of it, then its pairs in
    random order, each at a fresh random translation (the first pair of a visit stays at the top
    left). Example i of the stream is a function of the seed and i alone, so a run can go on
    anywhere, and processes can share a batch by taking slices of it. Source: the TRM reference's
    sampling, which drops what does not fit a batch; here it opens the next one.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        """Open the stream of ``dataset`` for ``seed``."""
        self._dataset = dataset
        self._seed = seed
        self._plan_epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._draw_epoch)

    def examples(self, start: int, stop: int) -> Examples:
        """Return the examples ``start`` to ``stop`` (excluded) of the stream."""
        dataset, store = self._dataset, self._dataset._store
        pairs, views, shifts = self._plan(start, stop)
        rows, codes = dataset.index.rows(dataset._task_of_pair[pairs], views)
        input_ids, output_ids = 2 * pairs, 2 * pairs + 1
        sizes = turn_sizes(np.maximum(store.sizes(input_ids), store.sizes(output_ids)), codes)
        # A shift in [0, 1) becomes one of the offsets at which both grids fit, all equally likely.
        offsets = (shifts * (dataset.canvas_side - sizes + 1)).astype(np.int64)
        return Examples(
            encode_grids(store, input_ids, codes, offsets, dataset.canvas_side),
            encode_grids(store, output_ids, codes, offsets, dataset.canvas_side),
            rows,
            codes,
            boxes_around(sizes, offsets, dataset.canvas_side),
        )

    def _plan(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        size = self._dataset.num_pairs
        parts = []
        for epoch in range(start // size, (stop - 1) // size + 1):
            window = slice(max(start - epoch * size, 0), min(stop - epoch * size, size))
            parts.append([column[window] for column in self._plan_epoch(epoch)])
        pairs, views, shifts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return pairs, views, shifts

    def _draw_epoch(
        self, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return pair (E,), view of its task (E,) and shift (E, 2) of an epoch's examples."""
        rng = np.random.default_rng([self._seed, _SAMPLING, epoch])
        task_of_pair = self._dataset._task_of_pair
        turn_of_task = rng.permutation(len(self._dataset.tasks))
        view_of_task = rng.integers(self._dataset.index.num_views)
        shifts = rng.random((len(task_of_pair), 2))
        pairs = np.lexsort((rng.random(len(task_of_pair)), turn_of_task[task_of_pair]))
        tasks = task_of_pair[pairs]
        opens_visit = np.diff(tasks, prepend=-1) != 0
        shifts[opens_visit] = 0.0
        return pairs, view_of_task[tasks], shifts


def view_features(codes: ViewCodes) -> NDArray[np.int64]:
    """Return (N, NUM_VIEW_FEATURES): each view's dihedral, then what the colors 1..9 became."""
    maps = color_maps()
    dihedrals, ranks = np.divmod(codes, len(maps))
    return np.column_stack([dihedrals, maps[ranks][:, 1:]]).astype(np.int64)


def encode_test_inputs(
    tasks: Sequence[Task],
    task_numbers: NDArray[np.int64],
    test_numbers: NDArray[np.int64],
    codes: ViewCodes,
    canvas_side: int,
) -> NDArray[np.uint8]:
    """Return tokens (N, canvas_side ** 2) of test inputs under their views, never translated."""
    first_of_task = np.cumsum([0, *(len(task.test_inputs) for task in tasks)])
    store = GridStore.of(grid for task in tasks for grid in task.test_inputs)
    offsets = np.zeros((len(codes), 2), dtype=np.int64)
    grid_ids = first_of_task[task_numbers] + test_numbers
    return encode_grids(store, grid_ids, codes, offsets, canvas_side)
