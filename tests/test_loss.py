"""The loss of each example, and which examples are exact."""

import math

import pytest
import torch

from solver.loss import IGNORED, compute_losses


def test_examples_without_labels_count_as_right():
    labels = torch.tensor([IGNORED, IGNORED, 3, IGNORED, IGNORED])
    owners = torch.tensor([0, 0, 1, 1, 2])  # the last one is padding
    losses = compute_losses(torch.zeros(5, 12), torch.zeros(2), labels, owners)
    assert losses.exact.tolist() == [True, False]
    assert losses.tokens[0] == 0
    assert losses.tokens[1].item() == pytest.approx(math.log(12))
