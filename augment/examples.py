"""Examples as arrays of tokens: a stream of them for training, and the inputs of tests.

Examples are encoded when a batch needs them; no augmented grid is ever stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from augment.boxes import Boxes, boxes_around
from augment.dataset import Dataset
from augment.grid import GridStore
from augment.task import Pair, Task, positions_of_tests
from augment.tokens import PAD, encode_grids, turn_sizes
from augment.view import ViewCodes, color_maps

# Plans of epochs that a stream keeps; a batch can reach over several small ones.
_EPOCHS_KEPT = 4
# Part of the seed of this random generator; others, such as solver.loader's, have other numbers.
_SAMPLING = 0


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

    @classmethod
    def without_labels(
        cls, inputs: NDArray[np.uint8], rows: NDArray[np.int64], codes: ViewCodes, boxes: Boxes
    ) -> "Examples":
        """Return examples from which nothing is to be learned."""
        blank = np.broadcast_to(np.uint8(PAD), inputs.shape)  # takes no memory
        return cls(inputs, blank, rows, codes, boxes)

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def take(self, chosen: slice | NDArray[np.int64]) -> "Examples":
        """Return the ``chosen`` examples."""
        return Examples(*(column[chosen] for column in self.columns.values()))


class Stream(Protocol):
    """An endless stream of training examples, of which any part can be asked for."""

    def examples(self, start: int, stop: int) -> Examples:
        """Return the examples ``start`` to ``stop`` (excluded) of the stream."""


class ExampleStream:
    """The endless stream of training examples of a data set, the same for a seed on any machine.

    An epoch visits each task once, in random order: one random view of it, then its pairs in
    random order, each at a fresh random translation (the first pair of a visit stays at the top
    left). Where ``Dataset.pairs_per_visit`` is less than a task has, a visit takes so many of them
    at random. Example i of the stream is a function of the seed and i alone, so a run can go on
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
        dataset, store = self._dataset, self._dataset.grid_store
        pairs, views, shifts = self._plan(start, stop)
        rows, codes = dataset.index.rows(dataset.task_of_pair[pairs], views)
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
        dataset, task_of_pair = self._dataset, self._dataset.task_of_pair
        order_of_task = rng.permutation(len(dataset.tasks))
        view_of_task = rng.integers(dataset.index.num_views)
        shifts = rng.random((dataset.num_pairs, 2))
        pairs = np.lexsort((rng.random(len(task_of_pair)), order_of_task[task_of_pair]))
        tasks = task_of_pair[pairs]
        is_drawn = _ranks_in_runs(tasks) < dataset.pairs_per_visit[tasks]
        pairs, tasks = pairs[is_drawn], tasks[is_drawn]
        opens_visit = np.diff(tasks, prepend=-1) != 0
        shifts[opens_visit] = 0.0
        return pairs, view_of_task[tasks], shifts


def _ranks_in_runs(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place (N,) of each value in its run of equal values, from 0; values are >= 0."""
    places = np.arange(len(values))
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return places - np.repeat(starts, np.diff(starts, append=len(values)))


def view_features(codes: ViewCodes) -> NDArray[np.int64]:
    """Return (N, 10): each view's dihedral, then the new colors of 1..9."""
    maps = color_maps()
    dihedrals, ranks = np.divmod(codes, len(maps))
    return np.column_stack([dihedrals, maps[ranks][:, 1:]]).astype(np.int64)


def encode_test_pairs(
    pairs: Sequence[Pair], rows: NDArray[np.int64], codes: ViewCodes, canvas_side: int
) -> Examples:
    """Return an example of each pair under its view, never translated, in its true box."""
    offsets, grid_ids = np.zeros((len(codes), 2), dtype=np.int64), np.arange(len(pairs))
    inputs, outputs = (
        GridStore.of(getattr(pair, part) for pair in pairs) for part in ("input", "output")
    )
    sizes = turn_sizes(np.maximum(inputs.sizes(grid_ids), outputs.sizes(grid_ids)), codes)
    return Examples(
        encode_grids(inputs, grid_ids, codes, offsets, canvas_side),
        encode_grids(outputs, grid_ids, codes, offsets, canvas_side),
        rows,
        codes,
        boxes_around(sizes, offsets, canvas_side),
    )


def encode_test_inputs(
    tasks: Sequence[Task],
    task_numbers: NDArray[np.int64],
    test_numbers: NDArray[np.int64],
    codes: ViewCodes,
    canvas_side: int,
) -> NDArray[np.uint8]:
    """Return tokens (N, canvas_side ** 2) of test inputs under their views, never translated."""
    store = GridStore.of(grid for task in tasks for grid in task.test_inputs)
    offsets = np.zeros((len(codes), 2), dtype=np.int64)
    grid_ids = positions_of_tests(tasks, task_numbers, test_numbers)
    return encode_grids(store, grid_ids, codes, offsets, canvas_side)
