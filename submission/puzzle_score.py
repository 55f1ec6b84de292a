"""How good the predictions of Sudoku puzzles and mazes are, after each number of supervision steps.

Shapes: K numbers of steps, N puzzles, S side of the grids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from augment.maze import are_shortest_paths
from augment.puzzle_set import PuzzleSet

Means = Mapping[str, float | None]
"""What a group of puzzles has in the mean, by name."""

_MOST_GROUPS = 6  # of puzzles by their rating


@dataclass(frozen=True, slots=True, eq=False)
class PuzzleScore:
    """What the predictions of a set of puzzles are worth."""

    steps: Sequence[int]
    exact_KN: NDArray[np.bool_]
    """Whether every cell is that of the answer."""
    cells_KN: NDArray[np.float64]
    """The share of right cells."""
    shortest_KN: NDArray[np.bool_] | None
    """Of mazes, whether the prediction is any shortest path: the answer is one of many."""

    def by_step(self) -> Iterator[Means]:
        """Yield the means over all puzzles after each number of supervision steps."""
        for number, step in enumerate(self.steps):
            yield {"steps": step, **self._means(number, np.arange(self.exact_KN.shape[1]))}

    def by_rating(self, ratings_N: NDArray[np.float64]) -> Iterator[Means]:
        """Yield the means over puzzles of similar rating, after the last supervision step."""
        edges = np.unique(np.quantile(ratings_N, np.linspace(0, 1, _MOST_GROUPS + 1)))
        groups_N = np.searchsorted(edges[1:-1], ratings_N, side="right")
        for group in np.unique(groups_N):
            members = np.flatnonzero(groups_N == group)
            rated = ratings_N[members]
            bounds = {"from": float(rated.min()), "to": float(rated.max())}
            yield {**bounds, "puzzles": len(members), **self._means(-1, members)}

    def _means(self, number: int, members: NDArray[np.int64]) -> Means:
        shortest = self.shortest_KN
        return {
            "exact": float(self.exact_KN[number, members].mean()),
            "cells": float(self.cells_KN[number, members].mean()),
            "shortest": None if shortest is None else float(shortest[number, members].mean()),
        }


def score_puzzles(
    puzzles: PuzzleSet, predicted_KNSS: NDArray[np.uint8], steps: Sequence[int]
) -> PuzzleScore:
    """Return what ``predicted_KNSS``, colors as those of the puzzles, are worth."""
    right_KNSS = predicted_KNSS == puzzles.answers
    shortest = None
    if puzzles.kind == "maze":
        paths = [are_shortest_paths(puzzles.questions, grids_NSS) for grids_NSS in predicted_KNSS]
        shortest = np.stack(paths)
    return PuzzleScore(steps, right_KNSS.all(axis=(2, 3)), right_KNSS.mean(axis=(2, 3)), shortest)
