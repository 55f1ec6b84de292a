"""What score to expect of so much training: a rule fitted on the runs of `make experiment`.

The share of grids that a model gets wholly right, in tests of tasks whose demonstrations it is
trained on, grows with its width D and the presentations N of each pair (a pair under one view,
forward and backward), of which a larger batch G makes less:

    -ln(exact) = A (D / 128)^-a + B n^-b,    n = N (64 / G)^g

That is on a canvas of 12x12. By votes a test whose larger grid has C cells is solved in two
attempts, on any canvas, with the probability

    solved = sigmoid(u + v ln(exact) + w ln(C))

``experiments/fit.py`` fits the eight numbers, again and again on resampled runs and outputs; these
fits differ as much as the rule is uncertain. The form of the first line is that of "Training
Compute-Optimal Large Language Models" (arXiv 2203.15556), with presentations in place of data.

Shapes: R resamples, N tests.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from augment.task import Task

WIDTH, BATCH = 128, 64
"""The width and the batch that others are divided by."""

FITTED = Path(__file__).with_name("scaling.json")


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The rule's numbers, each as fitted to every resample."""

    exact_R5: NDArray[np.float64]
    """ln A, a, ln B, b, g."""
    solved_R3: NDArray[np.float64]
    """u, v, w."""
    largest_flop: float
    """Of the runs that it was fitted on."""

    @classmethod
    def read(cls, path: Path = FITTED) -> "Rule":
        """Return the rule that was fitted and is kept with the program."""
        kept = orjson.loads(path.read_bytes())
        return cls(np.array(kept["exact"]), np.array(kept["solved"]), kept["largest_flop"])

    def as_json(self) -> dict[str, Any]:
        """Return what :meth:`read` reads."""
        return {
            "largest_flop": self.largest_flop,
            "exact": self.exact_R5.round(5).tolist(),
            "solved": self.solved_R3.round(5).tolist(),
        }

    def exact(self, dim: float, presentations: float, batch: float) -> NDArray[np.float64]:
        """Return the expected share (R,) of grids that are wholly right."""
        ln_a, a, ln_b, b, g = self.exact_R5.T
        wide, long = np.log(dim / WIDTH), np.log(presentations) + g * np.log(BATCH / batch)
        exact_R: NDArray[np.float64] = np.exp(-np.exp(ln_a - a * wide) - np.exp(ln_b - b * long))
        return exact_R

    def solved(
        self, exact_R: NDArray[np.float64], cells_N: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the expected share (R,) of tests with so many cells that is solved."""
        u, v, w = self.solved_R3.T[..., None]
        logits_RN = u + v * np.log(exact_R)[:, None] + w * np.log(cells_N)
        solved_R: NDArray[np.float64] = (1 / (1 + np.exp(-logits_RN))).mean(axis=1)
        return solved_R


def visible_cells(task: Task) -> float:
    """Return the mean over demonstrations of the larger grid's cells: no solution is looked at."""
    return float(np.mean([max(pair.input.size, pair.output.size) for pair in task.train]))
