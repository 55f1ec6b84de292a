"""What a solver says about test inputs: the type between solving and voting."""

import math
from dataclasses import dataclass

from augment.drawing import Labelled, draw_columns
from augment.grid import Grid


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One guess at a test output, made under one view, the view already undone."""

    task_id: str
    test: int
    """Number of the test within its task, from 0."""
    grid: Grid | None
    """None when nothing could be cut out of the predicted canvas."""
    q: float
    """The probability the model gives to being right, from the halt logit."""
    view: int = 0
    """Number of the view among those of its task; 0 is the task as it is."""
    reproduced: float = math.nan
    """The share of the task's demonstrations that the model reproduces under this view; NaN where
    nobody looked."""

    def _repr_svg_(self) -> str:
        label = f"view {self.view}, q {self.q:.2f}" + (", no grid" if self.grid is None else "")
        return draw_columns(f"{self.task_id}, test {self.test}", [[Labelled(label, self.grid)]]).svg
