"""The puzzle table: the learned vectors of tasks (or views), trained by sparse sign SGD.

Shapes: B rows looked up, U distinct rows, D width.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augment.errors import InputError
from solver.device import to_device

_SMALLEST = 1024  # rows that the table grows by, at least


class PuzzleTable:
    """Rows by number, all alike at the start; only those that were trained take memory.

    A set of 100,000 tasks with 1000 views each has 100 million rows, of which a run meets few.
    """

    def __init__(self, num_rows: int, start_D: Tensor):
        """Start every row at ``start_D``."""
        # Memory that was never written takes no room, whatever the size of this array.
        self._value_of_row = np.zeros(num_rows, dtype=np.int32)
        self._values = start_D[None].clone()
        self._count = 1  # value 0 is shared by all rows never trained

    @property
    def num_rows(self) -> int:
        """The rows there are, trained or not, the blank row 0 included."""
        return len(self._value_of_row)

    @property
    def start(self) -> Tensor:
        """Where every row started (D,)."""
        return self._values[0]

    @property
    def values(self) -> Tensor:
        """All that takes memory (1 + U, D): where rows start, then the trained ones."""
        return self._values[: self._count]

    @property
    def mean_row(self) -> Tensor:
        """The mean (D,) of the trained rows; where all started when there is none."""
        return self.values[1:].mean(0) if self._count > 1 else self.start

    def is_trained(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the rows (B,) were ever trained or put."""
        trained: NDArray[np.bool_] = self._value_of_row[rows] != 0
        return trained

    def look_up(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the rows (B, D) with these numbers."""
        return self._values[self._at(rows)]

    def put(self, rows: NDArray[np.int64], values_UD: Tensor) -> None:
        """Replace distinct rows by ``values_UD``; from then on they count as trained."""
        new = rows[self._value_of_row[rows] == 0]
        self._value_of_row[new] = np.arange(self._count, self._count + len(new))
        self._count += len(new)
        missing = self._count - len(self._values)
        if missing > 0:
            room = max(missing, len(self._values), _SMALLEST)
            self._values = torch.cat([self._values, self.start.expand(room, -1)])
        self._values[self._at(rows)] = values_UD

    @torch.no_grad()
    def sign_sgd_step(
        self, rows: NDArray[np.int64], gradients_BD: Tensor, lr: float, weight_decay: float
    ) -> None:
        """Take one step of sign SGD on the ``rows`` (B,); all others stay as they are.

        Gradients of the same row are summed first. Source: the TRM reference
        (SignSGD with decoupled weight decay).
        """
        distinct, inverse = np.unique(rows, return_inverse=True)
        device = gradients_BD.device
        numbers_U1 = torch.arange(len(distinct), device=device)[:, None]
        uses_UB = numbers_U1 == to_device(inverse, device)
        # A product sums in the same order everywhere; index_add does not on a GPU, and processes
        # whose sums differ in their last bit would take steps of different sign.
        summed_UD = uses_UB.to(gradients_BD.dtype) @ gradients_BD
        old_UD = self.look_up(distinct)
        self.put(distinct, old_UD * (1 - lr * weight_decay) - lr * summed_UD.sign())

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: where rows start, and the trained ones by number."""
        trained = np.flatnonzero(self._value_of_row)
        rows_UD = self.look_up(trained)
        return {"start": self.start, "numbers": torch.from_numpy(trained), "rows": rows_UD}

    @classmethod
    def from_tensors(cls, num_rows: int, tensors: Mapping[str, Tensor]) -> "PuzzleTable":
        """Return the table of which :meth:`tensors` were kept.

        Raises :class:`InputError` where they are not numbers of its rows, in rising order.
        """
        numbers = tensors["numbers"].numpy()
        if not ((numbers >= 0) & (numbers < num_rows)).all() or (np.diff(numbers) <= 0).any():
            raise InputError(f"numbers are not of {num_rows:,} rows, in rising order")
        table = cls(num_rows, tensors["start"])
        table.put(numbers, tensors["rows"])
        return table

    def to(self, device: torch.device) -> "PuzzleTable":
        """Move the rows to ``device``, in place, and return the table."""
        self._values = self._values.to(device)
        return self

    def _at(self, rows: NDArray[np.int64]) -> Tensor:
        return to_device(self._value_of_row[rows], self._values.device)
