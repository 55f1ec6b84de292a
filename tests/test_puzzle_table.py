"""Puzzle rows take a sign-SGD step where a batch holds them, and memory only then."""

import numpy as np
import pytest
import torch

from augment.errors import InputError
from solver.puzzle_table import PuzzleTable


def test_rows_outside_a_batch_stay_and_equal_rows_are_summed():
    start = torch.tensor([6.0, 7.0, 8.0])
    table = PuzzleTable(4, start)
    assert torch.equal(table.mean_row, start)
    gradients = torch.tensor([[1.0, 1.0, 0.0], [-3.0, 1.0, 0.0]])
    table.sign_sgd_step(np.array([2, 2]), gradients, lr=0.5, weight_decay=0.1)
    expected = start * 0.95 - 0.5 * torch.tensor([-1.0, 1.0, 0.0])
    rows = table.look_up(np.arange(4))
    assert torch.allclose(rows[2], expected)
    assert torch.equal(rows[[0, 1, 3]], start.expand(3, 3))
    assert torch.equal(table.mean_row, rows[2])


def test_only_trained_rows_take_memory():
    """100 million rows, of which two were met; they come back from what a checkpoint keeps."""
    table = PuzzleTable(100_000_000, torch.zeros(3))
    rows = np.array([99_999_999, 5])
    for _ in range(2):
        table.sign_sgd_step(rows, torch.ones(2, 3), lr=0.5, weight_decay=0.0)
    assert table.values.tolist() == [[0.0] * 3, [-1.0] * 3, [-1.0] * 3]
    restored = PuzzleTable.from_tensors(table.num_rows, table.tensors())
    numbers = np.array([0, 5, 6, 99_999_999])
    assert restored.look_up(numbers)[:, 0].tolist() == [0.0, -1.0, 0.0, -1.0]
    for numbers in ([5, 99_999_999], [-1, 5], [5, 5], [5, 4]):
        tensors = {**table.tensors(), "numbers": torch.tensor(numbers)}
        with pytest.raises(InputError, match="numbers are not of 6 rows"):
            PuzzleTable.from_tensors(6, tensors)
