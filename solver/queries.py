"""What to predict and what it costs: queries, and the plan of the boxes and chunks they take.

A query is a test input under one view. Shapes: N queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from augment.boxes import Boxes, full_boxes, infer_test_boxes
from augment.examples import Examples, encode_test_inputs
from augment.task import Task
from augment.view import ViewCodes
from solver.flop import flop_of_prediction
from solver.packing import boxes_for, lengths_of, plan_passes
from solver.settings import ModelSettings
from solver.weights import Weights

_LEAST_CHUNKS = 8  # into which a plan is split, as long as they do not get too small
_LEAST_POSITIONS = 8192  # fewest positions worth a chunk; the engine's own limit may be lower


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """What to predict, as columns (N,): a test of a task under a view, and its puzzle row.

    ``tasks`` are positions in a sequence of tasks, ``tests`` and ``views`` count from 0 within a
    task, ``codes`` are view codes.
    """

    tasks: NDArray[np.int64]
    tests: NDArray[np.int64]
    views: NDArray[np.int64]
    rows: NDArray[np.int64]
    codes: ViewCodes

    def take(self, chosen: NDArray[np.int64]) -> "Queries":
        """Return the ``chosen`` queries."""
        return Queries(*(getattr(self, field.name)[chosen] for field in fields(self)))


def list_queries(weights: Weights, tasks: Sequence[Task], num_views: int) -> Queries:
    """Return every test of ``tasks``, all in the index of ``weights``, under its first views."""
    index = weights.index
    columns = []
    for number, task in enumerate(tasks):
        position = index.find(task)
        assert position is not None, task.task_id
        views = np.arange(min(num_views, index.num_views[position]))
        rows, codes = index.rows(np.full(len(views), position), views)
        for test in range(len(task.test_inputs)):
            numbers = np.full_like(views, number), np.full_like(views, test)
            columns.append((*numbers, views, rows, codes))
    return Queries(*(np.concatenate(column) for column in zip(*columns, strict=True)))


class Chunk(NamedTuple):
    """Queries that are submitted together, and the FLOP that they take."""

    members: NDArray[np.int64]
    flop: float


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Queries with the box that is computed for each, and what they cost."""

    model: ModelSettings
    num_steps: int
    """Supervision steps."""
    tasks: Sequence[Task]
    queries: Queries
    boxes: Boxes

    @classmethod
    def of(
        cls, model: ModelSettings, num_steps: int, tasks: Sequence[Task], queries: Queries
    ) -> "Plan":
        """Return the plan of ``queries``; their boxes are inferred from what is visible."""
        boxes = infer_test_boxes(
            tasks, queries.tasks, queries.tests, queries.codes, model.canvas_side
        )
        return cls(model, num_steps, tasks, queries, boxes_for(model, boxes))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The positions of each query, (N,)."""
        return lengths_of(self.boxes, self.model)

    @property
    def flop(self) -> float:
        """The FLOP of all queries, unless predictions outgrow their boxes."""
        return flop_of_prediction(self.model, self.lengths, self.num_steps)

    def take(self, chosen: NDArray[np.int64]) -> "Plan":
        """Return the plan of the ``chosen`` queries alone."""
        return replace(self, queries=self.queries.take(chosen), boxes=self.boxes[chosen])

    def between(self, first: int, stop: int) -> "Plan":
        """Return the plan of the views ``first`` to ``stop`` (excluded) of every test."""
        views = self.queries.views
        return self.take(np.flatnonzero((first <= views) & (views < stop)))

    def on_full_canvas(self) -> "Plan":
        """Return the plan that computes the whole canvas of every query."""
        return replace(self, boxes=full_boxes(len(self.boxes), self.model.canvas_side))

    def chunks(self, planned_positions: int) -> list[Chunk]:
        """Return chunks of about equal size, those of the longest queries first.

        They do not depend on the number of processes, so neither do the predictions. A small plan
        is split for several GPUs too, but not below what a GPU computes at full speed.
        """
        lengths = self.lengths
        smallest = max(int(lengths.sum()) // _LEAST_CHUNKS, _LEAST_POSITIONS)
        return [
            Chunk(members, flop_of_prediction(self.model, lengths[members], self.num_steps))
            for members in plan_passes(lengths, min(planned_positions, smallest))
        ]

    def examples(self) -> Examples:
        """Return the test inputs under their views, without labels."""
        queries = self.queries
        inputs = encode_test_inputs(
            self.tasks, queries.tasks, queries.tests, queries.codes, self.model.canvas_side
        )
        return Examples.without_labels(inputs, queries.rows, queries.codes, self.boxes)


def share_chunks(chunks: Sequence[Chunk], num_processes: int) -> list[list[Chunk]]:
    """Return the chunks of each process, about equal in FLOP, the shortest queries first."""
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [0.0] * num_processes
    for number in sorted(range(len(chunks)), key=lambda n: (-chunks[n].flop, n)):
        lightest = loads.index(min(loads))
        shares[lightest].append(number)
        loads[lightest] += chunks[number].flop
    return [[chunks[number] for number in sorted(share, reverse=True)] for share in shares]
