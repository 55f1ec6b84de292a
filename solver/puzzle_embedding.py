"""The table of puzzle rows, and the sparse sign descent that trains it.

Shapes: N rows of the table, B slots, D width.
"""

import torch
from torch import Tensor


def start_rows(num_rows: int, dim: int) -> Tensor:
    """Return a table (N, D) of zeros, where every row starts."""
    return torch.zeros(num_rows, dim)


def mean_row(table_ND: Tensor) -> Tensor:
    """Return the mean (D,) of the trained rows; the blank row 0 does not count."""
    return table_ND[1:].mean(0)


@torch.no_grad()
def update_rows(
    table_ND: Tensor, rows_B: Tensor, gradients_BD: Tensor, lr: Tensor | float, weight_decay: float
) -> None:
    """Take one step of sign descent, in place, on the rows that the slots used.

    The gradients of slots with the same row are summed first; rows no slot used stay as they are.
    Source: the TRM reference (SignSGD with decoupled weight decay).
    """
    unique_U = torch.unique(rows_B)
    # A product sums in the same order everywhere; index_add does not on a GPU, and processes
    # whose sums differ in their last bit would take steps of different sign.
    summed_UD = (unique_U[:, None] == rows_B).to(gradients_BD.dtype) @ gradients_BD
    table_ND[unique_U] = table_ND[unique_U] * (1 - lr * weight_decay) - lr * summed_UD.sign()
